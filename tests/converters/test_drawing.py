"""Nets show themselves in a line and as a drawing of every box and arrow, never as a thousand numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from equivalence_nets import net as float_net_of
from generated_graphs import any_graph, random_graph
from spikefold.converters.drawing import Arrow, Box, draw
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.show import spread, table_html

SVG = "{http://www.w3.org/2000/svg}"
NASTY = "<script>alert(1)</script>&\"'"


def drawing(html: str) -> ElementTree.Element:
    """The SVG in what a notebook gets: it must be well-formed."""
    found = ElementTree.fromstring(html).find(f"{SVG}svg")  # noqa: S314  # made here
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(4))
def test_every_population_and_connection_is_drawn(seed: int) -> None:
    graph = any_graph(seed, 5)
    svg = drawing(graph._repr_html_())
    names = [box.text for box in svg.iter(f"{SVG}tspan")]
    assert names == ["input", *(n.name for n in graph.neurons)]
    tips = [tip.text or "" for g in svg.iter(f"{SVG}g") for tip in g.findall(f"{SVG}title")]
    assert [tip.partition(":")[0] for tip in tips] == [f"{s.source} to {s.target}" for s in graph.synapses]


def test_a_float_net_draws_itself() -> None:
    net = float_net_of("squeeze").float_net
    svg = drawing(net._repr_html_())
    assert len(list(svg.iter(f"{SVG}rect"))) == 1 + len(net.populations)
    assert len(list(svg.iter(f"{SVG}g"))) == sum(len(p.synapses) for p in net.populations)


def test_everything_stays_inside_the_drawing() -> None:
    svg = drawing(random_graph(0, loops=True, residual=True, delays=3)._repr_html_())
    width, height = float(svg.get("width", 0)), float(svg.get("height", 0))
    for rect in svg.iter(f"{SVG}rect"):
        assert float(rect.get("x", -1)) >= 0
        assert float(rect.get("x", 0)) + float(rect.get("width", 0)) <= width
        assert float(rect.get("y", 0)) + float(rect.get("height", 0)) <= height
    loops = 0
    for group in svg.iter(f"{SVG}g"):
        path = group.find(f"{SVG}path")
        assert path is not None
        numbers = [float(n) for n in re.findall(r"-?\d+", path.get("d", ""))]
        if "C" in path.get("d", ""):
            start, bend = numbers[0], numbers[2]
            assert 0 <= start + 0.75 * (bend - start) <= width
            loops += bend < start
    assert loops == 3


def test_arrows_between_neighbours_are_straight_and_others_go_around() -> None:
    boxes = [Box(name, "", "neurons") for name in "abc"]
    svg = drawing(draw("t", boxes, [Arrow("a", "b", "near"), Arrow("a", "c", "far"), Arrow("c", "c", "loop")]))
    paths = [p.get("d", "") for g in svg.iter(f"{SVG}g") for p in g.findall(f"{SVG}path")]
    assert ["C" in p for p in paths] == [False, True, True]


def test_names_are_escaped() -> None:
    assert "<script>" not in table_html(NASTY, (NASTY,), [(NASTY,)], [NASTY])
    graph = random_graph(0)
    drawn = replace(graph, name=NASTY)._repr_html_()
    assert "<script>" not in drawn
    drawing(drawn)
    named = replace(graph.neurons[0], name=NASTY)
    assert "<script>" not in named._repr_html_()


def everything(graph: FixedPointGraph) -> list[object]:
    net = float_net_of("squeeze").float_net
    return [graph, *graph.neurons, *graph.synapses, net, *net.populations, *net.populations[0].synapses]


def test_each_shows_itself_in_one_short_line() -> None:
    for value in everything(random_graph(3, residual=True, per_neuron_thresholds=True, resets=("zero", "soft"))):
        text = repr(value)
        assert text.startswith(f"<{type(value).__name__} ")
        assert len(text) < 250
        assert "array" not in text
        assert "\n" not in text


def test_a_line_says_what_tells_populations_apart() -> None:
    graph = random_graph(0)
    conv = graph.neurons[0]
    assert repr(conv).startswith(f"<Neurons 'conv1': 4 x 7 x 6 neurons, dv {conv.dv}, unit ")
    assert repr(graph.synapses[0]).startswith("<Synapse ")
    assert ": input to conv1, conv 3 x 3, 72 weights, " in repr(graph.synapses[0])
    assert "any T" in repr(graph)
    assert "T = 7" in repr(replace(graph, time_steps=7))


def test_a_spread_is_one_number_or_two() -> None:
    assert [spread(v) for v in (3, np.array([1, 5, 2]), np.array([]), 0.5)] == ["3", "1..5", "none", "0.5"]
