"""How the integers of a net use the 24 bits of their states, counted on clips: wraps, clips, ties, messages cut off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from spikefold.converters import arithmetic
from spikefold.converters.calibrate import batches
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons
from spikefold.converters.float_graph import FloatNet
from spikefold.converters.ranges import can_wrap, magnitude, membrane_range, unwrapped_range
from spikefold.converters.reference import (
    Trace,
    arriving,
    check_input,
    population_current,
    sum_currents,
    synapse_current,
    synaptic_currents,
)

Int = NDArray[np.int64]
VALUES = 2**25
"""Membranes of a batch, all layers and steps together."""


@dataclass(frozen=True)
class Used:
    """Largest magnitude of a value: on these clips, proved for all clips of their T, and what the format holds."""

    used: int
    proved: int
    limit: int


@dataclass(frozen=True)
class LayerCounts:
    """Where the integers of one layer leave their format, or meet its threshold.

    Attributes
    ----------
    values : int
        Values of each state: neurons x steps x samples.
    messages : int
        Spikes, or the numbers other than 0 that a relay sent.
    wrapped, clipped : int
        Currents that wrapped at 24 bits, and membranes that clipped there.
    saturated : int
        Messages of a relay that an end of their range cut off, other than a rectifier's negative ones.
    fires_at_equality : bool
        Whether the module's neuron fires where membrane and threshold are equal; the chip's does not.
    ties : int
        Membranes exactly at the threshold: with ``fires_at_equality``, spikes that the comparator costs.
    """

    name: str
    values: int
    messages: int
    wrapped: int
    clipped: int
    saturated: int
    fires_at_equality: bool
    ties: int


@dataclass(frozen=True)
class LayerStates(LayerCounts):
    """The same, and how much of the 24 bits its states use.

    Attributes
    ----------
    current, membrane : Used
        Loihi's u (weighted sums in 2**-6 weights and what is remembered, before it wraps) and v (before it clips and
        before the reset).
    """

    current: Used
    membrane: Used


class StateCounter:
    """Counts layers of a net in, batch by batch.

    Parameters
    ----------
    graph : FixedPointGraph
        The net.
    at_equality : collection of str
        Populations whose neurons fire at equality in the module (`fire_at_equality`).
    """

    def __init__(self, graph: FixedPointGraph, at_equality: Collection[str] = ()) -> None:
        self._graph, self._at_equality = graph, frozenset(at_equality)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._largest: Counter[tuple[str, str]] = Counter()
        self._steps = 0

    def add(self, n: Neurons, weighted: Int, sent: Int) -> None:
        """Count one layer of a batch in: its weighted sums and what it sent, both ``[T, B, *shape]``."""
        self._steps = len(weighted)
        current, membrane = _unwrapped(n, weighted), membranes_before_reset(n, weighted, sent)
        clipped = arithmetic.clip24(membrane)
        self._count("wrapped", n, arithmetic.wrap24(current) != current)
        self._count("clipped", n, clipped != membrane)
        self.add_trace(n, clipped, sent)
        for what, values in (("current", current), ("membrane", membrane)):
            self._largest[what, n.name] = max(self._largest[what, n.name], int(np.abs(values).max()))

    def add_trace(self, n: Neurons, membranes: Int, sent: Int) -> None:
        """Count one layer in that neither wraps nor clips: its membranes, before or after the reset, and messages."""
        self._counts["values", n.name] += membranes.size
        if not n.is_readout:
            self._count("messages", n, sent != 0)
        if n.relay is not None:
            reached = arithmetic.shift_toward_zero(membranes, n.relay.shift)
            self._count("saturated", n, (reached > n.relay.high) | ((reached < n.relay.low) & (n.relay.low < 0)))
        if n.fires:  # what is at its threshold has not fired, so that no reset hides it
            tied = membranes == n.v_threshold << arithmetic.STATE_FRACTION_BITS
            self._count("ties", n, tied & (sent == 0))

    def _count(self, what: str, n: Neurons, which: NDArray[np.bool_]) -> None:
        self._counts[what, n.name] += int(np.count_nonzero(which))

    def counts(self) -> tuple[LayerCounts, ...]:
        """What was counted of every layer that was counted in."""
        return tuple(LayerCounts(**self._counted(n)) for n in self._graph.neurons if self._counts["values", n.name])

    def states(self) -> tuple[LayerStates, ...]:
        """The same of layers whose weighted sums were counted in."""
        return tuple(self._states(n) for n in self._graph.neurons if self._counts["values", n.name])

    def _counted(self, n: Neurons) -> dict[str, Any]:
        named = ("values", "messages", "wrapped", "clipped", "saturated", "ties")
        numbers = {what: self._counts[what, n.name] for what in named}
        return {"name": n.name, "fires_at_equality": n.name in self._at_equality, **numbers}

    def _states(self, n: Neurons) -> LayerStates:
        current, membrane = unwrapped_range(self._graph, n), membrane_range(self._graph, n, self._steps)
        used: dict[str, Any] = {
            what: Used(self._largest[what, n.name], magnitude(proved), arithmetic.STATE_LIMIT)
            for what, proved in (("current", current), ("membrane", membrane))
        }
        return LayerStates(**self._counted(n), **used)


def count_states(
    graph: FixedPointGraph, clips: NDArray[np.generic], at_equality: Collection[str] = ()
) -> tuple[LayerCounts, ...]:
    """Run clips ``[T, B, *shape]`` and count those layers of which something may be amiss.

    Left out are layers whose proved ranges keep their states within 24 bits, which neither fire at equality in the
    module nor send numbers: nothing of theirs can wrap, clip, tie or be cut off.
    """
    leaving = {n.name for n in graph.neurons if _can_leave(graph, n, len(clips))}
    wanted = [n for n in graph.neurons if n.name in at_equality or n.relay is not None or n.name in leaving]
    counter = StateCounter(graph, at_equality)
    if not wanted:
        return ()
    from spikefold.converters.fast import FastEngine  # brings numba along

    engine, whole = FastEngine(graph), check_input(graph, clips)
    for part in batches(whole, max(1, VALUES // (len(clips) * sum(n.size for n in graph.neurons)))):
        batch = np.asarray(part, dtype=np.int64)
        trace = cast(Trace, engine.run(batch, trace=True).trace)
        sent = {graph.input.name: batch, **trace.spikes}
        for n in wanted:
            if n.name in leaving:
                counter.add(n, weighted_sums(graph, n, sent), sent[n.name])
            else:
                counter.add_trace(n, trace.membranes[n.name], sent[n.name])
    return counter.counts()


def fire_at_equality(net: FloatNet) -> frozenset[str]:
    """Populations whose neurons fire where membrane and threshold are equal."""
    return frozenset(p.name for p in net.populations if p.fires and not p.strict)


def weighted_sums(graph: FixedPointGraph, population: Neurons, messages: Mapping[str, Int]) -> Int:
    """What all synapses deliver to a population, ``[T, B, *shape]``, delays included, for whole clips of messages."""
    arrived = [
        synapse_current(s, arriving(messages[s.source], s.delay, 0, len(messages[s.source])))
        for s in graph.incoming(population.name)
    ]
    return sum_currents(population, arrived)


def membranes_before_reset(population: Neurons, weighted: Int, teacher: Int) -> Int:
    """Membranes ``[T, B, *shape]`` of integer neurons that reset where ``teacher`` spikes, before they clip.

    Those of a relay are its gated currents.
    ``weighted`` are the weighted sums, ``teacher`` spikes 0 or 1; with the population's own spikes this is what it
    compares with its threshold, but for the clipping.
    """
    current = population_current(population, weighted)
    if population.relay is not None:
        return current
    membranes = np.empty_like(current)
    v = np.zeros_like(current[0])
    for t in range(len(current)):
        membranes[t] = arithmetic.decay(v, population.dv) + current[t]
        clipped = arithmetic.clip24(membranes[t])
        v = arithmetic.after_reset(
            clipped, teacher[t], population.v_threshold, population.v_reset, population.soft_reset
        )
    return membranes


def _unwrapped(n: Neurons, weighted: Int) -> Int:
    """Synaptic currents ``[T, B, *shape]`` as they are before each step wraps them."""
    shifted = weighted << n.current_shift
    if not n.remembers_current:
        return shifted
    before = np.zeros_like(shifted)
    before[1:] = synaptic_currents(n, weighted)[:-1]
    return arithmetic.decay(before, n.du + 1) + shifted


def _can_leave(graph: FixedPointGraph, n: Neurons, time_steps: int) -> bool:
    """Whether a state of some clip could wrap or clip."""
    return can_wrap(graph, n) or magnitude(membrane_range(graph, n, time_steps)) > arithmetic.STATE_LIMIT
