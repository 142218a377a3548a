"""A small network for event clips: three convolutional blocks and a linear readout.

It is the three-convolution network of ASA-SNN (ICCV 2023) made narrow; attention, where there is any, gates the
current between pooling and neuron.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

from spikefold.models.over_time import OverTime

CHANNELS = (16, 32, 32)
POOLING = (1, 2, 2)


class DVSNet(nn.Module):
    """Three blocks [3x3 convolution, batch norm, average pooling, attention, neuron], then a linear map a step.

    Parameters
    ----------
    neuron : callable
        Makes one neuron module for currents ``[T, B, C, H, W]``; called once a block.
    attention : callable, optional
        Makes one attention module for such currents; called once a block.
    in_channels, num_classes : int
        Channels of the clip, and number of classes.
    input_size : int
        Height and width of the clip in pixels; the second and third block halve it, rounding down.
    """

    def __init__(
        self,
        neuron: Callable[[], nn.Module],
        attention: Callable[[], nn.Module] | None,
        in_channels: int,
        num_classes: int,
        input_size: int,
    ) -> None:
        super().__init__()
        blocks = []
        for channels, pooling in zip(CHANNELS, POOLING, strict=True):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            layers["conv"] = OverTime(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False))
            layers["norm"] = OverTime(nn.BatchNorm2d(channels))
            if pooling > 1:
                layers["pool"] = OverTime(nn.AvgPool2d(pooling))
                input_size //= pooling
            if attention is not None:
                layers["attention"] = attention()
            layers["neuron"] = neuron()
            blocks.append(nn.Sequential(layers))
            in_channels = channels
        self.blocks = nn.Sequential(*blocks)
        self.readout = OverTime(nn.Linear(in_channels * input_size**2, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify clips ``[T, B, C, H, W]`` (float): logits ``[B, classes]``, the mean over time of the readout."""
        spikes: torch.Tensor = self.blocks(x)
        logits: torch.Tensor = self.readout(spikes.flatten(2))
        return logits.mean(0)
