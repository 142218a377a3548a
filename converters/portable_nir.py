"""NIR in the one encoding that other frameworks read alike, and the float net that it says.

NIR has no time step and leaves the discretisation to its readers. With ``dt = 1e-4``, ``tau = dt / (1 - beta)``,
``r = 1``, ``v_leak = v_reset = 0`` they all compute ``v[t] = beta v[t-1] + (1 - beta) I[t]``, or the same over
``1 - beta``, so weights and biases are written times ``1 / (1 - beta)``. What does not decay is an ``IF`` with
``r = 1 / dt``. Of the nodes, Conv2d (one group, square), Affine, Flatten, LIF and IF are known to all; a readout is its
last linear node, whose outputs are averaged over time.

A neuron that resets to 0 does not care about its unit. So each layer is written in a power of two of the integers,
near its real unit: weights are exact in float32, and where ``1 - beta`` is a power of two (``beta / (1 - beta)`` is
dyadic then) all the reader computes is exact as long as it fits 24 bits. Where thresholds differ from row to row
(channels, or neurons of a dense layer) each row is scaled to a common threshold, and rounded to float32. The threshold
lies where no short history can tie with it (`spikefold.converters.tie_free`).

What cannot be said is refused by node and field, or replaced by the nearest that can, and listed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import log2
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from spikefold.converters.arithmetic import DECAY_BITS, STATE_FRACTION_BITS
from spikefold.converters.capture.build import DT
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse
from spikefold.converters.float_graph import FloatNet, FloatPopulation, FloatSynapse
from spikefold.converters.gate_quantise import GATE_FRACTION_BITS
from spikefold.converters.nir_file import integers_as_metadata
from spikefold.converters.square_kernels import squared, ungrouped
from spikefold.converters.tie_free import Lattice, TieFree, tie_free_threshold
from spikefold.errors import LoweringError
from spikefold.files import atomic_path

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Replacement:
    """A ``field`` of a node that NIR's readers do not share, and what stands for it."""

    node: str
    field: str
    had: str
    written: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.node}, {self.field}: {self.had}; written as {self.written}"


@dataclass(frozen=True)
class PortableNet:
    """What a portable file holds.

    ``twin`` is the float net of the very numbers in ``graph``, in float64 and not truncating: what a reader computes
    but for its own rounding. ``tie_free_steps`` holds, per firing population, the longest history in steps that
    provably does not tie with the threshold (None: any).
    """

    graph: nir.NIRGraph
    twin: FloatNet
    replacements: tuple[Replacement, ...]
    tie_free_steps: Mapping[str, int | None]


def to_portable_nir(graph: FixedPointGraph, approximate: bool = False) -> PortableNet:
    """Write ``graph`` in the portable encoding; its exact integers are in the metadata as in every file of ours.

    Parameters
    ----------
    graph : FixedPointGraph
    approximate : bool
        Replace what the encoding cannot say by the nearest that it can: thresholds and biases that differ within a row
        by their mean, a gate by its mean over the calibration, other resets by a hard one to 0, a bias that changes
        with the step by its mean, decays that differ by their mean, a relay by a sum without rounding.

    Raises
    ------
    LoweringError
        Something has no portable form, or, without ``approximate``, no exact one; all such fields are named at once.
    """
    writer = _Writer(graph)
    for population in graph.neurons:
        writer.add(population)
    if writer.impossible or (writer.replacements and not approximate):
        reasons = [*writer.impossible, *(f"{r.node}, {r.field}: {r.had}" for r in writer.replacements)]
        remedy = (
            "leave the dialect out, or change the net"
            if writer.impossible
            else "approximate=True (--approximate) writes the nearest that can be said, and tells what it costs"
        )
        raise LoweringError(f"{graph.name}: not everything can be said in portable NIR: {'; '.join(reasons)}. {remedy}")
    return writer.finish()


def save_portable_nir(graph: FixedPointGraph, path: str | os.PathLike[str], approximate: bool = False) -> PortableNet:
    """Write ``graph`` to ``path`` in the portable encoding, whole or not at all; see `to_portable_nir`."""
    portable = to_portable_nir(graph, approximate)
    write_portable_nir(portable, path)
    return portable


def write_portable_nir(portable: PortableNet, path: str | os.PathLike[str]) -> None:
    """Write what `to_portable_nir` made, whole or not at all."""
    with atomic_path(path) as temporary:
        nir.write(str(temporary), portable.graph)


