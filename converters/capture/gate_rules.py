"""What each torch operation inside a gate becomes: one rule an operation, each writing steps of a `GateProgram`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import Node

from spikefold.converters.capture import gate_layout, gate_norms
from spikefold.converters.capture.layers import batch_norm_epsilon, pair
from spikefold.converters.capture.values import BATCH, numel, shape_of, where
from spikefold.errors import CaptureError

if TYPE_CHECKING:
    from spikefold.converters.capture.gate_lift import Lift

Rule: TypeAlias = Callable[["Lift", Node], int]


def _reduce(op: str, mean: bool) -> Rule:
    def rule(lift: Lift, node: Node) -> int:
        axes = lift.reduced_axes(node, node.args[1] if len(node.args) > 1 else None)
        keepdim = bool(node.args[2]) if len(node.args) > 2 else False
        source = lift.input(node, 0)
        index = lift.emit(op, lift.node(source), axes=axes, keepdim=keepdim)
        if not mean:
            return index
        return lift.emit("scale", index, factor=1.0 / math.prod(shape_of(source)[a] for a in axes))

    return rule


def _pool_all(op: str, mean: bool) -> Rule:
    def rule(lift: Lift, node: Node) -> int:
        source = lift.input(node, 0)
        size: Any = node.args[1]
        sizes = [size] if isinstance(size, int) else list(size)
        if any(n != 1 for n in sizes):
            raise CaptureError(f"gate of {lift.neuron}: {where(node)}: only a pooling to size 1 has an integer form")
        shape = shape_of(source)
        axes = tuple(range(len(shape) - len(sizes), len(shape)))
        index = lift.emit(op, lift.node(source), axes=axes, keepdim=True)
        return lift.emit("scale", index, factor=1.0 / math.prod(shape[a] for a in axes)) if mean else index

    return rule


def _binary(op: str) -> Rule:
    def rule(lift: Lift, node: Node) -> int:
        left, right = node.args[0], node.args[1]
        if node.kwargs.get("alpha", 1) != 1:
            raise CaptureError(f"gate of {lift.neuron}: {where(node)}: alpha is not supported; multiply first")
        if node.kwargs.get("rounding_mode") is not None:
            raise CaptureError(f"gate of {lift.neuron}: {where(node)}: rounding_mode has no integer form")
        if op == "rsub":
            left, right = right, left
        a, b = lift.constant(left), lift.constant(right)
        if b is None and a is None and isinstance(left, Node) and isinstance(right, Node):
            names = {"add": "add", "sub": "subtract", "rsub": "subtract", "mul": "multiply", "div": "divide"}
            return lift.emit(names[op], lift.node(left), lift.node(right))
        constant, signal = (b, left) if b is not None else (a, right)
        if not isinstance(signal, Node) or constant is None:
            raise CaptureError(f"gate of {lift.neuron}: {where(node)} has no signal among its arguments")
        index = lift.node(signal)
        if op in ("mul", "div"):
            if op == "div" and b is None:
                return gate_norms.constant_over(lift, constant, index)
            return _times(lift, index, constant if op == "mul" else 1.0 / constant)
        if op in ("sub", "rsub") and b is None:
            return _plus(lift, lift.emit("scale", index, factor=-1.0), constant)
        return _plus(lift, index, constant if op == "add" else -constant)

    return rule


def _times(lift: Lift, index: int, constant: Tensor | float) -> int:
    if numel(constant) == 1:
        return lift.emit("scale", index, factor=float(constant))
    return lift.emit("multiply_const", index, constant=constant if isinstance(constant, Tensor) else None)


def _plus(lift: Lift, index: int, constant: Tensor | float) -> int:
    if numel(constant) == 1:
        return lift.emit("offset", index, value=float(constant))
    return lift.emit("add_const", index, constant=constant if isinstance(constant, Tensor) else None)


def _negate(lift: Lift, node: Node) -> int:
    return lift.emit("scale", lift.node(lift.input(node, 0)), factor=-1.0)


def _weight(lift: Lift, node: Node, position: int) -> Tensor:
    constant = lift.constant(node.args[position])
    if not isinstance(constant, Tensor):
        raise CaptureError(
            f"gate of {lift.neuron}: {where(node)} multiplies two signals; only constant weights can be folded"
        )
    return constant


def _linear(lift: Lift, node: Node) -> int:
    index = lift.emit("matmul", lift.node(lift.input(node, 0)), constant=_weight(lift, node, 1).T)
    if len(node.args) > 2 and node.args[2] is not None:
        index = lift.emit("add_const", index, constant=_weight(lift, node, 2))
    return index


def _matmul(lift: Lift, node: Node) -> int:
    weight = _weight(lift, node, 1)
    if weight.ndim != 2:
        raise CaptureError(
            f"gate of {lift.neuron}: {where(node)}: the right factor has shape {tuple(weight.shape)}, not 2-D"
        )
    return lift.emit("matmul", lift.node(lift.input(node, 0)), constant=weight)


def _conv2d(lift: Lift, node: Node) -> int:
    a = node.args
    padding: Any = a[4] if len(a) > 4 else (0, 0)
    if isinstance(padding, str):
        raise CaptureError(f"gate of {lift.neuron}: {where(node)}: padding={padding!r}; give it as numbers")
    index = lift.emit(
        "conv2d",
        lift.node(lift.input(node, 0)),
        constant=_weight(lift, node, 1),
        stride=pair(a[3]) if len(a) > 3 else (1, 1),
        padding=pair(padding),
        dilation=pair(a[5]) if len(a) > 5 else (1, 1),
        groups=a[6] if len(a) > 6 else 1,
    )
    if len(a) > 2 and a[2] is not None:
        index = lift.emit("add_const", index, constant=_weight(lift, node, 2).reshape(-1, 1, 1))
    return index


def _conv1d(lift: Lift, node: Node) -> int:
    """A convolution along a row is one along pictures of height 1."""
    a = node.args
    padding: Any = a[4] if len(a) > 4 else (0,)
    if isinstance(padding, str):
        raise CaptureError(f"gate of {lift.neuron}: {where(node)}: padding={padding!r}; give it as numbers")
    shape = shape_of(lift.input(node, 0))
    if len(shape) != 3:
        raise CaptureError(f"gate of {lift.neuron}: {where(node)} works along the batch; give it [N, C, length]")
    stride, dilation = (pair(a[i])[1] if len(a) > i else 1 for i in (3, 5))
    index = lift.emit(
        "conv2d",
        lift.reshape(lift.node(lift.input(node, 0)), (*shape[:2], 1, shape[2])),
        constant=_weight(lift, node, 1).unsqueeze(2),
        stride=(1, stride),
        padding=(0, pair(padding)[1]),
        dilation=(1, dilation),
        groups=a[6] if len(a) > 6 else 1,
    )
    if len(a) > 2 and a[2] is not None:
        index = lift.emit("add_const", index, constant=_weight(lift, node, 2).reshape(-1, 1, 1))
    return lift.reshape(index, shape_of(node))


def _batch_norm(lift: Lift, node: Node) -> int:
    weight, bias, mean, var = (lift.constant(x) for x in node.args[1:5])
    if not isinstance(mean, Tensor) or not isinstance(var, Tensor):
        raise CaptureError(f"gate of {lift.neuron}: {where(node)} keeps no running statistics, so it cannot be folded")
    scale = (var + batch_norm_epsilon(node)).rsqrt() * (1.0 if weight is None else weight)
    shift = -mean * scale + (0.0 if bias is None else bias)
    shape = (-1, *[1] * (len(shape_of(lift.input(node, 0))) - 2))
    index = lift.emit("multiply_const", lift.node(lift.input(node, 0)), constant=scale.reshape(shape))
    return lift.emit("add_const", index, constant=shift.reshape(shape))


def _clamp(lower: float | None, upper: float | None, lower_at: int | None, upper_at: int | None) -> Rule:
    """A clip to defaults, or to the numbers among the arguments at the given positions."""

    def rule(lift: Lift, node: Node) -> int:
        ends: list[Any] = [lower, upper]
        for end, position in enumerate((lower_at, upper_at)):
            if position is not None and len(node.args) > position:
                ends[end] = node.args[position]
        if not all(x is None or isinstance(x, (int, float)) for x in ends):
            raise CaptureError(f"gate of {lift.neuron}: {where(node)}: its limits must be numbers")
        low, high = -math.inf if ends[0] is None else float(ends[0]), math.inf if ends[1] is None else float(ends[1])
        return lift.emit("clip", lift.node(lift.input(node, 0)), low=low, high=high)

    return rule


def _top_k(lift: Lift, node: Node) -> int:
    source = lift.input(node, 0)
    shape = shape_of(source)
    axis = int(node.args[2]) % len(shape)  # type: ignore[arg-type]
    if shape[axis] % BATCH == 0:
        raise CaptureError(f"gate of {lift.neuron}: {where(node)} ranks samples of a batch against each other")
    return lift.emit("topk_mask", lift.node(source), k=int(node.args[1]), axis=axis)  # type: ignore[arg-type]


def _square(lift: Lift, node: Node) -> int:
    if node.args[1] != 2:
        raise CaptureError(f"gate of {lift.neuron}: {where(node)}: only the power 2 has an integer form")
    index = lift.node(lift.input(node, 0))
    return lift.emit("multiply", index, index)


def _avg_pool2d(lift: Lift, node: Node) -> int:
    a = node.args
    kernel = pair(a[1])
    padding = pair(a[3]) if len(a) > 3 else (0, 0)
    if len(a) > 4 and (a[4] or any(padding) or len(a) > 6):
        raise CaptureError(
            f"gate of {lift.neuron}: {where(node)}: ceil_mode, padding or a divisor has no integer form here"
        )
    channels = shape_of(node)[-3]
    ones = torch.full((channels, 1, *kernel), 1.0 / math.prod(kernel), dtype=torch.float64)
    stride = pair(a[2]) if len(a) > 2 and a[2] else kernel
    return lift.emit(
        "conv2d", lift.node(lift.input(node, 0)), constant=ones, stride=stride, padding=padding,
        dilation=(1, 1), groups=channels,
    )  # fmt: skip


RULES: dict[str, Rule] = {
    "mean": _reduce("sum", mean=True),
    "sum": _reduce("sum", mean=False),
    "amax": _reduce("max", mean=False),
    "adaptive_avg_pool1d": _pool_all("sum", mean=True),
    "adaptive_avg_pool2d": _pool_all("sum", mean=True),
    "adaptive_avg_pool3d": _pool_all("sum", mean=True),
    "avg_pool2d": _avg_pool2d,
    "add": _binary("add"),
    "sub": _binary("sub"),
    "rsub": _binary("rsub"),
    "mul": _binary("mul"),
    "div": _binary("div"),
    "neg": _negate,
    "pow": _square,
    "linear": _linear,
    "matmul": _matmul,
    "conv1d": _conv1d,
    "conv2d": _conv2d,
    "batch_norm": _batch_norm,
    "expand": gate_layout.expand,
    "cat": gate_layout.concat,
    "concat": gate_layout.concat,
    "stack": gate_layout.stack,
    "pad": gate_layout.pad(3, mode_at=2),
    "constant_pad_nd": gate_layout.pad(2),
    "slice": gate_layout.slice_,
    "select": gate_layout.select,
    "clamp": _clamp(None, None, 1, 2),
    "clamp_min": _clamp(None, None, 1, None),
    "clamp_max": _clamp(None, None, None, 1),
    "hardtanh": _clamp(-1.0, 1.0, 1, 2),
    "relu6": _clamp(0.0, 6.0, None, None),
    "relu": lambda lift, node: lift.emit("relu", lift.node(lift.input(node, 0))),
    "topk_mask": _top_k,
    "reciprocal": gate_norms.reciprocal,
    "rsqrt": gate_norms.reciprocal_root,
    "softmax": gate_norms.softmax,
    "_softmax": gate_norms.softmax,
    "layer_norm": gate_norms.layer_norm,
}

RULES_OF_FIRST: dict[str, Rule] = {
    "max": _reduce("max", mean=False),
    "adaptive_max_pool1d": _pool_all("max", mean=False),
    "adaptive_max_pool2d": _pool_all("max", mean=False),
    "adaptive_max_pool3d": _pool_all("max", mean=False),
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_layer_norm": gate_norms.layer_norm,
}
"""Operations of several results, of which the first may be used."""

SPLITS = frozenset({"chunk", "split", "split_with_sizes"})
"""Operations that give parts of a tensor, any of which may be used."""
