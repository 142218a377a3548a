"""ASA-SNN (Yao et al., ICCV 2023): architectures A to D, with its attention and without.

A and D are small networks of the group's own neuron, B and C larger ones of SpikingJelly's. As released, attention sits
in the convolutional blocks alone, after the pooling of A and D and before that of B and C, and B and C take no
reduction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import nn

from spikefold.models.attention.asa import ASA, REPOSITORY, MaskMode, MaskRule
from spikefold.models.backbones.conv_fc import ConvFCNet
from spikefold.models.backbones.spiking import SpikingLayer
from spikefold.models.backbones.voting import VOTES, VotingNet
from spikefold.models.learned_lif import ParametricLIF
from spikefold.models.lif import LIF
from spikefold.models.released import ReleasedNames
from spikefold.models.systems.dvsnets import asa_neuron
from spikefold.models.systems.entry import Entry, Option, Sizes
from spikefold.models.unused import Unused

_CHANNELS_A = (64, 128, 128)
_CHANNELS_D = (32, 32, 32)
_CHANNELS_B = (128,) * 5
_CHANNELS_C = (64, 128, 128, 128, 128)


def _neuron_a(_: int) -> Mapping[str, nn.Module]:
    return {"neuron": asa_neuron()}


def _neuron_b(_: int) -> Mapping[str, nn.Module]:
    return {"neuron": ParametricLIF(init_tau=2.0)}


def _neuron_c(_: int) -> Mapping[str, nn.Module]:
    return {"neuron": LIF.from_tau(2.0, surrogate="atan")}


def _with_dead_attention(channels: int) -> Mapping[str, nn.Module]:
    """Let the neuron hold a second attention for T = 1, which the released neuron makes and by default never calls."""
    layer = _neuron_a(channels)
    layer["neuron"].add_module(
        "unused", Unused(alpha=(1,), beta=(1,), fc=(1, 1), conv1=(1, 2, 3, 3), conv2=(1, 2, 3, 3))
    )
    return layer


def _gated(
    neuron: SpikingLayer, time_steps: int, reduction: int, lam: float, mask_mode: MaskMode, mask_rule: MaskRule
) -> SpikingLayer:
    """Put attention in front of a layer's neuron."""
    return lambda channels: {"attention": ASA(time_steps, reduction, lam, mask_mode, mask_rule), **neuron(channels)}


