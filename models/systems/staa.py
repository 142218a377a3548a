"""STAA-SNN (CVPR 2025): its attention and adaptive neuron in every spiking layer of ResNet-20 and ResNet-19.

A reconstruction: the code is not public, so there are no released parameter names, and what descriptions of the paper
leave open is an option here. The backbones are those of FSTA-SNN, by the same group.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from spikefold.models.attention.staa import Fusion, Position, PositionEncoding, STAALayer, StepPlace
from spikefold.models.backbones.spiking_resnet import SpikingResNet
from spikefold.models.learned_lif import AdaptiveLIF
from spikefold.models.systems.entry import Entry, Sizes


def _resnet(
    structure: str,
    sizes: Sizes,
    width: int = 64,
    reduction: int = 4,
    fusion: Fusion = "mul",
    position: Position = "channel",
    step: StepPlace = "post",
    step_reduction: int = 1,
    step_per_channel: bool = False,
    neuron_per_channel: bool = False,
    skip_probability: float = 0.1,
) -> SpikingResNet:
    """Make a network; the options are those of `STAALayer`, and whether each channel has its own decay and gain."""

    def layer(channels: int) -> Mapping[str, nn.Module]:
        made = STAALayer(
            AdaptiveLIF(channels if neuron_per_channel else None),
            sizes.time_steps,
            channels,
            reduction=reduction,
            fusion=fusion,
            position="channel" if position == "pixel" else position,
            step=step,
            step_reduction=step_reduction,
            step_per_channel=step_per_channel,
            skip_probability=skip_probability,
        )
        return {"staa": made}

    network = SpikingResNet(structure, layer, sizes.in_channels, sizes.num_classes, width, input_size=sizes.input_size)
    if position == "pixel":
        _encode_pixels(network, sizes)
    return network


def _encode_pixels(network: nn.Module, sizes: Sizes) -> None:
    """Give each layer a position encoding of its current's height and width, found by running shapes alone."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, STAALayer)}
    found: dict[str, tuple[int, int]] = {}

    def note(name: str, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found[name] = (inputs[0].shape[3], inputs[0].shape[4])

    probe = copy.deepcopy(network).to("meta").eval()
    for name in layers:
        probe.get_submodule(name).register_forward_pre_hook(partial(note, name))
    side = sizes.input_size
    with torch.no_grad():
        probe(torch.empty(sizes.time_steps, 1, sizes.in_channels, side, side, device="meta"))
    for name, layer in layers.items():
        layer.position = PositionEncoding(layer.time_steps, layer.channels, "pixel", found[name])


_SOURCE = "STAA-SNN (CVPR 2025), reconstructed, its code not being public"
ENTRIES: Mapping[str, Entry] = {
    "staa-resnet20": Entry(
        partial(_resnet, "resnet20"), Sizes(2, time_steps=10, num_classes=10, input_size=64), f"{_SOURCE}; event data"
    ),
    "staa-resnet19": Entry(
        partial(_resnet, "resnet19", width=128),
        Sizes(3, time_steps=4, num_classes=10, input_size=32),
        f"{_SOURCE}; CIFAR",
    ),
}
