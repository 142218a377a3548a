"""Why NeuroBench's counts of a module are not those of the net mapped from it, in words with numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from spikefold.converters.fixed_point_graph import FixedPointGraph, Synapse
from spikefold.deploy.neurobench_beside import Beside
from spikefold.deploy.words import count, signed, size

_NAMED = 2
"""Composed kernels named in a sentence; of the others, how many."""


def reasons(both: Beside) -> Iterator[str]:
    """Why the counts differ, a sentence each, only what holds for this net."""
    yield from _operations(both)
    yield from _sparsity(both)
    yield from _footprint(both)
    yield from _left_out(both)


def _operations(both: Beside) -> Iterator[str]:
    module, steps = both.module, both.steps
    if module.gate_layers or both.mapped.gate_operations:
        yield f"{count(module.gate_layers)} operations there are of layers inside gates, here {_gates(both)}"
    if module.zero_weights:
        yield f"{count(module.zero_weights)} synops meet weights of 0, which a shared kernel stores and works through"
    kernels = list(_composed(both.graph))
    if steps["composed kernels"]:
        named = "; ".join(kernels[:_NAMED]) + (f"; and {len(kernels) - _NAMED} more" if len(kernels) > _NAMED else "")
        relays = any(n.relay is not None for n in both.graph.neurons)
        why = ", what leads to a relay and from it counts each" if relays else ""
        yield (
            f"layers are composed into one kernel a connection{why}: {signed(steps['composed kernels'])} synops"
            + (f" ({named})" if kernels else "")
        )
    if module.unseen:
        yield f"{module.unseen} convolutions or linear maps are called as functions, and NeuroBench sees layers only"
    if steps["other spikes"]:
        causes = [] if both.graph.attention in ("none", "dynamic") else [f"the {both.graph.attention} gate"]
        levels = both.graph.provenance.get("threshold_palette")
        causes += ["rounding to integers"] + ([] if levels is None else [f"{levels['levels']} thresholds a layer"])
        yield f"other spikes arise by {', '.join(causes)}: {signed(steps['other spikes'])} synops"
    if steps["other numbers of relays"]:
        yield (
            "relays send other numbers, and those that round to 0 are no messages: "
            f"{signed(steps['other numbers of relays'])} synops"
        )
    if module.multiplying:
        carried = (
            f"{count(both.graded_synops)} synops carry numbers" if both.graded_synops else "every message is a spike"
        )
        yield (
            f"{count(module.multiplying)} MACs there are of layers on the way to neurons that read numbers, such as "
            f"pooled spikes; here {carried}"
        )


def _gates(both: Beside) -> str:
    gates = [layer.gate for layer in both.mapped.layers if layer.gate is not None]
    currents = sum(n.size for n in both.graph.neurons if n.gate is not None) * both.mapped.time_steps
    looked_up = count(sum(g.lookups for g in gates))
    if not currents:
        return "gates are folded away" + (f" but for {looked_up} look-ups of biases, a step each" if gates else "")
    return (
        f"gates are {count(both.mapped.gate_operations)} integer operations of their own, of which "
        f"{count(2 * currents)} multiply every current and add its bias and {looked_up} are look-ups: statistics and "
        "products, which are no layers, count here"
    )


def _composed(graph: FixedPointGraph) -> Iterator[str]:
    """Connections whose kernel is not a layer of the module as written."""
    for synapse in graph.synapses:
        mapped = synapse.weight[0].size * math.prod(graph.source_shape(synapse.target))
        if mapped != synapse.torch_macs:
            yield (
                f"{synapse.name} is {_kernel(synapse)} with {count(mapped)} taps a step for "
                f"{count(synapse.torch_macs)} MACs as written"
            )


def _kernel(synapse: Synapse) -> str:
    if synapse.kind == "dense":
        return "a matrix"
    height, width = synapse.weight.shape[2:]
    return f"{height} x {width}" + (f", stride {synapse.stride[0]}" if synapse.stride != (1, 1) else "")


def _sparsity(both: Beside) -> Iterator[str]:
    counts = both.module.counts
    if counts.other_outputs:
        share = counts.other_outputs / (counts.neuron_outputs + counts.other_outputs)
        yield (
            f"{share:.1%} of the outputs in the sparsity there are of ReLUs and sigmoids; of neurons alone it is "
            f"{counts.neuron_sparsity:.4f}"
        )
    outputs = sum(layer.updates for layer in both.mapped.layers if layer.fires)
    if outputs != counts.neuron_outputs:
        yield (
            f"{count(outputs)} neuron outputs a clip make the sparsity here, {count(counts.neuron_outputs)} there: "
            "what stands for a max pooling or a product of spikes is a neuron here, what leads nowhere is none"
        )
    elif counts.neuron_sparsity != both.quiet:
        apart = both.quiet - counts.neuron_sparsity
        yield f"the sparsity of the same neurons differs by their spikes alone, {apart:+.4f}"


def _footprint(both: Beside) -> Iterator[str]:
    counts, stored, graph = both.module.counts, both.bytes, both.graph
    weights = sum(s.weight.size for s in graph.synapses)
    zeros = sum(int(np.count_nonzero(s.weight == 0)) for s in graph.synapses)
    shares = [f"{weights:,} weights of 8 bits, each kernel once ({zeros / weights:.1%} of them 0)"]
    shares += [
        f"{size(part)} of {what}"
        for what, part in (("biases", stored.biases), ("thresholds", stored.thresholds), ("gates", stored.gates))
        if part
    ]
    yield (
        f"the footprint there is {counts.parameters:,} parameters and {counts.buffers:,} numbers in buffers as torch "
        f"keeps them, here {', '.join(shares)}"
    )


def _left_out(both: Beside) -> Iterator[str]:
    mapped = both.mapped
    relays = f" and {count(mapped.relay_operations)} operations of relays" if mapped.relay_operations else ""
    yield f"{count(mapped.updates)} neuron updates{relays} are not among NeuroBench's operations"
