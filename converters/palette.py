"""Fewer threshold levels: a chip core holds a small table of threshold words, a folded gate asks for one a pixel.

Levels are chosen per population by weighted k-means of the logarithm of its thresholds, exactly: in one dimension the
clusters are intervals, and dynamic programming over their ends finds the best ones (H. Wang and M. Song,
"Ckmeans.1d.dp", The R Journal 3(2), 2011; with the divide and conquer of its later versions).

The logarithm, because a neuron is positively homogeneous: a threshold off by a factor is a current off by its inverse,
so relative errors count. It also keeps the levels where neurons fire: a threshold over a gate near 0 is huge, the
neuron hardly ever fires, and on a linear scale it would take levels from those that do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from spikefold.converters import arithmetic
from spikefold.converters.calibrate import batches
from spikefold.converters.engine import run_engine
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons
from spikefold.errors import InputError

Cost = Callable[[NDArray[np.int64], int], NDArray[np.float64]]


@dataclass(frozen=True)
class LayerPalette:
    """What a palette changed in one layer.

    Attributes
    ----------
    levels_before, levels : int
        Distinct thresholds.
    largest_change, mean_change : float
        Of the thresholds over the neurons, relative: 0.1 is 10 %.
    neuron_steps, spikes_differ : int
        Spikes compared on the calibration clips, and how many differ, the layers before it changed as well.
    """

    name: str
    levels_before: int
    levels: int
    largest_change: float
    mean_change: float
    neuron_steps: int
    spikes_differ: int


@dataclass(frozen=True)
class Palette:
    """A net with few threshold levels, and what that changed, per firing layer."""

    graph: FixedPointGraph
    layers: tuple[LayerPalette, ...]


def palettise(graph: FixedPointGraph, clips: NDArray[np.generic], levels: int = 16) -> Palette:
    """Reduce every threshold map to at most ``levels`` values.

    Parameters
    ----------
    graph : FixedPointGraph
        An integer net; layers with few enough levels stay as they are.
    clips : integer array ``[T, N, *input_shape]``
        Training samples, on which spikes are compared.
    levels : int
        Thresholds a population may have. A chip's limit is one per core; a population keeps it however it is spread
        over cores.

    Returns
    -------
    Palette
        The net, its provenance saying what was done, and the errors per layer.

    Raises
    ------
    InputError
        ``levels`` is below 1, or the clips do not fit the net.
    """
    if levels < 1:
        raise InputError(f"levels is {levels}; neurons need at least 1 threshold")
    reduced = replace(graph, neurons=tuple(_reduce(n, levels) for n in graph.neurons))
    slots: Counter[str] = Counter()
    differ: Counter[str] = Counter()
    for batch in batches(clips):
        before, after = run_engine(graph, batch).spikes, run_engine(reduced, batch).spikes
        slots.update({name: train.size for name, train in before.items()})
        differ.update({name: int((train != after[name]).sum()) for name, train in before.items()})
    layers = []
    for old, new in zip(graph.neurons, reduced.neurons, strict=True):
        if old.fires:
            change = np.abs(new.v_threshold - old.v_threshold) / np.maximum(old.v_threshold, 1)
            layers.append(
                LayerPalette(
                    old.name, old.threshold_levels, new.threshold_levels, float(change.max()), float(change.mean()),
                    slots[old.name], differ[old.name],
                )
            )  # fmt: skip
    record = {"levels": levels, "layers": [asdict(layer) for layer in layers]}
    return Palette(replace(reduced, provenance={**graph.provenance, "threshold_palette": record}), tuple(layers))


def nearest_levels(values: NDArray[np.int64], counts: NDArray[np.int64], levels: int) -> NDArray[np.int64]:
    """The level of each value: the best ``levels`` whole numbers, by mean squared error of the logarithm.

    Parameters
    ----------
    values : int64 array ``[n]``
        Distinct, ascending, at least 0; more than ``levels``. 0 counts as 1/2.
    counts : int64 array ``[n]``
        How often each occurs.
    levels : int
        How many clusters.

    Returns
    -------
    int64 array ``[n]``
    """
    logs = np.log(np.maximum(values, 0.5))
    x = logs - np.average(logs, weights=counts)  # sums of squares lose fewer digits around 0
    weight, first, second = (np.concatenate([[0.0], np.cumsum(counts * x**power)]) for power in range(3))

    def cost(starts: NDArray[np.int64], end: int) -> NDArray[np.float64]:
        """Squared error of one cluster ``start:end``, for each start."""
        inside = first[end] - first[starts]
        return np.asarray(second[end] - second[starts] - inside**2 / (weight[end] - weight[starts]))

    n = len(values)
    best = np.array([np.inf, *(cost(np.zeros(1, dtype=np.int64), end)[0] for end in range(1, n + 1))])
    last_starts = []
    for used in range(1, levels):
        best, last_start = _add_cluster(best, cost, used)
        last_starts.append(last_start)
    borders = [n]
    for last_start in reversed(last_starts):
        borders.append(int(last_start[borders[-1]]))
    borders = [0, *reversed(borders)]
    result = np.empty_like(values)
    for begin, end in pairwise(borders):
        centre = np.exp(np.average(logs[begin:end], weights=counts[begin:end]))
        result[begin:end] = np.clip(np.round(centre), values[begin], values[end - 1])
    return result


def _add_cluster(best: NDArray[np.float64], cost: Cost, used: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Smallest error of the first j values in ``used + 1`` clusters, and where the last one starts, ``[n + 1]`` each.

    ``best`` is the same for ``used`` clusters. Where the last cluster starts never falls as j grows, so each half of
    the j needs to look only at the starts on its side of the middle one's.
    """
    better, starts = np.full(len(best), np.inf), np.zeros(len(best), dtype=np.int64)
    waiting = [(used + 1, len(best) - 1, used, len(best) - 2)]
    while waiting:
        low, high, first, last = waiting.pop()
        if low > high:
            continue
        end = (low + high) // 2
        candidates = np.arange(first, min(last, end - 1) + 1)
        errors = best[candidates] + cost(candidates, end)
        place = int(errors.argmin())
        better[end], starts[end] = errors[place], candidates[place]
        waiting += [(low, end - 1, first, int(starts[end])), (end + 1, high, int(starts[end]), last)]
    return better, starts


def _reduce(population: Neurons, levels: int) -> Neurons:
    if not population.fires or population.threshold_levels <= levels:
        return population
    values, inverse, counts = np.unique(population.v_threshold, return_inverse=True, return_counts=True)
    chosen = nearest_levels(values, counts, levels)
    threshold = chosen[inverse].reshape(population.v_threshold.shape)
    if levels == 1:  # one number, not a map: it runs in the plain neurons of every backend
        threshold = threshold.flat[0].reshape(())
    reset = population.v_reset
    if reset is not None:  # homogeneous as well
        scaled = np.round(reset * (threshold / np.maximum(population.v_threshold, 1))).astype(np.int64)
        reset = np.clip(scaled, -arithmetic.MAX_THRESHOLD, threshold)
    return replace(population, v_threshold=threshold, v_reset=reset)
