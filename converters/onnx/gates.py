"""A gate program as one ONNX function, ``spikefold::Gate_<population>(current) -> gate``, in int64 throughout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from onnx import FunctionProto, TensorProto

from spikefold.converters import arithmetic, ranges
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.converters.gate_shapes import Shape, value_shapes
from spikefold.converters.onnx import exact
from spikefold.converters.onnx.emitter import Emitter
from spikefold.converters.onnx.functions import make_function


def gate_function_name(population: Neurons) -> str:
    """Name of the function that computes the gate of ``population``."""
    return f"Gate_{population.name}"


def gate_function(graph: FixedPointGraph, population: Neurons, program: GateProgram) -> FunctionProto:
    """Build ``program``, the gate of ``population``; input ``current`` and output ``gate`` are int64.

    Raises
    ------
    LoweringError
        A value could leave 64 bits, or a step has no exact ONNX form; the message names the step.
    """
    bounds = ranges.value_bounds(program, ranges.current_range(graph, population))
    shapes = value_shapes(program, 1)
    e = Emitter(in_function=True)
    values = ["current"]
    for number, step in enumerate(program.steps):
        context = _Context(
            e, step, bounds[step.inputs[0]], shapes[step.inputs[0]], f"neurons {population.name!r}: gate step {number}"
        )
        values.append(_EMIT[step.op](context, [values[i] for i in step.inputs]))
    e.op("Identity", values[-1], name="gate")
    return make_function(gate_function_name(population), ["current"], ["gate"], e)


@dataclass(frozen=True)
class _Context:
    """One step being written; range and shape (for one sample) are those of its first input."""

    e: Emitter
    step: Step
    bounds: ranges.Range
    shape: Shape
    where: str

    def axes(self, key: str = "axes") -> list[int]:
        """Attribute ``key`` (one axis or several) as axes counted from the front."""
        value = self.step.attributes[key]
        return [int(a) % len(self.shape) for a in ((value,) if isinstance(value, int) else value)]

    def constant(self) -> str:
        """Name of the step's constant array."""
        return self.e.constant(self.array())

    def array(self) -> NDArray[np.int64]:
        """Constant array of the step."""
        return np.asarray(self.step.constant, dtype=np.int64)


def _sum(c: _Context, args: list[str]) -> str:
    axes = c.axes()
    count = prod(c.shape[a] for a in axes)
    return exact.reduce_sum(c.e, args[0], axes, count, c.bounds, keep=bool(c.step.attributes["keepdim"]))


def _max(c: _Context, args: list[str]) -> str:
    return exact.reduce_max(c.e, args[0], c.axes(), c.bounds, keep=bool(c.step.attributes["keepdim"]))


def _broadcast(c: _Context, args: list[str]) -> str:
    # an axis of 1 asks Expand to keep what is there
    shape = [1 if n == -1 else int(n) for n in c.step.attributes["shape"]]
    return c.e.op("Expand", args[0], c.e.constant(shape))


def _slice(c: _Context, args: list[str]) -> str:
    (axis,) = c.axes("axis")
    start, stop, _ = slice(c.step.attributes["start"], c.step.attributes["stop"]).indices(c.shape[axis])
    return c.e.op("Slice", args[0], c.e.constant([start]), c.e.constant([stop]), c.e.constant([axis]))


def _conv2d(c: _Context, args: list[str]) -> str:
    attributes = dict(c.step.attributes)
    return exact.convolve_int64(c.e, args[0], c.array(), c.bounds, 0, attributes, c.where)


def _top_k_mask(c: _Context, args: list[str]) -> str:
    (axis,) = c.axes("axis")
    n, k = c.shape[axis], min(int(c.step.attributes["k"]), c.shape[axis])
    if k <= 0:
        return c.e.op("Mul", args[0], c.e.constant(0))
    order = np.arange(n - 1, -1, -1).reshape([n if i == axis else 1 for i in range(len(c.shape))])
    key = c.e.op("Add", c.e.op("Mul", args[0], c.e.constant(n)), c.e.constant(order))
    names = (c.e.new_name("largest"), c.e.new_name("index"))
    largest, _ = c.e.ops("TopK", key, c.e.constant([k]), names=names, axis=axis, largest=1, sorted=1)
    limit = c.e.op("Slice", largest, c.e.constant([k - 1]), c.e.constant([k]), c.e.constant([axis]))
    return c.e.cast(c.e.op("GreaterOrEqual", key, limit), TensorProto.INT64)


