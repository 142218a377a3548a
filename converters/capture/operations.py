"""What each torch operation does to a signal: one handler an operation.

A handler gets the operation, its arguments (signals as `Flow` or `Gated`, constants as tensors) and T. It returns None
where the operation does not keep the signal linear; `NotExactError` says why one that usually does cannot here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from spikefold.converters.capture import linear_map as lm
from spikefold.converters.capture.layers import adaptive_avg_pool2d, avg_pool2d, batch_norm, conv2d, linear, then
from spikefold.converters.capture.values import (
    Derived,
    Flow,
    Gated,
    Leaf,
    Mixed,
    Product,
    Sum,
    Value,
    as_tensor,
    is_real,
    is_scalar,
    leading,
    permute,
    relayout,
    shape_of,
)


def _mean(node: Node, a: list[Any], time_steps: int) -> Value | None:
    flow = a[0]
    if not isinstance(flow, Flow) or len(a) < 2 or a[1] is None:
        return None
    rank = leading(flow.axes) + len(flow.features)
    axes = sorted(int(x) % rank for x in a[1])
    keepdim = bool(a[2]) if len(a) > 2 else False
    total = str(node.target).startswith("aten.sum")
    time_axis = {"T B": 0, "B T": 1}.get(flow.axes)
    if axes == [time_axis] and not keepdim:
        if flow.schedule is not None:
            raise lm.NotExactError("it averages over time what was added step by step; add the mean of that instead")
        mean = replace(flow, axes="B", reduced=True, key=node, origin=None, factor=1.0)
        return _scale(node, mean, float(time_steps)) if total else mean
    lead = leading(flow.axes)
    if len(flow.features) == 3 and axes == [lead + 1, lead + 2]:
        c, h, w = flow.features
        pool = lm.average_pool((c, h, w), (h, w), (h, w), (0, 0))
        pooled = then(node, flow, replace(pool, weight=pool.weight * (h * w)) if total else pool)
        return pooled if keepdim else replace(pooled, features=(c,))
    if axes == list(range(lead + 1, rank)) and not keepdim:
        return then(node, flow, lm.group_mean(flow.features, 1.0 if total else 1.0 / math.prod(flow.features[1:])))
    return None


def _layout(node: Node, a: list[Any], time_steps: int) -> Value | None:
    value = a[0]
    if isinstance(value, Mixed):
        return _of_terms(value, lambda term: _layout(node, [term, *a[1:]], time_steps))
    flow = value.flow if isinstance(value, Gated) else value
    if not isinstance(flow, Flow):
        return None
    name = str(node.target)
    if name.startswith(("aten.permute", "aten.transpose", "aten.movedim")):
        moved = permute(flow, permutation(name, a[1:], leading(flow.axes) + len(flow.features)))
    else:
        moved = relayout(flow, shape_of(node), time_steps)
    if moved is None:
        return None
    return Gated(moved, value.gate) if isinstance(value, Gated) else moved


def permutation(name: str, arguments: list[Any], rank: int) -> tuple[int, ...]:
    """Axis order of a permute, transpose, movedim, ``.t()``, ``.T`` or ``.mT``."""
    if name.startswith(("aten.t.", "aten.numpy_T")):
        return tuple(reversed(range(rank)))
    if name.startswith("aten.mT"):
        return (*range(rank - 2), rank - 1, rank - 2)
    if name.startswith("aten.permute"):
        return tuple(int(x) % rank for x in arguments[0])
    if name.startswith("aten.transpose"):
        order = list(range(rank))
        i, j = int(arguments[0]) % rank, int(arguments[1]) % rank
        order[i], order[j] = order[j], order[i]
        return tuple(order)
    sources, targets = ([x] if isinstance(x, int) else list(x) for x in arguments[:2])
    sources, targets = [s % rank for s in sources], [t % rank for t in targets]
    rest = iter(i for i in range(rank) if i not in sources)
    placed = dict(zip(targets, sources, strict=True))
    return tuple(placed[i] if i in placed else next(rest) for i in range(rank))


def _same(node: Node, a: list[Any], time_steps: int) -> Value | None:
    return a[0] if isinstance(a[0], (Flow, Gated, Mixed)) and is_real(node) else None


def _dropout(node: Node, a: list[Any], time_steps: int) -> Value | None:
    return _same(node, a, time_steps) if not a[2] else None


def _scale(node: Node, value: Any, constant: Any) -> Value | None:
    """A signal times a constant: a number, or one factor per channel."""
    if isinstance(value, Mixed):
        return _of_terms(value, lambda term: _scale(node, term, constant))
    if isinstance(value, Gated):
        leaf = Leaf(constant, value.flow.axes, value.flow.features)
        return Gated(value.flow, Product(value.gate, leaf)) if is_scalar(constant) else None
    factor = _per_channel(value, as_tensor(constant))
    if factor is None:
        return None
    zero = torch.zeros(1, dtype=torch.float64)
    scaled = then(node, value, lm.channel_affine(value.features, factor, zero))
    if factor.numel() == 1 and float(factor) != 0:
        scaled = replace(scaled, origin=value.origin or value.key, factor=value.factor * float(factor))
    return replace(scaled, features=value.features)


def _per_channel(flow: Flow, constant: Tensor) -> Tensor | None:
    if constant.numel() == 1:
        return constant.double().reshape(1)
    shape = (1,) * (len(flow.features) + leading(flow.axes) - constant.ndim) + tuple(constant.shape)
    wanted = (1,) * leading(flow.axes) + (flow.features[0],) + (1,) * (len(flow.features) - 1)
    return constant.double().reshape(-1) if shape == wanted else None


def _multiply(node: Node, a: list[Any], time_steps: int) -> Value | None:
    left, right = a[0], a[1]
    if not isinstance(left, (Flow, Gated, Mixed, Derived)):
        left, right = right, left
    node_of: dict[int, Any] = {id(v): n for v, n in zip(a, node.args, strict=False)}
    if isinstance(right, (int, float, Tensor)):
        return None if isinstance(left, Derived) else _scale(node, left, right)
    if isinstance(left, Mixed) or isinstance(right, Mixed):
        return None
    if isinstance(left, Derived):
        left, right = right, left
    if isinstance(left, Flow) and isinstance(right, (Flow, Gated)) and _reads(node_of[id(left)], right):
        left, right = right, left
    if isinstance(left, Derived) or shape_of(node) != shape_of(node_of[id(left)]):
        return None
    flow = left.flow if isinstance(left, Gated) else left
    leaf = Leaf(node_of[id(right)], flow.axes, flow.features)
    return Gated(left.flow, Product(left.gate, leaf)) if isinstance(left, Gated) else Gated(left, leaf)


def _reads(node: Any, flow: Flow | Gated) -> bool:
    """Whether ``node`` was computed from the operation that made ``flow``."""
    key = (flow.flow if isinstance(flow, Gated) else flow).key
    seen, stack = set(), [node]
    while stack:
        current = stack.pop()
        if current is key:
            return current is not node
        if current not in seen:
            seen.add(current)
            stack.extend(current.all_input_nodes)
    return False


def _divide(node: Node, a: list[Any], time_steps: int) -> Value | None:
    if isinstance(a[1], (Flow, Gated, Mixed, Derived)) or isinstance(a[0], Derived) or node.kwargs.get("rounding_mode"):
        return None
    return _scale(node, a[0], 1.0 / as_tensor(a[1]))


def _negate(node: Node, a: list[Any], time_steps: int) -> Value | None:
    return None if isinstance(a[0], Derived) else _scale(node, a[0], -1.0)


def _add(node: Node, a: list[Any], time_steps: int, sign: float = 1.0) -> Value | None:
    left, right = a[0], a[1]
    if any(isinstance(x, Derived) for x in (left, right)) or node.kwargs.get("alpha", 1) != 1:
        return None
    if isinstance(right, (int, float, Tensor)) or isinstance(left, (int, float, Tensor)):
        signal, constant = (left, right) if isinstance(left, (Flow, Gated, Mixed)) else (right, left)
        if sign < 0:
            if signal is left:
                constant = -as_tensor(constant)
            else:
                signal = _scale(node, signal, -1.0)
        if not isinstance(signal, Flow):
            return None
        shift = _per_channel(signal, as_tensor(constant))
        if shift is None or signal.schedule is not None:
            return _scheduled(node, signal, as_tensor(constant), time_steps)
        one = torch.ones(1, dtype=torch.float64)
        shifted = then(node, signal, lm.channel_affine(signal.features, one, shift))
        return replace(shifted, features=signal.features)
    if sign < 0:
        right = _scale(node, right, -1.0)
    if not isinstance(left, (Flow, Gated, Mixed)) or not isinstance(right, (Flow, Gated, Mixed)):
        return None
    return _sum_of(left, right, node)


def _scheduled(node: Node, flow: Flow, constant: Tensor, time_steps: int) -> Flow:
    """A flow plus a constant that changes with the step."""
    total = constant.double() if flow.schedule is None else flow.schedule + constant
    wanted = (time_steps, 1, *flow.features)
    fits = total.ndim == len(wanted) and all(n in (1, w) for n, w in zip(total.shape[2:], wanted[2:], strict=True))
    if flow.axes != "T B" or flow.reduced or not fits or tuple(total.shape[:2]) != wanted[:2]:
        raise lm.NotExactError(
            f"it adds a constant of shape {tuple(constant.shape)} to currents of {flow.features}; one number a channel "
            "becomes a bias, and an array [T, 1, *features or 1] added to [T, B, *features] a bias of each step"
        )
    return replace(flow, schedule=total, key=node, origin=None, factor=1.0)


def _sum_of(left: Flow | Gated | Mixed, right: Flow | Gated | Mixed, node: Node) -> Value | None:
    if isinstance(left, Mixed) or isinstance(right, Mixed):
        return _mixed(left, right)
    one, other = (x.flow if isinstance(x, Gated) else x for x in (left, right))
    if one.axes != other.axes or one.features != other.features or one.reduced != other.reduced:
        return None
    if isinstance(left, Flow) and isinstance(right, Flow):
        held = [x.schedule for x in (left, right) if x.schedule is not None]
        schedule = sum(held[1:], start=held[0]) if held else None
        parts = left.parts + right.parts
        return replace(left, parts=parts, key=node, origin=None, factor=1.0, schedule=schedule)
    ratio = other.times(one)
    if ratio is None:
        return _mixed(left, right)
    unit, multiple = (Leaf(x, one.axes, one.features) for x in (1.0, ratio))
    first = left.gate if isinstance(left, Gated) else unit
    second = Product(right.gate, multiple) if isinstance(right, Gated) else multiple
    return Gated(one, Sum(first, second))


def _mixed(*summands: Flow | Gated | Mixed) -> Mixed | None:
    terms: list[Flow | Gated] = []
    for summand in summands:
        terms += summand.terms if isinstance(summand, Mixed) else [summand]
    flows = [t.flow if isinstance(t, Gated) else t for t in terms]
    alike = len({(f.axes, f.features) for f in flows}) == 1 and not any(f.reduced for f in flows)
    return Mixed(tuple(terms)) if alike else None


def _of_terms(mixed: Mixed, change: Callable[[Flow | Gated], Value | None]) -> Mixed | None:
    terms = [change(term) for term in mixed.terms]
    kept = tuple(t for t in terms if isinstance(t, (Flow, Gated)))
    return Mixed(kept) if len(kept) == len(terms) else None


def _subtract(node: Node, a: list[Any], time_steps: int) -> Value | None:
    return _add(node, a, time_steps, sign=-1.0)


def _subtract_from(node: Node, a: list[Any], time_steps: int) -> Value | None:
    return _add(node, [a[1], a[0]], time_steps, sign=-1.0)


def _state(node: Node, a: list[Any], time_steps: int) -> Value | None:
    raise lm.NotExactError(
        "it reads the state of neurons, of which only the spikes can be read on a chip; answer with spikes, or with "
        "the mean over steps of what a layer makes of them"
    )


Handler = Callable[[Node, list[Any], int], Value | None]
HANDLERS: dict[str, Handler] = {
    "conv2d": conv2d,
    "linear": linear,
    "batch_norm": batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm,
    "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d,
    "mean": _mean,
    "sum": _mean,
    "flatten": _layout,
    "unflatten": _layout,
    "view": _layout,
    "_unsafe_view": _layout,
    "reshape": _layout,
    "permute": _layout,
    "transpose": _layout,
    "movedim": _layout,
    "contiguous": _same,
    "clone": _same,
    "alias": _same,
    "detach": _same,
    "to": _same,
    "_to_copy": _same,
    "dropout": _dropout,
    "feature_dropout": _dropout,
    "mul": _multiply,
    "div": _divide,
    "neg": _negate,
    "add": _add,
    "sub": _subtract,
    "rsub": _subtract_from,
    "state": _state,
}