def _conv_fc(sizes: Sizes, spiking: SpikingLayer, channels: Sequence[int], width: int, dropout: float) -> ConvFCNet:
    return ConvFCNet(
        spiking,
        _neuron_a,
        sizes.in_channels,
        sizes.num_classes,
        sizes.input_size,
        channels=[base * width // channels[0] for base in channels],
        hidden=256 * width // channels[0],
        conv_dropout=(0.0, 0.0, dropout),
        fc_dropout=(dropout, dropout),
    )


def _voting(
    sizes: Sizes, spiking: SpikingLayer, fc_spiking: SpikingLayer, channels: Sequence[int], width: int, average: bool
) -> VotingNet:
    return VotingNet(
        [spiking] * len(channels),
        fc_spiking,
        sizes.in_channels,
        sizes.num_classes,
        sizes.input_size,
        channels=[base * width // channels[0] for base in channels],
        hidden=512 * width // channels[0],
        pool=nn.AvgPool2d if average else nn.MaxPool2d,
    )


def _plain_conv_fc(channels: Sequence[int], dropout: float, sizes: Sizes, width: int) -> ConvFCNet:
    return _conv_fc(sizes, _neuron_a, channels, width, dropout)


def _asa_conv_fc(
    channels: Sequence[int],
    dropout: float,
    sizes: Sizes,
    width: int,
    reduction: int,
    lam: float = 0.5,
    mask_mode: MaskMode = "per_sample",
    mask_rule: MaskRule = "xor",
    dead_parameters: bool = True,
) -> ConvFCNet:
    neuron = _with_dead_attention if dead_parameters else _neuron_a
    spiking = _gated(neuron, sizes.time_steps, reduction, lam, mask_mode, mask_rule)
    return _conv_fc(sizes, spiking, channels, width, dropout)


def _plain_voting(channels: Sequence[int], average: bool, neuron: SpikingLayer, sizes: Sizes, width: int) -> VotingNet:
    return _voting(sizes, neuron, neuron, channels, width, average)


def _asa_voting(
    channels: Sequence[int],
    average: bool,
    neuron: SpikingLayer,
    sizes: Sizes,
    width: int,
    lam: float = 0.5,
    mask_mode: MaskMode = "per_sample",
    mask_rule: MaskRule = "xor",
) -> VotingNet:
    spiking = _gated(neuron, sizes.time_steps, 1, lam, mask_mode, mask_rule)
    return _voting(sizes, spiking, neuron, channels, width, average)


_A = (_CHANNELS_A, 0.1)
_B = (_CHANNELS_B, False, _neuron_b)
_C = (_CHANNELS_C, True, _neuron_c)
_D = (_CHANNELS_D, 0.5)
"""Channels, then dropout (A, D), or whether pooling averages and the neuron (B, C)."""

_RELEASED_A_AND_D = ReleasedNames(
    REPOSITORY,
    rules=(
        (r"^ConvAttLIFs\.(\d+)\.(conv|bn)\.0\.", r"blocks.\1.\2.module."),
        (r"\.bn\.module\.", ".norm.module."),
        (r"^ConvAttLIFs\.(\d+)\.attn\.", r"blocks.\1.attention."),
        (r"^ConvAttLIFs\.(\d+)\.spike\.0\.attn\.(\w+)(\.weight)?$", r"blocks.\1.neuron.unused.\2"),
        (r"^FCs\.(\d+)\.linear\.0\.", r"classifier.\1.linear.module."),
    ),
    dead=(r"\.spike\.0\.attn\.",),
)
_RELEASED_B = ReleasedNames(
    REPOSITORY,
    rules=(
        (r"^ConvAttLIFs\.(\d+)\.0\.(conv|bn)\.0\.", r"blocks.\1.\2.module."),
        (r"\.bn\.module\.", ".norm.module."),
        (r"^ConvAttLIFs\.(\d+)\.0\.attn\.", r"blocks.\1.attention."),
        (r"^ConvAttLIFs\.(\d+)\.0\.spike\.0\.w$", r"blocks.\1.neuron.w"),
        (r"^FCs\.(\d+)\.1\.fc\.", r"classifier.\1.linear.module."),
        (r"^FCs\.(\d+)\.1\.spike\.0\.w$", r"classifier.\1.neuron.w"),
    ),
)


def _arguments_of_a_and_d(released: Mapping[str, torch.Tensor]) -> dict[str, Option]:
    """Read what `build` needs from a checkpoint of A or D; KeyError names what it lacks."""
    width, in_channels = released["ConvAttLIFs.0.conv.0.weight"].shape[:2]
    channels = len(released["ConvAttLIFs.2.conv.0.bias"])
    mixing = "ConvAttLIFs.0.attn.fc.weight"
    if mixing in released:
        time_steps, reduction = len(released[mixing]), 1
    else:
        hidden, time_steps = released["ConvAttLIFs.0.attn.fc.0.weight"].shape
        reduction = time_steps // hidden
    return {
        "in_channels": in_channels,
        "time_steps": time_steps,
        "num_classes": len(released["FCs.1.linear.0.weight"]),
        "input_size": 4 * math.isqrt(released["FCs.0.linear.0.weight"].shape[1] // channels),
        "width": width,
        "reduction": reduction,
        "dead_parameters": "ConvAttLIFs.0.spike.0.attn.alpha" in released,
    }


def _arguments_of_b(released: Mapping[str, torch.Tensor]) -> dict[str, Option]:
    """Read what `build` needs from a checkpoint of B; KeyError names what it lacks."""
    width, in_channels = released["ConvAttLIFs.0.0.conv.0.weight"].shape[:2]
    return {
        "in_channels": in_channels,
        "time_steps": len(released["ConvAttLIFs.0.0.attn.fc.weight"]),
        "num_classes": len(released["FCs.1.1.fc.weight"]) // VOTES,
        "input_size": 2 ** len(_CHANNELS_B) * math.isqrt(released["FCs.0.1.fc.weight"].shape[1] // width),
        "width": width,
    }


_SIZES_A = Sizes(in_channels=2, time_steps=60, num_classes=11, input_size=32)
_SIZES_B = Sizes(in_channels=2, time_steps=20, num_classes=11, input_size=128)
_SIZES_D = Sizes(in_channels=2, time_steps=60, num_classes=20, input_size=32)

_SOURCE = "ASA-SNN (ICCV 2023), architecture"
ENTRIES: Mapping[str, Entry] = {
    "plain-a": Entry(partial(_plain_conv_fc, *_A, width=64), _SIZES_A, f"{_SOURCE} A without attention", "none"),
    "plain-b": Entry(partial(_plain_voting, *_B, width=128), _SIZES_B, f"{_SOURCE} B without attention", "none"),
    "plain-c": Entry(partial(_plain_voting, *_C, width=64), _SIZES_B, f"{_SOURCE} C without attention", "none"),
    "plain-d": Entry(partial(_plain_conv_fc, *_D, width=32), _SIZES_D, f"{_SOURCE} D without attention", "none"),
    "asa-a": Entry(
        partial(_asa_conv_fc, *_A, width=64, reduction=4),
        _SIZES_A,
        f"{_SOURCE} A: DVS128 Gesture; Gait-day with 20 classes",
        released=_RELEASED_A_AND_D,
        build_arguments=_arguments_of_a_and_d,
    ),
    "asa-b": Entry(
        partial(_asa_voting, *_B, width=128),
        _SIZES_B,
        f"{_SOURCE} B: DVS128 Gesture",
        released=_RELEASED_B,
        build_arguments=_arguments_of_b,
    ),
    "asa-c": Entry(partial(_asa_voting, *_C, width=64), _SIZES_B, f"{_SOURCE} C"),
    "asa-d": Entry(
        partial(_asa_conv_fc, *_D, width=32, reduction=8),
        _SIZES_D,
        f"{_SOURCE} D: Gait-night",
        released=_RELEASED_A_AND_D,
        build_arguments=_arguments_of_a_and_d,
    ),
}
