"""Whole nets in Lava against the numpy reference: 0 differing spikes, membrane values and logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from generated_graphs import random_clips, random_graph
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.deploy.lava.plan import make_plan

if TYPE_CHECKING:
    from conftest import Check

pytestmark = pytest.mark.lava

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "graded": {"graded_input": True, "spiking_output": True},
    "thresholds": {"per_neuron_thresholds": True, "residual": True},
    "depthwise": {"depthwise": True, "residual": True, "graded_input": True},
    "stress": {"stress": True, "residual": True},
    "stress own": {"stress": True, "per_neuron_thresholds": True, "gated": True},
    "gated": {"gated": True},
    "streaming residual": {"gated": True, "gates": ("running", "context", "channel"), "residual": True},
    "gated residual": {"gated": True, "residual": True, "per_neuron_thresholds": True, "graded_input": True},
}


@pytest.mark.parametrize(("seed", "kind"), list(enumerate(KINDS)))
def test_random_nets(seed: int, kind: str, equal_in_lava: Check) -> None:
    graph = random_graph(seed, **KINDS[kind])
    expected = equal_in_lava(graph, random_clips(graph, seed))
    assert all(0 < expected.spikes[n.name].mean() < 1 for n in graph.neurons if n.fires)


def test_one_step_one_sample_and_a_gate(equal_in_lava: Check) -> None:
    graph = random_graph(3, gated=True, time_steps=1)
    equal_in_lava(graph, random_clips(graph, 3, batch=1))


def test_gate_by_hand_across_dense_and_convolution_layouts(equal_in_lava: Check) -> None:
    """A dense map into an image, a gate per channel and step on it, convolved beside a shortcut, read densely."""
    rng = np.random.default_rng(5)
    steps, shape = 4, (3, 4, 2)
    gate = GateProgram(
        (steps, -1, *shape),
        (
            Step("sum", (0,), {"axes": (0, 3, 4), "keepdim": True}),
            Step("rescale", (1,), {"multiplier": 3, "shift": 12, "limit": 127}),
            Step("look_up", (2,), {"offset": 128}, np.arange(256) // 2),
        ),
        steps,
    )
    bias = rng.integers(-900, 900, (3, 1, 1))
    zero = np.array(0)
    graph = FixedPointGraph(
        InputPort((7,), 3),
        (
            Neurons("image", shape, 700, np.array(150), bias, 2, 1.0, gate=gate, gate_shift=7),
            Neurons("side", (2, 4, 2), 0, np.array(200), zero, 0, 1.0),
            Neurons("late", (5, 4, 2), 2000, rng.integers(100, 300, (5, 4, 2)), zero, 0, 1.0),
            Neurons("answer", (4,), 100, zero, rng.integers(-50, 50, (4,)), 5, 1.0, fires=False),
        ),
        (
            Synapse("in", "input", "image", "dense", 2 * rng.integers(-128, 128, (24, 7)), 1),
            Synapse("conv", "image", "late", "conv", 2 * rng.integers(-128, 128, (5, 3, 3, 3)), padding=(1, 1)),
            Synapse("aside", "input", "side", "dense", 2 * rng.integers(-128, 128, (16, 7))),
            Synapse("early", "side", "late", "conv", 2 * rng.integers(-128, 128, (5, 2, 1, 1)), 1),
            Synapse("out", "late", "answer", "dense", 2 * rng.integers(-128, 128, (4, 40))),
            Synapse("skip", "image", "answer", "dense", 2 * rng.integers(-128, 128, (4, 24)), 1),
        ),
        "dynamic",
        steps,
    )
    plan = make_plan(graph, steps, 3)
    assert [p.process for p in plan.populations] == ["own", "stock", "own", "stock"]
    assert plan.populations[2].waits == {"conv": 0, "early": steps - 1}
    expected = equal_in_lava(graph, rng.integers(0, 4, (steps, 3, 7)))
    assert 0 < expected.spikes["late"].mean() < 1


def test_a_readout_beyond_the_largest_threshold_keeps_counting(equal_in_lava: Check) -> None:
    output = Neurons("n", (2,), 0, np.array(0), np.array([4095, -4095]), 7, 1.0, fires=False)
    synapse = Synapse("s", "input", "n", "dense", np.array([[254], [-256]]), 8)
    graph = FixedPointGraph(InputPort((1,)), (output,), (synapse,), "none", None)
    expected = equal_in_lava(graph, np.ones((8, 2, 1), dtype=np.int64))
    assert expected.membranes["n"].max() == 2**23 - 1
