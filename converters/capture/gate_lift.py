"""Write a gate, found by `network`, as a `GateProgram`: walk back from the factor to the current it was computed from.

The walk follows the traced operations from each factor of a gate expression down to the gated current (value 0) and
writes one or a few steps per operation. What has no rule here is an error that names the operation.
"""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.fx import Node

from spikefold.converters.capture.gate_layout import part_of_split
from spikefold.converters.capture.gate_rules import RULES, RULES_OF_FIRST, SPLITS
from spikefold.converters.capture.network import CapturedPopulation
from spikefold.converters.capture.operations import permutation
from spikefold.converters.capture.values import (
    BATCH,
    Flow,
    Gate,
    Gather,
    Leaf,
    Sum,
    Value,
    is_real,
    leading,
    numel,
    shape_of,
    where,
)
from spikefold.converters.gate_float import FUNCTIONS
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.errors import CaptureError

_SAME = {"contiguous", "clone", "alias", "detach", "to", "_to_copy", "dropout", "feature_dropout"}
_RESHAPE = {"view", "_unsafe_view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze"}
_PERMUTE = {"permute", "transpose", "movedim", "t", "numpy_T", "mT"}


def lift_gate(population: CapturedPopulation, values: dict[Node, Value], time_steps: int) -> GateProgram:
    """The program that computes the gate of ``population`` from its current.

    The current is what the synapses deliver, the neuron's input gain included; the module computed its gate before
    that gain. The result is laid out as ``[T or 1, B or 1, *shape or 1]``.
    """
    if population.gate is None:
        raise CaptureError(f"{population.name} has no gate")
    if isinstance(population.gate, GateProgram):
        return population.gate
    flow = replace(population.flow, features=population.shape)
    if isinstance(population.gate, Gather):
        lift = Lift(flow, values, time_steps, population.name)
        last = _gates_side_by_side(lift, population.gate, population.shape)
    else:
        lift = Lift(flow, values, time_steps, population.name)
        if population.spec.input_gain != 1.0:
            lift.sources = [(flow, lift.emit("scale", 0, factor=1.0 / population.spec.input_gain))]
        last = lift.expression(population.gate)
    return GateProgram((time_steps, -1, *population.shape), lift.pruned(last), time_steps)


def _gates_side_by_side(lift: Lift, gathered: Gather, shape: tuple[int, ...]) -> int:
    """The gates of a relay's channels; 0 where a signal is only read."""
    lift.sources, start = [], 0
    for flow, _ in gathered.terms:
        stop = start + flow.features[0] * shape[0] // sum(f.features[0] for f, _ in gathered.terms)
        lift.sources.append((flow, lift.emit("slice", 0, axis=2, start=start, stop=stop)))
        start = stop
    extents = [_extent(gate, flow) for flow, gate in gathered.terms if gate is not None]
    extent = tuple(max(sizes) for sizes in zip(*extents, strict=True))[1:]
    gates: list[int] = []
    for flow, gate in gathered.terms:
        lift.flow = flow
        if gate is None:
            index = lift.emit("scale", lift.emit("slice", gates[0], axis=2, start=0, stop=1), factor=0.0)
        else:
            index = lift.expression(gate)
        gates.append(lift.emit("broadcast", index, shape=(lift.time_steps, -1, flow.features[0], *extent)))
    return gates[0] if len(gates) == 1 else lift.emit("concat", *gates, axis=2)


def _extent(gate: Gate, flow: Flow) -> tuple[int, ...]:
    """Sizes of a gate along the features of the current that it multiplies, 1 where it is the same for all."""
    if not isinstance(gate, Leaf):
        both = (_extent(gate.left, flow), _extent(gate.right, flow))
        return tuple(max(sizes) for sizes in zip(*both, strict=True))
    if not isinstance(gate.node, Node):
        return (1,) * len(flow.features)
    if gate.features != flow.features:
        return flow.features
    shape = shape_of(gate.node)
    return ((1,) * len(flow.features) + shape)[-len(flow.features) :]


