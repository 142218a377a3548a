"""Make a NIR graph of others ours: nodes and edges read as linear maps and neurons, under the dialect that is named."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any, TypeAlias

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Graph, Node

from spikefold.converters.capture import linear_map as lm
from spikefold.converters.capture.build import build_graph
from spikefold.converters.capture.layers import then
from spikefold.converters.capture.network import (
    INPUT,
    OUTPUT,
    READOUT,
    RELAY,
    CapturedNetwork,
    CapturedPopulation,
    aligned,
)
from spikefold.converters.capture.values import Flow, NeuronArrays, Part
from spikefold.converters.dialects.feedback import feedback
from spikefold.converters.dialects.foreign_graph import (
    LINEAR,
    NEURONS,
    ForeignGraph,
    flatten,
    flattened,
    open_graph,
    parameters,
    shapes,
    where,
)
from spikefold.converters.dialects.layers import linear_map
from spikefold.converters.dialects.meaning import DIALECTS, Dialect, Meaning, Parameters, RefusedError
from spikefold.errors import FileFormatError, InputError

Shape: TypeAlias = tuple[int, ...]


def import_nir(
    source: nir.NIRGraph | str | os.PathLike[str], dialect: str = "nir", dt: float | None = None
) -> nir.NIRGraph:
    """Read a NIR graph that another program wrote, as `spikefold.capture` reads a module.

    Parameters
    ----------
    source : NIRGraph or path
        Any standard nodes of nir 1.0.8, graphs inside graphs, several edges into a node (a sum), circles. A signal
        that comes back to the neurons it began at does so one step later, as `spikefold.converters.dialects.feedback`
        says; a ``Delay`` counts in steps of ``dt``.
    dialect : str
        Whose meaning the nodes have, one of `DIALECTS`: "nir" (the documented equations under forward Euler),
        "snntorch", "norse", "spikingjelly", "sinabs", "rockpool", or the last two with one spike a step at most,
        "sinabs-single-spike" and "rockpool-single-spike".
    dt : float, optional
        Seconds of a step; without it, what the framework takes by default (1e-4, Norse 1e-3).

    Returns
    -------
    nir.NIRGraph
        The canonical graph that `calibrate`, `lower` and `quantise` take. Neurons keep their names. Integrators (LI, I,
        CubaLI) may only be the output: their last membrane over T is the answer. An output behind linear nodes is
        answered by its mean over time. A 1-D convolution makes the input ``(C, 1, L)``.

    Raises
    ------
    FileFormatError
        The file is broken, or something in it has no exact meaning in this dialect; the message names the node, the
        field and the value. Nothing is left out in silence.
    InputError
        The dialect or the step is none.
    """
    if dialect not in DIALECTS:
        raise InputError(f"dialect is {dialect!r}; choose one of {', '.join(DIALECTS)}")
    chosen = DIALECTS[dialect]
    if dt is not None and not (math.isfinite(dt) and dt > 0):
        raise InputError(f"dt = {dt}: must be a number of seconds above 0")
    if dt is not None and chosen.fixed_dt and dt != chosen.dt:
        raise InputError(f"dt = {dt}: {dialect} always takes steps of {chosen.dt:g} s")
    graph = open_graph(source)
    try:
        return build_graph(_Reader(flatten(graph), chosen, dt).read())
    except FileFormatError as error:
        raise error if graph is source else FileFormatError(f"{source}: {error}") from error
    except RecursionError as error:
        named = "the graph" if graph is source else source
        raise FileFormatError(f"{named}: more nodes in a row, or inside each other, than can be followed") from error


class _Reader:
    def __init__(self, graph: ForeignGraph, dialect: Dialect, dt: float | None) -> None:
        self.graph = graph
        self.dialect = dialect
        self.dt, self.dt_is_given = dialect.dt if dt is None else dt, dt is not None
        self.shapes = shapes(graph)
        self.names: dict[str, str] = {}
        self.populations: dict[str, CapturedPopulation] = {}
        self.done: dict[str, Flow] = {}
        self.underway: list[str] = []
        self.keys = Graph()
        one_dimensional = any(isinstance(n, nir.Conv1d) for n in graph.nodes.values())
        shape = self.shapes[graph.start]
        self.input_shape = (shape[0], 1, shape[1]) if one_dimensional and len(shape) == 2 else shape
        self.layouts = self._find_layouts()

    def read(self) -> CapturedNetwork:
        neurons = [n for n, node in self.graph.nodes.items() if isinstance(node, NEURONS)]
        for name in neurons:
            self.names[name] = self._free_name(name)
        arriving = {name: self._arriving(name) for name in neurons}
        output = self._arriving(self.graph.end)
        for name in neurons:
            self._population(name, arriving[name])
        if not neurons:
            raise FileFormatError("no neuron lies between the input and the output")
        late = feedback(self.populations)
        ready = tuple(replace(p, flow=_later(p.flow, late.get(p.name, frozenset()))) for p in self.populations.values())
        self._check_integrators(output)
        flow, _ = aligned(output)
        return CapturedNetwork(ready, flow, {}, 0, self.input_shape)

    def _free_name(self, base: str) -> str:
        taken = {INPUT, OUTPUT, READOUT, *self.names.values(), *self.populations}
        clean = base.replace("/", "_").replace(".", "_")
        clean = f"neurons_{clean}" if clean.isdigit() or clean in (INPUT, OUTPUT, READOUT) else clean
        name, number = clean, 2
        while name in taken:
            name, number = f"{clean}_{number}", number + 1
        return name

    def _key(self, name: str) -> Node:
        return self.keys.placeholder(f"n_{len(self.done)}_{len(self.keys.nodes)}")

    def _arriving(self, name: str) -> Flow:
        """The sum of what all edges into a node bring."""
        flows = [self._sent(source) for source in self.graph.sources[name]]
        found = {self.shapes[s] for s in self.graph.sources[name]}
        if len(found) > 1:
            raise FileFormatError(
                f"{where(name, self.graph.nodes[name])}: its edges bring signals of different shapes {sorted(found)}"
            )
        parts = tuple(part for flow in flows for part in flow.parts)
        return replace(flows[0], parts=parts, features=found.pop(), key=self._key(name))

    def _sent(self, name: str) -> Flow:
        """What a node sends."""
        if name in self.underway:
            raise FileFormatError(f"nodes {self.underway[self.underway.index(name) :]} form a cycle without neurons")
        if name not in self.done:
            self.underway.append(name)
            self.done[name] = self._made(name, self.graph.nodes[name])
            self.underway.pop()
        return self.done[name]

    def _made(self, name: str, node: Any) -> Flow:
        shape = self.shapes[name]
        if name == self.graph.start:
            return Flow((Part(INPUT, lm.identity(self.input_shape), INPUT),), shape, "T B", self._key(name))
        if isinstance(node, NEURONS):
            part = Part(self.names[name], lm.identity(self.layouts[name]), self.names[name])
            return Flow((part,), shape, "T B", self._key(name))
        flow = self._arriving(name)
        if isinstance(node, LINEAR):
            return self._linear(name, node, flow)
        if isinstance(node, nir.Flatten):
            return replace(flow, features=flattened(name, node, flow.features))
        if isinstance(node, nir.Delay):
            return self._delay(name, node, flow)
        return flow

    def _find_layouts(self) -> dict[str, Shape]:
        """How maps lay out what each node sends: dense ones flat, a Flatten changing nothing."""
        found: dict[str, Shape] = {self.graph.start: self.input_shape}
        changed = True
        while changed:
            changed = False
            for name in self.graph.nodes:
                arriving = {found[s] for s in self.graph.sources[name] if s in found}
                layout = self._layout(name, arriving) if arriving else found.get(name)
                if layout is not None and layout != found.get(name):
                    found[name], changed = layout, True
        return found

    def _layout(self, name: str, arriving: set[Shape]) -> Shape:
        node, shape = self.graph.nodes[name], self.shapes[name]
        flat = (math.prod(shape),)
        if isinstance(node, (nir.Conv1d, nir.Conv2d, nir.AvgPool2d, nir.SumPool2d)):
            return (shape[0], 1, shape[1]) if len(shape) == 2 else shape
        if isinstance(node, nir.Scale):
            second = linear_map(name, node, shape, self.dialect.pads_sum_pool)
            return flat if isinstance(second, lm.DenseMap) else arriving.pop()
        if isinstance(node, (nir.Affine, nir.Linear)) or len(arriving) > 1:
            return flat
        return arriving.pop()

    def _linear(self, name: str, node: Any, flow: Flow) -> Flow:
        second = linear_map(name, node, flow.features, self.dialect.pads_sum_pool)
        label = name.replace("/", "_").replace(".", "_")
        try:
            made = then(self._key(name), flow, second, label)
        except lm.NeedsRelayError:
            made = then(self._key(name), self._relay(label, flow), second, label)
        except lm.NotExactError as error:
            raise FileFormatError(f"{where(name, node)}: {error}") from error
        return replace(made, features=self.shapes[name])

    def _relay(self, label: str, flow: Flow) -> Flow:
        """Send a current on as numbers where two layers do not compose into one."""
        name = self._free_name(f"{label}_relay")
        held, shape = aligned(flow)
        self.populations[name] = CapturedPopulation(name, held, RELAY, None, shape, relays=True)
        return replace(flow, parts=(Part(name, lm.identity(shape), name),))

    def _delay(self, name: str, node: Any, flow: Flow) -> Flow:
        seconds = parameters(node)["delay"]
        exact = seconds / self.dt
        steps = np.round(exact).astype(np.int64)
        if seconds.min() < 0 or np.abs(exact - steps).max() > 1e-3 or (steps.size > 1 and steps.shape != flow.features):
            raise FileFormatError(
                f"{where(name, node)}: delay {seconds.flat[np.abs(exact - steps).argmax()]:.6g} of shape "
                f"{seconds.shape} must be whole steps of {self.dt:g} s, one for each of {flow.features}"
            )
        return replace(flow, parts=tuple(self._delayed(name, node, part, steps) for part in flow.parts))

    def _delayed(self, name: str, node: Any, part: Part, steps: NDArray[np.int64]) -> Part:
        uniform = bool((steps == steps.flat[0]).all())
        if part.map.is_identity and not uniform:
            return replace(part, delay=part.delay + steps.reshape(part.map.in_shape))
        if not uniform or bool(part.map.bias.any()):
            raise FileFormatError(
                f"{where(name, node)}: delays what a layer with a bias made, or each of its results otherwise; put the "
                "Delay before that layer"
            )
        return replace(part, delay=part.delay + int(steps.flat[0]))

    def _population(self, name: str, flow: Flow) -> None:
        node, shape = self.graph.nodes[name], self.shapes[name]
        if flow.features != shape:
            raise FileFormatError(
                f"{where(name, node)}: its numbers are for neurons of shape {shape}, what arrives has {flow.features}"
            )
        meaning = self._meaning(name, node)
        flow, held = aligned(flow)
        if held != self.layouts[name]:
            held = self.layouts[name]
            flow = replace(flow, parts=tuple(replace(p, map=lm.compose(lm.identity(held), p.map)) for p in flow.parts))
        found = {field: _laid_out(getattr(meaning, field), held) for field in ARRAYS}
        found["gain"] = _evened(found["gain"])
        if found["gain"].ndim > 0 and not meaning.fires:
            raise FileFormatError(f"{where(name, node)}: r scales each integrator otherwise; it must be the same")
        if found["gain"].ndim > 0:  # each neuron counted in a unit of its own
            found |= {field: found[field] / found["gain"] for field in ("v_threshold", "v_reset", "drive")}
            found["gain"] = np.ones(())
        if np.any(found["drive"]):
            flow = _driven(where(name, node), flow, np.broadcast_to(found["drive"] / found["gain"], held))
        spec = NeuronArrays(
            _one(found["decay"]), _one(found["v_threshold"]), meaning.strict, _one(found["v_reset"]),
            float(found["gain"]), meaning.soft_reset, _one(found["current_decay"]),
        )  # fmt: skip
        own = self.names[name]
        self.populations[own] = CapturedPopulation(own, flow, spec, None, held, integrates=not meaning.fires)

    def _meaning(self, name: str, node: Any) -> Meaning:
        if type(node) in self.dialect.refused:
            raise FileFormatError(f"{where(name, node)}: {self.dialect.refused[type(node)]}")
        held = parameters(node)
        try:
            meaning = self.dialect.rules[type(node)](Parameters(held, self.dt, self.dt_is_given))
        except RefusedError as error:
            raise FileFormatError(f"{where(name, node)}: {error}") from error
        if not np.all(meaning.gain > 0):
            raise FileFormatError(
                f"{where(name, node)}: its input is scaled by {meaning.gain.min():.6g}; r and w_in must be above 0"
            )
        if meaning.fires and not (np.all(meaning.v_threshold > 0) and np.all(meaning.v_reset <= meaning.v_threshold)):
            raise FileFormatError(
                f"{where(name, node)}: v_threshold {np.min(meaning.v_threshold):.6g}, v_reset "
                f"{np.max(meaning.v_reset):.6g}, counted from where membranes start: a threshold must be above 0, and "
                "a reset at most the threshold"
            )
        return meaning

    def _check_integrators(self, output: Flow) -> None:
        (first, *more) = output.parts
        answers = {first.source} if first.map.is_identity and not np.any(first.delay) and not more else set()
        read = {part.source for p in self.populations.values() for part in p.flow.parts}
        read |= {part.source for part in output.parts} - answers
        for name, own in self.names.items():
            if self.populations[own].integrates and own in read:
                raise FileFormatError(
                    f"{where(name, self.graph.nodes[name])}: is read by other nodes; integrators may only be the output"
                )


FLOAT32_STEPS = 1e-6
ARRAYS = ("decay", "gain", "v_threshold", "v_reset", "current_decay", "drive")


def _laid_out(values: NDArray[np.float64] | None, held: Shape) -> NDArray[np.float64]:
    """One number, or one a neuron, in the layout of the maps."""
    if values is None:
        return np.zeros(())
    if bool((values == values.flat[0]).all()):
        return np.array(float(values.flat[0]))
    return np.reshape(values, held)


def _evened(gain: NDArray[np.float64]) -> NDArray[np.float64]:
    """One factor for all where float32, in which files keep time constants, tells no difference, and 1 where it is 1.

    Otherwise each neuron would get a threshold of its own for nothing.
    """
    first = float(gain.flat[0])
    usual = 1.0 if np.isclose(first, 1.0, rtol=FLOAT32_STEPS, atol=0) else first
    return np.array(usual) if np.allclose(gain, usual, rtol=FLOAT32_STEPS, atol=0) else gain


def _one(values: NDArray[np.float64]) -> float | NDArray[np.float64]:
    return float(values.flat[0]) if bool((values == values.flat[0]).all()) else values


def _driven(who: str, flow: Flow, drive: NDArray[np.float64]) -> Flow:
    """Put a constant that drives each membrane into the bias of the first part."""
    first = flow.parts[0]
    rows = drive.reshape(len(first.map.bias), -1)
    if not (rows == rows[:, :1]).all():
        raise FileFormatError(f"{who}: v_leak differs within a channel; it must be the same")
    bias = first.map.bias + torch.from_numpy(rows[:, 0].copy())
    return replace(flow, parts=(replace(first, map=replace(first.map, bias=bias)), *flow.parts[1:]))


def _later(flow: Flow, sources: frozenset[str]) -> Flow:
    """The flow with everything from ``sources`` one step later."""
    return replace(flow, parts=tuple(replace(p, delay=p.delay + 1) if p.source in sources else p for p in flow.parts))
