"""Small nets as users write them, in different styles, ready to be captured.

Every net takes clips ``[T, B, 2, 8, 8]`` unless its class says otherwise. `NETS` lists those that must be captured.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import nir
import torch
from torch import Tensor, nn
from torch.nn import functional

from gate_networks import GATES, T
from spikefold.converters.capture import capture
from spikefold.models import LIF, OverTime

SHAPE = (T, 2, 2, 8, 8)


def neuron() -> LIF:
    return LIF(0.5, 0.5)


class Chain(nn.Module):
    """Convolution, norm, pooling and neuron, merged and unmerged by hand; a linear layer after a flattening."""

    def __init__(
        self, size: int = 8, groups: int = 1, stride: int = 1, dilation: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.pool = nn.AvgPool2d(2)
        self.drop = nn.Dropout(dropout)
        self.neuron = neuron()
        self.head = nn.Linear(4 * (size // stride // 2) ** 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps, batch = x.shape[:2]
        current = self.pool(self.norm(self.conv(x.flatten(0, 1)))).unflatten(0, (steps, batch))
        spikes = self.drop(self.neuron(current))
        logits: Tensor = self.head(spikes.flatten(2))
        return logits.mean(0)


class Reshaping(nn.Module):
    """Layout by ``view`` and ``reshape``; two blocks, dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2)
        self.neurons = nn.ModuleList([neuron(), neuron()])
        self.drop = nn.Dropout2d(0.3)
        self.head = nn.Linear(4 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps, batch = x.shape[:2]
        y = self.first(x.view(steps * batch, *x.shape[2:]))
        y = self.neurons[0](y.view(steps, batch, 4, 8, 8))
        y = self.second(self.drop(y.reshape(-1, 4, 8, 8)))
        y = self.neurons[1](y.reshape(steps, batch, 4, 3, 3))
        logits: Tensor = self.head(y.reshape(steps, batch, -1))
        return logits.mean(dim=0)


class Wrapped(nn.Module):
    """Everything in `OverTime`; the head returns the spikes of its last neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            OverTime(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))),
            neuron(),
            OverTime(nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 6))),
            LIF.from_tau(2.0, 0.5),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x)
        return out


class BatchFirst(nn.Module):
    """Works on ``[B, T, ...]`` between its neurons, as spikingjelly-like code does after a transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.neuron, self.last = neuron(), LIF(1.0, 0.75)
        self.fc = nn.Linear(4 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        y = self.norm(self.conv(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        y = self.neuron(y.permute(1, 0, 2, 3, 4)).movedim(0, 1)
        y = functional.avg_pool2d(y.flatten(0, 1), 2).unflatten(0, x.shape[:2])
        out: Tensor = self.last(self.fc(y.flatten(2)).transpose(0, 1))
        return out


class PoolBetween(nn.Module):
    """Pooling of spikes before a padded convolution (``size`` decides whether it divides) and before a linear layer."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.first, self.second = OverTime(nn.Conv2d(2, 4, 3, padding=1)), OverTime(nn.Conv2d(4, 4, 3, padding=1))
        self.pool = OverTime(nn.AvgPool2d(2))
        self.neuron_1, self.neuron_2 = neuron(), neuron()
        self.fc = nn.Linear(4 * (size // 4) ** 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.neuron_1(self.first(x))
        y = self.neuron_2(self.second(self.pool(y)))
        logits: Tensor = self.fc(self.pool(y).flatten(2))
        return logits.mean(0)


class Residual(nn.Module):
    """A spiking residual block (the neuron follows the sum) with a strided 1x1 shortcut, then an identity shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = OverTime(nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)))
        self.down = OverTime(nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6)))
        self.shortcut = OverTime(nn.Sequential(nn.Conv2d(4, 6, 1, stride=2, bias=False), nn.BatchNorm2d(6)))
        self.same = OverTime(nn.Conv2d(6, 6, 3, padding=1))
        self.neuron_1, self.neuron_2, self.neuron_3 = neuron(), neuron(), neuron()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.neuron_1(self.stem(x))
        y = self.neuron_2(self.down(y) + self.shortcut(y))
        current = self.same(y)
        current += y
        y = self.neuron_3(current)
        logits: Tensor = self.head(y.mean((3, 4)))
        return logits.mean(0)


class Scaled(nn.Module):
    """Constant scales, per channel and for all, a constant shift, and dense layers in a row without a neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = OverTime(nn.Conv2d(2, 4, 3))
        self.register_buffer("factor", torch.tensor([0.5, 1.0, 2.0, 1.5]).reshape(4, 1, 1))
        self.neuron, self.hidden = neuron(), neuron()
        self.wide, self.norm, self.narrow = nn.Linear(4 * 36, 8), nn.BatchNorm1d(8), nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.neuron(-(-self.conv(x * 0.5) * self.factor / 0.5) + 0.125)
        merged = self.wide(y.flatten(2).flatten(0, 1))
        y = self.hidden(self.narrow(self.norm(merged)).unflatten(0, x.shape[:2]))
        logits: Tensor = self.head(y)
        return logits.sum(0)


class AdaptiveHead(nn.Module):
    """Adaptive pooling to one pixel; the mean over time comes before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = OverTime(nn.Conv2d(2, 4, 3, padding=1))
        self.neuron = LIF(0.25, 0.5, strict=False)
        self.pool = OverTime(nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.neuron(self.conv(x))).flatten(2).mean(0))
        return logits


