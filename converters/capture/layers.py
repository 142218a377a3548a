"""Layers that are linear maps of a signal: convolution, linear, batch norm in evaluation, average pooling.

Each handler gets the operation, its arguments and T, and returns None where the operation is none of these to the
signal; see `operations`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from spikefold.converters.capture import linear_map as lm
from spikefold.converters.capture.values import Flow, Value, leading


def then(node: Node, flow: Flow, second: lm.LinearMap, name: str = "") -> Flow:
    """The flow after one more linear map; its bias enters once however many parts there are."""
    if flow.schedule is not None:
        raise lm.NeedsRelayError(
            "it works on a current to which something was added step by step; add that directly before the neuron or "
            "its gate"
        )
    parts = []
    for number, part in enumerate(flow.parts):
        following = second if number == 0 else replace(lm.without_bias(second), macs=0)
        parts.append(replace(part, map=lm.compose(following, part.map), label=name or part.label))
    return replace(flow, parts=tuple(parts), features=second.out_shape, key=node, origin=None, factor=1.0)


def label(node: Node) -> str:
    """Name what an operation becomes after its module."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return (stack[-1][0] if stack and stack[-1][0] else node.name).replace(".", "_")


def pair(value: Any) -> tuple[int, int]:
    """One number or two as a pair."""
    if isinstance(value, int):
        return (value, value)
    return (int(value[0]), int(value[-1]))


def conv2d(node: Node, a: list[Any], time_steps: int) -> Value | None:
    """Convolution of merged steps and samples."""
    flow = a[0]
    if not isinstance(flow, Flow) or not isinstance(a[1], Tensor):
        return None
    if leading(flow.axes) != 1 or len(flow.features) != 3:
        return None
    bias = a[2] if len(a) > 2 and a[2] is not None else torch.zeros(a[1].shape[0])
    stride = pair(a[3]) if len(a) > 3 else (1, 1)
    padding: Any = a[4] if len(a) > 4 else (0, 0)
    if isinstance(padding, str):
        raise lm.NotExactError(f"padding={padding!r}; give the padding as numbers")
    dilation = pair(a[5]) if len(a) > 5 else (1, 1)
    groups = a[6] if len(a) > 6 else 1
    c, h, w = flow.features
    conv = lm.ConvMap(a[1].double(), bias.double(), (c, h, w), stride, pair(padding), dilation, groups)
    conv = replace(conv, macs=a[1][0].numel() * math.prod(conv.out_shape))
    return then(node, flow, conv, label(node))


def linear(node: Node, a: list[Any], time_steps: int) -> Value | None:
    """Linear map of flat features."""
    flow = a[0]
    if not isinstance(flow, Flow) or not isinstance(a[1], Tensor):
        return None
    if len(flow.features) != 1:
        return None
    bias = a[2] if len(a) > 2 and a[2] is not None else torch.zeros(a[1].shape[0])
    dense = lm.DenseMap(a[1].double(), bias.double(), flow.features, a[1].numel())
    return then(node, flow, dense, label(node))


def batch_norm(node: Node, a: list[Any], time_steps: int) -> Value | None:
    """Batch norm with running statistics."""
    flow = a[0]
    if not isinstance(flow, Flow):
        return None
    weight, bias, mean, var = a[1:5]
    if mean is None or var is None:
        raise lm.NotExactError("keeps no running statistics, so it cannot be folded; use track_running_stats")
    if leading(flow.axes) != 1:
        return None
    scale = (var.double() + batch_norm_epsilon(node)).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale + (0.0 if bias is None else bias.double())
    normed = then(node, flow, lm.channel_affine(flow.features, scale, shift))
    return replace(normed, features=flow.features)


def batch_norm_epsilon(node: Node) -> float:
    """What a batch norm adds to the variance."""
    in_place_free = "_native_batch_norm_legit_no_training" in str(node.target)
    return float(node.args[6 if in_place_free else 7])  # type: ignore[arg-type]


def avg_pool2d(node: Node, a: list[Any], time_steps: int) -> Value | None:
    """Average pooling that counts padded zeros."""
    flow = a[0]
    if not isinstance(flow, Flow) or leading(flow.axes) != 1 or len(flow.features) != 3:
        return None
    kernel = pair(a[1])
    stride = pair(a[2]) if len(a) > 2 and a[2] else kernel
    padding = pair(a[3]) if len(a) > 3 else (0, 0)
    ceil_mode = a[4] if len(a) > 4 else False
    count_include_pad = a[5] if len(a) > 5 else True
    divisor = a[6] if len(a) > 6 else None
    if ceil_mode or (any(padding) and not count_include_pad) or divisor:
        raise lm.NotExactError("ceil_mode, count_include_pad=False with padding, or a divisor cannot be folded exactly")
    c, h, w = flow.features
    return then(node, flow, lm.average_pool((c, h, w), kernel, stride, padding))


def adaptive_avg_pool2d(node: Node, a: list[Any], time_steps: int) -> Value | None:
    """Average pooling to a given size, where all windows are alike."""
    flow = a[0]
    if not isinstance(flow, Flow) or leading(flow.axes) != 1 or len(flow.features) != 3:
        return None
    c, h, w = flow.features
    rows, columns = (_windows(n, n if m is None else int(m)) for n, m in zip((h, w), a[1], strict=True))
    return then(node, flow, lm.average_pool((c, h, w), (rows[0], columns[0]), (rows[1], columns[1]), (0, 0)))


def _windows(size: int, out: int) -> tuple[int, int]:
    """Length and distance of the windows of an adaptive pooling, where all are alike."""
    edges = [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]
    lengths, steps = {high - low for low, high in edges}, {b[0] - a[0] for a, b in itertools.pairwise(edges)}
    if len(lengths) > 1 or len(steps) > 1 or steps == {0}:
        raise lm.NotExactError(f"output {out} makes unlike windows of the size {size}; choose one that divides it")
    return lengths.pop(), steps.pop() if steps else size
