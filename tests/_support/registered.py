"""Every registered network made narrow, with clips for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikefold.models import ENTRIES, build

STEPS = 6
CLASSES = 4
SIDES = {"resnet18": 32, "resnet34": 32, "msresnet18": 32, "msresnet34": 32, "msresnet104": 32, "vgg8": 32}
DEEPEST = {"b": 32, "c": 32, "dvs128": 32, "dvsnet": 12}
"""Sides that survive the poolings of a backbone; 16 is enough for the others."""


def narrow_arguments(name: str) -> dict[str, int]:
    """Arguments of `build` for a network that runs in a moment."""
    options = ENTRIES[name].options()
    backbone = name.rpartition("-")[2]
    side = {**SIDES, **DEEPEST}.get(backbone, 16)
    narrow = {"width": 8} if "width" in options else {}
    few = {"reduction": 2} if name.startswith("asa") and "reduction" in options else {}
    return {"in_channels": 2, "time_steps": STEPS, "num_classes": CLASSES, "input_size": side, **narrow, **few}


def narrow(name: str, seed: int = 0) -> nn.Module:
    """A freshly initialised narrow network, in training mode."""
    torch.manual_seed(seed)
    return build(name, **narrow_arguments(name))


def awaken(net: nn.Module, clips: Tensor, seed: int = 2) -> nn.Module:
    """Give batch norms statistics, and weights with which neurons in all depths fire; in evaluation mode."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.momentum = 1.0
                module.weight.fill_(1.5)
                module.bias.copy_(torch.rand(module.bias.shape, generator=random) - 0.25)
        net(clips)
    return net.eval()


def clip(name: str, samples: int, seed: int = 1) -> Tensor:
    """Random events ``[T, samples, C, H, W]`` for `narrow`."""
    side = narrow_arguments(name)["input_size"]
    random = torch.Generator().manual_seed(seed)
    return (torch.rand(STEPS, samples, 2, side, side, generator=random) < 0.3).float()
