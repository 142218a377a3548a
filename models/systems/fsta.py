"""FSTA-SNN (Yu et al., AAAI 2025): its attention in front of every neuron of four spiking ResNets.

The released training script gives every data set but the CIFARs two input channels, which ImageNet cannot have; the
sizes here have three.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from spikefold.models.attention.fsta import DCT_SIZE, DEAD, FSTA, REPOSITORY, RULES, DctTable, use_printed_table
from spikefold.models.backbones.spiking import SpikingLayer
from spikefold.models.backbones.spiking_resnet import STRUCTURES, SpikingResNet
from spikefold.models.released import ReleasedNames, Rule
from spikefold.models.systems.dvsnets import fsta_neuron
from spikefold.models.systems.entry import Entry, Option, Sizes

_UNFORWARDED_REDUCTION = 16


def _plain(structure: str, sizes: Sizes, width: int = 64) -> SpikingResNet:
    def layer(channels: int) -> Mapping[str, nn.Module]:
        return {"neuron": fsta_neuron()}

    return _network(structure, sizes, width, layer, layer)


def _fsta(
    structure: str,
    sizes: Sizes,
    width: int = 64,
    reduction: int = 1,
    dct: DctTable = "exact",
    dead_parameters: bool = True,
) -> SpikingResNet:
    layer = _gated(sizes.time_steps, dct, reduction, dead_parameters)
    return _network(structure, sizes, width, layer, layer)


def _fsta_resnet19(
    sizes: Sizes,
    width: int = 128,
    reduction: int = 1,
    dct: DctTable = "exact",
    dead_parameters: bool = True,
    forward_reduction: bool = False,
) -> SpikingResNet:
    """Make the network whose release does not hand ``reduction`` on to its blocks.

    They keep the default of the block's constructor, 16, and only the stem is made as asked; ``forward_reduction``
    gives all of them the same.
    """
    in_blocks = reduction if forward_reduction else _UNFORWARDED_REDUCTION
    stem = _gated(sizes.time_steps, dct, reduction, dead_parameters)
    return _network("resnet19", sizes, width, _gated(sizes.time_steps, dct, in_blocks, dead_parameters), stem)


def _gated(time_steps: int, dct: DctTable, reduction: int, dead_parameters: bool) -> SpikingLayer:
    def layer(channels: int) -> Mapping[str, nn.Module]:
        attention = FSTA(time_steps, dct, reduction, dead_parameters=dead_parameters)
        return {"attention": attention, "neuron": fsta_neuron()}

    return layer


def _network(structure: str, sizes: Sizes, width: int, layer: SpikingLayer, stem: SpikingLayer) -> SpikingResNet:
    return SpikingResNet(structure, layer, sizes.in_channels, sizes.num_classes, width, stem, sizes.input_size)


def _prepare(network: nn.Module) -> None:
    """Switch to the printed table, also in what the network says of how to build it again."""
    use_printed_table(network)
    built_as = getattr(network, "built_as", None)
    if built_as is not None:
        network.built_as = replace(built_as, arguments={**built_as.arguments, "dct": "printed"})


def _released(structure: str) -> ReleasedNames:
    data = STRUCTURES[structure]
    stem: list[Rule] = []
    if data.stem_layers == 1:
        stem += [(r"^conv1\.pool\.", "stem.0.conv.module."), (r"^bn1\.bn\.", "stem.0.norm.module.")]
        stem += [(r"^relu\.dct\.", "stem.0.attention.")]
    else:  # one sequence of convolution, norm and neuron, over and over
        for layer in range(data.stem_layers):
            stem += [(rf"^conv1\.{3 * layer}\.pool\.", f"stem.{layer}.conv.module.")]
            stem += [(rf"^conv1\.{3 * layer + 1}\.bn\.", f"stem.{layer}.norm.module.")]
            stem += [(rf"^conv1\.{3 * layer + 2}\.dct\.", f"stem.{layer}.attention.")]
    shortcut = 1 if data.pooled_shortcut else 0
    block = r"^layer(\d)\.(\d)\."
    blocks: list[Rule] = [
        (rf"{block}conv([12])\.pool\.", r"layer\1.\2.conv\3.module."),
        (rf"{block}bn([12])\.bn\.", r"layer\1.\2.norm\3.module."),
        (rf"{block}relu([12])\.dct\.", r"layer\1.\2.spiking\3.attention."),
        (rf"{block}downsample\.{shortcut}\.pool\.", r"layer\1.\2.shortcut.conv.module."),
        (rf"{block}downsample\.{shortcut + 1}\.bn\.", r"layer\1.\2.shortcut.norm.module."),
    ]
    stages = [(rf"^layer{stage + 1}\.", f"stages.{stage}.") for stage in range(len(data.blocks))]
    readout = (r"^fc\.conv\.", "readout.module.")
    return ReleasedNames(REPOSITORY, (*RULES, *stem, *blocks, *stages, readout), DEAD, prepare=_prepare)


def _build_arguments(structure: str, state_dict: Mapping[str, torch.Tensor]) -> dict[str, Option]:
    single = STRUCTURES[structure].stem_layers == 1
    conv, neuron = ("conv1", "relu") if single else ("conv1.0", "conv1.2")
    width, in_channels = state_dict[f"{conv}.pool.weight"].shape[:2]
    reduction = _reduction(state_dict, neuron)
    arguments: dict[str, Option] = {
        "in_channels": in_channels,
        "time_steps": state_dict[f"{neuron}.dct.fc_t.weight"].shape[0],
        "num_classes": state_dict["fc.conv.weight"].shape[0],
        "width": width,
        "reduction": reduction,
        "dct": "printed",
        "dead_parameters": any(re.search(pattern, name) for name in state_dict for pattern in DEAD),
    }
    if structure == "resnet19":
        arguments["forward_reduction"] = _reduction(state_dict, "layer1.0.relu1") == reduction
    return arguments


def _reduction(state_dict: Mapping[str, torch.Tensor], neuron: str) -> int:
    """Return the largest reduction that leaves as many hidden maps as there are."""
    maps = f"{neuron}.dct.freq_attention.freq_attention"
    hidden: int = state_dict[f"{maps}.0.weight"].shape[0]
    return DCT_SIZE**2 // hidden if f"{maps}.2.weight" in state_dict else 1


_SOURCE = "FSTA-SNN (AAAI 2025)"
_SETTINGS = {
    "resnet20": ("CIFAR10-DVS", Sizes(in_channels=2, time_steps=10, num_classes=10, input_size=64)),
    "resnet19": ("CIFAR100", Sizes(in_channels=3, time_steps=2, num_classes=100, input_size=32)),
    "resnet18": ("ImageNet", Sizes(in_channels=3, time_steps=4, num_classes=1000, input_size=224)),
    "resnet34": ("ImageNet", Sizes(in_channels=3, time_steps=4, num_classes=1000, input_size=224)),
}


def _entries() -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for structure, (data, sizes) in _SETTINGS.items():
        plain = partial(_plain, structure, width=STRUCTURES[structure].channels[0])
        gated = _fsta_resnet19 if structure == "resnet19" else partial(_fsta, structure)
        source = f"{_SOURCE}, its network for {data}"
        entries[f"plain-{structure}"] = Entry(plain, sizes, f"{source} without attention", "none")
        entries[f"fsta-{structure}"] = Entry(
            gated,
            sizes,
            source,
            released=_released(structure),
            build_arguments=partial(_build_arguments, structure),
        )
    return entries


ENTRIES: Mapping[str, Entry] = _entries()
