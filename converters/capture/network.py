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
from spikefold.converters.capture.foreign import spread
from spikefold.converters.capture.layers import label, pair, then
from spikefold.converters.capture.logic import ANY, BOTH, any_in_window, both, is_literal, is_spikes
from spikefold.converters.capture.operations import HANDLERS, Handler
from spikefold.converters.capture.relays import flows_read, gather, largest_of, sum_of_sent, takes_relay
from spikefold.converters.capture.trace import TracedModule
from spikefold.converters.capture.values import (
    Derived,
    Flow,
    Gate,
    Gated,
    Gather,
    Mixed,
    NeuronArrays,
    Part,
    Value,
    leading,
    shape_text,
    where,
)
from spikefold.converters.gate_program import GateProgram
from spikefold.errors import CaptureError
from spikefold.models.lif import NeuronSpec

SUPPORTED = (
    "Conv2d, Linear, BatchNorm, AvgPool2d, AdaptiveAvgPool2d, MaxPool2d and products of spikes, Flatten, Dropout, "
    "residual sums, constant scales, neurons with a neuron_spec(), and gates"
)
GATED = "reads a gated signal whose time axis is gone; gate it before averaging over time"
INPUT = "input"
OUTPUT = "output"
READOUT = "readout"
RELAY = NeuronSpec(decay=0.0, v_threshold=1.0, strict=True)
"""Stands where a relay has no use for a neuron's constants."""


