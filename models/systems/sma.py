"""Networks of SMA/AZO-SNN (Shan et al., AAAI 2025): VGG8 for event clips, MS-ResNet for ImageNet."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn

from spikefold.models.attention.sma import AZO, MODULE_RULES, REPOSITORY, SMA, BranchForm, sma_neuron
from spikefold.models.backbones.ms_resnet import BLOCKS, MSResNet, Shortcut
from spikefold.models.backbones.vgg8 import VGG8
from spikefold.models.lif import LIF
from spikefold.models.released import ReleasedNames, Rule
from spikefold.models.systems.entry import Entry, Option, Sizes

_DVS128 = Sizes(in_channels=2, time_steps=16, num_classes=11, input_size=128)
_IMAGENET = Sizes(in_channels=3, time_steps=6, num_classes=1000, input_size=224)


def _vgg8_neuron(_: int) -> Mapping[str, nn.Module]:
    return {"neuron": sma_neuron()}


def _ms_neuron(_: int) -> Mapping[str, nn.Module]:
    return {"neuron": LIF(decay=0.25, v_threshold=0.5, strict=True, surrogate="window", detach_reset=True)}


def _sma_vgg8(
    sizes: Sizes,
    width: int = 64,
    c_reduction: int = 4,
    t_reduction: float = 4.0,
    azo: bool = True,
    time_ratio: int = 4,
    channel_ratio: int = 10,
) -> VGG8:
    zone_out = AZO(time_ratio, channel_ratio) if azo else None
    return VGG8(
        _vgg8_neuron,
        _vgg8_neuron,
        sizes.in_channels,
        sizes.num_classes,
        sizes.input_size,
        width,
        lambda channels: SMA(channels, sizes.time_steps, c_reduction, t_reduction, azo=zone_out),
    )


def _plain_vgg8(sizes: Sizes, width: int = 64) -> VGG8:
    return VGG8(_vgg8_neuron, _vgg8_neuron, sizes.in_channels, sizes.num_classes, sizes.input_size, width)


def _sma_msresnet(
    depth: int,
    sizes: Sizes,
    width: int = 64,
    c_reduction: int = 4,
    t_reduction: float = 1.5,
    form: BranchForm = "relu",
    shortcut: Shortcut = "membrane",
    azo: bool = False,
    time_ratio: int = 4,
    channel_ratio: int = 4,
) -> MSResNet:
    zone_out = AZO(time_ratio, channel_ratio) if azo else None
    return MSResNet(
        _ms_neuron,
        sizes.in_channels,
        sizes.num_classes,
        sizes.input_size,
        depth,
        width,
        shortcut,
        lambda channels: SMA(channels, sizes.time_steps, c_reduction, t_reduction, form, zone_out),
    )


def _plain_msresnet(depth: int, sizes: Sizes, width: int = 64, shortcut: Shortcut = "membrane") -> MSResNet:
    return MSResNet(_ms_neuron, sizes.in_channels, sizes.num_classes, sizes.input_size, depth, width, shortcut)


_VGG8_RULES: tuple[Rule, ...] = (
    *((rf"^block{number + 1}\.", f"blocks.{number}.") for number in range(5)),
    (r"^(blocks\.\d)\.0\.0\.", r"\1.conv.module."),
    # The first block's batch norm stands one place earlier in the network for N-Caltech101.
    (r"^(blocks\.\d)\.(0\.1|1\.0|2\.0)\.", r"\1.norm.module."),
    (r"^(blocks\.\d)\.1\.(?=[SCT]_)", r"\1.before_norm."),
    *MODULE_RULES,
    (r"^others\.2\.", "hidden.0.linear.module."),
    (r"^others\.5\.", "hidden.1.linear.module."),
    (r"^others\.8\.", "readout.module."),
)
_MSRESNET_RULES: tuple[Rule, ...] = (
    (r"^conv1\.0\.", "stem.conv.module."),
    (r"^conv1\.1\.bn\.", "stem.norm.module."),
    *((rf"^conv{number + 2}_x\.", f"stages.{number}.") for number in range(4)),
    (r"\.residual_function\.1\.", ".residual.conv1.module."),
    (r"\.residual_function\.2\.", ".residual.before_norm."),
    (r"\.residual_function\.3\.bn\.", ".residual.norm1.module."),
    (r"\.residual_function\.5\.", ".residual.conv2.module."),
    (r"\.residual_function\.6\.bn\.", ".residual.norm2.module."),
    (r"\.shortcut\.0\.", ".shortcut.conv.module."),
    (r"\.shortcut\.1\.bn\.", ".shortcut.norm.module."),
    *MODULE_RULES,
    (r"^fc\.", "readout."),
)


def _vgg8_arguments(state_dict: Mapping[str, torch.Tensor]) -> dict[str, Option]:
    return _arguments(state_dict, "block1.0.0.weight", "block2.1.", "others.8.weight", usual_t_reduction=4.0)


def _msresnet_arguments(state_dict: Mapping[str, torch.Tensor]) -> dict[str, Option]:
    first_module = "conv2_x.0.residual_function.2."
    return _arguments(state_dict, "conv1.0.weight", first_module, "fc.weight", usual_t_reduction=1.5)


def _arguments(
    state_dict: Mapping[str, torch.Tensor], first: str, attention: str, readout: str, usual_t_reduction: float
) -> dict[str, Option]:
    """Read arguments from the first convolution, the first SMA module and the readout."""
    width, in_channels = state_dict[first].shape[:2]
    c_hidden, channels = state_dict[f"{attention}C_before_attention_conv.weight"].shape[:2]
    t_hidden, time_steps = state_dict[f"{attention}T_before_attention_conv.weight"].shape[:2]
    t_reduction = usual_t_reduction
    if time_steps // t_reduction != t_hidden:
        t_reduction = max(1.0, time_steps / (t_hidden + 0.5))  # well within the ratios that give so many
    return {
        "in_channels": in_channels,
        "time_steps": time_steps,
        "num_classes": state_dict[readout].shape[0],
        "width": width,
        "c_reduction": channels // c_hidden,
        "t_reduction": t_reduction,
    }


_VGG8_SOURCE = "VGG8 of SMA/AZO-SNN (AAAI 2025)"
_MSRESNET_SOURCE = "MS-ResNet-{} (Hu et al.) as in SMA/AZO-SNN (AAAI 2025)"
_MSRESNETS: Mapping[str, Entry] = {
    f"sma-msresnet{depth}": Entry(
        partial(_sma_msresnet, depth),
        _IMAGENET,
        f"{_MSRESNET_SOURCE.format(depth)}, for ImageNet, with its attention",
        # Of the three, the authors' code puts the attention into the smallest network alone.
        released=ReleasedNames(REPOSITORY, _MSRESNET_RULES) if depth == 18 else None,
        build_arguments=_msresnet_arguments if depth == 18 else None,
    )
    for depth in BLOCKS
}
ENTRIES: Mapping[str, Entry] = {
    "sma-vgg8": Entry(
        _sma_vgg8,
        _DVS128,
        f"{_VGG8_SOURCE}, for DVS128 Gesture, with its attention and zone-out",
        released=ReleasedNames(REPOSITORY, _VGG8_RULES),
        build_arguments=_vgg8_arguments,
    ),
    "plain-vgg8": Entry(_plain_vgg8, _DVS128, f"{_VGG8_SOURCE} with its neuron", "none"),
    **_MSRESNETS,
    **{
        f"plain-msresnet{depth}": Entry(
            partial(_plain_msresnet, depth), _IMAGENET, f"{_MSRESNET_SOURCE.format(depth)} with its neuron", "none"
        )
        for depth in BLOCKS
    },
}
