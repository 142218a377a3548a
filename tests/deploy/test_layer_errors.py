"""Errors by layer: isolated ones stay in their layer, ratios are what they say, no state is used beyond its proof."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from equivalence_nets import lowered, net
from generated_graphs import random_clips, random_graph
from relayed_net import GATED, POOLED, relayed_net
from spikefold.converters import arithmetic
from spikefold.converters.calibrate import Calibration
from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.lower import lower, lower_float
from spikefold.converters.nir_file import to_nir
from spikefold.converters.reference import run_reference
from spikefold.deploy.equality import BATCH
from spikefold.deploy.layer_errors import LayerErrors, measure_layers
from spikefold.deploy.verify import verify
from spikefold.models import LIF

UNIT = 2.0**-10
NO_GATES: dict[str, Any] = {}


def measured(fixed: FixedPointGraph | None = None, calibration: Calibration | None = None) -> LayerErrors:
    """The gated net of two layers, static, with another graph or calibration where one is given."""
    made = net("squeeze")
    calibration = calibration or made.calibration
    float_net = read_float_graph(lower_float(made.graph, calibration, "static")[0])
    fixed = fixed or lowered("squeeze", "static")
    return measure_layers(made.float_net, float_net, fixed, calibration, made.clips.astype(np.int64), None)


def changed(graph: FixedPointGraph, name: str, **fields: Any) -> FixedPointGraph:
    neurons = tuple(dataclasses.replace(n, **fields) if n.name == name else n for n in graph.neurons)
    return dataclasses.replace(graph, neurons=neurons)


def exact(seed: int, **how: Any) -> FixedPointGraph:
    """A generated net whose numbers a float net holds exactly: no decay, a unit that is a power of 2."""
    graph = random_graph(seed, **how)
    last = graph.output.name
    neurons = tuple(
        dataclasses.replace(n, dv=0, unit=UNIT, name="readout" if n.name == last else n.name) for n in graph.neurons
    )
    synapses = tuple(dataclasses.replace(s, target="readout") if s.target == last else s for s in graph.synapses)
    return dataclasses.replace(graph, neurons=neurons, synapses=synapses)


def against_itself(
    graph: FixedPointGraph, clips: NDArray[np.int64], fixed: FixedPointGraph | None = None
) -> LayerErrors:
    """``fixed`` against the float twin of ``graph``."""
    twin = read_float_graph(to_nir(graph))
    return measure_layers(twin, twin, fixed or graph, Calibration(clips, NO_GATES), clips, None)


def test_a_gate_frozen_at_a_wrong_value_costs_its_own_layer_alone_and_the_next_when_carried_on() -> None:
    calibration = net("squeeze").calibration
    gate = calibration.gates["fire1"]
    wrong = {**calibration.gates, "fire1": dataclasses.replace(gate, mean=0.5 * gate.mean)}
    before, after = measured(), measured(calibration=dataclasses.replace(calibration, gates=wrong))
    assert before.attention is not None
    assert after.attention is not None
    (one, two), (wrong_one, wrong_two) = before.attention.layers, after.attention.layers
    assert wrong_one.isolated == wrong_one.cumulative > 2 * one.isolated > 0
    assert wrong_one.spikes_lowered < one.spikes_lowered
    assert wrong_two.isolated == two.isolated > 0
    assert wrong_two.cumulative > two.cumulative
    assert [layer.spikes_dynamic for layer in before.attention.layers] == [
        layer.spikes_dynamic for layer in after.attention.layers
    ]


def test_a_worse_threshold_costs_its_own_layer_alone_and_the_next_when_carried_on() -> None:
    graph = lowered("squeeze", "static")
    first = graph.neurons[0]
    before = measured().quantisation.layers
    after = measured(changed(graph, "fire1", v_threshold=first.v_threshold * 11 // 10)).quantisation.layers
    assert after[0].isolated == after[0].cumulative > 2 * before[0].isolated > 0
    assert after[0].isolated_snr_db == pytest.approx(before[0].isolated_snr_db)  # resets are the float net's
    for old, new in zip(before[1:], after[1:], strict=True):
        assert (new.isolated, new.isolated_snr_db) == (old.isolated, old.isolated_snr_db)
        assert new.cumulative_snr_db < old.cumulative_snr_db
    assert after[1].cumulative > before[1].cumulative


@pytest.mark.parametrize("seed", [3, 4])
def test_where_rounding_changes_nothing_nothing_differs(seed: int) -> None:
    graph = exact(seed, residual=True, per_neuron_thresholds=True)
    errors = against_itself(graph, random_clips(graph, seed))
    assert errors.attention is None
    assert errors.quantisation.predictions_changed == 0
    for layer in errors.quantisation.layers:
        assert (layer.isolated, layer.cumulative) == (0, 0)
        assert layer.isolated_snr_db == layer.cumulative_snr_db == math.inf


def test_signal_to_noise_of_a_known_error() -> None:
    """A bias that is off by d makes a readout that keeps everything off by d t after t steps."""
    graph = exact(5)
    clips = random_clips(graph, 5)
    readout = graph.output
    off = changed(graph, "readout", bias_mantissa=readout.bias_mantissa + 8)
    step = 8 << readout.bias_exponent
    (*firing, layer) = against_itself(graph, clips, off).quantisation.layers
    membranes = run_reference(graph, clips).membranes["readout"].astype(float)
    steps = np.arange(1, len(clips) + 1).reshape(-1, 1, 1)
    noise = np.broadcast_to((step * steps) ** 2, membranes.shape).sum()
    wanted = 10 * np.log10((membranes**2).sum() / noise)
    assert layer.isolated_snr_db == layer.cumulative_snr_db == pytest.approx(wanted)
    assert all(x.isolated_snr_db == math.inf for x in firing)


def test_a_silent_layer_that_errs_is_infinitely_far_below_its_error() -> None:
    graph = exact(5)
    clips = np.zeros((5, 2, *graph.input.shape), dtype=np.int64)
    for n in graph.neurons:
        graph = changed(graph, n.name, bias_mantissa=0 * n.bias_mantissa)
    off = changed(graph, "readout", bias_mantissa=graph.output.bias_mantissa + 1)
    layers = against_itself(graph, clips, off).quantisation.layers
    assert [layer.isolated_snr_db for layer in layers] == [math.inf] * (len(layers) - 1) + [-math.inf]


@pytest.mark.parametrize("seed", [4, 6, 7])
def test_signal_to_noise_of_messages_is_that_of_cutting_off_bits_and_saturating(seed: int) -> None:
    graph = exact(seed, relays=True, current_shifts=True, resets=("zero", "value", "soft"))
    clips = random_clips(graph, seed)
    trace = run_reference(graph, clips)
    errors = against_itself(graph, clips)
    layers = {layer.name: layer for layer in errors.quantisation.layers}
    states = {state.name: state for state in errors.states}
    relay = next(n.relay for n in graph.neurons if n.name == "relay1")
    assert relay is not None
    current, message = (kind["relay1"].astype(float) for kind in (trace.membranes, trace.spikes))
    wanted = 10 * np.log10((current**2).sum() / ((current - message * 2**relay.shift) ** 2).sum())
    first = layers["relay1"]
    assert (first.relays, first.fires, first.neuron_steps, first.isolated, first.cumulative) == (True, False, 0, 0, 0)
    assert first.isolated_snr_db == first.cumulative_snr_db == pytest.approx(wanted, abs=1e-3)
    beyond = np.trunc(current / 2**relay.shift)
    assert states["relay1"].saturated == ((beyond > relay.high) | (beyond < relay.low)).sum()
    for name in ("conv2", "after", "fc1"):  # they get the numbers themselves, and err by at most half a weight step
        assert layers[name].isolated_snr_db > 50 > layers[name].cumulative_snr_db
        assert layers[name].cumulative > layers[name].isolated
    assert states["conv2"].saturated == 0
    assert [name for name, layer in layers.items() if layer.relays] == ["relay1", "rectifier"]


def test_a_negative_current_is_no_saturation_of_a_rectifier() -> None:
    graph = exact(6, relays=True, current_shifts=True)
    clips = random_clips(graph, 6)
    rectifier = next(n for n in graph.neurons if n.name == "rectifier")
    assert rectifier.relay is not None
    limit = dataclasses.replace(rectifier.relay, high=arithmetic.STATE_LIMIT)
    state = next(
        s for s in against_itself(changed(graph, "rectifier", relay=limit), clips).states if s.name == "rectifier"
    )
    assert (run_reference(graph, clips).membranes["rectifier"] < 0).any()
    assert state.saturated == 0


def test_a_relays_gate_frozen_at_a_wrong_value_is_seen_in_its_messages() -> None:
    made = relayed_net()
    gate, fixed = made.calibration.gates[GATED], lower(made.graph, made.calibration, "static")
    found = []
    for factor in (1.0, 0.5):
        gates = {**made.calibration.gates, GATED: dataclasses.replace(gate, mean=factor * gate.mean)}
        calibration = dataclasses.replace(made.calibration, gates=gates)
        float_net = read_float_graph(lower_float(made.graph, calibration, "static")[0])
        fixed = lower(made.graph, calibration, "static")
        change = measure_layers(
            made.float_net, float_net, fixed, calibration, made.clips.astype(np.int64), None
        ).attention
        assert change is not None
        found.append({layer.name: layer for layer in change.layers})
    right, wrong = (layers[POOLED] for layers in found)
    assert right.isolated_snr_db is not None
    assert wrong.isolated_snr_db is not None
    assert right.isolated_snr_db > 15 > 8 > wrong.isolated_snr_db > 5
    assert (right.neuron_steps, right.spikes_dynamic, right.isolated) == (0, 0, 0)
    before, after = (layers["fire2"] for layers in found)
    assert after.isolated == before.isolated
    assert after.cumulative > before.cumulative
    assert before.isolated_snr_db is None


KINDS: dict[str, dict[str, Any]] = {
    "plain": {"residual": True, "per_neuron_thresholds": True},
    "graded": {"graded_input": True},
    "stress": {"stress": True},
    "decaying stress": {"stress": True, "graded_input": True},
    "firing": {"spiking_output": True, "depthwise": True},
    "relays": {"relays": True, "current_shifts": True, "resets": ("zero", "value", "soft")},
}


@pytest.mark.parametrize(("seed", "kind"), list(enumerate(KINDS, start=20)))
def test_no_state_is_used_beyond_its_proof(seed: int, kind: str) -> None:
    graph = exact(seed, **KINDS[kind])
    if "decaying" in kind:
        graph = dataclasses.replace(
            graph, neurons=tuple(dataclasses.replace(n, dv=700 if n.fires else 0) for n in graph.neurons)
        )
    clips = random_clips(graph, seed, batch=8)
    for layer in against_itself(graph, clips).states:
        for state in (layer.current, layer.membrane):
            assert 0 < state.used <= state.proved
            assert state.limit == arithmetic.STATE_LIMIT
        assert (layer.wrapped > 0) == (layer.current.used > layer.current.limit)
        assert (layer.clipped > 0) == (layer.membrane.used > layer.membrane.limit)


def test_wraps_clips_and_ties_are_counted() -> None:
    """Counted a second way: from whole membranes after the reset, and from plain matrix products."""
    graph = exact(31, stress=True)
    clips = random_clips(graph, 31, batch=8)
    trace = run_reference(graph, clips)
    readout = graph.output
    states = {layer.name: layer for layer in against_itself(graph, clips).states}
    (synapse,) = graph.incoming("readout")
    sent = trace.spikes[synapse.source].reshape(*clips.shape[:2], -1)
    current = (sent @ synapse.effective_weight.T) << 6
    assert states["readout"].current.used == np.abs(current).max()
    assert states["readout"].wrapped == ((current > 2**23) | (current <= -(2**23))).sum() > 0
    at_limit = np.abs(trace.membranes["readout"]) == arithmetic.STATE_LIMIT
    assert states["readout"].clipped == at_limit.sum() > 0
    assert not readout.fires
    assert states["readout"].ties == 0
    assert states["readout"].values == trace.membranes["readout"].size


def test_the_largest_state_is_that_of_the_run() -> None:
    """Without firing, membranes after the step are those before the reset; the first of two batches has the largest."""
    graph = exact(8)
    for n in graph.neurons[:-1]:
        graph = changed(graph, n.name, v_threshold=np.array(arithmetic.MAX_THRESHOLD))
    clips = random_clips(graph, 8, batch=BATCH + 2)
    clips[:, BATCH:] = 0
    trace = run_reference(graph, clips)
    assert not any(train.any() for train in trace.spikes.values())
    for layer in against_itself(graph, clips).states:
        assert layer.membrane.used == np.abs(trace.membranes[layer.name]).max()


class Edge(nn.Module):
    """One weight, as large as the threshold."""

    def __init__(self, strict: bool) -> None:
        super().__init__()
        self.linear, self.fire = nn.Linear(3, 2, bias=False), LIF(0.5, 0.5, strict=strict)
        nn.init.constant_(self.linear.weight, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fire(self.linear(x))
        return out


@pytest.mark.parametrize("strict", [False, True])
def test_spikes_that_the_comparator_costs_are_counted_as_ties(strict: bool) -> None:
    """First every second step lands on the threshold, the others above it; then nothing comes and nothing ties."""
    module = Edge(strict).eval()
    clips = np.zeros((6, 4, 3), dtype=np.int64)
    clips[:4, :, 0] = 1
    graph = on_the_edge(module, clips)
    result = verify(module, clips, "static", clips, graph=graph, backends=())
    (layer,) = result.states
    membranes = run_reference(graph, clips).membranes["fire"]
    assert layer.ties == (membranes == graph.neurons[0].v_threshold << 6).sum() == 2 * 4 * 2
    assert layer.fires_at_equality is not strict
    (quantised,) = result.quantisation.layers
    assert (quantised.isolated == 0) == strict


def on_the_edge(module: nn.Module, clips: NDArray[np.int64]) -> FixedPointGraph:
    """The net in integers, its threshold moved to the weight exactly."""
    graph = lower(capture(module, torch.from_numpy(clips[:, :1]).float()), clips)
    weight = int(graph.synapses[0].effective_weight.flat[0])
    return changed(graph, "fire", v_threshold=np.array(weight), unit=0.5 / weight)
