"""Trained and untrained nets with everything that is made of them, each made once a session."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikefold.converters.calibrate import Calibration, calibrate
from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.float_graph import FloatNet, read_float_graph
from spikefold.converters.lower import Attention, lower
from spikefold.converters.reference import Trace, run_reference
from spikefold.models import LIF, NeuronSpec, OverTime, load_checkpoint, saccade_mnist, shipped

SHIPPED = ("plain", "asa", "fsta", "staa")
USERS = ("squeeze", "residual", "votes")
CASES: tuple[tuple[str, Attention], ...] = (
    ("plain", "static"), ("asa", "static"), ("asa", "dynamic"), ("fsta", "static"), ("fsta", "dynamic"),
    ("squeeze", "static"), ("squeeze", "dynamic"), ("residual", "static"), ("votes", "static"),
    ("asa", "scheduled"), ("fsta", "scheduled"), ("squeeze", "scheduled"),
    ("asa", "causal"), ("fsta", "causal"), ("squeeze", "causal"),
    ("staa", "static"), ("staa", "dynamic"), ("staa", "causal"),
)  # fmt: skip
"""Each net in each mode that differs: a net without gates has one."""
SAMPLES = 4
CALIBRATION_SAMPLES = 32
STEPS = 5
SHAPE = (2, 10, 10)


class UsersNeuron(nn.Module):
    """A leaky neuron as many write it, ``v += (x - v) / tau``; nothing of ours but the `neuron_spec` method."""

    def __init__(self, tau: float, v_threshold: float) -> None:
        super().__init__()
        self.tau, self.v_threshold = tau, v_threshold

    def neuron_spec(self) -> NeuronSpec:
        return NeuronSpec(1 - 1 / self.tau, self.v_threshold, strict=False, input_gain=1 / self.tau)

    def forward(self, x: Tensor) -> Tensor:
        v, spikes = torch.zeros_like(x[0]), []
        for current in x:
            v = v + (current - v) / self.tau
            spikes.append((v >= self.v_threshold).float())
            v = v * (1 - spikes[-1])
        return torch.stack(spikes)


class SqueezeExcite(nn.Module):
    """A user's gate: one factor a channel from the current pooled over time and space (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, 3), nn.Linear(3, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.squeeze(x.mean((0, 3, 4))))
        return x * torch.sigmoid(self.excite(hidden))[None, :, :, None, None]


def layer(inputs: int, outputs: int, stride: int = 1) -> OverTime:
    """A 3x3 convolution and batch norm over time."""
    return OverTime(nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)))


class SqueezeNet(nn.Module):
    """Two gated layers of our neurons and a readout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.gate1, self.fire1 = layer(2, 6), SqueezeExcite(6), LIF(0.4, 0.5)
        self.conv2, self.gate2, self.fire2 = layer(6, 8, 2), SqueezeExcite(8), LIF(0.7, 0.6, strict=False)
        self.readout = OverTime(nn.Linear(8 * 5 * 5, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.fire1(self.gate1(self.conv1(x)))
        x = self.fire2(self.gate2(self.conv2(x)))
        return self.readout(x.flatten(2)).mean(0)


class ResidualNet(nn.Module):
    """A user's neurons, an identity shortcut, a strided 1x1 shortcut, and output neurons that fire."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.fire1 = layer(2, 6), UsersNeuron(2.0, 0.5)
        self.conv2, self.fire2 = layer(6, 6), UsersNeuron(2.0, 0.8)
        self.conv3, self.down, self.fire3 = layer(6, 8, 2), OverTime(nn.Conv2d(6, 8, 1, 2)), UsersNeuron(1.6, 0.7)
        self.out = OverTime(nn.Sequential(nn.Linear(8 * 5 * 5, 4, bias=False), nn.BatchNorm1d(4)))
        self.fire4 = UsersNeuron(2.0, 0.4)

    def forward(self, x: Tensor) -> Tensor:
        first = self.fire1(self.conv1(x))
        second = self.fire2(self.conv2(first) + first)
        third = self.fire3(self.conv3(second) + self.down(second))
        return self.fire4(self.out(third.flatten(2)))


