"""The integer neuron as named ONNX functions of domain ``spikefold``: a reader sees ``LIF``, not its arithmetic.

States are int32. The decay runs in float64: 24 bits times 12 bits stay below 2**53, the division by 4096 is exact, and
``Cast`` to an integer truncates toward zero as Loihi does.
"""

from __future__ import annotations

import numpy as np
from onnx import AttributeProto, FunctionProto, TensorProto, helper

from spikefold.converters import arithmetic
from spikefold.converters.onnx.emitter import DOMAIN, OPSET, Emitter

LIF = "LIF"
INTEGRATOR = "Integrator"
WRAP24 = "Wrap24"
GATED_CURRENT = "GatedCurrent"


def make_function(
    name: str, inputs: list[str], outputs: list[str], emitter: Emitter, attributes: tuple[str, ...] = ()
) -> FunctionProto:
    """Pack the nodes of ``emitter`` as the function ``spikefold::name``."""
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_function(DOMAIN, name, inputs, outputs, emitter.nodes, opsets, list(attributes))


def neuron_functions() -> list[FunctionProto]:
    """All functions that neurons use, in a fixed order."""
    return [_lif(), _integrator(), _wrap24(), _gated_current()]


def _attribute(e: Emitter, name: str) -> str:
    """Integer attribute of the function being built, as an int64 scalar."""
    node = helper.make_node("Constant", [], [name])
    node.attribute.append(AttributeProto(name="value_int", type=AttributeProto.INT, ref_attr_name=name))
    e.nodes.append(node)
    return name


def _integrate(e: Emitter) -> str:
    """``clip24(tz(v * (4096 - dv)) + current)`` of the int32 inputs ``v`` and ``current``."""
    keep = e.op("Sub", e.constant(2**arithmetic.DECAY_BITS), _attribute(e, "dv"))
    factor = e.op(
        "Mul", e.cast(keep, TensorProto.DOUBLE), e.constant(np.array(2.0**-arithmetic.DECAY_BITS), np.float64)
    )
    product = e.op("Mul", e.cast("v", TensorProto.DOUBLE), factor)
    total = e.op("Add", e.cast(product, TensorProto.INT32), "current")
    limit = arithmetic.STATE_LIMIT
    return e.op("Clip", total, e.constant(-limit, np.int32), e.constant(limit, np.int32))


def _lif() -> FunctionProto:
    """``LIF<dv>(v, current, threshold) -> (spikes, v_next)``; threshold in units of the membrane, spikes float32."""
    e = Emitter(in_function=True)
    v = _integrate(e)
    fired = e.op("Greater", v, "threshold")
    e.op("Where", fired, e.constant(0, np.int32), v, name="v_next")
    e.cast(fired, TensorProto.FLOAT, name="spikes")
    return make_function(LIF, ["v", "current", "threshold"], ["spikes", "v_next"], e, ("dv",))


def _integrator() -> FunctionProto:
    """``Integrator<dv>(v, current) -> v_next``: a readout, which never fires."""
    e = Emitter(in_function=True)
    e.op("Identity", _integrate(e), name="v_next")
    return make_function(INTEGRATOR, ["v", "current"], ["v_next"], e, ("dv",))


def _wrap24() -> FunctionProto:
    """``Wrap24(x) -> y``: once by 2**24, above 2**23 or at most -2**23; int32 or int64."""
    e = Emitter(in_function=True)
    half, negative, whole = (
        e.op("CastLike", e.constant(n), "x") for n in (arithmetic.WRAP // 2, -arithmetic.WRAP // 2, arithmetic.WRAP)
    )
    raised = e.op("Where", e.op("LessOrEqual", "x", negative), e.op("Add", "x", whole), "x")
    e.op("Where", e.op("Greater", "x", half), e.op("Sub", "x", whole), raised, name="y")
    return make_function(WRAP24, ["x"], ["y"], e)


def _gated_current() -> FunctionProto:
    """``GatedCurrent<gate_shift>(current, gate) -> y``: ``tz(current * gate >> gate_shift)`` as int32.

    Exact in float64 while ``current * gate`` stays below 2**53, which the exporter proves.
    """
    e = Emitter(in_function=True)
    shift = e.cast(_attribute(e, "gate_shift"), TensorProto.UINT64)
    divisor = e.cast(e.op("BitShift", e.constant(1, np.uint64), shift, direction="LEFT"), TensorProto.DOUBLE)
    gate = e.op("Div", e.cast("gate", TensorProto.DOUBLE), divisor)
    product = e.op("Mul", e.cast("current", TensorProto.DOUBLE), gate)
    e.cast(product, TensorProto.INT32, name="y")
    return make_function(GATED_CURRENT, ["current", "gate"], ["y"], e, ("gate_shift",))
