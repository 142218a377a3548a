"""Convolution and matrix product of integers that are exact by proof.

CPU kernels for convolutions exist in float32 only. Every partial sum of integers is exact in float32 while
``sum(|w|) * max|x|`` stays below 2**24 for each output. Where it does not, x is split into digits of k bits,
``x = d0 + d1 * 2**k + ...`` (the last digit keeps the sign), each digit is convolved exactly, and the results are put
together in int64. Matrix products that are too large run in int64, which has a kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from spikefold.converters import ranges
from spikefold.converters.onnx.emitter import Emitter
from spikefold.errors import LoweringError

FLOAT32_EXACT = 2**24


def fits_float32(weight: NDArray[np.int64], bounds: ranges.Range) -> bool:
    """Whether weighted sums of values in ``bounds`` are exact in float32."""
    return ranges.absolute_sum(weight) * ranges.magnitude(bounds) < FLOAT32_EXACT


def convolve_float(e: Emitter, x: str, weight: NDArray[np.int64], scale: int, attributes: dict[str, Any]) -> str:
    """Convolve float32 ``x`` with ``weight * 2**scale`` in float32; exact where `fits_float32` says so."""
    kernel = e.constant(np.ldexp(weight.astype(np.float64), scale), np.float32)
    (top, left), (stride, dilation) = attributes["padding"], (attributes["stride"], attributes["dilation"])
    return e.op(
        "Conv", x, kernel, strides=list(stride), pads=[top, left, top, left], dilations=list(dilation),
        group=int(attributes["groups"]),
    )  # fmt: skip


def convolve_int64(
    e: Emitter,
    x: str,
    weight: NDArray[np.int64],
    bounds: ranges.Range,
    scale: int,
    attributes: dict[str, Any],
    where: str,
) -> str:
    """Convolve int64 ``x`` with values in ``bounds`` by digits.

    Parameters
    ----------
    e : Emitter
        Where the nodes go.
    x : str
        Name of an int64 tensor ``[N, C, H, W]``.
    weight : int64 array ``[O, C/groups, kh, kw]``
        Multiplied by ``2**scale``.
    bounds : pair of int
        Proved range of ``x``.
    attributes : dict
        stride, padding, dilation and groups.
    where : str
        What an error names.

    Returns
    -------
    str
        Name of the int64 result.

    Raises
    ------
    LoweringError
        The weights alone add up to 2**24 or more, so no digit is small enough.
    """
    total = ranges.absolute_sum(weight)
    if total >= FLOAT32_EXACT:
        raise LoweringError(
            f"{where}: the weights of one output add up to {total}, at or above {FLOAT32_EXACT}: "
            "a convolution has no exact ONNX kernel for that; use smaller weights or a smaller fan-in"
        )
    bits = (FLOAT32_EXACT // max(1, total)).bit_length() - 1
    parts: list[str] = []
    done = 0
    while not fits_float32(weight, bounds):
        digit = e.op("Mod", x, e.constant(2**bits))
        parts.append(_convolve_digit(e, digit, weight, scale, attributes, done))
        x = e.op("Div", e.op("Sub", x, digit), e.constant(2**bits))
        bounds, done = (bounds[0] >> bits, bounds[1] >> bits), done + bits
    parts.append(_convolve_digit(e, x, weight, scale, attributes, done))
    return add_all(e, parts)


def matmul_int64(e: Emitter, x: str, weight: NDArray[np.int64]) -> str:
    """Matrix product of int64 ``x`` ``[..., I]`` and ``weight`` ``[I, O]``."""
    return e.op("MatMul", x, e.constant(weight))


def add_all(e: Emitter, values: list[str]) -> str:
    """Sum of one or more tensors."""
    total = values[0]
    for value in values[1:]:
        total = e.op("Add", total, value)
    return total


def _convolve_digit(
    e: Emitter, digit: str, weight: NDArray[np.int64], scale: int, attributes: dict[str, Any], place: int
) -> str:
    out = e.cast(convolve_float(e, e.cast(digit, TensorProto.FLOAT), weight, scale, attributes), TensorProto.INT64)
    return e.op("Mul", out, e.constant(2**place)) if place else out
