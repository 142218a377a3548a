"""DTA-SNN (Kim et al.): its residual network of 18 layers, with dual attention on the first spikes and without."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from spikefold.models.attention.dta import DTA, MODULE_RULES, REPOSITORY
from spikefold.models.backbones.dta_resnet import DTAResNet
from spikefold.models.lif import LIF
from spikefold.models.released import ReleasedNames
from spikefold.models.systems.entry import Entry, Option, Sizes


def dta_neuron() -> LIF:
    """Make the neuron: decay 1/2, threshold 1 (strict), hard reset to 0 with its gradient, triangular surrogate."""
    return LIF(decay=0.5, v_threshold=1.0, strict=True, surrogate="triangular")


def _plain_layer(_: int) -> Mapping[str, nn.Module]:
    return {"neuron": dta_neuron()}


def _plain(sizes: Sizes, width: int = 128) -> DTAResNet:
    return DTAResNet(None, _plain_layer, sizes.in_channels, sizes.num_classes, width)


def _dta(sizes: Sizes, width: int = 128) -> DTAResNet:
    def encoding(channels: int) -> Mapping[str, nn.Module]:
        return {"attention": DTA(sizes.time_steps, channels, dta_neuron())}

    return DTAResNet(encoding, _plain_layer, sizes.in_channels, sizes.num_classes, width)


_RELEASED = ReleasedNames(
    REPOSITORY,
    rules=(
        (r"^encoding\.", "encoding.attention."),
        *MODULE_RULES,
        (r"^input_conv\.", "stem."),
        (r"^layer1\.", "stages.0."),
        (r"^layer2\.", "stages.1."),
        (r"^layer3\.", "stages.2."),
        (r"\.downsample\.", ".shortcut."),
        (r"\.layer\.module\.", ".conv.module."),
        (r"\.bn\.bn\.", ".norm.module."),
        (r"\.conv([12])\.weight$", r".conv\1.module.weight"),
        (r"\.bn([12])\.bn\.", r".norm\1.module."),
        (r"^fc\.conv\.", "readout."),
    ),
    # A convolution and a batch norm each sit in wrappers that register them again.
    aliases=(
        (r"\.seqbn\.module\.", ".bn."),
        (r"\.conv([12])_s\.layer\.module\.", r".conv\1."),
        (r"\.conv([12])_s\.bn\.", r".bn\1."),
    ),
)


def _build_arguments(released: Mapping[str, torch.Tensor]) -> dict[str, Option]:
    """Read what `build` needs from a checkpoint; KeyError names what it lacks."""
    return {
        "in_channels": released["input_conv.layer.module.weight"].shape[1],
        "time_steps": len(released["encoding.T_XA.conv_t.weight"]),
        "num_classes": len(released["fc.layer.module.bias"]),
        "width": len(released["layer1.0.conv1.weight"]),
    }


_SIZES = Sizes(in_channels=2, time_steps=10, num_classes=10, input_size=48)
_SOURCE = "DTA-SNN, its MS-ResNet-18 for CIFAR10-DVS"
ENTRIES: Mapping[str, Entry] = {
    "plain-dta18": Entry(_plain, _SIZES, f"{_SOURCE} without attention", "none"),
    "dta-msresnet18": Entry(
        _dta,
        _SIZES,
        f"{_SOURCE} (static images: T = 6, 3 channels)",
        released=_RELEASED,
        build_arguments=_build_arguments,
    ),
}
