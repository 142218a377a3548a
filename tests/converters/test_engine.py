"""The torch executor against the numpy reference: 0 differences."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from generated_gates import GATES as KINDS
from generated_gates import make_gate
from generated_graphs import random_clips, random_graph
from networks import captured, clips_for
from spikefold.converters.engine import run_engine, run_gate
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.gate_program import INTEGER_OPS, GateProgram, Step
from spikefold.converters.lower import lower
from spikefold.converters.ranges import can_wrap, synapse_bound
from spikefold.converters.reference import Trace, run_reference
from spikefold.errors import InputError, LoweringError

GRAPHS: dict[str, dict[str, Any]] = {
    "plain": {},
    "residual": {"residual": True},
    "a threshold per neuron": {"per_neuron_thresholds": True},
    "graded": {"graded_input": True, "residual": True},
    "grouped, spiking output": {"depthwise": True, "spiking_output": True},
    "gated": {"gated": True},
    "gated, all else": {
        "gated": True, "residual": True, "depthwise": True, "graded_input": True, "per_neuron_thresholds": True
    },
    "gated, one step": {"gated": True, "time_steps": 1},
    "relays": {"relays": True, "graded_input": True},
    "relays, resets, shifts": {
        "relays": True, "resets": ("value", "soft", "zero"), "current_shifts": True, "per_neuron_thresholds": True
    },
    "gated relays that wrap and clip": {"relays": True, "gated": True, "stress": True, "resets": ("value", "soft")},
}  # fmt: skip


def assert_equal(one: Trace, other: Trace) -> None:
    assert one.spikes.keys() == other.spikes.keys()
    for name in one.spikes:
        np.testing.assert_array_equal(one.spikes[name], other.spikes[name], err_msg=f"spikes of {name}")
        np.testing.assert_array_equal(one.membranes[name], other.membranes[name], err_msg=f"membranes of {name}")
        assert one.membranes[name].dtype == other.membranes[name].dtype == np.int64
    np.testing.assert_array_equal(one.logits, other.logits)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", GRAPHS)
def test_generated_nets_run_bit_for_bit_as_the_reference(kind: str, seed: int) -> None:
    graph = random_graph(seed, **GRAPHS[kind])
    x = random_clips(graph, seed + 100, batch=7)
    trace = run_engine(graph, x)
    assert_equal(trace, run_reference(graph, x))
    assert all(0 < trace.spikes[n.name].mean() < 1 for n in graph.neurons if n.fires and n.name != "output")
    assert all(trace.spikes[n.name].any() for n in graph.neurons if n.relay is not None)


@pytest.mark.parametrize("attention", ["static", "dynamic"])
@pytest.mark.parametrize(
    "name", ["FSTA", "ASA", "STAA", "channels then pixels, batch first", "residual", "oblong", "dense"]
)
def test_lowered_nets_run_bit_for_bit_as_the_reference(name: str, attention: str) -> None:
    fixed = lower(captured(name)[1], clips_for(name, 8).numpy(), attention)  # type: ignore[arg-type]
    x = clips_for(name, 9, seed=51).numpy().astype(np.uint8)
    assert_equal(run_engine(fixed, x), run_reference(fixed, x))


def wrapping(exponent: int, max_value: int) -> FixedPointGraph:
    """Sums beyond 24 bits, and weights whose sums float32 does not hold."""
    random = np.random.default_rng(exponent)
    first = Synapse("in", "input", "neuron", "conv", 2 * random.integers(-128, 128, (4, 3, 3, 3)), exponent)
    last = Synapse("out", "neuron", "output", "dense", 2 * random.integers(-128, 128, (3, 4 * 16)), exponent)
    bias = random.integers(-4095, 4096, (4, 1, 1))
    neurons = (
        Neurons("neuron", (4, 4, 4), 300, random.integers(0, 2**17, (4, 4, 4)), bias, 7, 0.01),
        Neurons("output", (3,), 0, np.array(0), np.zeros(3, dtype=np.int64), 0, 0.01, fires=False),
    )
    return FixedPointGraph(InputPort((3, 6, 6), max_value), neurons, (first, last), "none", None)


@pytest.mark.parametrize("exponent", [5, 7])
def test_wrapping_and_clipping_run_bit_for_bit_as_the_reference(exponent: int) -> None:
    graph = wrapping(exponent, 31)
    x = np.random.default_rng(1).integers(0, 32, (6, 5, 3, 6, 6))
    assert can_wrap(graph, graph.neurons[0])
    trace = run_engine(graph, x)
    assert_equal(trace, run_reference(graph, x))
    assert 0 < trace.spikes["neuron"].mean() < 1


def test_sums_that_torch_cannot_hold_are_refused_by_name() -> None:
    neurons = Neurons("output", (1,), 0, np.array(0), np.zeros(1, dtype=np.int64), 0, 0.01, fires=False)
    synapse = Synapse("in", "input", "output", "dense", np.full((1, 2), -256), 7)
    graph = FixedPointGraph(InputPort((2,), 2**31), (neurons,), (synapse,), "none", None)
    assert run_engine(graph, np.ones((1, 1, 2))).membranes["output"].item() == -(2**22)
    larger = dataclasses.replace(graph, input=InputPort((2,), 2**31 + 1))
    with pytest.raises(LoweringError, match="neurons 'output': weighted sums could reach 9007199258935296, outside"):
        run_engine(larger, np.ones((1, 1, 2)))


def test_sums_whose_parts_float32_does_not_hold_are_still_exact() -> None:
    random = np.random.default_rng(2)
    weight, order = 2 * random.integers(-127, 128, (8, 200)), random.permutation(200)
    cancelling = np.concatenate([weight, -weight[:, order], np.full((8, 2), 2)], axis=1)
    neurons = Neurons("output", (8,), 0, np.array(0), np.zeros(8, dtype=np.int64), 0, 0.01, fires=False)
    synapse = Synapse("in", "input", "output", "dense", cancelling)
    graph = FixedPointGraph(InputPort((402,), 2**20), (neurons,), (synapse,), "none", None)
    assert synapse_bound(synapse, (0, 2**20)) > 2**26
    half = random.integers(2**19, 2**20, (3, 5, 200))
    x = np.concatenate([half, half[..., order], random.integers(0, 4, (3, 5, 2))], axis=2)
    trace = run_engine(graph, x)
    assert_equal(trace, run_reference(graph, x))
    assert 0 < np.abs(trace.membranes["output"]).max() < 2**23 - 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_runs_bit_for_bit_as_its_program(kind: str) -> None:
    random = np.random.default_rng(9)
    current = random.integers(-(2**20), 2**20, (5, 6, 4, 6, 6))
    program = make_gate(random, kind, current, 7)
    fresh = random.integers(-(2**25), 2**25, current.shape)
    for x in (current, fresh, np.zeros_like(current)):
        got = run_gate(program, torch.from_numpy(x))
        np.testing.assert_array_equal(got.numpy(), program.run_integer(x))


@pytest.mark.parametrize("shift", [0, 1, 31, 62])
def test_a_rescale_rounds_toward_zero_as_the_reference(shift: int) -> None:
    x = np.array([s * (2**k + d) for s in (-1, 1) for k in range(0, 47, 3) for d in (-1, 0, 1)])
    step = Step("rescale", (0,), {"multiplier": -32767, "shift": shift, "limit": 2**50})
    program = GateProgram((1, -1, len(x)), (step,), 1)
    current = x.reshape(1, 1, -1)
    np.testing.assert_array_equal(run_gate(program, torch.from_numpy(current)).numpy(), program.run_integer(current))


@pytest.mark.parametrize("k", [0, 1, 3, 5, 9])
def test_equal_ranks_fall_as_in_the_reference(k: int) -> None:
    current = np.random.default_rng(3).integers(-1, 2, (5, 7, 6))
    for axis in (0, 2):
        program = GateProgram((5, -1, 6), (Step("topk_mask", (0,), {"k": k, "axis": axis}),), 5)
        got = run_gate(program, torch.from_numpy(current)).numpy()
        np.testing.assert_array_equal(got, program.run_integer(current))


def test_softmax_and_layer_norm_run_bit_for_bit_as_their_programs_on_hundreds_of_gates() -> None:
    for seed in range(300):
        random = np.random.default_rng(seed)
        shape = (int(random.integers(1, 5)), 3, int(random.integers(1, 7)), *random.integers(1, 6, 2).tolist())
        current = random.integers(-(2**20), 2**20, shape)
        program = make_gate(random, "context", current, 7)
        fresh = random.integers(-(2**25), 2**25, shape)
        np.testing.assert_array_equal(run_gate(program, torch.from_numpy(fresh)).numpy(), program.run_integer(fresh))


def test_a_square_root_is_rounded_down_as_in_the_reference() -> None:
    roots = np.concatenate([np.arange(1, 300), np.arange(3, 2**26, 999_983), 2**26 - np.arange(1, 300)])
    x = np.concatenate([roots * roots + beside for beside in (-1, 0, 1)]).reshape(1, 1, -1)
    program = GateProgram((1, -1, x.shape[2]), (Step("square_root", (0,)),), 1)
    np.testing.assert_array_equal(run_gate(program, torch.from_numpy(x)).numpy(), program.run_integer(x))


def test_every_integer_operation_is_run_by_these_tests() -> None:
    random = np.random.default_rng(9)
    current = random.integers(-999, 999, (5, 2, 4, 6, 6))
    assert {s.op for kind in KINDS for s in make_gate(random, kind, current, 7).steps} == INTEGER_OPS


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((5, 2, 2, 7, 5)), "this net takes"),
        (np.zeros((0, 2, 2, 7, 6)), "must be at least 1"),
        (np.zeros((4, 2, 2, 7, 6)), "T = 4; the gates or biases of this net were trained for T = 5"),
        (np.full((5, 2, 2, 7, 6), 0.5), "not integers"),
        (np.full((5, 2, 2, 7, 6), 2), r"values 2\.\.2; this net was exported for 0\.\.1"),
        (np.full((5, 2, 2, 7, 6), -1), r"values -1\.\.-1"),
    ],
)
def test_clips_that_do_not_fit_the_port_are_refused_by_both(x: np.ndarray, message: str) -> None:
    graph = random_graph(0, gated=True)
    for run in (run_engine, run_reference):
        with pytest.raises(InputError, match=message):
            run(graph, x)
