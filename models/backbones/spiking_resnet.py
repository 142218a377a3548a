"""Spiking residual networks with the neuron behind the addition, as in FSTA-SNN (Yu et al., AAAI 2025).

A block takes spikes and returns spikes:
    u = spiking1(BN(conv3x3(s))),   out = spiking2(BN(conv3x3(u)) + shortcut(s)),
so everything but the first convolution multiplies spikes. A batch norm sees all steps of a clip as one batch: one
affine map for all of them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models.backbones.spiking import SpikingLayer
from spikefold.models.backbones.spiking import spiking as spiking_module
from spikefold.models.over_time import OverTime


@dataclass(frozen=True)
class ResNetStructure:
    """What tells one spiking ResNet from another.

    Attributes
    ----------
    channels, blocks : tuple of int
        Channels and number of blocks of each stage. Every stage but the first halves height and width in its first
        block.
    stem_layers : int
        Convolutions of the stem, each with batch norm and a spiking layer.
    stem_kernel, stem_stride : int
        Kernel side of the stem's convolutions, which are padded by half of it, and stride of the first of them.
    stem_pool : tuple of int, optional
        Kernel, stride and padding of the average pooling behind the stem.
    pooled_shortcut : bool
        How a shortcut halves its spikes: average pooling before a 1x1 convolution (True), or that convolution's stride.
    """

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    stem_layers: int = 1
    stem_kernel: int = 3
    stem_stride: int = 1
    stem_pool: tuple[int, int, int] | None = None
    pooled_shortcut: bool = False

    def __post_init__(self) -> None:
        """Refuse stages of which only one of the two is given."""
        if not 0 < len(self.channels) == len(self.blocks):
            raise InputError(f"channels = {self.channels}, blocks = {self.blocks}: must give both for each stage")

    @property
    def side_multiple(self) -> int:
        """What the sides of a frame must be multiples of.

        Pooling drops a last odd row where a strided convolution keeps it, so a pooled shortcut meets its branch only
        where every halving is even.
        """
        if not self.pooled_shortcut:
            return 1
        pooled = self.stem_pool[1] if self.stem_pool else 1
        return self.stem_stride * pooled * int(2 ** (len(self.blocks) - 1))


STRUCTURES: Mapping[str, ResNetStructure] = {
    "resnet20": ResNetStructure(
        (64, 128, 256, 512), (2, 2, 2, 2), stem_layers=3, stem_pool=(2, 2, 0), pooled_shortcut=True
    ),
    "resnet19": ResNetStructure((128, 256, 512), (3, 3, 2)),
    "resnet18": ResNetStructure((64, 128, 256, 512), (2, 2, 2, 2), stem_kernel=7, stem_stride=2, stem_pool=(3, 2, 1)),
    "resnet34": ResNetStructure((64, 128, 256, 512), (3, 4, 6, 3), stem_kernel=7, stem_stride=2, stem_pool=(3, 2, 1)),
}
"""The four networks of FSTA-SNN's release: CIFAR10 and event data, CIFAR100, and two for ImageNet."""


