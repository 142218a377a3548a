"""Read the plain form of an integer net, JSON text and arrays, that anybody may have written."""

from __future__ import annotations

import math
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from spikefold.converters import arithmetic
from spikefold.converters.execution_order import NoOrderError
from spikefold.converters.fixed_point_graph import (
    FORMAT,
    AttentionMode,
    FixedPointGraph,
    InputPort,
    Neurons,
    Relay,
    Synapse,
    Whole,
)
from spikefold.converters.gate_program import INTEGER_OPS, GateProgram
from spikefold.converters.plain_fields import Fields, parse_json, short
from spikefold.errors import FileFormatError

NAMED = "fixed-point metadata"
"""What messages call the plain form."""
MAX_SHIFT = 63
"""Of a gated product, either way."""


def read_plain(text: str, arrays: list[NDArray[Any]]) -> FixedPointGraph:
    """Rebuild what `FixedPointGraph.to_plain` took apart; FileFormatError names the field that is missing or wrong."""
    plain = Fields(parse_json(text, NAMED), NAMED)
    version = plain.held("spikefold_format")
    if version != FORMAT:
        raise FileFormatError(f"spikefold_format is {short(version)}, this version reads {FORMAT}: update spikefold")
    try:
        return _from_plain(plain, arrays)
    except (ArithmeticError, AttributeError, LookupError, NoOrderError, TypeError, ValueError) as error:
        raise FileFormatError(f"{NAMED} is damaged: {type(error).__name__} {error}") from error


def _from_plain(plain: Fields, arrays: list[NDArray[Any]]) -> FixedPointGraph:
    neurons = []
    for number, entry in enumerate(plain.objects("neurons")):
        fields = Fields(entry, f"neurons {number}")
        fields.where = f"neurons {fields.text('name')!r}"
        neurons.append(_neurons(fields, arrays))
    synapses = []
    for number, entry in enumerate(plain.objects("synapses")):
        fields = Fields(entry, f"synapse {number}")
        fields.where = f"synapse {fields.text('name')!r}"
        synapses.append(_synapse(fields, arrays))
    names = [s.name for s in synapses]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise FileFormatError(f"synapse {twice!r}: the name is used twice")
    entry = Fields(plain.held("input"), "the input")
    port = InputPort(entry.shape("shape"), entry.whole("max_value", 0), entry.text("name"))
    attention, steps = plain.text("attention"), plain.held("time_steps")
    if attention not in get_args(AttentionMode):
        raise plain.refuse("attention", f"one of {', '.join(get_args(AttentionMode))} is needed")
    return FixedPointGraph(
        port, tuple(neurons), tuple(synapses), cast(AttentionMode, attention),
        None if steps is None else plain.whole("time_steps", 1), plain.text("name"),
        dict(plain.mapping("provenance")),
    )  # fmt: skip


def _neurons(entry: Fields, arrays: list[NDArray[Any]]) -> Neurons:
    def optional(name: str) -> NDArray[np.int64] | None:
        return entry.array(name, arrays) if name in entry else None

    gate = relay = None
    if "gate" in entry:
        constants = [entry.referred("gate_constants", i, arrays) for i in entry.objects("gate_constants")]
        try:
            gate = GateProgram.from_plain(entry.held("gate"), constants, INTEGER_OPS)
        except FileFormatError as error:
            raise FileFormatError(f"{entry.where}: {error}") from error
    if "relay" in entry:
        held = Fields(entry.held("relay"), f"{entry.where}: relay")
        if surplus := sorted(set(held.names()) - {"shift", "low", "high"}):
            raise FileFormatError(f"{held.where}: {short(surplus[0])} is no field of a relay; the file is damaged")
        relay = Relay(held.whole("shift"), held.whole("low"), held.whole("high"))
    try:
        unit = float.fromhex(entry.text("unit"))
    except (ValueError, OverflowError) as error:
        raise entry.refuse("unit", "a hexadecimal float is needed") from error
    if not 0 < unit < math.inf:
        raise entry.refuse("unit", "a finite number above 0 is needed")
    return Neurons(
        entry.text("name"), entry.shape("shape"), _whole(entry, "dv", arrays), entry.array("v_threshold", arrays),
        entry.array("bias_mantissa", arrays), entry.whole("bias_exponent"), unit, entry.flag("fires"), gate,
        entry.whole("gate_shift", -MAX_SHIFT, MAX_SHIFT), optional("static_threshold"),
        entry.whole("current_shift", missing=arithmetic.STATE_FRACTION_BITS), optional("v_reset"),
        entry.flag("soft_reset", missing=False), relay, optional("static_gate"),
        _whole(entry, "du", arrays) if "du" in entry else arithmetic.NO_CURRENT_MEMORY,
    )  # fmt: skip


def _synapse(entry: Fields, arrays: list[NDArray[Any]]) -> Synapse:
    kind = entry.text("kind")
    if kind not in ("conv", "dense"):
        raise entry.refuse("kind", "conv or dense is needed")
    stride, padding, dilation = (
        cast(tuple[int, int], entry.wholes(n, low, 2)) for n, low in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    return Synapse(
        entry.text("name"), entry.text("source"), entry.text("target"), cast(Literal["conv", "dense"], kind),
        entry.array("weight", arrays), entry.whole("exponent"), stride, padding, dilation,
        entry.whole("groups", 1), entry.whole("torch_macs", 0, 2**63),
        _whole(entry, "delay", arrays) if "delay" in entry else 0,
    )  # fmt: skip


def _whole(entry: Fields, name: str, arrays: list[NDArray[Any]]) -> Whole:
    held = entry.held(name)
    return entry.referred(name, held.get("array"), arrays) if isinstance(held, dict) else entry.whole(name)
