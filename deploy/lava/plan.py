"""What Lava will run, decided without Lava: delays, which processes compute exactly, and whether all numbers fit.

Every hop over a Conv or Dense process costs one time step, and a gate that reads the whole clip waits for its last
step, so a population handles step ``t`` of sample ``b`` (both from 0) at Lava's time step ``1 + delay + b * T + t``.
Lava's stock processes are used wherever the ranges of the numbers prove them exact, our own elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse
from spikefold.converters.ranges import INT32_MAX, INT64_MAX, Range, magnitude, synapse_bound, synaptic_range
from spikefold.deploy.pipeline import pipeline
from spikefold.errors import BackendError

CONV_LIMIT = 2**23
"""Lava's Conv wraps its sums at 24 bits, negative ones of graded messages included."""
DENSE_LIMIT = 2**31
"""Lava's Dense adds up in 32 bits."""
CURRENT_LIMIT = 2**25
"""Lava's LIF shifts the weighted sum left by six bits in 32-bit integers."""
CONV_FIELD_LIMIT = 127
"""Lava's Conv keeps its attributes in eight signed bits."""
STOCK_READOUT_LIMIT = arithmetic.MAX_THRESHOLD << arithmetic.STATE_FRACTION_BITS


@dataclass(frozen=True)
class PopulationPlan:
    """One population.

    ``process`` is "stock" (Lava's LIFReset) or "own" (a relay, thresholds or decays per neuron, other resets or shifts,
    a bias that changes with the step, a gate, sums beyond Lava's, or an unbounded readout); ``gate`` tells a gate that
    waits for its clip from one that streams. Weighted sums of step 0 arrive after ``arrival`` steps, its spikes or
    messages leave after ``delay`` steps. ``waits`` holds, per synapse name, the steps that the source's messages are
    held back besides the synapse's own delay, so that branches of unequal depth meet; ``own_synapses`` names those that
    Lava's Conv or Dense could not compute.
    """

    name: str
    process: Literal["stock", "own"]
    gate: Literal["none", "clip", "streaming"]
    arrival: int
    delay: int
    waits: dict[str, int]
    own_synapses: frozenset[str]


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
    if graph.input.max_value > INT32_MAX:
        raise BackendError(
            f"input: values can reach {graph.input.max_value}, Lava's messages have 32 bits: use the ONNX backend"
        )
    populations = []
    for population, stage in zip(graph.neurons, pipeline(graph, time_steps), strict=True):
        incoming = graph.incoming(population.name)
        partial = sum(synapse_bound(s, graph.message_range(s.source)) for s in incoming)
        if partial << population.current_shift > INT64_MAX:
            raise BackendError(
                f"neurons {population.name!r}: weighted sums can reach {partial}, which leaves 64 bits: use smaller "
                "weight exponents or messages"
            )
        sums = {s.name: magnitude(sum_range(s, graph.message_range(s.source))) for s in incoming}
        own = frozenset(s.name for s in incoming if not _synapse_fits(s, sums[s.name]))
        stock = _neurons_fit(graph, population, sum(sums.values()), time_steps)
        process: Literal["stock", "own"] = "stock" if stock else "own"
        populations.append(
            PopulationPlan(population.name, process, stage.gate, stage.arrival, stage.delay, stage.waits, own)
        )
    return Plan(tuple(populations), time_steps, samples)


def sum_range(synapse: Synapse, messages: Range) -> Range:
    """Range of the weighted sums of one synapse for messages in that range, which holds 0."""
    rows = synapse.weight.reshape(len(synapse.weight), -1)
    positive, negative = np.maximum(rows, 0).sum(axis=1), np.minimum(rows, 0).sum(axis=1)
    least, most = messages
    low = int((positive * least + negative * most).min(initial=0))
    high = int((positive * most + negative * least).max(initial=0))
    return low << synapse.exponent, high << synapse.exponent


def groups_that_fit(groups: int) -> int:
    """Largest divisor of ``groups`` that Lava's Conv can hold."""
    return next(g for g in range(min(groups, CONV_FIELD_LIMIT), 0, -1) if groups % g == 0)


def _synapse_fits(synapse: Synapse, largest_sum: int) -> bool:
    """Whether Lava's Dense or Conv computes this synapse exactly."""
    if synapse.kind == "dense":
        return largest_sum < DENSE_LIMIT
    fields = (*synapse.stride, *synapse.padding, *synapse.dilation, *synapse.weight.shape[2:])
    return largest_sum < CONV_LIMIT and max(fields) <= CONV_FIELD_LIMIT


def _neurons_fit(graph: FixedPointGraph, population: Neurons, largest_sum: int, time_steps: int) -> bool:
    """Whether Lava's LIFReset computes this population exactly (a readout must never reach its largest threshold)."""
    if population.gate is not None or population.has_bias_schedule or population.relay is not None:
        return False
    if population.soft_reset or (population.v_reset is not None and np.any(population.v_reset)):
        return False
    if population.current_shift != arithmetic.STATE_FRACTION_BITS or largest_sum >= CURRENT_LIMIT:
        return False
    if len(np.unique(population.dv)) > 1 or len(np.unique(population.du)) > 1:
        return False
    if population.remembers_current and largest_sum << arithmetic.STATE_FRACTION_BITS > arithmetic.WRAP:
        return False
    if population.fires:
        return population.threshold_levels == 1
    current = magnitude(synaptic_range(graph, population)) + int(np.abs(population.bias).max(initial=0))
    return current * time_steps <= STOCK_READOUT_LIMIT
