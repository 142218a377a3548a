"""Run a module with neurons of another framework beside what was captured of it, spike by spike.

Capture takes a loop over steps to be one step, repeated. That is so unless something besides the neurons looks at other
steps, and it rests on what `foreign` says of the neurons. Both are tested here on a few random clips: every population
gets the spikes that the module itself sent, so that errors cannot add up, and may differ where its membrane is within
rounding of the threshold, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import nir
import numpy as np
import torch
from torch import Tensor, nn

from spikefold.converters.capture.forms import ClipNet, without_state
from spikefold.converters.gate_float import run_float
from spikefold.errors import CaptureError

if TYPE_CHECKING:
    from spikefold.converters.float_net import FloatPopulation

RATES = (0.05, 0.3, 0.7)
"""Shares of 1 in the random clips."""
ROUNDING = 1e-5
"""What float32 weights may change, as a share of all that was added up; an error of meaning is far above it."""


def check_capture(module: nn.Module, graph: nir.NIRGraph, sample: Tensor) -> None:
    """Compare ``module`` and its ``graph`` on random clips and on ``sample``; CaptureError says where they part."""
    from spikefold.converters.float_graph import read_float_graph  # it reads what `build` writes, which calls this

    net = read_float_graph(graph)
    clips = _clips(sample)
    answer, own = _record(module, clips)
    sent: dict[str, Tensor] = {"input": clips}
    for population in net.populations:
        current, size = population.current(sent), _magnitude(population, sent)
        if population.gate is not None:
            gate = run_float(population.gate, current)
            current, size = current * gate, size * gate.abs()
        if population.name in own:
            sent[population.name] = _compared(population, current, size, own[population.name])
        elif population.fires:
            sent[population.name] = population.fire(current)[0]
        else:
            sent[population.name] = current.clamp(min=0) if population.rectifies else current
    last = net.populations[-1]
    _check_answer(type(module).__name__, answer, sent[last.name], size.mean())


def _clips(sample: Tensor) -> Tensor:
    """Random clips ``[T, B, ...]`` of 0 and 1, and the first of ``sample``; B is not T, so that none is the other."""
    generator = torch.Generator().manual_seed(0)
    shape = (sample.shape[0], 1, *sample.shape[2:])
    count = len(RATES) + (1 if sample.shape[0] != len(RATES) + 1 else 2)
    random = [(torch.rand(shape, generator=generator) < rate).double() for rate in (*RATES, 0.15, 0.5)[: count - 1]]
    return torch.cat([*random, sample[:, :1].detach().double().cpu()], 1)


def _record(module: nn.Module, clips: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What the module answers, and the spikes ``[T, B, ...]`` of its neurons, by the name of their population."""
    try:
        answer, recorded = ClipNet(without_state(module).cpu().double()).recorded(clips)
    except RuntimeError:  # it makes float32 tensors of its own
        answer, recorded = ClipNet(without_state(module).cpu().float()).recorded(clips.float())
    return answer.double(), {name: r.spikes.double() for name, r in recorded.items()}


def _magnitude(population: FloatPopulation, sent: Mapping[str, Tensor]) -> Tensor:
    """Sum of the absolute values of all that the current ``[T, B, *shape]`` adds up."""
    positive = {name: train.abs() for name, train in sent.items()}
    synapses = tuple(replace(s, weight=np.abs(s.weight), bias=np.abs(s.bias)) for s in population.synapses)
    return replace(population, synapses=synapses).current(positive)


def _compared(population: FloatPopulation, current: Tensor, size: Tensor, own: Tensor) -> Tensor:
    wanted = own.reshape(current.shape)
    spikes, membranes = population.fire(current, wanted)
    threshold = torch.as_tensor(population.v_threshold, dtype=membranes.dtype)
    size = size.cumsum(0)
    if np.any(population.current_decay):
        size = size.cumsum(0)
    beyond = (membranes - threshold).abs() > ROUNDING * (size + threshold.abs())
    wrong = (spikes != wanted) & beyond
    if bool(wrong.any()):
        step = int(wrong.flatten(1).any(1).nonzero()[0])
        raise CaptureError(
            f"{population.name}: {int(wrong[step].sum())} of {wrong[step].numel()} spikes differ at step {step} "
            "between the module and what was captured of it. Steps may meet in membranes alone: use no other step of "
            "the clip, no state that starts elsewhere than a fresh neuron's, no module that counts its calls"
        )
    return wanted


def _check_answer(name: str, answer: Tensor, ours: Tensor, size: Tensor) -> None:
    over_time = answer.reshape(ours.shape).mean(0) if answer.numel() == ours.numel() else answer
    wanted = ours.mean(0)
    same = over_time.numel() == wanted.numel() and bool(
        ((over_time.reshape(wanted.shape) - wanted).abs() <= ROUNDING * (size + wanted.abs())).all()
    )
    if not same:
        raise CaptureError(
            f"{name}: answers with {tuple(answer.shape)} what is neither the mean nor the sum over steps of what its "
            "last layer makes of each (of the spikes, or of the logits): return torch.stack(list_of_steps).mean(0)"
        )
