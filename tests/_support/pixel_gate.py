"""A net whose gate is a map of pixels: its static form has a threshold of its own for each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikefold.models import LIF


class PixelGate(nn.Module):
    """Clips ``[T, B, 2, 8, 8]``, 3 classes."""

    def __init__(self, seed: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.look = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(1, 1, 5, padding=2)
        self.neuron, self.head = LIF(0.5, 0.2), nn.Linear(4 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        current = self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        gate = torch.sigmoid(3 * self.look(current.mean((0, 2)).unsqueeze(1)))
        logits: Tensor = self.head(self.neuron(current * gate.unsqueeze(0)).flatten(2))
        return logits.mean(0)
