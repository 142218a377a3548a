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
from spikefold.converters.time_axis import causal_program
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
    low, high = value_bounds(program, (-CURRENT_BOUND, CURRENT_BOUND))[-1]
    assert max(-low, high) < 2**16
    limits = {"matmul": 127, "conv2d": 127, "multiply_const": 2**15 - 1}
    weights = [(s.constant, limits[s.op]) for s in program.steps if s.op in limits]
    assert all(int(np.abs(w).max()) <= limit for w, limit in weights if w is not None)


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


SOFTMAX = 2.0**-10 + 1 / UNIT
"""What a softmax in integers may be off by, and one unit of the gate."""


def softmax(x: int = 0, axes: tuple[int, ...] = (2,)) -> tuple[Step, ...]:
    """Steps as capture writes them, the first one reading value ``x``."""
    return (
        Step("max", (x,), {"axes": axes, "keepdim": True}),
        Step("subtract", (x, x + 1)),
        Step("function", (x + 2,), {"name": "exp"}),
        Step("sum", (x + 3,), {"axes": axes, "keepdim": True}),
        Step("divide", (x + 3, x + 4)),
    )


@pytest.mark.parametrize("entries", [1, 2, 3, 64, 4096])
@pytest.mark.parametrize("spread", [0.01, 1.0, 8.0, 300.0])
def test_an_integer_softmax_is_within_2_to_the_minus_10_of_the_float_one(entries: int, spread: float) -> None:
    gate = program(*softmax(), shape=(2, -1, entries))
    for seed in range(5):
        real = spread * torch.randn((2, 6, entries), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert_close(gate, real, SOFTMAX)


def test_a_softmax_of_scores_far_from_the_calibrated_ones_still_sums_to_one() -> None:
    gate = program(*softmax(), shape=(1, -1, 64))
    seen = torch.tensor([0.0, 30.0], dtype=torch.float64).repeat(32).reshape(1, 1, 64).expand(1, 4, 64).clone()
    seen[0, 0, 0] = 60.0
    integer = quantise_gate(gate, 1e-4, ranges_of(gate, seen))
    fresh = np.random.default_rng(4).integers(-(2**24), 2**24, (1, 50, 64))
    got = integer.run_integer(fresh) / UNIT
    wanted = torch.softmax(torch.from_numpy(fresh).double() * 1e-4, 2).numpy()
    assert np.abs(got - wanted).max() <= SOFTMAX
    assert np.abs(got.sum(2) - 1).max() <= 64 / UNIT


@pytest.mark.parametrize("groups", [1, 50])
def test_a_tie_of_all_scores_is_shared_out_evenly(groups: int) -> None:
    gate = program(*softmax(), shape=(1, -1, 16))
    real = torch.linspace(-5, 5, groups, dtype=torch.float64).reshape(1, groups, 1).expand(1, groups, 16)
    integer = quantise_gate(gate, 1e-4, ranges_of(gate, real))
    assert (integer.run_integer((real * 1e4).round().to(torch.int64).numpy()) == UNIT // 16).all()


def layer_norm(features: int, epsilon: float) -> tuple[Step, ...]:
    mean: dict[str, object] = {"axes": (2,), "keepdim": True}
    return (
        Step("sum", (0,), mean), Step("scale", (1,), {"factor": 1 / features}), Step("subtract", (0, 2)),
        Step("multiply", (3, 3)), Step("sum", (4,), mean), Step("scale", (5,), {"factor": 1 / features}),
        Step("offset", (6,), {"value": epsilon}), Step("function", (7,), {"name": "sqrt"}), Step("divide", (3, 8)),
    )  # fmt: skip


@pytest.mark.parametrize("features", [2, 3, 16, 100, 512])
@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (5.0, 0.5), (0.0, 1e-3), (-300.0, 100.0)])
def test_an_integer_layer_norm_errs_by_what_sixteen_bits_leave_of_a_small_deviation(
    features: int, offset: float, spread: float
) -> None:
    """Sixteen bits move a centred value, so the deviation too, by a unit at most; the quotient then by |q| unit / s."""
    gate = program(*layer_norm(features, 1e-5), shape=(2, -1, features))
    for seed in range(5):
        random = torch.Generator().manual_seed(seed)
        width = spread * (0.2 + torch.rand((2, 20, 1), generator=random, dtype=torch.float64))
        real = offset + width * torch.randn((2, 20, features), generator=random, dtype=torch.float64)
        scale = float(real.abs().max()) / 2**20
        whole = (real / scale).round()
        seen = [whole * scale]
        run_float(gate, seen[0], lambda _, v, seen=seen: seen.append(v))  # type: ignore[misc]
        integer = quantise_gate(gate, scale, [(float(v.min()), float(v.max())) for v in seen])
        got = torch.from_numpy(integer.run_integer(whole.to(torch.int64).numpy())) / UNIT
        centred, deviation, wanted = seen[3], seen[8], seen[9]
        unit = HEADROOM * float(centred.abs().max()) / (2**15 - 1)
        rounding = 2 / UNIT + HEADROOM * float(wanted.abs().max()) / 2**14
        allowed = wanted.abs() * unit / (deviation - unit) + rounding
        assert bool((deviation > unit).all())
        assert bool(((got - wanted).abs() <= allowed).all())


