"""NIR's linear nodes as linear maps. One-dimensional signals ``(C, L)`` are pictures of one row, ``(C, 1, L)``."""

from __future__ import annotations

import math
from typing import Any

import nir
import numpy as np
import torch
from torch import Tensor

from spikefold.converters.capture import linear_map as lm
from spikefold.converters.dialects.foreign_graph import array, conv_padding, conv_sizes, numbers, where, window_sizes
from spikefold.errors import FileFormatError

Shape = tuple[int, ...]


def linear_map(name: str, node: Any, arriving: Shape, pads_sum_pool: bool) -> lm.LinearMap:
    """What a linear node does to a signal of shape ``arriving``.

    Raises
    ------
    FileFormatError
        Its numbers do not fit the signal, or each other.
    """
    if isinstance(node, (nir.Affine, nir.Linear)):
        return _dense(name, node, arriving)
    if isinstance(node, nir.Scale):
        return _scale(name, node, arriving)
    if isinstance(node, (nir.Conv1d, nir.Conv2d)):
        return _conv(name, node, arriving)
    return _pool(name, node, arriving, pads_sum_pool)


def _dense(name: str, node: Any, arriving: Shape) -> lm.LinearMap:
    weight = _tensor(node.weight)
    if weight.ndim != 2 or arriving != (weight.shape[1],):
        raise FileFormatError(
            f"{where(name, node)}: weight {tuple(weight.shape)} gets a signal of {arriving}; (O, I) takes (I,)"
        )
    bias = _bias(name, node, len(weight)) if isinstance(node, nir.Affine) else torch.zeros(len(weight)).double()
    return lm.DenseMap(weight, bias, arriving, weight.numel())


def _scale(name: str, node: Any, arriving: Shape) -> lm.LinearMap:
    scale = array(node.scale).astype(np.float64)
    if scale.size != 1 and scale.shape != arriving:
        raise FileFormatError(f"{where(name, node)}: scale {scale.shape} gets a signal of {arriving}")
    factors = torch.from_numpy(np.broadcast_to(scale.reshape(-1) if scale.size == 1 else scale, arriving).copy())
    rows = factors.reshape(arriving[0], -1)
    if bool((rows == rows[:, :1]).all()):
        return lm.channel_affine(_picture(arriving), rows[:, 0], torch.zeros(arriving[0]))
    flat = factors.flatten()
    return lm.DenseMap(torch.diag(flat), torch.zeros_like(flat), _picture(arriving), len(flat))


def _conv(name: str, node: Any, arriving: Shape) -> lm.LinearMap:
    sizes = conv_sizes(name, node, arriving)
    axes = len(sizes)
    weight, bias = _tensor(node.weight), _bias(name, node, len(node.weight))
    stride, dilation = (numbers(name, node, f, axes) for f in ("stride", "dilation"))
    padding = conv_padding(name, node)
    if axes == 1:
        weight, stride, dilation, padding = weight.unsqueeze(2), (1, *stride), (1, *dilation), (0, *padding)
    c, h, w = _picture(arriving)
    groups = int(array(node.groups).reshape(-1)[0])
    macs = weight[0].numel() * len(weight) * math.prod(sizes)
    return lm.ConvMap(weight, bias, (c, h, w), _pair(stride), _pair(padding), _pair(dilation), groups, macs)


def _pool(name: str, node: Any, arriving: Shape, pads_sum_pool: bool) -> lm.LinearMap:
    window_sizes(name, node, arriving)
    c, h, w = arriving
    kernel, stride, padding = (_pair(numbers(name, node, f, 2)) for f in ("kernel_size", "stride", "padding"))
    if isinstance(node, nir.AvgPool2d):
        return lm.average_pool((c, h, w), kernel, stride, padding)
    if any(padding) and not pads_sum_pool:
        raise FileFormatError(f"{where(name, node)}: padding is {padding}, which readers of this dialect leave out")
    return lm.any_of((c, h, w), kernel, stride, padding, (1, 1))


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return (values[0], values[1])


def _picture(shape: Shape) -> Shape:
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def _bias(name: str, node: Any, rows: int) -> Tensor:
    bias = _tensor(node.bias)
    if bias.shape != (rows,):
        raise FileFormatError(f"{where(name, node)}: bias has shape {tuple(bias.shape)}, the weight asks for ({rows},)")
    return bias


def _tensor(value: Any) -> Tensor:
    return torch.from_numpy(array(value).astype(np.float64))
