"""Fold a loop over steps into the one step it repeats.

While a module with such a loop is traced, every step of its clip is the same tensor: all steps of all samples, merged
(`every_step`). As nothing but its neurons looks at other steps, the operations of all rounds are then the same, and one
of each is kept. A list of what the rounds made, stacked, is that one thing for every step: taking a step of it or its
mean over the steps gives it back, its sum T times it. Whether the module really looks at no other steps is found
afterwards, by running it (`check`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import Graph, Node

from spikefold.converters.capture.values import where
from spikefold.errors import CaptureError

aten = torch.ops.aten
STATE = "spikefold.state"
ELEMENTWISE = ("add", "sub", "rsub", "mul", "div", "neg", "_to_copy", "to", "clone", "contiguous", "detach", "alias")
"""Operations that may work on all steps at once, with numbers."""
ZEROS = ("zeros", "zeros_like", "new_zeros")


@torch.library.custom_op("spikefold::every_step", mutates_args=())
def every_step(clip: Tensor, steps: int, axis: int) -> Tensor:
    """Stand in for a clip each step of which is ``clip``."""
    raise RuntimeError("a clip of equal steps exists only in traced graphs")


@every_step.register_fake
def _(clip: Tensor, steps: int, axis: int) -> Tensor:
    return torch.stack([clip] * steps, axis)


@torch.library.custom_op("spikefold::state", mutates_args=())
def state_marker(current: Tensor) -> Tensor:
    """Stand in for a membrane or a synaptic current that neurons hand out."""
    raise RuntimeError("a marker of a state exists only in traced graphs")


@state_marker.register_fake
def _(current: Tensor) -> Tensor:
    return torch.empty_like(current)


@dataclass(frozen=True)
class Repeated:
    """A tensor of a traced loop that is ``node`` at every index of ``axis``."""

    node: Node
    axis: int


@dataclass(frozen=True)
class Rounds:
    """A tuple that holds ``node`` once for every step."""

    node: Node


Folded: TypeAlias = Node | Repeated | Rounds


@dataclass(frozen=True)
class FoldedLoop:
    """One round of the loop, and whether its answer was stacked over the steps."""

    graph: Graph
    stacked: bool


def fold_steps(graph: Graph, steps: int) -> FoldedLoop:
    """Keep one of each operation that the rounds of a loop repeat, and of the outputs the one that is no state.

    Raises
    ------
    CaptureError
        An operation works on several steps at once, in a way that is no sum and no mean.
    """
    graph.eliminate_dead_code()
    return _Folder(steps).fold(graph)


class _Folder:
    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.graph = Graph()
        self.at: dict[Node, Folded] = {}
        self.known: dict[Any, Node] = {}
        self.multiples: dict[Node, tuple[Node, float]] = {}
        self.loops = False

    def fold(self, graph: Graph) -> FoldedLoop:
        stacked = False
        for node in graph.nodes:
            if node.op == "output":
                stacked = self._output(node)
            elif node.op == "placeholder":
                self.at[node] = self.graph.node_copy(node)
            elif not str(node.target).startswith("aten._assert"):
                self.at[node] = self._call(node)
        self.graph.eliminate_dead_code()
        return FoldedLoop(self.graph, stacked)

    def _output(self, node: Node) -> bool:
        answers = [self.at[n] for n in node.args[0] if isinstance(n, Node)]  # type: ignore[union-attr]
        nodes = [a if isinstance(a, Node) else a.node for a in answers]
        kept = [i for i, n in enumerate(nodes) if not _reads_state(n)] or [0]
        output = self.graph.output(tuple(nodes[i] for i in kept))
        output.meta = node.meta
        return isinstance(answers[kept[0]], Repeated)

    def _call(self, node: Node) -> Folded:
        args = [self._of(a) for a in node.args]
        name = str(node.target).partition(".")[2].partition(".")[0]
        if str(node.target).startswith("spikefold.every_step"):
            self.loops = True
            return Repeated(args[0], args[2])
        if name == "" and isinstance(args[0], Rounds):  # operator.getitem
            return args[0].node
        listed = args[0] if args and isinstance(args[0], list) else args
        repeated = [a for a in listed if isinstance(a, (Repeated, Rounds))]
        if repeated and isinstance(repeated[0], Repeated) and name:
            return self._of_repeated(node, name, args, repeated[0])
        if self.loops and name in ("stack", "cat") and len(listed) == self.steps and len(set(listed)) == 1:
            stacked = self._stacked(name, listed[0], args[1] if len(args) > 1 else 0)
            if stacked is not None:
                return stacked
        if self.loops and name == "add" and len(args) == 2 and not node.kwargs:
            total = self._sum(node, args)
            if total is not None:
                return total
        return self._emit(node, node.target, args)

    def _of(self, argument: Any) -> Any:
        if isinstance(argument, Node):
            return self.at[argument]
        if isinstance(argument, (list, tuple)):
            return [self._of(a) for a in argument]
        return argument

    def _emit(self, node: Node, target: Any, args: list[Any], changed: bool = False) -> Node:
        """One operation in the new graph, or the same one where it is there already."""
        kwargs = {name: self._of(value) for name, value in node.kwargs.items()}
        key = (target, _hashable(args), _hashable(kwargs))
        if key in self.known:
            return self.known[key]
        made = self.graph.call_function(target, tuple(args), kwargs)
        made.meta = dict(node.meta)
        if changed:
            made.meta["val"] = target(*_fake(args), **_fake(kwargs))
        self.known[key] = made
        return made

    def _stacked(self, name: str, part: Any, axis: int) -> Repeated | None:
        rank = _rank(part) + (1 if name == "stack" else 0)
        axis = int(axis) % rank
        if name == "stack":
            return Repeated(part, axis)
        lone = str(part.target) == "aten.unsqueeze.default" and int(part.args[1]) % rank == axis
        return Repeated(part.args[0], axis) if lone else None

    def _sum(self, node: Node, args: list[Any]) -> Node | None:
        """A sum over the rounds, added up one by one: so many times what one round made."""
        for one, other in (args, reversed(args)):
            nothing = other == 0 if isinstance(other, (int, float)) else _is_zeros(other)
            if isinstance(one, Node) and nothing and one.meta["val"].shape == node.meta["val"].shape:
                return one
        if not all(isinstance(a, Node) for a in args):
            return None
        (root, first), (same, second) = (self.multiples.get(a, (a, 1.0)) for a in args)
        if root is not same or not root.meta["val"].is_floating_point() or not _is_signal(root):
            return None
        return self._multiple(node, root, first + second)

    def _multiple(self, node: Node, root: Node, factor: float) -> Node:
        key = (aten.mul.Tensor, root, factor)
        if key not in self.known:
            made = self.graph.call_function(aten.mul.Tensor, (root, factor))
            made.meta = {**node.meta, "val": root.meta["val"]}
            self.known[key], self.multiples[made] = made, (root, factor)
        return self.known[key]

    def _of_repeated(self, node: Node, name: str, args: list[Any], value: Repeated) -> Folded:
        rank = _rank(value.node) + 1
        base, axis = value.node, value.axis
        if name == "select" and int(args[1]) % rank == axis:
            return base
        if name == "unbind" and int(args[1] if len(args) > 1 else 0) % rank == axis:
            return Rounds(base)
        if name in ("mean", "sum") and len(args) > 1 and args[1] is not None:
            axes = sorted(int(a) % rank for a in args[1])
            if axes == [axis]:
                once = base if name == "mean" else self._multiple(node, base, float(self.steps))
                return Repeated(once, axis) if len(args) > 2 and args[2] else once
        if name in ("transpose", "permute", "movedim"):
            moved = self._moved(name, args, rank, axis)
            if moved is not None:
                return Repeated(base, moved)
        if name == "linear" and axis < rank - 1:
            return Repeated(self._emit(node, node.target, [base, *args[1:]], changed=True), axis)
        alone = all(a is value or not isinstance(a, (Node, Repeated, Rounds)) for a in args)
        alike = all(isinstance(a, Repeated) and a.axis == axis and _rank(a.node) == rank - 1 for a in args[:2])
        if name in ELEMENTWISE and (alone or (alike and len(args) == 2)):
            on = [a.node if isinstance(a, Repeated) else a for a in args]
            return Repeated(self._emit(node, node.target, on, changed=True), axis)
        raise CaptureError(
            f"{where(node)} works on several steps at once; inside a loop over steps, work on one step, and then stack "
            "what the steps made, and take its sum or its mean"
        )

    def _moved(self, name: str, args: list[Any], rank: int, axis: int) -> int | None:
        """Where the repeated axis goes; None where other axes change their order."""
        functions: dict[str, Callable[..., Tensor]] = {
            "transpose": torch.transpose, "permute": torch.permute, "movedim": torch.movedim,
        }  # fmt: skip
        numbered = torch.empty(list(range(rank)), device="meta")  # an axis is as long as its number
        order = list(functions[name](numbered, *args[1:]).shape)
        rest = [n for n in order if n != axis]
        return order.index(axis) if rest == sorted(rest) else None


def _reads_state(node: Node) -> bool:
    seen, left = set(), [node]
    while left:
        one = left.pop()
        if str(one.target).startswith(STATE):
            return True
        if one not in seen and not str(one.target).startswith("spikefold.neuron"):
            seen.add(one)
            left += one.all_input_nodes
    return False


def _is_signal(node: Node) -> bool:
    """Whether ``node`` depends on the clip; constants are added up as they are."""
    seen, left = set(), [node]
    while left:
        one = left.pop()
        if str(one.target).startswith("spikefold."):
            return True
        if one not in seen:
            seen.add(one)
            left += one.all_input_nodes
    return False


def _is_zeros(value: Any) -> bool:
    return isinstance(value, Node) and str(value.target).partition(".")[2].partition(".")[0] in ZEROS


def _rank(node: Node) -> int:
    return len(node.meta["val"].shape)


def _fake(value: Any) -> Any:
    if isinstance(value, Node):
        return value.meta["val"]
    if isinstance(value, (list, tuple)):
        return [_fake(v) for v in value]
    return {k: _fake(v) for k, v in value.items()} if isinstance(value, dict) else value


def _hashable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(v) for v in value)
    if isinstance(value, dict):
        return tuple((k, _hashable(v)) for k, v in sorted(value.items()))
    return (type(value), value)
