"""Currents that cannot go on as one linear map of spikes: a relay measures them and sends them on as numbers.

A relay stands wherever a neuron would but for its spikes: behind a gate that no neuron follows, behind a rectifier, and
between two maps that do not compose exactly. A gate that reads several signals (a softmax over scales, a gate on spikes
that was computed from currents) finds all of them side by side in the channels of its relay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch.fx import Node

from spikefold.converters.capture import linear_map as lm
from spikefold.converters.capture.layers import then
from spikefold.converters.capture.values import Flow, Gate, Gated, Gather, Leaf, Mixed, Part, Value
from spikefold.converters.gate_program import GateProgram, Step


def takes_relay(value: object) -> bool:
    """Whether a value has the time axis that a relay needs."""
    if isinstance(value, Mixed):
        return all(takes_relay(term) for term in value.terms)
    flow = value.flow if isinstance(value, Gated) else value
    return isinstance(flow, Flow) and not flow.reduced and flow.axes != "B"


def gate_nodes(gate: Gate) -> Iterable[Node]:
    """Traced operations that a gate expression is made of."""
    if isinstance(gate, Leaf):
        return [gate.node] if isinstance(gate.node, Node) else []
    return [*gate_nodes(gate.left), *gate_nodes(gate.right)]


def flows_read(gate: Gate, values: Mapping[Node, Value], anchors: Iterable[Flow]) -> list[Flow]:
    """Flows among ``anchors`` that ``gate`` is computed from, in the order met walking back from it.

    The walk goes no further behind an operation whose values are a multiple of an anchor's.
    """
    known = list(anchors)
    found: list[Flow] = []
    seen: set[Node] = set()
    stack = list(gate_nodes(gate))
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        value = values.get(node)
        anchor = next((f for f in known if isinstance(value, Flow) and value.times(f) is not None), None)
        if anchor is None:
            stack.extend(n for n in node.all_input_nodes if n in values)
        elif not any(anchor.times(f) is not None for f in found):
            found.append(anchor)
    return found


def gather(terms: list[Gated], others: list[Flow], node: Node) -> tuple[Flow, Gather]:
    """Currents side by side in the channels of one flow, and what becomes of each."""
    flows = [*(t.flow for t in terms), *others]
    total = sum(f.features[0] for f in flows)
    parts: list[Part] = []
    start = 0
    for flow in flows:
        placed = then(node, flow, lm.into_channels(flow.features, start, total))
        parts += placed.parts
        start += flow.features[0]
    features = (total, *terms[0].flow.features[1:])
    gates: list[Gate | None] = [t.gate for t in terms]
    gates += [None] * len(others)
    joined = Flow(tuple(parts), features, terms[0].flow.axes, node)
    return joined, Gather(tuple(zip(flows, gates, strict=True)))


def largest_of(time_steps: int, taps: int, shape: tuple[int, ...]) -> GateProgram:
    """The gate ``[T, B, taps * C, H, W]`` that leaves of ``taps`` currents side by side the largest one alone."""
    channels, *pixels = shape
    apart = Step("reshape", (0,), {"shape": (time_steps, -1, taps, channels // taps, *pixels)})
    mask = Step("topk_mask", (1,), {"k": 1, "axis": 2})
    together = Step("reshape", (2,), {"shape": (time_steps, -1, *shape)})
    return GateProgram((time_steps, -1, *shape), (apart, mask, together), time_steps)


def sum_of_sent(name: str, gathered: Gather, shape: tuple[int, ...], like: Flow, node: Node) -> Flow:
    """The sum of all gated currents that the relay ``name`` of ``shape`` sends, laid out as ``like``."""
    starts, start = [], 0
    for flow, gate in gathered.terms:
        if gate is not None:
            starts.append(start)
        start += flow.features[0]
    block = lm.sum_of_blocks(like.features, starts, start)
    if math.prod(block.in_shape) != math.prod(shape):
        raise lm.NotExactError(f"a relay of shape {shape} sends blocks of {like.features}")
    return replace(like, parts=(Part(name, block, name),), key=node, origin=None, factor=1.0, schedule=None)
