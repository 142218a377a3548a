"""Limits of a chip of one core a layer, on small nets and a small made-up chip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from generated_graphs import random_graph
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.deploy.hardware import LimitsHardware, load_hardware
from spikefold.deploy.mapping.layer_cores import layer_core_violations
from spikefold.deploy.mapping.layout import Violation
from spikefold.deploy.quantity import Count


def speck() -> LimitsHardware:
    hardware = load_hardware("speck")
    assert isinstance(hardware, LimitsHardware)
    return hardware


def chip(*cores: tuple[int, int]) -> LimitsHardware:
    """Speck with these cores: weights and neurons each."""
    known = speck()
    made = [
        known.limits.cores[0].model_copy(update={"weights": count(weights), "neurons": count(neurons)})
        for weights, neurons in cores
    ]
    return known.model_copy(update={"limits": known.limits.model_copy(update={"cores": made})})


def count(number: int) -> Count:
    return Count(value=number, low=number, high=number, unit="count", grade="V", source="a made-up chip")


def small() -> FixedPointGraph:
    """Four populations: 72, 216, 720 and 30 weights; 168, 72, 10 and 3 neurons."""
    return random_graph(0)


def rules(graph: FixedPointGraph, hardware: LimitsHardware) -> dict[str, Violation]:
    return {violation.rule: violation for violation in layer_core_violations(graph, hardware)}


def test_a_small_net_fits_speck():
    assert layer_core_violations(small(), speck()) == ()


def test_a_net_of_more_layers_than_cores_does_not_fit():
    (violation,) = layer_core_violations(small(), chip((1000, 1000), (1000, 1000), (1000, 1000)))
    assert (violation.rule, violation.used, violation.limit) == ("layers", 4, 3)


@pytest.mark.parametrize(
    ("cores", "rule", "used", "limit"),
    [(((700, 1000),) * 4, "weights", 720, 700), (((1000, 100),) * 4, "neurons", 168, 100)],
)
def test_a_layer_that_no_core_holds_is_named(cores, rule, used, limit):
    (violation,) = layer_core_violations(small(), chip(*cores))
    assert (violation.rule, violation.used, violation.limit) == (rule, used, limit)


def test_a_layer_may_fit_by_each_part_and_by_no_core():
    violation = rules(small(), chip((50, 1000), (1000, 100), (1000, 100), (1000, 100)))["weights"]
    assert (violation.layer, violation.used, violation.limit) == ("conv1", 72, 50)
    assert "room for its neurons" in violation.advice


def test_layers_are_moved_to_make_room_for_those_that_fit_fewer_cores():
    assert layer_core_violations(small(), chip((1000, 1000), (80, 1000), (250, 1000), (40, 5))) == ()


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


def test_kernels_must_be_square():
    graph = small()
    first = graph.synapses[0]
    narrow = replace(first, weight=first.weight[:, :, :, 1:2], padding=(1, 0))
    violation = rules(replace(graph, synapses=(narrow, *graph.synapses[1:])), speck())["square kernels"]
    assert (violation.layer, violation.used, violation.limit) == ("conv1", 3, 1)