@dataclass(frozen=True)
class CapturedPopulation:
    """Neurons as captured: the flow into them, their constants, and the gate on their current if there is one.

    ``logic`` marks neurons that stand for a max pooling or a product of spikes and are no neurons of the module. What
    ``relays`` is no neuron either: it sends its gated current as a number, negative ones as 0 where it ``rectifies``.
    What ``integrates`` never fires: its membrane at the end is the answer.
    """

    name: str
    flow: Flow
    spec: NeuronSpec | NeuronArrays
    gate: Gate | Gather | GateProgram | None
    shape: tuple[int, ...]
    logic: bool = False
    relays: bool = False
    rectifies: bool = False
    selects: bool = False
    integrates: bool = False


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
        self.anchors: list[Flow] = []
        self.relayed: dict[Any, Flow] = {}

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
        flow, _ = aligned(output)
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
        flows = [a for a in arguments if isinstance(a, (Flow, Gated, Mixed, Derived))]
        name = str(node.target).removesuffix(".default")
        if node.target is operator.getitem and isinstance(arguments[0], Flow):
            return arguments[0]
        if not flows and not _holds_signal(node, self.values):
            return self._constant(node, arguments)
        if name == "spikefold.neuron":
            return self._neuron(node, arguments[0], node.args[1])
        if name == "aten.max_pool2d" and isinstance(arguments[0], Flow) and self._spikes_of(arguments[0]):
            return self._max_pool(node, arguments)
        if name == "aten.mul.Tensor" and all(isinstance(a, Flow) and self._literal_of(a) for a in arguments):
            product = both(node, *arguments)
            if product is not None:
                return self._logic(node, product, BOTH, self._free_name(node.name))
        if name == "aten.max_pool2d" and takes_relay(arguments[0]):
            return self._max_of_numbers(node, arguments)
        if name == "aten.relu" and takes_relay(arguments[0]):
            return self._relay(node, arguments[0], rectifies=True)
        handler = HANDLERS.get(name.partition(".")[2].partition(".")[0])
        result, reason = None, ""
        if handler is not None:
            result, reason, needs_relay = self._try(handler, node, arguments)
            if result is None and (needs_relay or any(isinstance(f, (Gated, Mixed)) for f in flows)):
                kinds = (Flow, Gated, Mixed) if needs_relay else (Gated, Mixed)
                sent = [self._relay(node, a) if isinstance(a, kinds) and takes_relay(a) else a for a in arguments]
                result, reason, _ = self._try(handler, node, sent)
        if result is not None:
            return result
        gated = next((Derived(node, GATED) for f in flows if isinstance(f, (Gated, Mixed))), None)
        return next((f for f in flows if isinstance(f, Derived)), gated or Derived(node, reason))

    def _try(self, handler: Handler, node: Node, arguments: list[Any]) -> tuple[Value | None, str, bool]:
        """What an operation makes, or why it makes nothing linear, and whether a relay before it would help."""
        try:
            return handler(node, arguments, self.time_steps), "", False
        except lm.NotExactError as error:
            return None, str(error), isinstance(error, lm.NeedsRelayError)

    def _relay(self, node: Node, value: Flow | Gated | Mixed, rectifies: bool = False) -> Flow:
        """Let relays measure ``value`` and send it on, gated currents by themselves; the flow of what they send."""
        if isinstance(value, Mixed):
            total = self._relay_terms(node, value)
            return self._relay(node, total, rectifies) if rectifies else total
        flow, gate = (value.flow, value.gate) if isinstance(value, Gated) else (value, None)
        others = [] if gate is None else flows_read(gate, self.values, [flow, *self._anchors_beside(flow)])
        others = [f for f in others if f.times(flow) is None]
        known = (flow.key, id(gate), rectifies)
        if others:
            total = self._relay_terms(node, Mixed((value,)))
            return self._relay(node, total, rectifies) if rectifies else total
        if known not in self.relayed:
            self.relayed[known] = self._sent(node, flow, gate, rectifies)
        return replace(self.relayed[known], axes=flow.axes, features=flow.features)

    def _relay_terms(self, node: Node, value: Mixed) -> Flow:
        """Relays for the gated terms of a sum, one for those whose gates read more than their own current."""
        gated = [t for t in value.terms if isinstance(t, Gated)]
        summands = [t for t in value.terms if isinstance(t, Flow)]
        flows = [t.flow for t in gated]
        reads = [flows_read(t.gate, self.values, [*flows, *self._anchors_beside(t.flow)]) for t in gated]
        joint = [t for t, r in zip(gated, reads, strict=True) if any(f.times(t.flow) is None for f in r)]
        summands += [self._relay(node, t) for t in gated if not any(t is j for j in joint)]
        if joint:
            known = tuple((t.flow.key, id(t.gate)) for t in joint)
            if known not in self.relayed:
                own = [t.flow for t in joint]
                others: list[Flow] = []
                for flow in (f for r in reads for f in r):
                    if all(flow.times(f) is None for f in (*own, *others)):
                        others.append(flow)
                joined, gathered = gather(joint, others, node)
                relay = self._sent(node, joined, gathered)
                shape = self.populations[-1].shape
                self.relayed[known] = sum_of_sent(relay.parts[0].source, gathered, shape, own[0], node)
            first = joint[0].flow
            summands.append(replace(self.relayed[known], axes=first.axes, features=first.features))
        parts = tuple(part for flow in summands for part in flow.parts)
        held = [f.schedule for f in summands if f.schedule is not None]
        schedule = sum(held[1:], start=held[0]) if held else None
        return replace(summands[0], parts=parts, key=node, origin=None, factor=1.0, schedule=schedule)

    def _sent(
        self,
        node: Node,
        flow: Flow,
        gate: Gate | Gather | GateProgram | None,
        rectifies: bool = False,
        selects: bool = False,
    ) -> Flow:
        if gate is None and self._literal_of(flow):
            return self._logic(node, flow, ANY, self._free_name(f"{label(node)}_not"))
        name = self._free_name(f"{label(node)}_relay")
        flow, shape = aligned(flow)
        relay = CapturedPopulation(name, flow, RELAY, gate, shape, relays=True, rectifies=rectifies, selects=selects)
        self.populations.append(relay)
        return Flow((Part(name, lm.identity(shape), name),), flow.features, flow.axes, node)

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
        if isinstance(value, (Gated, Mixed)):
            raise CaptureError(f"{where(node)} {GATED}")
        blame, reason = (value.node, value.reason) if isinstance(value, Derived) else (node, "")
        if reason == GATED:
            raise CaptureError(f"{where(blame)} {reason}")
        if reason:
            raise CaptureError(f"{where(blame)} cannot be folded exactly: {reason}")
        raise CaptureError(f"{where(blame)} is not supported between neurons. Supported: {SUPPORTED}")

    def _neuron(self, node: Node, value: Value, index: Any) -> Flow:
        path, spec = self.traced.neurons[int(index)]
        if isinstance(value, Mixed) and takes_relay(value):
            value = self._relay_terms(node, value)
        if isinstance(value, Gated) and self._reads_others(value):
            value = self._relay(node, value)
        flow, gate = (value.flow, value.gate) if isinstance(value, Gated) else (self.signal(node, value), None)
        if flow.axes != "T B" or flow.reduced:
            raise CaptureError(
                f"{path}: the neuron gets a tensor of shape {shape_text(node)}; it needs [T, B, *features] with "
                "time first (unflatten after merged layers)"
            )
        if isinstance(spec, NeuronSpec) and (
            not 0.0 <= spec.decay <= 1.0 or spec.v_threshold <= 0 or spec.input_gain <= 0
        ):
            raise CaptureError(
                f"{path}: decay {spec.decay}, v_threshold {spec.v_threshold}, input_gain {spec.input_gain}: the decay "
                "must be within 0..1, the others above 0"
            )
        name = self._free_name(path.replace(".", "_"))
        flow, shape = aligned(flow)
        if isinstance(spec, NeuronArrays):
            spec = spread(path, spec, flow.features, shape)
        self.populations.append(CapturedPopulation(name, flow, spec, gate, shape))
        spikes = Flow((Part(name, lm.identity(shape), name),), flow.features, "T B", node)
        if flow.key is not node:  # what relays brought together here has this key too; no gate reads it by itself
            self.anchors.append(replace(flow, features=spikes.features))
        self.anchors.append(spikes)
        return spikes

    def _anchors_beside(self, flow: Flow) -> list[Flow]:
        """Currents and spikes of neurons that fit beside ``flow`` in the channels of a relay."""
        return [f for f in self.anchors if f.features[1:] == flow.features[1:]]

    def _reads_others(self, value: Gated) -> bool:
        """Whether a gate is computed from other flows than the current it multiplies, of a size that fits beside it."""
        read = flows_read(value.gate, self.values, [value.flow, *self._anchors_beside(value.flow)])
        return any(f.times(value.flow) is None for f in read)

    def _spikes_of(self, flow: Flow) -> bool:
        return is_spikes(flow) and self._fires(flow.parts[0].source)

    def _literal_of(self, flow: Flow) -> bool:
        return is_literal(flow) and self._fires(flow.parts[0].source)

    def _fires(self, source: str) -> bool:
        return any(source == p.name and not p.relays for p in self.populations)

    def _max_pool(self, node: Node, a: list[Any]) -> Value:
        flow = a[0]
        if leading(flow.axes) != 1 or len(flow.features) != 3 or (len(a) > 5 and a[5]):
            return Derived(node, "ceil_mode is not supported" if len(a) > 5 and a[5] else "")
        name = self._free_name(label(node))
        return self._logic(node, any_in_window(node, flow, a, name), ANY, name)

    def _logic(self, node: Node, current: Flow, spec: NeuronSpec, name: str) -> Flow:
        flow, shape = aligned(current)
        self.populations.append(CapturedPopulation(name, flow, spec, None, shape, logic=True))
        return Flow((Part(name, lm.identity(shape), name),), current.features, current.axes, node)

    def _max_of_numbers(self, node: Node, a: list[Any]) -> Value:
        """Max pooling of what is no spike: a relay sees the values of a window side by side and sends the largest."""
        kernel, stride = pair(a[1]), pair(a[2] if len(a) > 2 and a[2] else a[1])
        flow = a[0] if isinstance(a[0], Flow) else self._relay(node, a[0])
        if any(any(pair(x)) for x in a[3:4]) or any(pair(x) != (1, 1) for x in a[4:5]) or any(a[5:]):
            return Derived(node, "max pooling of numbers is supported without padding, dilation and ceil_mode")
        if leading(flow.axes) != 1 or len(flow.features) != 3:
            return Derived(node)
        c, h, w = flow.features
        taps = kernel[0] * kernel[1]
        apart = then(node, flow, lm.taps_apart((c, h, w), kernel, stride))
        relay = self._sent(node, apart, largest_of(self.time_steps, taps, apart.features), selects=True)
        block = lm.sum_of_blocks((c, *apart.features[1:]), range(0, taps * c, c), taps * c)
        return replace(relay, parts=(replace(relay.parts[0], map=block),), features=block.out_shape)

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
        if flow.axes == "TB" and self.traced.form is not None and self.traced.form.kind != "clip":
            flow = self._of_all_steps(flow)
        if not flow.reduced and (flow.axes != "T B" or not self._spikes_of(flow)):
            raise CaptureError(
                f"{where(result)}: the module returns {shape_text(result)} without a mean over time; average the "
                "logits over time (x.mean(0)) or end with a neuron"
            )
        return flow

    def _of_all_steps(self, flow: Flow) -> Flow:
        """What a module that works step by step makes of a clip: spikes, or what it adds up or averages over steps."""
        if self._spikes_of(flow) or self.traced.stacked:
            return replace(flow, axes="T B")
        return replace(flow, axes="B", reduced=True)


def aligned(flow: Flow) -> tuple[Flow, tuple[int, ...]]:
    """The flow with maps of one shape, and that shape: NIR reshapes nowhere between a layer and its neurons."""
    shapes = {part.map.out_shape for part in flow.parts}
    if len(shapes) > 1:
        flat = lm.identity((math.prod(flow.features),))
        flow = replace(flow, parts=tuple(replace(p, map=lm.compose(flat, p.map)) for p in flow.parts))
        return flow, flat.out_shape
    return flow, shapes.pop()


def _holds_signal(node: Node, values: dict[Node, Value]) -> bool:
    return any(not isinstance(values[n], Tensor) and values[n] is not None for n in node.all_input_nodes)
