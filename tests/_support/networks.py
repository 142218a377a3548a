"""Small nets as users write them, in different styles, and a comparison of each with its captured graph.

Every net takes clips ``[T, B, 2, 8, 8]`` unless its class says otherwise. `NETS` lists those that must be captured.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import nir
import torch
from torch import Tensor, nn
from torch.nn import functional

from spikefold.converters.capture import capture
from spikefold.converters.float_graph import FloatPopulation, FloatSynapse, read_float_graph
from spikefold.converters.gate_float import run_float
from spikefold.models import ASA, FSTA, LIF, OverTime

T = 4
SHAPE = (T, 2, 2, 8, 8)
WEIGHT_ERROR = 2.0**-24
"""Largest relative error of a weight that is rounded to float32."""


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


# Gates, each on currents [T, B, C, H, W] unless said otherwise.


class ClipSqueeze(nn.Module):
    """Squeeze and excitation over the whole clip, with linear layers and a ReLU that works in place."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, 3), nn.ReLU(inplace=True), nn.Linear(3, channels, bias=False), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((0, 3, 4)))[:, :, None, None]


class StepSqueeze(nn.Module):
    """Squeeze and excitation per step on merged ``[N, C, H, W]``, as published for images."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Flatten(), nn.Linear(channels, 3), nn.ReLU(), nn.Linear(3, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(x)).view(-1, x.shape[1], 1, 1) * x


class ConvSqueeze(nn.Module):
    """Squeeze and excitation per step on merged ``[N, C, H, W]`` by 1x1 convolutions, mean and maximum pooled."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.mean, self.top = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)
        self.mlp = nn.Sequential(nn.Conv2d(channels, 3, 1), nn.BatchNorm2d(3), nn.ReLU6(), nn.Conv2d(3, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.mlp(self.mean(x)) + self.mlp(self.top(x)))


class ChannelThenSpatial(nn.Module):
    """CBAM on merged ``[N, C, H, W]``: a channel gate, then a map computed from what it gated."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.squeeze = ConvSqueeze(channels)
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        pooled = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], dim=1)
        return x * self.conv(pooled).sigmoid()


class StepByStep(nn.Module):
    """A product of gates and a weighted sum of its stages, written out as a formula."""

    def __init__(self, time_steps: int = T, channels: int = 4) -> None:
        super().__init__()
        self.over_time, self.over_channels = nn.Linear(time_steps, time_steps), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.sigmoid(self.over_time(x.mean((2, 3, 4)).T).T)
        x1 = x * (1 + a[:, :, None, None, None])
        b = torch.sigmoid(self.over_channels(x1.amax((0, 3, 4))))
        x2 = x1 * (1 + b[:, :, None, None])
        return (0.6 * x1 + 0.5 * x2) / 2


class SelfScaled(nn.Module):
    """The current plus a part of it, by elementwise functions of pooled values."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((3, 4), keepdim=True)
        return x + x * self.function(pooled - 0.25 * x.amax((0, 3, 4), keepdim=True))


class InPlace(nn.Module):
    """Multiplies the current in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(torch.sigmoid(x.mean((3, 4), keepdim=True)))


class GateNet(nn.Module):
    """A convolution, a gate in some layout, a neuron and a head."""

    def __init__(self, gate: nn.Module, layout: str = "T B", input_gain: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.gate, self.layout = gate, layout
        self.neuron = LIF(0.5, 0.5, input_gain=input_gain)
        self.head = nn.Linear(4 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.neuron(self.gated(x)).flatten(2))
        return logits.mean(0)

    def gated(self, x: Tensor) -> Tensor:
        """The current behind the gate, ``[T, B, C, H, W]``."""
        steps, batch = x.shape[:2]
        if self.layout in ("BT", "B T"):
            merged = self.conv(x.transpose(0, 1).flatten(0, 1))
            if self.layout == "B T":
                y: Tensor = self.gate(merged.unflatten(0, (batch, steps)))
            else:
                y = self.gate(merged).unflatten(0, (batch, steps))
            return y.transpose(0, 1)
        merged = self.conv(x.flatten(0, 1))
        if self.layout == "T B":
            y = self.gate(merged.unflatten(0, (steps, batch)))
        else:
            y = self.gate(merged).unflatten(0, (steps, batch))
        return y


class TimeSecond(nn.Module):
    """A gate for ``[T, B, ...]`` applied to ``[B, T, ...]``."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.gate(x.transpose(0, 1)).transpose(0, 1)
        return out


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
    "convolutional head": (ConvHead, SHAPE),
    "flattened neurons": (FlatNeurons, SHAPE),
    "dense": (Dense, (T, 2, 10)),
    "names that meet": (TwoTrains, SHAPE),
    "oblong": (Oblong, SHAPE),
    "sum first": (SumFirst, SHAPE),
    "one channel": (OneChannel, (T, 2, 1, 8, 8)),
    "one channel, one step": (OneChannel, (1, 2, 1, 8, 8)),
}
GATES: dict[str, Callable[[], GateNet]] = {
    "squeeze over the clip": lambda: GateNet(ClipSqueeze()),
    "squeeze over the clip, batch first": lambda: GateNet(TimeSecond(ClipSqueeze()), "B T"),
    "squeeze per step": lambda: GateNet(StepSqueeze(), "TB"),
    "squeeze per step, batch first": lambda: GateNet(StepSqueeze(), "BT"),
    "squeeze by convolutions": lambda: GateNet(ConvSqueeze(), "TB"),
    "channels then pixels": lambda: GateNet(ChannelThenSpatial(), "TB"),
    "channels then pixels, batch first": lambda: GateNet(ChannelThenSpatial(), "BT"),
    "formula": lambda: GateNet(StepByStep()),
    "formula, batch first": lambda: GateNet(TimeSecond(StepByStep()), "B T"),
    "softplus": lambda: GateNet(SelfScaled(functional.softplus)),
    "tanh": lambda: GateNet(SelfScaled(torch.tanh), "T B"),
    "in place": lambda: GateNet(InPlace()),
    "scaled input": lambda: GateNet(StepByStep(), input_gain=0.5),
    "FSTA": lambda: GateNet(FSTA(T)),
    "FSTA, reduced, batch first": lambda: GateNet(TimeSecond(FSTA(T, reduction=16)), "B T"),
    "ASA": lambda: GateNet(ASA(T)),
    "ASA, reduced": lambda: GateNet(ASA(T, reduction=2, lam=0.4)),
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


def record(net: nn.Module, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The answer of ``net`` in float64, and input current and spikes of each call of a neuron, in order."""
    twin = copy.deepcopy(net).double()
    calls: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], spikes: Tensor) -> None:
        assert isinstance(module, LIF)
        calls.append((inputs[0] * module.neuron_spec().input_gain, spikes))

    for module in twin.modules():
        if isinstance(module, LIF):
            module.register_forward_hook(keep)
    with torch.no_grad():
        answer = twin(x)
    return answer, calls


def assert_same_but_for_rounding(
    graph: nir.NIRGraph, net: nn.Module, x: Tensor, *, folded_gates: bool = False, gate_error: float = 1e-6
) -> None:
    """Compare every population on the net's own spikes: currents within the rounding of float32 weights, and spikes
    that differ only where the membrane is that close to the threshold.

    ``folded_gates`` skips the currents: where a gate became part of the thresholds they differ by that factor.
    """  # fmt: skip
    answer, calls = record(net, x)
    populations = read_float_graph(graph).populations
    firing = [p for p in populations if p.fires]
    assert len(firing) <= len(calls)
    trains = {"input": x}
    for population, (_, spikes) in zip(firing, calls, strict=False):
        trains[population.name] = spikes.reshape(*spikes.shape[:2], *population.shape)
    for population, (wanted, _) in zip(firing, calls, strict=False):
        current, error = current_and_error(population, trains, gate_error)
        if not folded_gates:
            difference = (current - wanted.reshape(current.shape)).abs()
            assert bool((difference <= error).all()), f"{population.name}: current off by {difference.max()}"
        assert_same_spikes(population, current, error, trains[population.name])
    last = populations[-1]
    if last.fires:
        wanted_answer = answer if answer.ndim == 2 else answer.mean(0).flatten(1)
        assert torch.equal(trains[last.name].mean(0).flatten(1), wanted_answer)
        return
    logits, error = current_and_error(last, trains, gate_error)
    assert bool(((logits.mean(0).flatten(1) - answer.flatten(1)).abs() <= error.mean(0).flatten(1)).all())


def current_and_error(
    population: FloatPopulation, trains: dict[str, Tensor], gate_error: float
) -> tuple[Tensor, Tensor]:
    """The gated current, and a bound on what rounding the weights to float32 changes of it."""
    current = population.current(trains)
    total = torch.zeros_like(current)
    for s in population.synapses:
        positive = FloatSynapse(s.name, s.source, abs(s.weight), abs(s.bias), s.conv, 0)
        total += positive.current(trains[s.source].abs()).reshape(total.shape)
    error = total * WEIGHT_ERROR * 1.001 + 1e-12
    if population.gate is None:
        return current, error
    gate = run_float(population.gate, current)
    return current * gate, (error + current.abs() * gate_error) * gate.abs()


def assert_same_spikes(population: FloatPopulation, current: Tensor, error: Tensor, wanted: Tensor) -> None:
    """Integrate with the wanted spikes as resets; where a spike differs the membrane must be at the threshold."""
    theta = torch.as_tensor(population.v_threshold, dtype=current.dtype)
    v, bound = torch.zeros_like(current[0]), torch.zeros_like(current[0])
    rate = float(wanted.mean())
    assert 0.005 < rate < 0.995, f"{population.name} fires in {rate:.1%} of its slots: the comparison shows nothing"
    for step, spikes, e in zip(current, wanted, error, strict=True):
        v, bound = population.decay * v + step, population.decay * bound + e
        fired = (v > theta) if population.strict else (v >= theta)
        differs = fired != spikes.bool()
        allowed = bound + theta * 2 * WEIGHT_ERROR
        assert bool(((v - theta).abs()[differs] <= allowed.expand_as(v)[differs]).all()), f"{population.name} differs"
        v, bound = v * (1 - spikes), bound * (1 - spikes)
