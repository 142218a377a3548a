"""The 128 x 128 event network with a vote: convolutional blocks, then fully connected layers whose outputs vote.

Architectures B and C of ASA-SNN (Yao et al., ICCV 2023) and the DVS128 network of TCJA-SNN (Zhu et al.); all three
descend from the network of parametric LIF neurons (Fang et al., ICCV 2021).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from spikefold.errors import InputError
from spikefold.models.backbones.spiking import SpikingLayer
from spikefold.models.over_time import OverTime

VOTES = 10
"""Output neurons a class; a class's score is their mean firing rate."""


class VotingNet(nn.Module):
    """Blocks [3x3 convolution without bias, batch norm, spiking layer, pooling by 2], two spiking layers, the vote.

    Each fully connected layer is [dropout, linear, spiking layer].

    Parameters
    ----------
    spiking : sequence of callables
        Makes the spiking layer of each convolutional block from its channels, currents ``[T, B, C, H, W]``: one factory
        a block, so that attention may sit in some of them only.
    fc_spiking : callable
        Makes the spiking layer of a fully connected layer from its features, currents ``[T, B, F]``.
    in_channels, num_classes : int
        Channels of the clip, and number of classes.
    input_size : int
        Height and width of the clip in pixels; each block halves it, rounding down.
    channels : sequence of int
        Channels of each convolutional block.
    hidden : int
        Features of the hidden fully connected layer.
    pool : callable
        Makes the pooling from its size: `torch.nn.MaxPool2d` or `torch.nn.AvgPool2d`.
    fc_bias : bool
        Whether the fully connected layers have a bias (ASA-SNN) or none (TCJA-SNN).

    Raises
    ------
    InputError
        A block would have no channels, or nothing is left of the frame after the last pooling.
    """

    ballot: torch.Tensor

    def __init__(
        self,
        spiking: Sequence[SpikingLayer],
        fc_spiking: SpikingLayer,
        in_channels: int,
        num_classes: int,
        input_size: int,
        channels: Sequence[int] = (128,) * 5,
        hidden: int = 512,
        pool: Callable[[int], nn.Module] = nn.MaxPool2d,
        fc_bias: bool = True,
    ) -> None:
        super().__init__()
        if min(channels) < 1:
            raise InputError(f"channels = {tuple(channels)}: each must be at least 1; take a larger width")
        side = input_size >> len(channels)
        if side == 0:
            raise InputError(
                f"input_size = {input_size}: {len(channels)} blocks halve the frame; take at least {2 ** len(channels)}"
            )
        blocks: list[nn.Module] = []
        for make_spiking, out_channels in zip(spiking, channels, strict=True):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            layers["conv"] = OverTime(nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False))
            layers["norm"] = OverTime(nn.BatchNorm2d(out_channels))
            layers.update(make_spiking(out_channels))
            layers["pool"] = OverTime(pool(2))
            blocks.append(nn.Sequential(layers))
            in_channels = out_channels
        self.blocks = nn.Sequential(*blocks)

        classifier: list[nn.Module] = []
        features = in_channels * side**2
        for out_features in (hidden, num_classes * VOTES):
            layers = OrderedDict()
            layers["dropout"] = nn.Dropout(0.5)
            layers["linear"] = OverTime(nn.Linear(features, out_features, bias=fc_bias))
            layers.update(fc_spiking(out_features))
            classifier.append(nn.Sequential(layers))
            features = out_features
        self.classifier = nn.Sequential(*classifier)
        # The vote as a matrix of ones, so that it deploys as any other readout.
        self.register_buffer("ballot", torch.eye(num_classes).repeat_interleave(VOTES, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify clips ``[T, B, C, H, W]`` (float): each class's mean firing rate, ``[B, classes]``."""
        features: torch.Tensor = self.blocks(x)
        spikes: torch.Tensor = self.classifier(features.flatten(2))
        votes = functional.linear(spikes, self.ballot) / VOTES
        return votes.mean(0)
