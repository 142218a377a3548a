"""Spike counts and synaptic operations per sample, counted in int64 inside the graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from spikefold.converters.fixed_point_graph import FixedPointGraph, Synapse
from spikefold.converters.onnx.emitter import Emitter


def fan_out(synapse: Synapse, source: tuple[int, ...], target: tuple[int, ...]) -> NDArray[np.int64]:
    """Connections that leave each position of a source, border-exact, zero-valued weights included.

    Parameters
    ----------
    synapse : Synapse
        Convolution or dense map.
    source, target : tuple of int
        Shapes of its ends.

    Returns
    -------
    int64 array
        ``[H, W]`` for a convolution (all channels alike), a scalar for a dense map.
    """
    if synapse.kind == "dense":
        return np.array(len(synapse.weight))
    per_axis = [
        _taps(*numbers)
        for numbers in zip(
            source[1:], target[1:], synapse.weight.shape[2:], synapse.stride, synapse.padding, synapse.dilation,
            strict=True,
        )
    ]  # fmt: skip
    return np.outer(*per_axis) * (len(synapse.weight) // synapse.groups)


def emit_counts(e: Emitter, graph: FixedPointGraph, name: str, events: str, spikes_output: str | None) -> list[str]:
    """Append the spike count of a source and the synaptic operations of all synapses that it feeds.

    Parameters
    ----------
    e : Emitter
        Where the nodes go; outputs are named ``synops/<synapse>``, each int64 ``[B]``.
    graph : FixedPointGraph
        The net.
    name : str
        Input port or population.
    events : str
        Float32 tensor ``[T, B, *shape]``: 1 where a message is sent, else 0.
    spikes_output : str or None
        Name of the spike count, int64 ``[B]``; None leaves it out.

    Returns
    -------
    list of str
        Names of the new outputs.
    """
    shape = graph.source_shape(name)
    # float32 counts along one axis only (at most 2**24 of them are exact), int64 from there on
    counts = e.op("ReduceSum", events, e.constant([2]), keepdims=0)
    per_place = e.op("ReduceSum", e.cast(counts, TensorProto.INT64), e.constant([0]), keepdims=0)
    rest = list(range(1, len(shape)))

    outputs: list[str] = []

    def total(value: str, output: str) -> None:
        outputs.append(output)
        if rest:
            e.op("ReduceSum", value, e.constant(rest), keepdims=0, name=output)
        else:
            e.op("Identity", value, name=output)

    if spikes_output is not None:
        total(per_place, spikes_output)
    for synapse in graph.synapses:
        if synapse.source == name:
            weights = fan_out(synapse, shape, graph.source_shape(synapse.target))
            total(e.op("Mul", per_place, e.constant(weights)), f"synops/{synapse.name}")
    return outputs


def _taps(source: int, target: int, kernel: int, stride: int, padding: int, dilation: int) -> NDArray[np.int64]:
    """Outputs that each of ``source`` positions reaches along one axis."""
    hits = np.zeros(source, dtype=np.int64)
    for tap in range(kernel):
        positions = np.arange(target) * stride + tap * dilation - padding
        hits[positions[(positions >= 0) & (positions < source)]] += 1
    return hits
