"""Write a gate, found by `network`, as a `GateProgram`: walk back from the factor to the current it was computed from.

The walk follows the traced operations from each factor of a gate expression down to the gated current (value 0) and
writes one or a few steps per operation. What has no rule here is an error that names the operation.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from spikefold.converters.capture.operations import pair, permutation
from spikefold.converters.capture.trace import BATCH
from spikefold.converters.capture.values import Flow, Gate, Leaf, Sum, Value, leading, shape_of, where
from spikefold.converters.gate_float import FUNCTIONS
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.errors import CaptureError

_SAME = {"contiguous", "clone", "alias", "detach", "to", "dropout", "feature_dropout"}
_RESHAPE = {"view", "_unsafe_view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze"}
_PERMUTE = {"permute", "transpose", "movedim"}


def lift_gate(gate: Gate, flow: Flow, values: dict[Node, Value], time_steps: int, neuron: str) -> GateProgram:
    """The program that computes ``gate`` from the current ``flow`` of the population ``neuron``.

    The result is laid out as ``[T or 1, B or 1, *features or 1]``.
    """
    lift = _Lift(flow, values, time_steps, neuron)
    last = lift.expression(gate)
    return GateProgram((time_steps, -1, *flow.features), lift.pruned(last), time_steps)


class _Lift:
    def __init__(self, flow: Flow, values: dict[Node, Value], time_steps: int, neuron: str) -> None:
        self.flow, self.values, self.time_steps, self.neuron = flow, values, time_steps, neuron
        self.steps: list[Step] = []
        self.known: dict[Node, int] = {}

    def emit(self, op: str, *inputs: int, constant: Tensor | None = None, **attributes: Any) -> int:
        array = None if constant is None else constant.detach().double().numpy()
        self.steps.append(Step(op, inputs, attributes, array))
        return len(self.steps)

    def pruned(self, last: int) -> tuple[Step, ...]:
        """Only the steps that ``last`` needs, renumbered."""
        if last == 0:
            last = self.emit("scale", 0, factor=1.0)
        needed, stack = {0, last}, [last]
        while stack:
            for i in self.steps[stack.pop() - 1].inputs:
                if i not in needed:
                    needed.add(i)
                    stack.append(i)
        order = sorted(needed)
        new = {old: number for number, old in enumerate(order)}
        kept = [self.steps[i - 1] for i in order if i > 0]
        return tuple(Step(s.op, tuple(new[i] for i in s.inputs), s.attributes, s.constant) for s in kept)

    def expression(self, gate: Gate) -> int:
        if isinstance(gate, Leaf):
            return self.leaf(gate)
        if not isinstance(gate, Sum):
            for one, other in ((gate.left, gate.right), (gate.right, gate.left)):
                if isinstance(one, Leaf) and not isinstance(one.node, Node) and _numel(one.node) == 1:
                    return self.emit("scale", self.expression(other), factor=float(one.node))
            return self.emit("multiply", self.expression(gate.left), self.expression(gate.right))
        for one, other in ((gate.left, gate.right), (gate.right, gate.left)):
            if isinstance(one, Leaf) and not isinstance(one.node, Node) and _numel(one.node) == 1:
                return self.emit("offset", self.expression(other), value=float(one.node))
        return self.emit("add", self.expression(gate.left), self.expression(gate.right))

    def leaf(self, leaf: Leaf) -> int:
        """A factor, brought from the layout it was multiplied in to ``[T, B, *features]``."""
        if not isinstance(leaf.node, Node):
            raise CaptureError(f"gate of {self.neuron}: a constant factor that is not one number; fold it into a layer")
        index, shape = self.node(leaf.node), shape_of(leaf.node)
        rank = leading(leaf.axes) + len(leaf.features)
        shape = (1,) * (rank - len(shape)) + shape
        lead, rest = shape[: leading(leaf.axes)], shape[leading(leaf.axes) :]
        if leaf.axes in ("TB", "BT"):
            t = self.time_steps
            first, second = (1, 1) if lead[0] == 1 else ((t, BATCH) if leaf.axes == "TB" else (BATCH, t))
            index = self.reshape(index, (first, second, *rest))
            lead = (first, second)
        elif shape != shape_of(leaf.node):
            index = self.reshape(index, shape)
        if leaf.axes in ("B T", "BT"):
            index = self.emit("permute", index, axes=(1, 0, *range(2, 2 + len(rest))))
            lead = (lead[1], lead[0])
        if leaf.features != self.flow.features:
            if math.prod(rest) == 1:
                rest = (1,) * len(self.flow.features)
            elif rest == leaf.features:
                rest = self.flow.features
            else:
                raise CaptureError(f"gate of {self.neuron}: a factor of shape {shape} on flattened features")
            index = self.reshape(index, (*lead, *rest))
        return index

    def reshape(self, index: int, shape: tuple[int, ...]) -> int:
        free = tuple(-1 if n % BATCH == 0 else n for n in shape)
        if free.count(-1) > 1:
            raise CaptureError(f"gate of {self.neuron}: shape {shape} spreads the batch over several axes")
        return self.emit("reshape", index, shape=free)

    def node(self, node: Node) -> int:
        if node not in self.known:
            self.known[node] = self._node(node)
        return self.known[node]

    def _node(self, node: Node) -> int:
        value = self.values[node]
        if isinstance(value, Flow) and value.key is self.flow.key:
            return self._current(value, node)
        if isinstance(value, Tensor):
            raise CaptureError(f"gate of {self.neuron}: {where(node)} is a constant where a signal is needed")
        if node.op == "placeholder" or str(node.target).startswith("spikefold.neuron"):
            raise CaptureError(
                f"gate of {self.neuron}: the factor comes from {node.name!r}, not from the current it multiplies; a "
                "gate must be computed from the current of its own layer"
            )
        if node.target is operator.getitem:
            return self._item(node)
        name = _name(node)
        rule = _RULES.get(name)
        if name in _SAME:
            if name.endswith("dropout") and node.args[2]:
                raise CaptureError(f"gate of {self.neuron}: {where(node)} drops at random; call eval()")
            return self.node(self.input(node, 0))
        if name in _RESHAPE:
            return self.reshape(self.node(self.input(node, 0)), shape_of(node))
        if name in _PERMUTE:
            order = permutation(str(node.target), list(node.args[1:]), len(shape_of(node)))
            return self.emit("permute", self.node(self.input(node, 0)), axes=order)
        if name in FUNCTIONS and name not in _RULES:
            return self.emit("function", self.node(self.input(node, 0)), name=name)
        if rule is None:
            raise CaptureError(
                f"gate of {self.neuron}: {where(node)} has no integer form; supported are pooling, linear, conv2d, "
                f"batch norm, arithmetic, layout, topk_mask and {', '.join(sorted(FUNCTIONS))}"
            )
        return rule(self, node)

    def _item(self, node: Node) -> int:
        """Values of a maximum that returns its indices too."""
        pooled = self.input(node, 0)
        name = _name(pooled)
        if node.args[1] != 0 or name not in (
            "max",
            "adaptive_max_pool1d",
            "adaptive_max_pool2d",
            "adaptive_max_pool3d",
        ):
            raise CaptureError(f"gate of {self.neuron}: {where(pooled)} has no integer form")
        rule = _reduce("max", mean=False) if name == "max" else _pool_all("max", mean=False)
        return rule(self, pooled)

    def _current(self, value: Flow, node: Node) -> int:
        index = 0
        if value.axes in ("B T", "BT"):
            index = self.emit("permute", index, axes=(1, 0, *range(2, 2 + len(self.flow.features))))
        if value.axes in ("TB", "BT") or value.features != self.flow.features:
            index = self.reshape(index, shape_of(node))
        return index

    def input(self, node: Node, position: int) -> Node:
        argument = node.args[position]
        if not isinstance(argument, Node):
            raise CaptureError(f"gate of {self.neuron}: {where(node)}: argument {position} is not a tensor")
        return argument

    def constant(self, argument: Any) -> Tensor | float | None:
        """The value of a constant argument, or None where it is a signal."""
        if isinstance(argument, (int, float)):
            return float(argument)
        value = self.values.get(argument) if isinstance(argument, Node) else None
        return value if isinstance(value, Tensor) else None

    def reduced_axes(self, node: Node, argument: Any) -> tuple[int, ...]:
        shape = shape_of(self.input(node, 0))
        given = range(len(shape)) if argument is None else [argument] if isinstance(argument, int) else argument
        axes = tuple(sorted(int(a) % len(shape) for a in given))
        if any(shape[a] % BATCH == 0 for a in axes):
            raise CaptureError(f"gate of {self.neuron}: {where(node)} reduces over the batch, so samples would mix")
        return axes


def _name(node: Node) -> str:
    return str(node.target).partition(".")[2].partition(".")[0]


def _numel(value: Tensor | float) -> int:
    return value.numel() if isinstance(value, Tensor) else 1


def _reduce(op: str, mean: bool) -> Callable[[_Lift, Node], int]:
    def rule(lift: _Lift, node: Node) -> int:
        axes = lift.reduced_axes(node, node.args[1] if len(node.args) > 1 else None)
        keepdim = bool(node.args[2]) if len(node.args) > 2 else False
        source = lift.input(node, 0)
        index = lift.emit(op, lift.node(source), axes=axes, keepdim=keepdim)
        if not mean:
            return index
        return lift.emit("scale", index, factor=1.0 / math.prod(shape_of(source)[a] for a in axes))

    return rule


def _pool_all(op: str, mean: bool) -> Callable[[_Lift, Node], int]:
    def rule(lift: _Lift, node: Node) -> int:
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


def _binary(op: str) -> Callable[[_Lift, Node], int]:
    def rule(lift: _Lift, node: Node) -> int:
        left, right = node.args[0], node.args[1]
        if node.kwargs.get("alpha", 1) != 1:
            raise CaptureError(f"gate of {lift.neuron}: {where(node)}: alpha is not supported; multiply first")
        if op == "rsub":
            left, right = right, left
        a, b = lift.constant(left), lift.constant(right)
        if b is None and a is None and isinstance(left, Node) and isinstance(right, Node):
            if op == "div":
                raise CaptureError(
                    f"gate of {lift.neuron}: {where(node)} divides two signals, which has no integer form"
                )
            names = {"add": "add", "sub": "subtract", "rsub": "subtract", "mul": "multiply"}
            return lift.emit(names[op], lift.node(left), lift.node(right))
        constant, signal = (b, left) if b is not None else (a, right)
        if not isinstance(signal, Node) or constant is None:
            raise CaptureError(f"gate of {lift.neuron}: {where(node)} has no signal among its arguments")
        index = lift.node(signal)
        if op in ("mul", "div"):
            if op == "div" and b is None:
                raise CaptureError(
                    f"gate of {lift.neuron}: {where(node)} divides by a signal, which has no integer form"
                )
            return _times(lift, index, constant if op == "mul" else 1.0 / constant)
        if op in ("sub", "rsub") and b is None:
            return _plus(lift, lift.emit("scale", index, factor=-1.0), constant)
        return _plus(lift, index, constant if op == "add" else -constant)

    return rule


def _times(lift: _Lift, index: int, constant: Tensor | float) -> int:
    if _numel(constant) == 1:
        return lift.emit("scale", index, factor=float(constant))
    return lift.emit("multiply_const", index, constant=constant if isinstance(constant, Tensor) else None)


def _plus(lift: _Lift, index: int, constant: Tensor | float) -> int:
    if _numel(constant) == 1:
        return lift.emit("offset", index, value=float(constant))
    return lift.emit("add_const", index, constant=constant if isinstance(constant, Tensor) else None)


def _negate(lift: _Lift, node: Node) -> int:
    return lift.emit("scale", lift.node(lift.input(node, 0)), factor=-1.0)


def _weight(lift: _Lift, node: Node, position: int) -> Tensor:
    constant = lift.constant(node.args[position])
    if not isinstance(constant, Tensor):
        raise CaptureError(
            f"gate of {lift.neuron}: {where(node)} multiplies two signals; only constant weights can be folded"
        )
    return constant


def _linear(lift: _Lift, node: Node) -> int:
    index = lift.emit("matmul", lift.node(lift.input(node, 0)), constant=_weight(lift, node, 1).T)
    if len(node.args) > 2 and node.args[2] is not None:
        index = lift.emit("add_const", index, constant=_weight(lift, node, 2))
    return index


def _matmul(lift: _Lift, node: Node) -> int:
    weight = _weight(lift, node, 1)
    if weight.ndim != 2:
        raise CaptureError(
            f"gate of {lift.neuron}: {where(node)}: the right factor has shape {tuple(weight.shape)}, not 2-D"
        )
    return lift.emit("matmul", lift.node(lift.input(node, 0)), constant=weight)


def _conv2d(lift: _Lift, node: Node) -> int:
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


def _batch_norm(lift: _Lift, node: Node) -> int:
    weight, bias, mean, var = (lift.constant(x) for x in node.args[1:5])
    if not isinstance(mean, Tensor) or not isinstance(var, Tensor):
        raise CaptureError(f"gate of {lift.neuron}: {where(node)} keeps no running statistics, so it cannot be folded")
    scale = (var + float(node.args[7])).rsqrt() * (1.0 if weight is None else weight)  # type: ignore[arg-type]
    shift = -mean * scale + (0.0 if bias is None else bias)
    shape = (-1, *[1] * (len(shape_of(node)) - 2))
    index = lift.emit("multiply_const", lift.node(lift.input(node, 0)), constant=scale.reshape(shape))
    return lift.emit("add_const", index, constant=shift.reshape(shape))


def _expand(lift: _Lift, node: Node) -> int:
    free = tuple(-1 if n % BATCH == 0 else n for n in shape_of(node))
    return lift.emit("broadcast", lift.node(lift.input(node, 0)), shape=free)


def _concat(lift: _Lift, node: Node) -> int:
    tensors: Any = node.args[0]
    axis = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[arg-type]
    return lift.emit("concat", *[lift.node(t) for t in tensors], axis=axis % len(shape_of(node)))


def _slice(lift: _Lift, node: Node) -> int:
    source = lift.input(node, 0)
    shape = shape_of(source)
    axis = int(node.args[1]) % len(shape)  # type: ignore[arg-type]
    start, stop = (int(x) for x in node.args[2:4])  # type: ignore[arg-type]
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


def _select(lift: _Lift, node: Node) -> int:
    source = lift.input(node, 0)
    shape = shape_of(source)
    axis, at = int(node.args[1]) % len(shape), int(node.args[2])  # type: ignore[arg-type]
    if shape[axis] % BATCH == 0:
        raise CaptureError(f"gate of {lift.neuron}: {where(node)} takes apart the batch")
    at %= shape[axis]
    return lift.reshape(lift.emit("slice", lift.node(source), axis=axis, start=at, stop=at + 1), shape_of(node))


def _clamp(lift: _Lift, node: Node) -> int:
    bounds = [*node.args[1:], None, None]
    low = float(bounds[0]) if isinstance(bounds[0], (int, float)) else -math.inf
    high = float(bounds[1]) if isinstance(bounds[1], (int, float)) else math.inf
    return lift.emit("clip", lift.node(lift.input(node, 0)), low=low, high=high)


def _top_k(lift: _Lift, node: Node) -> int:
    source = lift.input(node, 0)
    shape = shape_of(source)
    axis = int(node.args[2]) % len(shape)  # type: ignore[arg-type]
    if shape[axis] % BATCH == 0:
        raise CaptureError(f"gate of {lift.neuron}: {where(node)} ranks samples of a batch against each other")
    return lift.emit("topk_mask", lift.node(source), k=int(node.args[1]), axis=axis)  # type: ignore[arg-type]


def _square(lift: _Lift, node: Node) -> int:
    if node.args[1] != 2:
        raise CaptureError(f"gate of {lift.neuron}: {where(node)}: only the power 2 has an integer form")
    index = lift.node(lift.input(node, 0))
    return lift.emit("multiply", index, index)


def _avg_pool2d(lift: _Lift, node: Node) -> int:
    a = node.args
    kernel = pair(a[1])
    padding = pair(a[3]) if len(a) > 3 else (0, 0)
    if len(a) > 4 and (a[4] or any(padding)):
        raise CaptureError(f"gate of {lift.neuron}: {where(node)}: ceil_mode or padding has no integer form here")
    channels = shape_of(node)[-3]
    ones = torch.full((channels, 1, *kernel), 1.0 / math.prod(kernel), dtype=torch.float64)
    stride = pair(a[2]) if len(a) > 2 and a[2] else kernel
    return lift.emit(
        "conv2d", lift.node(lift.input(node, 0)), constant=ones, stride=stride, padding=padding,
        dilation=(1, 1), groups=channels,
    )  # fmt: skip


_RULES: dict[str, Callable[[_Lift, Node], int]] = {
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
    "conv2d": _conv2d,
    "batch_norm": _batch_norm,
    "expand": _expand,
    "cat": _concat,
    "concat": _concat,
    "slice": _slice,
    "select": _select,
    "clamp": _clamp,
    "relu": lambda lift, node: lift.emit("relu", lift.node(lift.input(node, 0))),
    "topk_mask": _top_k,
}
