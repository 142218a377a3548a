"""Write a captured network as a NIR graph of standard nodes; what NIR cannot say is data in the metadata.

Neurons are discretised with ``dt = 1e-4``: ``LIF(tau = dt / (1 - decay), r = 1 / (1 - decay))`` adds the plain input,
``IF(r = 1 / dt)`` where nothing decays, and ``I(r = 1 / dt)`` is the readout that sums over time. A current with a
memory makes it ``CubaLIF(tau_syn = dt / (1 - current_decay), w_in = 1 / (1 - current_decay))``, and integrators that
leak are ``LI`` and ``CubaLI``. A connection that takes steps has a ``Delay`` before its weights. NIR fires at
``v > v_threshold`` and resets to ``v_reset``; where the module fires at equality too, the metadata says
``strict: False``, and ``soft_reset: True`` where a spike takes the threshold off the membrane. What is added to a
current step by step is in the metadata as ``bias_schedule`` ``[T, 1, *shape or 1]``, all but its mean, which is a bias.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, TypeAlias

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikefold.converters.capture import linear_map as lm
from spikefold.converters.capture.always_on import bias_as_spikes
from spikefold.converters.capture.check import check_capture
from spikefold.converters.capture.forms import unwrapped
from spikefold.converters.capture.gate_lift import lift_gate
from spikefold.converters.capture.network import INPUT, OUTPUT, READOUT, CapturedNetwork, read_network
from spikefold.converters.capture.trace import trace
from spikefold.converters.capture.values import Flow, Part
from spikefold.converters.gate_program import GateProgram

DT = 1e-4
FORMAT = 1
Decay: TypeAlias = "float | NDArray[np.float64]"


def capture(module: nn.Module, sample: Tensor) -> nir.NIRGraph:
    """Read a trained module as a graph: batch norm folded, linear chains composed, gates kept as data.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode, on clips ``[T, B, *features]``; returns logits averaged over time, or output spikes. With
        neurons of snnTorch, SpikingJelly or Norse it may also loop over the steps of a clip, or take a step a call,
        and is run beside what was captured of it on a few random clips. A module with a method ``nir_graph()`` brings
        its graph along.
    sample : Tensor
        One clip or a batch of clips; its shape matters, and its T is the T that gates are fixed to.

    Returns
    -------
    nir.NIRGraph
        Float32 nodes ``Conv2d``, ``Affine``, ``Flatten``, ``LIF``, ``IF``, ``I``, ``Input``, ``Output``.

    Raises
    ------
    CaptureError
        Something in the module cannot be deployed; the message names it.
    InputError
        The sample does not have the axes ``[T, B, *features]``.
    """
    own = getattr(module, "nir_graph", None)
    if own is not None:
        graph: nir.NIRGraph = own()
        return graph
    traced = trace(module, sample)
    graph = build_graph(read_network(traced, tuple(sample.shape)))
    if traced.form is not None:
        check_capture(unwrapped(module), graph, sample)
    return graph


def build_graph(network: CapturedNetwork) -> nir.NIRGraph:
    """Write what was read from a module, or from a file of others, as `capture` does."""
    return _Builder(bias_as_spikes(network)).build()


class _Builder:
    def __init__(self, network: CapturedNetwork) -> None:
        self.network = network
        self.nodes: dict[str, nir.NIRNode] = {INPUT: nir.Input({"input": np.array(network.input_shape)})}
        self.edges: list[tuple[str, str]] = []
        self.shapes = {INPUT: network.input_shape, **{p.name: p.shape for p in network.populations}}

    def build(self) -> nir.NIRGraph:
        fixed = False
        for population in self.network.populations:
            gain = population.spec.input_gain
            flow, name = population.flow, population.name
            spec = population.spec
            metadata: dict[str, Any] = {"strict": spec.strict, **decay_metadata(spec.decay, spec.current_decay)}
            if population.relays:
                metadata = relay_metadata(population.rectifies, population.selects)
            if population.logic:
                metadata["logic"] = True
            if population.spec.soft_reset:
                metadata["soft_reset"] = True
            if flow.schedule is not None:
                fixed = True
                flow, schedule = _split(flow, flow.schedule, population.shape)
                metadata |= schedule_to_metadata(schedule * gain)
            if population.gate is not None:
                fixed = True
                program = lift_gate(population, self.network.values, self.network.time_steps)
                metadata |= gate_to_metadata(program)
            if population.relays:
                self.nodes[name] = relay_node(population.shape, metadata)
                self._connect(flow, name, gain)
                continue
            threshold, reset = (
                np.full(population.shape, value, dtype=np.float32)
                for value in (population.spec.v_threshold, population.spec.v_reset)
            )
            if population.integrates:
                self.nodes[name] = integrator_node(population.shape, spec.decay, spec.current_decay, metadata)
            else:
                self.nodes[name] = neuron_node(threshold, spec.decay, metadata, reset, spec.current_decay)
            self._connect(flow, name, gain)
        last = self._output()
        self.nodes[OUTPUT] = nir.Output({"output": np.array(self.shapes[last])})
        self.edges.append((last, OUTPUT))
        graph = nir.NIRGraph(self.nodes, self.edges)
        graph.metadata = {"spikefold_format": FORMAT, "dt": DT, "time_steps": self.network.time_steps if fixed else 0}
        return graph

    def _output(self) -> str:
        flow = self.network.output
        if len(flow.parts) == 1 and flow.parts[0].map.is_identity and not np.any(flow.parts[0].delay):
            return flow.parts[0].source
        shape = flow.parts[0].map.out_shape
        self.nodes[READOUT] = integrator_node(shape)
        self.shapes[READOUT] = shape
        self._connect(flow, READOUT, 1.0)
        return READOUT

    def _connect(self, flow: Flow, target: str, gain: float) -> None:
        for part in flow.parts:
            name = self._free_name(part, target)
            source = part.source
            if np.any(part.delay):
                delay = np.full(self.shapes[part.source], part.delay, dtype=np.float32) * np.float32(DT)
                self.nodes[f"{name}_delay"] = nir.Delay(delay)
                self.edges.append((source, f"{name}_delay"))
                source = f"{name}_delay"
            if isinstance(part.map, lm.DenseMap) and len(self.shapes[part.source]) > 1:
                flatten = f"{name}_flatten"
                shape = np.array(self.shapes[part.source])
                self.nodes[flatten] = nir.Flatten({"input": shape}, start_dim=0, end_dim=-1)
                self.edges.append((source, flatten))
                source = flatten
            self.nodes[name] = linear_node(part.map, gain)
            self.edges += [(source, name), (name, target)]

    def _free_name(self, part: Part, target: str) -> str:
        base = f"{target}_shortcut" if part.label in (INPUT, part.source) else part.label
        name, number = base, 2
        taken = {OUTPUT, READOUT, *self.nodes, *(p.name for p in self.network.populations)}
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        return name


def _split(flow: Flow, schedule: Tensor, shape: tuple[int, ...]) -> tuple[Flow, NDArray[np.float64]]:
    """Move the mean of a schedule, one number a row of ``shape``, into the first bias; the flow and what is left."""
    if flow.features != shape:
        schedule = schedule.expand(-1, -1, *flow.features).reshape(len(schedule), 1, *shape)
    mean = schedule.mean([0, 1, *range(3, schedule.ndim)], keepdim=True)
    first = flow.parts[0]
    bias = first.map.bias + mean.flatten()
    parts = (replace(first, map=replace(first.map, bias=bias)), *flow.parts[1:])
    return replace(flow, parts=parts, schedule=None), (schedule - mean).numpy()


def neuron_node(
    v_threshold: NDArray[np.float32],
    decay: Decay,
    metadata: dict[str, Any],
    v_reset: NDArray[np.float32] | None = None,
    current_decay: Decay = 0.0,
) -> nir.NIRNode:
    """A LIF (or IF where ``decay`` is 1, or CubaLIF) whose input is added unscaled; see the module's text.

    After a spike it holds ``v_reset`` (of the shape of ``v_threshold``), or 0 where that is None. Decays are one number
    or one a neuron.
    """
    zero = np.zeros_like(v_threshold)
    fires = {"v_threshold": v_threshold, "v_reset": zero if v_reset is None else v_reset, "metadata": metadata}
    if np.any(current_decay):
        return nir.CubaLIF(v_leak=zero, **_cuba_times(zero.shape, decay, current_decay), **fires)
    if np.all(np.asarray(decay) == 1.0):
        return nir.IF(r=np.full(zero.shape, 1 / DT, dtype=np.float32), **fires)
    return nir.LIF(v_leak=zero, tau=_kept(zero.shape, decay, DT), r=_kept(zero.shape, decay), **fires)


def integrator_node(
    shape: tuple[int, ...], decay: Decay = 1.0, current_decay: Decay = 0.0, metadata: dict[str, Any] | None = None
) -> nir.NIRNode:
    """A readout whose membrane is the answer: an I, a LI where it leaks, a CubaLI where its current has a memory."""
    zero, held = np.zeros(shape, dtype=np.float32), metadata or {}
    if np.any(current_decay):
        return nir.CubaLI(v_leak=zero, **_cuba_times(shape, decay, current_decay), metadata=held)
    if np.all(np.asarray(decay) == 1.0):
        return nir.I(r=np.full(shape, 1 / DT, dtype=np.float32), metadata=held)
    return nir.LI(tau=_kept(shape, decay, DT), r=_kept(shape, decay), v_leak=zero, metadata=held)


def _cuba_times(shape: tuple[int, ...], decay: Decay, current_decay: Decay) -> dict[str, NDArray[np.float32]]:
    return {
        "tau_syn": _kept(shape, current_decay, DT), "w_in": _kept(shape, current_decay),
        "tau_mem": _kept(shape, decay, DT), "r": _kept(shape, decay),
    }  # fmt: skip


def decay_metadata(decay: Decay, current_decay: Decay) -> dict[str, Any]:
    """Decays exactly as they are, beside the time constants that were made of them."""
    held = {"decay": decay, "current_decay": current_decay} if np.any(current_decay) else {"decay": decay}
    return {name: value if np.ndim(value) == 0 else np.asarray(value, np.float64) for name, value in held.items()}


def _kept(shape: tuple[int, ...], decay: Decay, unit: float = 1.0) -> NDArray[np.float32]:
    """``unit / (1 - decay)``, finite where nothing is lost: the metadata say what really is."""
    lost = np.maximum(1 - np.asarray(decay, dtype=np.float64), 2.0**-24)
    return np.full(shape, unit / lost, dtype=np.float32)


def relay_metadata(rectifies: bool, selects: bool) -> dict[str, Any]:
    """What the node of a relay says of itself; see `spikefold.converters.float_graph.FloatPopulation`."""
    marks = {"rectifies": rectifies, "selects": selects}
    return {"relay": True, **{name: True for name, mark in marks.items() if mark}}


def is_relay(node: nir.NIRNode) -> bool:
    """Whether a node is one that `relay_node` made."""
    return isinstance(node, nir.Scale) and bool(node.metadata.get("relay", False))


def relay_node(shape: tuple[int, ...], metadata: dict[str, Any]) -> nir.NIRNode:
    """Pass numbers on unchanged: a scale of 1, which a reader may drop without harm; see `relays`."""
    return nir.Scale(scale=np.ones(shape, dtype=np.float32), metadata=metadata)


def linear_node(linear: lm.LinearMap, gain: float = 1.0) -> nir.NIRNode:
    """A linear map, times ``gain``, as a NIR node."""
    weight, bias = _array(linear.weight * gain), _array(linear.bias * gain)
    metadata = {"torch_macs": linear.macs}
    if isinstance(linear, lm.DenseMap):
        return nir.Affine(weight=weight, bias=bias, metadata=metadata)
    node = nir.Conv2d(
        input_shape=linear.in_shape[1:],
        weight=weight,
        stride=linear.stride,
        padding=linear.padding,
        dilation=linear.dilation,
        groups=linear.groups,
        bias=bias,
        metadata=metadata,
    )
    set_types(node, linear.in_shape, linear.out_shape)
    return node


def set_types(node: nir.Conv2d, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
    """Say what a convolution takes and gives: nir 1.0.8 infers it wrongly for groups and for oblong kernels.

    It does so again on reading a file, so read with ``type_check=False``.
    """
    node.input_type, node.output_type = {"input": np.array(in_shape)}, {"output": np.array(out_shape)}


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().to(torch.float32).numpy()
    return array


def schedule_to_metadata(schedule: NDArray[np.floating[Any]] | None) -> dict[str, Any]:
    """What is added to a current step by step, ``[T, 1, *shape or 1]``, as NIR metadata."""
    return {} if schedule is None else {"bias_schedule": schedule.astype(np.float32)}


def gate_to_metadata(program: GateProgram) -> dict[str, Any]:
    """A float gate program as NIR metadata: JSON text and numbered constants."""
    plain, arrays = program.to_plain()
    constants = {f"gate_{i}": np.atleast_1d(a.astype(np.float32)) for i, a in enumerate(arrays)}
    return {"gate": json.dumps(plain, sort_keys=True), **constants}
