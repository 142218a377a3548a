"""Linear maps between populations and how they compose exactly.

A convolution, a batch norm in evaluation, an average pooling, a scale and an identity are all one class, `ConvMap`;
what follows a flattening is a `DenseMap`. `compose` joins two maps into one wherever that is exact to the border, and
says why where it is not. Arithmetic is float64, so that folding adds no rounding worth speaking of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Pair: TypeAlias = tuple[int, int]


class NotExactError(Exception):
    """Two maps do not compose exactly; the message says why. Turned into a CaptureError where the node is known."""


class NeedsRelayError(NotExactError):
    """Two maps do not compose into one, but a relay between them, which sends numbers on, makes two of them exact."""


@dataclass(frozen=True)
class ConvMap:
    """Cross-correlation from ``in_shape`` to ``out_shape``, both ``(C, H, W)``; ``macs`` is the work as written."""

    weight: Tensor
    bias: Tensor
    in_shape: tuple[int, int, int]
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    macs: int = 0

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of the result."""
        size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                self.in_shape[1:], self.padding, self.dilation, self.weight.shape[2:], self.stride, strict=True
            )
        ]
        return (self.weight.shape[0], size[0], size[1])

    @property
    def scales_channels(self) -> bool:
        """True where each channel is only scaled and shifted."""
        c = self.in_shape[0]
        return (
            self.groups == c
            and tuple(self.weight.shape) == (c, 1, 1, 1)
            and self.stride == (1, 1)
            and self.padding == (0, 0)
        )

    @property
    def is_identity(self) -> bool:
        """True where the map changes nothing."""
        return self.scales_channels and bool((self.weight == 1).all()) and not bool(self.bias.any())

    def apply(self, x: Tensor) -> Tensor:
        """Run the map on ``[N, *in_shape]``."""
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True)
class DenseMap:
    """Matrix ``weight`` ``[O, I]`` on the source flattened in C order."""

    weight: Tensor
    bias: Tensor
    in_shape: tuple[int, ...]
    macs: int = 0

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape ``(O,)`` of the result."""
        return (self.weight.shape[0],)

    @property
    def is_identity(self) -> bool:
        """True where the map changes nothing."""
        n = self.weight.shape[0]
        return self.weight.shape[1] == n and bool((self.weight == torch.eye(n)).all()) and not bool(self.bias.any())


LinearMap: TypeAlias = ConvMap | DenseMap


def identity(shape: tuple[int, ...]) -> LinearMap:
    """The map that changes nothing on signals of ``shape``."""
    if len(shape) == 3:
        c = shape[0]
        return ConvMap(torch.ones(c, 1, 1, 1).double(), torch.zeros(c).double(), (c, shape[1], shape[2]), groups=c)
    n = math.prod(shape)
    return DenseMap(torch.eye(n).double(), torch.zeros(n).double(), shape)


def channel_affine(shape: tuple[int, ...], scale: Tensor, shift: Tensor) -> LinearMap:
    """Scale and shift each channel (axis 0 of ``shape``): batch norm in evaluation, or a constant factor."""
    same = identity(shape)
    n = same.weight.shape[0]
    scale, shift = (v.double().reshape(-1).repeat_interleave(n // v.numel()) for v in (scale, shift))
    return replace(same, weight=same.weight * scale.reshape(-1, *[1] * (same.weight.ndim - 1)), bias=shift.clone())


def average_pool(shape: tuple[int, int, int], kernel: Pair, stride: Pair, padding: Pair) -> ConvMap:
    """Average pooling that counts padded zeros, as a depthwise convolution."""
    c = shape[0]
    weight = torch.full((c, 1, *kernel), 1.0 / (kernel[0] * kernel[1])).double()
    return ConvMap(weight, torch.zeros(c).double(), shape, stride, padding, (1, 1), c)


def any_of(shape: tuple[int, int, int], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> ConvMap:
    """Count the ones in each pooling window, as a depthwise convolution of ones."""
    c = shape[0]
    return ConvMap(torch.ones(c, 1, *kernel).double(), torch.zeros(c).double(), shape, stride, padding, dilation, c)


def taps_apart(shape: tuple[int, int, int], kernel: Pair, stride: Pair) -> ConvMap:
    """Lay the values of each pooling window side by side: channels ``[taps * C]``, one tap after another."""
    c, (height, width) = shape[0], kernel
    taps = torch.eye(height * width).double().reshape(height * width, 1, 1, height, width)
    weight = (taps * torch.eye(c).double().reshape(1, c, c, 1, 1)).reshape(-1, c, height, width)
    return ConvMap(weight, weight.new_zeros(len(weight)), shape, stride)


def group_mean(shape: tuple[int, ...], factor: float) -> DenseMap:
    """Sum all but the first axis and scale: what a vote over the neurons of each class does."""
    groups, members = shape[0], math.prod(shape[1:])
    weight = torch.eye(groups).double().repeat_interleave(members, 1) * factor
    return DenseMap(weight, torch.zeros(groups).double(), (groups * members,), groups * members)


def into_channels(shape: tuple[int, ...], start: int, total: int) -> LinearMap:
    """Place channels (axis 0 of ``shape``) at ``start`` among ``total``, the others being zero."""
    same = identity(shape)
    if isinstance(same, DenseMap):
        rest = math.prod(shape[1:])
        weight = torch.zeros(total * rest, same.weight.shape[1]).double()
        weight[start * rest : (start + shape[0]) * rest] = same.weight
        return DenseMap(weight, weight.new_zeros(len(weight)), shape)
    weight = torch.zeros(total, shape[0], 1, 1).double()
    weight[start : start + shape[0], :, 0, 0] = torch.eye(shape[0])
    return ConvMap(weight, weight.new_zeros(total), same.in_shape)


def sum_of_blocks(shape: tuple[int, ...], starts: Sequence[int], total: int) -> LinearMap:
    """Add up blocks of channels, each of ``shape``, that begin at ``starts`` among ``total`` channels."""
    blocks = [into_channels(shape, start, total) for start in starts]
    first = blocks[0]
    weight = torch.stack([b.weight for b in blocks]).sum(0).transpose(0, 1).contiguous()
    bias = weight.new_zeros(len(weight))
    if isinstance(first, DenseMap):
        return DenseMap(weight, bias, (total, *shape[1:]))
    return ConvMap(weight, bias, (total, *first.in_shape[1:]))


def is_complement(m: LinearMap) -> bool:
    """True where the map gives one minus what it gets."""
    return replace(m, weight=-m.weight, bias=m.bias - 1).is_identity


def without_bias(m: LinearMap) -> LinearMap:
    """The same map with a bias of zero."""
    return replace(m, bias=torch.zeros_like(m.bias))


def compose(second: LinearMap, first: LinearMap) -> LinearMap:
    """The map "first, then second"; NotExactError where one map cannot say it to the border."""
    if isinstance(second, DenseMap):
        return _dense_after(second, first)
    if isinstance(first, DenseMap):
        raise NotExactError("it works on channels of what a linear layer sends, and NIR has no node that unflattens")
    if first.is_identity:
        return replace(second, macs=second.macs + first.macs)
    if second.is_identity:
        return replace(first, macs=second.macs + first.macs)
    if second.scales_channels:
        factor = second.weight.flatten()
        return replace(
            first, weight=_undilated(first) * factor.reshape(-1, 1, 1, 1), bias=first.bias * factor + second.bias,
            dilation=(1, 1), macs=second.macs + first.macs,
        )  # fmt: skip
    return _conv_after(second, first)


def _dense_after(second: DenseMap, first: LinearMap) -> DenseMap:
    if isinstance(first, DenseMap):
        weight, bias = second.weight @ first.weight, second.weight @ first.bias + second.bias
    elif first.is_identity:
        weight, bias = second.weight, second.bias
    else:
        rows = second.weight.reshape(-1, *first.out_shape)
        probe = torch.zeros(rows.shape[0], *first.in_shape, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(first.apply(probe), probe, rows)
        weight = gradient.reshape(rows.shape[0], -1)
        per_channel = rows.sum((2, 3)) @ first.bias
        bias = per_channel + second.bias
    return DenseMap(weight, bias, first.in_shape, second.macs + first.macs)


def _conv_after(second: ConvMap, first: ConvMap) -> ConvMap:
    padding = first.padding
    if any(second.padding):
        _require_pool_like(first)
        padding = (second.padding[0] * first.stride[0], second.padding[1] * first.stride[1])
    channels = second.in_shape[0]
    spreads = second.groups == channels == second.weight.shape[0]
    w1 = _undilated(first) if spreads else _ungrouped(_undilated(first), first.groups)
    w2 = _undilated(second) if spreads else _ungrouped(_undilated(second), second.groups)
    s = first.stride
    kh, kw = w2.shape[2:]
    reversed_taps = w2.new_zeros(*w2.shape[:2], (kh - 1) * s[0] + 1, (kw - 1) * s[1] + 1)
    reversed_taps[:, :, :: s[0], :: s[1]] = w2.flip(2, 3)
    reach = (reversed_taps.shape[2] - 1, reversed_taps.shape[3] - 1)
    full = functional.conv2d(w1.transpose(0, 1), reversed_taps, padding=reach, groups=channels if spreads else 1)
    weight = full.transpose(0, 1).contiguous()
    summed = w2.sum((2, 3))
    carried = summed[:, 0] * first.bias if spreads else summed @ first.bias
    joined = ConvMap(
        weight,
        carried + second.bias,
        first.in_shape,
        (s[0] * second.stride[0], s[1] * second.stride[1]),
        padding,
        (1, 1),
        first.groups if spreads else 1,
        second.macs + first.macs,
    )
    if joined.out_shape != second.out_shape:
        raise NeedsRelayError(f"joined shape {joined.out_shape} differs from {second.out_shape}")
    return joined


def _require_pool_like(first: ConvMap) -> None:
    """A padded map may follow only what keeps the zeros around the picture zero."""
    if bool(first.bias.any()):
        raise NeedsRelayError("the first map has a bias and the second one pads with zeros, so the border would differ")
    if tuple(first.weight.shape[2:]) != first.stride or any(first.padding) or first.dilation != (1, 1):
        raise NeedsRelayError("the second map pads the first one's result with zeros, so the border would differ")
    if any(n % s for n, s in zip(first.in_shape[1:], first.stride, strict=True)):
        raise NeedsRelayError(f"the pooling {first.stride} does not divide the size {first.in_shape[1:]}")


def _undilated(m: ConvMap) -> Tensor:
    if m.dilation == (1, 1):
        return m.weight
    kh, kw = m.weight.shape[2:]
    weight = m.weight.new_zeros(*m.weight.shape[:2], (kh - 1) * m.dilation[0] + 1, (kw - 1) * m.dilation[1] + 1)
    weight[:, :, :: m.dilation[0], :: m.dilation[1]] = m.weight
    return weight


def _ungrouped(weight: Tensor, groups: int) -> Tensor:
    if groups == 1:
        return weight
    per_out, per_in = weight.shape[0] // groups, weight.shape[1]
    full = weight.new_zeros(weight.shape[0], per_in * groups, *weight.shape[2:])
    for g in range(groups):
        rows = slice(g * per_out, (g + 1) * per_out)
        full[rows, g * per_in : (g + 1) * per_in] = weight[rows]
    return full
