"""Cutting and sharing: nothing lost, nothing twice, no limit of a core passed, and no core more than needed."""

from collections import Counter
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import numpy as np
import pytest

import spikefold as sf
from chips import chip_with
from generated_graphs import any_graph, random_graph
from large_nets import convolution, neurons, resnet19
from neuron_by_neuron import neurons_of
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Synapse
from spikefold.deploy.mapping.layout import Mapping

TIGHT: list[dict[str, Any]] = [
    {"neurons_per_core": 30},
    {"synapse_memory": 9_000},
    {"in_axons": 40},
    {"out_axons": 60},
    {"threshold_levels_per_core": 3},
    {"neurons_per_core": 50, "in_axons": 80, "out_axons": 120, "threshold_levels_per_core": 9},
]


def check(mapping: Mapping, graph: FixedPointGraph) -> None:
    seen = Counter(
        (part.population, neuron) for core in mapping.cores for part in core.parts for neuron in neurons_of(part)
    )
    assert seen == Counter((n.name, at) for n in graph.neurons for at in np.ndindex(*n.shape))
    broken = {violation.layer for violation in mapping.violations}
    for core in mapping.cores:
        if not broken & {part.population for part in core.parts}:
            for name, limit in mapping.limits.items():
                assert limit is None or asdict(core.use)[name] <= limit, (core, name)


@pytest.mark.parametrize("limits", TIGHT, ids=lambda limits: "-".join(limits))
@pytest.mark.parametrize("seed", range(4))
def test_every_neuron_lies_on_one_core_and_no_core_is_above_a_limit(seed: int, limits: dict[str, Any]) -> None:
    graphs = (any_graph(seed, 3, gated=False), random_graph(seed, residual=True, per_neuron_thresholds=True))
    for graph in graphs:
        check(sf.map_net(graph, chip_with(**limits, channels_per_axon=2)), graph)


def test_limits_of_one_core_are_sums_over_the_parts_that_share_it() -> None:
    graph = random_graph(0, per_neuron_thresholds=True, residual=True)
    (core,) = sf.map_net(graph, chip_with(threshold_levels_per_core=None)).cores
    assert len(core.parts) == len(graph.neurons)
    for name in ("neurons", "synapse_bits", "in_axons", "out_axons", "synapses"):
        assert asdict(core.use)[name] == sum(asdict(part.use)[name] for part in core.parts)
    words = {int(w) for n in graph.neurons if n.fires for w in np.unique(n.v_threshold)}
    assert core.use.threshold_levels == len(words) + 1  # and that of the readout, which never fires
    assert core.use.weight_formats == len({s.exponent for s in graph.synapses})


@pytest.mark.parametrize("limit", ["neurons_per_core", "in_axons", "out_axons", "synapse_memory"])
def test_populations_stop_sharing_where_one_limit_would_be_passed(limit: str) -> None:
    graph = random_graph(0)
    (core,) = sf.map_net(graph, chip_with()).cores
    name = {"neurons_per_core": "neurons", "synapse_memory": "synapse_bits"}.get(limit, limit)
    fits = asdict(core.use)[name]
    assert len(sf.map_net(graph, chip_with(**{limit: fits})).cores) == 1
    assert len(sf.map_net(graph, chip_with(**{limit: fits - 1})).cores) == 2


def one_layer(shape: tuple[int, int, int], outputs: int) -> FixedPointGraph:
    conv = convolution("to conv", "input", "conv", (shape[0], outputs))
    return FixedPointGraph(InputPort(shape), (neurons("conv", (outputs, *shape[1:])),), (conv,), "none", None)


EACH_ALONE_AND_TWO = [
    {"neurons_per_core": 20}, {"in_axons": 40}, {"synapse_memory": 1_500}, {"in_axons": 48, "neurons_per_core": 30},
]  # fmt: skip


