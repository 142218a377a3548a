"""Routes between boxes of any size, and the messages along them, against a walk over every neuron."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from large_nets import neurons
from neuron_by_neuron import synapses_of
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Synapse
from spikefold.deploy.mapping.demand import Connection, Cuts, Grid
from spikefold.deploy.mapping.routes import OUTSIDE, box_sums, route_lengths, routes_between


def uneven(shape: tuple[int, ...], cuts: tuple[int, ...], seed: int) -> Grid:
    """Boxes whose first axis is cut into another number of pieces at each place."""
    places = tuple(Cuts.ranges(n, p) for n, p in zip(shape[1:], cuts, strict=True))
    return Grid(shape, places, np.random.default_rng(seed).integers(1, shape[0] + 1, cuts))


def boxes(grid: Grid) -> list[tuple[slice, ...]]:
    starts, stops = grid.bounds()
    return [tuple(map(slice, a, b)) for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]


@pytest.mark.parametrize(("shape", "cuts"), [((7,), ()), ((5, 4), (3,)), ((4, 6, 5), (2, 3)), ((1, 3, 3), (1, 1))])
@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_values_are_summed_box_by_box(shape: tuple[int, ...], cuts: tuple[int, ...], leading: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).integers(-50, 50, (*leading, *shape))
    grid = uneven(shape, cuts, 2)
    got = box_sums(grid, values)
    assert got.shape == (*leading, grid.boxes)
    for i, box in enumerate(boxes(grid)):
        assert np.array_equal(got[..., i], values[(..., *box)].sum(tuple(range(-len(shape), 0))))


CONNECTIONS = {
    "convolution": ((4, 7, 6), (6, 4, 3), {"stride": (2, 2), "padding": (1, 1)}, (6, 2, 3, 3), 2),
    "dilated": ((2, 6, 5), (3, 4, 5), {"padding": (1, 2), "dilation": (2, 2)}, (3, 2, 3, 3), 1),
    "pointwise": ((3, 4, 4), (5, 4, 4), {}, (5, 3, 1, 1), 1),
}


@pytest.mark.parametrize("name", [*CONNECTIONS, "dense"])
@pytest.mark.parametrize("seed", range(3))
def test_every_message_goes_once_to_each_core_that_its_neuron_reaches(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    if name == "dense":
        source_shape, target_shape = (3, 4, 3), (9,)
        synapse = Synapse("s", "a", "b", "dense", np.full((9, 36), 2))
    else:
        source_shape, target_shape, how, weight, groups = CONNECTIONS[name]
        synapse = Synapse("s", "a", "b", "conv", np.full(weight, 2), groups=groups, **how)
    into = Synapse("t", "input", "a", "dense", np.full((int(np.prod(source_shape)), 1), 2))
    graph = FixedPointGraph(
        InputPort((1,)), (neurons("a", source_shape), neurons("b", target_shape)), (into, synapse), "none", None
    )
    ends = [uneven(shape, (2, 3)[: len(shape) - 1], seed + i) for i, shape in enumerate((source_shape, target_shape))]
    placed = [(grid, rng.permutation(grid.boxes) + 100 * i) for i, grid in enumerate(ends)]
    reached: dict[int, set[tuple[int, ...]]] = {}
    for box, core in zip(boxes(ends[1]), placed[1][1].tolist(), strict=True):
        held = product(*(range(s.start, s.stop) for s in box))
        reached[core] = {source for neuron in held for source, _ in synapses_of(graph, synapse, neuron)}
    sent = rng.integers(0, 9, source_shape)
    axons: Counter[tuple[int, int]] = Counter()
    messages: Counter[tuple[int, int]] = Counter()
    for box, core in zip(boxes(ends[0]), placed[0][1].tolist(), strict=True):
        for neuron, (to, sources) in product(product(*(range(s.start, s.stop) for s in box)), reached.items()):
            axons[core, to] += neuron in sources
            messages[core, to] += int(sent[neuron]) * (neuron in sources)
    for wanted, given in ((axons, None), (messages, sent)):
        sources, targets, counts = routes_between(Connection(graph, synapse), placed[0], placed[1], given)
        pairs = list(zip(sources.tolist(), targets.tolist(), strict=True))
        assert sorted(pairs) == sorted(pair for pair, n in axons.items() if n)
        assert dict(zip(pairs, counts.tolist(), strict=True)) == {pair: wanted[pair] for pair in pairs}


def test_hops_run_along_a_row_then_a_column_and_borders_are_no_hops() -> None:
    """On chips of three columns: the tiles (chip, column, row) of four cores; nothing is counted from outside."""
    positions = np.array([[0, 0, 0], [0, 2, 1], [1, 0, 1], [2, 1, 0]])
    source, target = np.array([0, 0, 1, 3, 2, OUTSIDE]), np.array([0, 1, 2, 0, 3, 3])
    along, across, borders = route_lengths(positions, 3, source, target)
    assert along.tolist() == [0, 2, 0, 5, 3, 0]
    assert across.tolist() == [0, 1, 0, 0, 1, 0]
    assert borders.tolist() == [0, 0, 1, 2, 1, 0]
