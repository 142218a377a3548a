"""Lava's stock LIF, Dense and Conv against `spikefold.converters.arithmetic`, at the limits of the number formats."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from spikefold.converters.arithmetic import MAX_BIAS_MANTISSA, MAX_THRESHOLD, STATE_LIMIT, decay
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.reference import sum_currents, synapse_current, synaptic_currents
from spikefold.deploy.lava.plan import make_plan

if TYPE_CHECKING:
    from conftest import Check

pytestmark = pytest.mark.lava
EVEN = np.arange(-256, 256, 2)


def _population(name: str, size: int, dv: int, v_threshold: int, bias: int, bias_exponent: int) -> Neurons:
    return Neurons(name, (size,), dv, np.array(v_threshold), np.array(bias), bias_exponent, 1.0)


def test_neuron_wraps_clips_decays_and_fires_as_the_reference_says(equal_in_lava: Check) -> None:
    """Sums of m * 2**16 + (-4096..4096), m in -256..254: on, around and beyond both wrap points and the clip."""
    rng = np.random.default_rng(0)
    settings = [
        (0, 0, 0, 0),
        (0, MAX_THRESHOLD, 0, 0),
        (1, MAX_THRESHOLD, MAX_BIAS_MANTISSA, 7),
        (1, MAX_THRESHOLD, -MAX_BIAS_MANTISSA, 7),
        (2048, 100000, 3, 1),
        (4095, 131000, -1, 0),
        (1365, 1, 255, 4),
    ]
    neurons = tuple(_population(f"n{i}", len(EVEN), *setting) for i, setting in enumerate(settings))
    coarse = np.stack([EVEN, np.zeros_like(EVEN)], axis=1)
    synapses = []
    for n in neurons:
        synapses.append(Synapse(f"coarse {n.name}", "input", n.name, "dense", np.pad(coarse, ((0, 0), (0, 6))), 16))
        fine = np.pad(2 * rng.integers(-128, 128, (len(EVEN), 6)), ((0, 0), (2, 0)))
        synapses.append(Synapse(f"fine {n.name}", "input", n.name, "dense", fine, 2))
    graph = FixedPointGraph(InputPort((8,)), neurons, tuple(synapses), "none", None)
    assert {p.process for p in make_plan(graph, 12, 2).populations} == {"stock"}

    clips = rng.integers(0, 2, (12, 2, 8))
    clips[0, 0] = np.eye(8, dtype=np.int64)[0]
    expected = equal_in_lava(graph, clips)

    membranes = np.concatenate([m.ravel() for m in expected.membranes.values()])
    assert membranes.max() == STATE_LIMIT or membranes.min() == -STATE_LIMIT
    assert all(0 < expected.spikes[n.name].mean() < 1 for n in neurons)


def test_currents_are_remembered_and_wrap_as_the_reference_says(equal_in_lava: Check) -> None:
    """Sums to 2**24 on top of a current that is remembered: on, around and beyond both wrap points."""
    rng = np.random.default_rng(3)
    settings = [(0, 0), (1, 4095), (40, 7), (700, 1), (2047, 2048), (4094, 0), (4095, 0)]
    size = 40
    neurons = tuple(replace(_population(f"n{i}", size, dv, 60000, 99, 1), du=du) for i, (du, dv) in enumerate(settings))
    synapses = []
    for n in neurons:
        coarse, fine = (np.where(rng.random((size, 8)) < share, rng.choice(EVEN, (size, 8)), 0) for share in (0.1, 1.0))
        synapses.append(Synapse(f"coarse {n.name}", "input", n.name, "dense", coarse, 8))
        synapses.append(Synapse(f"fine {n.name}", "input", n.name, "dense", fine, 1))
    graph = FixedPointGraph(InputPort((8,)), neurons, tuple(synapses), "none", None)
    assert {p.process for p in make_plan(graph, 12, 2).populations} == {"stock"}
    clips = rng.integers(0, 2, (12, 2, 8))
    equal_in_lava(graph, clips)
    for n in neurons[:4]:
        weighted = sum_currents(n, [synapse_current(s, clips) for s in graph.incoming(n.name)]) << 6
        u = synaptic_currents(n, weighted >> 6)
        left = decay(np.concatenate([np.zeros_like(u[:1]), u[:-1]]), np.asarray(n.du) + 1)
        assert (left + weighted > u).any(), f"{n.name} never wraps down"
        assert (left + weighted < u).any(), f"{n.name} never wraps up"


def test_dense_keeps_every_weight_of_each_sign(equal_in_lava: Check) -> None:
    """-256 among negative weights only is what Lava's own choice of the sign mode would cut to -255."""
    negative = np.stack([EVEN[EVEN <= 0]] * 2)
    weights = {"negative": negative, "positive": np.stack([EVEN[EVEN >= 0]] * 2), "mixed": np.stack([EVEN, EVEN[::-1]])}
    size = max(w.shape[1] for w in weights.values())
    neurons = tuple(Neurons(k, (2,), 0, np.array(0), np.array(0), 0, 1.0, fires=False) for k in weights)
    synapses = tuple(
        Synapse(k, "input", k, "dense", np.pad(w, ((0, 0), (0, size - w.shape[1])))) for k, w in weights.items()
    )
    graph = FixedPointGraph(InputPort((size,)), neurons, synapses, "none", None)
    equal_in_lava(graph, np.random.default_rng(1).integers(0, 2, (6, 2, size)))


def test_convolutions_of_every_kind(equal_in_lava: Check) -> None:
    """Rectangular, strided, padded, dilated and grouped kernels, and more groups than Lava's Conv can hold."""
    rng = np.random.default_rng(2)
    channels = 130
    kinds = {
        "plain": ((3, channels, 2, 3), {}),
        "strided": ((3, channels, 3, 1), {"stride": (2, 3), "padding": (1, 0)}),
        "dilated": ((3, channels, 2, 2), {"dilation": (3, 2), "padding": (2, 1)}),
        "grouped": ((20, 13, 1, 2), {"groups": 10}),
        "depthwise": ((channels, 1, 3, 3), {"groups": channels, "padding": (1, 1)}),
        "depthwise twice": ((2 * channels, 1, 1, 1), {"groups": channels}),
    }
    height, width = 5, 6
    neurons, synapses = [], []
    for name, (kernel, how) in kinds.items():
        weight = 2 * rng.integers(-128, 128, kernel)
        size = [
            (n + 2 * p - d * (m - 1) - 1) // s + 1
            for n, m, p, d, s in zip(
                (height, width), kernel[2:], how.get("padding", (0, 0)), how.get("dilation", (1, 1)),
                how.get("stride", (1, 1)), strict=True,
            )
        ]  # fmt: skip
        neurons.append(Neurons(name, (kernel[0], *size), 500, np.array(400), np.array(0), 0, 1.0))
        synapses.append(Synapse(name, "input", name, "conv", weight, 1, **how))
    graph = FixedPointGraph(InputPort((channels, height, width), 3), tuple(neurons), tuple(synapses), "none", None)
    clips = rng.integers(0, 4, (2, 2, *graph.input.shape)) * (rng.random((2, 2, *graph.input.shape)) < 0.2)
    equal_in_lava(graph, clips)
