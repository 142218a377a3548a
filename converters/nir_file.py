"""NIR files: standard nodes that anybody can read, and metadata that makes them complete for us.

The nodes are the float twin of the integers: weight, bias and threshold times their unit. A gate cannot be said in NIR,
so a gated population stands there in its static form, and a bias that changes with the step as its mean; a relay is a
scale, by 1 or by its mean gate, to which rounding, rectifying and saturation are unknown. The exact integer net, all of
this included, is in the metadata of the graph under ``spikefold``. Reading gives back the same `FixedPointGraph`, bit
for bit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from spikefold.converters.arithmetic import DECAY_BITS, STATE_FRACTION_BITS
from spikefold.converters.capture.build import DT, neuron_node, relay_node
from spikefold.converters.fixed_point_graph import FORMAT, FixedPointGraph, Neurons, Synapse
from spikefold.converters.gate_quantise import GATE_FRACTION_BITS
from spikefold.errors import FileFormatError, LoweringError, SpikefoldError
from spikefold.files import atomic_path

KEY = "spikefold"


def to_nir(graph: FixedPointGraph) -> nir.NIRGraph:
    """The float twin of ``graph`` as NIR nodes, with the integers in the metadata."""
    nodes: dict[str, nir.NIRNode] = {graph.input.name: nir.Input({"input": np.array(graph.input.shape)})}
    edges: list[tuple[str, str]] = []
    for population in graph.neurons:
        nodes[population.name] = _neurons(population)
        for number, synapse in enumerate(graph.incoming(population.name)):
            source = synapse.source
            if synapse.kind == "dense" and len(graph.source_shape(source)) > 1:
                flatten = f"{synapse.name}_flatten"
                nodes[flatten] = nir.Flatten({"input": np.array(graph.source_shape(source))}, start_dim=0, end_dim=-1)
                edges.append((source, flatten))
                source = flatten
            nodes[synapse.name] = _synapse(graph, synapse, population, with_bias=number == 0)
            edges += [(source, synapse.name), (synapse.name, population.name)]
    end = "output"
    while end in nodes:
        end += "_"
    nodes[end] = nir.Output({"output": np.array(graph.output.shape)})
    edges.append((graph.output.name, end))
    written = nir.NIRGraph(nodes, edges)
    text, arrays = graph.to_plain()
    written.metadata = {
        "spikefold_format": FORMAT,
        "dt": DT,
        KEY: {"graph": text, **{f"array_{i}": np.atleast_1d(a) for i, a in enumerate(arrays)}},
        "scalars": np.array([i for i, a in enumerate(arrays) if a.ndim == 0], dtype=np.int64).reshape(-1),
    }
    return written


def save_nir(graph: FixedPointGraph, path: str | os.PathLike[str]) -> Path:
    """Write ``graph`` to ``path``, whole or not at all; returns the path."""
    written = to_nir(graph)
    with atomic_path(path) as temporary:
        nir.write(str(temporary), written)
    return Path(path)


def load_nir(path: str | os.PathLike[str]) -> FixedPointGraph:
    """Read what `save_nir` wrote.

    Raises
    ------
    FileFormatError
        The file is missing, broken, newer, or holds no integers of ours.
    """
    if not Path(path).is_file():
        raise FileFormatError(f"{path}: there is no such file")
    try:
        graph = nir.read(str(path))
    except Exception as error:  # nir and h5py raise whatever comes up on a damaged file
        raise FileFormatError(f"{path}: not a readable NIR file ({type(error).__name__}: {error})") from error
    return from_nir(graph, str(path))


def from_nir(graph: nir.NIRGraph, where: str = "NIR graph") -> FixedPointGraph:
    """The integer net in the metadata of a NIR graph; FileFormatError where there is none."""
    metadata = graph.metadata
    version = metadata.get("spikefold_format")
    if version is not None and int(version) != FORMAT:
        raise FileFormatError(
            f"{where}: spikefold_format is {int(version)}, this version reads {FORMAT}: update spikefold"
        )
    held = metadata.get(KEY)
    if not isinstance(held, dict) or "graph" not in held:
        raise FileFormatError(f"{where}: holds no integer net (metadata {KEY!r} is missing); export it with spikefold")
    text = held["graph"]
    scalars = {int(i) for i in np.asarray(metadata.get("scalars", []), dtype=np.int64).reshape(-1)}
    arrays: list[NDArray[Any]] = []
    for i in range(len(held) - 1):
        if f"array_{i}" not in held:
            raise FileFormatError(f"{where}: metadata array_{i} is missing; the file is damaged")
        array = np.asarray(held[f"array_{i}"])
        arrays.append(array.reshape(()) if i in scalars else array)
    try:
        return FixedPointGraph.from_plain(text.decode() if isinstance(text, bytes) else str(text), arrays)
    except SpikefoldError as error:
        raise FileFormatError(f"{where}: {error}") from error


def _neurons(population: Neurons) -> nir.NIRNode:
    metadata: dict[str, Any] = {"static_twin": population.gate is not None}
    if population.relay is not None:
        node = relay_node(population.shape, metadata | {"relay": True, "rectifies": population.relay.low == 0})
        if population.static_gate is not None:
            node.scale = (node.scale * population.static_gate / 2**GATE_FRACTION_BITS).astype(np.float32)
        return node
    if not population.fires:
        return nir.I(r=np.full(population.shape, 1 / DT, dtype=np.float32))
    metadata["strict"] = True
    if population.soft_reset:
        metadata["soft_reset"] = True
    mantissas = [np.asarray(m, dtype=np.float64) for m in _reset_and_threshold(population)]
    reset, threshold = (np.broadcast_to(m * population.unit, population.shape).astype(np.float32) for m in mantissas)
    return neuron_node(threshold, 1 - population.dv / 2**DECAY_BITS, metadata, reset)


def _reset_and_threshold(population: Neurons) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mantissas of both, over the mean gate where there is one."""
    threshold = population.v_threshold
    reset = np.zeros((), dtype=np.int64) if population.v_reset is None else population.v_reset
    if population.static_threshold is None:
        return reset, threshold
    return reset * (population.static_threshold / np.maximum(threshold, 1)), population.static_threshold