class VotesNet(nn.Module):
    """Max pooling of spikes and ten voting neurons a class, as in SpikingJelly's networks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.fire1, self.pool1 = layer(2, 6), LIF(0.5, 0.8), OverTime(nn.MaxPool2d(2))
        self.conv2, self.fire2, self.pool2 = layer(6, 8), LIF(0.5, 0.9), OverTime(nn.MaxPool2d(3, 2, 1))
        self.vote = OverTime(nn.Sequential(nn.Linear(8 * 3 * 3, 30, bias=False), nn.BatchNorm1d(30)))
        self.fire3 = LIF(0.5, 0.9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool2(self.fire2(self.conv2(self.pool1(self.fire1(self.conv1(x))))))
        return self.fire3(self.vote(x.flatten(2))).unflatten(2, (3, 10)).mean(3).mean(0)


def events(samples: int, seed: int) -> NDArray[np.uint8]:
    """Clips ``[STEPS, samples, *SHAPE]`` of random binary events."""
    return (np.random.default_rng(seed).random((STEPS, samples, *SHAPE)) < 0.3).astype(np.uint8)


def settled(module: nn.Module, clips: NDArray[np.uint8]) -> nn.Module:
    """Give the batch norms the statistics of ``clips``, so that untrained layers neither sleep nor fire always."""
    for child in module.modules():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            child.momentum = 1.0
    with torch.no_grad():
        module.train()(torch.from_numpy(clips).float())
    return module.eval()


@dataclass(frozen=True)
class Net:
    """A trained module, its captured form, and held-out clips ``[T, SAMPLES, ...]`` for it."""

    module: nn.Module
    graph: nir.NIRGraph
    calibration: Calibration
    clips: NDArray[np.uint8]

    @property
    def float_net(self) -> FloatNet:
        """The captured form as populations."""
        return read_float_graph(self.graph)


@lru_cache(maxsize=1)
def digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Training clips for calibration and held-out clips of saccade-mnist."""
    train, held_out = (saccade_mnist.load_digits(split).images for split in ("train", "val"))
    clips = [saccade_mnist.encode(images) for images in (train[:CALIBRATION_SAMPLES], held_out[:SAMPLES])]
    return clips[0].swapaxes(0, 1), clips[1].swapaxes(0, 1)


@lru_cache(maxsize=8)
def net(name: str) -> Net:
    """One of `SHIPPED` or `USERS`."""
    if name in SHIPPED:
        module, _ = load_checkpoint(shipped(name))
        train, clips = digits()
    else:
        torch.manual_seed(3)
        train, clips = events(CALIBRATION_SAMPLES, 1), events(SAMPLES, 2)
        module = settled({"squeeze": SqueezeNet, "residual": ResidualNet, "votes": VotesNet}[name](), train)
    graph = capture(module, torch.from_numpy(clips).float())
    return Net(module, graph, calibrate(graph, train), clips)


@lru_cache(maxsize=32)
def lowered(name: str, attention: Attention) -> FixedPointGraph:
    """The integer form of `net`."""
    return lower(net(name).graph, net(name).calibration, attention, name=name)


@lru_cache(maxsize=32)
def expected(name: str, attention: Attention) -> Trace:
    """What the numpy reference makes of the held-out clips."""
    return run_reference(lowered(name, attention), net(name).clips)


def assert_equal(actual: Trace | None, wanted: Trace) -> None:
    """Assert that two traces hold the same populations and the same bits."""
    assert actual is not None
    for kind in ("spikes", "membranes"):
        ours, theirs = getattr(actual, kind), getattr(wanted, kind)
        assert ours.keys() == theirs.keys()
        for population in theirs:
            np.testing.assert_array_equal(ours[population], theirs[population], f"{kind} of {population}")
    np.testing.assert_array_equal(actual.logits, wanted.logits)
