"""Run a `FixedPointGraph` in plain numpy int64: slow, simple, and what every other executor is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse, Whole
from spikefold.converters.gate_program import conv2d_integer
from spikefold.errors import InputError


@dataclass(frozen=True)
class Trace:
    """Everything that a run can be compared by.

    ``spikes`` and ``membranes`` hold ``[T, B, *shape]`` per population: what a relay sends counts as its spikes, its
    clipped current as its membrane; other membranes are those after the reset. ``logits`` is
    ``[B, classes]`` in real units: the readout's membrane, or the output's spike count, divided by T.
    """

    spikes: dict[str, NDArray[np.int64]]
    membranes: dict[str, NDArray[np.int64]]
    logits: NDArray[np.float64]


def check_input(graph: FixedPointGraph, clips: NDArray[np.generic]) -> NDArray[np.int64]:
    """Validate clips ``[T, B, *shape]`` against the input port and return them as int64."""
    expected = ("T", "B", *graph.input.shape)
    if clips.ndim != len(expected) or clips.shape[2:] != graph.input.shape:
        raise InputError(f"input has shape {clips.shape}; this net takes {expected}: give clips of that size")
    if clips.shape[0] == 0 or clips.shape[1] == 0:
        raise InputError(f"input has shape {clips.shape}: T and B must be at least 1")
    if graph.time_steps is not None and clips.shape[0] != graph.time_steps:
        raise InputError(
            f"input has T = {clips.shape[0]}; the gates or biases of this net were trained for T = {graph.time_steps}"
        )
    whole = clips.astype(np.int64)
    if not np.array_equal(whole, clips):
        raise InputError("input holds values that are not integers (or not finite): bin events into frames first")
    if whole.min() < 0 or whole.max() > graph.input.max_value:
        raise InputError(
            f"input holds values {whole.min()}..{whole.max()}; this net was exported for 0..{graph.input.max_value}: "
            f"export it with such data, or read a .net with load_lava_dl(FILE, max_value={whole.max()})"
        )
    return whole


@dataclass
class State:
    """What a population remembers from step to step: synaptic current and membrane, 0 at the start of a clip."""

    u: NDArray[np.int64] | int = 0
    v: NDArray[np.int64] | int = 0


def run_reference(graph: FixedPointGraph, clips: NDArray[np.generic]) -> Trace:
    """Run clips ``[T, B, *shape]`` (integers) through the net: loops step by step, the rest layer by layer."""
    inputs = check_input(graph, clips)
    shapes = {n.name: (*inputs.shape[:2], *n.shape) for n in graph.neurons}
    spikes, membranes = ({k: np.zeros(v, dtype=np.int64) for k, v in shapes.items()} for _ in range(2))
    sent = {graph.input.name: inputs, **spikes}
    for block in graph.blocks:
        states = {n.name: State() for n in block}
        steps = 1 if graph.is_loop(block) else len(inputs)
        for first in range(0, len(inputs), steps):
            for n in block:
                arrived = [
                    synapse_current(s, arriving(sent[s.source], s.delay, first, steps)) for s in graph.incoming(n.name)
                ]
                stretch = slice(first, first + steps)
                spikes[n.name][stretch], membranes[n.name][stretch] = run_population(
                    n, sum_currents(n, arrived), states[n.name], first
                )
    return Trace(spikes, membranes, read_out(graph.output, spikes, membranes, len(inputs)))


def arriving(messages: NDArray[np.int64], delay: Whole, first: int, steps: int) -> NDArray[np.int64]:
    """What of ``messages`` ``[T, B, *source]`` arrives from step ``first`` on, ``[steps, B, *source]``."""
    arrived = np.zeros((steps, *messages.shape[1:]), dtype=np.int64)
    for late in np.unique(delay):
        start = max(first, late)
        if start < first + steps:
            arrived[start - first :] += messages[start - late : first + steps - late] * np.equal(delay, late)
    return arrived


def synapse_current(synapse: Synapse, messages: NDArray[np.int64]) -> NDArray[np.int64]:
    """Weighted sum ``a`` ``[T, B, ...]`` that one synapse delivers for messages ``[T, B, *source]``."""
    steps, batch = messages.shape[:2]
    if synapse.kind == "dense":
        return messages.reshape(steps, batch, -1) @ synapse.effective_weight.T
    merged = messages.reshape(steps * batch, *messages.shape[2:])
    out = conv2d_integer(merged, synapse.effective_weight, synapse.conv_attributes)
    return out.reshape(steps, batch, *out.shape[1:])


def sum_currents(population: Neurons, currents: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Sum of the weighted sums of all synapses into a population, ``[T, B, *shape]``."""
    total = np.zeros((*currents[0].shape[:2], *population.shape), dtype=np.int64)
    for current in currents:
        total += current.reshape(total.shape)
    return total


