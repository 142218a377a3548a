"""The whole-clip graph: all T steps of a batch of clips, layer by layer, gates included.

Convolutions run once per layer over T and B merged; each population is a ``Scan`` over T around ``spikefold::LIF``,
but a relay, which has no memory, is one ``spikefold::Relay`` over all steps.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from spikefold.converters import arithmetic, ranges
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Relay
from spikefold.converters.onnx.counts import emit_counts
from spikefold.converters.onnx.currents import emit_current, gated_current, saturate
from spikefold.converters.onnx.emitter import DOMAIN, Emitter
from spikefold.converters.onnx.functions import emit_relay, neuron_constants, neuron_function_name
from spikefold.converters.onnx.gates import gate_function, gate_function_name
from spikefold.converters.onnx.model import assemble, input_type, train_type


def to_onnx_clip(graph: FixedPointGraph, trace: bool = False, sent: bool = False) -> ModelProto:
    """Write the exact graph of whole clips.

    Input ``events`` ``[T, B, *shape]`` (uint8, or int32 where messages pass 255). Outputs: ``logits`` ``[B, classes]``
    float64; ``spikes/<population>`` and ``synops/<synapse>`` ``[B]`` int64; with ``trace`` also ``train/<population>``
    uint8 (int32 of a relay) and ``membrane/<population>`` int32 (after the reset), both ``[T, B, *shape]``. A relay's
    train are its messages, of which those that are not zero count as spikes; its membrane is its clipped current. With
    ``sent`` also ``sent/<input or population>`` ``[T, *shape]`` int32: how many samples sent a message there and then.

    Parameters
    ----------
    graph : FixedPointGraph
        The integer net. T is free where its ``time_steps`` is None.
    trace : bool
        Add all spikes and membranes to the outputs.
    sent : bool
        Add where and when messages were sent, summed over the batch.

    Returns
    -------
    onnx.ModelProto
        Checked; equal graphs give equal bytes.

    Raises
    ------
    LoweringError
        A number could leave its range, or an operation has no exact form; the message names the node.
    """
    builder = _ClipBuilder(graph, trace, sent)
    for population in graph.neurons:
        builder.add_population(population)
    builder.add_readout()
    gates = [gate_function(graph, n, n.gate) for n in graph.neurons if n.gate is not None]
    steps = "T" if graph.time_steps is None else graph.time_steps
    events = helper.make_tensor_value_info("events", input_type(graph), [steps, "B", *graph.input.shape])
    return assemble(graph, "clip", builder.e, [events], builder.outputs, gates, {"spikefold_trace": str(int(trace))})


class _ClipBuilder:
    """Appends populations in execution order and remembers the tensors that later ones read."""

    def __init__(self, graph: FixedPointGraph, trace: bool, sent: bool) -> None:
        self.e = Emitter()
        self.outputs: list[ValueInfoProto] = []
        self._graph = graph
        self._trace = trace
        self._sent = sent
        self._steps = "T" if graph.time_steps is None else graph.time_steps
        self._trains = {graph.input.name: "events"}
        self._messages: dict[tuple[str, int], str] = {}
        self._last_membranes: dict[str, str] = {}
        self.e.scope = graph.input.name
        self._batch = self.e.op("Shape", "events", start=1, end=2)
        self._time_and_batch = self.e.op("Shape", "events", start=0, end=2)
        events = self.e.cast("events", TensorProto.BOOL) if graph.input.max_value > 1 else "events"
        self._count(graph.input.name, self.e.cast(events, TensorProto.FLOAT), None)

    def add_population(self, n: Neurons) -> None:
        """Append synapses, gate, neurons and counts of one population."""
        self.e.scope = n.name
        current, dtype = emit_current(self.e, self._graph, n, self._messages_of)
        shape = self._sized(self._time_and_batch, n.shape)
        current = self.e.op("Reshape", current, shape)
        bounds = ranges.gated_range(self._graph, n)
        if n.gate is not None:
            gate = self.e.op(gate_function_name(n), self.e.cast(current, TensorProto.INT64), domain=DOMAIN)
            current, dtype = gated_current(self.e, n, current, gate, bounds), TensorProto.INT32
        current = saturate(self.e, current, bounds, dtype)
        train = self._scan(n, current) if n.relay is None else self._relay(n, n.relay, current)
        self._trains[n.name] = train or self.e.op("ConstantOfShape", shape)
        if self._trace:
            dtype = train_type(n)
            self._output(self.e.cast(self._trains[n.name], dtype, f"train/{n.name}"), dtype, n)
        sent = self._trains[n.name]
        if self._graph.is_graded(n.name):
            sent = self.e.cast(self.e.cast(sent, TensorProto.BOOL), TensorProto.FLOAT)
        self._count(n.name, sent, f"spikes/{n.name}")

    def add_readout(self) -> None:
        """Append ``logits``: the output's last membrane in real units, or its spike count, divided by T."""
        output, e = self._graph.output, self.e
        e.scope = "logits"
        steps = e.cast(e.op("Squeeze", e.op("Shape", "events", start=0, end=1)), TensorProto.DOUBLE)
        if output.fires:
            train = e.cast(self._trains[output.name], TensorProto.INT64)
            total = e.op("ReduceSum", train, e.constant([0]), keepdims=0)
            real = e.op("Div", e.cast(total, TensorProto.DOUBLE), steps)
        else:
            step = e.constant(np.array(output.unit / 2**arithmetic.STATE_FRACTION_BITS), np.float64)
            last = e.cast(self._last_membranes[output.name], TensorProto.DOUBLE)
            real = e.op("Mul", last, e.op("Div", step, steps))
        e.op("Reshape", real, e.constant([-1, output.size]), name="logits")
        self.outputs.insert(0, helper.make_tensor_value_info("logits", TensorProto.DOUBLE, ["B", output.size]))

    def _sized(self, leading: str, shape: tuple[int, ...]) -> str:
        return self.e.op("Concat", leading, self.e.constant(list(shape)), axis=0)

    def _output(self, name: str, dtype: int, n: Neurons) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, [self._steps, "B", *n.shape]))

    def _messages_of(self, source: str, dtype: int) -> str:
        """Messages of a source with T and B merged, ``[T*B, *shape]``, as ``dtype``."""
        if (source, dtype) not in self._messages:
            shape = [-1, *self._graph.source_shape(source)]
            merged = self.e.op("Reshape", self._trains[source], self.e.constant(shape))
            if source == self._graph.input.name or dtype != TensorProto.FLOAT:
                merged = self.e.cast(merged, dtype)
            self._messages[source, dtype] = merged
        return self._messages[source, dtype]

    def _relay(self, n: Neurons, relay: Relay, current: str) -> str:
        """Append a relay over all steps; gives its float32 messages ``[T, B, *shape]``."""
        membrane = f"membrane/{n.name}" if self._trace else self.e.new_name("membrane")
        if self._trace:
            self._output(membrane, TensorProto.INT32, n)
        return emit_relay(self.e, relay, current, membrane)

    def _scan(self, n: Neurons, current: str) -> str | None:
        """Append the neurons over T; gives the float32 spikes ``[T, B, *shape]``, None for a readout."""
        e = self.e
        zero = helper.make_tensor("zero", TensorProto.INT32, [1], [0])
        start = e.op("ConstantOfShape", self._sized(self._batch, n.shape), value=zero)
        v, now, v_next, spikes = (e.new_name(part) for part in ("v", "current", "v_next", "spikes"))
        inputs, results = [v, now, *neuron_constants(e, n)], [spikes, v_next] if n.fires else [v_next]
        node = helper.make_node(neuron_function_name(n), inputs, results, domain=DOMAIN, dv=n.dv)
        nodes: list[NodeProto] = [node]
        last, train = e.new_name("v_last"), e.new_name("train")
        body_outputs, outputs = [(v_next, TensorProto.INT32)], [last]
        if n.fires:
            body_outputs.append((spikes, TensorProto.FLOAT))
            outputs.append(train)
        if self._trace:
            nodes.append(helper.make_node("Identity", [v_next], [e.new_name("membrane")]))
            body_outputs.append((nodes[-1].output[0], TensorProto.INT32))
            outputs.append(f"membrane/{n.name}")
            self._output(outputs[-1], TensorProto.INT32, n)
        size = ["B", *n.shape]
        body = helper.make_graph(
            nodes,
            f"{n.name}/step",
            [helper.make_tensor_value_info(name, TensorProto.INT32, size) for name in (v, now)],
            [helper.make_tensor_value_info(name, dtype, size) for name, dtype in body_outputs],
        )
        e.ops("Scan", start, current, names=tuple(outputs), body=body, num_scan_inputs=1)
        self._last_membranes[n.name] = last
        return train if n.fires else None

    def _count(self, name: str, sent: str, spikes_output: str | None) -> None:
        names = emit_counts(self.e, self._graph, name, sent, spikes_output)
        self.outputs.extend(helper.make_tensor_value_info(n, TensorProto.INT64, ["B"]) for n in names)
        if self._sent:  # float32 is exact for sums over up to 2**24 samples
            summed = self.e.op("ReduceSum", sent, self.e.constant([1]), keepdims=0)
            output = self.e.cast(summed, TensorProto.INT32, f"sent/{name}")
            shape = [self._steps, *self._graph.source_shape(name)]
            self.outputs.append(helper.make_tensor_value_info(output, TensorProto.INT32, shape))
