"""Where a gate program mixes time steps, and the program that says of each step only what the steps up to it tell.

The walk follows the axes of every value from the current ``[T, B, *features]`` on, and writes each value anew as
``[T, B, *rest]``: also what was reduced over time keeps a time axis, which holds the reduction up to each step. What
works within a step stays; what mixes steps becomes

=====================  =============================================================================
over T                 up to step t (from 0)
=====================  =============================================================================
sum                    running sum times ``T / (t + 1)``, so that a mean stays a mean
maximum                running maximum
matrix ``[T, T]``      its triangle: an output reads the inputs of steps up to its own
matrices ``[T, R, T]`` the sums of R running; of the second matrix, the column of the step
k largest              1 where the step is among the ``ceil(k (t + 1) / T)`` largest so far
=====================  =============================================================================

A gate that needs nothing of this already streams: it can multiply a current in the step in which it arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.gate_program import GateProgram, Step
from spikefold.errors import LoweringError

Label = int | str
"""What an axis is: "T", "B", both merged ("TB", "BT"), or a feature axis of so many entries."""

BATCH = 1009
"""Stands for the batch where sizes are compared: a prime that no product of features meets by chance."""
WITHIN_A_STEP = frozenset({"scale", "offset", "function", "relu", "clip", "rescale", "look_up", "square_root"})
PAIRWISE = frozenset({"add", "subtract", "multiply", "divide", "shift_divide"})


@dataclass(frozen=True)
class RunningState:
    """What a streaming gate keeps from step to step for one clip: words, and how often they are written or read."""

    words: int
    accesses: int


@dataclass(frozen=True)
class _Value:
    """The value ``index`` of the new program, shaped ``[T, B, *features]``; ``axes`` says how the old one lay."""

    index: int
    axes: tuple[Label, ...]
    features: tuple[int, ...]


def causal_program(program: GateProgram) -> GateProgram:
    """The program that reads, for the gate of each step, only the currents up to it; see the module's text.

    Raises
    ------
    LoweringError
        A step mixes time in a way that has no causal form; the message names it.
    """
    if program.time_steps == 1:
        return program
    walk = _Walk(program)
    return GateProgram(program.input_shape, tuple(walk.steps), program.time_steps)


def running_state(program: GateProgram) -> RunningState | None:
    """What ``program``, of either dialect, keeps from step to step; None where a gate waits for later steps.

    A running sum or maximum is a word each, read and written every step. A rank, and a matrix over time, read the
    values of all steps so far.
    """
    if program.time_steps == 1:
        return RunningState(0, 0)
    try:
        walk = _Walk(program)
    except LoweringError:
        return None
    return None if walk.mixed else RunningState(walk.words, walk.accesses)


class _Hidden(int):
    """Size of an axis that a matrix has made of time: another matrix may make time of it again."""


class _Walk:
    """Writes ``program`` anew, step by step; ``mixed`` says whether a step read later ones."""

    def __init__(self, program: GateProgram) -> None:
        self.time_steps = program.time_steps
        self.steps: list[Step] = []
        self.mixed = False
        self.words = self.accesses = 0
        self._arranged: dict[tuple[int, tuple[int, ...]], int] = {}
        self._step, self._number = program.steps[0] if program.steps else Step("", ()), 0
        features = tuple(program.input_shape[2:])
        values = [_Value(0, ("T", "B", *features), features)]
        for self._number, self._step in enumerate(program.steps):
            values.append(self._write([values[i] for i in self._step.inputs]))
        self._end(values[-1], len(program.input_shape))

    def _refuse(self, why: str) -> NoReturn:
        raise LoweringError(
            f"gate step {self._number} ({self._step.op}): {why}, which has no causal form: use another attention mode"
        )

    def _emit(self, op: str, *inputs: int, constant: NDArray[Any] | None = None, **attributes: Any) -> int:
        self.steps.append(Step(op, inputs, attributes, constant))
        return len(self.steps)

    def _arrange(self, x: _Value, features: Sequence[int]) -> int:
        """Give the value these feature axes, which hold the same entries in the same order."""
        wanted = tuple(features)
        if x.features == wanted:
            return x.index
        if (x.index, wanted) not in self._arranged:
            self._arranged[x.index, wanted] = self._emit("reshape", x.index, shape=(self.time_steps, -1, *wanted))
        return self._arranged[x.index, wanted]

    def _view(self, x: _Value) -> int:
        """The value with its feature axes as they lie in the old program."""
        return self._arrange(x, _features(x.axes))

    def _end(self, x: _Value, rank: int) -> None:
        axes = (1,) * (rank - len(x.axes)) + x.axes
        if axes[0] not in ("T", 1) or axes[1] not in ("B", 1) or any(isinstance(a, str) for a in axes[2:]):
            self._refuse(f"the gate ends with axes {axes}, not time, batch and features")
        shape = _features(axes[2:])
        if self._arrange(x, shape) != len(self.steps) or not self.steps:
            self._emit("reshape", x.index, shape=(self.time_steps, -1, *shape))

    def _write(self, inputs: list[_Value]) -> _Value:
        op, x = self._step.op, inputs[0]
        if op in WITHIN_A_STEP:
            return replace(x, index=self._emit(op, x.index, constant=self._step.constant, **self._step.attributes))
        if op in PAIRWISE:
            axes, indices = self._together(inputs)
            return _Value(self._emit(op, *indices, **self._step.attributes), axes, _features(axes))
        if op not in _RULES:
            self._refuse("it mixes values in a way of its own")
        return _RULES[op](self, inputs)

    def _together(self, values: list[_Value]) -> tuple[tuple[Label, ...], list[int]]:
        """Axes of what values are broadcast to, and the values arranged for it."""
        rank = max(len(v.axes) for v in values)
        rows = [(1,) * (rank - len(v.axes)) + v.axes for v in values]
        axes: list[Label] = []
        for labels in zip(*rows, strict=True):
            different = set(labels) - {1}
            if len(different) > 1:
                self._refuse(f"it puts axes {tuple(labels)} together")
            axes.append(different.pop() if different else 1)
        if sum("T" in str(a) for a in axes) > 1 or sum("B" in str(a) for a in axes) > 1:
            self._refuse(f"it puts time or batch on two axes {tuple(axes)}")
        kept = [i for i, a in enumerate(axes) if isinstance(a, int)]
        wanted = [tuple(int(row[i]) for i in kept) for row in rows]
        return tuple(axes), [self._arrange(v, features) for v, features in zip(values, wanted, strict=True)]

    def _keep(self, x: _Value, steps: int) -> None:
        """Count the words that stay: one a feature that each step reads and writes, or one a step, read ever after."""
        each = prod(x.features)
        self.words += each * steps
        self.accesses += each * (2 * self.time_steps if steps == 1 else steps * (steps + 1) // 2)

    def _axis(self, x: _Value, axis: int) -> tuple[Label, int, int]:
        """What an axis of the old program is, its position there, and where it lies in the new one."""
        position = axis % len(x.axes)
        return x.axes[position], position, 2 + len(_features(x.axes[:position]))

    def _repeats(self, axes: tuple[Label, ...], position: int, size: int) -> bool:
        """Whether spreading axis ``position`` to ``size`` says what was known of all steps at each of them."""
        alone = not any("T" in str(a) for a in axes)
        return alone and size == self.time_steps and position == 0 and axes[1:2] == ("B",)

    def reduce(self, inputs: list[_Value]) -> _Value:
        (x,), a = inputs, self._step.attributes
        axes = (a["axes"],) if isinstance(a["axes"], int) else a["axes"]
        found = [self._axis(x, axis) for axis in axes]
        if any("B" in str(label) for label, _, _ in found):
            self._refuse(f"it reduces the axis {[label for label, _, _ in found]} that holds the batch")
        index, features = self._view(x), _features(x.axes)
        within = tuple(new for label, _, new in found if label != "T")
        if within:
            index = self._emit(self._step.op, index, axes=within, keepdim=False)
            features = tuple(n for i, n in enumerate(features) if i + 2 not in within)
        if len(within) < len(found):
            self.mixed = True
            if self._step.op == "sum":
                share = self.time_steps / np.arange(1, self.time_steps + 1).reshape(-1, 1, *[1] * len(features))
                index = self._emit("multiply_const", self._emit("running_sum", index), constant=share)
            else:
                index = self._emit("running_max", index)
        gone = {position for _, position, _ in found}
        kept = [1 if i in gone else label for i, label in enumerate(x.axes) if a["keepdim"] or i not in gone]
        return _Value(index, tuple(kept), features)

    def running(self, inputs: list[_Value]) -> _Value:
        (x,) = inputs
        if x.axes[0] != "T":
            self._refuse(f"it goes along the axis {x.axes[0]}, not along time")
        self._keep(x, self.time_steps if self._step.op == "running_topk_mask" else 1)
        return replace(x, index=self._emit(self._step.op, x.index, **self._step.attributes))

    def top_k(self, inputs: list[_Value]) -> _Value:
        (x,), a = inputs, self._step.attributes
        label, _, new = self._axis(x, a["axis"])
        if label == "T":
            self.mixed = True
            return replace(x, index=self._emit("running_topk_mask", x.index, k=a["k"]))
        if isinstance(label, str):
            self._refuse(f"it ranks the axis {label} that holds the batch")
        return _Value(self._emit("topk_mask", self._view(x), k=a["k"], axis=new), x.axes, _features(x.axes))

    def matmul(self, inputs: list[_Value]) -> _Value:
        (x,), weight = inputs, np.asarray(self._step.constant)
        label, features = x.axes[-1], _features(x.axes)
        if weight.ndim == 2 and label == "T" and weight.shape[1] != self.time_steps:
            return self._from_time(x, weight)
        if weight.ndim == 2 and isinstance(label, _Hidden) and weight.shape[1] == self.time_steps:
            index = self._emit("multiply_const", self._view(x), constant=self._by_step(weight.T, len(features) - 1))
            index = self._emit("sum", index, axes=(len(features) + 1,), keepdim=False)
            return _Value(index, (*x.axes[:-1], "T"), features[:-1])
        if isinstance(label, int) and weight.ndim == 2:
            axes = (*x.axes[:-1], type(label)(weight.shape[1]))
            return _Value(self._emit("matmul", self._view(x), constant=weight), axes, _features(axes))
        if label != "T" or weight.shape != (self.time_steps,) * 2:
            self._refuse(f"a matrix {weight.shape} reads the axis {label}")
        self.mixed = self.mixed or bool(np.tril(weight, -1).any())
        self._keep(x, self.time_steps)
        last = len(features) + 1
        index = self._emit("permute", self._view(x), axes=(*range(1, last + 1), 0))
        index = self._emit("matmul", index, constant=np.triu(weight))
        return _Value(self._emit("permute", index, axes=(last, *range(last))), x.axes, features)

    def _from_time(self, x: _Value, weight: NDArray[Any]) -> _Value:
        """Weighted sums over time, of the steps so far."""
        self.mixed = True
        axes = (*x.axes[:-1], _Hidden(weight.shape[1]))
        features = _features(axes)
        self._keep(replace(x, features=features), 1)
        index = self._arrange(x, (*features[:-1], 1))
        index = self._emit("multiply_const", index, constant=self._by_step(weight, len(features) - 1))
        return _Value(self._emit("running_sum", index), axes, features)

    def _by_step(self, weight: NDArray[Any], features: int) -> NDArray[Any]:
        """Weights ``[T, R]`` as a constant for values of so many features before their last axis, R."""
        return weight.reshape(self.time_steps, 1, *[1] * features, weight.shape[1])

    def conv2d(self, inputs: list[_Value]) -> _Value:
        (x,), a, weight = inputs, self._step.attributes, np.asarray(self._step.constant)
        if len(x.axes) != 4 or "B" not in str(x.axes[0]) or any(isinstance(n, str) for n in x.axes[1:]):
            self._refuse(f"it convolves axes {x.axes}, not images of one step")
        index = self._emit("reshape", x.index, shape=(-1, *_features(x.axes)))
        index = self._emit("conv2d", index, constant=weight, **a)
        ends = zip(_features(x.axes)[1:], weight.shape[2:], a["padding"], a["dilation"], a["stride"], strict=True)
        features = (weight.shape[0], *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, d, s in ends))
        index = self._emit("reshape", index, shape=(self.time_steps, -1, *features))
        return _Value(index, (x.axes[0], *features), features)

    def constant(self, inputs: list[_Value]) -> _Value:
        (x,), constant = inputs, np.asarray(self._step.constant)
        if constant.size == 1:
            return replace(x, index=self._emit(self._step.op, x.index, constant=constant.reshape(1)))
        rank = max(len(x.axes), constant.ndim)
        row = (1,) * (rank - len(x.axes)) + x.axes
        sizes = (1,) * (rank - constant.ndim) + constant.shape
        axes: list[Label] = []
        for position, (label, n) in enumerate(zip(row, sizes, strict=True)):
            if n > 1 and "B" in str(label):
                self._refuse(f"its constant differs along the axis {label} that holds the batch")
            spread: Label = "T" if self._repeats(row, position, n) else n
            axes.append(spread if label == 1 and n > 1 else label)
        time = sizes[axes.index("T")] if "T" in axes else 1
        order = [i for i, a in enumerate(axes) if isinstance(a, str)] + [
            i for i, a in enumerate(axes) if isinstance(a, int)
        ]
        laid = constant.reshape(sizes).transpose(order)
        kept = [i for i, a in enumerate(axes) if isinstance(a, int)]
        laid = laid.reshape(time, 1, *(sizes[i] for i in kept))
        index = self._arrange(x, [int(row[i]) for i in kept])
        return _Value(self._emit(self._step.op, index, constant=laid), tuple(axes), _features(axes))

    def table(self, inputs: list[_Value]) -> _Value:
        constant = np.asarray(self._step.constant)
        features = constant.shape[2:]
        return _Value(self._emit("table", inputs[0].index, constant=constant), ("T", "B", *features), features)

    def permute(self, inputs: list[_Value]) -> _Value:
        (x,) = inputs
        order = [int(a) % len(x.axes) for a in self._step.attributes["axes"]]
        axes = tuple(x.axes[i] for i in order)
        moved = [self._axis(x, i)[2] for i in order if isinstance(x.axes[i], int)]
        if moved == sorted(moved):
            return replace(x, axes=axes)
        return _Value(self._emit("permute", self._view(x), axes=(0, 1, *moved)), axes, _features(axes))

    def broadcast(self, inputs: list[_Value]) -> _Value:
        (x,), shape = inputs, self._step.attributes["shape"]
        row = (1,) * (len(shape) - len(x.axes)) + x.axes
        spread = [label == 1 and n > 1 for label, n in zip(row, shape, strict=True)]
        axes: list[Label] = [
            ("T" if self._repeats(row, i, n) else int(n)) if spread[i] else row[i] for i, n in enumerate(shape)
        ]
        index = self._arrange(x, [int(row[i]) for i, a in enumerate(axes) if isinstance(a, int)])
        if any(isinstance(a, int) and s for a, s in zip(axes, spread, strict=True)):
            index = self._emit("broadcast", index, shape=(self.time_steps, -1, *_features(axes)))
        return _Value(index, tuple(axes), _features(axes))

    def slice(self, inputs: list[_Value]) -> _Value:
        (x,), a = inputs, self._step.attributes
        label, position, new = self._axis(x, a["axis"])
        if isinstance(label, str):
            self._refuse(f"it cuts the axis {label}")
        index = self._emit("slice", self._view(x), axis=new, start=a["start"], stop=a["stop"])
        size = len(range(label)[a["start"] : a["stop"]])
        axes = (*x.axes[:position], size, *x.axes[position + 1 :])
        return _Value(index, axes, _features(axes))

    def concat(self, inputs: list[_Value]) -> _Value:
        label, position, new = self._axis(inputs[0], self._step.attributes["axis"])
        others = {(*v.axes[:position], *v.axes[position + 1 :]) for v in inputs}
        sizes = [v.axes[position] for v in inputs]
        if len(others) > 1 or any(isinstance(n, str) for n in sizes):
            self._refuse(f"it joins axes {[v.axes for v in inputs]} along {label}")
        axes = (*inputs[0].axes[:position], sum(int(n) for n in sizes), *inputs[0].axes[position + 1 :])
        return _Value(self._emit("concat", *[self._view(v) for v in inputs], axis=new), axes, _features(axes))

    def reshape(self, inputs: list[_Value]) -> _Value:
        """Only the labels change: time and batch may merge or part, features may; time and features may not."""
        (x,) = inputs
        size = {"T": self.time_steps, "B": BATCH, "TB": self.time_steps * BATCH, "BT": self.time_steps * BATCH}
        have = [(a, a if isinstance(a, int) else size[a]) for a in x.axes if a != 1]
        shape = [int(n) for n in self._step.attributes["shape"]]
        free = prod(n for _, n in have) // prod(n for n in shape if n != -1)
        want = [free if n == -1 else n for n in shape]
        axes: list[Label] = []
        at = 0
        while at < len(want):
            if want[at] == 1:
                axes.append(1)
                at += 1
                continue
            group: list[Label] = []
            inside: list[int] = []
            taken = reached = 1
            while not inside or taken != reached:
                if not group or (inside and taken < reached):
                    if not have:
                        self._refuse(f"axes {x.axes} do not fit the shape {tuple(shape)}")
                    label, n = have.pop(0)
                    group.append(label)
                    taken *= n
                else:
                    if at == len(want):
                        self._refuse(f"axes {x.axes} do not fit the shape {tuple(shape)}")
                    inside.append(want[at])
                    reached *= want[at]
                    at += 1
            axes += self._regroup(group, inside)
        return replace(x, axes=tuple(axes))

    def _regroup(self, group: list[Label], sizes: list[int]) -> list[Label]:
        """What axes ``sizes`` are that a group of axes becomes."""
        if all(isinstance(a, int) for a in group):
            return list(sizes)
        names = "".join(str(a) for a in group)
        if len(group) == len(sizes) == 1 or (len(sizes) == 1 and names in ("TB", "BT")):
            return [names]
        apart = [n for n in sizes if n != 1]
        if names in ("TB", "BT") and apart == [self.time_steps if a == "T" else BATCH for a in names]:
            labels = iter(names)
            return [1 if n == 1 else next(labels) for n in sizes]
        self._refuse(f"it turns axes {tuple(group)} into {tuple(sizes)}, merging time or batch with features")


def _features(axes: Sequence[Label]) -> tuple[int, ...]:
    return tuple(a for a in axes if isinstance(a, int))


_RULES: dict[str, Callable[[_Walk, list[_Value]], _Value]] = {
    "sum": _Walk.reduce,
    "max": _Walk.reduce,
    **dict.fromkeys(("running_sum", "running_max", "running_topk_mask"), _Walk.running),
    "topk_mask": _Walk.top_k,
    "matmul": _Walk.matmul,
    "conv2d": _Walk.conv2d,
    **dict.fromkeys(("multiply_const", "add_const"), _Walk.constant),
    "table": _Walk.table,
    "permute": _Walk.permute,
    "broadcast": _Walk.broadcast,
    "slice": _Walk.slice,
    "concat": _Walk.concat,
    "reshape": _Walk.reshape,
}
