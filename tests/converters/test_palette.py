"""Threshold palettes: the best levels there are, honest errors, and still the same bits everywhere."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

import spikefold
from equivalence_nets import assert_equal
from generated_graphs import random_clips, random_graph
from spikefold.converters.engine import run_engine
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.onnx import to_onnx_step
from spikefold.converters.palette import Palette, nearest_levels, palettise
from spikefold.converters.reference import run_reference
from spikefold.deploy.equality import read_back, run_steps
from spikefold.deploy.lava.interpreter import explain_missing, lava_python
from spikefold.deploy.lava.runner import run_lava
from spikefold.deploy.onnx_runner import ClipRunner, StepRunner
from spikefold.errors import InputError

SEED = 7
LEVELS = 4


@lru_cache(maxsize=1)
def made() -> tuple[FixedPointGraph, NDArray[np.int64], Palette]:
    graph = random_graph(SEED, per_neuron_thresholds=True, residual=True)
    clips = random_clips(graph, SEED, batch=60)  # more than one batch
    return graph, clips, palettise(graph, clips, LEVELS)


def squared_error(values: NDArray[np.int64], counts: NDArray[np.int64], borders: list[int]) -> float:
    """Of the logarithm, each cluster around its mean."""
    total = 0.0
    for begin, end in pairwise(borders):
        logs, weights = np.log(values[begin:end]), counts[begin:end]
        total += float((weights * (logs - np.average(logs, weights=weights)) ** 2).sum())
    return total


@pytest.mark.parametrize("levels", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("seed", range(4))
def test_no_other_clusters_are_better(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.sort(rng.choice(np.arange(200, 20_000), 11, replace=False)).astype(np.int64)
    counts = rng.integers(1, 50, 11)
    found = nearest_levels(values, counts, levels)
    borders = [0, *(np.flatnonzero(np.diff(found)) + 1).tolist(), 11]
    assert len(borders) == levels + 1
    best = min(squared_error(values, counts, [0, *inner, 11]) for inner in combinations(range(1, 11), levels - 1))
    assert squared_error(values, counts, borders) == pytest.approx(best, rel=1e-9)
    for begin, end in pairwise(borders):
        centre = np.exp(np.average(np.log(values[begin:end]), weights=counts[begin:end]))
        assert abs(found[begin] - centre) <= 0.5


@pytest.mark.parametrize(("counts", "first_cluster"), [([90, 90, 1, 1], 1), ([1, 1, 1, 1], 2), ([1, 1, 90, 90], 3)])
def test_thresholds_of_many_neurons_are_kept_apart(counts: list[int], first_cluster: int) -> None:
    """Four thresholds at equal ratios, on two levels: the border lies between those that most neurons have."""
    found = nearest_levels(np.array([1000, 1100, 1210, 1331]), np.array(counts), 2)
    assert (found == found[0]).sum() == first_cluster


def test_many_values_are_split_as_well_as_few() -> None:
    """Equal counts on a geometric grid: the best clusters are of equal size."""
    values = np.unique(np.round(np.geomspace(10_000, 100_000, 4_000)).astype(np.int64))
    found = nearest_levels(values, np.ones_like(values), 16)
    sizes = np.unique(found, return_counts=True)[1]
    assert len(sizes) == 16
    assert sizes.max() - sizes.min() <= 4


def test_levels_go_where_neurons_fire() -> None:
    """Two huge thresholds, of neurons that hardly fire, take one level; on a linear scale they would take two of 3."""
    values = np.array([*range(100, 141), 5_000, 8_000])
    found = nearest_levels(values, np.ones_like(values), 3)
    assert found[-2] == found[-1] == round((5_000 * 8_000) ** 0.5)
    assert len(np.unique(found[:-2])) == 2


def test_a_threshold_of_zero_is_a_level_like_any_other() -> None:
    assert nearest_levels(np.array([0, 100, 101]), np.array([1, 1, 1]), 2).tolist() == [0, 100, 100]


def test_report_says_what_was_changed() -> None:
    graph, clips, palette = made()
    before, after = run_reference(graph, clips).spikes, run_reference(palette.graph, clips).spikes
    assert [layer.name for layer in palette.layers] == [n.name for n in graph.neurons if n.fires]
    for layer in palette.layers:
        old, new = (next(n for n in g.neurons if n.name == layer.name) for g in (graph, palette.graph))
        assert layer.levels_before == len(np.unique(old.v_threshold)) > LEVELS
        assert layer.levels == len(np.unique(new.v_threshold)) == LEVELS
        assert new.v_threshold.shape == old.v_threshold.shape
        change = np.abs(new.v_threshold / old.v_threshold - 1)
        assert layer.largest_change == pytest.approx(change.max())
        assert layer.mean_change == pytest.approx(change.mean())
        assert 0 < layer.mean_change < layer.largest_change < 0.5
        assert layer.neuron_steps == before[layer.name].size
        assert layer.spikes_differ == (before[layer.name] != after[layer.name]).sum()
    assert sum(layer.spikes_differ for layer in palette.layers) > 0


def test_nothing_but_thresholds_is_changed() -> None:
    graph, _, palette = made()
    assert palette.graph.synapses is graph.synapses
    for old, new in zip(graph.neurons, palette.graph.neurons, strict=True):
        assert (old.dv, old.unit, old.bias_exponent) == (new.dv, new.unit, new.bias_exponent)
        np.testing.assert_array_equal(old.bias, new.bias)


def test_more_levels_err_less_and_enough_change_nothing() -> None:
    graph, clips, palette = made()
    finer = palettise(graph, clips, 2 * LEVELS)
    for coarse, fine in zip(palette.layers, finer.layers, strict=True):
        assert fine.mean_change < coarse.mean_change
    whole = palettise(graph, clips, max(n.threshold_levels for n in graph.neurons))
    assert all((x.levels, x.largest_change, x.spikes_differ) == (x.levels_before, 0, 0) for x in whole.layers)
    for old, new in zip(graph.neurons, whole.graph.neurons, strict=True):
        assert new is old


def test_one_level_is_one_number() -> None:
    """As a map, even of equal numbers, it would need neurons of ours in Lava."""
    graph, clips, _ = made()
    for n in palettise(graph, clips[:, :2], 1).graph.neurons:
        assert n.v_threshold.shape == ()


def test_equal_on_every_backend_and_in_its_file() -> None:
    _, clips, palette = made()
    some = clips[:, :3]
    wanted = run_reference(palette.graph, some)
    assert_equal(run_engine(palette.graph, some), wanted)
    assert_equal(ClipRunner(palette.graph, trace=True).run(some).trace, wanted)
    assert_equal(run_steps(StepRunner(to_onnx_step(palette.graph)), palette.graph, some), wanted)
    again = read_back(palette.graph)
    assert_equal(run_reference(again, some), wanted)
    assert again.provenance["threshold_palette"]["levels"] == LEVELS
    assert again.provenance["threshold_palette"]["layers"] == [vars(layer) for layer in palette.layers]


@pytest.mark.lava
@pytest.mark.skipif(lava_python() is None, reason=explain_missing())
@pytest.mark.parametrize("levels", [1, LEVELS])
def test_equal_on_lava(levels: int) -> None:
    graph, clips, _ = made()
    reduced = palettise(graph, clips[:, :3], levels).graph
    assert_equal(run_lava(reduced, clips[:, :3], 300.0), run_reference(reduced, clips[:, :3]))


@pytest.mark.parametrize("levels", [1, LEVELS])
def test_what_a_spike_leaves_follows_the_levels_and_relays_stay(levels: int) -> None:
    graph = random_graph(SEED, per_neuron_thresholds=True, relays=True, resets=("value", "soft"))
    reduced = palettise(graph, random_clips(graph, SEED), levels)
    resets = 0
    for old, new in zip(graph.neurons, reduced.graph.neurons, strict=True):
        assert (new.relay, new.soft_reset, new.fires) == (old.relay, old.soft_reset, old.fires)
        if old.v_reset is not None and new.v_reset is not None:
            resets += 1
            wanted = old.v_reset * new.v_threshold / old.v_threshold
            assert np.abs(new.v_reset - wanted).max() <= 1
    assert resets
    assert [layer.name for layer in reduced.layers] == [n.name for n in graph.neurons if n.fires]


def test_no_levels_are_refused() -> None:
    graph, clips, _ = made()
    with pytest.raises(InputError, match="levels is 0"):
        spikefold.palettise(graph, clips, 0)
