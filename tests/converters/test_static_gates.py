from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import nir
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compared_networks import assert_same_but_for_rounding
from gate_networks import ClipSqueeze, GateNet, StepByStep, StepSqueeze, T
from networks import SHAPE, clips, prepared
from spikefold.converters.calibrate import calibrate
from spikefold.converters.capture import capture
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.static_gates import FLOOR, fold_static_gates
from spikefold.errors import LoweringError, SpikefoldWarning
from spikefold.models import ASA, FSTA, LIF, OverTime

SAMPLES = clips((T, 12, *SHAPE[2:]), seed=21)


class Frozen(nn.Module):
    """A gate that no longer looks at its current."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mean


class ScalarGate(nn.Module):
    """One factor a step for all neurons."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (0.5 + torch.sigmoid(x.mean((2, 3, 4), keepdim=True)))


class TwoSynapses(GateNet):
    """A gate on the sum of two convolutions, so that no single weight can take it."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__(gate)
        self.other = OverTime(nn.Conv2d(2, 4, 1))

    def gated(self, x: Tensor) -> Tensor:
        y: Tensor = self.gate(self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2]) + self.other(x))
        return y


class Rows(nn.Module):
    """A gate per channel on neurons in one row."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.mix, self.head = nn.Linear(10, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.gate: nn.Module | None = None
        self.neuron = LIF(0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        y = y * torch.sigmoid(self.mix(y.mean(0))) if self.gate is None else self.gate(y)
        logits: Tensor = self.head(self.neuron(y))
        return logits.mean(0)


def folded(net: nn.Module, samples: Tensor = SAMPLES) -> tuple[nir.NIRGraph, Tensor]:
    """The folded graph, and the mean gate over samples and time."""
    graph = capture(net, torch.zeros_like(samples))
    calibration = calibrate(graph, samples.numpy())
    return fold_static_gates(graph, calibration), torch.from_numpy(calibration.gates["neuron"].mean.mean(0))


CASES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "one number": (lambda: GateNet(ScalarGate()), "threshold"),
    "per channel": (lambda: GateNet(ClipSqueeze()), "weight"),
    "per channel and step": (lambda: GateNet(StepSqueeze(), "TB"), "weight"),
    "per channel, two synapses": (lambda: TwoSynapses(ClipSqueeze()), "threshold"),
    "per pixel": (lambda: GateNet(FSTA(T)), "threshold"),
    "per pixel, two synapses": (lambda: TwoSynapses(FSTA(T)), "threshold"),
    "per neuron": (lambda: GateNet(ASA(T)), "threshold"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_folded_net_is_the_net_whose_gate_stands_still(name: str) -> None:
    make, into = CASES[name]
    net = prepared(make())
    graph, mean = folded(net)
    frozen = copy.deepcopy(net)
    frozen.gate = Frozen(mean) if net.layout == "T B" else Frozen(mean[None])
    assert_same_but_for_rounding(graph, frozen.eval(), clips((T, 4, *SHAPE[2:])), folded_gates=True)
    thresholds = np.unique(graph.nodes["neuron"].v_threshold)
    if into == "weight":
        np.testing.assert_array_equal(thresholds, np.float32(0.5))
    else:
        wanted = (0.5 / mean.expand(4, 8, 8)).numpy()
        np.testing.assert_allclose(np.broadcast_to(graph.nodes["neuron"].v_threshold, (4, 8, 8)), wanted, rtol=1e-6)


def test_the_folded_net_of_neurons_in_one_row_is_the_net_whose_gate_stands_still() -> None:
    net = prepared(Rows())
    graph, mean = folded(net, clips((T, 12, 10), seed=3))
    net.gate = Frozen(mean).eval()
    assert_same_but_for_rounding(graph, net, clips((T, 9, 10)), folded_gates=True)


def test_a_gate_that_depends_on_the_step_is_averaged_over_it() -> None:
    net = prepared(GateNet(StepByStep()))
    graph = capture(net, torch.zeros(SHAPE))
    calibration = calibrate(graph, SAMPLES.numpy())
    mean = calibration.gates["neuron"].mean
    assert mean.shape[0] == T
    assert np.ptp(mean, axis=0).max() > 1e-3
    before, after = graph.nodes["conv"].weight, fold_static_gates(graph, calibration).nodes["conv"].weight
    np.testing.assert_allclose(after, before * mean.mean(0).reshape(4, 1, 1, 1), rtol=1e-6)


def test_a_folded_net_holds_no_gate_and_takes_clips_of_any_length() -> None:
    graph, _ = folded(prepared(GateNet(FSTA(T))))
    net = read_float_graph(graph)
    assert [p.gate for p in net.populations] == [None, None]
    assert net.time_steps is None
    assert net.run(clips((T + 3, 2, *SHAPE[2:])))[0].shape == (2, 3)


def test_folding_leaves_the_gated_graph_as_it_was() -> None:
    graph = capture(prepared(GateNet(ClipSqueeze())), torch.zeros(SHAPE))
    weight, steps = graph.nodes["conv"].weight.copy(), graph.metadata["time_steps"]
    fold_static_gates(graph, calibrate(graph, SAMPLES.numpy()))
    np.testing.assert_array_equal(graph.nodes["conv"].weight, weight)
    assert "gate" in graph.nodes["neuron"].metadata
    assert graph.metadata["time_steps"] == steps == T


class Written(nn.Module):
    """A gate by any function of the current."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Shifted(nn.Module):
    """A gate around ``middle`` that differs from channel to channel."""

    def __init__(self, middle: list[float]) -> None:
        super().__init__()
        self.register_buffer("middle", torch.tensor(middle)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * (0.001 * torch.tanh(x.mean((0, 3, 4), keepdim=True)) + self.middle)


def test_gates_near_zero_are_raised_to_the_floor_with_a_count() -> None:
    net = prepared(GateNet(Shifted([1.0, 0.005, 0.002, 0.5])))
    graph = capture(net, torch.zeros(SHAPE))
    with pytest.warns(SpikefoldWarning, match="neurons 'neuron': 128 of 256 have a mean gate below"):
        static = fold_static_gates(graph, calibrate(graph, SAMPLES.numpy()))
    ratio = (static.nodes["conv"].weight / graph.nodes["conv"].weight).reshape(4, -1)
    np.testing.assert_allclose(ratio[1:3], FLOOR, rtol=1e-6)
    np.testing.assert_allclose(ratio[[0, 3], 0], [1.0, 0.5], atol=2e-3)


def test_gates_above_the_floor_bring_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", SpikefoldWarning)
        folded(prepared(GateNet(Shifted([1.0, 0.02, 0.1, 0.5]))))


@pytest.mark.parametrize("middle", [-0.5, -0.002, 0.0])
def test_a_mean_gate_that_is_not_positive_is_refused_by_name(middle: float) -> None:
    gate = GateNet(Shifted([1.0, middle, 1.0, 1.0]))
    if middle == 0.0:
        gate.gate = Written(lambda x: x * torch.relu(x.mean((0, 3, 4), keepdim=True) - 100.0))
    graph = capture(prepared(gate), torch.zeros(SHAPE))
    with pytest.raises(LoweringError, match=r"neurons 'neuron': the mean gate reaches .*attention='dynamic'"):
        fold_static_gates(graph, calibrate(graph, SAMPLES.numpy()))


GATE_SHAPES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "rising": lambda g: np.sort(g, axis=0),
    "falling": lambda g: np.sort(g, axis=0)[::-1],
    "up and down": lambda g: g,
}


@pytest.mark.parametrize("decay", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("shape", GATE_SHAPES)
def test_a_gate_that_changes_with_the_step_is_a_decay_and_a_threshold_that_do(shape: str, decay: float) -> None:
    """With a reset to 0 and g_t > 0, u_t = v_t / g_t decays by ``decay * g_{t-1} / g_t`` and fires above theta / g_t.

    A gate that falls fast asks for a decay above 1, which no chip has: the identity holds there as well.
    """
    random, theta, steps = np.random.default_rng(len(shape)), 0.5, 12
    gate = GATE_SHAPES[shape](np.exp(random.uniform(-2, 1, (steps, 1, 40))))
    currents = random.normal(0.2, 0.6, (steps, 8, 40))
    spikes, v = LIF(decay, theta).run(torch.from_numpy(gate * currents))
    ratio = np.concatenate([np.ones_like(gate[:1]), gate[:-1] / gate[1:]])
    u, fired = np.zeros(currents.shape[1:]), np.zeros(currents.shape, dtype=bool)
    for t in range(steps):
        u = decay * ratio[t] * u + currents[t]
        np.testing.assert_allclose(u * gate[t], v[t].numpy(), rtol=1e-12, atol=1e-12)
        fired[t] = u > theta / gate[t]
        u = np.where(fired[t], 0.0, u)
    assert np.abs(v.numpy() - theta).min() > 1e-9
    np.testing.assert_array_equal(fired, spikes.numpy() == 1)
    assert 0.1 < fired.mean() < 0.9
    assert (ratio > 1).any() == (shape != "rising")
