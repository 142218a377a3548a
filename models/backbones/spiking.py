"""How a backbone is told what to put where a neuron belongs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

from torch import nn

SpikingLayer = Callable[[int], Mapping[str, nn.Module]]
"""Given the channels of a current ``[T, B, C, ...]``, make what turns it into spikes: modules by name, run in order.

``{"neuron": LIF()}`` in a plain net; an ``attention`` before the neuron where currents are gated (FSTA, ASA, MA), after
it where spikes are (TCJA). A backbone calls it once a layer and knows nothing else of attention.
"""

Inserted = Callable[[int], nn.Module]
"""Given the channels, make a module that keeps ``[T, B, C, H, W]``, such as SMA between convolution and batch norm."""


def spiking(layer: SpikingLayer, channels: int) -> nn.Sequential:
    """Make one spiking layer as a module of its own."""
    return nn.Sequential(OrderedDict(layer(channels)))
