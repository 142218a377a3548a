"""Rules for layout inside a gate: spreading, cutting, joining and padding tensors; never along the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.fx import Node

from spikefold.converters.capture.values import BATCH, shape_of, where
from spikefold.errors import CaptureError

if TYPE_CHECKING:
    from spikefold.converters.capture.gate_lift import Lift


def expand(lift: Lift, node: Node) -> int:
    """Spread axes of size 1."""
    free = tuple(-1 if n % BATCH == 0 else n for n in shape_of(node))
    return lift.emit("broadcast", lift.node(lift.input(node, 0)), shape=free)


def concat(lift: Lift, node: Node) -> int:
    """Join tensors along an axis."""
    tensors: Any = node.args[0]
    axis = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[arg-type]
    return lift.emit("concat", *[lift.node(t) for t in tensors], axis=axis % len(shape_of(node)))


def stack(lift: Lift, node: Node) -> int:
    """Join tensors along a new axis."""
    tensors: Any = node.args[0]
    axis = (int(node.args[1]) if len(node.args) > 1 else 0) % len(shape_of(node))  # type: ignore[arg-type]
    shape = tuple(1 if i == axis else n for i, n in enumerate(shape_of(node)))
    return lift.emit("concat", *[lift.reshape(lift.node(t), shape) for t in tensors], axis=axis)


def pad(value_at: int, mode_at: int | None = None) -> Callable[[Lift, Node], int]:
    """Constants around a tensor, given as pairs from the last axis on; mode and value at the given positions."""

    def rule(lift: Lift, node: Node) -> int:
        ends: Any = node.args[1]
        filling: Any = node.args[value_at] if len(node.args) > value_at else None
        mode = "constant" if mode_at is None or len(node.args) <= mode_at else node.args[mode_at]
        if mode != "constant" or any(n < 0 for n in ends):
            raise CaptureError(f"gate of {lift.neuron}: {where(node)}: only constants around a tensor can be added")
        shape = shape_of(node)
        index = lift.node(lift.input(node, 0))
        for back, (before, after) in enumerate(zip(ends[::2], ends[1::2], strict=True)):
            axis = len(shape) - 1 - back
            if before == after == 0:
                continue
            if shape_of(lift.input(node, 0))[axis] % BATCH == 0:
                raise CaptureError(f"gate of {lift.neuron}: {where(node)} pads the batch")
            one = lift.emit("scale", lift.emit("slice", index, axis=axis, start=0, stop=1), factor=0.0)
            if filling:
                one = lift.emit("offset", one, value=float(filling))
            index = lift.emit("concat", *[one] * before, index, *[one] * after, axis=axis)
        return index

    return rule


def part_of_split(lift: Lift, source: Node, number: int) -> int:
    """Result ``number`` of a split or chunk."""
    whole = lift.input(source, 0)
    shape = shape_of(whole)
    axis = int(source.args[2] if len(source.args) > 2 else 0) % len(shape)  # type: ignore[arg-type]
    if shape[axis] % BATCH == 0:
        raise CaptureError(f"gate of {lift.neuron}: {where(source)} takes apart the batch")
    lengths = [int(part.shape[axis]) for part in source.meta["val"]]
    start = sum(lengths[:number])
    return lift.emit("slice", lift.node(whole), axis=axis, start=start, stop=start + lengths[number])


def slice_(lift: Lift, node: Node) -> int:
    """Take a range along an axis."""
    source = lift.input(node, 0)
    shape = shape_of(source)
    axis = int(node.args[1]) % len(shape)  # type: ignore[arg-type]
    given = [*node.args[2:4], None, None]
    start = given[0] if isinstance(given[0], int) else 0
    stop = given[1] if isinstance(given[1], int) else shape[axis]
    if len(node.args) > 4 and node.args[4] != 1:
        raise CaptureError(f"gate of {lift.neuron}: {where(node)}: a step of {node.args[4]} has no integer form")
    stop = min(stop, shape[axis])
    index = lift.node(source)
    if shape[axis] % BATCH == 0:
        if (start, stop) != (0, shape[axis]):
            raise CaptureError(f"gate of {lift.neuron}: {where(node)} takes apart the batch")
        return index
    return lift.emit(
        "slice", index, axis=axis, start=start % shape[axis], stop=stop if stop > 0 else stop + shape[axis]
    )


def select(lift: Lift, node: Node) -> int:
    """Take one entry along an axis, which goes."""
    source = lift.input(node, 0)
    shape = shape_of(source)
    axis, at = int(node.args[1]) % len(shape), int(node.args[2])  # type: ignore[arg-type]
    if shape[axis] % BATCH == 0:
        raise CaptureError(f"gate of {lift.neuron}: {where(node)} takes apart the batch")
    at %= shape[axis]
    return lift.reshape(lift.emit("slice", lift.node(source), axis=axis, start=at, stop=at + 1), shape_of(node))
