"""MA-SNN (Yao et al., TPAMI 2023): its DVS128 Gesture network, with attention of any kind and without.

The neuron resets to its threshold, which then decays (``v_reset = v_threshold``): neither a hard reset to 0 nor a
subtraction. The fully connected layers have a batch norm and, where the attention has a temporal gate, one too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from spikefold.models.attention.ma import MA, MODULE_RULES, REPOSITORY, MAKind
from spikefold.models.backbones.conv_fc import ConvFCNet
from spikefold.models.backbones.spiking import SpikingLayer
from spikefold.models.released import ReleasedNames
from spikefold.models.systems.dvsnets import ma_neuron
from spikefold.models.systems.entry import Entry, Option, Sizes

_CHANNELS = (64, 128, 128)
_HIDDEN = 256


def _plain_layer(_: int) -> Mapping[str, nn.Module]:
    return {"neuron": ma_neuron()}


def _conv_fc(sizes: Sizes, spiking: SpikingLayer, fc_spiking: SpikingLayer, width: int) -> ConvFCNet:
    return ConvFCNet(
        spiking,
        fc_spiking,
        sizes.in_channels,
        sizes.num_classes,
        sizes.input_size,
        channels=[base * width // _CHANNELS[0] for base in _CHANNELS],
        hidden=_HIDDEN * width // _CHANNELS[0],
        conv_dropout=(0.0, 0.0, 0.0),
        fc_dropout=(0.0, 0.0),
        fc_norm=True,
    )


def _plain(sizes: Sizes, width: int = 64) -> ConvFCNet:
    return _conv_fc(sizes, _plain_layer, _plain_layer, width)


def _tcsa(
    sizes: Sizes, width: int = 64, kind: MAKind = "TCSA", c_ratio: int = 8, t_ratio: int = 5, rectify: bool = True
) -> ConvFCNet:
    def gated(channels: int) -> Mapping[str, nn.Module]:
        attention = MA(sizes.time_steps, channels, kind, c_ratio, t_ratio, rectify)
        return {"attention": attention, "neuron": ma_neuron()}

    def gated_in_time(features: int) -> Mapping[str, nn.Module]:
        attention = MA(sizes.time_steps, features, "TA", t_ratio=t_ratio, rectify=rectify)
        return {"attention": attention, "neuron": ma_neuron()}

    return _conv_fc(sizes, gated, gated_in_time if kind.startswith("T") else _plain_layer, width)


_RELEASED = ReleasedNames(
    REPOSITORY,
    rules=(
        *MODULE_RULES,
        (r"^convAttLIF(\d)\.conv2d\.", r"blocks.\1.conv.module."),
        (r"^FC(\d)\.linear\.", r"classifier.\1.linear.module."),
        (r"\.BNLayer\.", ".norm.module."),
        (r"^convAttLIF(\d)\.", r"blocks.\1."),
        (r"^FC(\d)\.", r"classifier.\1."),
    ),
)
_GATES = (("T", "convAttLIF0.attention.ta."), ("C", "convAttLIF0.attention.ca."), ("S", "convAttLIF0.attention.sa."))


def _build_arguments(released: Mapping[str, torch.Tensor]) -> dict[str, Option]:
    """Read what `build` needs from a checkpoint; KeyError names what it lacks.

    Weights of a kind without a temporal gate do not tell T.
    """
    width, in_channels = released["convAttLIF0.conv2d.weight"].shape[:2]
    channels = len(released["convAttLIF2.conv2d.bias"])
    letters = [letter for letter, prefix in _GATES if any(name.startswith(prefix) for name in released)]
    arguments: dict[str, Option] = {
        "in_channels": in_channels,
        "num_classes": len(released["FC1.linear.bias"]),
        "input_size": 4 * math.isqrt(released["FC0.linear.weight"].shape[1] // channels),
        "width": width,
        "kind": "".join([*letters, "A"]),
    }
    if "T" in letters:
        hidden, time_steps = released["convAttLIF0.attention.ta.sharedMLP.0.weight"].shape[:2]
        arguments |= {"time_steps": time_steps, "t_ratio": time_steps // hidden}
    if "C" in letters:
        arguments["c_ratio"] = channels // len(released["convAttLIF2.attention.ca.sharedMLP.0.weight"])
    return arguments


_SIZES = Sizes(in_channels=2, time_steps=60, num_classes=11, input_size=32)
_SOURCE = "MA-SNN (TPAMI 2023), its DVS128 Gesture network"
ENTRIES: Mapping[str, Entry] = {
    "plain-ma-a": Entry(_plain, _SIZES, f"{_SOURCE} without attention", "none"),
    "tcsa-a": Entry(_tcsa, _SIZES, _SOURCE, released=_RELEASED, build_arguments=_build_arguments),
}