def synaptic_currents(
    population: Neurons, weighted: NDArray[np.int64], state: State | None = None
) -> NDArray[np.int64]:
    """Synaptic current ``u`` after each step from the weighted sums, both ``[T, B, *shape]``."""
    state = State() if state is None else state
    currents = np.zeros_like(weighted)
    for t, total in enumerate(weighted):
        u = state.u + np.zeros_like(total)
        currents[t] = state.u = arithmetic.synaptic_current(u, total << population.current_shift, population.du)
    return currents


def population_current(
    population: Neurons, weighted: NDArray[np.int64], state: State | None = None, first: int = 0
) -> NDArray[np.int64]:
    """What the membranes add in each step, bias and gate included, from the weighted sums; see `run_population`."""
    steps = slice(first, first + len(weighted))
    bias = population.bias[steps] if population.has_bias_schedule else population.bias
    current = synaptic_currents(population, weighted, state) + bias
    if population.gate is None:
        return current
    table = population.gate_table
    gate = population.gate.run_integer(current) if table is None else table[steps]
    return arithmetic.gated_current(current, gate, population.gate_shift)


def run_population(
    population: Neurons, weighted: NDArray[np.int64], state: State | None = None, first: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Spikes and membranes for the weighted sums, all ``[T, B, *shape]``: a clip, or steps of one.

    Parameters
    ----------
    population : Neurons
        The neurons. A gate that is no table takes whole clips only.
    weighted : int64 array
        Weighted sums of steps ``first`` to ``first + T - 1`` of a clip.
    state : State, optional
        What the steps before left; it is brought up to date. Without it a clip starts here.
    first : int
        Which step of its clip the first one is.
    """
    state = State() if state is None else state
    current = population_current(population, weighted, state, first)
    relay = population.relay
    if relay is not None:
        sent = arithmetic.clip24(current)
        return arithmetic.relay_message(sent, relay.shift, relay.low, relay.high), sent
    v = state.v + np.zeros_like(current[0])
    spikes, membranes = np.zeros_like(current), np.zeros_like(current)
    threshold = population.v_threshold if population.fires else None
    for t in range(len(current)):
        spikes[t], v = arithmetic.neuron_step(
            v, current[t], population.dv, threshold, population.v_reset, population.soft_reset
        )
        membranes[t] = state.v = v
    return spikes, membranes


def read_out(
    output: Neurons,
    spikes: dict[str, NDArray[np.int64]],
    membranes: dict[str, NDArray[np.int64]],
    time_steps: int,
) -> NDArray[np.float64]:
    """Logits ``[B, neurons]`` of the output population, averaged over time."""
    if output.fires:
        total = spikes[output.name].sum(axis=0)
        return np.asarray(total.reshape(total.shape[0], -1) / time_steps)
    last = membranes[output.name][-1]
    real = last * (output.unit / 2**arithmetic.STATE_FRACTION_BITS / time_steps)
    return np.asarray(real.reshape(len(last), -1))
