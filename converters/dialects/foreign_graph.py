"""Read a NIR file that anybody wrote, flatten graphs inside it, and check it node by node before it is understood."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from spikefold.converters.hdf5_check import read_nir
from spikefold.converters.plain_fields import MAX_VALUES, short
from spikefold.errors import FileFormatError

NEURONS = (nir.LIF, nir.IF, nir.CubaLIF, nir.LI, nir.I, nir.CubaLI, nir.Threshold)
LINEAR = (nir.Affine, nir.Linear, nir.Scale, nir.Conv1d, nir.Conv2d, nir.AvgPool2d, nir.SumPool2d)
ENDS = (nir.Input, nir.Output)
KNOWN = (*NEURONS, *LINEAR, *ENDS, nir.Flatten, nir.Delay)
SHAPED = (*NEURONS, nir.Delay)


@dataclass(frozen=True)
class ForeignGraph:
    """Nodes without graphs inside, the sources of each in the order of the edges, and where signals enter and leave."""

    nodes: Mapping[str, Any]
    sources: Mapping[str, tuple[str, ...]]
    start: str
    end: str


def open_graph(source: nir.NIRGraph | str | os.PathLike[str]) -> nir.NIRGraph:
    """The graph itself or what a file holds; FileFormatError where it holds none."""
    if isinstance(source, nir.NIRGraph):
        return source
    graph = read_nir(source, type_check=False)  # nir's check wants square kernels in one group
    if not isinstance(graph, nir.NIRGraph):
        raise FileFormatError(f"{source}: holds a {type(graph).__name__}, not a graph")
    return graph


def flatten(graph: nir.NIRGraph) -> ForeignGraph:
    """One graph without graphs inside, every node known, read by something, and with finite numbers."""
    nodes, edges = _flat(graph, "")
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in edges:
        sources[target].append(source)
    for name, node in nodes.items():
        _check_numbers(name, node)
    start, end = (_only(graph, "", kind) for kind in ENDS)
    reading = {s for found in sources.values() for s in found}
    if sources[start] or end in reading:
        name, said = (start, "an edge leads to") if sources[start] else (end, "an edge leads from")
        raise FileFormatError(f"{where(name, nodes[name])}: {said} it; signals enter and leave the graph there")
    for name in nodes:
        if name != start and not sources[name]:
            raise FileFormatError(f"{where(name, nodes[name])}: no edge leads to it")
        if name != end and name not in reading:
            raise FileFormatError(f"{where(name, nodes[name])}: no edge leads from it, so it would be dropped")
    return ForeignGraph(nodes, {name: tuple(found) for name, found in sources.items()}, start, end)


def where(name: str, node: Any) -> str:
    """Name a node for a message."""
    return f"node {name!r} ({type(node).__name__})"


def array(value: Any) -> NDArray[Any]:
    """A field as numpy, from whatever tensor an exporter left there."""
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)


def _flat(graph: nir.NIRGraph, prefix: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    nodes: dict[str, Any] = {}
    edges: dict[tuple[str, str], None] = {}  # in order, and quick to look into
    entry, leave = {}, {}
    for name, node in graph.nodes.items():
        path = f"{prefix}{name}"
        entry[name] = leave[name] = path
        if isinstance(node, nir.NIRGraph):
            inner, links = _flat(node, f"{path}.")
            nodes |= inner
            edges |= dict.fromkeys(links)
            entry[name], leave[name] = (f"{path}.{_only(node, f'{path}.', kind)}" for kind in ENDS)
        elif isinstance(node, KNOWN):
            nodes[path] = node
        else:
            raise FileFormatError(
                f"node {path!r} is a {type(node).__name__}, which is no node of nir 1.0.8; nothing is left out"
            )
    for source, target in graph.edges:
        for end in (source, target):
            if end not in entry:
                raise FileFormatError(f"edge {prefix}{source} -> {target}: there is no node {end!r}")
        edge = (leave[source], entry[target])
        if edge in edges:
            raise FileFormatError(f"edge {edge[0]} -> {edge[1]} is there twice")
        edges[edge] = None
    return nodes, list(edges)


def _only(graph: nir.NIRGraph, prefix: str, kind: type[Any]) -> str:
    names: list[str] = [name for name, node in graph.nodes.items() if isinstance(node, kind)]
    if len(names) != 1:
        where_ = f"graph {prefix.rstrip('.')!r}" if prefix else "the graph"
        raise FileFormatError(f"{where_} has {len(names)} {kind.__name__} nodes {sorted(names)}; it must have one")
    return names[0]


def _check_numbers(name: str, node: Any) -> None:
    for field in dataclasses.fields(node):
        value = getattr(node, field.name, None)
        if field.name in ("metadata", "input_type", "output_type") or value is None:
            continue
        if isinstance(node, (nir.Conv1d, nir.Conv2d)) and field.name == "padding" and isinstance(value, str | bytes):
            continue
        held = array(value)
        if held.dtype.kind not in "biuf":
            raise FileFormatError(f"{where(name, node)}: {field.name} holds {held.dtype}, no numbers")
        if not held.size:
            raise FileFormatError(f"{where(name, node)}: {field.name} of shape {held.shape} holds no numbers")
        finite = np.isfinite(held)
        if not finite.all():
            raise FileFormatError(f"{where(name, node)}: {field.name} holds {held[~finite].flat[0]}")


def parameters(node: Any) -> dict[str, NDArray[np.float64]]:
    """The numbers of a neuron or delay, one a neuron or one for all."""
    skipped = ("metadata", "input_type", "output_type")
    return {
        f.name: np.atleast_1d(array(getattr(node, f.name)).astype(np.float64))
        for f in dataclasses.fields(node)
        if f.name not in skipped
    }


def shapes(graph: ForeignGraph) -> dict[str, tuple[int, ...]]:
    """What every node sends, without time and batch; neurons with one number for all take the shape that arrives."""
    found: dict[str, tuple[int, ...]] = {}
    readers: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for name, sources in graph.sources.items():
        for source in sources:
            readers[source].append(name)
    left = list(graph.nodes)
    while left:
        now, left = left, []
        for name in now:
            if name in found:
                continue
            arriving = next((found[s] for s in graph.sources[name] if s in found), None)
            shape = _shape(name, graph.nodes[name], arriving, name == graph.start)
            if shape is not None:
                found[name] = shape
                left += readers[name]
    if waiting := sorted(set(graph.nodes) - set(found)):
        raise FileFormatError(f"nodes {waiting}: their shapes cannot be told from numbers that have one")
    return found


def _shape(name: str, node: Any, arriving: tuple[int, ...] | None, is_start: bool) -> tuple[int, ...] | None:
    if is_start:
        return _input_shape(name, node)
    if isinstance(node, (nir.Affine, nir.Linear)):
        return (int(node.weight.shape[0]),)
    if isinstance(node, SHAPED):
        own = max((p.shape for p in parameters(node).values()), key=np.prod)
        if np.prod(own) > 1:
            return tuple(int(n) for n in own)
    if arriving is None:
        return None
    if isinstance(node, nir.Flatten):
        return flattened(name, node, arriving)
    if isinstance(node, (nir.Conv1d, nir.Conv2d)):
        sizes = conv_sizes(name, node, arriving)
        return (int(node.weight.shape[0]), *sizes)
    if isinstance(node, (nir.AvgPool2d, nir.SumPool2d)):
        return (arriving[0], *window_sizes(name, node, arriving))
    return arriving


def _input_shape(name: str, node: Any) -> tuple[int, ...]:
    held = array(node.input_type["input"]).reshape(-1)
    sizes = [int(n) for n in held] if held.dtype.kind in "iuf" and np.isfinite(held).all() else []
    if not sizes or min(sizes) < 1 or sizes != held.tolist() or math.prod(sizes) > MAX_VALUES:
        raise FileFormatError(f"{where(name, node)}: shape is {short(held.tolist())}; sizes of 1 or more are needed")
    return tuple(sizes)


def flattened(name: str, node: Any, arriving: tuple[int, ...]) -> tuple[int, ...]:
    """Shape after a Flatten, whose axes count from the first that is neither batch nor time."""
    rank = len(arriving)
    first, last = (int(d) + rank if int(d) < 0 else int(d) for d in (node.start_dim, node.end_dim))
    if not 0 <= first <= last < rank:
        raise FileFormatError(
            f"{where(name, node)}: start_dim {node.start_dim}, end_dim {node.end_dim} do not fit {arriving}, which has "
            "neither batch nor time"
        )
    return (*arriving[:first], int(np.prod(arriving[first : last + 1])), *arriving[last + 1 :])


def numbers(name: str, node: Any, field: str, axes: int) -> tuple[int, ...]:
    """A field of one whole number or one for each axis."""
    held = array(getattr(node, field)).reshape(-1)
    if held.size not in (1, axes) or not np.array_equal(held, held.astype(np.int64)) or held.min(initial=0) < 0:
        raise FileFormatError(f"{where(name, node)}: {field} is {held.tolist()}; {axes} whole numbers are needed")
    return tuple(int(n) for n in np.broadcast_to(held, (axes,)))


def conv_padding(name: str, node: Any) -> tuple[int, ...]:
    """Padding as numbers, where the file says a word."""
    axes = int(node.weight.ndim) - 2
    padding: Any = node.padding.decode() if isinstance(node.padding, bytes) else node.padding
    if not isinstance(padding, str):
        return numbers(name, node, "padding", axes)
    if padding == "valid":
        return (0,) * axes
    kernel = [int(n) for n in node.weight.shape[2:]]
    reach = [d * (k - 1) for d, k in zip(numbers(name, node, "dilation", axes), kernel, strict=True)]
    if padding != "same" or any(r % 2 for r in reach) or set(numbers(name, node, "stride", axes)) != {1}:
        raise FileFormatError(
            f"{where(name, node)}: padding {padding!r} needs odd kernels and a stride of 1; give it as numbers"
        )
    return tuple(r // 2 for r in reach)


def conv_sizes(name: str, node: Any, arriving: tuple[int, ...]) -> tuple[int, ...]:
    """Spatial sizes behind a convolution."""
    axes = node.weight.ndim - 2
    groups = int(array(node.groups).reshape(-1)[0])
    if len(arriving) != axes + 1 or node.weight.shape[1] * groups != arriving[0]:
        raise FileFormatError(
            f"{where(name, node)}: weight {tuple(node.weight.shape)} in {groups} groups gets a signal of {arriving}"
        )
    if node.weight.shape[0] % groups:
        raise FileFormatError(f"{where(name, node)}: groups {groups} do not divide weight {tuple(node.weight.shape)}")
    stride, dilation = (numbers(name, node, f, axes) for f in ("stride", "dilation"))
    padding = conv_padding(name, node)
    return _sizes(name, node, arriving, node.weight.shape[2:], stride, padding, dilation)


def window_sizes(name: str, node: Any, arriving: tuple[int, ...]) -> tuple[int, ...]:
    """Spatial sizes behind a pooling."""
    if len(arriving) != 3:
        raise FileFormatError(f"{where(name, node)}: gets a signal of {arriving}; it needs (C, H, W)")
    kernel, stride, padding = (numbers(name, node, f, 2) for f in ("kernel_size", "stride", "padding"))
    return _sizes(name, node, arriving, kernel, stride, padding, (1, 1))


def _sizes(
    name: str, node: Any, arriving: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...],
    padding: tuple[int, ...], dilation: tuple[int, ...],
) -> tuple[int, ...]:  # fmt: skip
    if min(kernel) < 1:
        raise FileFormatError(f"{where(name, node)}: kernel {tuple(kernel)} must be 1 or more")
    if min(stride) < 1 or min(dilation) < 1:
        raise FileFormatError(f"{where(name, node)}: stride {stride} and dilation {dilation} must be 1 or more")
    sizes = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(arriving[1:], kernel, stride, padding, dilation, strict=True)
    )
    if min(sizes) < 1:
        raise FileFormatError(f"{where(name, node)}: kernel {tuple(kernel)} is larger than the signal of {arriving}")
    return sizes
