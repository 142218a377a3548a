"""Run a float `GateProgram` in torch, with gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

from spikefold.converters import arithmetic
from spikefold.converters.gate_program import GateProgram, Step, broadcast_shape, slice_index

FUNCTIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "hardsigmoid": functional.hardsigmoid,
    "hardtanh": functional.hardtanh,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "sqrt": torch.sqrt,
    "abs": torch.abs,
    "square": torch.square,
}
"""Elementwise functions that a float program may hold; lowering turns each into a look-up table."""


def run_float(
    program: GateProgram, current: torch.Tensor, watch: Callable[[int, torch.Tensor], None] | None = None
) -> torch.Tensor:
    """Compute the gate of ``current`` ``[T, B, *features]``; ``watch(index, value)`` sees every intermediate value."""
    values = [current]
    for step in program.steps:
        values.append(_FLOAT[step.op](step, [values[i] for i in step.inputs]))
        if watch is not None:
            watch(len(values) - 1, values[-1])
    return values[-1]


def _const(step: Step, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(step.constant, dtype=like.dtype, device=like.device)


def _conv2d_float(step: Step, args: list[torch.Tensor]) -> torch.Tensor:
    a = step.attributes
    return functional.conv2d(
        args[0], _const(step, args[0]), None, a["stride"], a["padding"], a["dilation"], a["groups"]
    )


def _topk_float(step: Step, args: list[torch.Tensor]) -> torch.Tensor:
    k, axis = step.attributes["k"], step.attributes["axis"]
    index = args[0].topk(k, dim=axis).indices
    return torch.zeros_like(args[0]).scatter(axis, index, 1.0)


def _running_top_k(step: Step, args: list[torch.Tensor]) -> torch.Tensor:
    x, steps = args[0], len(args[0])
    ones = [1] * (x.ndim - 1)
    past = torch.ones(steps, steps, dtype=torch.bool, device=x.device).tril().reshape(steps, steps, *ones)
    ahead = ((x[None] >= x[:, None]) & past).sum(1)
    allowed = torch.as_tensor(arithmetic.running_k(step.attributes["k"], steps), device=x.device).reshape(-1, *ones)
    return (ahead <= allowed).to(x.dtype)


TensorOp = Callable[[Step, list[torch.Tensor]], torch.Tensor]
SAME_OPS: dict[str, TensorOp] = {
    "reshape": lambda s, a: a[0].reshape(s.attributes["shape"]),
    "permute": lambda s, a: a[0].permute(s.attributes["axes"]),
    "broadcast": lambda s, a: a[0].expand(broadcast_shape(s.attributes["shape"], tuple(a[0].shape))),
    "slice": lambda s, a: a[0][slice_index(a[0].ndim, s.attributes)],
    "concat": lambda s, a: torch.cat(a, dim=s.attributes["axis"]),
    "sum": lambda s, a: a[0].sum(s.attributes["axes"], keepdim=s.attributes["keepdim"]),
    "max": lambda s, a: a[0].amax(s.attributes["axes"], keepdim=s.attributes["keepdim"]),
    "add": lambda s, a: a[0] + a[1],
    "subtract": lambda s, a: a[0] - a[1],
    "multiply": lambda s, a: a[0] * a[1],
    "relu": lambda s, a: torch.relu(a[0]),
    "clip": lambda s, a: a[0].clamp(s.attributes["low"], s.attributes["high"]),
    "running_sum": lambda s, a: a[0].cumsum(0),
    "running_max": lambda s, a: a[0].cummax(0).values,
    "running_topk_mask": _running_top_k,
}
"""Operations that torch writes alike for floats and for whole numbers; the integer engine shares them."""

_FLOAT: dict[str, TensorOp] = {
    **SAME_OPS,
    "multiply_const": lambda s, a: a[0] * _const(s, a[0]),
    "add_const": lambda s, a: a[0] + _const(s, a[0]),
    "matmul": lambda s, a: a[0] @ _const(s, a[0]),
    "conv2d": _conv2d_float,
    "topk_mask": _topk_float,
    "table": lambda s, a: _const(s, a[0]),
    "scale": lambda s, a: a[0] * s.attributes["factor"],
    "offset": lambda s, a: a[0] + s.attributes["value"],
    "divide": lambda s, a: a[0] / a[1],
    "function": lambda s, a: FUNCTIONS[s.attributes["name"]](a[0]),
}