def _synapse(graph: FixedPointGraph, synapse: Synapse, population: Neurons, with_bias: bool) -> nir.NIRNode:
    if synapse.kind == "dense" and len(population.shape) > 1:
        raise LoweringError(
            f"synapse {synapse.name!r}: a dense map into neurons of shape {population.shape} has no form in NIR, which "
            "reshapes by flattening only: give the neurons one axis"
        )
    sender = next((n.message_unit for n in graph.neurons if n.name == synapse.source), 1.0)
    unit = population.unit * 2.0 ** (population.current_shift - STATE_FRACTION_BITS) / sender
    weight = (synapse.effective_weight * unit).astype(np.float32)
    bias = np.zeros(weight.shape[0], dtype=np.float32)
    if with_bias:
        real = population.bias * (population.unit / 2**STATE_FRACTION_BITS)
        if population.has_bias_schedule:
            real = np.broadcast_to(real.mean((0, 1)), population.shape).reshape(len(bias), -1).mean(1)
        bias[:] = np.broadcast_to(real.reshape(-1), bias.shape)
    if synapse.kind == "dense":
        return nir.Affine(weight=weight, bias=bias)
    weight, padding = _squared(synapse, _ungrouped(weight, synapse.groups))
    return nir.Conv2d(
        input_shape=graph.source_shape(synapse.source)[1:],
        weight=weight,
        stride=synapse.stride,
        padding=padding,
        dilation=synapse.dilation,
        groups=1,
        bias=bias,
    )


def _squared(synapse: Synapse, weight: NDArray[np.float32]) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """The same convolution with a square kernel: nir 1.0.8 infers shapes as if every kernel were square."""
    height, width = weight.shape[2:]
    side = max(height, width)
    rim = (side - height, side - width)
    if rim[0] % 2 or rim[1] % 2:
        raise LoweringError(
            f"synapse {synapse.name!r}: kernel {height} x {width} has no square form for NIR; make its sides differ by "
            "an even number"
        )
    extra = (rim[0] // 2, rim[1] // 2)
    padding = tuple(p + e * d for p, e, d in zip(synapse.padding, extra, synapse.dilation, strict=True))
    square = np.pad(weight, ((0, 0), (0, 0), (extra[0], extra[0]), (extra[1], extra[1])))
    return square, (padding[0], padding[1])


def _ungrouped(weight: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """The same convolution in one group: nir 1.0.8 takes a grouped one's input to have ``weight.shape[1]`` channels."""
    outputs, inputs = len(weight) // groups, weight.shape[1]
    full = np.zeros((len(weight), inputs * groups, *weight.shape[2:]), dtype=weight.dtype)
    for g in range(groups):
        rows = slice(g * outputs, (g + 1) * outputs)
        full[rows, g * inputs : (g + 1) * inputs] = weight[rows]
    return full
