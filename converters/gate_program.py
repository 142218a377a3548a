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
from spikefold.converters.plain_fields import Fields
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
        program = Fields(plain, "gate")
        steps = []
        for number, each in enumerate(program.objects("steps")):
            entry = Fields(each, f"gate step {number}")
            op, inputs = entry.text("op"), entry.wholes("inputs", 0)
            if op not in allowed:
                raise FileFormatError(f"gate step {number}: unknown operation {op!r}; the file is newer or damaged")
            fits = len(inputs) >= 1 if op == "concat" else len(inputs) == _READS.get(op, 1)
            if not fits or max(inputs) > number:
                raise FileFormatError(f"gate step {number} ({op}): inputs {inputs} do not come before it")
            constant = entry.whole("constant", 0) if "constant" in entry else None
            if op in _HOLD if constant is None else constant >= len(arrays):
                raise FileFormatError(f"gate step {number} ({op}): constant {constant} is not in the file")
            held = Fields(entry.mapping("attributes"), f"gate step {number} ({op})")
            for name in _ATTRIBUTES.get(op, ()):
                _check_attribute(held, name, whole=allowed is INTEGER_OPS)
            attributes = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.mapping("attributes").items()}
            steps.append(Step(op, inputs, attributes, None if constant is None else arrays[constant]))
        if not steps:
            raise program.refuse("steps", "a gate has one or more")
        shape = tuple(program.wholes("input_shape", -1))
        return GateProgram(shape, tuple(steps), program.whole("time_steps", 1))


_READS = {op: 2 for op in ("add", "subtract", "multiply", "divide", "shift_divide")}
_HOLD = frozenset({"multiply_const", "add_const", "matmul", "conv2d", "table", "look_up"})
_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "reshape": ("shape",), "permute": ("axes",), "broadcast": ("shape",), "slice": ("axis", "start", "stop"),
    "concat": ("axis",), "sum": ("axes", "keepdim"), "max": ("axes", "keepdim"), "clip": ("low", "high"),
    "conv2d": ("stride", "padding", "dilation", "groups"), "topk_mask": ("k", "axis"), "running_topk_mask": ("k",),
    "rescale": ("multiplier", "shift", "limit"), "look_up": ("offset",), "shift_divide": ("shift",),
    "scale": ("factor",), "offset": ("value",), "function": ("name",),
}  # fmt: skip
"""What each operation cannot do without."""


def _check_attribute(held: Fields, name: str, whole: bool) -> None:
    value = held.held(name)
    match name:
        case "stride" | "dilation":
            held.wholes(name, 1, 2)
        case "padding":
            held.wholes(name, 0, 2)
        case "shape":
            held.wholes(name, -1)
        case "groups" | "k":
            held.whole(name, 1)
        case "name":
            held.text(name)
        case "keepdim":
            held.flag(name)
        case "axes" if isinstance(value, list):
            held.wholes(name, -len(value) - 8)
        case "start" | "stop" if value is None:
            return
        case "low" | "high" | "factor" | "value" | "multiplier" | "limit" if whole:
            held.whole(name, -(2**63), 2**63 - 1)
        case "low" | "high" | "factor" | "value" | "multiplier" | "limit":
            if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
                raise held.refuse(name, "a number is needed")
        case _:
            held.whole(name)


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
