"""One time step of populations with explicit states: the step graph is one, and so is the body of a loop over T."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto

from spikefold.converters import ranges
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse
from spikefold.converters.onnx.currents import emit_current, emit_weighted, gated_current, saturate
from spikefold.converters.onnx.delays import emit_arriving, emit_held, longest_delays
from spikefold.converters.onnx.emitter import Emitter
from spikefold.converters.onnx.exact import add_all
from spikefold.converters.onnx.functions import emit_neurons, emit_relay


@dataclass(frozen=True)
class StepState:
    """A state: ``shape`` without the batch axis, which is behind ``leading`` axes; starts at 0, int32."""

    before: str
    after: str
    shape: tuple[int, ...]
    leading: int = 0

    @property
    def sizes(self) -> list[int | str]:
        """Its shape, the batch axis named ``B``."""
        return [*self.shape[: self.leading], "B", *self.shape[self.leading :]]


@dataclass
class Step:
    """What `emit_step` appended.

    ``sent`` and ``membranes`` are tensors of this step, by population: float32 messages, int32 membranes.
    """

    sent: dict[str, str] = field(default_factory=dict)
    membranes: dict[str, str] = field(default_factory=dict)


def states_of(graph: FixedPointGraph, populations: Sequence[Neurons], inputs: Sequence[str] = ()) -> list[StepState]:
    """States of populations, and of what they and ``inputs`` sent over delayed synapses into them."""
    states = [StepState(f"v/{n.name}", f"v_next/{n.name}", n.shape) for n in populations if n.relay is None]
    states += [StepState(f"u/{n.name}", f"u_next/{n.name}", n.shape) for n in populations if n.remembers_current]
    for source, steps in _held_steps(graph, populations, inputs).items():
        states.append(StepState(f"held/{source}", f"held_next/{source}", (steps, *graph.source_shape(source)), 1))
    return states


def emit_step(
    e: Emitter,
    graph: FixedPointGraph,
    populations: Sequence[Neurons],
    step: str,
    inputs: Mapping[str, str],
    weighted: Mapping[str, str],
) -> Step:
    """Append one time step of ``populations``, which reads and writes the states of `states_of`.

    Parameters
    ----------
    e : Emitter
        Where the nodes go.
    graph, populations
        The net and those of its populations that are run, in execution order.
    step : str
        Tensor with the number of the step; read where gates are tables or biases change.
    inputs : mapping
        Messages of this step ``[B, *source]``, integers, from sources that are not run here.
    weighted : mapping
        Weighted sums ``[B, *shape]``, by population, of synapses whose sources are neither run here nor in ``inputs``.
    """
    done = Step()
    held = _held_steps(graph, populations, list(inputs))
    known = {*inputs, *(n.name for n in populations)}
    casts: dict[tuple[str, str, int], str] = {}

    def now(source: str) -> str:
        return done.sent.get(source) or inputs.get(source, "")

    def messages(synapse: Synapse, dtype: int) -> str:
        source, delay = synapse.source, np.asarray(synapse.delay)
        if source in done.sent and dtype == TensorProto.FLOAT and not synapse.longest_delay:
            return done.sent[source]
        key = (source, repr((delay.shape, delay.tolist())), dtype)
        if key not in casts:
            sent = now(source)
            if synapse.longest_delay:
                sent = e.cast(sent, TensorProto.INT32) if synapse.shortest_delay == 0 else ""
                sent = emit_arriving(e, sent, f"held/{source}", held[source], synapse.delay)
            casts[key] = e.cast(sent, dtype)
        return casts[key]

    for n in populations:
        e.scope = n.name
        here = [s for s in graph.incoming(n.name) if s.source in known]
        parts = [weighted[n.name]] if n.name in weighted else []
        parts += [emit_weighted(e, graph, n, here, messages)] if here else []
        _emit_population(e, graph, n, add_all(e, parts), step, done)
    for source in held:
        e.scope = source
        sent = e.cast(now(source), TensorProto.INT32)
        emit_held(e, sent, f"held/{source}", f"held_next/{source}")
    return done


def _held_steps(graph: FixedPointGraph, populations: Sequence[Neurons], inputs: Sequence[str]) -> dict[str, int]:
    known = {*inputs, *(n.name for n in populations)}
    return longest_delays(s for n in populations for s in graph.incoming(n.name) if s.source in known)


def _emit_population(e: Emitter, graph: FixedPointGraph, n: Neurons, weighted: str, step: str, done: Step) -> None:
    size = e.op("Shape", weighted)
    # a state of another batch would be broadcast in silence; reshaping it to the current's shape fails instead
    memory = (e.op("Reshape", f"u/{n.name}", size), f"u_next/{n.name}") if n.remembers_current else None
    current, dtype = emit_current(e, graph, n, weighted, step, memory)
    bounds = ranges.gated_range(graph, n)
    if n.gate_table is not None:
        gate = e.op("Gather", e.constant(n.gate_table), step, axis=0)
        current, dtype = gated_current(e, n, current, gate, bounds), int(TensorProto.INT32)
    current = saturate(e, current, bounds, dtype)
    if n.relay is not None:
        done.membranes[n.name] = e.new_name("clipped")
        done.sent[n.name] = emit_relay(e, n.relay, current, done.membranes[n.name])
        return
    done.membranes[n.name] = f"v_next/{n.name}"
    spikes = emit_neurons(e, n, e.op("Reshape", f"v/{n.name}", size), current, f"v_next/{n.name}")
    done.sent[n.name] = spikes or e.op("ConstantOfShape", size)
