"""Count what a run did: spikes, graded messages, synaptic operations, neuron updates, gate work."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons
from spikefold.converters.gate_shapes import value_shapes
from spikefold.converters.onnx.counts import fan_out
from spikefold.converters.reference import Trace
from spikefold.converters.time_axis import running_state
from spikefold.deploy.activity import Activity, GateActivity, LayerActivity, RelayActivity, SynapseActivity

Counts = dict[str, NDArray[np.int64]]

DIGITS = {"shift_divide": 32, "square_root": 26}
"""Binary digits of a quotient or root, found one by one with a comparison and a subtraction each (long division)."""


def counts_from_trace(graph: FixedPointGraph, clips: NDArray[np.generic], trace: Trace) -> tuple[Counts, Counts]:
    """Counts per population and synaptic operations per synapse, each ``[B]``, from all spikes of a run.

    What is counted are messages that are not 0: spikes, or the numbers of a relay.
    """
    messages: dict[str, NDArray[np.generic]] = {graph.input.name: clips, **trace.spikes}
    spikes = {name: np.count_nonzero(s, axis=(0, *range(2, s.ndim))) for name, s in trace.spikes.items()}
    synops = {}
    for synapse in graph.synapses:
        sent = messages[synapse.source]
        per_place = np.count_nonzero(sent, axis=(0, 2)) if synapse.kind == "conv" else np.count_nonzero(sent, axis=0)
        weights = fan_out(synapse, graph.source_shape(synapse.source), graph.source_shape(synapse.target))
        synops[synapse.name] = (per_place * weights).reshape(len(per_place), -1).sum(axis=1)
    return {k: np.asarray(v, dtype=np.int64) for k, v in spikes.items()}, synops


def activity(
    graph: FixedPointGraph,
    time_steps: int,
    input_counts: NDArray[np.int64],
    spike_counts: Mapping[str, NDArray[np.int64]],
    synops: Mapping[str, NDArray[np.int64]],
) -> Activity:
    """Mean counts per sample of a run, as pricing reads them.

    Synaptic operations are border-exact: a spike at the rim of a map reaches fewer targets, and connections whose
    weight was rounded to zero still count, because a shared kernel stores them. What relays send is counted apart from
    spikes, and each connection says how many bits its messages carry.
    """
    rates = {graph.input.name: input_counts.mean() / (math.prod(graph.input.shape) * time_steps)}
    for population in graph.neurons:
        rates[population.name] = spike_counts[population.name].mean() / (population.size * time_steps)
    layers = tuple(_layer(p, time_steps, float(spike_counts[p.name].mean())) for p in graph.neurons)
    synapses = []
    for s in graph.synapses:
        source, target = graph.source_shape(s.source), graph.source_shape(s.target)
        connections = fan_out(s, source, target)
        channels = math.prod(source) // connections.size
        synapses.append(
            SynapseActivity(
                source=s.source,
                target=s.target,
                kind=s.kind,
                synapses=int(connections.sum()) * channels,
                stored_weights=int(s.weight.size),
                synops=float(synops[s.name].mean()),
                fan_in=int(s.weight[0].size),
                torch_macs=float(s.torch_macs),
                source_rate=float(rates[s.source]),
                payload_bits=payload_bits(graph, s.source),
            )
        )
    return Activity(
        graph.name,
        graph.attention,
        len(input_counts),
        time_steps,
        math.prod(graph.input.shape),
        float(input_counts.mean()),
        layers,
        tuple(synapses),
    )


def payload_bits(graph: FixedPointGraph, name: str) -> int:
    """Bits of the numbers that a source sends, two's complement where they may be negative; 0 for spikes."""
    if not graph.is_graded(name):
        return 0
    low, high = graph.message_range(name)
    return max(high.bit_length(), (~low).bit_length()) + 1 if low < 0 else high.bit_length()


def _layer(population: Neurons, time_steps: int, sent: float) -> LayerActivity:
    values, is_relay = float(population.size * time_steps), population.relay is not None
    gated = population.gate is not None or population.has_bias_schedule
    return LayerActivity(
        population.name,
        population.size,
        spikes=0.0 if is_relay else sent,
        updates=0.0 if is_relay else values,
        threshold_levels=population.threshold_levels,
        gate=gate_activity(population, time_steps) if gated else None,
        fires=population.fires,
        resets_to_zero=population.v_reset is None and not population.soft_reset,
        relay=RelayActivity(sent, values) if is_relay else None,
    )


def gate_activity(population: Neurons, time_steps: int) -> GateActivity:
    """Operations of attention before one population for one clip: its gate, and a bias that changes with the step.

    They are counted from the gate's integer program and the shapes of its values.

    A multiply-accumulate counts as one multiply and one addition, of a triangular matrix those of the triangle; ranking
    n values as ``n * ceil(log2 n)`` comparisons, a step among those so far as one each; an entry of a table over time,
    or of a bias schedule, as one look-up; a quotient or a root as one comparison and one subtraction for each of its
    `DIGITS`. The last multiply-shift on every current of the clip, and adding its bias, are included.
    """
    program = population.gate
    looked_up = float(population.bias_mantissa.size) if population.has_bias_schedule else 0.0
    if program is None:
        return GateActivity(lookups=looked_up)
    shapes, state = value_shapes(program, 1), running_state(program)
    currents = population.size * time_steps
    totals = {"multiplies": float(currents), "additions": float(currents), "comparisons": 0.0, "lookups": looked_up}
    for number, step in enumerate(program.steps):
        out = math.prod(shapes[number + 1])
        into = math.prod(shapes[step.inputs[0]])
        if step.op == "sum":
            totals["additions"] += into - out
        elif step.op == "max":
            totals["comparisons"] += into - out
        elif step.op == "running_sum":
            totals["additions"] += out - out // time_steps
        elif step.op == "running_max":
            totals["comparisons"] += out - out // time_steps
        elif step.op == "running_topk_mask":
            totals["comparisons"] += out * (time_steps + 1) / 2
            totals["additions"] += out * (time_steps - 1) / 2
        elif step.op == "table":
            totals["lookups"] += out
        elif step.op in ("add", "subtract", "add_const"):
            totals["additions"] += out
        elif step.op in ("multiply", "multiply_const", "rescale"):
            totals["multiplies"] += out
        elif step.op in ("relu", "clip"):
            totals["comparisons"] += out
        elif step.op in ("matmul", "conv2d"):
            weight = np.asarray(step.constant)
            taps: float = weight.shape[0] if step.op == "matmul" else weight[0].size
            if step.op == "matmul" and taps > 1 and weight.shape == (taps, taps) and not np.tril(weight, -1).any():
                taps = (taps + 1) / 2
            totals["multiplies"] += out * taps
            totals["additions"] += out * taps
        elif step.op in DIGITS:
            totals["additions"] += out * DIGITS[step.op]
            totals["comparisons"] += out * DIGITS[step.op]
        elif step.op == "look_up":
            totals["lookups"] += out
        elif step.op == "topk_mask":
            n = shapes[step.inputs[0]][step.attributes["axis"]]
            totals["comparisons"] += into * math.ceil(math.log2(max(n, 2)))
    return GateActivity(
        totals["multiplies"],
        totals["additions"],
        totals["comparisons"],
        totals["lookups"],
        buffer_words=float(currents if state is None else state.words),
        accesses_per_word=2.0 if state is None else state.accesses / max(1, state.words),
    )
