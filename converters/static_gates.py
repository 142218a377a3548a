"""Fold calibrated gates away: ``LIF(g * I, theta, v_reset) == LIF(I, theta / g, v_reset / g)`` for a constant g > 0.

A leaky integrate-and-fire neuron is positively homogeneous in current, membrane, threshold and reset value, so a
constant gate becomes part of the thresholds (and of reset values other than 0), exactly. A gate per channel goes into
weights and bias where one synapse leads to the neurons; everything else into thresholds, one a neuron where the gate
differs from pixel to pixel.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from spikefold.converters.calibrate import Calibration
from spikefold.converters.capture.build import neuron_node, schedule_to_metadata
from spikefold.converters.float_graph import FloatPopulation, read_float_graph
from spikefold.converters.fold_relays import fold_into_relay, without_linear_relays
from spikefold.errors import LoweringError, SpikefoldWarning

FLOOR = 2.0**-6
"""Gates below this are raised to it: theta / g has no bound otherwise. Such neurons hardly ever fire."""


def fold_static_gates(graph: nir.NIRGraph, calibration: Calibration) -> nir.NIRGraph:
    """The same net with every gate replaced by its calibrated mean over samples and time, and folded away.

    Raises
    ------
    LoweringError
        A mean gate is zero or negative somewhere, so that no threshold stands for it.
    """
    nodes = {name: copy.copy(node) for name, node in graph.nodes.items()}
    net = read_float_graph(graph)
    steps = net.schedule_steps
    for population in net.populations:
        if population.selects:
            steps = calibration.time_steps
        elif population.gate is not None and population.relays:
            mean = calibration.gates[population.name].mean.mean(0, keepdims=True)
            steps = max(steps, fold_into_relay(nodes, population, mean, calibration.time_steps))
        elif population.gate is not None:
            fold(nodes, population, mean_gate(population, calibration), {})
    folded = nir.NIRGraph(nodes, list(graph.edges))
    folded.metadata = {**graph.metadata, "time_steps": steps}
    return without_linear_relays(folded)


def mean_gate(population: FloatPopulation, calibration: Calibration) -> NDArray[np.float64]:
    """Mean gate of ``population`` over samples and time, ``[*shape or 1]``, at least `FLOOR`."""
    mean: NDArray[np.float64] = calibration.gates[population.name].mean.mean(0)
    if mean.min() <= 0:
        raise LoweringError(
            f"neurons {population.name!r}: the mean gate reaches {mean.min():.4g}; a folded gate must be above 0 "
            "everywhere: use attention='dynamic'"
        )
    low = int((np.broadcast_to(mean, population.shape) < FLOOR).sum())
    if low:
        warnings.warn(
            f"neurons {population.name!r}: {low} of {int(np.prod(population.shape))} have a mean gate below "
            f"{FLOOR} and will hardly fire; prune them or use attention='dynamic'",
            SpikefoldWarning,
            stacklevel=2,
        )
    floored: NDArray[np.float64] = np.maximum(mean, FLOOR)
    return floored


def fold(
    nodes: dict[str, nir.NIRNode], population: FloatPopulation, gate: NDArray[np.float64], gate_left: dict[str, Any]
) -> None:
    """Fold a constant gate of ``population`` into ``nodes``; ``gate_left`` is metadata of what gates it still."""
    schedule = population.bias_schedule
    threshold, reset = population.v_threshold.astype(np.float64), population.v_reset
    per_channel = gate.shape[1:] == (1,) * (gate.ndim - 1) and gate.shape[0] > 1
    if per_channel and len(population.synapses) == 1:
        node = nodes[population.synapses[0].name]
        factor = gate.reshape(-1)
        node.weight = (node.weight * factor.reshape(-1, *[1] * (node.weight.ndim - 1))).astype(np.float32)
        node.bias = (node.bias * factor).astype(np.float32)
        schedule = None if schedule is None else schedule * gate
    else:
        threshold = threshold / gate
        reset = None if reset is None else (reset / gate).astype(np.float32)
    metadata = {**population.metadata, **gate_left, **schedule_to_metadata(schedule)}
    nodes[population.name] = neuron_node(
        threshold.astype(np.float32), population.decay, metadata, reset, population.current_decay
    )
