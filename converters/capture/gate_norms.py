"""Rules for what divides inside a gate: quotients of signals, softmax, layer norm, reciprocals and roots.

Each is written in single steps (maximum, exponential, sum, quotient, ...), so that a normalisation that a user spells
out is the same program as torch's own operation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.fx import Node

from spikefold.converters.capture.values import is_real, numel, shape_of, where
from spikefold.errors import CaptureError

if TYPE_CHECKING:
    from spikefold.converters.capture.gate_lift import Lift


def constant_over(lift: Lift, constant: Tensor | float, denominator: int) -> int:
    """A constant divided by value ``denominator``."""
    nothing = lift.emit("scale", denominator, factor=0.0)
    if numel(constant) == 1:
        return lift.emit("divide", lift.emit("offset", nothing, value=float(constant)), denominator)
    array = constant if isinstance(constant, Tensor) else None
    return lift.emit("divide", lift.emit("add_const", nothing, constant=array), denominator)


def reciprocal(lift: Lift, node: Node) -> int:
    """``1 / x``."""
    return constant_over(lift, 1.0, lift.node(lift.input(node, 0)))


def reciprocal_root(lift: Lift, node: Node) -> int:
    """``1 / sqrt(x)``."""
    root = lift.emit("function", lift.node(lift.input(node, 0)), name="sqrt")
    return constant_over(lift, 1.0, root)


def softmax(lift: Lift, node: Node) -> int:
    """``exp(x - max x) / sum exp(x - max x)`` along one axis."""
    if not is_real(node):
        raise CaptureError(f"gate of {lift.neuron}: {where(node)} casts to {node.meta['val'].dtype}, which rounds")
    axes = lift.reduced_axes(node, node.args[1])
    x = lift.node(lift.input(node, 0))
    below = lift.emit("subtract", x, lift.emit("max", x, axes=axes, keepdim=True))
    part = lift.emit("function", below, name="exp")
    return lift.emit("divide", part, lift.emit("sum", part, axes=axes, keepdim=True))


def layer_norm(lift: Lift, node: Node) -> int:
    """``(x - mean) / sqrt(variance + eps) * weight + bias`` over the last axes."""
    source = lift.input(node, 0)
    normalised: Any = node.args[1]
    sizes: Sequence[int] = normalised
    axes = lift.reduced_axes(node, list(range(-len(sizes), 0)))
    part = 1.0 / math.prod(shape_of(source)[a] for a in axes)
    weight, bias = (lift.constant(node.args[i]) if len(node.args) > i else None for i in (2, 3))
    epsilon: Any = node.args[4] if len(node.args) > 4 else 1e-5
    x = lift.node(source)
    mean = lift.emit("scale", lift.emit("sum", x, axes=axes, keepdim=True), factor=part)
    centred = lift.emit("subtract", x, mean)
    squares = lift.emit("sum", lift.emit("multiply", centred, centred), axes=axes, keepdim=True)
    variance = lift.emit("offset", lift.emit("scale", squares, factor=part), value=float(epsilon))
    normed = lift.emit("divide", centred, lift.emit("function", variance, name="sqrt"))
    if isinstance(weight, Tensor):
        normed = lift.emit("multiply_const", normed, constant=weight)
    return normed if not isinstance(bias, Tensor) else lift.emit("add_const", normed, constant=bias)
