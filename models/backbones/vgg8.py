"""VGG8 for event clips: five convolutional blocks and three linear maps, the backbone of SMA/AZO-SNN (AAAI 2025)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models.backbones.spiking import Inserted, SpikingLayer
from spikefold.models.over_time import OverTime

CHANNELS = (64, 128, 256, 512, 512)
HIDDEN = (2048, 1024)
GRID = 3
"""Largest side of the map that the linear layers see."""

SCALES = (1, 2)
"""Blocks, counted from 0, that take a module in front of their batch norm."""


class VGG8(nn.Module):
    """Five blocks [3x3 convolution, batch norm, spiking layer, 2x2 max pooling], then linear layers a step.

    The blocks have 64, 128, 256, 512 and 512 channels; what is left of the frame is averaged to 3x3, or stays as it is
    where fewer pixels are left (frames below 96 pixels). Two hidden linear layers of 2048 and 1024 neurons with dropout
    0.5 follow, and a readout without neurons, averaged over time.

    Parameters
    ----------
    spiking : callable
        Makes the spiking layer of a block from its channels; it gets currents ``[T, B, C, H, W]``.
    fc_spiking : callable
        Makes the spiking layer of a hidden linear layer from its features; it gets currents ``[T, B, F]``.
    in_channels, num_classes : int
        Channels of the clip, and number of classes.
    input_size : int
        Height and width of the clip in pixels; at least 32, which the five poolings turn into 1.
    width : int
        Channels of the first block; the other blocks and the hidden layers scale with it.
    before_norm : callable, optional
        Makes a module between convolution and batch norm of the second and third block.
    """

    def __init__(
        self,
        spiking: SpikingLayer,
        fc_spiking: SpikingLayer,
        in_channels: int,
        num_classes: int,
        input_size: int,
        width: int = CHANNELS[0],
        before_norm: Inserted | None = None,
    ) -> None:
        super().__init__()
        smallest = 2 ** len(CHANNELS)
        if input_size < smallest:
            raise InputError(f"VGG8: input_size = {input_size}; must be at least {smallest}, its poolings halve it")
        if width < 1:
            raise InputError(f"VGG8: width = {width}; must be at least 1 channel")
        blocks: list[nn.Module] = []
        for number, base in enumerate(CHANNELS):
            channels = base * width // CHANNELS[0]
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            layers["conv"] = OverTime(nn.Conv2d(in_channels, channels, 3, padding=1))
            if before_norm is not None and number in SCALES:
                layers["before_norm"] = before_norm(channels)
            layers["norm"] = OverTime(nn.BatchNorm2d(channels))
            layers.update(spiking(channels))
            layers["pool"] = OverTime(nn.MaxPool2d(2))
            blocks.append(nn.Sequential(layers))
            in_channels = channels
        self.blocks = nn.Sequential(*blocks)
        grid = min(GRID, input_size // smallest)
        self.pool = OverTime(nn.AdaptiveAvgPool2d(grid))
        features = in_channels * grid**2
        hidden: list[nn.Module] = []
        for base in HIDDEN:
            neurons = base * width // CHANNELS[0]
            layers = OrderedDict(linear=OverTime(nn.Linear(features, neurons)))
            layers.update(fc_spiking(neurons))
            layers["dropout"] = nn.Dropout(0.5)
            hidden.append(nn.Sequential(layers))
            features = neurons
        self.hidden = nn.Sequential(*hidden)
        self.readout = OverTime(nn.Linear(features, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify clips ``[T, B, C, H, W]`` (float): logits ``[B, classes]``, the mean over time of the readout."""
        features = self.pool(self.blocks(x)).flatten(2)
        logits: torch.Tensor = self.readout(self.hidden(features))
        return logits.mean(0)
