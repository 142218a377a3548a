"""Biases of currents that are remembered, as spikes of a neuron that always fires.

A chip adds a bias to the membrane. Where the current has a memory, a layer's bias goes through it, as spikes of weight
``bias`` do that come in every step from the first on. One neuron a pixel sends them: it gets a current of 1 in every
step, without memory, over a threshold of one half.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from spikefold.converters.capture import linear_map as lm
from spikefold.converters.capture.network import CapturedNetwork, CapturedPopulation
from spikefold.converters.capture.values import Flow, Part
from spikefold.models.lif import NeuronSpec

ALWAYS = NeuronSpec(decay=0.0, v_threshold=0.5, strict=True)


def bias_as_spikes(network: CapturedNetwork) -> CapturedNetwork:
    """The same network, its remembered currents without biases; exact for every number of steps."""
    made: list[CapturedPopulation] = []
    taken = {p.name for p in network.populations}
    for population in network.populations:
        flow = population.flow
        biased = any(bool(part.map.bias.any()) for part in flow.parts)
        if not np.any(population.spec.current_decay) or not biased or flow.schedule is not None:
            made.append(population)
            continue
        name = f"{population.name}_bias"
        while name in taken:
            name += "_"
        taken.add(name)
        source = _source(name, flow)
        total = torch.stack([part.map.bias for part in flow.parts]).sum(0)
        parts = (*(replace(p, map=lm.without_bias(p.map)) for p in flow.parts), _from(source, total))
        made += [source, replace(population, flow=replace(flow, parts=parts))]
    return replace(network, populations=tuple(made))


def _source(name: str, flow: Flow) -> CapturedPopulation:
    """Neurons that fire in every step: one, or as many as a channel has."""
    beside = next((part for part in flow.parts if not np.any(part.delay)), flow.parts[0])
    m = beside.map
    if isinstance(m, lm.ConvMap):
        still: lm.LinearMap = replace(
            m,
            weight=m.weight.new_zeros(1, m.in_shape[0], *m.weight.shape[2:]),
            bias=m.bias.new_ones(1),
            groups=1,
            macs=0,
        )
    else:
        still = lm.DenseMap(m.weight.new_zeros(1, m.weight.shape[1]), m.bias.new_ones(1), m.in_shape)
    current = replace(flow, parts=(replace(beside, map=still, label=f"{name}_on"),), features=still.out_shape)
    return CapturedPopulation(name, current, ALWAYS, None, still.out_shape, logic=True)


def _from(source: CapturedPopulation, bias: torch.Tensor) -> Part:
    shape = source.shape
    if len(shape) == 3:
        weight = bias.reshape(-1, 1, 1, 1)
        return Part(
            source.name, lm.ConvMap(weight, torch.zeros_like(bias), (1, shape[1], shape[2])), f"{source.name}_in"
        )
    return Part(source.name, lm.DenseMap(bias.reshape(-1, 1), torch.zeros_like(bias), shape), f"{source.name}_in")
