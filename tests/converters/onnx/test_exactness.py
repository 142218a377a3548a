"""The ONNX graphs against the numpy reference: every spike, every membrane, every logit, 0 differences."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from generated_gates import GATES
from generated_graphs import random_clips, random_graph
from networks import SHAPE, captured, clips
from spikefold.converters import arithmetic, ranges
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Relay, Synapse
from spikefold.converters.gate_program import INTEGER_OPS, GateProgram, Step
from spikefold.converters.lower import lower
from spikefold.converters.onnx import to_onnx_clip, to_onnx_step
from spikefold.converters.reference import Trace, population_current, run_reference, synapse_current
from spikefold.deploy.onnx_runner import ClipRunner, StepRunner, run_onnx

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "residual": {"residual": True},
    "per-neuron thresholds": {"per_neuron_thresholds": True},
    "graded": {"graded_input": True, "residual": True},
    "grouped, spiking output": {"depthwise": True, "spiking_output": True},
    "stress": {"stress": True, "graded_input": True},
    "gated": {"gated": True},
    "gated, all else": {
        "gated": True,
        "residual": True,
        "depthwise": True,
        "graded_input": True,
        "per_neuron_thresholds": True,
    },
    "gated stress": {"gated": True, "stress": True},
    "gated, spiking output": {"gated": True, "spiking_output": True, "time_steps": 3},
    "relays, resets, shifts": {
        "relays": True,
        "resets": ("value", "soft", "zero"),
        "current_shifts": True,
        "per_neuron_thresholds": True,
    },
    "relays, stress": {"relays": True, "stress": True, "graded_input": True, "resets": ("soft", "value")},
    "gated relays": {"relays": True, "gated": True, "residual": True, "resets": ("soft", "value")},
    "relays behind tables": {"relays": True, "gated": True, "gates": ("table",), "current_shifts": True},
}


def assert_equal(trace: Trace | None, expected: Trace) -> None:
    assert trace is not None
    assert trace.spikes.keys() == expected.spikes.keys()
    for name in expected.spikes:
        np.testing.assert_array_equal(trace.spikes[name], expected.spikes[name], err_msg=f"spikes of {name}")
        np.testing.assert_array_equal(trace.membranes[name], expected.membranes[name], err_msg=f"membranes of {name}")
    np.testing.assert_array_equal(trace.logits, expected.logits)


def brute_force_synops(graph: FixedPointGraph, clips: NDArray[np.int64], trace: Trace) -> dict[str, NDArray[np.int64]]:
    """Send every message through a synapse whose weights are all one: what arrives are the operations."""
    sent = {graph.input.name: clips, **trace.spikes}
    counts = {}
    for synapse in graph.synapses:
        ones = dataclasses.replace(synapse, weight=np.ones_like(synapse.weight), exponent=0)
        arrived = synapse_current(ones, (sent[synapse.source] != 0).astype(np.int64))
        counts[synapse.name] = arrived.sum(axis=(0, *range(2, arrived.ndim)))
    return counts


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_clip_graph_equals_reference(kind: str, seed: int) -> None:
    graph = random_graph(seed, **KINDS[kind])
    clips = random_clips(graph, seed + 100)
    expected = run_reference(graph, clips)
    result = run_onnx(graph, clips, trace=True, batch_size=2)
    assert_equal(result.trace, expected)
    np.testing.assert_array_equal(result.logits, expected.logits)
    for name, spikes in expected.spikes.items():
        sent = np.count_nonzero(spikes, axis=(0, *range(2, spikes.ndim)))
        np.testing.assert_array_equal(result.spike_counts[name], sent, err_msg=f"spikes of {name}")
    np.testing.assert_array_equal(result.input_counts, (clips > 0).sum(axis=(0, 2, 3, 4)))
    synops = brute_force_synops(graph, clips, expected)
    assert result.synops.keys() == synops.keys()
    for name, count in synops.items():
        np.testing.assert_array_equal(result.synops[name], count, err_msg=f"synops of {name}")


def test_generated_gates_hold_every_integer_operation() -> None:
    graphs = [random_graph(seed, gated=True) for seed in range(len(GATES))]
    used = {step.op for g in graphs for n in g.neurons if n.gate is not None for step in n.gate.steps}
    assert used == INTEGER_OPS


@pytest.mark.parametrize("seed", range(3))
def test_stress_graphs_wrap_and_clip(seed: int) -> None:
    graph = random_graph(seed, stress=True, graded_input=True)
    clips = random_clips(graph, seed + 100)
    trace = run_reference(graph, clips)
    assert any(np.abs(v).max() == arithmetic.STATE_LIMIT for v in trace.membranes.values())
    sums = synapse_current(graph.synapses[0], clips) << arithmetic.STATE_FRACTION_BITS
    assert np.abs(sums).max() > arithmetic.WRAP // 2
    ops = [node.op_type for node in to_onnx_clip(graph).graph.node]
    assert "Wrap24" in ops


def test_wrap_is_left_out_where_ranges_exclude_it() -> None:
    ops = [node.op_type for node in to_onnx_clip(random_graph(0)).graph.node]
    assert "Wrap24" not in ops
    assert "Clip" not in ops


@pytest.mark.parametrize("max_value", [200, 65_535, 2**31 - 1])
@pytest.mark.parametrize("kind", ["conv", "dense"])
@pytest.mark.parametrize("exponent", [0, 5])
def test_inputs_too_large_for_one_float32_convolution(kind: str, max_value: int, exponent: int) -> None:
    rng = np.random.default_rng(max_value)
    port = InputPort((4, 6, 6), max_value)
    shape = (5, 6, 6) if kind == "conv" else (7,)
    weight = 2 * rng.integers(-128, 128, (5, 4, 3, 3) if kind == "conv" else (7, 144))
    synapse = Synapse("in", "input", "a", kind, weight, exponent, padding=(1, 1))  # type: ignore[arg-type]
    out = Synapse("out", "a", "z", "dense", 2 * rng.integers(-128, 128, (3, int(np.prod(shape)))))
    zero = np.array(0)
    neurons = (
        Neurons("a", shape, 300, np.array(2**16), zero, 0, 1.0),
        Neurons("z", (3,), 0, zero, zero, 0, 0.3, fires=False),
    )
    graph = FixedPointGraph(port, neurons, (synapse, out), "none", None)
    needs_more = ranges.absolute_sum(weight) * max_value >= 2**24
    assert needs_more == (max_value > 200)
    ops = [node.op_type for node in to_onnx_clip(graph).graph.node]
    assert ("Mod" in ops) == (needs_more and kind == "conv")
    clips = rng.integers(0, max_value, (4, 3, *port.shape), endpoint=True)
    clips[0] = max_value
    expected = run_reference(graph, clips)
    assert 0 < expected.spikes["a"].mean() < 1
    assert_equal(run_onnx(graph, clips, trace=True).trace, expected)
    assert_equal(run_steps(graph, clips), expected)


@pytest.mark.parametrize("kind", ["conv", "dense"])
@pytest.mark.parametrize(("low", "high"), [(-(2**23) + 1, 2**23 - 1), (-3, 2**20), (-(2**20), 1)])
def test_messages_too_large_for_one_float32_convolution(kind: str, low: int, high: int) -> None:
    rng = np.random.default_rng(high)
    shape = (4, 5, 5)
    into = Synapse("in", "input", "r", "conv", 2 * rng.integers(-128, 128, (4, 1, 3, 3)), 6, padding=(1, 1))
    size: dict[str, Any] = {"padding": (1, 1)} if kind == "conv" else {}
    weight = 2 * rng.integers(-128, 128, (3, 4, 3, 3) if kind == "conv" else (7, 100))
    out = Synapse("out", "r", "z", kind, weight, 0, **size)  # type: ignore[arg-type]
    zero = np.array(0)
    neurons = (
        Neurons("r", shape, 0, zero, zero, 0, 1.0, fires=False, relay=Relay(0, low, high)),
        Neurons("z", (3, 5, 5) if kind == "conv" else (7,), 0, zero, zero, 0, 0.3, fires=False, current_shift=0),
    )
    graph = FixedPointGraph(InputPort((1, 5, 5), 300), neurons, (into, out), "none", None)
    ops = [node.op_type for node in to_onnx_clip(graph).graph.node]
    assert ("Mod" in ops) == (kind == "conv")
    clips = rng.integers(0, 300, (4, 3, 1, 5, 5), endpoint=True)
    expected = run_reference(graph, clips)
    assert expected.spikes["r"].min() < 0 < expected.spikes["r"].max()
    assert max(-int(expected.spikes["r"].min()), int(expected.spikes["r"].max())) > 2**19
    assert_equal(run_onnx(graph, clips, trace=True).trace, expected)
    assert_equal(run_steps(graph, clips), expected)


def run_steps(graph: FixedPointGraph, clips: NDArray[np.int64]) -> Trace:
    """Drive the step graph over a clip."""
    runner = StepRunner(to_onnx_step(graph))
    states = runner.initial_states(clips.shape[1])
    trains: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    for events in clips:
        outputs, states = runner.step(events, states)
        trains.append(outputs)
        kept.append(states)
    spikes = {n.name: np.stack([t[f"train/{n.name}"] for t in trains]).astype(np.int64) for n in graph.neurons}
    held = {n.name: f"v/{n.name}" if n.relay is None else f"membrane/{n.name}" for n in graph.neurons}
    membranes = {
        name: np.stack([(k | t)[v] for k, t in zip(kept, trains, strict=True)]).astype(np.int64)
        for name, v in held.items()
    }
    output = graph.output
    if output.fires:
        logits = np.sum([t["readout"] for t in trains], axis=0) / len(clips)
    else:
        last = membranes[output.name][-1].reshape(clips.shape[1], -1)
        np.testing.assert_array_equal(trains[-1]["readout"], last * (output.unit / 64))
        logits = last * (output.unit / 64 / len(clips))
    return Trace(spikes, membranes, logits)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [k for k in KINDS if not k.startswith("gated")])
def test_step_graph_equals_clip_graph(kind: str, seed: int) -> None:
    graph = random_graph(seed, **KINDS[kind])
    clips = random_clips(graph, seed + 200)
    result = run_onnx(graph, clips, trace=True)
    assert result.trace is not None
    assert_equal(run_steps(graph, clips), result.trace)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_runtime_agrees(kind: str) -> None:
    graph = random_graph(1, **KINDS[kind])
    clips = random_clips(graph, 300, batch=2)
    evaluator = ReferenceEvaluator(to_onnx_clip(graph))
    outputs = evaluator.run(None, {"events": clips.astype(np.uint8)})
    ours = run_onnx(graph, clips)
    np.testing.assert_array_equal(outputs[0], ours.logits)


def test_a_readout_in_the_middle_sends_nothing() -> None:
    graph = random_graph(0)
    neurons = tuple(dataclasses.replace(n, fires=n.fires and n.name != "conv2") for n in graph.neurons)
    silent = dataclasses.replace(graph, neurons=neurons)
    clips = random_clips(silent, 5)
    expected = run_reference(silent, clips)
    result = run_onnx(silent, clips, trace=True)
    assert_equal(result.trace, expected)
    assert not result.synops["conv2->fc1"].any()
    assert_equal(run_steps(silent, clips), expected)


@pytest.mark.parametrize("time_steps", [1, 2, 9])
@pytest.mark.parametrize("batch", [1, 7])
def test_time_and_batch_are_free(time_steps: int, batch: int) -> None:
    graph = random_graph(2, residual=True)
    runner = ClipRunner(graph, trace=True)
    clips = random_clips(graph, 7, time_steps=time_steps, batch=batch)
    assert_equal(runner.run(clips).trace, run_reference(graph, clips))


LARGE_INPUT = 400_000


def gated_by(steps: list[Step]) -> FixedPointGraph:
    """A net whose only hidden layer has a gate of these steps, and currents beyond 32 bits."""
    rng = np.random.default_rng(7)
    gate = GateProgram((3, -1, 4, 5, 5), tuple(steps), 3)
    weight = 2 * rng.integers(-128, 128, (4, 2, 3, 3))
    neurons = (
        Neurons("a", (4, 5, 5), 500, np.array(3000), np.array(7), 0, 1.0, gate=gate, gate_shift=16),
        Neurons("z", (2,), 0, np.array(0), np.array(0), 0, 1.0, fires=False),
    )
    synapses = (
        Synapse("in", "input", "a", "conv", weight, padding=(1, 1)),
        Synapse("out", "a", "z", "dense", 2 * rng.integers(-128, 128, (2, 100))),
    )
    return FixedPointGraph(InputPort((2, 5, 5), LARGE_INPUT), neurons, synapses, "dynamic", 3)


ALL: dict[str, Any] = {"axes": (0, 2, 3, 4), "keepdim": True}
SCALED = Step("rescale", (1,), {"multiplier": 1, "shift": 30, "limit": 50})
BEYOND_32_BITS = {
    "clip": [Step("clip", (0,), {"low": -3, "high": 12})],
    "relu": [Step("relu", (0,)), Step("clip", (1,), {"low": 2, "high": 5})],
    "look_up": [Step("look_up", (0,), {"offset": 3}, np.arange(7))],
    "rescale": [Step("rescale", (0,), {"multiplier": -5, "shift": 20, "limit": 9})],
    "max": [Step("max", (0,), {"axes": (2, 4), "keepdim": True}), SCALED],
    "max, axes dropped": [
        Step("max", (0,), {"axes": (-1, -3), "keepdim": False}),
        SCALED,
        Step("reshape", (2,), {"shape": (3, -1, 1, 5, 1)}),
    ],
    "top k": [Step("topk_mask", (0,), {"k": 2, "axis": -2})],
    "top none": [Step("topk_mask", (0,), {"k": 0, "axis": 2})],
    "top all": [Step("topk_mask", (0,), {"k": 9, "axis": 2})],
    "quotient": [
        Step("clip", (0,), {"low": 1, "high": 2**40}),
        Step("permute", (0,), {"axes": (0, 1, 2, 4, 3)}),
        Step("shift_divide", (2, 1), {"shift": 20}),  # of both signs, and beyond 32 bits
        Step("rescale", (3,), {"multiplier": 1, "shift": 12, "limit": 50}),
    ],
    "root": [
        Step("multiply_const", (0,), {}, np.array(2**15 - 3)),
        Step("clip", (1,), {"low": 0, "high": 2**52 - 1}),
        Step("square_root", (2,)),
        Step("multiply", (3, 3)),
        Step("subtract", (2, 4)),  # 0 or more, if the root is not too large
        Step("multiply_const", (3,), {}, np.array(2)),
        Step("subtract", (5, 6)),  # 0 or less, if it is not too small
        Step("clip", (5,), {"low": -1, "high": 0}),
        Step("clip", (7,), {"low": 0, "high": 1}),
        Step("subtract", (8, 9)),  # so 0
        Step("add_const", (10,), {}, np.array(3)),
    ],
    "sum beyond 53 bits": [
        Step("multiply_const", (0,), {}, np.array(2**14 + 1)),
        Step("sum", (1,), ALL),
        Step("multiply_const", (0,), {}, np.array(2**14)),
        Step("sum", (3,), ALL),
        Step("subtract", (2, 4)),  # the sum of the currents again, if nothing was lost
        Step("sum", (0,), ALL),
        Step("subtract", (5, 6)),  # so 0
        Step("add_const", (7,), {}, np.array(5)),
        Step("clip", (8,), {"low": 0, "high": 10}),
    ],
}


@pytest.mark.parametrize("kind", BEYOND_32_BITS)
def test_gate_values_beyond_32_bits(kind: str) -> None:
    graph = gated_by(BEYOND_32_BITS[kind])
    clips = np.random.default_rng(1).integers(0, LARGE_INPUT, (3, 4, 2, 5, 5), endpoint=True)
    clips[:, 0] = LARGE_INPUT
    ungated = dataclasses.replace(graph.neurons[0], gate=None)
    current = population_current(ungated, synapse_current(graph.synapses[0], clips))
    assert np.abs(current).max() > 2**32
    if kind == "sum beyond 53 bits":
        assert np.abs(current.sum(axis=ALL["axes"]) * 2**14).max() > 2**53
    assert_equal(run_onnx(graph, clips, trace=True).trace, run_reference(graph, clips))


@pytest.mark.parametrize("stress", [False, True])
def test_softmax_and_layer_norm_equal_the_reference_on_many_nets(stress: bool) -> None:
    for seed in range(12):
        graph = random_graph(1000 + seed, gated=True, stress=stress, graded_input=bool(seed % 2), gates=("context",))
        clips = random_clips(graph, seed, batch=5)
        assert_equal(run_onnx(graph, clips, trace=True).trace, run_reference(graph, clips))


def test_a_captured_softmax_and_layer_norm_equal_the_reference() -> None:
    seen = clips((SHAPE[0], 16, *SHAPE[2:]), seed=4).numpy()
    graph = lower(captured("STAA")[1], seen, "dynamic")
    assert graph.neurons[0].gate is not None
    assert {"shift_divide", "square_root"} <= {step.op for step in graph.neurons[0].gate.steps}
    fresh = clips((SHAPE[0], 9, *SHAPE[2:]), seed=5).numpy().astype(np.int64)
    assert_equal(run_onnx(graph, fresh, trace=True).trace, run_reference(graph, fresh))


def test_gated_currents_near_the_end_of_32_bits() -> None:
    one = Step("clip", (0,), {"low": 1, "high": 1})
    graph = gated_by([one])
    falling = dataclasses.replace(graph.synapses[0], weight=np.full((4, 2, 3, 3), -256))
    graph = dataclasses.replace(graph, input=InputPort((2, 5, 5), 20), synapses=(falling, graph.synapses[1]))
    largest = (2**31 - 1) // ranges.magnitude(ranges.current_range(graph, graph.neurons[0]))
    n = gated_by([one, Step("multiply_const", (1,), {}, np.array(largest))]).neurons[0]
    graph = dataclasses.replace(graph, neurons=(dataclasses.replace(n, gate_shift=0), graph.neurons[1]))
    low, high = ranges.gated_range(graph, graph.neurons[0])
    assert 2**31 - 2**23 <= max(-low, high) < 2**31
    clips = np.full((3, 2, 2, 5, 5), 20)
    expected = run_reference(graph, clips)
    assert expected.membranes["a"].min() == -arithmetic.STATE_LIMIT
    assert_equal(run_onnx(graph, clips, trace=True).trace, expected)


@pytest.mark.parametrize("max_value", [1, 2**20])
def test_a_dense_map_onto_an_image(max_value: int) -> None:
    rng = np.random.default_rng(max_value)
    neurons = (
        Neurons("image", (2, 3, 3), 9, np.array([[[300]], [[40_000]]]), np.ones((2, 1, 1), int), 2, 1.0),
        Neurons("z", (2, 2, 2), 0, np.array(0), np.array(0), 0, 0.7, fires=False),
    )
    synapses = (
        Synapse("up", "input", "image", "dense", 2 * rng.integers(-128, 128, (18, 84))),
        Synapse("down", "image", "z", "conv", 2 * rng.integers(-128, 128, (2, 2, 2, 2))),
    )
    graph = FixedPointGraph(InputPort((2, 7, 6), max_value), neurons, synapses, "none", None)
    clips = random_clips(graph, 4)
    expected = run_reference(graph, clips)
    assert_equal(run_onnx(graph, clips, trace=True).trace, expected)
    assert_equal(run_steps(graph, clips), expected)
