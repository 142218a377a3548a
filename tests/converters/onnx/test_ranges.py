"""Ranges hold for all data, and what they cannot prove is refused by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generated_gates import GATES, make_gate
from generated_graphs import random_clips, random_graph
from generated_layers import RESETS
from spikefold.converters import arithmetic, ranges
from spikefold.converters.fixed_point_graph import Neurons, Relay, Synapse
from spikefold.converters.gate_program import INTEGER_OPS, GateProgram, Step
from spikefold.converters.gate_shapes import value_shapes
from spikefold.converters.reference import population_current, run_reference, sum_currents, synapse_current
from spikefold.errors import LoweringError

CONV = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}


def program(*steps: Step, shape: tuple[int, ...] = (2, -1, 3)) -> GateProgram:
    return GateProgram(shape, steps, shape[0])


def step(op: str, *inputs: int, constant: Any = None, **attributes: Any) -> Step:
    return Step(op, inputs or (0,), attributes, None if constant is None else np.asarray(constant))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(GATES),
    low=st.integers(-(2**24), 2**24),
    width=st.integers(0, 2**24),
)
def test_no_value_of_a_gate_leaves_its_range(seed: int, kind: str, low: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    gate = make_gate(rng, kind, rng.integers(-5000, 5000, (3, 2, 4, 5, 4)), 7)
    current = rng.integers(low, low + width, (3, 2, 4, 5, 4), endpoint=True)
    current[rng.random(current.shape) < 0.2] = low
    bounds = ranges.value_bounds(gate, (low, low + width))
    assert len(bounds) == len(gate.steps) + 1
    shapes = value_shapes(gate, 2)
    for number in range(1, len(gate.steps) + 1):
        value = GateProgram(gate.input_shape, gate.steps[:number], gate.time_steps).run_integer(current)
        assert bounds[number][0] <= value.min()
        assert value.max() <= bounds[number][1]
        assert shapes[number] == value.shape


RELAYS: dict[str, Any] = {"relays": True, "current_shifts": True, "resets": RESETS, "gates": (*GATES, "none", "table")}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "how", [{}, {"stress": True}, RELAYS, {"stress": True, **RELAYS}], ids=["plain", "stress", "relays", "both"]
)
def test_no_number_leaves_its_range(seed: int, how: dict[str, Any]) -> None:
    graph = random_graph(seed, gated=True, residual=True, graded_input=True, **how)
    clips = random_clips(graph, seed)
    trace = run_reference(graph, clips)
    messages = {"input": clips, **trace.spikes}
    for n in graph.neurons:
        (low, high), sent = graph.message_range(n.name), messages[n.name]
        assert low <= sent.min()
        assert sent.max() <= high
        low, high = ranges.membrane_range(graph, n, len(clips))
        assert low <= trace.membranes[n.name].min()
        assert trace.membranes[n.name].max() <= high
        for synapse in graph.incoming(n.name):
            one = np.abs(synapse_current(synapse, messages[synapse.source])).max()
            assert one <= ranges.synapse_bound(synapse, graph.message_range(synapse.source))
        total = sum_currents(n, [synapse_current(s, messages[s.source]) for s in graph.incoming(n.name)])
        assert np.abs(total << n.current_shift).max() <= ranges.sum_bound(graph, n)
        assert (
            ranges.can_wrap(graph, n) or (arithmetic.wrap24(total << n.current_shift) == total << n.current_shift).all()
        )
        low, high = ranges.weighted_range(graph, n)
        assert low <= np.min(total)
        assert np.max(total) <= high
        ungated = population_current(dataclasses.replace(n, gate=None), total)
        for bounds, current in (
            (ranges.current_range(graph, n), ungated),
            (ranges.gated_range(graph, n), population_current(n, total)),
        ):
            assert bounds[0] <= current.min()
            assert current.max() <= bounds[1]


def test_the_weighted_range_of_a_dense_map_is_reached() -> None:
    graph = random_graph(3)
    synapse = graph.synapses[-1]
    row = int(np.maximum(synapse.weight, 0).sum(axis=1).argmax())
    messages = (synapse.weight[row] > 0).astype(np.int64)[None, None]
    assert synapse_current(synapse, messages).max() == ranges.weighted_range(graph, graph.output)[1]


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize(("low", "high"), [(-5, 7), (0, 7), (-200, 1)])
def test_the_weighted_range_of_signed_messages_is_reached_at_both_ends(end: int, low: int, high: int) -> None:
    graph = random_graph(3, relays=True)
    relay = next(n for n in graph.neurons if n.name == "relay1")
    sender = dataclasses.replace(relay, relay=Relay(3, low, high))
    weight = 2 * np.random.default_rng(4).integers(-128, 128, (1, relay.size))
    last = Synapse("out", "relay1", "output", "dense", weight, 2)
    zero = np.zeros(1, dtype=np.int64)
    output = Neurons("output", (1,), 0, zero, zero, 0, 1.0, fires=False)
    kept = tuple(s for s in graph.synapses if s.target in ("conv1", "relay1"))
    small = dataclasses.replace(graph, neurons=(graph.neurons[0], sender, output), synapses=(*kept, last))
    messages = np.where((weight > 0) == bool(end), high, low)[None]
    assert synapse_current(last, messages).item() == ranges.weighted_range(small, output)[end]
    one_sign = synapse_current(
        dataclasses.replace(last, weight=np.abs(weight)), np.full(weight.shape, max(-low, high))[None]
    )
    assert one_sign.item() == ranges.synapse_bound(last, (low, high))


def test_known_ranges() -> None:
    steps = (
        step("sum", axes=(2,), keepdim=True),  # three values
        step("multiply_const", 1, constant=np.array([-2])),
        step("rescale", 2, multiplier=3, shift=2, limit=40),
        step("topk_mask", 3, k=1, axis=0),
        step("concat", 3, 4, axis=2),
        step("look_up", 3, constant=np.arange(10, 20), offset=5),
    )
    bounds = ranges.value_bounds(program(*steps), (-1, 9))
    assert bounds == [(-1, 9), (-3, 27), (-54, 6), (-40, 4), (0, 1), (-40, 4), (10, 19)]


FIRST, SECOND = step("slice", axis=2, start=0, stop=1), step("slice", axis=2, start=1, stop=2)
LATER = (FIRST, SECOND, step("add_const", 2, constant=4))  # two values that do not depend on each other
REACHED: dict[str, tuple[Step, ...]] = {
    "add": (*LATER, step("add", 1, 3)),
    "subtract": (*LATER, step("subtract", 1, 3)),
    "multiply": (*LATER, step("multiply", 1, 3)),
    "concat": (*LATER, step("concat", 1, 3, axis=2)),
    "shift_divide": (*LATER, step("add_const", 3, constant=1), step("shift_divide", 1, 4, shift=2)),
    "add_const": (step("add_const", constant=[-1, 7]),),
    "multiply_const": (step("multiply_const", constant=[-2, 3]),),
    "rescale": (step("rescale", multiplier=-3, shift=1, limit=6),),
    "relu": (step("relu"),),
    "clip": (step("clip", low=-2, high=1),),
    "clip beyond": (step("clip", low=7, high=9),),
    "square_root": (step("multiply", 0, 0), step("square_root", 1)),
    "sum": (step("sum", axes=(0, 2), keepdim=True),),
    "max": (step("max", axes=(2,), keepdim=True),),
    "running_sum": (step("running_sum"),),
    "running_max": (step("running_max"),),
    "running_topk_mask": (step("running_topk_mask", k=1),),
    "topk_mask": (step("topk_mask", k=1, axis=2),),
    "matmul": (step("matmul", constant=[[1, -2], [3, 4]]),),
    "conv2d": (step("reshape", shape=(-1, 1, 2, 1)), step("conv2d", 1, constant=[[[[2], [-1]]]], **CONV)),
    "conv2d with a border": (
        step("reshape", shape=(-1, 1, 2, 1)), step("add_const", 1, constant=4),
        step("conv2d", 2, constant=[[[[2], [-1]]]], **{**CONV, "padding": (1, 0)}),
    ),
    "look_up": (step("look_up", constant=[4, 9, 2, 8, 1], offset=2),),
    "look_up below": (step("look_up", constant=[4, 9, 2], offset=-9),),
    "look_up above": (step("look_up", constant=[4, 9, 2], offset=9),),
    "permute": (step("permute", axes=(2, 1, 0)),),
    "broadcast": (FIRST, step("broadcast", 1, shape=(2, -1, 2))),
    "table": (step("table", constant=[[[3]], [[-5]]]),),
}  # fmt: skip


@pytest.mark.parametrize("name", REACHED)
def test_both_ends_of_a_range_are_reached_by_some_input(name: str) -> None:
    """Over every current of two steps and two features there is."""
    low, high = -3, 4
    every = np.stack(np.meshgrid(*[np.arange(low, high + 1)] * 4), -1).reshape(-1, 2, 2).transpose(1, 0, 2)
    made = program(*REACHED[name], shape=(2, -1, 2))
    value = made.run_integer(every)
    assert ranges.value_bounds(made, (low, high))[-1] == (value.min(), value.max())


def test_the_range_of_every_integer_step_is_held_against_all_inputs() -> None:
    assert {s.op for steps in REACHED.values() for s in steps} == INTEGER_OPS


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [step("multiply", 0, 0), step("multiply", 1, 1), step("multiply", 2, 2)],
            r"gate step 1 \(multiply\).*64 bits",
        ),
        ([step("multiply_const", constant=2**40)], r"gate step 0 \(multiply_const\).*64 bits"),
        ([step("rescale", multiplier=2**40, shift=30, limit=5)], r"gate step 0 \(rescale\).*64 bits"),
        ([step("rescale", multiplier=1, shift=63, limit=5)], "shift is 63"),
        ([step("matmul", constant=np.full((3, 2), 2**38))], r"gate step 0 \(matmul\).*64 bits"),
        ([step("sum", axes=(1,), keepdim=True)], r"gate step 0 \(sum\).*batch axis"),
        ([step("slice", axis=1, start=0, stop=1)], r"gate step 0 \(slice\).*batch axis"),
        ([step("topk_mask", k=1, axis=1)], r"gate step 0 \(topk_mask\).*batch axis"),
        ([step("matmul", constant=np.ones((3, 2)))], "float64"),
        ([step("matmul", constant=np.ones((4, 2), int))], r"gate step 0 \(matmul\): inputs of shape \[\(2, 1, 3\)\]"),
        (
            [step("reshape", shape=(2, -1, 3, 1)), step("conv2d", 1, constant=np.ones((1, 2, 1, 1), int), **CONV)],
            r"gate step 1 \(conv2d\).*kernel of 2 x 1 channels",
        ),
        ([step("shift_divide", 0, 0, shift=0)], r"denominator could reach -16777216\.\.16777216, it must be above 0"),
        ([step("clip", low=0, high=9), step("shift_divide", 0, 1, shift=0)], r"could reach 0\.\.9, it must be above 0"),
        ([step("clip", low=1, high=9), step("shift_divide", 0, 1, shift=63)], "shift is 63"),
        ([step("clip", low=1, high=9), step("shift_divide", 0, 1, shift=40)], r"\(shift_divide\).*64 bits"),
        ([step("square_root")], r"could reach -16777216\.\.16777216; they must lie within 0"),
        (
            [step("multiply", 0, 0), step("multiply_const", 1, constant=16), step("square_root", 2)],
            r"could reach 0\.\.4503599627370496; they must lie within",
        ),
        ([step("scale", factor=0.5)], r"gate step 0 \(scale\).*lower the float program"),
    ],
)
def test_refusals_name_the_step(steps: list[Step], message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        ranges.value_bounds(program(*steps), (-(2**24), 2**24))


def test_a_gated_current_must_fit_32_bits() -> None:
    graph = random_graph(0, gated=True)
    n = graph.neurons[0]
    assert n.gate is not None
    large = Step("multiply_const", (len(n.gate.steps),), {}, np.array(2**30))
    gate = dataclasses.replace(n.gate, steps=(*n.gate.steps, large))
    with pytest.raises(LoweringError, match=r"'conv1'.*outside 32 bits.*gate_shift 7"):
        ranges.gated_range(graph, dataclasses.replace(n, gate=gate))


def test_a_gate_must_fit_its_population() -> None:
    graph = random_graph(0, gated=True)
    n = graph.neurons[0]
    assert n.gate is not None
    wrong = dataclasses.replace(n.gate, input_shape=(5, -1, 4, 7, 7))
    with pytest.raises(LoweringError, match=r"'conv1'.*reads a current of shape"):
        ranges.gated_range(graph, dataclasses.replace(n, gate=wrong))
    summed = GateProgram(n.gate.input_shape, (step("permute", axes=(0, 1, 2, 4, 3)),), 5)
    with pytest.raises(LoweringError, match=r"'conv1'.*does not broadcast"):
        ranges.gated_range(graph, dataclasses.replace(n, gate=summed))


def test_known_ranges_of_quotients_and_roots() -> None:
    steps = (
        step("multiply", 0, 0),
        step("add_const", 1, constant=7),
        step("square_root", 2),
        step("shift_divide", 0, 3, shift=3),
        step("multiply", 0, 3),
    )
    bounds = ranges.value_bounds(program(*steps), (-9, 5))
    assert bounds == [(-9, 5), (0, 81), (7, 88), (2, 9), (-36, 20), (-81, 45)]
    assert ranges.value_bounds(program(step("multiply", 0, 0)), (-9, -4))[-1] == (16, 81)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    numerator=st.tuples(st.integers(-(2**30), 2**30), st.integers(0, 2**30)),
    denominator=st.tuples(st.integers(1, 2**30), st.integers(0, 2**30)),
    shift=st.integers(0, 31),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_quotient_leaves_its_range(
    numerator: tuple[int, int], denominator: tuple[int, int], shift: int, seed: int
) -> None:
    (low, width), (least, wider) = numerator, denominator
    gate = program(
        step("clip", low=low, high=low + width),
        step("clip", low=least, high=least + wider),
        step("shift_divide", 1, 2, shift=shift),
    )
    rng = np.random.default_rng(seed)
    current = rng.integers(-(2**31), 2**31, (2, 50, 3))
    bounds = ranges.value_bounds(gate, (-(2**31), 2**31))
    got = gate.run_integer(current)
    assert bounds[-1][0] <= got.min()
    assert got.max() <= bounds[-1][1]
