"""Remove relays that a constant gate has made linear: what leads to one and what leaves it become one map.

A relay whose gate is a constant g computes ``g * (W x + b)``; a map behind it composes with that exactly, unless a
border, a rectifier or a bias that changes with the step stands between. Then the relay stays and g goes into W and b.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import nir
import numpy as np
import torch
from numpy.typing import NDArray

from spikefold.converters.capture import linear_map as lm
from spikefold.converters.capture.build import gate_to_metadata, linear_node, relay_node, schedule_to_metadata
from spikefold.converters.float_graph import FloatPopulation, FloatSynapse, read_float_graph
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.errors import LoweringError

Edges = list[tuple[str, str]]
Shapes = Mapping[str, tuple[int, ...]]


def fold_into_relay(
    nodes: dict[str, nir.NIRNode], population: FloatPopulation, gate: NDArray[np.float64], time_steps: int
) -> int:
    """Replace the gate of a relay by the constant ``gate``; gives the T that it still needs, 0 if none.

    Parameters
    ----------
    nodes : dict
        Nodes of the net, changed in place.
    population : FloatPopulation
        The relay.
    gate : array ``[T or 1, *shape or 1]``
        A table over time, or one gate for all steps.
    time_steps : int
        T of the net.

    Raises
    ------
    LoweringError
        The gate is below 0 somewhere and the relay rectifies what it gates.
    """
    if population.rectifies and gate.min() < 0:
        raise LoweringError(
            f"relay {population.name!r}: the mean gate reaches {gate.min():.4g} and the gated current is rectified; "
            "such a gate has no constant form: use attention='dynamic'"
        )
    schedule, metadata = population.bias_schedule, population.metadata
    one_a_channel = all(n == 1 for n in gate.shape[2:])
    if len(gate) > 1 or not one_a_channel:
        table = np.broadcast_to(gate, (time_steps, *gate.shape[1:]))[:, None]
        program = GateProgram((time_steps, -1, *population.shape), (Step("table", (0,), {}, table),), time_steps)
        nodes[population.name] = relay_node(population.shape, metadata | gate_to_metadata(program))
        return time_steps
    factor = np.broadcast_to(gate.reshape(-1), (population.shape[0],))
    for synapse in population.synapses:
        node = nodes[synapse.name]
        node.weight = (node.weight * factor.reshape(-1, *[1] * (node.weight.ndim - 1))).astype(np.float32)
        node.bias = (node.bias * factor).astype(np.float32)
    if schedule is not None:
        metadata |= schedule_to_metadata(schedule * factor.reshape(-1, *[1] * (len(population.shape) - 1)))
    nodes[population.name] = relay_node(population.shape, metadata)
    return 0


def without_linear_relays(graph: nir.NIRGraph) -> nir.NIRGraph:
    """The same net without the relays that compose exactly with all maps behind them."""
    net = read_float_graph(graph)
    shapes = {"input": net.input_shape, **{p.name: p.shape for p in net.populations}}
    links = {p.name: [_Link(s.name, s.source, s) for s in p.synapses] for p in net.populations}
    gone: set[str] = set()
    for relay in (p for p in net.populations if _is_linear(p)):
        if _compose(links, relay.name, shapes):
            gone.add(relay.name)
    return _without(graph, links, gone, shapes) if gone else graph


@dataclass(frozen=True)
class _Link:
    """A map into a population: as the net had it, or composed anew."""

    name: str
    source: str
    what: FloatSynapse | lm.LinearMap

    def linear(self, shapes: Shapes) -> lm.LinearMap:
        """The map itself."""
        return _map_of(self.what, shapes[self.source]) if isinstance(self.what, FloatSynapse) else self.what


def _is_linear(population: FloatPopulation) -> bool:
    plain = population.gate is None and population.bias_schedule is None
    return population.relays and plain and not population.rectifies


def _compose(links: dict[str, list[_Link]], relay: str, shapes: Shapes) -> bool:
    """Let what enters ``relay`` lead to where its messages go; False, and nothing changed, where that is not exact."""
    entering = [(link, link.linear(shapes)) for link in links[relay]]
    entering = [(link, m) for link, m in entering if m.weight.any() or m.bias.any()] or entering[:1]
    changed: dict[str, list[_Link]] = {}
    for target, incoming in links.items():
        if not any(link.source == relay for link in incoming):
            continue
        changed[target] = []
        for link in incoming:
            try:
                changed[target] += [link] if link.source != relay else _joined(entering, link, shapes)
            except lm.NotExactError:
                return False
    links.update(changed)
    del links[relay]
    return True


def _joined(entering: list[tuple[_Link, lm.LinearMap]], after: _Link, shapes: Shapes) -> list[_Link]:
    second = after.linear(shapes)
    seconds = [second, *[lm.without_bias(second)] * (len(entering) - 1)]
    joins = [lm.compose(then, first) for then, (_, first) in zip(seconds, entering, strict=True)]
    bias = torch.stack([m.bias for m in joins]).sum(0)
    pairs = [(first, m) for (first, _), m in zip(entering, joins, strict=True)]
    pairs = [(first, m) for first, m in pairs if bool(m.weight.any())] or pairs[:1]
    return [
        _Link(
            after.name if number == 0 else f"{after.name}_{first.name}", first.source,
            replace(joined, bias=bias if number == 0 else torch.zeros_like(bias)),
        )
        for number, (first, joined) in enumerate(pairs)
    ]  # fmt: skip


def _without(graph: nir.NIRGraph, links: dict[str, list[_Link]], gone: set[str], shapes: Shapes) -> nir.NIRGraph:
    """The graph with these links, and without the populations that are gone."""
    kept = {link.name for incoming in links.values() for link in incoming if isinstance(link.what, FloatSynapse)}
    is_map = {name for name, node in graph.nodes.items() if isinstance(node, (nir.Conv2d, nir.Affine))}
    dropped = gone | (is_map - kept)
    dropped |= {a for a, b in graph.edges if b in dropped and isinstance(graph.nodes[a], nir.Flatten)}
    nodes = {name: node for name, node in graph.nodes.items() if name not in dropped}
    edges: Edges = [(a, b) for a, b in graph.edges if a not in dropped and b not in dropped]
    for target, incoming in links.items():
        for link in incoming:
            if not isinstance(link.what, FloatSynapse):
                _add(nodes, edges, link.name, link.what, link.source, target, shapes)
    folded = nir.NIRGraph(nodes, edges)
    folded.metadata = dict(graph.metadata)
    return folded


def _add(
    nodes: dict[str, Any], edges: Edges, name: str, linear: lm.LinearMap, source: str, target: str, shapes: Shapes
) -> None:
    while name in nodes:
        name += "_"
    nodes[name] = linear_node(linear)
    if isinstance(linear, lm.DenseMap) and len(shapes[source]) > 1:
        nodes[f"{name}_flatten"] = nir.Flatten({"input": np.array(shapes[source])}, start_dim=0, end_dim=-1)
        edges.append((source, f"{name}_flatten"))
        source = f"{name}_flatten"
    edges += [(source, name), (name, target)]


def _map_of(synapse: FloatSynapse, source: tuple[int, ...]) -> lm.LinearMap:
    weight, bias = (torch.from_numpy(np.asarray(a, dtype=np.float64)) for a in (synapse.weight, synapse.bias))
    if synapse.conv is None:
        return lm.DenseMap(weight, bias, source, synapse.torch_macs)
    channels, height, width = source
    return lm.ConvMap(weight, bias, (channels, height, width), macs=synapse.torch_macs, **synapse.conv)
