"""NIR files: standard nodes that anybody can read, and metadata that makes them complete for us.

The nodes are the float twin of the integers: weight, bias and threshold times their unit. A gate cannot be said in NIR,
so a gated population stands there in its static form, and a bias that changes with the step as its mean; a relay is a
scale, by 1 or by its mean gate, to which rounding, rectifying and saturation are unknown. A delay is a node of its own
before the weights; where the synaptic current has a memory, the bias, which skips it, is a leak voltage. The exact
integer net, all of this included, is in the metadata of the graph under ``spikefold``. Reading gives back the same
`FixedPointGraph`, bit for bit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from spikefold.converters.arithmetic import DECAY_BITS, STATE_FRACTION_BITS
from spikefold.converters.capture.build import DT, integrator_node, neuron_node, relay_node
from spikefold.converters.fixed_point_graph import FORMAT, FixedPointGraph, Neurons, Synapse
from spikefold.converters.gate_quantise import GATE_FRACTION_BITS
from spikefold.converters.gate_shapes import value_shapes
from spikefold.converters.hdf5_check import read_nir
from spikefold.converters.plain_fields import short
from spikefold.converters.square_kernels import squared, ungrouped
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
            if synapse.longest_delay:
                late = f"{synapse.name}_delay"
                steps = np.broadcast_to(synapse.delay, graph.source_shape(source))
                nodes[late] = nir.Delay((steps * DT).astype(np.float32))
                edges.append((source, late))
                source = late
            if synapse.kind == "dense" and len(graph.source_shape(synapse.source)) > 1:
                flatten, shape = f"{synapse.name}_flatten", np.array(graph.source_shape(synapse.source))
                nodes[flatten] = nir.Flatten({"input": shape}, start_dim=0, end_dim=-1)
                edges.append((source, flatten))
                source = flatten
            nodes[synapse.name] = _synapse(
                graph, synapse, population, with_bias=number == 0 and not population.remembers_current
            )
            edges += [(source, synapse.name), (synapse.name, population.name)]
    end = "output"
    while end in nodes:
        end += "_"
    nodes[end] = nir.Output({"output": np.array(graph.output.shape)})
    edges.append((graph.output.name, end))
    written = nir.NIRGraph(nodes, edges)
    written.metadata = integers_as_metadata(graph)
    return written


def integers_as_metadata(graph: FixedPointGraph) -> dict[str, Any]:
    """Metadata of a NIR graph that hold ``graph``, bit for bit; `from_nir` reads them."""
    text, arrays = graph.to_plain()
    return {
        "spikefold_format": FORMAT,
        "dt": DT,
        KEY: {"graph": text, **{f"array_{i}": np.atleast_1d(a) for i, a in enumerate(arrays)}},
        "scalars": np.array([i for i, a in enumerate(arrays) if a.ndim == 0], dtype=np.int64).reshape(-1),
    }


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
    graph = read_nir(path)
    if not isinstance(graph, nir.NIRGraph):
        raise FileFormatError(f"{path}: holds a {type(graph).__name__}, not a graph")
    return from_nir(graph, str(path))


def from_nir(graph: nir.NIRGraph, where: str = "NIR graph") -> FixedPointGraph:
    """The integer net in the metadata of a NIR graph; FileFormatError where there is none."""
    metadata = graph.metadata
    version = metadata.get("spikefold_format")
    if version is not None and not (np.ndim(version) == 0 and version == FORMAT):
        raise FileFormatError(
            f"{where}: spikefold_format is {short(version)}, this version reads {FORMAT}: update spikefold"
        )
    held = metadata.get(KEY)
    if not isinstance(held, dict) or "graph" not in held:
        raise FileFormatError(
            f"{where}: holds no integer net (metadata {KEY!r} is missing); if another program wrote it, "
            "`spikefold export FILE.nir --from DIALECT --data DATA` makes one of it"
        )
    text = held["graph"]
    if not isinstance(text, str | bytes):
        raise FileFormatError(f"{where}: metadata {KEY}/graph holds a {type(text).__name__}; text is needed")
    positions = np.asarray(metadata.get("scalars", np.zeros(0, np.int64)))
    if positions.dtype.kind not in "iu":
        raise FileFormatError(f"{where}: metadata scalars holds {positions.dtype}; whole numbers are needed")
    scalars = set(positions.reshape(-1).tolist())
    arrays: list[NDArray[Any]] = []
    for i in range(len(held) - 1):
        if f"array_{i}" not in held:
            raise FileFormatError(f"{where}: metadata array_{i} is missing; the file is damaged")
        array = np.asarray(held[f"array_{i}"])
        if i in scalars and array.size != 1:
            raise FileFormatError(f"{where}: metadata array_{i} has shape {array.shape}; it must be one number")
        arrays.append(array.reshape(()) if i in scalars else array)
    try:
        read = FixedPointGraph.from_plain(text.decode() if isinstance(text, bytes) else text, arrays)
        for population in read.neurons:
            _check_gate(population, read.time_steps)
        return read
    except (SpikefoldError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{where}: {error}") from error


def _check_gate(population: Neurons, time_steps: int | None) -> None:
    """A gate whose steps fit together, and the population and clips that it is for."""
    gate = population.gate
    if gate is None:
        return
    where = f"neurons {population.name!r}: gate"
    if gate.time_steps != time_steps or gate.input_shape != (time_steps, -1, *population.shape):
        raise FileFormatError(
            f"{where}: input_shape {gate.input_shape} and time_steps {gate.time_steps} are not those of currents "
            f"({time_steps}, -1, *{population.shape})"
        )
    try:
        last, current = value_shapes(gate, 1)[-1], (time_steps, 1, *population.shape)
        fits = np.broadcast_shapes(last, current) == current
    except (LoweringError, ValueError) as error:
        raise FileFormatError(f"{where}: {error}") from error
    if not fits:
        raise FileFormatError(f"{where}: gives {last} for currents {current}")


def _neurons(population: Neurons) -> nir.NIRNode:
    metadata: dict[str, Any] = {"static_twin": population.gate is not None}
    if population.relay is not None:
        node = relay_node(population.shape, metadata | {"relay": True, "rectifies": population.relay.low == 0})
        if population.static_gate is not None:
            node.scale = (node.scale * population.static_gate / 2**GATE_FRACTION_BITS).astype(np.float32)
        return node
    decay, current_decay = (1 - np.asarray(rate) / 2**DECAY_BITS for rate in (population.dv, population.du + 1))
    if not population.fires:
        return _with_leak(population, integrator_node(population.shape, decay, current_decay))
    metadata["strict"] = True
    if population.soft_reset:
        metadata["soft_reset"] = True
    mantissas = [np.asarray(m, dtype=np.float64) for m in _reset_and_threshold(population)]
    reset, threshold = (np.broadcast_to(m * population.unit, population.shape).astype(np.float32) for m in mantissas)
    return _with_leak(population, neuron_node(threshold, decay, metadata, reset, current_decay))


def _with_leak(population: Neurons, node: nir.NIRNode) -> nir.NIRNode:
    """Neurons that remember their current, with the leak voltage that adds as much to a membrane as the bias does."""
    if population.remembers_current:
        node.v_leak = (np.broadcast_to(_mean_bias(population), population.shape) * node.r).astype(np.float32)
    return node


def _mean_bias(population: Neurons) -> NDArray[np.float64]:
    """Bias in real units, its mean over the steps where it changes with them."""
    real = population.bias * (population.unit / 2**STATE_FRACTION_BITS)
    return np.asarray(real.mean((0, 1)) if population.has_bias_schedule else real)


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
        real = _mean_bias(population)
        if population.has_bias_schedule:
            real = np.broadcast_to(real, population.shape).reshape(len(bias), -1).mean(1)
        bias[:] = np.broadcast_to(real.reshape(-1), bias.shape)
    if synapse.kind == "dense":
        return nir.Affine(weight=weight, bias=bias)
    shape = graph.source_shape(synapse.source)
    weight, padding = squared(synapse, ungrouped(weight, synapse.groups), shape)
    return nir.Conv2d(
        input_shape=shape[1:],
        weight=weight,
        stride=synapse.stride,
        padding=padding,
        dilation=synapse.dilation,
        groups=1,
        bias=bias,
    )
