"""The two layouts of a population: ``[C, H, W]`` in the graph, ``[H, W, C]`` in Lava. Other ranks are the same in both.

Lava's convolution kernels are ``[O, x, y, I]``, with x our rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def lava_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in Lava of a population or input port of this ``shape``."""
    return tuple(shape[i] for i in _to_lava(len(shape)))


def into_lava(array: NDArray[Any], leading: int = 0) -> NDArray[Any]:
    """Bring ``[..., *shape]``, with so many ``leading`` axes that stay, into Lava's layout."""
    return array.transpose(*range(leading), *(leading + i for i in _to_lava(array.ndim - leading)))


def into_graph(array: NDArray[Any], leading: int = 0) -> NDArray[Any]:
    """Undo `into_lava`."""
    axes = np.argsort(_to_lava(array.ndim - leading))
    return array.transpose(*range(leading), *(leading + int(i) for i in axes))


def lava_order(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """For each place of a flattened population of this ``shape`` in Lava's layout, its place in the graph's."""
    return into_lava(np.arange(int(np.prod(shape))).reshape(shape)).reshape(-1)


def merge_groups(weight: NDArray[np.int64], groups: int, fewer: int) -> NDArray[np.int64]:
    """Rewrite a kernel ``[O, I/groups, kh, kw]`` for ``fewer`` groups (a divisor), with zeros between the old ones."""
    ratio = groups // fewer
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    merged = np.zeros((weight.shape[0], inputs * ratio, *weight.shape[2:]), dtype=weight.dtype)
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        start = group % ratio * inputs
        merged[rows, start : start + inputs] = weight[rows]
    return merged


def _to_lava(rank: int) -> tuple[int, ...]:
    return (1, 2, 0) if rank == 3 else tuple(range(rank))
