"""The nets of the benchmarks: convolutions with leaky neurons, in float and as integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikefold.converters.calibrate import calibrate
from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.lower import lower
from spikefold.models import LIF, OverTime

DECAY, THRESHOLD, RATE = 0.5, 1.0, 0.1


class ConvNet(nn.Module):
    """3x3 convolutions, each with leaky neurons behind it; the answer is how often each of the last ones fires."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        pairs = zip(channels[:-1], channels[1:], strides, strict=True)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, s, 1) for a, b, s in pairs)
        self.layers = nn.ModuleList(OverTime(conv) for conv in self.convs)
        self.fires = nn.ModuleList(LIF(DECAY, THRESHOLD) for _ in strides)

    def forward(self, x: Tensor) -> Tensor:
        """Rates ``[B, neurons]`` of clips ``[T, B, C, H, W]``."""
        for layer, fire in zip(self.layers, self.fires, strict=True):
            x = fire(layer(x))
        return x.flatten(2).mean(0)


def conv_net(channels: Sequence[int], strides: Sequence[int], size: int, seed: int = 0) -> ConvNet:
    """A net whose layers all fire at about `RATE` on `events`: biases and weights are set for it."""
    torch.manual_seed(seed)
    net = ConvNet(channels, strides).eval()
    x = torch.from_numpy(events(6, 2, (channels[0], size, size), seed)).float()
    with torch.no_grad():
        for conv, layer, fire in zip(net.convs, net.layers, net.fires, strict=True):
            conv.bias.zero_()
            low, high = -6.0, 8.0
            for _ in range(20):  # the weight's scale, by halving
                middle = (low + high) / 2
                rate = float(fire(layer(x) * 2**middle).mean())
                low, high = (middle, high) if rate < RATE else (low, middle)
            conv.weight *= 2**middle
            x = fire(layer(x))
    return net


def events(steps: int, batch: int, shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    """Binary clips ``[T, B, *shape]``, one in ten set."""
    return (np.random.default_rng(seed).random((steps, batch, *shape)) < RATE).astype(np.uint8)


def lowered(net: ConvNet, shape: tuple[int, ...], steps: int) -> FixedPointGraph:
    """The integers of a net."""
    clips = events(steps, 4, shape, 7)
    graph = capture(net, torch.from_numpy(clips).float())
    return lower(graph, calibrate(graph, clips), "static", name="bench")


def rates(counts: dict[str, NDArray[np.int64]], graph: FixedPointGraph, steps: int) -> str:
    """Firing rates, so that a reader sees that the layers are awake."""
    found = [f"{counts[n.name].mean() / n.size / steps:.2f}" for n in graph.neurons if n.fires]
    return f"Layers fire at {', '.join(found)} spikes a neuron and step."
