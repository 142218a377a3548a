"""Gates as users write them, each on currents ``[T, B, C, H, W]`` unless said otherwise, and a net around each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from spikefold.models import ASA, FSTA, LIF
from spikefold.models.attention.staa import GlobalContext, StepAttention

T = 4


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


class ContextThenSteps(nn.Module):
    """STAA's gates in front of the neuron, without its position encoding: one a step and channel, then one a step."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.context = GlobalContext(channels, reduction=1)
        self.steps = StepAttention(T)
        with torch.no_grad():
            self.context.key.weight.mul_(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.steps(x * torch.sigmoid(self.context(x)))
        return out


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
    "STAA": lambda: GateNet(ContextThenSteps()),
    "STAA, batch first": lambda: GateNet(TimeSecond(ContextThenSteps()), "B T"),
    "ASA": lambda: GateNet(ASA(T)),
    "ASA, reduced": lambda: GateNet(ASA(T, reduction=2, lam=0.4)),
}
