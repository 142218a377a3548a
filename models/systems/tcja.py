"""TCJA-SNN (Zhu et al.): its DVS128 network, with attention on the spikes of the last two blocks and without."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from spikefold.models.attention.tcja import REPOSITORY, TCJA
from spikefold.models.backbones.spiking import SpikingLayer
from spikefold.models.backbones.voting import VOTES, VotingNet
from spikefold.models.lif import LIF
from spikefold.models.released import ReleasedNames
from spikefold.models.systems.entry import Entry, Option, Sizes

_BLOCKS = 5
_GATED_BLOCKS = 2


def _plain(_: int) -> Mapping[str, nn.Module]:
    return {"neuron": LIF.from_tau(2.0, surrogate="atan", detach_reset=True)}


def _make(sizes: Sizes, last_blocks: SpikingLayer, width: int) -> VotingNet:
    return VotingNet(
        [_plain] * (_BLOCKS - _GATED_BLOCKS) + [last_blocks] * _GATED_BLOCKS,
        _plain,
        sizes.in_channels,
        sizes.num_classes,
        sizes.input_size,
        channels=[width] * _BLOCKS,
        hidden=4 * width,
        fc_bias=False,
    )


def _plain_dvs128(sizes: Sizes, width: int = 128) -> VotingNet:
    return _make(sizes, _plain, width)


def _tcja_dvs128(sizes: Sizes, width: int = 128) -> VotingNet:
    return _make(sizes, lambda channels: {**_plain(channels), "attention": TCJA(sizes.time_steps, channels)}, width)


_RELEASED = ReleasedNames(
    REPOSITORY,
    rules=(
        (r"^conv\.0\.", "blocks.0."),
        (r"^conv\.3\.", "blocks.1."),
        (r"^conv\.6\.", "blocks.2."),
        (r"^conv\.9\.", "blocks.3."),
        (r"^conv\.13\.", "blocks.4."),
        (r"^(blocks\.\d)\.0\.", r"\1.conv.module."),
        (r"^(blocks\.\d)\.1\.", r"\1.norm.module."),
        (r"^conv\.11\.", "blocks.3.attention."),
        (r"^conv\.15\.", "blocks.4.attention."),
        (r"\.attention\.conv_c\.", ".attention.channel_conv."),
        (r"\.attention\.conv\.", ".attention.time_conv."),
        (r"^fc\.2\.0\.", "classifier.0.linear.module."),
        (r"^fc\.5\.0\.", "classifier.1.linear.module."),
    ),
)


def _build_arguments(released: Mapping[str, torch.Tensor]) -> dict[str, Option]:
    """Read what `build` needs from a checkpoint; KeyError names what it lacks."""
    width, in_channels = released["conv.0.0.weight"].shape[:2]
    return {
        "in_channels": in_channels,
        "time_steps": len(released["conv.11.conv.weight"]),
        "num_classes": len(released["fc.5.0.weight"]) // VOTES,
        "input_size": 2**_BLOCKS * math.isqrt(released["fc.2.0.weight"].shape[1] // width),
        "width": width,
    }


_SIZES = Sizes(in_channels=2, time_steps=20, num_classes=11, input_size=128)
_SOURCE = "TCJA-SNN, its DVS128 Gesture network"
ENTRIES: Mapping[str, Entry] = {
    "plain-dvs128": Entry(_plain_dvs128, _SIZES, f"{_SOURCE} without attention", "none"),
    "tcja-dvs128": Entry(_tcja_dvs128, _SIZES, _SOURCE, released=_RELEASED, build_arguments=_build_arguments),
}
