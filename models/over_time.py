"""Ordinary torch layers applied to clips."""

from __future__ import annotations

import torch
from torch import nn


class OverTime(nn.Module):
    """Apply a layer to every time step of ``[T, B, ...]`` at once by merging T into the batch.

    A batch norm inside it sees all steps as one batch, so it has one affine map for all steps.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[T, B, ...]`` to ``[T, B, ...]``."""
        out: torch.Tensor = self.module(x.flatten(0, 1))
        return out.reshape(x.shape[0], x.shape[1], *out.shape[1:])
