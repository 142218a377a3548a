"""The integer neuron as named ONNX functions of domain ``spikefold``: a reader sees ``LIF``, not its arithmetic.

A file holds the functions that every net may need, and those of other resets and of relays where it calls them.

States are int32. The decay runs in float64: 24 bits times 12 bits stay below 2**53, the division by 4096 is exact, and
``Cast`` to an integer truncates toward zero as Loihi does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import AttributeProto, FunctionProto, TensorProto, helper

from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import Neurons, Relay, Whole
from spikefold.converters.onnx.emitter import DOMAIN, OPSET, Emitter

LIF = "LIF"
LIF_WITH_RESET = "LIFWithReset"
LIF_WITH_SOFT_RESET = "LIFWithSoftReset"
LIF_WITH_SOFT_RESET_TO = "LIFWithSoftResetTo"
RELAY = "Relay"
INTEGRATOR = "Integrator"
WRAP24 = "Wrap24"
GATED_CURRENT = "GatedCurrent"
DECAY = "Decay"
SYNAPTIC_CURRENT = "SynapticCurrent"


def make_function(
    name: str, inputs: list[str], outputs: list[str], emitter: Emitter, attributes: tuple[str, ...] = ()
) -> FunctionProto:
    """Pack the nodes of ``emitter`` as the function ``spikefold::name``."""
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_function(DOMAIN, name, inputs, outputs, emitter.nodes, opsets, list(attributes))


def neuron_functions(neurons: tuple[Neurons, ...]) -> list[FunctionProto]:
    """Build the functions that ``neurons`` use, in a fixed order."""
    used = {neuron_function_name(n) for n in neurons}
    used |= {SYNAPTIC_CURRENT for n in neurons if n.remembers_current}
    used |= {DECAY for n in neurons if decays_apart(n)}
    plain = _neuron(LIF, lambda e, v: e.constant(0, np.int32))
    special = [
        _neuron(LIF_WITH_RESET, lambda e, v: "reset", "reset"),
        _neuron(LIF_WITH_SOFT_RESET, lambda e, v: e.op("Sub", v, "threshold")),
        _neuron(LIF_WITH_SOFT_RESET_TO, lambda e, v: e.op("Sub", v, e.op("Sub", "threshold", "reset")), "reset"),
        _relay(),
        _synaptic_current(),
        _decay(),
    ]
    return [plain, _integrator(), _wrap24(), _gated_current(), *(f for f in special if f.name in used)]


def neuron_function_name(n: Neurons) -> str:
    """Name of the function that is one time step of ``n``."""
    if n.relay is not None:
        return RELAY
    if not n.fires:
        return INTEGRATOR
    if n.soft_reset:
        return LIF_WITH_SOFT_RESET if n.v_reset is None else LIF_WITH_SOFT_RESET_TO
    return LIF if n.v_reset is None else LIF_WITH_RESET


def decays_apart(n: Neurons) -> bool:
    """Whether membranes decay each in its own way, which `DECAY` does for a neuron that then keeps them (dv = 0)."""
    return n.relay is None and np.ndim(n.dv) > 0


def emit_neurons(e: Emitter, n: Neurons, v: str, current: str, v_next: str) -> str | None:
    """Append one time step of neurons, from ``v`` to ``v_next``; gives their float32 spikes, None of a readout."""
    dv = n.dv
    if decays_apart(n):
        v, dv = e.op(DECAY, v, kept_share(e, n.dv), domain=DOMAIN), 0
    inputs = (v, current, *neuron_constants(e, n))
    if not n.fires:
        e.op(neuron_function_name(n), *inputs, name=v_next, domain=DOMAIN, dv=int(dv))
        return None
    names = (e.new_name("spikes"), v_next)
    return e.ops(neuron_function_name(n), *inputs, names=names, domain=DOMAIN, dv=int(dv))[0]


def kept_share(e: Emitter, rate: Whole) -> str:
    """Constant ``(4096 - rate) / 4096``, float64, exact."""
    return e.constant(1 - np.asarray(rate, dtype=np.float64) / 2**arithmetic.DECAY_BITS, np.float64)


def neuron_constants(e: Emitter, n: Neurons) -> list[str]:
    """Names of what `neuron_function_name`'s function of ``n`` takes after ``v`` and ``current``, as int32."""
    mantissas = [n.v_threshold, n.v_reset] if n.fires else []
    return [e.constant(m << arithmetic.STATE_FRACTION_BITS, np.int32) for m in mantissas if m is not None]