@pytest.mark.parametrize("limits", EACH_ALONE_AND_TWO)
def test_no_equal_grid_takes_fewer_cores(limits: dict[str, int]) -> None:
    """All grids of equal pieces, as few pieces as their longest allows, tried with what single boxes need."""
    graph, chip = one_layer((4, 6, 5), 6), chip_with(**limits, channels_per_axon=None)
    population = graph.neurons[0]
    fewest = population.size
    for pieces in product(*({-(-n // longest) for longest in range(1, n + 1)} for n in population.shape)):
        needs = [_box_needs(box) for box in _boxes(population.shape, pieces)]
        bound = {"neurons_per_core": 0, "in_axons": 1, "synapse_memory": 2}
        if all(need[bound[name]] <= limit for need in needs for name, limit in limits.items()):
            fewest = min(fewest, len(needs))
    assert fewest > 1
    assert len(sf.map_net(graph, chip).cores) <= fewest


def _boxes(shape: tuple[int, ...], pieces: tuple[int, ...]) -> list[tuple[range, ...]]:
    axes = [[range(i * n // p, (i + 1) * n // p) for i in range(p)] for n, p in zip(shape, pieces, strict=True)]
    return list(product(*axes))


def _box_needs(box: tuple[range, ...]) -> tuple[int, int, int]:
    outputs, rows, columns = box
    field = [min(r.stop, n - 1) - max(r.start - 1, 0) + 1 for r, n in ((rows, 6), (columns, 5))]
    taps = [len({k for y in r for k in (-1, 0, 1) if 0 <= y + k < n}) for r, n in ((rows, 6), (columns, 5))]
    blocks, rest = divmod(taps[0] * taps[1] * len(outputs), 64)
    bits = blocks * 1088 + (-(-(rest * 16 + 10) // 64) * 64 if rest else 0)
    return len(outputs) * len(rows) * len(columns), 4 * field[0] * field[1], 4 * bits


def test_a_source_is_cut_for_the_out_axons_that_its_target_asks_for() -> None:
    weight = 2 * np.arange(7 * 32).reshape(7, 32) % 200
    graph = FixedPointGraph(
        InputPort((1, 4, 4)), (neurons("a", (2, 4, 4)), neurons("b", (7,))),
        (convolution("to a", "input", "a", (1, 2), 1), Synapse("to b", "a", "b", "dense", weight)), "none", None,
    )  # fmt: skip
    mapping = sf.map_net(graph, chip_with(synapse_memory=32 * 64, out_axons=16))
    assert not mapping.violations
    a, b = mapping.layers
    assert len(b.cores) == 2  # rows of seven weights take two words, of which a core has one a row
    assert b.limited_by == "synapse_bits"
    assert len(a.cores) == 4  # 32 neurons that reach two cores each, 16 out-axons a core
    assert a.limited_by == "out_axons"


def test_channels_that_reach_more_cores_than_others_are_cut_for_their_own_axons() -> None:
    """Three groups of two channels lead to four channels each, on two cores: the middle group to both."""
    grouped = replace(convolution("to b", "a", "b", (6, 12), 1), groups=3, weight=np.full((12, 2, 1, 1), 2))
    graph = FixedPointGraph(
        InputPort((1, 1, 1)), (neurons("a", (6, 1, 1)), neurons("b", (12, 1, 1))),
        (convolution("to a", "input", "a", (1, 6), 1), grouped), "none", None,
    )  # fmt: skip
    mapping = sf.map_net(graph, chip_with(neurons_per_core=6, out_axons=3))
    a, b = mapping.layers
    assert len(b.cores) == 2
    out = [mapping.cores[core].use.out_axons for core in a.cores]
    assert out == [1, 1, 2, 2, 1, 1]  # in three pieces the middle one would take four
    check(mapping, graph)


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        ({"in_axons": 8, "channels_per_axon": None}, "in-axons"),
        ({"synapse_memory": 500}, "synapse memory, bit"),
    ],
)
def test_a_layer_that_fits_no_core_is_named_with_its_limit_and_mapped_all_the_same(
    limits: dict[str, Any], rule: str
) -> None:
    graph = one_layer((4, 6, 5), 6)
    mapping = sf.map_net(graph, chip_with(**limits))
    (violation,) = mapping.violations
    assert (violation.rule, violation.layer) == (rule, "conv")
    assert violation.used > violation.limit == next(iter(limits.values()))
    assert f"{rule}: layer conv uses {violation.used:,}, limit {violation.limit:,}" in str(violation)
    check(mapping, graph)
    assert len(mapping.cores) == 1  # the limits that can be kept ask for no more


@pytest.mark.parametrize("channels", [1, 4])
def test_a_map_of_thresholds_is_cut_until_every_core_has_few_enough(channels: int) -> None:
    """By rows, for no cut between channels leaves a core fewer thresholds."""
    graph = one_layer((1, 8, 8), channels)
    striped = replace(graph.neurons[0], v_threshold=np.arange(8).reshape(1, 8, 1) + 40)
    graph = replace(graph, neurons=(striped,))
    mapping = sf.map_net(graph, chip_with(threshold_levels_per_core=2))
    assert len(mapping.cores) == 4
    assert {core.use.threshold_levels for core in mapping.cores} == {2}
    assert mapping.layers[0].limited_by == "threshold_levels"
    assert any("4 cores for its 8 distinct thresholds" in caution for caution in mapping.cautions)
    assert not mapping.violations


@pytest.mark.parametrize("name", ["loihi1", "loihi2"])
def test_a_narrow_resnet19_maps_and_a_second_time_the_same(name: str) -> None:
    graph = resnet19(width=16, size=16)
    mapping = sf.map_net(graph, name)
    assert not mapping.violations
    check(mapping, graph)
    assert sf.map_net(graph, name).to_dict() == mapping.to_dict()