class OverlappingWindows(nn.Module):
    """Adaptive pooling from 8 to 7 pixels: windows of 2 that overlap, all alike."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.neuron = OverTime(nn.Conv2d(2, 4, 3, padding=1)), neuron()
        self.pool, self.head = OverTime(nn.AdaptiveAvgPool2d(7)), OverTime(nn.Linear(4 * 49, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.neuron(self.conv(x))).flatten(2))
        return logits.mean(0)


class ConvHead(nn.Module):
    """A 1x1 convolution as the head, averaged over pixels after it; one neuron module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = OverTime(nn.Conv2d(2, 4, 3, padding=1)), OverTime(nn.Conv2d(4, 4, 3, padding=1))
        self.neuron = neuron()
        self.output = OverTime(nn.Conv2d(4, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.neuron(self.second(self.neuron(self.first(x))))
        logits: Tensor = self.output(y).mean((3, 4))
        return logits.mean(0)


class FlatNeurons(nn.Module):
    """Neurons on flattened currents: of a convolution, and of a convolution plus a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = OverTime(nn.Conv2d(2, 3, 3, padding=1)), OverTime(nn.Conv2d(2, 3, 3, padding=1))
        self.fc, self.head = nn.Linear(3 * 64, 3 * 64), nn.Linear(3 * 64, 3)
        self.input, self.output = neuron(), neuron()

    def forward(self, x: Tensor) -> Tensor:
        y = self.input(self.conv(x).flatten(2))
        y = self.output(self.other(x).flatten(2) + self.fc(y))
        logits: Tensor = self.head(y)
        return logits.mean(0)


class Dense(nn.Module):
    """Clips ``[T, B, 10]``, linear layers only; integrate-and-fire neurons whose input is scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(10, 12),
            LIF.from_tau(2.0, 0.5),
            nn.Linear(12, 12),
            LIF(1.0, 1.0, input_gain=2.0),
            nn.Linear(12, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits.mean(0)


class SumFirst(nn.Module):
    """Norm, pooling and a linear layer after the sum of two branches; a bias enters once."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = OverTime(nn.Conv2d(2, 4, 3, padding=1)), OverTime(nn.Conv2d(2, 4, 1))
        self.after = OverTime(nn.Sequential(nn.BatchNorm2d(4), nn.AvgPool2d(2)))
        self.neuron, self.last = neuron(), neuron()
        self.fc, self.skip, self.head = nn.Linear(64, 6), nn.Linear(128, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.neuron(self.after(self.one(x) + self.two(x)) - 0.5 * self.after(self.two(x)))
        out: Tensor = self.last(self.head(self.fc(y.flatten(2)) + self.skip(x.flatten(2))))
        return out


class OneChannel(nn.Module):
    """Batch first with one channel: with one step, ``[B, 1, ...]`` may be steps or channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 3, 3)
        self.neuron, self.last = neuron(), neuron()

    def forward(self, x: Tensor) -> Tensor:
        batch_first = x.transpose(0, 1)
        shape = batch_first.shape[:2]
        y = self.first(batch_first.flatten(0, 1)).unflatten(0, shape).transpose(0, 1)
        y = self.neuron(y).transpose(0, 1)
        out: Tensor = self.last(self.second(y.reshape(-1, 1, 8, 8)).unflatten(0, shape).transpose(0, 1))
        return out


class Oblong(nn.Module):
    """Kernels, strides, padding and poolings that differ by axis."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = OverTime(nn.Conv2d(2, 4, (3, 1), (1, 2), (1, 0)))
        self.pool, self.neuron, self.last = OverTime(nn.AvgPool2d((1, 2))), neuron(), neuron()
        self.second = OverTime(nn.Conv2d(4, 3, (2, 1), padding=(0, 1)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.second(self.pool(self.neuron(self.conv(x)))))
        return out


class TwoTrains(nn.Module):
    """Neurons named alike at different depths, and a branch that leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.ModuleDict({"b_c": neuron()})
        self.a_b = nn.ModuleDict({"c": neuron()})
        self.conv_1, self.conv_2 = OverTime(nn.Conv2d(2, 4, 3)), OverTime(nn.Conv2d(4, 4, 3, groups=2))
        self.nowhere, self.unused = OverTime(nn.Conv2d(4, 2, 3)), neuron()

    def forward(self, x: Tensor) -> Tensor:
        y = self.a["b_c"](self.conv_1(x))
        z = self.a_b["c"](self.conv_2(y))
        self.unused(self.nowhere(z))
        out: Tensor = z
        return out


class Votes(nn.Module):
    """Max pooling of spikes, with and without overlap; eight neurons a class vote."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = OverTime(nn.Conv2d(2, 4, 3, padding=1)), OverTime(nn.Conv2d(4, 4, 3, padding=1))
        self.halve, self.spread = OverTime(nn.MaxPool2d(2)), OverTime(nn.MaxPool2d(3, 1, 1))
        self.first, self.second, self.voters = neuron(), neuron(), neuron()
        self.head = OverTime(nn.Linear(4 * 16, 24))

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.spread(self.second(self.two(self.halve(self.first(self.one(x))))))
        votes = self.voters(self.head(spikes.flatten(2)))
        return votes.unflatten(2, (3, 8)).mean(3).mean(0)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv, norm, pool, neuron": (Chain, SHAPE),
    "strided": (lambda: Chain(stride=2), SHAPE),
    "grouped": (lambda: Chain(groups=2), SHAPE),
    "dilated": (lambda: Chain(dilation=2), SHAPE),
    "dropout in evaluation": (lambda: Chain(dropout=0.5), SHAPE),
    "odd size": (lambda: Chain(size=7), (T, 2, 2, 7, 7)),
    "one step": (Chain, (1, 2, 2, 8, 8)),
    "one sample": (Chain, (T, 1, 2, 8, 8)),
    "as many steps as samples": (Chain, (T, T, 2, 8, 8)),
    "view and reshape": (Reshaping, SHAPE),
    "spiking output": (Wrapped, SHAPE),
    "batch first": (BatchFirst, SHAPE),
    "batch first, one step": (BatchFirst, (1, 2, 2, 8, 8)),
    "pooled spikes": (PoolBetween, SHAPE),
    "residual": (Residual, SHAPE),
    "scales": (Scaled, SHAPE),
    "adaptive head": (AdaptiveHead, SHAPE),
    "overlapping windows": (OverlappingWindows, SHAPE),
    "convolutional head": (ConvHead, SHAPE),
    "flattened neurons": (FlatNeurons, SHAPE),
    "dense": (Dense, (T, 2, 10)),
    "names that meet": (TwoTrains, SHAPE),
    "oblong": (Oblong, SHAPE),
    "max pooling and votes": (Votes, SHAPE),
    "sum first": (SumFirst, SHAPE),
    "one channel": (OneChannel, (T, 2, 1, 8, 8)),
    "one channel, one step": (OneChannel, (1, 2, 1, 8, 8)),
}


def prepared(net: nn.Module, seed: int = 0, dyadic: bool = False) -> nn.Module:
    """Give ``net`` seeded weights and statistics that make its neurons fire; all multiples of 1/8 if ``dyadic``."""
    random = torch.Generator().manual_seed(seed)

    def draw(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=random) * (high - low) + low

    def choose(like: Tensor, values: list[float]) -> Tensor:
        return torch.tensor(values)[torch.randint(len(values), like.shape, generator=random)]

    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.copy_(draw(module.running_mean, -0.2, 0.2))
                module.running_var.copy_(draw(module.running_var, 0.3, 2.0))
                module.weight.copy_(draw(module.weight, 0.6, 1.6))
                module.bias.copy_(draw(module.bias, 0.0, 0.4))
                if dyadic:
                    module.eps = 0.0
                    module.running_mean.copy_((module.running_mean * 8).round() / 8)
                    module.running_var.copy_(choose(module.running_var, [0.25, 1.0, 4.0]))
                    module.weight.copy_(choose(module.weight, [0.5, 1.0, 2.0]))
                    module.bias.copy_((module.bias * 8).round() / 8)
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                limit = 2.2 / module.weight[0].numel() ** 0.5
                module.weight.copy_(draw(module.weight, -limit, 1.2 * limit))
                if module.bias is not None:
                    module.bias.copy_(draw(module.bias, -0.1, 0.2))
                if dyadic:
                    for parameter in module.parameters():
                        parameter.copy_((parameter * 8).round() / 8)
    return net.eval()


@cache
def captured(name: str) -> tuple[nn.Module, nir.NIRGraph]:
    """A net of `NETS` or `GATES` and its graph, made once; change copies only."""
    make, shape = NETS.get(name) or (GATES[name], SHAPE)
    net = prepared(make())
    return net, capture(net, torch.zeros(shape))


def clips_for(name: str, samples: int, seed: int = 1) -> Tensor:
    """Binary events for a net of `NETS` or `GATES`, as many steps as it was captured with."""
    shape = NETS[name][1] if name in NETS else SHAPE
    return clips((shape[0], samples, *shape[2:]), seed)


def clips(shape: tuple[int, ...], seed: int = 1, rate: float = 0.4) -> Tensor:
    """Binary events, float64."""
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < rate).double()
