"""Residual networks with membrane shortcuts (MS-ResNet, Hu et al.): real-valued stream, spikes in front of every map.

    block(x) = norm(conv(spikes(norm(conv(spikes(x)))))) + shortcut(x)

The stream x is a sum of currents, not spikes: it only ever enters neurons, and, where a stage begins, the shortcut's
convolution. On spiking hardware the sum is the fan-in of the next neuron. Batch norms run over steps, samples and
pixels and start with weight 0.5, the threshold of the neurons, or 0 at the end of a residual function.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, get_args

import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models.backbones.spiking import Inserted, SpikingLayer
from spikefold.models.backbones.spiking import spiking as spiking_module
from spikefold.models.over_time import OverTime

Shortcut = Literal["membrane", "spikes"]
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 104: (3, 8, 32, 8)}
"""Residual blocks in each of the four stages, by depth."""

CHANNELS = (64, 128, 256, 512)
_HALVINGS = 5


class MSBlock(nn.Module):
    """One residual block; see the module's equation.

    Parameters
    ----------
    spiking : callable
        Makes the two spiking layers; see `SpikingLayer`.
    in_channels, channels : int
        Channels of the incoming and outgoing stream.
    stride : int
        1: the stream passes by unchanged. 2: height and width are halved and the shortcut maps it.
    pooled_shortcut : bool
        True: the shortcut averages 2x2 pixels before its 1x1 convolution; False: the convolution has the stride.
    shortcut : {"membrane", "spikes"}
        What the shortcut's convolution sees; see `MSResNet`.
    before_norm : callable, optional
        Makes a module between the first convolution and its batch norm.
    """

    def __init__(
        self,
        spiking: SpikingLayer,
        in_channels: int,
        channels: int,
        stride: int,
        pooled_shortcut: bool,
        shortcut: Shortcut,
        before_norm: Inserted | None,
    ) -> None:
        super().__init__()
        self.spiking1 = spiking_module(spiking, in_channels)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = _conv(in_channels, channels, 3, stride)
        if before_norm is not None:
            layers["before_norm"] = before_norm(channels)
        layers["norm1"] = _norm(channels)
        layers["spiking2"] = spiking_module(spiking, channels)
        layers["conv2"] = _conv(channels, channels, 3)
        layers["norm2"] = _norm(channels, 0.0)
        self.residual = nn.Sequential(layers)
        self.shortcut_sees_spikes = shortcut == "spikes"
        self.shortcut: nn.Module | None = None
        if stride > 1:
            layers = OrderedDict(pool=OverTime(nn.AvgPool2d(stride))) if pooled_shortcut else OrderedDict()
            layers["conv"] = _conv(in_channels, channels, 1, 1 if pooled_shortcut else stride)
            layers["norm"] = _norm(channels)
            self.shortcut = nn.Sequential(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map the stream ``[T, B, C, H, W]`` to the next one."""
        spikes = self.spiking1(x)
        residual: torch.Tensor = self.residual(spikes)
        if self.shortcut is None:
            return residual + x
        shortcut: torch.Tensor = self.shortcut(spikes if self.shortcut_sees_spikes else x)
        return residual + shortcut


class MSResNet(nn.Module):
    """MS-ResNet-18, -34 or -104.

    A stem halves the frame without neuron or pooling: one 7x7 convolution, three 3x3 ones in the deepest network. Four
    stages of 64, 128, 256 and 512 channels follow, each beginning with a block of stride 2, then a spiking layer, the
    mean over pixels and steps, dropout 0.2 and a linear map.

    Parameters
    ----------
    spiking : callable
        Makes the spiking layers; see `SpikingLayer`.
    in_channels, num_classes : int
        Channels of the clip, and number of classes.
    input_size : int
        Height and width of the clip in pixels. Depth 104 averages 2x2 pixels in its shortcuts and needs a multiple
        of 32.
    depth : {18, 34, 104}
        See `BLOCKS`.
    width : int
        Channels of the first stage; the other stages scale with it.
    shortcut : {"membrane", "spikes"}
        ``membrane``, as published: a shortcut's convolution maps the stream itself, so it multiplies real values.
        ``spikes``: it maps the spikes of the block's first layer, which makes every map after the stem spike driven;
        the authors name this the strict replacement.
    before_norm : callable, optional
        Makes a module between the first convolution of every residual function and its batch norm.
    """

    def __init__(
        self,
        spiking: SpikingLayer,
        in_channels: int,
        num_classes: int,
        input_size: int,
        depth: int = 18,
        width: int = CHANNELS[0],
        shortcut: Shortcut = "membrane",
        before_norm: Inserted | None = None,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise InputError(f"MSResNet: depth = {depth}; must be one of {', '.join(map(str, BLOCKS))}")
        if shortcut not in get_args(Shortcut):
            raise InputError(f"MSResNet: shortcut = {shortcut!r}; must be one of {', '.join(get_args(Shortcut))}")
        if width < 1:
            raise InputError(f"MSResNet: width = {width}; must be at least 1 channel")
        deepest = depth == max(BLOCKS)
        if deepest and input_size % 2**_HALVINGS:
            raise InputError(
                f"MSResNet: input_size = {input_size}; depth {depth} halves it {_HALVINGS} times without remainder: "
                f"choose a multiple of {2**_HALVINGS}"
            )
        stem: OrderedDict[str, nn.Module] = OrderedDict()
        if deepest:
            stem["conv1"] = _conv(in_channels, width, 3, 2)
            stem["conv2"] = _conv(width, width, 3)
            stem["conv3"] = _conv(width, width, 3)
        else:
            stem["conv"] = _conv(in_channels, width, 7, 2)
        stem["norm"] = _norm(width)
        self.stem = nn.Sequential(stem)
        stages: list[nn.Module] = []
        incoming = width
        for blocks, base in zip(BLOCKS[depth], CHANNELS, strict=True):
            channels = base * width // CHANNELS[0]
            stage: list[nn.Module] = []
            for stride in (2, *[1] * (blocks - 1)):
                stage.append(MSBlock(spiking, incoming, channels, stride, deepest, shortcut, before_norm))
                incoming = channels
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.spiking = spiking_module(spiking, incoming)
        self.dropout = nn.Dropout(0.2)
        self.readout = nn.Linear(incoming, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify clips ``[T, B, C, H, W]`` (float): logits ``[B, classes]`` of the mean rates."""
        spikes: torch.Tensor = self.spiking(self.stages(self.stem(x)))
        logits: torch.Tensor = self.readout(self.dropout(spikes.mean((3, 4)).mean(0)))
        return logits


def _conv(in_channels: int, channels: int, kernel: int, stride: int = 1) -> OverTime:
    return OverTime(nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False))


def _norm(channels: int, weight: float = 0.5) -> OverTime:
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.weight, weight)
    return OverTime(norm)
