"""When populations handle a step, where every hop over a connection takes one: on Lava and on chips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons
from spikefold.converters.time_axis import running_state
from spikefold.errors import BackendError


@dataclass(frozen=True)
class Stage:
    """One population: weighted sums of step 0 arrive after ``arrival`` steps, its messages leave after ``delay``.

    ``gate`` tells a gate that waits for its clip from one that streams; ``waits`` holds, per synapse name, the steps
    that the source's messages are held back so that branches of unequal depth meet. It comes on top of the synapse's
    own delay, and is below 0 where hops have used up some of that.
    """

    name: str
    gate: Literal["none", "clip", "streaming"]
    arrival: int
    delay: int
    waits: dict[str, int]


def pipeline(graph: FixedPointGraph, time_steps: int) -> tuple[Stage, ...]:
    """Stages of all populations, in execution order, for clips of so many steps.

    Raises
    ------
    BackendError
        A loop has fewer steps of delay than connections.
    """
    gates = {n.name: _gate(n) for n in graph.neurons}
    arrivals = dict.fromkeys(gates, 0)

    def delay(name: str) -> int:
        return arrivals.get(name, 0) + (time_steps - 1 if gates.get(name) == "clip" else 0)

    changed = None
    for _ in range(len(gates) + 1):  # a way without loops has at most so many connections
        changed = None
        for s in (s for n in graph.neurons for s in graph.incoming(n.name)):
            earliest = delay(s.source) + 1 - s.shortest_delay
            if earliest > arrivals[s.target]:
                arrivals[s.target], changed = earliest, s
        if changed is None:
            break
    if changed is not None:
        raise BackendError(
            f"synapse {changed.name!r}: it is in a loop that has fewer steps of delay than connections, and each takes "
            "a step here: give it a longer delay, or use the torch or ONNX backend"
        )
    return tuple(
        Stage(n.name, gates[n.name], arrivals[n.name], delay(n.name), {
            s.name: arrivals[n.name] - 1 - delay(s.source) for s in graph.incoming(n.name)
        })
        for n in graph.neurons
    )  # fmt: skip


def _gate(population: Neurons) -> Literal["none", "clip", "streaming"]:
    if population.gate is None:
        return "none"
    return "clip" if running_state(population.gate) is None else "streaming"
