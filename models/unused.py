"""Parameters that a released network holds and never uses."""

from __future__ import annotations

import torch
from torch import nn


class Unused(nn.Module):
    """A holder of parameters that no forward pass reads, so that counts and checkpoints agree with a release.

    Parameters
    ----------
    **shapes
        Shape of each parameter by name; they start as ones.
    """

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.ones(shape)))


def count_unused(network: nn.Module) -> int:
    """Return how many parameters of a network sit in holders of unused ones."""
    holders = [module for module in network.modules() if isinstance(module, Unused)]
    return sum(parameter.numel() for holder in holders for parameter in holder.parameters())
