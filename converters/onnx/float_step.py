"""The float net as a step graph, for runtimes and accelerators that know no integers.

Not exact: it rounds as float32 does, in the order that the runtime chooses. What is deployed on a chip, and proved
equal, is the integer graph beside it (`spikefold.converters.onnx.step_graph`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import FunctionProto, ModelProto, TensorProto, ValueInfoProto, helper

from spikefold.converters.fixed_point_graph import FORMAT
from spikefold.converters.float_graph import FloatNet, FloatPopulation, FloatSynapse, read_float_graph
from spikefold.converters.onnx.emitter import DOMAIN, IR_VERSION, OPSET, Emitter
from spikefold.converters.onnx.functions import make_function
from spikefold.converters.onnx.step_graph import STEP, STEP_NEXT
from spikefold.errors import LoweringError

FIRES_ABOVE, FIRES_AT = "FloatLIF", "FloatLIFAtEquality"
SOFT = "SoftReset"
LAST = "last/"
"""What a delayed or recurrent connection reads is a state: the spikes of the step before."""


@dataclass
class _Form:
    """A graph in the making."""

    e: Emitter = field(default_factory=Emitter)
    inputs: list[ValueInfoProto] = field(default_factory=list)
    outputs: list[ValueInfoProto] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)

    def state(self, name: str, following: str, shape: tuple[int, ...]) -> None:
        size = ["B", *shape]
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, size))
        self.outputs.append(helper.make_tensor_value_info(following, TensorProto.FLOAT, size))
        self.states[name] = following


def to_onnx_float_step(graph: nir.NIRGraph, name: str = "net") -> ModelProto:
    """Write one time step of a float net in float32.

    Inputs: ``events`` ``[B, *shape]`` float32 and the states ``v/<population>``, ``u/<population>`` where a current is
    remembered, ``last/<population>`` where its spikes are read a step later, all zero at the start of a clip, and
    ``step`` (int64, without axes) where gates are tables or biases change with the step. Outputs: the next states,
    ``train/<population>`` (spikes, or the numbers of a relay) and ``readout`` ``[B, classes]``, the sum of the output's
    currents up to this step, or its spikes of this step. The metadata ``spikefold_states`` names the pairs of states.

    Parameters
    ----------
    graph : nir.NIRGraph
        From `spikefold.converters.capture`, lowered (`spikefold.converters.lower.lower_float`) where it has attention.
    name : str
        Name of the graph.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    LoweringError
        A gate is computed, or a connection has a delay of more than one step.
    """
    net = read_float_graph(graph)
    form = _Form()
    e = form.e
    form.inputs.append(helper.make_tensor_value_info("events", TensorProto.FLOAT, ["B", *net.input_shape]))
    if any(p.gate is not None or p.bias_schedule is not None for p in net.populations):
        e.op("Add", STEP, e.constant(1), name=STEP_NEXT)
        form.inputs.append(helper.make_tensor_value_info(STEP, TensorProto.INT64, []))
        form.outputs.append(helper.make_tensor_value_info(STEP_NEXT, TensorProto.INT64, []))
        form.states[STEP] = STEP_NEXT
    for source in sorted({s.source for p in net.populations for s in p.synapses if _delay(s)}):
        form.state(f"{LAST}{source}", f"{LAST}next/{source}", _shape(net, source))
    for population in net.populations:
        _population(form, net, population)
    for name_ in [n for n in form.states if n.startswith(LAST)]:
        source = name_.removeprefix(LAST)
        e.op("Identity", "events" if source == "input" else f"train/{source}", name=form.states[name_])
    last = net.populations[-1]
    answer = f"train/{last.name}" if last.fires else form.states[f"v/{last.name}"]
    e.op("Reshape", answer, e.constant([-1, int(np.prod(last.shape))]), name="readout")
    form.outputs.append(helper.make_tensor_value_info("readout", TensorProto.FLOAT, ["B", int(np.prod(last.shape))]))
    return _model(form, net, name)


def has_float_step_form(graph: nir.NIRGraph) -> bool:
    """Whether `to_onnx_float_step` takes ``graph``: no gate of it is computed, and nothing waits longer than a step."""
    net = read_float_graph(graph)
    return all(_gate_table(p) is not None or p.gate is None for p in net.populations) and all(
        np.max(s.delay) <= 1 and np.ndim(s.delay) == 0 for p in net.populations for s in p.synapses
    )


def _population(form: _Form, net: FloatNet, p: FloatPopulation) -> None:
    e = form.e
    e.scope = p.name
    parts = [e.op("Reshape", _weighted(e, net, s), e.constant([-1, *p.shape])) for s in p.synapses]
    current = parts[0]
    for part in parts[1:]:
        current = e.op("Add", current, part)
    if p.bias_schedule is not None:
        current = e.op("Add", current, e.op("Gather", e.constant(p.bias_schedule, np.float32), STEP, axis=0))
    if p.gate is not None:
        table = _gate_table(p)
        if table is None:
            raise LoweringError(
                f"neurons {p.name!r}: the gate is computed from more than one step, so there is no step form: lower "
                "with attention='static' or 'scheduled'"
            )
        current = e.op("Mul", current, e.op("Gather", e.constant(table, np.float32), STEP, axis=0))
    train = f"train/{p.name}"
    if not p.is_readout:
        form.outputs.append(helper.make_tensor_value_info(train, TensorProto.FLOAT, ["B", *p.shape]))
    if p.relays:
        e.op("Relu" if p.rectifies else "Identity", current, name=train)
        return
    if np.any(p.current_decay):
        kept = e.op("Mul", f"u/{p.name}", _constant(e, p.current_decay))
        current = e.op("Add", kept, current, name=f"u_next/{p.name}")
        form.state(f"u/{p.name}", f"u_next/{p.name}", p.shape)
    form.state(f"v/{p.name}", f"v_next/{p.name}", p.shape)
    inputs = (f"v/{p.name}", current, _constant(e, p.decay))
    if not p.fires:
        e.op("Add", e.op("Mul", inputs[0], inputs[2]), current, name=f"v_next/{p.name}")
        return
    reset = np.zeros((), np.float32) if p.v_reset is None else p.v_reset
    constants = _constant(e, p.v_threshold), _constant(e, reset)
    e.ops(_function_name(p), *inputs, *constants, names=(train, f"v_next/{p.name}"), domain=DOMAIN)


def _weighted(e: Emitter, net: FloatNet, s: FloatSynapse) -> str:
    delay = _delay(s)
    if delay > 1:
        raise LoweringError(f"synapse {s.name!r}: a delay of {delay} steps has no float step form; it keeps one step")
    value = f"{LAST}{s.source}" if delay else "events" if s.source == "input" else f"train/{s.source}"
    bias = e.constant(s.bias, np.float32)
    if s.conv is None:
        size = int(np.prod(_shape(net, s.source)))
        flat = e.op("Reshape", value, e.constant([-1, size]))
        return e.op("Add", e.op("MatMul", flat, e.constant(s.weight.T, np.float32)), bias)
    conv = s.conv
    return e.op(
        "Conv", value, e.constant(s.weight, np.float32), bias, kernel_shape=list(s.weight.shape[2:]),
        strides=list(conv["stride"]), pads=[*conv["padding"], *conv["padding"]], dilations=list(conv["dilation"]),
        group=conv["groups"],
    )  # fmt: skip


def _delay(s: FloatSynapse) -> int:
    if np.ndim(s.delay) and np.ptp(s.delay):
        raise LoweringError(f"synapse {s.name!r}: delays differ from neuron to neuron; there is no float step form")
    return int(np.max(s.delay))


def _constant(e: Emitter, value: NDArray[Any] | float) -> str:
    return e.constant(np.asarray(value, dtype=np.float32), np.float32)


def _shape(net: FloatNet, source: str) -> tuple[int, ...]:
    return net.input_shape if source == "input" else next(p.shape for p in net.populations if p.name == source)


def _gate_table(p: FloatPopulation) -> NDArray[np.float32] | None:
    steps = () if p.gate is None else p.gate.steps
    return np.asarray(steps[0].constant, np.float32) if [s.op for s in steps] == ["table"] else None


def _function_name(p: FloatPopulation) -> str:
    return (FIRES_ABOVE if p.strict else FIRES_AT) + (SOFT if p.soft_reset else "")


def _function(p: FloatPopulation) -> FunctionProto:
    """``(v, current, decay, threshold, reset) -> (spikes, v_next)``."""
    e = Emitter(in_function=True)
    v = e.op("Add", e.op("Mul", "v", "decay"), "current")
    fired = e.op("Greater" if p.strict else "GreaterOrEqual", v, "threshold")
    after = e.op("Sub", v, e.op("Sub", "threshold", "reset")) if p.soft_reset else "reset"
    e.op("Where", fired, after, v, name="v_next")
    e.cast(fired, TensorProto.FLOAT, name="spikes")
    inputs = ["v", "current", "decay", "threshold", "reset"]
    return make_function(_function_name(p), inputs, ["spikes", "v_next"], e)


def _model(form: _Form, net: FloatNet, name: str) -> ModelProto:
    firing = {_function_name(p): p for p in net.populations if p.fires}
    main = helper.make_graph(form.e.nodes, name, form.inputs, form.outputs, form.e.initializers)
    model = helper.make_model(
        main,
        functions=[_function(p) for _, p in sorted(firing.items())],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        ir_version=IR_VERSION,
        producer_name="spikefold",
    )
    states = json.dumps(form.states)
    helper.set_model_props(
        model,
        {"spikefold_format": str(FORMAT), "spikefold_form": "float step", "spikefold_name": name,
         "spikefold_states": states, "spikefold_reset": "0"},
    )  # fmt: skip
    onnx.checker.check_model(model, full_check=True)
    return model
