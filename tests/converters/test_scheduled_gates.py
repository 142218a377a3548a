from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gate_networks import ClipSqueeze, GateNet, T
from networks import SHAPE, captured, clips, prepared
from spikefold.converters.calibrate import Calibration, GateStatistics, calibrate
from spikefold.converters.capture import capture
from spikefold.converters.float_graph import FloatPopulation, read_float_graph
from spikefold.converters.lower import lower
from spikefold.converters.scheduled_gates import left_out, schedule_gates
from spikefold.errors import LoweringError

SAMPLES = clips((T, 16, *SHAPE[2:]), seed=41).numpy().astype(np.uint8)


class Scheduled(nn.Module):
    """A factor for each step times one for each channel or pixel, whatever the current is."""

    def __init__(self, over_time: Tensor, over_features: Tensor) -> None:
        super().__init__()
        self.register_buffer("over_time", over_time)
        self.register_buffer("over_features", over_features)

    def forward(self, x: Tensor) -> Tensor:
        nothing = torch.relu(x.mean((0, 3, 4), keepdim=True) - 1e6)
        return x * ((nothing + self.over_time) * self.over_features)


OVER_TIME = torch.tensor([0.25, 1.0, 1.5, 0.75]).reshape(T, 1, 1, 1, 1)
OVER_CHANNELS = torch.tensor([0.5, 1.0, 2.0, 1.5]).reshape(1, 1, 4, 1, 1)
OVER_PIXELS = torch.linspace(0.5, 1.5, 64).reshape(1, 1, 1, 8, 8)


def firing(graph: object, population: str = "neuron") -> FloatPopulation:
    return next(p for p in read_float_graph(graph).populations if p.name == population)  # type: ignore[arg-type]


@pytest.mark.parametrize("features", [OVER_CHANNELS, OVER_PIXELS], ids=["channels", "pixels"])
def test_a_gate_that_is_a_schedule_loses_nothing(features: Tensor) -> None:
    net = prepared(GateNet(Scheduled(OVER_TIME, features)))
    graph = capture(net, torch.from_numpy(SAMPLES[:, :1]).float())
    calibration = calibrate(graph, SAMPLES)
    scheduled = schedule_gates(graph, calibration)
    assert left_out(calibration.gates["neuron"]) < 1e-6
    program = firing(scheduled).gate
    assert program is not None
    assert [s.op for s in program.steps] == ["table"]
    fresh = clips((T, 16, *SHAPE[2:]), seed=42).float()
    _, wanted = read_float_graph(graph).run(fresh)
    _, got = read_float_graph(scheduled).run(fresh)
    assert 0.02 < wanted["neuron"].mean() < 0.98
    assert (got["neuron"] != wanted["neuron"]).float().mean() < 1e-3
    fixed = lower(graph, calibration, "scheduled")
    assert fixed.time_steps == T
    assert [s.op for n in fixed.neurons if n.gate is not None for s in n.gate.steps] == ["table"]


def test_the_table_differs_by_channel_where_the_gate_does() -> None:
    over_both = OVER_TIME * torch.linspace(0.5, 1.5, 4 * T).reshape(T, 1, 4, 1, 1)
    graph = capture(prepared(GateNet(Scheduled(over_both, OVER_PIXELS))), torch.from_numpy(SAMPLES[:, :1]).float())
    calibration = calibrate(graph, SAMPLES)
    program = firing(schedule_gates(graph, calibration)).gate
    assert program is not None
    assert program.steps[0].constant is not None
    wanted = (over_both / over_both.mean(0)).numpy()
    np.testing.assert_allclose(program.steps[0].constant, wanted, rtol=1e-5)
    assert left_out(calibration.gates["neuron"]) < 1e-6


def test_what_the_table_leaves_out_is_measured_and_kept_with_the_net() -> None:
    """Two pixels that swap their gates over two steps: the mean is the same everywhere, and all of it is left out."""
    mean = np.array([[[[0.5, 1.5]]], [[[1.5, 0.5]]]])
    assert left_out(GateStatistics(mean, 0.0, 0.5, ())) == pytest.approx(0.5)
    fixed = lower(captured("FSTA")[1], SAMPLES, "scheduled")
    share = fixed.provenance["schedule_leaves_out"]["neuron"]
    assert 0 < share < 0.2


def test_a_gate_that_does_not_depend_on_the_step_leaves_no_table() -> None:
    graph = capture(prepared(GateNet(ClipSqueeze())), torch.from_numpy(SAMPLES[:, :1]).float())
    fixed, static = (lower(graph, SAMPLES, mode) for mode in ("scheduled", "static"))  # type: ignore[arg-type]
    assert (fixed.attention, fixed.time_steps) == ("scheduled", None)
    assert all(n.gate is None for n in fixed.neurons)
    for ours, theirs in zip(fixed.to_plain()[1], static.to_plain()[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_mean_gate_below_zero_is_refused() -> None:
    graph = captured("FSTA")[1]
    calibration = calibrate(graph, SAMPLES)
    gate = calibration.gates["neuron"]
    below = GateStatistics(-gate.mean, gate.variation, gate.smallest, gate.ranges)
    with pytest.raises(LoweringError, match="a folded gate must be above 0 everywhere"):
        schedule_gates(graph, Calibration(calibration.clips, {"neuron": below}))
