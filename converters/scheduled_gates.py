"""Fold the mean of calibrated gates away and keep how they differ from step to step: a table, not a computation.

With ``G[t]`` the mean of a gate over samples and ``g`` its mean over time too, ``g`` goes into weights and thresholds
as a static gate does, and the current of step t is multiplied by ``r[t]``, the mean of ``G[t] / g`` over pixels (and
over channels, unless the gate differs by channel). A gate that does not depend on the step leaves no table.
"""

from __future__ import annotations

import copy

import nir
import numpy as np
from numpy.typing import NDArray

from spikefold.converters.calibrate import Calibration, GateStatistics
from spikefold.converters.capture.build import gate_to_metadata
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.fold_relays import fold_into_relay, without_linear_relays
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.converters.gate_quantise import GATE_FRACTION_BITS
from spikefold.converters.static_gates import FLOOR, fold, mean_gate


def schedule_gates(graph: nir.NIRGraph, calibration: Calibration) -> nir.NIRGraph:
    """The same net with every gate replaced by its calibrated mean over samples: one factor a step, the rest folded.

    Raises
    ------
    LoweringError
        A mean gate is zero or negative somewhere, so that no threshold stands for it.
    """
    nodes = {name: copy.copy(node) for name, node in graph.nodes.items()}
    net = read_float_graph(graph)
    steps = net.schedule_steps
    for population in net.populations:
        if population.gate is None:
            continue
        if population.selects:
            steps = calibration.time_steps
            continue
        if population.relays:
            means = calibration.gates[population.name].mean
            even = not np.rint((means - means.mean(0)) * 2**GATE_FRACTION_BITS).any()
            gate = means.mean(0, keepdims=True) if even else means
            steps = max(steps, fold_into_relay(nodes, population, gate, calibration.time_steps))
            continue
        table = _table(calibration.gates[population.name])
        left = {}
        if np.rint((table - 1) * 2**GATE_FRACTION_BITS).any():
            steps = calibration.time_steps
            program = GateProgram((steps, -1, *population.shape), (Step("table", (0,), {}, table),), steps)
            left = gate_to_metadata(program)
        fold(nodes, population, mean_gate(population, calibration), left)
    scheduled = nir.NIRGraph(nodes, list(graph.edges))
    scheduled.metadata = {**graph.metadata, "time_steps": steps}
    return without_linear_relays(scheduled)


def left_out(gate: GateStatistics) -> float:
    """Share of the mean gate that one factor a step and one a neuron do not express: mean deviation over mean."""
    folded = np.maximum(gate.mean.mean(0), FLOOR) * _table(gate)[:, 0]
    return float(np.abs(gate.mean - folded).mean() / np.abs(gate.mean).mean())


def _table(gate: GateStatistics) -> NDArray[np.float64]:
    """``r`` ``[T or 1, 1, C or 1, 1, ...]``."""
    ratio = gate.mean / np.maximum(gate.mean.mean(0), FLOOR)
    pooled = tuple(range(2, ratio.ndim))
    table: NDArray[np.float64] = ratio.mean(axis=pooled, keepdims=True)[:, None]
    return table
