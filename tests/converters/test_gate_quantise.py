from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from gate_networks import GATES, T
from networks import SHAPE, captured, clips
from spikefold.converters.calibrate import calibrate
from spikefold.converters.float_graph import FloatPopulation, read_float_graph
from spikefold.converters.gate_float import FUNCTIONS, run_float
from spikefold.converters.gate_program import INTEGER_OPS, GateProgram, Step
from spikefold.converters.gate_quantise import CURRENT_BOUND, GATE_FRACTION_BITS, HEADROOM, TABLE_BITS, quantise_gate
from spikefold.converters.ranges import value_bounds
from spikefold.errors import LoweringError

UNIT = 2**GATE_FRACTION_BITS
CLOSE = 1 / 64
"""Weights of eight bits in two layers leave an argument of up to 8 uncertain by 8 * 2 / 256; a sigmoid takes a quarter
of that."""
SMOOTH = [name for name in GATES if not name.startswith("ASA")]


@cache
def lowered(name: str) -> tuple[FloatPopulation, GateProgram, float]:
    """A gated population, its integer gate, and the real value of one unit of the current."""
    _, graph = captured(name)
    seen = clips((T, 24, *SHAPE[2:]), seed=11)
    statistics = calibrate(graph, seen.numpy()).gates
    population = next(p for p in read_float_graph(graph).populations if p.gate is not None)
    assert population.gate is not None
    scale = float(population.current({"input": seen}).abs().max()) / 2**20
    return population, quantise_gate(population.gate, scale, statistics[population.name].ranges), scale


def integer_current(name: str, seed: int = 12) -> NDArray[np.int64]:
    population, _, scale = lowered(name)
    current = population.current({"input": clips((T, 12, *SHAPE[2:]), seed=seed)})
    return (current / scale).round().to(torch.int64).numpy()


@pytest.mark.parametrize("name", SMOOTH)
def test_the_integer_gate_is_the_float_gate_within_what_its_weights_leave_open_on_fresh_samples(name: str) -> None:
    population, program, scale = lowered(name)
    assert population.gate is not None
    current = integer_current(name)
    got = program.run_integer(current)
    wanted = run_float(population.gate, torch.from_numpy(current).double() * scale).numpy()
    assert np.abs(got / UNIT - wanted).max() < CLOSE
    assert np.abs(got / UNIT - wanted).mean() < CLOSE / 4
    assert np.ptp(wanted) > 4 * CLOSE


@pytest.mark.parametrize("name", ["ASA", "ASA, reduced"])
def test_the_integer_ranking_is_the_float_ranking_where_it_is_not_a_close_race(name: str) -> None:
    population, program, scale = lowered(name)
    assert population.gate is not None
    current = integer_current(name)
    real = [torch.from_numpy(current).double() * scale]
    run_float(population.gate, real[0], lambda _, value: real.append(value))
    whole = [current]
    for number in range(len(program.steps)):
        whole.append(GateProgram(program.input_shape, program.steps[: number + 1], T).run_integer(current))
    floats = [(s, real[s.inputs[0]], real[i + 1]) for i, s in enumerate(population.gate.steps) if s.op == "topk_mask"]
    integers = [whole[i + 1] for i, s in enumerate(program.steps) if s.op == "topk_mask"]
    assert len(floats) == len(integers) == 2
    for (step, importance, mask), got in zip(floats, integers, strict=True):
        axis, k = step.attributes["axis"], step.attributes["k"]
        ordered = importance.sort(dim=axis, descending=True).values
        border = (ordered.select(axis, k - 1) + ordered.select(axis, k)).unsqueeze(axis) / 2
        clear = ((importance - border).abs() > 0.02 * importance.abs().max()).numpy()
        assert clear.mean() > 0.5
        np.testing.assert_array_equal(got[clear], mask.numpy()[clear])


@pytest.mark.parametrize("name", GATES)
def test_no_value_of_an_integer_gate_can_leave_64_bits_nor_its_proved_range(name: str) -> None:
    _, program, _ = lowered(name)
    bounds = value_bounds(program, (-CURRENT_BOUND, CURRENT_BOUND))
    random = np.random.default_rng(2)
    shape = (T, 2, *program.input_shape[2:])
    for current in (
        np.full(shape, CURRENT_BOUND), np.full(shape, -CURRENT_BOUND), np.zeros(shape, dtype=np.int64),
        random.choice([-CURRENT_BOUND, CURRENT_BOUND], shape), integer_current(name),
    ):  # fmt: skip
        values = [current]
        for number in range(len(program.steps)):
            step = GateProgram(program.input_shape, program.steps[: number + 1], T)
            values.append(step.run_integer(current))
        for value, (low, high) in zip(values, bounds, strict=True):
            assert value.dtype == np.int64
            assert low <= int(value.min())
            assert int(value.max()) <= high


@pytest.mark.parametrize("name", GATES)
def test_an_integer_gate_holds_integers_only_and_ends_in_16_bits(name: str) -> None:
    _, program, _ = lowered(name)
    assert {s.op for s in program.steps} <= INTEGER_OPS
    assert all(s.constant is None or s.constant.dtype == np.int64 for s in program.steps)
    assert program.steps[-1].op == "rescale"
    assert program.steps[-1].attributes["limit"] == 2**16 - 1
    weights = [s.constant for s in program.steps if s.op in ("matmul", "conv2d", "multiply_const")]
    assert all(int(np.abs(w).max()) <= 127 for w in weights if w is not None)


def program(*steps: Step, shape: tuple[int, ...] = (2, -1, 4)) -> GateProgram:
    return GateProgram(shape, steps, shape[0])


