"""What Lava will run, decided without Lava: delays, kinds of neuron processes, and whether all numbers fit.

Every hop over a Conv or Dense process costs one time step, and a gate that reads the whole clip waits for its last
step, so a population handles step ``t`` of sample ``b`` (both from 0) at Lava's time step ``1 + delay + b * T + t``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse
from spikefold.converters.time_axis import running_state
from spikefold.errors import BackendError

CONV_LIMIT = 2**23
"""Lava's Conv wraps its sums at 24 bits."""
CURRENT_LIMIT = 2**25
"""Lava's LIF shifts the weighted sum left by six bits in 32-bit integers."""
CONV_FIELD_LIMIT = 127
"""Lava's Conv keeps its attributes in eight signed bits."""
STOCK_READOUT_LIMIT = arithmetic.MAX_THRESHOLD << arithmetic.STATE_FRACTION_BITS


@dataclass(frozen=True)
class PopulationPlan:
    """One population.

    ``process`` is "stock" (Lava's LIFReset) or "own" (thresholds per neuron, a bias that changes with the step, a gate,
    or an unbounded readout); ``gate`` tells a gate that waits for its clip from one that streams. Weighted sums of step
    0 arrive after ``arrival`` steps, its spikes leave after ``delay`` steps. ``waits`` holds, per synapse name, the
    steps that the source's spikes are held back so that branches of unequal depth meet.
    """

    name: str
    process: Literal["stock", "own"]
    gate: Literal["none", "clip", "streaming"]
    arrival: int
    delay: int
    waits: dict[str, int]


@dataclass(frozen=True)
class Plan:
    """Populations in execution order, and the number of time steps of the whole run."""

    populations: tuple[PopulationPlan, ...]
    time_steps: int
    samples: int

    @property
    def total_steps(self) -> int:
        """Lava time steps from the first input frame to the last step of the slowest population."""
        return self.time_steps * self.samples + max(p.delay for p in self.populations)


def make_plan(graph: FixedPointGraph, time_steps: int, samples: int) -> Plan:
    """Lay out ``samples`` clips of ``time_steps`` steps; BackendError where Lava could not be exact."""
    delays = {graph.input.name: 0}
    populations = []
    for population in graph.neurons:
        incoming = graph.incoming(population.name)
        bounds = [_check_synapse(graph, s) for s in incoming]
        if sum(bounds) >= CURRENT_LIMIT:
            raise BackendError(
                f"neurons {population.name!r}: weighted sums can reach {sum(bounds)}, Lava's LIF takes less than "
                f"{CURRENT_LIMIT}: use smaller weight exponents or the ONNX backend"
            )
        arrival = 1 + max(delays[s.source] for s in incoming)
        waits = {s.name: arrival - 1 - delays[s.source] for s in incoming}
        gate: Literal["none", "clip", "streaming"] = "none"
        if population.gate is not None:
            gate = "clip" if running_state(population.gate) is None else "streaming"
        delay = arrival + time_steps - 1 if gate == "clip" else arrival
        delays[population.name] = delay
        kind: Literal["stock", "own"] = "stock" if _fits_stock(population, sum(bounds), time_steps) else "own"
        populations.append(PopulationPlan(population.name, kind, gate, arrival, delay, waits))
    return Plan(tuple(populations), time_steps, samples)


def largest_sum(weight: NDArray[np.int64], message: int) -> int:
    """Largest magnitude of one output's weighted sum (first axis: outputs) for messages 0..``message``."""
    rows = weight.reshape(len(weight), -1)
    positive, negative = np.maximum(rows, 0).sum(axis=1), np.maximum(-rows, 0).sum(axis=1)
    return int(max(positive.max(initial=0), negative.max(initial=0))) * message


def groups_that_fit(groups: int) -> int:
    """Largest divisor of ``groups`` that Lava's Conv can hold."""
    return next(g for g in range(min(groups, CONV_FIELD_LIMIT), 0, -1) if groups % g == 0)


def _check_synapse(graph: FixedPointGraph, synapse: Synapse) -> int:
    """Return the largest weighted sum; BackendError when a stock process could not compute it exactly."""
    bound = largest_sum(synapse.effective_weight, graph.largest_message(synapse.source))
    if synapse.kind == "dense":
        return bound
    if bound >= CONV_LIMIT:
        raise BackendError(
            f"synapse {synapse.name!r}: weighted sums can reach {bound}, Lava's Conv wraps at {CONV_LIMIT}: use a "
            "smaller weight exponent or the ONNX backend"
        )
    fields = {
        "stride": synapse.stride,
        "padding": synapse.padding,
        "dilation": synapse.dilation,
        "kernel size": synapse.weight.shape[2:],
    }
    for name, values in fields.items():
        if max(values) > CONV_FIELD_LIMIT:
            raise BackendError(
                f"synapse {synapse.name!r}: {name} is {tuple(values)}, Lava's Conv holds at most {CONV_FIELD_LIMIT}: "
                "use the ONNX backend"
            )
    return bound


def _fits_stock(population: Neurons, bound: int, time_steps: int) -> bool:
    """Whether Lava's LIFReset computes this population exactly (a readout must never reach its largest threshold)."""
    if population.gate is not None or population.has_bias_schedule:
        return False
    if population.fires:
        return population.threshold_levels == 1
    current = min(bound << arithmetic.STATE_FRACTION_BITS, arithmetic.WRAP // 2)
    return (current + int(np.abs(population.bias).max(initial=0))) * time_steps <= STOCK_READOUT_LIMIT
