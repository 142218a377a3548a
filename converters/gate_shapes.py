"""Shapes of the values of a gate program: what fits together, and what does not."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.gate_program import GateProgram, Step
from spikefold.converters.plain_fields import MAX_VALUES
from spikefold.errors import LoweringError

Shape = tuple[int, ...]


def value_shapes(program: GateProgram, batch: int) -> list[Shape]:
    """Shapes of all values of a gate program (value 0 is the current) for clips of ``batch`` samples.

    Raises
    ------
    LoweringError
        Shapes that do not fit together; the message names the step.
    """
    shapes: list[Shape] = [tuple(batch if n == -1 else n for n in program.input_shape)]
    for number, step in enumerate(program.steps):
        try:
            shapes.append(_shape(step, [shapes[i] for i in step.inputs]))
        except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError) as error:
            given = [shapes[i] for i in step.inputs if i < len(shapes)]
            raise LoweringError(
                f"gate step {number} ({step.op}): inputs of shape {given} do not fit {dict(step.attributes)}: {error}"
            ) from error
        if not 1 <= math.prod(shapes[-1]) <= MAX_VALUES:
            raise LoweringError(f"gate step {number} ({step.op}): gives a value of shape {shapes[-1]}")
    return shapes


def reduced_axes(step: Step, rank: int) -> tuple[int, ...]:
    """Axes that a step reduces, of a value with so many axes, counted from the front."""
    given = step.attributes["axes"]
    axes = (given,) if isinstance(given, int) else given
    counted = tuple(a % rank for a in axes)
    if any(not -rank <= a < rank for a in axes) or len(set(counted)) < len(counted):
        raise IndexError(f"axes {axes} of a value with {rank}")
    return counted


def _shape(step: Step, given: list[Shape]) -> Shape:
    a, first = step.attributes, given[0]
    constant = np.shape(() if step.constant is None else np.asarray(step.constant))
    match step.op:
        case "conv2d":
            return _conv_shape(step, first)
        case "sum" | "max":
            axes = reduced_axes(step, len(first))
            return tuple(1 if i in axes else n for i, n in enumerate(first) if a["keepdim"] or i not in axes)
        case "matmul":
            return _matmul_shape(first, constant)
        case "reshape":
            return _hollow(first).reshape(a["shape"]).shape
        case "permute":
            return _hollow(first).transpose(a["axes"]).shape
        case "slice":
            index = [slice(None)] * len(first)
            index[a["axis"]] = slice(a["start"], a["stop"])
            return _hollow(first)[tuple(index)].shape
        case "broadcast":
            have = (1,) * (len(a["shape"]) - len(first)) + first
            return np.broadcast_shapes(tuple(h if w == -1 else w for w, h in zip(a["shape"], have, strict=True)), first)
        case "concat":
            return np.concatenate([_hollow(s) for s in given], axis=a["axis"]).shape
        case "add" | "subtract" | "multiply" | "shift_divide":
            return np.broadcast_shapes(*given)
        case "multiply_const" | "add_const":
            return np.broadcast_shapes(first, constant)
        case "table":
            return constant
        case "look_up" if len(constant) != 1:
            raise ValueError(f"a table of shape {constant}")
        case _:
            return first


def _matmul_shape(first: Shape, constant: Shape) -> Shape:
    if min(len(first), len(constant)) < 2 or first[-1] != constant[-2]:
        raise ValueError(f"a matrix of shape {constant}")
    return (*np.broadcast_shapes(first[:-2], constant[:-2]), first[-2], constant[-1])


def _hollow(shape: Shape) -> NDArray[np.int8]:
    return np.zeros(shape, dtype=np.int8)


def _conv_shape(step: Step, first: Shape) -> Shape:
    a = step.attributes
    n, channels, *size = first
    out, per_group, *kernel = np.shape(np.asarray(step.constant))
    if per_group * a["groups"] != channels:
        raise ValueError(f"kernel of {per_group} x {a['groups']} channels on {channels} channels")
    steps = zip(size, kernel, a["padding"], a["dilation"], a["stride"], strict=True)
    return (n, out, *((m + 2 * p - d * (k - 1) - 1) // s + 1 for m, k, p, d, s in steps))
