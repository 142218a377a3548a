"""Integer operations that are exact by proof, spelled so that ONNX Runtime's CPU kernels get them right.

*Convolutions* have kernels in float32 only. Every partial sum of integers is exact in float32 while
``sum(|w|) * max|x|`` stays below 2**24 for each output. Where it does not, x is split into digits of k bits,
``x = d0 + d1 * 2**k + ...`` (the last digit keeps the sign), each digit is convolved exactly, and the results are put
together in int64. *Matrix products* that are too large run in int64, which has a kernel.

Two int64 kernels are not what they seem (seen in ONNX Runtime 1.31 on x86-64 with values beyond 32 bits):

- ``Clip``, ``Min``, ``Max``, ``Sign`` and ``ReduceMax`` compare wrongly (microsoft/onnxruntime pull request 32475), so
  bounds are spelled with ``Less``/``Greater`` and ``Where``, and maxima run in int32 or with ``TopK``;
- ``ReduceSum`` adds in float64, so sums that could pass 2**53 are split into digits too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from spikefold.converters import ranges
from spikefold.converters.onnx.emitter import Emitter
from spikefold.errors import LoweringError

FLOAT32_EXACT = 2**24
FLOAT64_EXACT = 2**53


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
    parts = []
    for digit, place in _digits(e, x, bounds, bits, lambda rest: fits_float32(weight, rest)):
        out = convolve_float(e, e.cast(digit, TensorProto.FLOAT), weight, scale, attributes)
        parts.append(_shift_left(e, e.cast(out, TensorProto.INT64), place))
    return add_all(e, parts)


def reduce_sum(e: Emitter, x: str, axes: list[int], count: int, bounds: ranges.Range, *, keep: bool) -> str:
    """Sum of int64 ``x`` over ``axes``, which hold ``count`` values in ``bounds``."""
    bits = (FLOAT64_EXACT // count).bit_length() - 1
    parts = []
    for digit, place in _digits(e, x, bounds, bits, lambda rest: count * ranges.magnitude(rest) < FLOAT64_EXACT):
        out = e.op("ReduceSum", digit, e.constant(axes), keepdims=int(keep))
        parts.append(_shift_left(e, out, place))
    return add_all(e, parts)


def reduce_max(e: Emitter, x: str, axes: list[int], bounds: ranges.Range, *, keep: bool) -> str:
    """Maximum of int64 ``x`` in ``bounds`` over ``axes``."""
    if ranges.magnitude(bounds) <= ranges.INT32_MAX:
        narrow = e.op("ReduceMax", e.cast(x, TensorProto.INT32), e.constant(axes), keepdims=int(keep))
        return e.cast(narrow, TensorProto.INT64)
    for axis in axes:
        names = (e.new_name("largest"), e.new_name("index"))
        x, _ = e.ops("TopK", x, e.constant([1]), names=names, axis=axis, largest=1, sorted=1)
    return x if keep else e.op("Squeeze", x, e.constant(axes))


def clamp(e: Emitter, x: str, bounds: ranges.Range, low: int, high: int) -> str:
    """``min(max(x, low), high)`` of int64 ``x`` in ``bounds``; a side that the range excludes is left out."""
    if bounds[0] < low:
        end = e.constant(low)
        x = e.op("Where", e.op("Less", x, end), end, x)
    if max(low, bounds[1]) > high:
        end = e.constant(high)
        x = e.op("Where", e.op("Greater", x, end), end, x)
    return x


def matmul_int64(e: Emitter, x: str, weight: NDArray[np.int64]) -> str:
    """Matrix product of int64 ``x`` ``[..., I]`` and ``weight`` ``[I, O]``."""
    return e.op("MatMul", x, e.constant(weight))


def divide(e: Emitter, numerator: str, denominator: str, shift: int) -> str:
    """``tz((numerator << shift) / denominator)`` in int64: ONNX divides integers toward zero."""
    return e.op("Div", _shift_left(e, numerator, shift), denominator)


def square_root(e: Emitter, x: str) -> str:
    """``floor(sqrt(x))`` of int64 ``x`` in 0 .. 2**52 - 1; see `spikefold.converters.arithmetic.square_root`."""
    return e.cast(e.op("Sqrt", e.cast(x, TensorProto.DOUBLE)), TensorProto.INT64)


def add_all(e: Emitter, values: list[str]) -> str:
    """Sum of one or more tensors."""
    total = values[0]
    for value in values[1:]:
        total = e.op("Add", total, value)
    return total


def _digits(
    e: Emitter, x: str, bounds: ranges.Range, bits: int, fits: Callable[[ranges.Range], bool]
) -> Iterator[tuple[str, int]]:
    """Split int64 ``x`` into digits of ``bits`` bits until the rest ``fits``; gives each with its place."""
    place = 0
    while not fits(bounds):
        digit = e.op("Mod", x, e.constant(2**bits))
        yield digit, place
        x = e.op("Div", e.op("Sub", x, digit), e.constant(2**bits))
        bounds, place = (bounds[0] >> bits, bounds[1] >> bits), place + bits
    yield x, place


def _shift_left(e: Emitter, x: str, bits: int) -> str:
    return e.op("Mul", x, e.constant(2**bits)) if bits else x
