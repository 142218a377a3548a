"""Checks of what an attention module is handed."""

from __future__ import annotations

import torch

from spikefold.errors import InputError


def check_clip(name: str, x: torch.Tensor, time_steps: int) -> None:
    """Raise InputError unless ``x`` is ``[T, B, C, H, W]`` with the T that the module was made for."""
    if x.dim() != 5:
        raise InputError(f"{name}: input of shape {tuple(x.shape)}; expected [T, B, C, H, W]")
    if x.shape[0] != time_steps:
        raise InputError(
            f"{name}: input has T = {x.shape[0]} time steps but its weights were made for {time_steps}; "
            f"cut or resample the clip to {time_steps} steps, or train with T = {x.shape[0]}"
        )


def check_sizes(name: str, time_steps: int, reduction: int) -> None:
    """Raise InputError for a T or a reduction that no module can be made with."""
    if time_steps < 1:
        raise InputError(f"{name}: time_steps = {time_steps}; must be at least 1")
    if reduction < 1:
        raise InputError(f"{name}: reduction = {reduction}; must be at least 1")
