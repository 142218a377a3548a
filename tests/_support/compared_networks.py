"""Compare a net with its captured graph, population by population, on the net's own spikes."""

from __future__ import annotations

import copy

import nir
import torch
from torch import Tensor, nn

from spikefold.converters.float_graph import FloatPopulation, FloatSynapse, read_float_graph
from spikefold.converters.gate_float import run_float
from spikefold.models import LIF

WEIGHT_ERROR = 2.0**-24
"""Largest relative error of a weight that is rounded to float32."""


def record(net: nn.Module, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The answer of ``net`` in float64, and input current and spikes of each call of a neuron, in order."""
    twin = copy.deepcopy(net).double()
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], spikes: Tensor) -> None:
        assert isinstance(module, LIF)
        calls.append((inputs[0] * module.neuron_spec().input_gain, spikes))

    for module in twin.modules():
        if isinstance(module, LIF):
            module.register_forward_hook(keep)
    with torch.no_grad():
        answer = twin(x)
    return answer, calls


def assert_same_but_for_rounding(
    graph: nir.NIRGraph, net: nn.Module, x: Tensor, *, folded_gates: bool = False, gate_error: float = 1e-6
) -> None:
    """Compare every population on the net's own spikes: currents within the rounding of float32 weights, and spikes
    that differ only where the membrane is that close to the threshold.

    ``folded_gates`` skips the currents: where a gate became part of the thresholds they differ by that factor.
    """  # fmt: skip
    answer, calls = record(net, x)
    populations = read_float_graph(graph).populations
    firing = [p for p in populations if p.fires and not p.logic]
    assert len(firing) <= len(calls)
    own = {p.name: spikes for p, (_, spikes) in zip(firing, calls, strict=False)}
    trains = {"input": x}
    for population in (p for p in populations if p.fires):  # the module has no neurons for logic on spikes
        spikes = population.fire(population.current(trains))[0] if population.logic else own[population.name]
        trains[population.name] = spikes.reshape(*spikes.shape[:2], *population.shape)
    for population, (wanted, _) in zip(firing, calls, strict=False):
        current, error = current_and_error(population, trains, gate_error)
        if not folded_gates:
            difference = (current - wanted.reshape(current.shape)).abs()
            assert bool((difference <= error).all()), f"{population.name}: current off by {difference.max()}"
        assert_same_spikes(population, current, error, trains[population.name])
    last = populations[-1]
    if last.fires:
        wanted_answer = answer if answer.ndim == 2 else answer.mean(0).flatten(1)
        assert torch.equal(trains[last.name].mean(0).flatten(1), wanted_answer)
        return
    logits, error = current_and_error(last, trains, gate_error)
    assert bool(((logits.mean(0).flatten(1) - answer.flatten(1)).abs() <= error.mean(0).flatten(1)).all())


def current_and_error(
    population: FloatPopulation, trains: dict[str, Tensor], gate_error: float
) -> tuple[Tensor, Tensor]:
    """The gated current, and a bound on what rounding weights and biases to float32 changes of it."""
    current = population.current(trains)
    total = torch.zeros_like(current)
    for s in population.synapses:
        positive = FloatSynapse(s.name, s.source, abs(s.weight), abs(s.bias), s.conv, 0)
        total += positive.current(trains[s.source].abs()).reshape(total.shape)
    if population.bias_schedule is not None:
        total += torch.from_numpy(abs(population.bias_schedule))
    error = total * WEIGHT_ERROR * 1.001 + 1e-12
    if population.gate is None:
        return current, error
    gate = run_float(population.gate, current)
    return current * gate, (error + current.abs() * gate_error) * gate.abs()


def assert_same_spikes(population: FloatPopulation, current: Tensor, error: Tensor, wanted: Tensor) -> None:
    """Integrate with the wanted spikes as resets; where a spike differs the membrane must be at the threshold."""
    theta = torch.as_tensor(population.v_threshold, dtype=current.dtype)
    reset = torch.as_tensor(0.0 if population.v_reset is None else population.v_reset, dtype=current.dtype)
    v, bound = torch.zeros_like(current[0]), torch.zeros_like(current[0])
    rate = float(wanted.mean())
    assert 0.005 < rate < 0.995, f"{population.name} fires in {rate:.1%} of its slots: the comparison shows nothing"
    for step, spikes, e in zip(current, wanted, error, strict=True):
        v, bound = population.decay * v + step, population.decay * bound + e
        fired = (v > theta) if population.strict else (v >= theta)
        differs = fired != spikes.bool()
        allowed = bound + theta * 2 * WEIGHT_ERROR
        assert bool(((v - theta).abs()[differs] <= allowed.expand_as(v)[differs]).all()), f"{population.name} differs"
        if population.soft_reset:
            v, bound = v - (theta - reset) * spikes, bound + (theta + abs(reset)) * spikes * WEIGHT_ERROR
        else:
            v, bound = v * (1 - spikes) + reset * spikes, bound * (1 - spikes) + abs(reset) * spikes * WEIGHT_ERROR
