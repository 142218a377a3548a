"""Sums of products of whole numbers in torch that are exact whatever the device and whatever its libraries choose.

A sum whose every partial sum a float holds is exact in any order of addition. So a matrix product is exact where
factors are not shortened (TF32, bfloat16), and a convolution where it is no other algorithm that divides and multiplies
on the way (Winograd, FFT), as cuDNN may choose: here it is windows side by side and a matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

MOST_AT_ONCE = 2**27
"""Numbers that windows laid side by side may take at a time."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 matrix products of full float32 factors, whatever a user has allowed for training."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def convolve(x: Tensor, weight: Tensor, attributes: Mapping[str, Any]) -> Tensor:
    """2-D cross-correlation of ``x`` ``[N, C, H, W]`` with ``weight`` ``[O, C/groups, kh, kw]``, as matrix products.

    ``attributes`` are ``stride``, ``padding``, ``dilation`` (pairs) and ``groups`` of `torch.nn.functional.conv2d`.
    """
    stride, padding, dilation = attributes["stride"], attributes["padding"], attributes["dilation"]
    groups, kernel = attributes["groups"], tuple(weight.shape[2:])
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(x.shape[2:], padding, dilation, kernel, stride, strict=True)
    )
    rows = weight.reshape(groups, len(weight) // groups, -1)
    frames = max(1, MOST_AT_ONCE // (x.shape[1] * kernel[0] * kernel[1] * height * width))
    parts = []
    for part in torch.split(x, frames):
        windows = functional.unfold(part, kernel, dilation, padding, stride)
        parts.append(rows @ windows.reshape(len(part), groups, rows.shape[2], height * width))
    return torch.cat(parts).reshape(len(x), len(weight), height, width)


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """Matrix product of int64 tensors; CUDA has none, so there it is products and their sum."""
    if x.device.type == "cpu":
        return x @ weight
    return sum_of_products(x, weight)


def sum_of_products(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight`` of tensors of at least two axes, product by product."""
    return (x.unsqueeze(-1) * weight.unsqueeze(-3)).sum(-2)
