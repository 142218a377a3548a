"""The step graph: one time step with explicit states, for streaming runtimes."""

from __future__ import annotations

import json

import numpy as np
from onnx import ModelProto, TensorProto, helper

from spikefold.converters import arithmetic, ranges
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.onnx.currents import emit_current, saturate
from spikefold.converters.onnx.emitter import DOMAIN, Emitter
from spikefold.converters.onnx.functions import INTEGRATOR, LIF
from spikefold.converters.onnx.model import assemble, input_type
from spikefold.errors import LoweringError


def to_onnx_step(graph: FixedPointGraph) -> ModelProto:
    """Write the exact graph of one time step.

    Inputs: ``events`` ``[B, *shape]`` and the states ``v/<population>`` ``[B, *shape]`` int32, zero at the start of a
    clip. Outputs: ``train/<population>`` uint8, ``v_next/<population>`` int32 (after the reset), and ``readout``
    ``[B, classes]`` float64: the output's membrane in real units, or its spikes of this step. The metadata
    ``spikefold_states`` names the pairs of state input and output, ``spikefold_reset`` the value they start from.

    Parameters
    ----------
    graph : FixedPointGraph
        An integer net without gates.

    Returns
    -------
    onnx.ModelProto
        Checked; equal graphs give equal bytes.

    Raises
    ------
    LoweringError
        The net has a dynamic gate, a number could leave its range, or an operation has no exact form.
    """
    gated = [n.name for n in graph.neurons if n.gate is not None]
    if gated:
        raise LoweringError(
            f"neurons {gated[0]!r}: a dynamic gate reads the whole clip, so there is no step form: export the clip "
            "graph, or lower with attention='static'"
        )
    e = Emitter()
    inputs = [helper.make_tensor_value_info("events", input_type(graph), ["B", *graph.input.shape])]
    outputs = []
    messages: dict[tuple[str, int], str] = {}
    trains = {graph.input.name: "events"}

    def messages_of(source: str, dtype: int) -> str:
        if (source, dtype) not in messages:
            messages[source, dtype] = e.cast(trains[source], dtype)
        return messages[source, dtype]

    for n in graph.neurons:
        e.scope = n.name
        size = ["B", *n.shape]
        state, following, train = f"v/{n.name}", f"v_next/{n.name}", f"train/{n.name}"
        current, dtype = emit_current(e, graph, n, messages_of)
        current = saturate(e, current, ranges.current_range(graph, n), dtype)
        # a state of another batch would be broadcast in silence; reshaping it to the current's shape fails instead
        held = e.op("Reshape", state, e.op("Shape", current))
        if n.fires:
            threshold = e.constant(n.v_threshold << arithmetic.STATE_FRACTION_BITS, np.int32)
            names = (e.new_name("spikes"), following)
            spikes, _ = e.ops(LIF, held, current, threshold, names=names, domain=DOMAIN, dv=n.dv)
        else:
            e.op(INTEGRATOR, held, current, name=following, domain=DOMAIN, dv=n.dv)
            spikes = e.op("ConstantOfShape", e.op("Shape", current))
        messages[n.name, TensorProto.FLOAT] = spikes
        trains[n.name] = e.cast(spikes, TensorProto.UINT8, train)
        inputs.append(helper.make_tensor_value_info(state, TensorProto.INT32, size))
        outputs.append(helper.make_tensor_value_info(train, TensorProto.UINT8, size))
        outputs.append(helper.make_tensor_value_info(following, TensorProto.INT32, size))
    _add_readout(e, graph)
    outputs.append(helper.make_tensor_value_info("readout", TensorProto.DOUBLE, ["B", graph.output.size]))
    states = {f"v/{n.name}": f"v_next/{n.name}" for n in graph.neurons}
    extra = {"spikefold_states": json.dumps(states), "spikefold_reset": "0"}
    return assemble(graph, "step", e, inputs, outputs, [], extra)


def _add_readout(e: Emitter, graph: FixedPointGraph) -> None:
    e.scope = "readout"
    output = graph.output
    if output.fires:
        real = e.cast(f"train/{output.name}", TensorProto.DOUBLE)
    else:
        step = e.constant(np.array(output.unit / 2**arithmetic.STATE_FRACTION_BITS), np.float64)
        real = e.op("Mul", e.cast(f"v_next/{output.name}", TensorProto.DOUBLE), step)
    e.op("Reshape", real, e.constant([-1, output.size]), name="readout")
