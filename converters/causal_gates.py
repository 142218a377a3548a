"""Let every gate read only the steps up to its own, so that it can be computed while the clip streams in."""

from __future__ import annotations

import copy

import nir

from spikefold.converters.capture.build import gate_to_metadata, neuron_node, relay_node
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.time_axis import causal_program
from spikefold.errors import LoweringError


def make_causal(graph: nir.NIRGraph) -> nir.NIRGraph:
    """The same net with statistics up to now where its gates have statistics of the clip; see `time_axis`.

    Raises
    ------
    LoweringError
        A gate mixes time in a way that has no causal form; the message names the step.
    """
    nodes = {name: copy.copy(node) for name, node in graph.nodes.items()}
    for population in read_float_graph(graph).populations:
        if population.gate is None or not population.has_attention:
            continue
        try:
            program = causal_program(population.gate)
        except LoweringError as error:
            raise LoweringError(f"neurons {population.name!r}: {error}") from error
        metadata = {**population.metadata, **gate_to_metadata(program)}
        if population.relays:
            nodes[population.name] = relay_node(population.shape, metadata)
            continue
        nodes[population.name] = neuron_node(
            population.v_threshold, population.decay, metadata, population.v_reset, population.current_decay
        )
    causal = nir.NIRGraph(nodes, list(graph.edges))
    causal.metadata = dict(graph.metadata)
    return causal
