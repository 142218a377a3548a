"""Small random integer nets and clips for differential tests: every executor must agree with the reference on them.

A graph is a function of its arguments alone (seeded). Thresholds are found by running the reference, so that every
firing layer fires in 5 to 40 % of its slots on `random_clips` of the same graph.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from generated_gates import GATES, make_gate
from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.reference import population_current, run_population, synapse_current

GATE_SHIFT = 7
GRADED_MAX = 15
SHAPES: dict[str, tuple[int, ...]] = {"input": (2, 7, 6), "conv1": (4, 7, 6), "conv2": (6, 4, 3), "fc1": (10,)}
CLASSES = 3


def random_graph(
    seed: int,
    *,
    gated: bool = False,
    residual: bool = False,
    per_neuron_thresholds: bool = False,
    graded_input: bool = False,
    spiking_output: bool = False,
    depthwise: bool = False,
    stress: bool = False,
    bias_schedule: bool = False,
    gates: tuple[str, ...] = GATES,
    time_steps: int = 5,
) -> FixedPointGraph:
    """Two convolutions (the second strided and padded), a dense layer and a dense output.

    Parameters
    ----------
    seed : int
        Same arguments, same graph.
    gated : bool
        Give each hidden layer one of ``gates`` in turn, starting at ``seed``; fixes T at ``time_steps``.
    residual : bool
        Add a strided 1x1 shortcut into ``conv2`` from the input, and one dense one into the output from ``conv2``.
    per_neuron_thresholds : bool
        One threshold per neuron (conv: ``[C, H, W]``), else one number per layer.
    graded_input : bool
        Inputs 0..15 instead of 0..1.
    spiking_output : bool
        The output fires and its spike count is the answer, else a readout with ``dv`` 0.
    depthwise : bool
        Add a grouped (one channel each) 3x3 convolution from ``conv1`` into a population of its own.
    stress : bool
        Weight exponents and biases so large that sums wrap at 24 bits and membranes clip.
    bias_schedule : bool
        One bias a step and neuron, else one a channel; fixes T at ``time_steps``.
    gates : tuple of str
        Which of `generated_gates.GATES` to use.
    time_steps : int
        T of a graph with gates or bias schedules, and of the clip the thresholds are found on.

    Returns
    -------
    FixedPointGraph
    """
    rng = np.random.default_rng(seed)
    port = InputPort(SHAPES["input"], GRADED_MAX if graded_input else 1)
    plan: list[tuple[str, tuple[int, ...], list[tuple[str, dict[str, Any]]]]] = [
        ("conv1", SHAPES["conv1"], [("input", {"kernel": (4, 2, 3, 3), "padding": (1, 1)})]),
        (
            "conv2",
            SHAPES["conv2"],
            [("conv1" if not depthwise else "depth", {"kernel": (6, 4, 3, 3), "padding": (1, 1), "stride": (2, 2)})],
        ),
        ("fc1", SHAPES["fc1"], [("conv2", {})]),
        ("output", (CLASSES,), [("fc1", {})]),
    ]
    if depthwise:
        edge = {"kernel": (4, 1, 3, 3), "padding": (1, 1), "groups": 4}
        plan.insert(1, ("depth", SHAPES["conv1"], [("conv1", edge)]))
    if residual:
        plan[-3][2].append(("input", {"kernel": (6, 2, 1, 1), "stride": (2, 2)}))
        plan[-1][2].append(("conv2", {}))
    neurons: list[Neurons] = []
    synapses: list[Synapse] = []
    clips = _clips(rng, port, time_steps, 4)
    messages = {"input": clips}
    for number, (name, shape, edges) in enumerate(plan):
        exponent = int(rng.integers(0, 3)) + (8 if stress else 0)
        added = [_synapse(rng, source, name, shape, messages[source], exponent, how) for source, how in edges]
        total = np.asarray(sum(synapse_current(s, messages[s.source]) for s in added))
        last = number == len(plan) - 1
        bias_shape = (time_steps, 1, *shape) if bias_schedule else (shape[0], *(1,) * (len(shape) - 1))
        population = _population(rng, name, shape, bias_shape, last and not spiking_output, stress)
        if gated and not last:
            kind = gates[(seed + number) % len(gates)]
            population = _with_gate(rng, population, kind, population_current(population, total))
        if population.fires:
            population = _with_threshold(rng, population, total, per_neuron_thresholds)
        messages[name], _ = run_population(population, total)
        neurons.append(population)
        synapses.extend(added)
    return FixedPointGraph(
        port, tuple(neurons), tuple(synapses), "dynamic" if gated else "none",
        time_steps if gated or bias_schedule else None, f"random{seed}",
    )  # fmt: skip


def random_clips(graph: FixedPointGraph, seed: int, time_steps: int = 5, batch: int = 3) -> NDArray[np.int64]:
    """Clips ``[T, B, *shape]`` int64 for ``graph``; about 30 % of the entries are not zero."""
    return _clips(np.random.default_rng(seed), graph.input, graph.time_steps or time_steps, batch)


def _clips(rng: np.random.Generator, port: InputPort, time_steps: int, batch: int) -> NDArray[np.int64]:
    size = (time_steps, batch, *port.shape)
    return np.asarray((rng.random(size) < 0.3) * rng.integers(1, port.max_value + 1, size), dtype=np.int64)


def _synapse(
    rng: np.random.Generator,
    source: str,
    target: str,
    shape: tuple[int, ...],
    messages: NDArray[np.int64],
    exponent: int,
    how: dict[str, Any],
) -> Synapse:
    how = dict(how)
    kernel = how.pop("kernel", (int(np.prod(shape)), int(np.prod(messages.shape[2:]))))
    weight = 2 * rng.integers(-128, 128, kernel)
    kind = "conv" if len(kernel) == 4 else "dense"
    return Synapse(f"{source}->{target}", source, target, kind, weight, exponent, **how)


def _population(
    rng: np.random.Generator,
    name: str,
    shape: tuple[int, ...],
    bias_shape: tuple[int, ...],
    is_readout: bool,
    stress: bool,
) -> Neurons:
    bias = rng.integers(-400, 800, bias_shape)
    exponent = 7 if stress else int(rng.integers(0, 5))
    dv = 0 if is_readout else int(rng.choice([0, 1, 4095, *rng.integers(0, 4096, 5)]))
    return Neurons(
        name, shape, dv, np.array(0), bias, exponent, unit=float(rng.random() + 0.1) / 256, fires=not is_readout
    )


def _with_gate(rng: np.random.Generator, n: Neurons, kind: str, current: NDArray[np.int64]) -> Neurons:
    if len(n.shape) == 1 and kind == "spatial":
        kind = "temporal"
    gate = make_gate(rng, kind, current, GATE_SHIFT)
    return dataclasses.replace(n, gate=gate, gate_shift=GATE_SHIFT)


def _with_threshold(rng: np.random.Generator, n: Neurons, total: NDArray[np.int64], per_neuron: bool) -> Neurons:
    """Search the threshold that brings the rate nearest to 20 %, with a spread of a factor 2 if ``per_neuron``."""
    spread = rng.uniform(0.7, 1.4, n.shape) if per_neuron else np.ones(())
    best, distance = n, np.inf
    for level in np.geomspace(1, arithmetic.MAX_THRESHOLD, 60):
        threshold = np.clip((spread * level).astype(np.int64), 0, arithmetic.MAX_THRESHOLD)
        candidate = dataclasses.replace(n, v_threshold=threshold)
        rate = run_population(candidate, total)[0].mean()
        if abs(rate - 0.2) < distance:
            best, distance = candidate, abs(rate - 0.2)
    return best