def _running_max(c: _Context, args: list[str]) -> str:
    kept = [c.e.op("Slice", args[0], c.e.constant([t]), c.e.constant([t + 1])) for t in range(c.shape[0])]
    for t in range(1, len(kept)):
        kept[t] = c.e.op("Where", c.e.op("Greater", kept[t], kept[t - 1]), kept[t], kept[t - 1])
    return c.e.op("Concat", *kept, axis=0)


def _running_top_k_mask(c: _Context, args: list[str]) -> str:
    steps, ones = c.shape[0], [1] * (len(c.shape) - 1)
    each, others = (c.e.op("Unsqueeze", args[0], c.e.constant([axis])) for axis in (1, 0))
    past = c.e.constant(np.tri(steps, dtype=bool).reshape(steps, steps, *ones), np.bool_)
    ahead = c.e.cast(c.e.op("And", c.e.op("GreaterOrEqual", others, each), past), TensorProto.INT64)
    allowed = arithmetic.running_k(int(c.step.attributes["k"]), steps).reshape(-1, *ones)
    count = c.e.op("ReduceSum", ahead, c.e.constant([1]), keepdims=0)
    return c.e.cast(c.e.op("LessOrEqual", count, c.e.constant(allowed)), TensorProto.INT64)


def _rescale(c: _Context, args: list[str]) -> str:
    multiplier, shift, limit = (int(c.step.attributes[k]) for k in ("multiplier", "shift", "limit"))
    product = c.e.op("Mul", args[0], c.e.constant(multiplier))
    # integer Div truncates toward zero
    shifted = c.e.op("Div", product, c.e.constant(2**shift))
    largest = ranges.magnitude(c.bounds) * abs(multiplier) >> shift
    return exact.clamp(c.e, shifted, (-largest, largest), -limit, limit)


def _look_up(c: _Context, args: list[str]) -> str:
    offset = int(c.step.attributes["offset"])
    index = c.e.op("Add", args[0], c.e.constant(offset))
    reach = (c.bounds[0] + offset, c.bounds[1] + offset)
    return c.e.op("Gather", c.constant(), exact.clamp(c.e, index, reach, 0, len(c.array()) - 1))


def _clip(c: _Context, args: list[str]) -> str:
    return exact.clamp(c.e, args[0], c.bounds, int(c.step.attributes["low"]), int(c.step.attributes["high"]))


def _reshape(c: _Context, args: list[str]) -> str:
    return c.e.op("Reshape", args[0], c.e.constant([int(n) for n in c.step.attributes["shape"]]))


_EMIT: dict[str, Callable[[_Context, list[str]], str]] = {
    "reshape": _reshape,
    "permute": lambda c, a: c.e.op("Transpose", a[0], perm=c.axes()),
    "broadcast": _broadcast,
    "slice": _slice,
    "sum": _sum,
    "max": _max,
    "add": lambda c, a: c.e.op("Add", a[0], a[1]),
    "subtract": lambda c, a: c.e.op("Sub", a[0], a[1]),
    "multiply": lambda c, a: c.e.op("Mul", a[0], a[1]),
    "multiply_const": lambda c, a: c.e.op("Mul", a[0], c.constant()),
    "add_const": lambda c, a: c.e.op("Add", a[0], c.constant()),
    "relu": lambda c, a: exact.clamp(c.e, a[0], c.bounds, 0, max(0, c.bounds[1])),
    "clip": _clip,
    "matmul": lambda c, a: exact.matmul_int64(c.e, a[0], c.array()),
    "conv2d": _conv2d,
    "topk_mask": _top_k_mask,
    "concat": lambda c, a: c.e.op("Concat", *a, axis=c.axes("axis")[0]),
    "rescale": _rescale,
    "look_up": _look_up,
    "table": lambda c, a: c.constant(),
    "running_sum": lambda c, a: c.e.op("CumSum", a[0], c.e.constant(0)),
    "running_max": _running_max,
    "running_topk_mask": _running_top_k_mask,
    "shift_divide": lambda c, a: exact.divide(c.e, a[0], a[1], int(c.step.attributes["shift"])),
    "square_root": lambda c, a: exact.square_root(c.e, a[0]),
}
