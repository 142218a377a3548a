"""Selection by rank as one operation, so that a traced graph shows it as one node."""

from __future__ import annotations

from typing import Any

import torch


@torch.library.custom_op("spikefold::topk_mask", mutates_args=())
def _topk_mask(x: torch.Tensor, k: int, dim: int) -> torch.Tensor:
    index = x.topk(k, dim=dim).indices
    return torch.zeros_like(x, memory_format=torch.contiguous_format).scatter_(dim, index, 1)


@_topk_mask.register_fake
def _(x: torch.Tensor, k: int, dim: int) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _mark(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.mark_non_differentiable(output)


def _no_gradient(ctx: Any, grad: torch.Tensor) -> tuple[None, None, None]:
    return None, None, None


_topk_mask.register_autograd(_no_gradient, setup_context=_mark)


def topk_mask(x: torch.Tensor, k: int, dim: int) -> torch.Tensor:
    """Mark the ``k`` largest entries along ``dim`` with 1 and the others with 0, in x's shape and dtype.

    The mask carries no gradient. ``k`` = 0 marks nothing. Entries that tie for the last places are marked in the order
    of `torch.topk`, which torch does not specify and which differs between devices.
    """
    mask: torch.Tensor = _topk_mask(x, k, dim)
    return mask
