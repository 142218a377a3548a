"""Convolutions as NIR's readers can take them: one group, a square kernel; the same numbers come out."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.fixed_point_graph import Synapse
from spikefold.errors import LoweringError

Kernel: TypeAlias = NDArray[np.float32]


def ungrouped(weight: Kernel, groups: int) -> Kernel:
    """The same kernel in one group: nir 1.0.8 takes a grouped one's input to have ``weight.shape[1]`` channels."""
    outputs, inputs = len(weight) // groups, weight.shape[1]
    full = np.zeros((len(weight), inputs * groups, *weight.shape[2:]), dtype=weight.dtype)
    for g in range(groups):
        rows = slice(g * outputs, (g + 1) * outputs)
        full[rows, g * inputs : (g + 1) * inputs] = weight[rows]
    return full


def squared(synapse: Synapse, weight: Kernel, source: tuple[int, ...]) -> tuple[Kernel, tuple[int, int]]:
    """The same convolution of maps of shape ``source`` with a square kernel, and its padding.

    nir 1.0.8 infers shapes as if every kernel were square. Zeros before the kernel are made up for by as much padding;
    those behind it must not change the size of the output, which holds where there are as many, and with a stride
    sometimes where there is one more or less.

    Raises
    ------
    LoweringError
        No place for the zeros leaves the output as it was.
    """
    side = max(weight.shape[2:])
    before, padding = [], []
    for axis in (0, 1):
        length, d, p, s = weight.shape[2 + axis], synapse.dilation[axis], synapse.padding[axis], synapse.stride[axis]
        room = source[1 + axis] + 2 * p - d * (length - 1) - 1
        rim = side - length
        fitting = [z for z in range(rim + 1) if (room + d * (2 * z - rim)) // s == room // s]
        if not fitting:
            raise LoweringError(
                f"synapse {synapse.name!r}: kernel {weight.shape[2]} x {weight.shape[3]} has no square form for NIR; "
                "make its sides differ by an even number"
            )
        zeros = min(fitting, key=lambda z: abs(2 * z - rim))
        before.append(zeros)
        padding.append(p + d * zeros)
    pads = [(z, side - length - z) for z, length in zip(before, weight.shape[2:], strict=True)]
    return np.pad(weight, ((0, 0), (0, 0), *pads)), (padding[0], padding[1])
