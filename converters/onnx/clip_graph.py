"""The whole-clip graph: all T steps of a batch of clips, layer by layer, gates included.

Convolutions run once per layer over T and B merged; each population is a ``Scan`` over T around ``spikefold::LIF``,
but a relay, which has no memory, is one ``spikefold::Relay`` over all steps. Populations in a loop, and those that
remember their synaptic current, are a ``Scan`` around the nodes that are their time step in the step graph too.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from spikefold.converters import arithmetic, ranges
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Relay, Synapse
from spikefold.converters.onnx.counts import emit_counts
from spikefold.converters.onnx.currents import emit_current, emit_weighted, gated_current, saturate, sum_type
from spikefold.converters.onnx.delays import emit_shifted
from spikefold.converters.onnx.emitter import DOMAIN, Emitter
from spikefold.converters.onnx.functions import emit_neurons, emit_relay
from spikefold.converters.onnx.gates import gate_function, gate_function_name
from spikefold.converters.onnx.model import assemble, input_type, train_type
from spikefold.converters.onnx.steps import emit_step, states_of


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
    for block in graph.blocks:
        if graph.is_loop(block) or block[0].remembers_current:
            builder.add_stepwise(block)
        else:
            builder.add_population(block[0])
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
        self._messages: dict[tuple[str, str, int], str] = {}
        self._last_membranes: dict[str, str] = {}
        self.e.scope = graph.input.name
        self._batch = self.e.op("Shape", "events", start=1, end=2)
        self._time_and_batch = self.e.op("Shape", "events", start=0, end=2)
        events = self.e.cast("events", TensorProto.BOOL) if graph.input.max_value > 1 else "events"
        self._count(graph.input.name, self.e.cast(events, TensorProto.FLOAT), None)

    def add_population(self, n: Neurons) -> None:
        """Append synapses, gate, neurons and counts of one population."""
        self.e.scope = n.name
        weighted = emit_weighted(self.e, self._graph, n, self._graph.incoming(n.name), self._messages_of)
        current, dtype = emit_current(self.e, self._graph, n, weighted)
        shape = self._sized(self._time_and_batch, n.shape)
        current = self.e.op("Reshape", current, shape)
        bounds = ranges.gated_range(self._graph, n)
        if n.gate is not None:
            gate = self.e.op(gate_function_name(n), self.e.cast(current, TensorProto.INT64), domain=DOMAIN)
            current, dtype = gated_current(self.e, n, current, gate, bounds), TensorProto.INT32
        current = saturate(self.e, current, bounds, dtype)
        train = self._scan(n, current) if n.relay is None else self._relay(n, n.relay, current)
        self._finish(n, train or self.e.op("ConstantOfShape", shape))

    def add_stepwise(self, block: tuple[Neurons, ...]) -> None:
        """Append populations that run step by step, together: what others send them is weighed for all steps before."""
        e, graph, inside = self.e, self._graph, {n.name for n in block}
        weighted: dict[str, str] = {}
        for n in block:
            e.scope = n.name
            outside = [s for s in graph.incoming(n.name) if s.source not in inside]
            if outside:
                total = emit_weighted(e, graph, n, outside, self._messages_of)
                weighted[n.name] = e.op("Reshape", total, self._sized(self._time_and_batch, n.shape))
        e.scope = block[0].name
        states = states_of(graph, block)
        inner = e.body()
        step, now = inner.new_name("step"), {name: inner.new_name("weighted") for name in weighted}
        done = emit_step(inner, graph, block, step, {}, now)
        length = e.op("Squeeze", e.op("Shape", "events", start=0, end=1))
        steps = e.op("Range", e.constant(0), length, e.constant(1))
        scanned = [("train", n, inner.op("Identity", done.sent[n.name]), TensorProto.FLOAT) for n in block]
        if self._trace:
            scanned += [("membrane", n, inner.op("Identity", done.membranes[n.name]), TensorProto.INT32) for n in block]
        body = helper.make_graph(
            inner.nodes,
            f"{block[0].name}/step",
            [
                *(helper.make_tensor_value_info(s.before, TensorProto.INT32, s.sizes) for s in states),
                helper.make_tensor_value_info(step, TensorProto.INT64, []),
                *(
                    helper.make_tensor_value_info(now[n.name], sum_type(graph, n), ["B", *n.shape])
                    for n in block
                    if n.name in now
                ),
            ],
            [
                *(helper.make_tensor_value_info(s.after, TensorProto.INT32, s.sizes) for s in states),
                *(helper.make_tensor_value_info(name, dtype, ["B", *n.shape]) for _, n, name, dtype in scanned),
            ],
        )
        starts = [self._silence(s.shape[: s.leading], s.shape[s.leading :], TensorProto.INT32) for s in states]
        last = {s.after: e.new_name("last") for s in states}
        results = [f"membrane/{n.name}" if kind == "membrane" else e.new_name("train") for kind, n, _, _ in scanned]
        e.ops(
            "Scan", *starts, steps, *weighted.values(), names=(*last.values(), *results), body=body,
            num_scan_inputs=1 + len(weighted),
        )  # fmt: skip
        for (kind, n, _, _), result in zip(scanned, results, strict=True):
            e.scope = n.name
            if kind == "membrane":
                self._output(result, TensorProto.INT32, n)
                continue
            self._finish(n, result)
            if n.relay is None:
                self._last_membranes[n.name] = last[f"v_next/{n.name}"]

    def _finish(self, n: Neurons, train: str) -> None:
        """Keep the messages ``[T, B, *shape]`` of a population, and append its outputs."""
        self._trains[n.name] = train
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

    def _silence(self, leading: tuple[int, ...], shape: tuple[int, ...], dtype: int) -> str:
        """Zeros ``[*leading, B, *shape]``."""
        size = self._sized(self.e.op("Concat", self.e.constant(list(leading)), self._batch, axis=0), shape)
        return self.e.op("ConstantOfShape", size, value=helper.make_tensor("zero", dtype, [1], [0]))

    def _messages_of(self, synapse: Synapse, dtype: int) -> str:
        """What arrives over a synapse with T and B merged, ``[T*B, *source]``, as ``dtype``."""
        source, delay = synapse.source, np.asarray(synapse.delay)
        key = (source, repr((delay.shape, delay.tolist())), dtype)
        if key not in self._messages:
            shape, train, have = self._graph.source_shape(source), self._trains[source], int(TensorProto.FLOAT)
            if source == self._graph.input.name:
                have = input_type(self._graph)
            if synapse.longest_delay:
                train, have = self.e.cast(train, TensorProto.INT32), int(TensorProto.INT32)
                silence = self._silence((synapse.longest_delay,), shape, have)
                train = emit_shifted(self.e, train, synapse.delay, silence)
            merged = self.e.op("Reshape", train, self.e.constant([-1, *shape]))
            self._messages[key] = merged if have == dtype else self.e.cast(merged, dtype)
        return self._messages[key]

    def _relay(self, n: Neurons, relay: Relay, current: str) -> str:
        """Append a relay over all steps; gives its float32 messages ``[T, B, *shape]``."""
        membrane = f"membrane/{n.name}" if self._trace else self.e.new_name("membrane")
        if self._trace:
            self._output(membrane, TensorProto.INT32, n)
        return emit_relay(self.e, relay, current, membrane)

    def _scan(self, n: Neurons, current: str) -> str | None:
        """Append the neurons over T; gives the float32 spikes ``[T, B, *shape]``, None for a readout."""
        e = self.e
        start = self._silence((), n.shape, TensorProto.INT32)
        inner = e.body()
        v, now, v_next = (e.new_name(part) for part in ("v", "current", "v_next"))
        spikes = emit_neurons(inner, n, v, now, v_next)
        last, train = e.new_name("v_last"), e.new_name("train")
        body_outputs, outputs = [(v_next, TensorProto.INT32)], [last]
        if spikes is not None:
            body_outputs.append((spikes, TensorProto.FLOAT))
            outputs.append(train)
        if self._trace:
            body_outputs.append((inner.op("Identity", v_next), TensorProto.INT32))
            outputs.append(f"membrane/{n.name}")
            self._output(outputs[-1], TensorProto.INT32, n)
        size = ["B", *n.shape]
        body = helper.make_graph(
            inner.nodes,
            f"{n.name}/step",
            [helper.make_tensor_value_info(name, TensorProto.INT32, size) for name in (v, now)],
            [helper.make_tensor_value_info(name, dtype, size) for name, dtype in body_outputs],
        )
        e.ops("Scan", start, current, names=tuple(outputs), body=body, num_scan_inputs=1)
        self._last_membranes[n.name] = last
        return train if spikes is not None else None

    def _count(self, name: str, sent: str, spikes_output: str | None) -> None:
        names = emit_counts(self.e, self._graph, name, sent, spikes_output)
        self.outputs.extend(helper.make_tensor_value_info(n, TensorProto.INT64, ["B"]) for n in names)
        if self._sent:  # float32 is exact for sums over up to 2**24 samples
            summed = self.e.op("ReduceSum", sent, self.e.constant([1]), keepdims=0)
            output = self.e.cast(summed, TensorProto.INT32, f"sent/{name}")
            shape = [self._steps, *self._graph.source_shape(name)]
            self.outputs.append(helper.make_tensor_value_info(output, TensorProto.INT32, shape))
