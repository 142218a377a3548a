"""The event network of ASA-SNN and MA-SNN: three convolutional blocks, then fully connected ones, all spiking.

Architectures A and D of ASA-SNN (Yao et al., ICCV 2023) and the Gesture network of MA-SNN (Yao et al., TPAMI 2023).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models.backbones.spiking import SpikingLayer
from spikefold.models.over_time import OverTime


class ConvFCNet(nn.Module):
    """Blocks [3x3 convolution with bias, batch norm, average pooling, spiking layer], then [linear, spiking layer].

    A block with dropout applies it to its input and again to its spikes. The scores are the mean over time of the last
    layer's spikes, so they lie in [0, 1] while those spikes are binary.

    The modules are ``blocks.<i>.{conv,norm,pool,...}`` and ``classifier.<i>.{linear,norm,...}``, the dots standing for
    what the spiking layer's factory returns; `OverTime` adds ``.module`` to conv, norm, pool and linear.

    Parameters
    ----------
    spiking : callable
        Makes the spiking layer of a convolutional block from its channels; it gets currents ``[T, B, C, H, W]``.
    fc_spiking : callable
        Makes the spiking layer of a fully connected block from its features; it gets currents ``[T, B, F]``.
    in_channels, num_classes : int
        Channels of the clip; number of classes, which is that of the output neurons.
    input_size : int
        Height and width of the clip in pixels; pooling divides it, rounding down.
    channels, pooling : sequence of int
        Channels and average pooling (1: none) of each convolutional block.
    hidden : int
        Features of the hidden fully connected block.
    conv_dropout, fc_dropout : sequence of float
        Probability of dropout in each convolutional block and in the two fully connected ones; 0: none.
    fc_norm : bool
        True: a batch norm between linear map and spiking layer of the fully connected blocks (MA-SNN).

    Raises
    ------
    InputError
        A block would have no channels.
    """

    def __init__(
        self,
        spiking: SpikingLayer,
        fc_spiking: SpikingLayer,
        in_channels: int,
        num_classes: int,
        input_size: int,
        channels: Sequence[int] = (64, 128, 128),
        pooling: Sequence[int] = (1, 2, 2),
        hidden: int = 256,
        conv_dropout: Sequence[float] = (0.0, 0.0, 0.1),
        fc_dropout: Sequence[float] = (0.1, 0.1),
        fc_norm: bool = False,
    ) -> None:
        super().__init__()
        if min(channels) < 1:
            raise InputError(f"channels = {tuple(channels)}: each must be at least 1; take a larger width")
        blocks: list[nn.Module] = []
        for out_channels, factor, dropout in zip(channels, pooling, conv_dropout, strict=True):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            layers["conv"] = OverTime(nn.Conv2d(in_channels, out_channels, 3, padding=1))
            layers["norm"] = OverTime(nn.BatchNorm2d(out_channels))
            if factor > 1:
                layers["pool"] = OverTime(nn.AvgPool2d(factor))
                input_size //= factor
            layers.update(spiking(out_channels))
            blocks.append(_with_dropout(layers, dropout))
            in_channels = out_channels
        self.blocks = nn.Sequential(*blocks)

        classifier: list[nn.Module] = []
        features = in_channels * input_size**2
        for out_features, dropout in zip((hidden, num_classes), fc_dropout, strict=True):
            layers = OrderedDict()
            layers["linear"] = OverTime(nn.Linear(features, out_features))
            if fc_norm:
                layers["norm"] = OverTime(nn.BatchNorm1d(out_features))
            layers.update(fc_spiking(out_features))
            classifier.append(_with_dropout(layers, dropout))
            features = out_features
        self.classifier = nn.Sequential(*classifier)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify clips ``[T, B, C, H, W]`` (float): firing rates of the output neurons, ``[B, classes]``."""
        features: torch.Tensor = self.blocks(x)
        spikes: torch.Tensor = self.classifier(features.flatten(2))
        return spikes.mean(0)


def _with_dropout(layers: OrderedDict[str, nn.Module], probability: float) -> nn.Sequential:
    if probability == 0.0:
        return nn.Sequential(layers)
    before, after = nn.Dropout(probability), nn.Dropout(probability)
    return nn.Sequential(OrderedDict([("dropout_in", before), *layers.items(), ("dropout_out", after)]))
