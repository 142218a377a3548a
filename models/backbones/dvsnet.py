"""A small network for event clips: three convolutional blocks and a linear readout.

It is the three-convolution network of ASA-SNN (ICCV 2023) made narrow.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from spikefold.models.backbones.spiking import Inserted, SpikingLayer
from spikefold.models.over_time import OverTime

CHANNELS = (16, 32, 32)
POOLING = (1, 2, 2)


class DVSNet(nn.Module):
    """Three blocks [3x3 convolution, batch norm, average pooling, spiking layer], then a linear map a step.

    Parameters
    ----------
    spiking : callable
        Makes the spiking layer of a block; see `SpikingLayer`.
    in_channels, num_classes : int
        Channels of the clip, and number of classes.
    input_size : int
        Height and width of the clip in pixels; the second and third block halve it, rounding down.
    before_norm : callable, optional
        Makes a module between convolution and batch norm of the second and third block. The pooling then comes in
        front of it: what looks at several scales costs a quarter there.
    """

    def __init__(
        self,
        spiking: SpikingLayer,
        in_channels: int,
        num_classes: int,
        input_size: int,
        before_norm: Inserted | None = None,
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for channels, pooling in zip(CHANNELS, POOLING, strict=True):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            layers["conv"] = OverTime(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False))
            norm, pool = OverTime(nn.BatchNorm2d(channels)), OverTime(nn.AvgPool2d(pooling))
            input_size //= pooling
            if before_norm is not None and blocks:
                layers.update(pool=pool, before_norm=before_norm(channels), norm=norm)
            elif pooling > 1:
                layers.update(norm=norm, pool=pool)
            else:
                layers["norm"] = norm
            layers.update(spiking(channels))
            blocks.append(nn.Sequential(layers))
            in_channels = channels
        self.blocks = nn.Sequential(*blocks)
        self.readout = OverTime(nn.Linear(in_channels * input_size**2, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify clips ``[T, B, C, H, W]`` (float): logits ``[B, classes]``, the mean over time of the readout."""
        spikes: torch.Tensor = self.blocks(x)
        logits: torch.Tensor = self.readout(spikes.flatten(2))
        return logits.mean(0)
