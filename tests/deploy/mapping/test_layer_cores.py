"""Limits of a chip of one core a layer, on small nets and a small made-up chip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import spikefold as sf
from generated_graphs import random_graph
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.deploy.hardware import LimitsHardware, load_hardware
from spikefold.deploy.mapping.layer_cores import LayerCores
from spikefold.deploy.mapping.layout import Violation
from spikefold.deploy.quantity import Bits, Count


def speck() -> LimitsHardware:
    hardware = load_hardware("speck")
    assert isinstance(hardware, LimitsHardware)
    return hardware


def chip(*cores: tuple[int, int], weight_bits: int = 8) -> LimitsHardware:
    """Speck with these cores: weights and neurons each, the former of so many bits."""
    known = speck()
    made = [
        known.limits.cores[0].model_copy(update={"weights": count(weights), "neurons": count(neurons)})
        for weights, neurons in cores
    ]
    weight = Bits(value=weight_bits, low=weight_bits, high=weight_bits, unit="bit", grade="V", source="a made-up chip")
    return known.model_copy(update={"limits": known.limits.model_copy(update={"cores": made, "weight": weight})})


def count(number: int) -> Count:
    return Count(value=number, low=number, high=number, unit="count", grade="V", source="a made-up chip")


def small() -> FixedPointGraph:
    """Four populations: 72, 216, 720 and 30 weights; 168, 72, 10 and 3 neurons."""
    return random_graph(0)


def rules(graph: FixedPointGraph, hardware: LimitsHardware) -> dict[str, Violation]:
    return {violation.rule: violation for violation in violations(graph, hardware)}


def violations(graph: FixedPointGraph, hardware: LimitsHardware) -> tuple[Violation, ...]:
    return sf.map_net(graph, hardware).violations


def test_a_small_net_fits_speck():
    assert violations(small(), speck()) == ()


def test_a_net_of_more_layers_than_cores_does_not_fit():
    (violation,) = violations(small(), chip((1000, 1000), (1000, 1000), (1000, 1000)))
    assert (violation.rule, violation.used, violation.limit) == ("layers", 4, 3)


@pytest.mark.parametrize(
    ("cores", "rule", "used", "limit"),
    [(((700, 1000),) * 4, "weights", 720, 700), (((1000, 100),) * 4, "neurons", 168, 100)],
)
def test_a_layer_that_no_core_holds_is_named(cores, rule, used, limit):
    (violation,) = violations(small(), chip(*cores))
    assert (violation.rule, violation.used, violation.limit) == (rule, used, limit)


@pytest.mark.parametrize("room", [1000, 168])
def test_a_layer_may_fit_by_each_part_and_by_no_core(room):
    violation = rules(small(), chip((50, room), (1000, 100), (1000, 100), (1000, 100)))["weights"]
    assert (violation.layer, violation.used, violation.limit) == ("conv1", 72, 50)
    assert "room for its neurons" in violation.advice


def test_layers_are_moved_to_make_room_for_those_that_fit_fewer_cores():
    assert violations(small(), chip((1000, 1000), (80, 1000), (250, 1000), (40, 5))) == ()


def test_two_layers_for_one_large_core_do_not_fit():
    found = rules(small(), chip((1000, 100), (100, 1000), (100, 1000), (100, 1000)))
    assert set(found) == {"cores large enough"}
    assert found["cores large enough"].layer in {"conv2", "fc1"}


def test_a_source_of_three_layers_is_refused():
    graph = small()
    extra = [replace(graph.synapses[-1], name=f"more{i}", source="conv1", target=target) for i, target in enumerate(
        ("fc1", "output"))]  # fmt: skip
    sizes = {"fc1": 10, "output": 3}
    extra = [replace(s, weight=np.zeros((sizes[s.target], 168), np.int64)) for s in extra]
    violation = rules(replace(graph, synapses=(*graph.synapses, *extra)), speck())["destinations"]
    assert (violation.layer, violation.used, violation.limit) == ("conv1", 3, 2)


@pytest.mark.parametrize(("height", "width"), [(3, 1), (1, 3)])
def test_kernels_must_be_square(height, width):
    graph = small()
    first = graph.synapses[0]
    narrow = replace(first, weight=first.weight[:, :, :height, :width], padding=(height // 2, width // 2))
    violation = rules(replace(graph, synapses=(narrow, *graph.synapses[1:])), speck())["square kernels"]
    assert (violation.layer, violation.used, violation.limit) == ("conv1", height, width)


def test_what_is_written_as_json_says_whether_limits_are_kept_and_that_nothing_was_simulated():
    for hardware, fits in ((speck(), True), (chip((1000, 1000)), False)):
        written = sf.map_net(small(), hardware).to_dict()
        assert written["fits"] is fits is not bool(written["violations"])
        assert written["simulated"] is False


def test_weights_must_fit_the_bits_that_are_stored() -> None:
    """-130 to 120, of which the lowest bit is not stored, are -65 to 60: 8 bits with their sign."""
    graph = small()
    weight = graph.synapses[0].weight.copy()
    weight.flat[:2] = -130, 120
    graph = replace(graph, synapses=(replace(graph.synapses[0], weight=weight), *graph.synapses[1:]))
    large = ((1000, 1000),) * 4
    first = next(v for v in violations(graph, chip(*large, weight_bits=7)) if v.layer == "conv1")
    assert (first.rule, first.used, first.limit) == ("weight bits", 8, 7)
    assert not violations(graph, chip(*large))


def test_everything_that_is_broken_is_listed_at_once() -> None:
    graph = small()
    first = graph.synapses[0]
    narrow = replace(first, weight=first.weight[:, :, :, 1:2], padding=(1, 0))
    graph = replace(graph, synapses=(narrow, *graph.synapses[1:]))
    found = rules(graph, chip((100, 20), (100, 20), (100, 20), weight_bits=2))
    assert set(found) == {"weights", "neurons", "layers", "weight bits", "square kernels"}


def test_each_layer_gets_a_core_of_its_own_that_holds_it() -> None:
    made = sf.map_net(small(), chip((1000, 1000), (80, 1000), (250, 1000), (40, 5)))
    assert isinstance(made, LayerCores)
    assert {layer.name: layer.core for layer in made.layers} == {"conv1": 1, "conv2": 2, "fc1": 0, "output": 3}
    conv1 = made.layers[0]
    assert (conv1.used["weights"], conv1.used["neurons"]) == (72, 168)
    assert (conv1.limits["weights"], conv1.limits["neurons"]) == (80, 1000)
    for layer in made.layers:
        assert all(layer.used[part] <= layer.limits[part] for part in layer.used)


def test_a_layer_without_a_core_is_held_against_the_largest() -> None:
    made = sf.map_net(small(), chip((700, 100), (80, 1000), (250, 1000), (40, 5)))
    assert isinstance(made, LayerCores)
    lost = next(layer for layer in made.layers if layer.core is None)
    assert lost.name == "fc1"
    assert (lost.used["weights"], lost.limits["weights"], lost.limits["neurons"]) == (720, 700, 1000)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (random_graph(2, gated=True), "computed gates"),
        (random_graph(3, relays=True), "messages with numbers"),
        (random_graph(0, graded_input=True), "messages with numbers, which the net has in input"),
    ],
)
def test_what_the_limits_do_not_tell_is_said(graph: FixedPointGraph, words: str) -> None:
    cautions = sf.map_net(graph, "speck").cautions
    assert "not simulated and nothing is priced" in cautions[0]
    assert "16 bits" in cautions[0]
    assert any(words in caution for caution in cautions)
    assert not any(words in caution for caution in sf.map_net(small(), "speck").cautions)