def emit_relay(e: Emitter, relay: Relay, current: str, membrane: str) -> str:
    """Append a relay: gives its messages, float32, and writes its clipped current to ``membrane``, int32."""
    names = (e.new_name("messages"), membrane)
    limits = {"shift": relay.shift, "low": relay.low, "high": relay.high}
    return e.ops(RELAY, current, names=names, domain=DOMAIN, **limits)[0]


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
    return _clip24(e, e.op("Add", e.cast(product, TensorProto.INT32), "current"))


def _clip24(e: Emitter, value: str, name: str = "") -> str:
    limit = arithmetic.STATE_LIMIT
    return e.op("Clip", value, e.constant(-limit, np.int32), e.constant(limit, np.int32), name=name)


def _neuron(name: str, after: Callable[[Emitter, str], str], *more: str) -> FunctionProto:
    """``name<dv>(v, current, threshold, *more) -> (spikes, v_next)``; a spike leaves ``after(e, v)`` of the membrane.

    The threshold is in units of the membrane, spikes are float32.
    """
    e = Emitter(in_function=True)
    v = _integrate(e)
    fired = e.op("Greater", v, "threshold")
    e.op("Where", fired, after(e, v), v, name="v_next")
    e.cast(fired, TensorProto.FLOAT, name="spikes")
    return make_function(name, ["v", "current", "threshold", *more], ["spikes", "v_next"], e, ("dv",))


def _relay() -> FunctionProto:
    """``Relay<shift, low, high>(current) -> (messages, membrane)``: ``clip(tz(clip24(current) >> shift), low, high)``.

    Messages are float32 as spikes are: they have at most 24 bits. Integers divide toward zero in ONNX.
    """
    e = Emitter(in_function=True)
    shift = e.cast(_attribute(e, "shift"), TensorProto.UINT64)
    divisor = e.cast(e.op("BitShift", e.constant(1, np.uint64), shift, direction="LEFT"), TensorProto.INT32)
    shifted = e.op("Div", _clip24(e, "current", name="membrane"), divisor)
    low, high = (e.cast(_attribute(e, end), TensorProto.INT32) for end in ("low", "high"))
    e.cast(e.op("Clip", shifted, low, high), TensorProto.FLOAT, name="messages")
    return make_function(RELAY, ["current"], ["messages", "membrane"], e, ("shift", "low", "high"))


def _decay() -> FunctionProto:
    """``Decay(x, share) -> y``: ``tz(x * share)`` of int32 ``x``; ``share`` is float64, in 4096ths."""
    e = Emitter(in_function=True)
    e.cast(e.op("Mul", e.cast("x", TensorProto.DOUBLE), "share"), TensorProto.INT32, name="y")
    return make_function(DECAY, ["x", "share"], ["y"], e)


def _synaptic_current() -> FunctionProto:
    """``SynapticCurrent(u, weighted, share) -> u_next``: ``wrap24(tz(u * share) + weighted)``; int32, as ``u`` is."""
    e = Emitter(in_function=True)
    left = e.op("CastLike", e.op("Mul", e.cast("u", TensorProto.DOUBLE), "share"), "weighted")
    e.cast(_wrap(e, e.op("Add", left, "weighted")), TensorProto.INT32, name="u_next")
    return make_function(SYNAPTIC_CURRENT, ["u", "weighted", "share"], ["u_next"], e)


def _integrator() -> FunctionProto:
    """``Integrator<dv>(v, current) -> v_next``: a readout, which never fires."""
    e = Emitter(in_function=True)
    e.op("Identity", _integrate(e), name="v_next")
    return make_function(INTEGRATOR, ["v", "current"], ["v_next"], e, ("dv",))


def _wrap24() -> FunctionProto:
    """``Wrap24(x) -> y``: once by 2**24, above 2**23 or at most -2**23; int32 or int64."""
    e = Emitter(in_function=True)
    _wrap(e, "x", "y")
    return make_function(WRAP24, ["x"], ["y"], e)


def _wrap(e: Emitter, x: str, name: str = "") -> str:
    half, negative, whole = (
        e.op("CastLike", e.constant(n), x) for n in (arithmetic.WRAP // 2, -arithmetic.WRAP // 2, arithmetic.WRAP)
    )
    raised = e.op("Where", e.op("LessOrEqual", x, negative), e.op("Add", x, whole), x)
    return e.op("Where", e.op("Greater", x, half), e.op("Sub", x, whole), raised, name=name)


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
