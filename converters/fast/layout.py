"""The order in which the fast engine keeps a population: channels last, so that convolutions find them side by side."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Scalar = TypeVar("Scalar", bound=np.generic)


def flat(values: NDArray[Scalar], shape: tuple[int, ...]) -> NDArray[Scalar]:
    """Bring ``[..., *shape]`` into ``[..., N]`` of a population of ``shape``: ``[H, W, C]`` where it has three axes."""
    lead = values.shape[: values.ndim - len(shape)]
    last = np.moveaxis(values, -3, -1) if len(shape) == 3 else values
    return np.ascontiguousarray(last.reshape(*lead, -1))


def unflat(values: NDArray[Scalar], shape: tuple[int, ...]) -> NDArray[Scalar]:
    """Inverse of `flat`; a view."""
    lead = values.shape[:-1]
    if len(shape) != 3:
        return values.reshape(*lead, *shape)
    return np.moveaxis(values.reshape(*lead, *shape[1:], shape[0]), -1, -3)


def per_neuron(values: NDArray[np.int64] | int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Broadcast one number, or an array, to ``[N]`` of a population."""
    return flat(np.broadcast_to(np.asarray(values, dtype=np.int64), shape), shape)


def frames(messages: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Frames ``[T * B, C, H, W]`` of messages ``[T, B, N]``, as a convolution reads them; a view.

    One channel gets the strides of ``[C, H, W]``: with those of ``[H, W, C]``, which are the same memory, torch 2.13
    adds some strided convolutions up wrongly.
    """
    channels, height, width = shape
    if channels == 1:
        return messages.reshape(-1, 1, height, width)
    return messages.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
