"""The residual network of DTA-SNN (Kim et al.): blocks of MS-ResNet (Hu et al.), neurons before the convolutions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models.backbones.spiking import SpikingLayer, spiking
from spikefold.models.over_time import OverTime


class DTAResNet(nn.Module):
    """Stem [3x3 convolution, batch norm], an optional encoding, three stages of blocks, spikes, linear map a step.

    Parameters
    ----------
    encoding : callable, optional
        Makes what turns the current of the stem into the input of the first block, from the channels; without it the
        first block gets the current itself, as in MS-ResNet.
    layer : callable
        Makes the spiking layer in front of every convolution of a block, and the last one.
    in_channels, num_classes : int
        Channels of the clip, and number of classes.
    width : int
        Channels of the first stage; the stem has half of them, the second and third stage two and four times as many.
    blocks : sequence of int
        Blocks of each stage; the first block of the second and third stage halves height and width, rounding up.
    """

    def __init__(
        self,
        encoding: SpikingLayer | None,
        layer: SpikingLayer,
        in_channels: int,
        num_classes: int,
        width: int = 128,
        blocks: Sequence[int] = (3, 3, 2),
    ) -> None:
        super().__init__()
        if width < 2:
            raise InputError(f"width = {width}: must be at least 2; the stem has half as many channels")
        channels = width // 2
        self.stem = _conv_norm(in_channels, channels, 3, 1)
        self.encoding = nn.Identity() if encoding is None else spiking(encoding, channels)
        stages: list[nn.Module] = []
        for number, count in enumerate(blocks):
            out_channels = width * 2**number
            stage: list[nn.Module] = []
            for block in range(count):
                stride = 2 if number > 0 and block == 0 else 1
                stage.append(DTABlock(layer, channels, out_channels, stride))
                channels = out_channels
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.last = spiking(layer, channels)
        self.readout = OverTime(nn.Linear(channels, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify clips ``[T, B, C, H, W]`` (float): logits ``[B, classes]``, the mean over time of the readout."""
        spikes: torch.Tensor = self.last(self.stages(self.encoding(self.stem(x))))
        logits: torch.Tensor = self.readout(spikes.mean((3, 4)))
        return logits.mean(0)


class DTABlock(nn.Module):
    """A residual on the current: twice [spiking layer, 3x3 convolution, batch norm], plus the input.

    Where channels or size change, the input passes a strided 1x1 convolution and a batch norm; it is a real-valued
    current, so this one convolution is not driven by spikes (as in MS-ResNet).
    """

    def __init__(self, layer: SpikingLayer, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.spiking1 = spiking(layer, in_channels)
        self.conv1 = OverTime(nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False))
        self.norm1 = OverTime(nn.BatchNorm2d(channels))
        self.spiking2 = spiking(layer, channels)
        self.conv2 = OverTime(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        self.norm2 = OverTime(nn.BatchNorm2d(channels))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = _conv_norm(in_channels, channels, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map a current ``[T, B, C, H, W]`` to one of the block's channels, H and W divided by the stride."""
        out = self.norm1(self.conv1(self.spiking1(x)))
        out = self.norm2(self.conv2(self.spiking2(out)))
        total: torch.Tensor = out + self.shortcut(x)
        return total


def _conv_norm(in_channels: int, channels: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=OverTime(conv), norm=OverTime(nn.BatchNorm2d(channels))))
