"""Turn a float `GateProgram` into one of integers only.

Every float value becomes an integer value times a real scale that lives only in here. Sums, maxima and layout are
exact; weights get eight bits, factors of one value sixteen; values are fitted to sixteen bits (by the range that
calibration saw, saturating beyond it) before they are multiplied by weights; elementwise functions become look-up
tables whose entry stands for the middle of its interval; roots and quotients are whole numbers, rounded toward zero.
The last step brings the gate to unsigned fixed point with `GATE_FRACTION_BITS`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spikefold.converters.arithmetic import MAX_SQUARE_BITS
from spikefold.converters.gate_float import FUNCTIONS, run_float
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.converters.ranges import value_bounds
from spikefold.errors import LoweringError

GATE_FRACTION_BITS = 12
VALUE_BITS = 16
WEIGHT_BITS = 8
TABLE_BITS = 12
HEADROOM = 1.25
PRODUCT_BITS = 40
DIVISION_BITS = 32
EXP_STEP_BITS = 10
EXP_WIDTH_BITS = 4
EXP_BITS = 24
"""Exponentials are tabled every ``2**-10`` over a width of 16, in 24 bits. A softmax then errs by less than ``2**-10``
whatever comes in, over thousands of entries: p (1 - p) times what the tabled powers differ by, which is 1.5 intervals.
"""
CURRENT_BOUND = 2**25
MULTIPLIER_BITS = 15
MAX_SHIFT = 62


@dataclass(frozen=True)
class _Value:
    """An integer value: its index in the integer program, its real scale, and a bound on its magnitude."""

    index: int
    scale: float
    bound: float


def quantise_gate(program: GateProgram, current_scale: float, ranges: Sequence[tuple[float, float]]) -> GateProgram:
    """Integer form of ``program``.

    Parameters
    ----------
    program : GateProgram
        Float dialect.
    current_scale : float
        Real value of one unit of the integer current.
    ranges : sequence of (low, high)
        Real range that calibration saw for each value of the program, the current first.

    Returns
    -------
    GateProgram
        Integer dialect; its result is the gate times ``2**GATE_FRACTION_BITS``.

    Raises
    ------
    LoweringError
        A step has no integer form, or a value could leave 64 bits.
    """
    q = _Quantiser(current_scale, ranges, _sizes(program), program.time_steps)
    for number, step in enumerate(program.steps):
        q.values.append(q.lower(step, number + 1))
    last, scale, limit = q.values[-1], 2.0**-GATE_FRACTION_BITS, 2**VALUE_BITS - 1
    if last.scale != scale or last.bound > limit or last.index != len(q.steps):
        q.rescale(last, scale, limit)
    integer = GateProgram(program.input_shape, tuple(q.steps), program.time_steps)
    value_bounds(integer, (-CURRENT_BOUND, CURRENT_BOUND))
    return integer


def _sizes(program: GateProgram) -> list[int]:
    """Elements of every value for a batch of one."""
    current = torch.zeros([1 if n == -1 else n for n in program.input_shape])
    sizes = [current.numel()]
    run_float(program, current, lambda _, value: sizes.append(value.numel()))
    return sizes


class _Quantiser:
    def __init__(
        self, current_scale: float, ranges: Sequence[tuple[float, float]], sizes: Sequence[int], time_steps: int
    ) -> None:
        self.steps: list[Step] = []
        self.values = [_Value(0, current_scale, CURRENT_BOUND)]
        self.ranges = ranges
        self.sizes = sizes
        self.time_steps = time_steps

    def emit(
        self,
        op: str,
        *inputs: _Value,
        scale: float,
        bound: float,
        constant: NDArray[np.int64] | None = None,
        **attributes: Any,
    ) -> _Value:
        self.steps.append(Step(op, tuple(i.index for i in inputs), attributes, constant))
        return _Value(len(self.steps), scale, bound)

    def largest(self, number: int) -> float:
        """Largest magnitude that calibration saw for a value, with headroom; at least one unit where it is known.

        A layer that slept through the calibration leaves ranges of 0, which no multiplier reaches.
        """
        low, high = self.ranges[number]
        unit = self.values[number].scale if number < len(self.values) else 1e-12
        return max(abs(low), abs(high), unit) * HEADROOM

    def rescale(self, value: _Value, scale: float, limit: int) -> _Value:
        """Bring a value to another scale: multiply and shift, saturating at ``limit``."""
        spare = math.ceil(math.log2(max(1.0, value.bound))) + MULTIPLIER_BITS - MAX_SHIFT
        if spare > 0:  # digits that the result has no room for would carry the product out of 64 bits
            bound = 2 ** (MAX_SHIFT - MULTIPLIER_BITS)
            value = self.emit(
                "rescale", value, scale=value.scale * 2.0**spare, bound=bound, multiplier=1, shift=spare, limit=bound
            )
        factor = value.scale / scale
        exponent = math.frexp(factor)[1]
        shift = min(MAX_SHIFT, max(0, MULTIPLIER_BITS - exponent))
        return self.emit(
            "rescale", value, scale=scale, bound=limit, multiplier=round(factor * 2**shift), shift=shift, limit=limit
        )

    def fit(self, value: _Value, number: int, bits: int = VALUE_BITS) -> _Value:
        """Bring a value to ``bits`` signed bits by its calibrated range, unless it is small already."""
        limit = 2 ** (bits - 1) - 1
        return value if value.bound <= limit else self.rescale(value, self.largest(number) / limit, limit)

    def common(self, inputs: Sequence[tuple[_Value, int]], number: int) -> list[_Value]:
        """Bring values to one scale, that of the widest of them at sixteen bits or finer."""
        values = [v for v, _ in inputs]
        if all(v.scale == values[0].scale for v in values):
            return values
        limit = 2 ** (VALUE_BITS - 1) - 1
        scale = max(self.largest(number), *(self.largest(n) for _, n in inputs)) / limit
        scale = max(scale, *(v.scale / 2**MULTIPLIER_BITS for v in values))
        return [self.rescale(v, scale, 2**VALUE_BITS) for v in values]

    def lower(self, step: Step, number: int) -> _Value:
        inputs = [(self.values[i], i) for i in step.inputs]
        x, x_number = inputs[0]
        a = step.attributes
        if step.op in ("reshape", "permute", "broadcast", "slice", "relu"):
            return self.emit(step.op, x, scale=x.scale, bound=x.bound, **a)
        if step.op in ("sum", "max"):
            terms = self.sizes[x_number] // self.sizes[number] if step.op == "sum" else 1
            return self.emit(step.op, x, scale=x.scale, bound=x.bound * terms, **a)
        if step.op == "scale":
            if a["factor"] > 0:
                return _Value(x.index, x.scale * a["factor"], x.bound)
            return self.emit(
                "rescale", x, scale=x.scale * (abs(a["factor"]) or 1.0), bound=x.bound, shift=0, limit=2**62,
                multiplier=-1 if a["factor"] < 0 else 0,
            )  # fmt: skip
        if step.op in ("offset", "add_const"):
            real = np.atleast_1d(np.asarray(a["value"] if step.op == "offset" else step.constant, dtype=np.float64))
            x = self.wide_enough(x, x_number, number)
            constant = np.round(real / x.scale).astype(np.int64)
            bound = x.bound + float(np.abs(constant).max())
            return self.emit("add_const", x, scale=x.scale, bound=bound, constant=constant)
        if step.op in ("add", "subtract"):
            left, right = self.common(inputs, number) if step.op == "add" else self.exact(inputs, number)
            return self.emit(step.op, left, right, scale=left.scale, bound=left.bound + right.bound)
        if step.op == "concat":
            values = self.common(inputs, number)
            return self.emit("concat", *values, scale=values[0].scale, bound=max(v.bound for v in values), **a)
        if step.op == "multiply":
            left, right = x, inputs[1][0]
            if left.bound * right.bound > 2.0**PRODUCT_BITS:
                left = self.fit(left, x_number)
                right = left if inputs[1][1] == x_number else self.fit(right, inputs[1][1])
            return self.emit("multiply", left, right, scale=left.scale * right.scale, bound=left.bound * right.bound)
        if step.op in ("matmul", "conv2d", "multiply_const"):
            return self.weighted(step, x, x_number)
        if step.op == "clip":
            low, high = (round(min(max(v / x.scale, -(2.0**62)), 2.0**62)) for v in (a["low"], a["high"]))
            return self.emit("clip", x, scale=x.scale, bound=x.bound, low=low, high=high)
        if step.op in ("topk_mask", "running_topk_mask"):
            return self.emit(step.op, self.fit(x, x_number), scale=1.0, bound=1, **a)
        if step.op in ("running_sum", "running_max"):
            return self.emit(
                step.op, x, scale=x.scale, bound=x.bound * (self.time_steps if step.op == "running_sum" else 1)
            )
        if step.op == "table":
            integers = np.round(np.asarray(step.constant, dtype=np.float64) * 2**GATE_FRACTION_BITS).astype(np.int64)
            bound = float(np.abs(integers).max())
            return self.emit("table", x, scale=2.0**-GATE_FRACTION_BITS, bound=bound, constant=integers)
        if step.op == "divide":
            return self.divide(inputs, number)
        if step.op == "function" and a["name"] == "sqrt":
            return self.square_root(x, x_number)
        if step.op == "function":
            return self.table(x, x_number, a["name"])
        raise LoweringError(f"gate step {number} ({step.op}) has no integer form")

    def wide_enough(self, x: _Value, x_number: int, number: int) -> _Value:
        """Keep a value from being so coarse that a constant added to it would vanish, or so fine that it overflows."""
        finest = self.largest(number) / 2 ** (VALUE_BITS - 1)
        if finest / 2**20 <= x.scale <= finest * 16:
            return x
        finest = max(finest, x.scale / 2**MULTIPLIER_BITS)
        return self.rescale(x, finest, 2**VALUE_BITS * 4)

    def weighted(self, step: Step, x: _Value, x_number: int) -> _Value:
        weight = np.asarray(step.constant, dtype=np.float64)
        # a factor of one value is held as finely as the value: in eight bits, T / (t + 1) would be wrong by percents
        limit = 2 ** ((VALUE_BITS if step.op == "multiply_const" else WEIGHT_BITS) - 1) - 1
        scale = (float(np.abs(weight).max()) or 1.0) / limit
        integers = np.round(weight / scale).astype(np.int64)
        x = self.fit(x, x_number)
        fan_in = {"multiply_const": 1, "conv2d": weight[:1].size, "matmul": len(weight)}[step.op]
        bound = x.bound * limit * fan_in
        return self.emit(step.op, x, scale=x.scale * scale, bound=bound, constant=integers, **dict(step.attributes))

    def table(self, x: _Value, x_number: int, name: str) -> _Value:
        last, bits = 2 ** (TABLE_BITS - 1), TABLE_BITS
        first, width = -last, self.largest(x_number)
        if name in ("sigmoid", "tanh", "hardsigmoid", "hardtanh"):
            width = min(width, 8.0)
        interval = width / last
        if name == "exp":
            high = self.ranges[x_number][1]
            last = math.ceil((high + (HEADROOM - 1) * abs(high)) * 2**EXP_STEP_BITS)
            first, interval, bits = last - 2 ** (EXP_STEP_BITS + EXP_WIDTH_BITS), 2.0**-EXP_STEP_BITS, EXP_BITS
        index = self.rescale(x, interval, max(abs(first), abs(last)))
        at = np.arange(first, last + 1, dtype=np.float64)
        middle = (at + 0.5 * np.sign(at)) * interval
        if self.ranges[x_number][0] >= 0:
            middle = np.maximum(middle, 0.0)
        real = FUNCTIONS[name](torch.from_numpy(middle)).numpy()
        if not np.isfinite(real).all():
            raise LoweringError(f"gate function {name!r} is not finite on the calibrated range +-{width:.4g}")
        scale = 2.0 ** (math.frexp(float(np.abs(real).max()) or 1.0)[1] - bits)
        integers = np.round(real / scale).astype(np.int64)
        return self.emit(
            "look_up", index, scale=scale, bound=float(np.abs(integers).max()), constant=integers, offset=-first
        )

    def exact(self, inputs: Sequence[tuple[_Value, int]], number: int) -> list[_Value]:
        """As `common`, without rounding where one scale is a whole multiple of the other: differences may cancel."""
        finest = min(v.scale for v, _ in inputs)
        multiples = [(v, round(v.scale / finest)) for v, _ in inputs]
        if all(abs(v.scale / finest - m) < 1e-9 * m and v.bound * m <= 2.0**PRODUCT_BITS for v, m in multiples):
            return [v if m == 1 else self.times(v, m) for v, m in multiples]
        return self.common(inputs, number)

    def times(self, x: _Value, whole: int) -> _Value:
        """The same real value in units ``whole`` times finer."""
        bound = math.ceil(x.bound) * whole
        return self.emit("rescale", x, scale=x.scale / whole, bound=bound, multiplier=whole, shift=0, limit=bound)

    def divide(self, inputs: Sequence[tuple[_Value, int]], number: int) -> _Value:
        """A quotient in sixteen bits, saturating; its divisor is at least one unit."""
        (over, over_number), (under, under_number) = inputs
        low, high = self.ranges[under_number]
        if low <= 0:
            raise LoweringError(
                f"gate step {number} (divide): the divisor was {low:.4g}..{high:.4g} on the calibration samples; only "
                "divisors above 0 have an integer form: add a constant that keeps it above 0"
            )
        over, under = self.fit(over, over_number, DIVISION_BITS), self.fit(under, under_number, DIVISION_BITS)
        under = self.emit("clip", under, scale=under.scale, bound=under.bound, low=1, high=2**DIVISION_BITS)
        finest = self.largest(number) / 2 ** (VALUE_BITS - 1)
        shift = min(DIVISION_BITS - 2, max(0, math.ceil(math.log2(over.scale / under.scale / finest))))
        scale, limit = over.scale / under.scale / 2**shift, 2**VALUE_BITS - 1
        quotient = self.emit("shift_divide", over, under, scale=scale, bound=over.bound * 2**shift, shift=shift)
        return self.emit("clip", quotient, scale=scale, bound=limit, low=-limit, high=limit)

    def square_root(self, x: _Value, x_number: int) -> _Value:
        """A root of up to 26 bits, of at least 0 and at most what calibration saw, with headroom."""
        if self.ranges[x_number][0] < 0:
            raise LoweringError(
                f"gate function 'sqrt' is not finite on the calibrated range from {self.ranges[x_number][0]:.4g}: take "
                "the root of something that is never below 0"
            )
        top = max(1, math.floor(min(x.bound, self.largest(x_number) / x.scale)))
        x = self.emit("clip", x, scale=x.scale, bound=top, low=0, high=top)
        finer = (MAX_SQUARE_BITS - top.bit_length()) // 2
        multiplier, shift, bound = 4 ** max(0, finer), 2 * max(0, -finer), 2**MAX_SQUARE_BITS - 1
        scale = x.scale * 4.0**-finer
        x = self.emit("rescale", x, scale=scale, bound=bound, multiplier=multiplier, shift=shift, limit=bound)
        return self.emit("square_root", x, scale=math.sqrt(x.scale), bound=math.isqrt(int(x.bound)))
