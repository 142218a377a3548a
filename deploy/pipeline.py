"""When populations handle a step, where every hop over a connection takes one: on Lava and on chips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.time_axis import running_state


@dataclass(frozen=True)
class Stage:
    """One population: weighted sums of step 0 arrive after ``arrival`` steps, its messages leave after ``delay``.

    ``gate`` tells a gate that waits for its clip from one that streams; ``waits`` holds, per synapse name, the steps
    that the source's messages are held back so that branches of unequal depth meet.
    """

    name: str
    gate: Literal["none", "clip", "streaming"]
    arrival: int
    delay: int
    waits: dict[str, int]


def pipeline(graph: FixedPointGraph, time_steps: int) -> tuple[Stage, ...]:
    """Stages of all populations, in execution order, for clips of so many steps."""
    delays = {graph.input.name: 0}
    stages = []
    for population in graph.neurons:
        incoming = graph.incoming(population.name)
        arrival = 1 + max(delays[s.source] for s in incoming)
        gate: Literal["none", "clip", "streaming"] = "none"
        if population.gate is not None:
            gate = "clip" if running_state(population.gate) is None else "streaming"
        delay = arrival + time_steps - 1 if gate == "clip" else arrival
        delays[population.name] = delay
        waits = {s.name: arrival - 1 - delays[s.source] for s in incoming}
        stages.append(Stage(population.name, gate, arrival, delay, waits))
    return tuple(stages)
