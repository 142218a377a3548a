"""The step graph: one time step with explicit states, for streaming runtimes."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from spikefold.converters import arithmetic, ranges
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons
from spikefold.converters.onnx.currents import emit_current, gated_current, saturate
from spikefold.converters.onnx.emitter import DOMAIN, Emitter
from spikefold.converters.onnx.functions import emit_relay, neuron_constants, neuron_function_name
from spikefold.converters.onnx.model import assemble, input_type, train_type
from spikefold.errors import LoweringError

STEP, STEP_NEXT = "step", "step_next"


def to_onnx_step(graph: FixedPointGraph) -> ModelProto:
    """Write the exact graph of one time step.

    Inputs: ``events`` ``[B, *shape]`` and the states ``v/<population>`` ``[B, *shape]`` int32, zero at the start of a
    clip. Outputs: ``train/<population>`` uint8, ``v_next/<population>`` int32 (after the reset), and ``readout``
    ``[B, classes]`` float64: the output's membrane in real units, or its spikes of this step. A relay has no state: its
    train are its messages, int32, and its clipped current is the output ``membrane/<population>``, int32. The metadata
    ``spikefold_states`` names the pairs of state input and output, ``spikefold_reset`` the value they start from. Where
    gates are tables over time or biases change with it, the number of the step is a state too: ``step``, int64 without
    axes; steps after the table's last one are an error of the runtime.

    Parameters
    ----------
    graph : FixedPointGraph
        An integer net whose gates, if it has any, are tables; see `has_step_form`.

    Returns
    -------
    onnx.ModelProto
        Checked; equal graphs give equal bytes.

    Raises
    ------
    LoweringError
        A gate is computed, a number could leave its range, or an operation has no exact form.
    """
    computed = [n.name for n in graph.neurons if n.gate is not None and _table(n) is None]
    if computed:
        raise LoweringError(
            f"neurons {computed[0]!r}: the gate is computed from more than one step, so there is no step form: export "
            "the clip graph, or lower with attention='static' or 'scheduled'"
        )
    e = Emitter()
    inputs = [helper.make_tensor_value_info("events", input_type(graph), ["B", *graph.input.shape])]
    outputs = []
    states = {f"v/{n.name}": f"v_next/{n.name}" for n in graph.neurons if n.relay is None}
    if any(n.gate is not None or n.has_bias_schedule for n in graph.neurons):
        e.op("Add", STEP, e.constant(1), name=STEP_NEXT)
        inputs.append(helper.make_tensor_value_info(STEP, TensorProto.INT64, []))
        outputs.append(helper.make_tensor_value_info(STEP_NEXT, TensorProto.INT64, []))
        states[STEP] = STEP_NEXT
    messages: dict[tuple[str, int], str] = {}
    trains = {graph.input.name: "events"}

    def messages_of(source: str, dtype: int) -> str:
        if (source, dtype) not in messages:
            messages[source, dtype] = e.cast(trains[source], dtype)
        return messages[source, dtype]

    for n in graph.neurons:
        e.scope = n.name
        current, dtype = emit_current(e, graph, n, messages_of, STEP)
        bounds, table = ranges.gated_range(graph, n), _table(n)
        if table is not None:
            gate = e.op("Gather", e.constant(table), STEP, axis=0)
            current, dtype = gated_current(e, n, current, gate, bounds), TensorProto.INT32
        current = saturate(e, current, bounds, dtype)
        size, train = ["B", *n.shape], f"train/{n.name}"
        if n.relay is not None:
            membrane = f"membrane/{n.name}"
            sent = emit_relay(e, n.relay, current, membrane)
        else:
            membrane = f"v_next/{n.name}"
            sent = _neurons(e, n, current, f"v/{n.name}", membrane)
            inputs.append(helper.make_tensor_value_info(f"v/{n.name}", TensorProto.INT32, size))
        messages[n.name, TensorProto.FLOAT] = sent
        trains[n.name] = e.cast(sent, train_type(n), train)
        outputs.append(helper.make_tensor_value_info(train, train_type(n), size))
        outputs.append(helper.make_tensor_value_info(membrane, TensorProto.INT32, size))
    _add_readout(e, graph)
    outputs.append(helper.make_tensor_value_info("readout", TensorProto.DOUBLE, ["B", graph.output.size]))
    extra = {"spikefold_states": json.dumps(states), "spikefold_reset": "0"}
    return assemble(graph, "step", e, inputs, outputs, [], extra)


def has_step_form(graph: FixedPointGraph) -> bool:
    """Whether `to_onnx_step` takes ``graph``: no gate of it is computed."""
    return all(n.gate is None or _table(n) is not None for n in graph.neurons)


def _neurons(e: Emitter, n: Neurons, current: str, state: str, following: str) -> str:
    """Append neurons that take ``state`` to ``following``; gives their float32 spikes, all zero of a readout."""
    # a state of another batch would be broadcast in silence; reshaping it to the current's shape fails instead
    inputs = (e.op("Reshape", state, e.op("Shape", current)), current, *neuron_constants(e, n))
    if not n.fires:
        e.op(neuron_function_name(n), *inputs, name=following, domain=DOMAIN, dv=n.dv)
        return e.op("ConstantOfShape", e.op("Shape", current))
    names = (e.new_name("spikes"), following)
    return e.ops(neuron_function_name(n), *inputs, names=names, domain=DOMAIN, dv=n.dv)[0]


def _table(population: Neurons) -> NDArray[np.int64] | None:
    """The gate ``[T, 1, ...]`` where it is a table over time."""
    steps = () if population.gate is None else population.gate.steps
    return np.asarray(steps[0].constant) if [s.op for s in steps] == ["table"] else None


def _add_readout(e: Emitter, graph: FixedPointGraph) -> None:
    e.scope = "readout"
    output = graph.output
    if output.fires:
        real = e.cast(f"train/{output.name}", TensorProto.DOUBLE)
    else:
        step = e.constant(np.array(output.unit / 2**arithmetic.STATE_FRACTION_BITS), np.float64)
        real = e.op("Mul", e.cast(f"v_next/{output.name}", TensorProto.DOUBLE), step)
    e.op("Reshape", real, e.constant([-1, output.size]), name="readout")
