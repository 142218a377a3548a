"""Nets as text and as drawings: a box a population in execution order, an arrow a connection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch
from html import escape
from typing import Literal, NamedTuple

import numpy as np

from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse
from spikefold.converters.float_net import FloatNet, FloatPopulation, FloatSynapse
from spikefold.converters.gate_program import GateProgram
from spikefold.converters.show import sizes, spread, table_html

Kind = Literal["input", "neurons", "relay", "readout"]
_ROW, _BOX, _LETTER, _MARGIN, _ARC = 48, 26, 7, 12, 12
"""Pixels: from box to box, height of a box, width of a letter, around the drawing, how far an arc goes out a row."""
_STYLE: dict[Kind, str] = {
    "input": 'stroke-dasharray="1 3"',
    "neurons": 'rx="8"',
    "relay": 'stroke-dasharray="6 3"',
    "readout": 'stroke-width="2.5"',
}


class Box(NamedTuple):
    """A population: its name, what to say of it, and how to draw it."""

    name: str
    text: str
    kind: Kind


class Arrow(NamedTuple):
    """A connection between two boxes, and what to say of it."""

    source: str
    target: str
    text: str


def draw(title: str, boxes: Sequence[Box], arrows: Sequence[Arrow]) -> str:
    """An SVG that needs nothing from outside: boxes from top to bottom, arrows between neighbours, arcs past others.

    Arcs are on the right, those that go back (loops) on the left. What an arc stands for shows when it is pointed at.
    """
    at = {box.name: number for number, box in enumerate(boxes)}
    left = _MARGIN + 12 * max(
        (at[a.source] - at[a.target] + 1 for a in arrows if at[a.source] >= at[a.target]), default=0
    )
    width = 2 * _MARGIN + _LETTER * max((len(f"{box.name}  {box.text}") for box in boxes), default=0)
    reach = max((at[a.target] - at[a.source] for a in arrows), default=1)
    aside = max((_LETTER * len(a.text) - width // 2 for a in arrows if at[a.target] - at[a.source] == 1), default=0)
    whole = left + width + max(12 * reach, aside) + _MARGIN
    height = 2 * _MARGIN + _ROW * (len(boxes) - 1) + _BOX
    drawn = [_box(box, left, _MARGIN + _ROW * number, width) for number, box in enumerate(boxes)]
    drawn += [_arrow(arrow, at[arrow.source], at[arrow.target], left, width) for arrow in arrows]
    head = (
        '<marker id="spikefold-head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="currentColor"/></marker>'
    )
    return (
        f'<div><b>{escape(title)}</b><br/><svg xmlns="http://www.w3.org/2000/svg" role="img" width="{whole}" '
        f'height="{height}" font-family="sans-serif" font-size="12" fill="none" stroke="currentColor">'
        f"<title>{escape(title)}</title><defs>{head}</defs>{''.join(drawn)}</svg></div>"
    )


def _box(box: Box, left: int, top: int, width: int) -> str:
    return (
        f'<rect x="{left}" y="{top}" width="{width}" height="{_BOX}" {_STYLE[box.kind]}/>'
        f'<text x="{left + _MARGIN}" y="{top + 17}" fill="currentColor" stroke="none">'
        f'<tspan font-weight="bold">{escape(box.name)}</tspan> {escape(box.text)}</text>'
    )


def _arrow(arrow: Arrow, start: int, end: int, left: int, width: int) -> str:
    tip = f"<title>{escape(f'{arrow.source} to {arrow.target}: {arrow.text}')}</title>"
    above, below = _MARGIN + _ROW * start, _MARGIN + _ROW * end
    if end == start + 1:
        x, y = left + width // 2, above + _BOX
        label = f'<text x="{x + 8}" y="{y + 15}" fill="currentColor" stroke="none">{escape(arrow.text)}</text>'
        path = f"M{x},{y} L{x},{below}"
    else:
        x, out = (left + width, end - start) if end > start else (left, end - start - 1)
        label, y, z = "", above + 3 * _BOX // 4, below + _BOX // 4
        bend = x + 4 * _ARC // 3 * out  # a curve comes three quarters as far as its control points
        path = f"M{x},{y} C{bend},{y} {bend},{z} {x},{z}"
    return f'<g>{tip}<path d="{path}" marker-end="url(#spikefold-head)"/>{label}</g>'


@singledispatch
def facts(value: object) -> tuple[str, list[str]]:
    """Name of a net or a part of one, and what to say of it."""
    raise TypeError(f"a {type(value).__name__} is not shown here")


def line(value: object) -> str:
    """What ``repr`` says, without the name of the class."""
    name, told = facts(value)
    return f"{name}: {', '.join(told)}"


@singledispatch
def html(value: object) -> str:
    """What a notebook shows."""
    name, told = facts(value)
    return table_html(f"{type(value).__name__} {name}", (), [(fact,) for fact in told])


@facts.register
def _(n: Neurons) -> tuple[str, list[str]]:
    told = [*_layer(n), f"unit {n.unit:.4g}"]
    if n.fires:
        told.append(f"threshold {spread(n.v_threshold)}, {n.threshold_levels} level(s)")
    if n.bias_mantissa.any():
        told.append(f"bias {spread(n.bias)}{' by step' if n.has_bias_schedule else ''}")
    return repr(n.name), told


def _layer(n: Neurons) -> list[str]:
    what = "readout" if n.is_readout else "neurons" if n.relay is None else "relay"
    told = [f"{sizes(n.shape)} {what}"]
    told.append(f"dv {spread(n.dv)}" if n.relay is None else f"numbers {n.relay.low}..{n.relay.high}")
    if n.remembers_current:
        told.append(f"du {spread(n.du)}")
    if n.gate is not None:
        told.append(_gate(n.gate))
    if n.soft_reset or n.v_reset is not None:
        told.append("soft reset" if n.soft_reset else f"reset to {spread(n.v_reset)}")
    return told


def _gate(program: GateProgram) -> str:
    return f"gate of {len(program.steps)} operation(s)"


@facts.register
def _(s: Synapse) -> tuple[str, list[str]]:
    return repr(s.name), [
        f"{s.source} to {s.target}",
        *_connection(s),
        f"{spread(s.weight)} times 2**{s.exponent}",
    ]


def _connection(s: Synapse | FloatSynapse) -> list[str]:
    dense = s.kind == "dense" if isinstance(s, Synapse) else s.conv is None
    told = ["dense" if dense else f"conv {sizes(s.weight.shape[2:])}", f"{s.weight.size:,} weights"]
    return [*told, f"delay {spread(s.delay)}"] if np.any(s.delay) else told


@facts.register
def _(graph: FixedPointGraph) -> tuple[str, list[str]]:
    return repr(graph.name), [
        f"{len(graph.neurons)} populations", f"{sum(n.size for n in graph.neurons):,} neurons",
        f"{sum(s.weight.size for s in graph.synapses):,} weights", f"attention {graph.attention}",
        "any T" if graph.time_steps is None else f"T = {graph.time_steps}",
    ]  # fmt: skip


@html.register
def _(graph: FixedPointGraph) -> str:
    boxes = [Box(graph.input.name, f"{sizes(graph.input.shape)}, values 0..{graph.input.max_value}", "input")]
    for n in graph.neurons:
        kind: Kind = "readout" if n.is_readout else "neurons" if n.relay is None else "relay"
        boxes.append(Box(n.name, ", ".join(_layer(n)), kind))
    arrows = [Arrow(s.source, s.target, ", ".join(_connection(s))) for s in graph.synapses]
    return draw(f"FixedPointGraph {line(graph)}", boxes, arrows)


@facts.register
def _(p: FloatPopulation) -> tuple[str, list[str]]:
    told = _float_layer(p)
    if p.fires:
        told.append(f"threshold {spread(p.v_threshold)}")
    return repr(p.name), [*told, f"connections into it: {', '.join(s.name for s in p.synapses)}"]


def _float_layer(p: FloatPopulation) -> list[str]:
    told = [f"{sizes(p.shape)} {_float_kind(p)}"]
    if not p.relays:
        told.append(f"decay {spread(p.decay)}")
    return told if p.gate is None else [*told, _gate(p.gate)]


def _float_kind(p: FloatPopulation) -> Kind:
    return "readout" if p.is_readout else "relay" if p.relays else "neurons"


@facts.register
def _(s: FloatSynapse) -> tuple[str, list[str]]:
    return repr(s.name), [f"from {s.source}", *_connection(s), f"values {spread(s.weight)}"]


@facts.register
def _(net: FloatNet) -> tuple[str, list[str]]:
    return f"on {sizes(net.input_shape)}", [
        f"{len(net.populations)} populations", f"{sum(math.prod(p.shape) for p in net.populations):,} neurons",
        "any T" if net.time_steps is None else f"T = {net.time_steps}",
    ]  # fmt: skip


@html.register
def _(net: FloatNet) -> str:
    boxes = [Box("input", sizes(net.input_shape), "input")]
    boxes += [Box(p.name, ", ".join(_float_layer(p)), _float_kind(p)) for p in net.populations]
    arrows = [Arrow(s.source, p.name, ", ".join(_connection(s))) for p in net.populations for s in p.synapses]
    return draw(f"FloatNet {line(net)}", boxes, arrows)