class Lift:
    """The steps written so far, and which traced operation each value stands for.

    ``flow`` is the current that is gated, ``sources`` are the flows that a gate may read, with their values.
    """

    def __init__(self, flow: Flow, values: dict[Node, Value], time_steps: int, neuron: str) -> None:
        self.flow, self.values, self.time_steps, self.neuron = flow, values, time_steps, neuron
        self.steps: list[Step] = []
        self.known: dict[Node, int] = {}
        self.sources = [(flow, 0)]

    def emit(self, op: str, *inputs: int, constant: Tensor | None = None, **attributes: Any) -> int:
        """Append a step and return the number of its value."""
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
        """Write a sum or product of factors."""
        if isinstance(gate, Leaf):
            return self.leaf(gate)
        if not isinstance(gate, Sum):
            for one, other in ((gate.left, gate.right), (gate.right, gate.left)):
                if isinstance(one, Leaf) and not isinstance(one.node, Node) and numel(one.node) == 1:
                    return self.emit("scale", self.expression(other), factor=float(one.node))
            return self.emit("multiply", self.expression(gate.left), self.expression(gate.right))
        for one, other in ((gate.left, gate.right), (gate.right, gate.left)):
            if isinstance(one, Leaf) and not isinstance(one.node, Node) and numel(one.node) == 1:
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
        """Append a reshape to a traced shape, its batch axis left free."""
        free = tuple(-1 if n % BATCH == 0 else n for n in shape)
        if free.count(-1) > 1:
            raise CaptureError(f"gate of {self.neuron}: shape {shape} spreads the batch over several axes")
        return self.emit("reshape", index, shape=free)

    def node(self, node: Node) -> int:
        """Write a traced operation and all it needs, once."""
        if node not in self.known:
            self.known[node] = self._node(node)
        return self.known[node]

    def _node(self, node: Node) -> int:
        value = self.values[node]
        if isinstance(value, Flow):
            for flow, current in self.sources:
                ratio = value.times(flow)
                if ratio is not None:
                    index = self._current(value, node, flow, current)
                    return index if ratio == 1.0 else self.emit("scale", index, factor=ratio)
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
        rule = RULES.get(name)
        if name in _SAME:
            if name.endswith("dropout") and node.args[2]:
                raise CaptureError(f"gate of {self.neuron}: {where(node)} drops at random; call eval()")
            if not is_real(node):
                raise CaptureError(
                    f"gate of {self.neuron}: {where(node)} casts to {node.meta['val'].dtype}, which rounds"
                )
            return self.node(self.input(node, 0))
        if name in _RESHAPE:
            return self.reshape(self.node(self.input(node, 0)), shape_of(node))
        if name in _PERMUTE:
            order = permutation(str(node.target), list(node.args[1:]), len(shape_of(node)))
            return self.emit("permute", self.node(self.input(node, 0)), axes=order)
        if name in FUNCTIONS and name not in RULES:
            unusual = _unusual_arguments(node)
            if unusual:
                raise CaptureError(
                    f"gate of {self.neuron}: {where(node)} is called with {unusual}; it has an integer form only with "
                    "its default arguments"
                )
            return self.emit("function", self.node(self.input(node, 0)), name=name)
        if rule is None:
            raise CaptureError(
                f"gate of {self.neuron}: {where(node)} has no integer form; supported are pooling, linear, "
                f"conv1d, conv2d, norms, softmax, arithmetic, layout, topk_mask and {', '.join(sorted(FUNCTIONS))}"
            )
        return rule(self, node)

    def _item(self, node: Node) -> int:
        """One result of an operation that has several: a part of a split, or the first, such as a maximum's values."""
        source = self.input(node, 0)
        if _name(source) in SPLITS:
            return part_of_split(self, source, int(node.args[1]))  # type: ignore[arg-type]
        rule = RULES_OF_FIRST.get(_name(source))
        if node.args[1] != 0 or rule is None:
            raise CaptureError(f"gate of {self.neuron}: {where(source)} has no integer form")
        return rule(self, source)

    def _current(self, value: Flow, node: Node, flow: Flow, index: int) -> int:
        if value.axes in ("B T", "BT"):
            index = self.emit("permute", index, axes=(1, 0, *range(2, 2 + len(flow.features))))
        if value.axes in ("TB", "BT") or value.features != flow.features:
            index = self.reshape(index, shape_of(node))
        return index

    def input(self, node: Node, position: int) -> Node:
        """The traced operation that makes an argument."""
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
        """Axes that ``argument`` names, or all of them; never the batch."""
        shape = shape_of(self.input(node, 0))
        given = range(len(shape)) if argument is None else [argument] if isinstance(argument, int) else argument
        axes = tuple(sorted(int(a) % len(shape) for a in given))
        if any(shape[a] % BATCH == 0 for a in axes):
            raise CaptureError(f"gate of {self.neuron}: {where(node)} reduces over the batch, so samples would mix")
        return axes


def _unusual_arguments(node: Node) -> dict[str, Any]:
    """Arguments after the first one that differ from their defaults."""
    declared = node.target._schema.arguments  # type: ignore[union-attr]
    given = {**dict(zip((a.name for a in declared), node.args, strict=False)), **node.kwargs}
    return {a.name: given[a.name] for a in declared[1:] if a.name in given and given[a.name] != a.default_value}


def _name(node: Node) -> str:
    return str(node.target).partition(".")[2].partition(".")[0]
