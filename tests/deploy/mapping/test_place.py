"""Routes and places: every axon once, hops as the tiles lie, and shorter ways than the order of the layers gives."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

import spikefold as sf
from chips import chip_with, with_mesh
from generated_graphs import any_graph, random_graph
from large_nets import neurons, resnet19
from neuron_by_neuron import neurons_of, reach
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Synapse
from spikefold.deploy.mapping import place
from spikefold.deploy.mapping.layout import Mapping
from spikefold.deploy.mapping.routes import OUTSIDE

TINY = with_mesh(chip_with(neurons_per_core=20, out_axons=200), cores=12, columns=3, rows=2, cores_per_tile=2)


def dense_chain() -> FixedPointGraph:
    """Layers of 33 and 45 neurons, all to all: cores of unequal size on both sides."""
    weights = [2 * np.arange(n * m).reshape(n, m) % 200 for n, m in ((33, 5), (45, 33))]
    synapses = (
        Synapse("to a", "input", "a", "dense", weights[0]),
        Synapse("to b", "a", "b", "dense", weights[1]),
    )
    return FixedPointGraph(InputPort((5,)), (neurons("a", (33,)), neurons("b", (45,))), synapses, "none", None)


NETS: dict[str, Callable[[], FixedPointGraph]] = {
    "residual": lambda: random_graph(1, residual=True, depthwise=True, relays=True),
    "dense": dense_chain,
    **{f"any{seed}": partial(any_graph, seed, 3) for seed in range(1, 6)},
}


@pytest.mark.parametrize("net", NETS)
def test_routes_hold_every_axon_once(net: str) -> None:
    graph = NETS[net]()
    mapping = sf.map_net(graph, TINY)
    core_of = {(part, n): core.number for core in mapping.cores for part in core.parts for n in neurons_of(part)}
    home = {(part.population, n): number for (part, n), number in core_of.items()}
    expected: dict[tuple[str, int | None, int], int] = {}
    where = {part: core.number for core in mapping.cores for part in core.parts}
    for (population, neuron), parts in reach(graph, mapping).items():
        for connection, part in parts:
            key = (connection, home.get((population, neuron)), where[part])
            expected[key] = expected.get(key, 0) + 1
    routes = [route for s in graph.synapses for route in mapping.routes(s.name)]
    assert {(r.connection, r.source, r.target): r.axons for r in routes} == expected
    assert len(routes) == len(expected)


def test_hops_are_steps_between_tiles_and_borders_between_chips() -> None:
    mapping = sf.map_net(random_graph(0, residual=True), TINY)
    assert mapping.chips > 1
    columns = mapping.mesh[0]
    for connection in mapping.connections:
        for route in mapping.routes(connection.name):
            if route.source is None:
                assert (route.columns, route.rows, route.chips) == (0, 0, 0)
                continue
            a, b = mapping.cores[route.source], mapping.cores[route.target]
            steps = abs(a.chip * columns + a.tile[0] - b.chip * columns - b.tile[0])
            assert route.rows == abs(a.tile[1] - b.tile[1])
            assert route.chips == abs(a.chip - b.chip)
            assert route.columns + route.chips == steps


def test_traffic_sums_hops_of_every_axon() -> None:
    mapping = sf.map_net(random_graph(0, residual=True), TINY)
    for traffic in mapping.traffic:
        routes = list(mapping.routes(traffic.connection))
        assert traffic.routes == len(routes)
        assert traffic.axons == sum(r.axons for r in routes)
        assert traffic.column_hops == sum(r.axons * r.columns for r in routes)
        assert traffic.row_hops == sum(r.axons * r.rows for r in routes)
        assert traffic.chip_borders == sum(r.axons * r.chips for r in routes)
    assert sum(t.column_hops for t in mapping.traffic) > 0


def test_tiles_hold_as_many_cores_as_they_have_and_chips_are_filled_in_turn() -> None:
    mapping = sf.map_net(random_graph(0, residual=True), TINY)
    for tile in {(core.chip, core.tile) for core in mapping.cores}:
        assert sum((core.chip, core.tile) == tile for core in mapping.cores) <= 2
        assert tile[1][0] < 3
        assert tile[1][1] < 2
    assert mapping.chips == -(-len(mapping.cores) // 12)


def test_the_snake_steps_from_tile_to_neighbouring_tile() -> None:
    mesh = place.Mesh(chip_with())
    at = mesh.plane(np.arange(2 * mesh.cores))
    assert all(np.abs(a - b).sum() <= 1 for a, b in pairwise(at))
    assert len({tuple(p) for p in mesh.places(np.arange(2 * mesh.cores)).tolist()}) == 64
    for slot in (0, 17, 140, 255):
        assert slot in mesh.slots(*at[slot].tolist())


def way(mapping: Mapping) -> int:
    return sum(t.column_hops + t.row_hops + t.chip_borders for t in mapping.traffic)


def test_moving_cores_shortens_the_way_of_all_axons(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = resnet19(width=32, size=16)
    moved = sf.map_net(graph, "loihi1")
    monkeypatch.setattr(place, "MAX_IMPROVED_ROUTES", 0)
    snake = sf.map_net(graph, "loihi1")
    print(f"axon-hops: {way(snake):,} along the snake, {way(moved):,} after moving ({way(moved) / way(snake):.2f})")
    assert way(moved) < 0.9 * way(snake)
    assert any("no shorter ways were looked for" in caution for caution in snake.cautions)
    assert not moved.cautions


def improved_slowly(routes: list[tuple[int, int, int]], cores: int, mesh: place.Mesh, passes: int) -> list[int]:
    """The slot of every core as the exchanges leave them, every way measured anew for each that is tried."""
    slots = list(range(cores))
    end = -(-cores // mesh.cores) * mesh.cores
    between = [(a, b, n) for a, b, n in routes if a not in (b, OUTSIDE)]

    def way(of: list[int]) -> int:
        at = mesh.plane(np.array(of))
        return sum(n * int(abs(at[a] - at[b]).sum()) for a, b, n in between)

    for _ in range(passes):
        for core in range(cores):
            talks = [(b if a == core else a, n) for a, b, n in between if core in (a, b)]
            at, total = mesh.plane(np.array(slots)), sum(n for _, n in talks)
            x, y = (round(sum(int(at[o, i]) * n for o, n in talks) / max(1, total)) for i in (0, 1))
            if not talks or (x, y) == tuple(at[core]):
                continue
            tried = []
            for slot in (s for s in mesh.slots(x, y) if s < end):
                moved = [slots[core] if s == slot else s for s in slots]
                moved[core] = slot
                tried.append(moved)
            best = min(tried, key=way, default=slots)
            slots = best if way(best) < way(slots) else slots
    return slots


@pytest.mark.parametrize("cores", [1, 2, 7, 12, 13, 19, 25, 40])
@pytest.mark.parametrize("seed", range(3))
def test_cores_change_places_as_when_every_way_is_measured(cores: int, seed: int) -> None:
    rng, mesh = np.random.default_rng([cores, seed]), place.Mesh(TINY)
    ends = rng.integers(0, cores, (2, 3 * cores))
    ends[0, :2] = OUTSIDE
    axons = rng.integers(1, 9, 3 * cores)
    routes = list(zip(*ends.tolist(), axons.tolist(), strict=True))
    for passes in (0, 1, 3):
        slots = improved_slowly(routes, cores, mesh, passes)
        got, improved = place.place([(ends[0], ends[1], axons)], cores, mesh, passes)
        assert improved
        assert got.tolist() == mesh.places(np.array(slots)).tolist()


def test_a_route_of_no_such_connection_is_refused() -> None:
    mapping = sf.map_net(random_graph(0), "loihi1")
    with pytest.raises(sf.InputError, match="no connection 'zork'"):
        mapping.routes("zork")
