"""Read a NIR graph as populations in execution order, and run it in torch.

`FloatNet` is a view, not a third kind of graph: it holds the arrays of the NIR nodes, sorted and named, so that
calibrating, lowering and running need not walk edges.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spikefold.converters.capture.build import DT, FORMAT, is_relay, relay_metadata, schedule_to_metadata
from spikefold.converters.gate_float import run_float
from spikefold.converters.gate_program import FLOAT_OPS, GateProgram
from spikefold.errors import FileFormatError, InputError

Array = NDArray[np.float32]


@dataclass(frozen=True)
class FloatSynapse:
    """A ``Conv2d`` (``conv`` holds stride, padding, dilation, groups) or an ``Affine`` node with its source."""

    name: str
    source: str
    weight: Array
    bias: Array
    conv: Mapping[str, Any] | None
    torch_macs: int

    def current(self, spikes: Tensor) -> Tensor:
        """Current ``[T, B, ...]`` for source spikes ``[T, B, *source]``, bias included."""
        weight, bias = (torch.as_tensor(a, dtype=spikes.dtype) for a in (self.weight, self.bias))
        steps, batch = spikes.shape[:2]
        if self.conv is None:
            return functional.linear(spikes.flatten(2), weight, bias)
        out = functional.conv2d(spikes.flatten(0, 1), weight, bias, **self.conv)
        return out.reshape(steps, batch, *out.shape[1:])


@dataclass(frozen=True)
class FloatPopulation:
    """Neurons (or, where ``fires`` is False, the readout that sums over time) and what leads to them.

    ``logic`` marks neurons that stand for a max pooling or a product of spikes: weights and biases are 1, 0 or -1, and
    nothing in them is rounded. ``bias_schedule`` ``[T, 1, *shape or 1]`` is added to the current, besides the biases of
    the synapses. After a spike the membrane is ``v_reset`` (of ``shape``; None: 0) or, with ``soft_reset``, less by the
    threshold. What ``relays`` sends its gated current on as a number (its "spikes"), negative ones as 0 where it
    ``rectifies``; where it ``selects``, its gate is a maximum of the module, no attention, and stays in every mode.
    """

    name: str
    shape: tuple[int, ...]
    decay: float
    v_threshold: Array
    strict: bool
    fires: bool
    synapses: tuple[FloatSynapse, ...]
    gate: GateProgram | None
    logic: bool = False
    bias_schedule: Array | None = None
    v_reset: Array | None = None
    soft_reset: bool = False
    relays: bool = False
    rectifies: bool = False
    selects: bool = False

    @property
    def is_readout(self) -> bool:
        """Whether the sum of its currents over time is the answer."""
        return not self.fires and not self.relays

    @property
    def has_attention(self) -> bool:
        """Whether it has a gate that lowering may replace."""
        return self.gate is not None and not self.selects

    @property
    def metadata(self) -> dict[str, Any]:
        """What NIR has no field for, gates left out, as metadata of the neurons' node."""
        if self.relays:
            return relay_metadata(self.rectifies, self.selects) | schedule_to_metadata(self.bias_schedule)
        soft = {"soft_reset": True} if self.soft_reset else {}
        return {"strict": self.strict, "decay": self.decay, **soft, **schedule_to_metadata(self.bias_schedule)}

    def current(self, spikes: Mapping[str, Tensor]) -> Tensor:
        """Total current ``[T, B, *shape]`` before the gate."""
        total = torch.stack([s.current(spikes[s.source]) for s in self.synapses]).sum(0)
        total = total.reshape(*total.shape[:2], *self.shape)
        return total if self.bias_schedule is None else total + torch.as_tensor(self.bias_schedule, dtype=total.dtype)

    def fire(self, current: Tensor, teacher: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Spikes and membranes before the reset, ``[T, B, *shape]``, for the gated current.

        Where ``teacher`` is given, spikes 0/1 of that shape, the resets follow it instead of the spikes found here, so
        that every step can be compared with another implementation without errors adding up.
        """
        threshold = torch.as_tensor(self.v_threshold, dtype=current.dtype)
        reset = 0.0 if self.v_reset is None else torch.as_tensor(self.v_reset, dtype=current.dtype)
        v = torch.zeros_like(current[0])
        spikes, membranes = [], []
        for t, step in enumerate(current):
            v = self.decay * v + step
            membranes.append(v)
            s = ((v > threshold) if self.strict else (v >= threshold)).to(v.dtype)
            spikes.append(s)
            sent = s if teacher is None else teacher[t]
            v = v - threshold * sent if self.soft_reset else v * (1 - sent) + reset * sent
        return torch.stack(spikes), torch.stack(membranes)


@dataclass(frozen=True)
class FloatNet:
    """Populations in execution order; the last one is the answer."""

    input_shape: tuple[int, ...]
    populations: tuple[FloatPopulation, ...]
    time_steps: int | None

    @property
    def schedule_steps(self) -> int:
        """T of the bias schedules; 0 where no bias changes with the step."""
        return max((len(p.bias_schedule) for p in self.populations if p.bias_schedule is not None), default=0)

    def run(
        self, clips: Tensor, watch: Callable[[FloatPopulation, Tensor, Tensor], None] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run clips ``[T, B, *input_shape]``.

        Parameters
        ----------
        clips : Tensor
            Floating point; its dtype is the dtype of the run.
        watch : callable, optional
            Called as ``watch(population, current_before_gate, spikes)``.

        Returns
        -------
        logits, spikes : Tensor ``[B, classes]`` and a dict of ``[T, B, *shape]`` per firing population
        """
        if tuple(clips.shape[2:]) != self.input_shape or 0 in clips.shape:
            raise InputError(f"input has shape {tuple(clips.shape)}; this net takes [T, B, {self.input_shape}]")
        if self.time_steps is not None and clips.shape[0] != self.time_steps:
            raise InputError(
                f"input has T = {clips.shape[0]}; the gates or biases of this net were trained for {self.time_steps}"
            )
        spikes: dict[str, Tensor] = {"input": clips}
        for population in self.populations:
            current = population.current(spikes)
            gated = current if population.gate is None else current * run_float(population.gate, current)
            if population.fires:
                spikes[population.name] = population.fire(gated)[0]
            else:
                spikes[population.name] = gated.clamp(min=0) if population.rectifies else gated
            if watch is not None:
                watch(population, current, spikes[population.name])
        del spikes["input"]
        logits = spikes[self.populations[-1].name].mean(0).flatten(1)
        return logits, spikes


def read_float_graph(graph: nir.NIRGraph) -> FloatNet:
    """View a NIR graph as `FloatNet`; FileFormatError names a node that is none of ours."""
    version = int(graph.metadata.get("spikefold_format", FORMAT))
    if version != FORMAT:
        raise FileFormatError(f"spikefold_format is {version}, this version reads {FORMAT}: update spikefold")
    nodes = graph.nodes
    if "input" not in nodes or len([e for e in graph.edges if e[1] == "output"]) != 1:
        raise FileFormatError("the graph needs a node 'input', and a node 'output' with one edge to it")
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in graph.edges:
        sources[target].append(source)
    names = [n for n in nodes if isinstance(nodes[n], (nir.LIF, nir.IF, nir.I)) or is_relay(nodes[n])]
    time_steps = int(graph.metadata.get("time_steps", 0)) or None
    populations = {name: _population(name, nodes, sources, time_steps) for name in names}
    done, ordered, waiting = {"input"}, [], dict(populations)
    while waiting:
        ready = [n for n, p in waiting.items() if all(s.source in done for s in p.synapses)]
        if not ready:
            raise FileFormatError(f"nodes {sorted(waiting)} form a cycle; recurrent nets cannot be run yet")
        for name in ready:
            ordered.append(waiting.pop(name))
            done.add(name)
    output = sources["output"][0]
    needed = {output}
    for population in reversed(ordered):
        if population.name in needed:
            needed |= {s.source for s in population.synapses}
    ordered = [p for p in ordered if p.name in needed]
    shape = tuple(int(n) for n in nodes["input"].input_type["input"])
    return FloatNet(shape, tuple(ordered), time_steps)


def _population(
    name: str, nodes: Mapping[str, Any], sources: Mapping[str, list[str]], time_steps: int | None
) -> FloatPopulation:
    node = nodes[name]
    synapses = tuple(_synapse(s, nodes, sources) for s in sorted(sources[name]))
    if is_relay(node):
        shape, metadata = tuple(node.scale.shape), node.metadata
        return FloatPopulation(
            name, shape, 0.0, np.ones(shape, np.float32), True, False, synapses, _gate(name, metadata),
            bias_schedule=_schedule_from_metadata(name, node, shape, time_steps), relays=True,
            rectifies=bool(metadata.get("rectifies", False)), selects=bool(metadata.get("selects", False)),
        )  # fmt: skip
    _check_dynamics(name, node)
    if isinstance(node, nir.I):
        shape = tuple(node.r.shape)
        return FloatPopulation(name, shape, 1.0, np.zeros(shape, np.float32), True, False, synapses, None)
    metadata = node.metadata
    decay = float(metadata.get("decay", 1.0 if isinstance(node, nir.IF) else 1 - DT / float(node.tau.flat[0])))
    shape = tuple(node.v_threshold.shape)
    return FloatPopulation(
        name, shape, decay, node.v_threshold, bool(metadata.get("strict", True)), True, synapses,
        _gate(name, metadata), bool(metadata.get("logic", False)),
        _schedule_from_metadata(name, node, shape, time_steps),
        node.v_reset if np.any(node.v_reset) else None, bool(metadata.get("soft_reset", False)),
    )  # fmt: skip


def _schedule_from_metadata(name: str, node: Any, shape: tuple[int, ...], time_steps: int | None) -> Array | None:
    if "bias_schedule" not in node.metadata:
        return None
    schedule = np.asarray(node.metadata["bias_schedule"], dtype=np.float32)
    fitting = all(have in (1, want) for have, want in zip(schedule.shape[2:], shape, strict=False))
    if schedule.ndim != 2 + len(shape) or schedule.shape[:2] != (time_steps, 1) or not fitting:
        raise FileFormatError(
            f"neurons {name!r}: bias_schedule has shape {schedule.shape}, it must be ({time_steps}, 1, *{shape} or 1)"
        )
    return schedule


def _check_dynamics(name: str, node: Any) -> None:
    """Refuse neurons whose input would be scaled, that rest at another value than 0, or reset above their threshold."""
    gain = node.r * DT / node.tau if isinstance(node, nir.LIF) else node.r * DT
    if not np.allclose(gain, 1.0, rtol=1e-3):
        raise FileFormatError(
            f"neurons {name!r}: input is scaled by {float(np.ravel(gain)[0]):.4g} a step of {DT} s; it must be 1"
        )
    if isinstance(node, nir.LIF) and not np.allclose(node.tau, node.tau.flat[0]):
        raise FileFormatError(f"neurons {name!r}: tau differs from neuron to neuron; it must be the same")
    if np.any(getattr(node, "v_leak", 0)):
        raise FileFormatError(f"neurons {name!r}: v_leak is not 0")
    if isinstance(node, nir.I):
        return
    reset = np.asarray(node.v_reset)
    if reset.shape != node.v_threshold.shape or not np.isfinite(reset).all() or np.any(reset > node.v_threshold):
        raise FileFormatError(
            f"neurons {name!r}: v_reset must be finite, one number a neuron, and at most v_threshold; it has shape "
            f"{reset.shape} and reaches {reset.max()}"
        )
    if np.any(reset) and node.metadata.get("soft_reset", False):
        raise FileFormatError(f"neurons {name!r}: v_reset is not 0; soft_reset in the metadata leaves no use for it")


def _gate(name: str, metadata: Mapping[str, Any]) -> GateProgram | None:
    if "gate" not in metadata:
        return None
    try:
        text = metadata["gate"]
        plain = json.loads(text.decode() if isinstance(text, bytes) else str(text))
        count = sum(1 for s in plain["steps"] if "constant" in s)
        arrays = [np.asarray(metadata[f"gate_{i}"]) for i in range(count)]
        return GateProgram.from_plain(plain, arrays, frozenset(FLOAT_OPS))
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"neurons {name!r}: the gate is damaged: {type(error).__name__} {error}") from error


def _synapse(name: str, nodes: Mapping[str, Any], sources: Mapping[str, list[str]]) -> FloatSynapse:
    node = nodes[name]
    (source,) = sources[name]
    if isinstance(nodes[source], nir.Flatten):
        (source,) = sources[source]
    macs = int(node.metadata.get("torch_macs", 0))
    if isinstance(node, nir.Affine):
        return FloatSynapse(name, source, node.weight, node.bias, None, macs or math.prod(node.weight.shape))
    if not isinstance(node, nir.Conv2d):
        raise FileFormatError(f"node {name!r} is a {type(node).__name__}; only Conv2d and Affine may lead to neurons")
    conv = {
        "stride": _pair(node.stride), "padding": _pair(node.padding), "dilation": _pair(node.dilation),
        "groups": int(node.groups),
    }  # fmt: skip
    return FloatSynapse(name, source, node.weight, node.bias, conv, macs)


def _pair(value: Any) -> tuple[int, int]:
    flat = np.asarray(value).reshape(-1)
    return (int(flat[0]), int(flat[-1]))