QUOTIENTS: dict[str, tuple[tuple[Step, ...], float, float]] = {
    "of signals": ((Step("offset", (0,), {"value": 3.5}), Step("divide", (0, 1))), -3.0, 3.0),
    "of a constant and a signal": (
        (
            Step("scale", (0,), {"factor": 0.0}), Step("add_const", (1,), {}, np.array([1.0, -2.0, 0.5, 3.0])),
            Step("divide", (2, 0)),
        ),
        0.25, 4.0,
    ),
    "of a tiny and a large signal": (
        (Step("scale", (0,), {"factor": 1e-4}), Step("divide", (1, 0)), Step("scale", (2,), {"factor": 1e4})), 0.5, 9.0
    ),
    "of a large and a tiny signal": (
        (Step("scale", (0,), {"factor": 1e-4}), Step("divide", (0, 1)), Step("scale", (2,), {"factor": 1e-4})), 0.5, 9.0
    ),
    "of a constant and a root": (
        (
            Step("function", (0,), {"name": "sqrt"}), Step("scale", (1,), {"factor": 0.0}),
            Step("offset", (2,), {"value": 1.0}), Step("divide", (3, 1)),
        ),
        0.05, 4.0,
    ),
    "root": ((Step("function", (0,), {"name": "sqrt"}),), 0.0, 9.0),
    "root of a square": ((Step("multiply", (0, 0)), Step("function", (1,), {"name": "sqrt"})), -4.0, 4.0),
}  # fmt: skip


@pytest.mark.parametrize("name", QUOTIENTS)
def test_quotients_and_roots_keep_sixteen_bits(name: str) -> None:
    steps, low, high = QUOTIENTS[name]
    real = real_current(low, high)
    largest = float(run_float(program(*steps), real).abs().max())
    assert_close(program(*steps), real, 2 / UNIT + largest * 2.0**-12)


def test_a_divisor_that_may_vanish_is_refused_with_what_was_seen() -> None:
    gate = program(Step("divide", (0, 0)))
    with pytest.raises(LoweringError, match=r"step 1 \(divide\): the divisor was -1\.\.2"):
        quantise_gate(gate, 1e-5, [(-1.0, 2.0), (1.0, 1.0)])


def test_a_quotient_of_two_signals_that_are_small_together_is_right() -> None:
    gate = program(Step("scale", (0,), {"factor": 0.5}), Step("divide", (1, 0)))
    integer = quantise_gate(gate, 1e-5, [(0.5, 2.0), (0.25, 1.0), (0.5, 0.5)])
    for fresh in (3, 20, 50_000):
        assert np.abs(integer.run_integer(np.full((2, 1, 4), fresh)) - UNIT // 2).max() <= 1


def test_a_divisor_below_what_calibration_saw_gives_a_large_quotient_and_no_division_by_zero() -> None:
    gate = program(Step("scale", (0,), {"factor": 0.0}), Step("offset", (1,), {"value": 1.0}), Step("divide", (2, 0)))
    integer = quantise_gate(gate, 1e-5, [(0.5, 2.0), (0.0, 0.0), (1.0, 1.0), (0.5, 2.0)])
    for fresh in (0, 1, -5):
        got = integer.run_integer(np.full((2, 1, 4), fresh))
        assert int(got.min()) > 2 * HEADROOM * UNIT


@pytest.mark.parametrize("name", ["FSTA", "ASA"])
def test_a_layer_that_slept_through_the_calibration_still_has_an_integer_gate(name: str) -> None:
    """Ranges of 0 used to ask for multipliers beyond 64 bits."""
    population = next(p for p in read_float_graph(captured(name)[1]).populations if p.gate is not None)
    assert population.gate is not None
    for program in (population.gate, causal_program(population.gate)):
        asleep = torch.zeros([2 if n == -1 else n for n in program.input_shape])
        values = [asleep]
        wanted = run_float(program, asleep, lambda _, v, values=values: values.append(v))
        integer = quantise_gate(program, 1e-6, [(float(v.min()), float(v.max())) for v in values])
        found = integer.run_integer(asleep.numpy().astype(np.int64)) / UNIT
        np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=2e-3)
