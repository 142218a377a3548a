"""What a module adds to a current step by step becomes a bias and a bias schedule; the net stays the module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compared_networks import assert_same_but_for_rounding
from gate_networks import ClipSqueeze, GateNet, T
from networks import SHAPE, clips, prepared
from spikefold.converters.calibrate import calibrate
from spikefold.converters.capture import capture
from spikefold.converters.causal_gates import make_causal
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.scheduled_gates import schedule_gates
from spikefold.converters.static_gates import fold_static_gates
from spikefold.errors import FileFormatError, InputError
from spikefold.models import FSTA

SAMPLES = clips((T, 12, *SHAPE[2:]), seed=21)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).double() * 0.3


class Shift(nn.Module):
    """Adds an array to ``[T, B, C, H, W]``, then gates it where there is a gate."""

    def __init__(self, shape: tuple[int, ...], gate: nn.Module | None = None) -> None:
        super().__init__()
        self.register_buffer("shift", drawn(*shape) + 0.1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.shift
        return x if self.gate is None else self.gate(x)


class Work(nn.Module):
    """A layer given as a function of the current, P per channel, P per pixel and one number a channel."""

    def __init__(self, work: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.work = work
        self.register_buffer("channels", drawn(*PER_CHANNEL))
        self.register_buffer("pixels", drawn(*PER_PIXEL))
        self.register_buffer("bias", drawn(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.work(x, self.channels, self.pixels, self.bias)


PER_CHANNEL, PER_PIXEL, PER_STEP = (T, 1, 4, 1, 1), (T, 1, 1, 8, 8), (T, 1, 1, 1, 1)
NETS: dict[str, Callable[[], nn.Module]] = {
    "per step": lambda: GateNet(Shift(PER_STEP)),
    "per channel": lambda: GateNet(Shift(PER_CHANNEL)),
    "per pixel": lambda: GateNet(Shift(PER_PIXEL)),
    "per neuron": lambda: GateNet(Shift((T, 1, 4, 8, 8))),
    "input gain": lambda: GateNet(Shift(PER_CHANNEL), input_gain=0.5),
    "one after another": lambda: GateNet(Work(lambda x, c, p, b: p + (x + c))),
    "subtracted": lambda: GateNet(Work(lambda x, c, p, b: x - c)),
    "then one number a channel": lambda: GateNet(Work(lambda x, c, p, b: x + c + b)),
    "sum of two": lambda: GateNet(Work(lambda x, c, p, b: (x + c) + (x + p))),
    "sum of one and a plain one": lambda: GateNet(Work(lambda x, c, p, b: x + (x + p))),
    "through merged axes": lambda: GateNet(
        Work(lambda x, c, p, b: (x + c).flatten(0, 1).flatten(1).unflatten(1, (4, 8, 8)).unflatten(0, (T, -1)))
    ),
    "before a gate per channel": lambda: GateNet(Shift(PER_CHANNEL, ClipSqueeze())),
    "before a gate per pixel": lambda: GateNet(Shift(PER_PIXEL, FSTA(T)), input_gain=0.5),
}  # fmt: skip


def captured(name: str) -> tuple[nn.Module, nir.NIRGraph]:
    net = prepared(NETS[name]())
    return net, capture(net, torch.zeros(SHAPE))


@pytest.mark.parametrize("name", NETS)
def test_every_current_and_spike_is_the_modules(name: str) -> None:
    net, graph = captured(name)
    assert_same_but_for_rounding(graph, net, clips((T, 5, *SHAPE[2:])))


@pytest.mark.parametrize("name", NETS)
def test_the_mean_of_a_channel_is_an_ordinary_bias(name: str) -> None:
    """A reader that knows no schedules is off by nothing on average."""
    schedule = captured(name)[1].nodes["neuron"].metadata["bias_schedule"]
    assert schedule.shape[:2] == (T, 1)
    assert np.abs(schedule).max() > 0.05
    np.testing.assert_allclose(schedule.mean((0, 1, 3, 4)), 0.0, atol=1e-7)


def test_t_is_fixed_to_that_of_the_schedule() -> None:
    net = read_float_graph(captured("per channel")[1])
    assert net.time_steps == T
    with pytest.raises(InputError, match=rf"T = {T + 1}; the gates or biases of this net were trained for {T}"):
        net.run(clips((T + 1, 2, *SHAPE[2:])))


@pytest.mark.parametrize("name", ["before a gate per channel", "before a gate per pixel"])
def test_a_folded_gate_takes_the_schedule_with_it(name: str) -> None:
    """Per channel it scales weights, bias and schedule; per pixel thresholds alone."""
    net, graph = captured(name)
    calibration = calibrate(graph, SAMPLES.numpy())
    mean = torch.from_numpy(calibration.gates["neuron"].mean.mean(0))
    net.gate.gate = Work(lambda x, c, p, b: x * mean)
    folded = fold_static_gates(graph, calibration)
    assert_same_but_for_rounding(folded, net.eval(), clips((T, 5, *SHAPE[2:])), folded_gates=True)
    assert folded.metadata["time_steps"] == T


@pytest.mark.parametrize("rewrite", [lambda g, c: make_causal(g), schedule_gates], ids=["causal", "scheduled"])
def test_a_gate_that_stays_leaves_the_schedule_as_it_is(rewrite: Callable[..., nir.NIRGraph]) -> None:
    graph = captured("before a gate per pixel")[1]
    again = rewrite(graph, calibrate(graph, SAMPLES.numpy()))
    kept, given = (g.nodes["neuron"].metadata["bias_schedule"] for g in (again, graph))
    np.testing.assert_array_equal(kept, given)
    assert again.metadata["time_steps"] == T


@pytest.mark.parametrize("schedule", [np.zeros((T + 1, 1, 4, 1, 1)), np.zeros((T, 1, 3, 1, 1)), np.zeros((T, 4, 1, 1))])
def test_a_schedule_of_another_shape_is_a_damaged_file(schedule: np.ndarray[Any, Any]) -> None:
    graph = captured("per channel")[1]
    graph.nodes["neuron"].metadata["bias_schedule"] = schedule
    with pytest.raises(FileFormatError, match=r"neurons 'neuron': bias_schedule has shape .*it must be \(4, 1, "):
        read_float_graph(graph)