def ranges_of(gate: GateProgram, real: Tensor) -> list[tuple[float, float]]:
    seen = [(float(real.min()), float(real.max()))]
    run_float(gate, real, lambda _, v: seen.append((float(v.min()), float(v.max()))))
    return seen


def assert_close(gate: GateProgram, real: Tensor, allowed: float) -> None:
    scale = float(real.abs().max()) / 2**20
    whole = (real / scale).round()
    integer = quantise_gate(gate, scale, ranges_of(gate, real))
    got = integer.run_integer(whole.to(torch.int64).numpy())
    wanted = run_float(gate, whole * scale).numpy()
    assert np.abs(got / UNIT - wanted).max() <= allowed


def real_current(low: float, high: float) -> Tensor:
    random = torch.Generator().manual_seed(8)
    return torch.rand((2, 40, 4), generator=random, dtype=torch.float64) * (high - low) + low


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [(n, -3.0, 3.0) for n in sorted(set(FUNCTIONS) - {"sqrt", "exp"})] + [("exp", -2.0, 1.0), ("sqrt", 0.01, 4.0)],
)
def test_every_function_is_tabled_within_one_interval_of_its_argument(name: str, low: float, high: float) -> None:
    real = real_current(low, high)
    width = min(max(abs(low), abs(high)) * HEADROOM, 8.0) / 2 ** (TABLE_BITS - 1)
    at = torch.linspace(low, high, 4001, dtype=torch.float64)
    change = (FUNCTIONS[name](at + width) - FUNCTIONS[name](at)).abs().max()
    assert_close(program(Step("function", (0,), {"name": name})), real, float(change) + 2 / UNIT)


def test_a_function_that_is_not_finite_on_its_range_is_refused_by_name() -> None:
    gate = program(Step("function", (0,), {"name": "sqrt"}))
    with pytest.raises(LoweringError, match="'sqrt' is not finite"):
        quantise_gate(gate, 1e-5, [(-1.0, 2.0), (0.0, 1.5)])


def sigmoid_of(*steps: Step) -> GateProgram:
    return program(*steps, Step("function", (len(steps),), {"name": "sigmoid"}))


BIAS = np.array([-4.0, -1.0, 1.0, 4.0])
AWKWARD: dict[str, tuple[GateProgram, Callable[[], Tensor]]] = {
    "weights that are all zero": (
        sigmoid_of(Step("matmul", (0,), {}, np.zeros((4, 4))), Step("add_const", (1,), {}, BIAS)),
        lambda: real_current(-1, 1),
    ),
    "a rectifier that is always shut": (
        sigmoid_of(
            Step("offset", (0,), {"value": -5.0}), Step("relu", (1,)), Step("matmul", (2,), {}, np.full((4, 4), 0.01)),
            Step("add_const", (3,), {}, BIAS * 10),
        ),
        lambda: real_current(-1, 1),
    ),
    "a tiny part added to a large one": (
        sigmoid_of(Step("scale", (0,), {"factor": 1e-7}), Step("add", (0, 1))), lambda: real_current(-2, 2)
    ),
    "a product of small numbers": (
        sigmoid_of(
            Step("scale", (0,), {"factor": 1e-6}), Step("multiply", (1, 1)), Step("offset", (2,), {"value": 1.0})
        ),
        lambda: real_current(-2, 2),
    ),
    "a constant added to a mask": (
        sigmoid_of(Step("topk_mask", (0,), {"k": 2, "axis": 2}), Step("offset", (1,), {"value": 0.3})),
        lambda: real_current(-2, 2),
    ),
    "a factor of zero": (sigmoid_of(Step("scale", (0,), {"factor": 0.0})), lambda: real_current(-2, 2)),
    "a negative factor": (sigmoid_of(Step("scale", (0,), {"factor": -2.0})), lambda: real_current(-2, 2)),
    "limits beyond the range": (
        sigmoid_of(Step("clip", (0,), {"low": -float("inf"), "high": 1e30})), lambda: real_current(-2, 2)
    ),
    "limits within the range": (
        sigmoid_of(Step("clip", (0,), {"low": -0.5, "high": 0.75})), lambda: real_current(-2, 2)
    ),
    "a large constant": (sigmoid_of(Step("offset", (0,), {"value": 30.0})), lambda: real_current(-2, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_numbers_neither_overflow_nor_vanish(name: str) -> None:
    gate, current = AWKWARD[name]
    assert_close(gate, current(), CLOSE / 2)


def test_a_gate_beyond_what_calibration_saw_saturates_instead_of_wrapping() -> None:
    gate = program(Step("scale", (0,), {"factor": 3.0}))
    integer = quantise_gate(gate, 1e-3, [(0.0, 2.0), (0.0, 6.0)])
    current = np.full((2, 1, 4), CURRENT_BOUND)
    assert int(integer.run_integer(current).max()) == 2**16 - 1
    assert int(integer.run_integer(-current).min()) == -(2**16) + 1


def test_a_chain_that_could_leave_64_bits_is_refused() -> None:
    shape = (2, -1, 4096)
    steps = [Step("sum", (0,), {"axes": (0, 2), "keepdim": True})]
    for number in range(1, 3):
        steps.append(Step("broadcast", (number * 2 - 1,), {"shape": shape}))
        steps.append(Step("sum", (number * 2,), {"axes": (0, 2), "keepdim": True}))
    gate = program(*steps, shape=shape)
    with pytest.raises(LoweringError, match="outside 64 bits"):
        quantise_gate(gate, 1e-12, [(-1.0, 1.0)] * (len(steps) + 1))
