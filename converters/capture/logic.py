"""Exact logic on spikes: what max pooling, and products of spike trains, become as neurons without memory.

A max pooling of spikes fires where any of its synapses of weight 1 brings one. A product of two spike trains, either of
which may be one minus spikes, fires where both factors are 1: the AND (``a * b``) and IAND (``(1 - a) * b``) of
SEW-ResNets (Fang et al., NeurIPS 2021), and NOR (``(1 - a) * (1 - b)``).
"""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from spikefold.converters.capture import linear_map as lm
from spikefold.converters.capture.layers import pair
from spikefold.converters.capture.values import Flow, Part
from spikefold.models.lif import NeuronSpec

ANY = NeuronSpec(decay=0.0, v_threshold=0.5, strict=True)
"""Fires where at least one of what comes in is 1."""
BOTH = NeuronSpec(decay=0.0, v_threshold=1.5, strict=True)
"""Fires where both of what comes in are 1."""


def is_spikes(flow: Flow) -> bool:
    """Whether a flow is what one population sends, unchanged."""
    return len(flow.parts) == 1 and flow.parts[0].map.is_identity and flow.schedule is None


def is_literal(flow: Flow) -> bool:
    """Whether a flow is what one population sends, or one minus that."""
    return len(flow.parts) == 1 and flow.schedule is None and _is_literal(flow.parts[0].map)


def _is_literal(m: lm.LinearMap) -> bool:
    return m.is_identity or lm.is_complement(m)


def any_in_window(node: Node, flow: Flow, a: list[Any], name: str) -> Flow:
    """How many spikes of ``flow`` each window of a max pooling with arguments ``a`` sees."""
    stride = a[2] if len(a) > 2 and a[2] else a[1]
    padding, dilation = (a[i] if len(a) > i else d for i, d in ((3, 0), (4, 1)))
    c, h, w = flow.features
    window = lm.any_of((c, h, w), pair(a[1]), pair(stride), pair(padding), pair(dilation))
    return Flow((Part(flow.parts[0].source, window, f"{name}_window"),), window.out_shape, flow.axes, node)


def both(node: Node, left: Flow, right: Flow) -> Flow | None:
    """How many factors are 1 in a product of two literals; None where they are laid out differently."""
    if (left.axes, left.features, left.reduced) != (right.axes, right.features, right.reduced):
        return None
    return Flow(left.parts + right.parts, left.features, left.axes, node)