class _Writer:
    def __init__(self, graph: FixedPointGraph) -> None:
        self.graph = graph
        self.impossible: list[str] = []
        self.replacements: list[Replacement] = []
        self.nodes: dict[str, nir.NIRNode] = {"input": nir.Input({"input": np.array(graph.input.shape)})}
        self.edges: list[tuple[str, str]] = []
        self.ends: dict[str, list[str]] = {graph.input.name: ["input"]}  # the nodes whose sum each source sends
        self.message_units: dict[str, float] = {}  # of relays, in what those nodes give
        self.populations: list[FloatPopulation] = []
        self.tie_free_steps: dict[str, int | None] = {}

    def finish(self) -> PortableNet:
        end = "output"
        while end in self.nodes:
            end += "_"
        self.nodes[end] = nir.Output({"output": np.array(self.graph.output.shape)})
        self.edges += [(name, end) for name in self.ends[self.graph.output.name]]
        written = nir.NIRGraph(self.nodes, self.edges)
        written.metadata = integers_as_metadata(self.graph) | {"dialect": "portable"}
        if self.replacements:
            written.metadata["replaced"] = json.dumps([asdict(r) for r in self.replacements])
        twin = FloatNet(self.graph.input.shape, tuple(self.populations), None)
        return PortableNet(written, twin, tuple(self.replacements), self.tie_free_steps)

    def add(self, n: Neurons) -> None:
        """Write one population and its synapses; what cannot be said is only noted."""
        if self._is_impossible(n):
            self.ends[n.name] = []
            return
        dv = self._decay(n)
        leak = dv / 2**DECAY_BITS if n.fires and dv else 1.0
        factors = np.ones(n.shape[0])  # what each row is scaled by besides
        scale = n.unit / 2**STATE_FRACTION_BITS  # what 2**-6 weights, summed up, become in the file
        threshold = np.float32(0)
        if n.fires:
            scale = 2.0 ** round(log2(scale / leak))
            free = self._thresholds(n, dv)
            common = float(np.mean([f.value for f in free]))
            factors = np.array([common / f.value for f in free])
            threshold = np.float32(common * scale * leak)
            steps = [f.steps for f in free if f.steps is not None]
            self.tie_free_steps[n.name] = min(steps, default=None)
        elif n.relay is not None:
            scale = 2.0 ** round(log2(scale))
            factors = self._relay(n)
            self.message_units[n.name] = scale * 2.0**n.relay.shift
        bias = self._bias(n) * factors * scale
        synapses, names = [], []
        for number, synapse in enumerate(self.graph.incoming(n.name)):
            of_row = bias if number == 0 else np.zeros_like(bias)
            node, twin = self._linear(n, synapse, factors * scale, of_row, leak)
            self._connect(synapse, node)
            synapses.append(twin)
            names.append(synapse.name)
        self.populations.append(
            FloatPopulation(
                n.name, n.shape, 1 - leak if n.fires and dv else 1.0, np.full(n.shape, threshold), True, n.fires,
                tuple(synapses), None, relays=n.relay is not None,
            )
        )  # fmt: skip
        self.ends[n.name] = names
        if n.fires:
            self.nodes[n.name] = _neurons(n.shape, threshold, leak if dv else None)
            self.edges += [(name, n.name) for name in names]
            self.ends[n.name] = [n.name]

    def _replace(self, n: Neurons, field: str, had: str, written: str) -> None:
        self.replacements.append(Replacement(f"neurons {n.name!r}", field, had, written))

    def _is_impossible(self, n: Neurons) -> bool:
        reasons = []
        if n.remembers_current:
            reasons.append("du: its synaptic current has a memory")
        if n.is_readout and (np.any(n.dv) or n.gate is not None):
            reasons.append("dv, gate: readouts that leak or have a gate are no sum over time")
        if n.fires and n.gate is not None and n.static_threshold is None:
            reasons.append("gate: no threshold stands for it, its mean is 0 or negative somewhere")
        if n.relay is not None and n.relay.low == 0:
            reasons.append("relay: it leaves negative numbers out (a rectifier), which no node of NIR does")
        if n.relay is not None and n.gate is not None and n.static_gate is None:
            reasons.append("gate: nothing constant stands for it")
        incoming = self.graph.incoming(n.name)
        if any(s.kind == "dense" for s in incoming) and len(n.shape) > 1:
            reasons.append(f"shape {n.shape}: dense weights lead to neurons of several axes; NIR only flattens")
        reasons += [f"delay of {s.name!r}: readers take none" for s in incoming if s.longest_delay]
        self.impossible += [f"neurons {n.name!r}, {reason}" for reason in reasons]
        return bool(reasons)

    def _decay(self, n: Neurons) -> int:
        values = np.unique(n.dv)
        if len(values) > 1:
            self._replace(n, "dv", f"{len(values)} decays", "their mean")
        return round(float(np.mean(n.dv)))

    def _row_means(self, n: Neurons, field: str, values: NDArray[Any]) -> Rows:
        """One number a row (first axis) of ``values``, which fit the neurons; a `Replacement` where they differ."""
        rows = np.broadcast_to(np.asarray(values, dtype=np.float64), n.shape).reshape(n.shape[0], -1)
        if np.any(rows != rows[:, :1]):
            differing = int((rows != rows[:, :1]).any(1).sum())
            self._replace(
                n, field, f"differs from pixel to pixel in {differing} of {len(rows)} channels", "each channel's mean"
            )
        means: Rows = rows.mean(1)
        return means

    def _thresholds(self, n: Neurons, dv: int) -> list[TieFree]:
        """Thresholds of the rows, in 2**-6 weights."""
        held, field = n.v_threshold, "v_threshold"
        if n.gate is not None and n.static_threshold is not None:
            had = "computed in each clip" if n.gate_table is None else "changes with the step"
            self._replace(n, "gate", had, "its mean over the calibration samples, in thresholds")
            held, field = n.static_threshold, "v_threshold over the mean gate"
        if n.soft_reset:
            self._replace(n, "soft_reset", "a spike takes the threshold off the membrane", "a hard reset to 0")
        elif n.v_reset is not None and np.any(n.v_reset):
            self._replace(n, "v_reset", f"{np.min(n.v_reset)}..{np.max(n.v_reset)}", "a hard reset to 0")
        means = self._row_means(n, field, held)
        thresholds = [round(m * 2**STATE_FRACTION_BITS) for m in means]
        if n.has_bias_schedule or any(s.source in self.message_units for s in self.graph.incoming(n.name)):
            return [TieFree(theta + 0.5, 0) for theta in thresholds]  # approximated currents are on no lattice
        lattices: dict[int, set[Lattice]] = {}
        for theta, lattice in zip(thresholds, self._lattices(n), strict=True):
            lattices.setdefault(theta, set()).add(lattice)
        free = {theta: tie_free_threshold(theta, dv, rows) for theta, rows in lattices.items()}
        return [free[theta] for theta in thresholds]

    def _lattices(self, n: Neurons) -> list[Lattice]:
        """What currents each row can get, one bias standing for those that differ within the row."""
        step = np.zeros(n.shape[0], dtype=np.int64)
        for synapse in self.graph.incoming(n.name):
            weight = synapse.effective_weight.reshape(len(synapse.weight), -1) << n.current_shift
            step = np.gcd(step, np.gcd.reduce(weight, axis=1))
        rows = np.broadcast_to(n.bias, n.shape).reshape(n.shape[0], -1)[:, 0]
        return [Lattice(int(s), int(b)) for s, b in zip(step, rows, strict=True)]

    def _bias(self, n: Neurons) -> Rows:
        """Bias of each row, in 2**-6 weights."""
        bias: NDArray[Any] = n.bias
        if n.has_bias_schedule:
            self._replace(n, "bias", "changes with the step", "its mean over the steps")
            bias = bias.mean((0, 1))
        return self._row_means(n, "bias", bias)

    def _relay(self, n: Neurons) -> Rows:
        """Factor of each row of a relay, which is written as the sum of its currents."""
        self._replace(n, "relay", "sends whole numbers that saturate", "a sum that is neither rounded nor bounded")
        if n.gate is None or n.static_gate is None:
            return np.ones(n.shape[0])
        self._replace(n, "gate", "computed in each clip", "its mean over the calibration samples, in weights")
        return self._row_means(n, "mean gate", n.static_gate / 2**GATE_FRACTION_BITS)

    def _linear(
        self, n: Neurons, synapse: Synapse, scale: Rows, bias: Rows, leak: float
    ) -> tuple[nir.NIRNode, FloatSynapse]:
        """The node, and the same numbers as the neurons feel them: a reader takes in ``leak`` of its input."""
        integers = synapse.effective_weight << n.current_shift
        unit = self.message_units.get(synapse.source, 1.0)
        weight = (integers * (scale / unit).reshape(-1, *[1] * (integers.ndim - 1))).astype(np.float32)
        bias = bias.astype(np.float32)
        source = "input" if synapse.source == self.graph.input.name else synapse.source
        if synapse.kind == "dense":
            return nir.Affine(weight=weight, bias=bias), FloatSynapse(
                synapse.name, source, weight * np.float64(leak), bias * np.float64(leak), None, 0
            )
        shape = self.graph.source_shape(synapse.source)
        kernel, padding = squared(synapse, ungrouped(weight, synapse.groups), shape)
        conv = {"stride": synapse.stride, "padding": padding, "dilation": synapse.dilation, "groups": 1}
        node = nir.Conv2d(input_shape=shape[1:], weight=kernel, bias=bias, **conv)
        return node, FloatSynapse(synapse.name, source, kernel * np.float64(leak), bias * np.float64(leak), conv, 0)

    def _connect(self, synapse: Synapse, node: nir.NIRNode) -> None:
        self.nodes[synapse.name] = node
        entry, shape = synapse.name, self.graph.source_shape(synapse.source)
        if synapse.kind == "dense" and len(shape) > 1:
            entry = f"{synapse.name}_flatten"
            self.nodes[entry] = nir.Flatten({"input": np.array(shape)}, start_dim=0, end_dim=-1)
            self.edges.append((entry, synapse.name))
        self.edges += [(name, entry) for name in self.ends[synapse.source]]


def _neurons(shape: tuple[int, ...], threshold: np.float32, leak: float | None) -> nir.NIRNode:
    """A LIF that loses ``leak`` of its membrane in a step, or an IF."""
    zero, one = np.zeros(shape, dtype=np.float32), np.ones(shape, dtype=np.float32)
    if leak is None:
        return nir.IF(r=one / np.float32(DT), v_threshold=one * threshold, v_reset=zero)
    return nir.LIF(tau=one * np.float32(DT / leak), r=one, v_leak=zero, v_threshold=one * threshold, v_reset=zero)