class SpikingResNet(nn.Module):
    """A stem, stages of residual blocks, the average of the last spikes over the frame, a linear map a step.

    Convolutions start from N(0, sqrt(2 / (k^2 C_out))) and the linear map from N(0, 1 / C_in), both written as
    (mean, standard deviation), its bias at 0.

    Parameters
    ----------
    structure : str or ResNetStructure
        ``resnet20``, ``resnet19``, ``resnet18`` or ``resnet34`` (`STRUCTURES`), or a structure of one's own.
    spiking : callable
        Makes the spiking layers, two a block, and those of the stem; see `SpikingLayer`.
    in_channels, num_classes : int
        Channels of the clip, and number of classes.
    width : int, optional
        Channels of stem and first stage; those of the other stages scale with it. As in the structure without it.
    stem_spiking : callable, optional
        Makes the spiking layers of the stem, where they differ from the blocks'.
    input_size : int, optional
        Height and width of the clips in pixels, if these are to be checked now rather than by `forward`.

    Raises
    ------
    InputError
        There is no such structure, the width is below 1, or frames of that size do not go through.
    """

    def __init__(
        self,
        structure: str | ResNetStructure,
        spiking: SpikingLayer,
        in_channels: int,
        num_classes: int,
        width: int | None = None,
        stem_spiking: SpikingLayer | None = None,
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(structure, str):
            if structure not in STRUCTURES:
                raise InputError(f"structure = {structure!r}: must be one of {', '.join(STRUCTURES)}")
            structure = STRUCTURES[structure]
        width = structure.channels[0] if width is None else width
        if width < 1:
            raise InputError(f"width = {width}: must be at least 1")
        self.structure = structure
        self.in_channels = in_channels
        if input_size is not None:
            self._check_sides("input_size", input_size, input_size)
        stem: list[nn.Module] = []
        channels = in_channels
        for layer in range(structure.stem_layers):
            conv = convolution(channels, width, structure.stem_kernel, 1 if layer else structure.stem_stride)
            made = (stem_spiking or spiking)(width)
            stem.append(nn.Sequential(OrderedDict(conv=conv, norm=OverTime(nn.BatchNorm2d(width)), **made)))
            channels = width
        if structure.stem_pool is not None:
            stem.append(OverTime(nn.AvgPool2d(*structure.stem_pool)))
        self.stem = nn.Sequential(*stem)
        stages: list[nn.Module] = []
        for stage, (full, count) in enumerate(zip(structure.channels, structure.blocks, strict=True)):
            blocks: list[nn.Module] = []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                out_channels = full * width // structure.channels[0]
                blocks.append(ResidualBlock(spiking, channels, out_channels, stride, structure.pooled_shortcut))
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        readout = nn.Linear(channels, num_classes)
        nn.init.normal_(readout.weight, 0.0, 1.0 / channels)
        nn.init.zeros_(readout.bias)
        self.readout = OverTime(readout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify clips ``[T, B, C, H, W]`` (float): logits ``[B, classes]``, the mean over time of the readout.

        Raises
        ------
        InputError
            The clip has another rank or number of channels, or H or W is no multiple of what the structure needs (16
            for ResNet-20).
        """
        if x.dim() != 5 or x.shape[2] != self.in_channels:
            raise InputError(f"clip: shape {tuple(x.shape)}; expected [T, B, C, H, W] with C = {self.in_channels}")
        self._check_sides("clip: height, width", x.shape[3], x.shape[4])
        spikes: torch.Tensor = self.stages(self.stem(x))
        logits: torch.Tensor = self.readout(spikes.mean((3, 4)))
        return logits.mean(0)

    def _check_sides(self, field: str, height: int, width: int) -> None:
        multiple = self.structure.side_multiple
        if height % multiple or width % multiple:
            shown = height if field == "input_size" else f"{height}, {width}"
            raise InputError(
                f"{field} = {shown}: must be a multiple of {multiple}, or pooled shortcuts do not fit their branches; "
                "crop, pad or resize the frames"
            )


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut whose currents are added before the second spiking layer.

    Parameters
    ----------
    spiking : callable
        Makes the two spiking layers; see `SpikingLayer`.
    in_channels, out_channels : int
        Channels of the spikes that come in and go out.
    stride : int
        Stride of the first convolution.
    pooled_shortcut : bool
        Of a shortcut that changes the shape: average-pool by the stride before the 1x1 convolution (True), or stride
        that convolution.
    """

    def __init__(
        self, spiking: SpikingLayer, in_channels: int, out_channels: int, stride: int, pooled_shortcut: bool
    ) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, out_channels, 3, stride)
        self.norm1 = OverTime(nn.BatchNorm2d(out_channels))
        self.spiking1 = spiking_module(spiking, out_channels)
        self.conv2 = convolution(out_channels, out_channels, 3)
        self.norm2 = OverTime(nn.BatchNorm2d(out_channels))
        shortcut: OrderedDict[str, nn.Module] = OrderedDict()
        if stride != 1 or in_channels != out_channels:
            if pooled_shortcut:
                shortcut["pool"] = OverTime(nn.AvgPool2d(stride))
            shortcut["conv"] = convolution(in_channels, out_channels, 1, 1 if pooled_shortcut else stride)
            shortcut["norm"] = OverTime(nn.BatchNorm2d(out_channels))
        self.shortcut = nn.Sequential(shortcut)
        self.spiking2 = spiking_module(spiking, out_channels)

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        """Map ``[T, B, C, H, W]`` to ``[T, B, out_channels, H / stride, W / stride]``."""
        hidden = self.spiking1(self.norm1(self.conv1(spikes)))
        out: torch.Tensor = self.spiking2(self.norm2(self.conv2(hidden)) + self.shortcut(spikes))
        return out


def convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> OverTime:
    """Make a convolution without bias, padded by half its kernel, initialised as the authors do."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2.0 / (kernel**2 * out_channels)))
    return OverTime(conv)
