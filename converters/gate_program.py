"""A gate as data: a list of tensor steps from the current of a layer to its gate.

The input (value 0) is the current ``[T, B, *features]``; step ``i`` makes value ``i + 1``; the last value is the gate,
broadcastable to the current. Shapes write the batch axis, or an axis that holds it, as -1. Two dialects share the
form:

- *float*, as captured: ``scale``, ``offset``, ``function``, ``divide`` and the shared steps; it runs in torch
  (`spikefold.converters.gate_float`);
- *integer*, as deployed: ``rescale``, ``look_up``, ``shift_divide``, ``square_root`` and the shared steps; its
  reference is numpy int64 (`run_integer`).

``table`` is its constant ``[T, 1, ...]``, whatever the current holds; ``running_sum``, ``running_max`` and
``running_topk_mask`` go along the first axis, which is time: what they say of a step depends on the steps up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikefold.converters import arithmetic
from spikefold.errors import FileFormatError

SHARED_OPS = frozenset(
    {"reshape", "permute", "broadcast", "slice", "concat", "sum", "max", "add", "subtract", "multiply"}
    | {"multiply_const", "add_const", "relu", "clip", "matmul", "conv2d", "topk_mask"}
    | {"table", "running_sum", "running_max", "running_topk_mask"}
)
FLOAT_OPS = SHARED_OPS | {"scale", "offset", "function", "divide"}
INTEGER_OPS = SHARED_OPS | {"rescale", "look_up", "shift_divide", "square_root"}


@dataclass(frozen=True)
class Step:
    """One operation: its name, the values it reads, plain attributes and at most one constant array."""

    op: str
    inputs: tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constant: NDArray[Any] | None = None


@dataclass(frozen=True)
class GateProgram:
    """Steps from a current of ``input_shape`` (``[T, -1, *features]``) to a gate; see the module's text."""

    input_shape: tuple[int, ...]
    steps: tuple[Step, ...]
    time_steps: int

    def run_integer(self, current: arithmetic.Int) -> arithmetic.Int:
        """Compute the gate of an int64 ``current`` ``[T, B, *features]``: the reference of all other forms."""
        values = [current]
        for step in self.steps:
            values.append(_INTEGER[step.op](step, [values[i] for i in step.inputs]))
        return values[-1]

    def to_plain(self) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """Split into JSON-ready structure and the list of constant arrays it refers to by position."""
        arrays: list[NDArray[Any]] = []
        steps = []
        for step in self.steps:
            entry: dict[str, Any] = {"op": step.op, "inputs": list(step.inputs), "attributes": dict(step.attributes)}
            if step.constant is not None:
                entry["constant"] = len(arrays)
                arrays.append(step.constant)
            steps.append(entry)
        return {"input_shape": list(self.input_shape), "time_steps": self.time_steps, "steps": steps}, arrays

    @staticmethod
    def from_plain(plain: Mapping[str, Any], arrays: list[NDArray[Any]], allowed: frozenset[str]) -> GateProgram:
        """Rebuild from `to_plain`'s halves; FileFormatError names a step that is unknown or refers to nothing."""
        steps = []
        for number, entry in enumerate(plain["steps"]):
            op, inputs = entry["op"], tuple(int(i) for i in entry["inputs"])
            if op not in allowed:
                raise FileFormatError(f"gate step {number}: unknown operation {op!r}; the file is newer or damaged")
            if not inputs or any(not 0 <= i <= number for i in inputs):
                raise FileFormatError(f"gate step {number} ({op}): inputs {inputs} do not come before it")
            constant = entry.get("constant")
            if constant is not None and not 0 <= constant < len(arrays):
                raise FileFormatError(f"gate step {number} ({op}): constant {constant} is not in the file")
            attributes = {k: tuple(v) if isinstance(v, list) else v for k, v in entry["attributes"].items()}
            steps.append(Step(op, inputs, attributes, None if constant is None else arrays[constant]))
        return GateProgram(tuple(plain["input_shape"]), tuple(steps), int(plain["time_steps"]))


