"""Walk the traced operations once and read them as linear maps, neurons and gates.

Each operation either keeps a signal linear in spikes (`Flow`), multiplies it by something (`Gated`), or makes something
that only a gate may use (`Derived`): what has no handler in `operations`, or none that is exact.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from spikefold.converters.capture import linear_map as lm
from spikefold.converters.capture.operations import HANDLERS, label, pair
from spikefold.converters.capture.trace import TracedModule
from spikefold.converters.capture.values import (
    Derived,
    Flow,
    Gate,
    Gated,
    Part,
    Value,
    leading,
    shape_text,
    where,
)
from spikefold.errors import CaptureError
from spikefold.models.lif import NeuronSpec

SUPPORTED = (
    "Conv2d, Linear, BatchNorm, AvgPool2d, AdaptiveAvgPool2d, MaxPool2d of spikes, Flatten, Dropout, residual sums, "
    "constant scales, neurons with a neuron_spec(), and gates"
)
GATED = (
    "reads a gated signal; a gate must stand directly before a neuron (move the attention between the last linear "
    "layer and its neuron)"
)
INPUT = "input"
OUTPUT = "output"
READOUT = "readout"
OR = NeuronSpec(decay=0.0, v_threshold=0.5, strict=True)
"""Fires where any of its synapses of weight 1 brings a spike: what max pooling does to spikes."""


@dataclass(frozen=True)
class CapturedPopulation:
    """Neurons as captured: the flow into them, their constants, and the gate on their current if there is one.

    ``pools`` marks neurons that stand for a max pooling and are no neurons of the module.
    """

    name: str
    flow: Flow
    spec: NeuronSpec
    gate: Gate | None
    shape: tuple[int, ...]
    pools: bool = False


@dataclass(frozen=True)
class CapturedNetwork:
    """All populations in order, and the flow that is the answer (averaged over time if ``reduced`` is set)."""

    populations: tuple[CapturedPopulation, ...]
    output: Flow
    values: dict[Node, Value]
    time_steps: int
    input_shape: tuple[int, ...]


def read_network(traced: TracedModule, sample_shape: tuple[int, ...]) -> CapturedNetwork:
    """Read the operations of ``traced``; CaptureError names the first that cannot be deployed."""
    return _Reader(traced, sample_shape).read()


class _Reader:
    def __init__(self, traced: TracedModule, sample_shape: tuple[int, ...]) -> None:
        self.traced = traced
        self.time_steps = sample_shape[0]
        self.input_shape = sample_shape[2:]
        self.values: dict[Node, Value] = {}
        self.populations: list[CapturedPopulation] = []

    def read(self) -> CapturedNetwork:
        output: Flow | None = None
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "output":
                output = self._output(node)
            else:
                self.values[node] = self._call(node)
        if output is None:
            raise CaptureError("the module returns nothing: return the logits or the output spikes")
        flow, _ = _aligned(output)
        return CapturedNetwork(self._reached_from(flow), flow, self.values, self.time_steps, self.input_shape)

    def _reached_from(self, output: Flow) -> tuple[CapturedPopulation, ...]:
        """The populations that the answer depends on."""
        needed = {part.source for part in output.parts}
        kept = []
        for population in reversed(self.populations):
            if population.name in needed:
                kept.append(population)
                needed |= {part.source for part in population.flow.parts}
        return tuple(reversed(kept))

    def _placeholder(self, node: Node) -> Value:
        if node.name in self.traced.constants:
            return self.traced.constants[node.name]
        part = Part(INPUT, lm.identity(self.input_shape), INPUT)
        return Flow((part,), self.input_shape, "T B", node)

    def _call(self, node: Node) -> Value:
        arguments = [self._value(a) for a in node.args]
        flows = [a for a in arguments if isinstance(a, (Flow, Gated, Derived))]
        name = str(node.target).removesuffix(".default")
        if node.target is operator.getitem and isinstance(arguments[0], Flow):
            return arguments[0]
        if not flows and not _holds_signal(node, self.values):
            return self._constant(node, arguments)
        if name == "spikefold.neuron":
            return self._neuron(node, arguments[0], node.args[1])
        if name == "aten.max_pool2d" and isinstance(arguments[0], Flow) and self._spikes_of(arguments[0]):
            return self._max_pool(node, arguments)
        handler = HANDLERS.get(name.partition(".")[2].partition(".")[0])
        reason = ""
        if handler is not None:
            try:
                result = handler(node, arguments, self.time_steps)
            except lm.NotExactError as error:
                reason, result = str(error), None
            if result is not None:
                return result
        gated = next((Derived(node, GATED) for f in flows if isinstance(f, Gated)), None)
        return next((f for f in flows if isinstance(f, Derived)), gated or Derived(node, reason))

    def _value(self, argument: Any) -> Any:
        return self.values[argument] if isinstance(argument, Node) else argument

    def _constant(self, node: Node, arguments: list[Any]) -> Value:
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            return torch.zeros(0)
        keywords = {
            k: self._value(v) for k, v in node.kwargs.items() if k not in ("device", "dtype", "layout", "pin_memory")
        }
        if not callable(node.target):
            raise CaptureError(f"{where(node)}: unknown kind of node")
        arguments = [[self._value(x) for x in a] if isinstance(a, (list, tuple)) else a for a in arguments]
        result = node.target(*arguments, **keywords)
        return result.double() if isinstance(result, Tensor) and result.is_floating_point() else result

    def signal(self, node: Node, value: Any) -> Flow:
        """The flow that an operation needs as its input, or an error that names what is in the way."""
        if isinstance(value, Flow):
            return value
        if isinstance(value, Gated):
            raise CaptureError(f"{where(node)} {GATED}")
        blame, reason = (value.node, value.reason) if isinstance(value, Derived) else (node, "")
        if reason == GATED:
            raise CaptureError(f"{where(blame)} {reason}")
        if reason:
            raise CaptureError(f"{where(blame)} cannot be folded exactly: {reason}")
        raise CaptureError(f"{where(blame)} is not supported between neurons. Supported: {SUPPORTED}")

    def _neuron(self, node: Node, value: Value, index: Any) -> Flow:
        path, spec = self.traced.neurons[int(index)]
        flow, gate = (value.flow, value.gate) if isinstance(value, Gated) else (self.signal(node, value), None)
        if flow.axes != "T B" or flow.reduced:
            raise CaptureError(
                f"{path}: the neuron gets a tensor of shape {shape_text(node)}; it needs [T, B, *features] with "
                "time first (unflatten after merged layers)"
            )
        if spec.v_reset != 0.0:
            raise CaptureError(f"{path}: v_reset is {spec.v_reset}; only a hard reset to 0 can be deployed so far")
        if not 0.0 <= spec.decay <= 1.0 or spec.v_threshold <= 0 or spec.input_gain <= 0:
            raise CaptureError(
                f"{path}: decay {spec.decay}, v_threshold {spec.v_threshold}, input_gain {spec.input_gain}: the decay "
                "must be within 0..1, the others above 0"
            )
        name = self._free_name(path.replace(".", "_"))
        flow, shape = _aligned(flow)
        self.populations.append(CapturedPopulation(name, flow, spec, gate, shape))
        return Flow((Part(name, lm.identity(shape), name),), flow.features, "T B", node)

    def _spikes_of(self, flow: Flow) -> bool:
        return _is_spikes(flow) and any(flow.parts[0].source == p.name for p in self.populations)

    def _max_pool(self, node: Node, a: list[Any]) -> Value:
        flow = a[0]
        stride = a[2] if len(a) > 2 and a[2] else a[1]
        padding, dilation = (a[i] if len(a) > i else d for i, d in ((3, 0), (4, 1)))
        if leading(flow.axes) != 1 or len(flow.features) != 3 or (len(a) > 5 and a[5]):
            return Derived(node, "ceil_mode is not supported" if len(a) > 5 and a[5] else "")
        window = lm.any_of(flow.features, pair(a[1]), pair(stride), pair(padding), pair(dilation))
        name = self._free_name(label(node))
        part = Part(flow.parts[0].source, window, f"{name}_window")
        current = Flow((part,), window.out_shape, "T B", node)
        self.populations.append(CapturedPopulation(name, current, OR, None, window.out_shape, pools=True))
        return Flow((Part(name, lm.identity(window.out_shape), name),), window.out_shape, flow.axes, node)

    def _free_name(self, base: str) -> str:
        taken = {INPUT, OUTPUT, READOUT, *(p.name for p in self.populations)}
        name, number = base, 2
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        return name

    def _output(self, node: Node) -> Flow:
        result = node.args[0]
        if isinstance(result, (tuple, list)):
            if len(result) != 1:
                raise CaptureError(f"the module returns {len(result)} tensors; it must return one (logits or spikes)")
            result = result[0]
        if not isinstance(result, Node):
            raise CaptureError("the module does not return a tensor: return the logits or the output spikes")
        flow = self.signal(result, self.values[result])
        if not self.populations:
            raise CaptureError("no neuron lies between the input and the output")
        if not flow.reduced and (flow.axes != "T B" or not _is_spikes(flow)):
            raise CaptureError(
                f"{where(result)}: the module returns {shape_text(result)} without a mean over time; average the "
                "logits over time (x.mean(0)) or end with a neuron"
            )
        return flow


def _aligned(flow: Flow) -> tuple[Flow, tuple[int, ...]]:
    """The flow with maps of one shape, and that shape: NIR reshapes nowhere between a layer and its neurons."""
    shapes = {part.map.out_shape for part in flow.parts}
    if len(shapes) > 1:
        flat = lm.identity((math.prod(flow.features),))
        flow = replace(flow, parts=tuple(replace(p, map=lm.compose(flat, p.map)) for p in flow.parts))
        return flow, flat.out_shape
    return flow, shapes.pop()


def _holds_signal(node: Node, values: dict[Node, Value]) -> bool:
    return any(not isinstance(values[n], Tensor) and values[n] is not None for n in node.all_input_nodes)


def _is_spikes(flow: Flow) -> bool:
    return len(flow.parts) == 1 and flow.parts[0].map.is_identity and flow.schedule is None
