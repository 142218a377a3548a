"""Small networks in which something stands where a chip would need a neuron: numbers go on, not spikes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from networks import neuron
from spikefold.models import OverTime

T, CHANNELS, SIDE = 4, 4, 8
Work = Callable[[Any, Tensor], Tensor]


class Between(nn.Module):
    """Two convolutions, their neurons, and a readout; ``work`` says what happens in ``forward``."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.one = OverTime(nn.Conv2d(2, CHANNELS, 3, padding=1))
        self.two = OverTime(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1))
        self.neuron_one, self.neuron_two = neuron(), neuron()
        self.head = nn.LazyLinear(3)
        self.work = work

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.neuron_two(self.work(self, x)).flatten(2))
        return logits.mean(0)


def pooled(y: Tensor) -> Tensor:
    """A gate per step and channel."""
    return torch.sigmoid(4 * y.mean((3, 4), keepdim=True) - 1)


def over_time(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda y: function(y.flatten(0, 1)).unflatten(0, y.shape[:2])


def pool(kernel: int, stride: int, padding: int = 0) -> Callable[[Tensor], Tensor]:
    return over_time(nn.AvgPool2d(kernel, stride, padding))


def gated_spikes(n: Any, x: Tensor) -> Tensor:
    y = n.neuron_one(n.one(x))
    return n.two(y * pooled(y))


def gated_by_the_current(n: Any, x: Tensor) -> Tensor:
    current = n.one(x)
    return n.two(n.neuron_one(current) * torch.sigmoid(current.amax((3, 4), keepdim=True)))


def gated_by_another_layer(n: Any, x: Tensor) -> Tensor:
    y = n.neuron_one(n.one(x))
    return n.two(y) * pooled(y)


def gated_by_a_gated_layer(n: Any, x: Tensor) -> Tensor:
    y = n.neuron_one(n.one(x))
    z = n.neuron_one(n.two(y) * pooled(y))
    return n.two(y) * torch.sigmoid(9 * z.mean((3, 4), keepdim=True) - 2)


def chosen_scales(n: Any, x: Tensor) -> Tensor:
    current = n.one(x)
    one, other = n.neuron_one(current), n.neuron_one(2 * current)
    rates = torch.stack([one.mean((3, 4)), other.mean((3, 4))])
    weights = (3 * rates).softmax(0)[..., None, None]
    return n.two(one * weights[0] + other * weights[1])


def residual(n: Any, x: Tensor) -> Tensor:
    y = n.neuron_one(n.one(x))
    return n.two(y * pooled(y) + y)


def gated_and_rectified(n: Any, x: Tensor) -> Tensor:
    current = n.one(x)
    return torch.relu(current * pooled(current))


def branches(n: Any, x: Tensor) -> Tensor:
    y = n.neuron_one(n.one(x))
    gated = y * pooled(y)
    return n.two(gated) + gated


def shifted(n: Any, x: Tensor) -> Tensor:
    steps = torch.arange(float(T)).reshape(-1, 1, 1, 1, 1) / 8
    return n.two(n.one(x) + steps)


def pooled_gated_spikes(n: Any, x: Tensor) -> Tensor:
    y = n.neuron_one(n.one(x))
    return over_time(nn.MaxPool2d(2))(y * pooled(y))


NETWORKS: dict[str, tuple[Work, int, int]] = {
    "a rectified current": (lambda n, x: torch.relu(n.one(x)), 1, 1),
    "a rectified current before a layer": (lambda n, x: n.two(torch.relu(n.one(x))), 1, 1),
    "two convolutions": (lambda n, x: n.two(n.one(x)), 1, 1),
    "padded pooling before a convolution": (lambda n, x: n.two(pool(3, 1, 1)(n.neuron_one(n.one(x)))), 1, 1),
    "pooling that does not divide": (lambda n, x: n.two(pool(3, 2)(n.neuron_one(n.one(x)))), 1, 1),
    "a layer after a shift per step": (shifted, 1, 1),
    "a maximum of currents": (lambda n, x: over_time(nn.MaxPool2d(2))(n.one(x)), 1, 1),
    "gated spikes": (gated_spikes, 1, 0),
    "spikes gated by their current": (gated_by_the_current, 1, 0),
    "a current gated by another layer": (gated_by_another_layer, 1, 0),
    "a current gated by a layer that another one gates": (gated_by_a_gated_layer, 2, 0),
    "a choice between scales": (chosen_scales, 1, 0),
    "gated spikes beside themselves": (residual, 1, 0),
    "gated spikes into two branches": (branches, 1, 0),
    "a gated and rectified current": (gated_and_rectified, 1, 1),
    "a maximum of gated spikes": (pooled_gated_spikes, 2, 1),
}
"""What happens, the number of relays, and how many of them are left where gates are constants."""


def make(name: str) -> tuple[nn.Module, Tensor]:
    """Network ``name`` and clips; weights are seeded, and large enough that all neurons fire now and then."""
    torch.manual_seed(3)
    net = Between(NETWORKS[name][0])
    clips = (torch.rand(T, 6, 2, SIDE, SIDE) < 0.3).float()
    with torch.no_grad():
        net(clips)  # gives the lazy readout its size
        for layer in (net.one.module, net.two.module):
            layer.weight *= 3
    return net.eval(), clips
