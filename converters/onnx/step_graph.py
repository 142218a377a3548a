"""The step graph: one time step with explicit states, for streaming runtimes."""

from __future__ import annotations

import json

import numpy as np
from onnx import ModelProto, TensorProto, helper

from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.onnx.emitter import Emitter
from spikefold.converters.onnx.model import assemble, input_type, train_type
from spikefold.converters.onnx.steps import emit_step, states_of
from spikefold.errors import LoweringError

STEP, STEP_NEXT = "step", "step_next"


def to_onnx_step(graph: FixedPointGraph) -> ModelProto:
    """Write the exact graph of one time step.

    Inputs: ``events`` ``[B, *shape]`` and the states, int32, zero at the start of a clip: ``v/<population>`` ``[B,
    *shape]``, ``u/<population>`` ``[B, *shape]`` where the synaptic current is remembered, and ``held/<source>``
    ``[longest delay, B, *shape]``, what a source of delayed synapses sent in the steps before, oldest first. Outputs:
    ``train/<population>`` uint8, the states after the step (``v_next/<population>`` is the membrane after the reset),
    and ``readout`` ``[B, classes]`` float64: the output's membrane in real units, or its spikes of this step. A relay
    has no membrane to keep: its train are its messages, int32, and its clipped current is the output
    ``membrane/<population>``, int32. The metadata ``spikefold_states`` names the pairs of state input and output,
    ``spikefold_reset`` the value they start from. Where gates are tables over time or biases change with it, the number
    of the step is a state too: ``step``, int64 without axes; steps after the table's last one are an error of the
    runtime.

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
    computed = [n.name for n in graph.neurons if n.gate is not None and n.gate_table is None]
    if computed:
        raise LoweringError(
            f"neurons {computed[0]!r}: the gate is computed from more than one step, so there is no step form: export "
            "the clip graph, or lower with attention='static' or 'scheduled'"
        )
    e = Emitter()
    inputs = [helper.make_tensor_value_info("events", input_type(graph), ["B", *graph.input.shape])]
    outputs = []
    held = states_of(graph, graph.neurons, [graph.input.name])
    states = {s.before: s.after for s in held}
    if any(n.gate is not None or n.has_bias_schedule for n in graph.neurons):
        e.op("Add", STEP, e.constant(1), name=STEP_NEXT)
        inputs.append(helper.make_tensor_value_info(STEP, TensorProto.INT64, []))
        outputs.append(helper.make_tensor_value_info(STEP_NEXT, TensorProto.INT64, []))
        states[STEP] = STEP_NEXT
    done = emit_step(e, graph, graph.neurons, STEP, {graph.input.name: "events"}, {})
    for n in graph.neurons:
        e.scope = n.name
        train = e.cast(done.sent[n.name], train_type(n), f"train/{n.name}")
        outputs.append(helper.make_tensor_value_info(train, train_type(n), ["B", *n.shape]))
        if n.relay is not None:
            membrane = e.op("Identity", done.membranes[n.name], name=f"membrane/{n.name}")
            outputs.append(helper.make_tensor_value_info(membrane, TensorProto.INT32, ["B", *n.shape]))
    for state in held:
        inputs.append(helper.make_tensor_value_info(state.before, TensorProto.INT32, state.sizes))
        outputs.append(helper.make_tensor_value_info(state.after, TensorProto.INT32, state.sizes))
    _add_readout(e, graph)
    outputs.append(helper.make_tensor_value_info("readout", TensorProto.DOUBLE, ["B", graph.output.size]))
    extra = {"spikefold_states": json.dumps(states), "spikefold_reset": "0"}
    return assemble(graph, "step", e, inputs, outputs, [], extra)


def has_step_form(graph: FixedPointGraph) -> bool:
    """Whether `to_onnx_step` takes ``graph``: no gate of it is computed."""
    return all(n.gate is None or n.gate_table is not None for n in graph.neurons)


def _add_readout(e: Emitter, graph: FixedPointGraph) -> None:
    e.scope = "readout"
    output = graph.output
    if output.fires:
        real = e.cast(f"train/{output.name}", TensorProto.DOUBLE)
    else:
        step = e.constant(np.array(output.unit / 2**arithmetic.STATE_FRACTION_BITS), np.float64)
        real = e.op("Mul", e.cast(f"v_next/{output.name}", TensorProto.DOUBLE), step)
    e.op("Reshape", real, e.constant([-1, output.size]), name="readout")