def conv2d_integer(x: arithmetic.Int, weight: arithmetic.Int, attributes: Mapping[str, Any]) -> arithmetic.Int:
    """2-D cross-correlation of ``x`` ``[N, C, H, W]`` in int64, tap by tap (no float anywhere)."""
    stride, padding, dilation = attributes["stride"], attributes["padding"], attributes["dilation"]
    groups = attributes["groups"]
    n, channels, _, _ = x.shape
    out_channels, per_group, kh, kw = weight.shape
    x = np.pad(x, ((0, 0), (0, 0), (padding[0], padding[0]), (padding[1], padding[1])))
    height = (x.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    width = (x.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    x = x.reshape(n, groups, channels // groups, *x.shape[2:])
    w = weight.reshape(groups, out_channels // groups, per_group, kh, kw)
    out = np.zeros((n, groups, out_channels // groups, height, width), dtype=np.int64)
    for a in range(kh):
        rows = slice(a * dilation[0], a * dilation[0] + stride[0] * (height - 1) + 1, stride[0])
        for b in range(kw):
            columns = slice(b * dilation[1], b * dilation[1] + stride[1] * (width - 1) + 1, stride[1])
            out += np.einsum("goc,ngchw->ngohw", w[..., a, b], x[..., rows, columns])
    return out.reshape(n, out_channels, height, width)


def slice_index(rank: int, attributes: Mapping[str, Any]) -> tuple[slice, ...]:
    """Index that takes ``start:stop`` along ``axis`` of an array of ``rank`` axes."""
    index = [slice(None)] * rank
    index[attributes["axis"]] = slice(attributes["start"], attributes["stop"])
    return tuple(index)


def broadcast_shape(shape: tuple[int, ...], actual: tuple[int, ...]) -> tuple[int, ...]:
    """Fill the free axes (-1) of ``shape`` from the array that is broadcast to it."""
    padded = (1,) * (len(shape) - len(actual)) + tuple(actual)
    return tuple(have if want == -1 else want for want, have in zip(shape, padded, strict=True))


_IntegerOp = Callable[[Step, list[arithmetic.Int]], arithmetic.Int]
_INTEGER: dict[str, _IntegerOp] = {
    "reshape": lambda s, a: a[0].reshape(s.attributes["shape"]),
    "permute": lambda s, a: a[0].transpose(s.attributes["axes"]),
    "broadcast": lambda s, a: np.broadcast_to(a[0], broadcast_shape(s.attributes["shape"], a[0].shape)),
    "slice": lambda s, a: a[0][slice_index(a[0].ndim, s.attributes)],
    "sum": lambda s, a: a[0].sum(axis=s.attributes["axes"], keepdims=s.attributes["keepdim"], dtype=np.int64),
    "max": lambda s, a: a[0].max(axis=s.attributes["axes"], keepdims=s.attributes["keepdim"]),
    "add": lambda s, a: a[0] + a[1],
    "subtract": lambda s, a: a[0] - a[1],
    "multiply": lambda s, a: a[0] * a[1],
    "multiply_const": lambda s, a: a[0] * _int(s),
    "add_const": lambda s, a: a[0] + _int(s),
    "relu": lambda s, a: np.maximum(a[0], 0),
    "clip": lambda s, a: np.clip(a[0], s.attributes["low"], s.attributes["high"]),
    "matmul": lambda s, a: a[0] @ _int(s),
    "conv2d": lambda s, a: conv2d_integer(a[0], _int(s), s.attributes),
    "topk_mask": lambda s, a: arithmetic.top_k_mask(a[0], s.attributes["k"], s.attributes["axis"]),
    "concat": lambda s, a: np.concatenate(a, axis=s.attributes["axis"]),
    "table": lambda s, a: _int(s),
    "running_sum": lambda s, a: a[0].cumsum(axis=0, dtype=np.int64),
    "running_max": lambda s, a: np.maximum.accumulate(a[0], axis=0),
    "running_topk_mask": lambda s, a: arithmetic.running_top_k_mask(a[0], s.attributes["k"]),
    "rescale": lambda s, a: arithmetic.rescale(
        a[0], s.attributes["multiplier"], s.attributes["shift"], s.attributes["limit"]
    ),
    "look_up": lambda s, a: arithmetic.look_up(a[0], _int(s), s.attributes["offset"]),
    "shift_divide": lambda s, a: arithmetic.divide(a[0], a[1], s.attributes["shift"]),
    "square_root": lambda s, a: arithmetic.square_root(a[0]),
}


def _int(step: Step) -> arithmetic.Int:
    return np.asarray(step.constant, dtype=np.int64)
