"""The way from a net and a chip to a `Mapping`."""

from __future__ import annotations

from pathlib import Path
from typing import overload

import numpy as np

from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.deploy.hardware import ChipHardware, Hardware, LimitsHardware, load_hardware
from spikefold.deploy.mapping.demand import Connection, Counts
from spikefold.deploy.mapping.layer_cores import LayerCores, map_layers
from spikefold.deploy.mapping.layout import Core, Layer, Mapping
from spikefold.deploy.mapping.pack import pack
from spikefold.deploy.mapping.place import MAX_IMPROVED_ROUTES, Mesh, place
from spikefold.deploy.mapping.routes import routes_between
from spikefold.deploy.mapping.rules import cautions, violations
from spikefold.deploy.mapping.split import Split, core_limits, split
from spikefold.deploy.run import Net, open_net
from spikefold.errors import InputError, LoweringError

MAX_PARTS = 200_000
"""Parts of a net up to which they are placed: routes grow with their square, and would take tens of gigabytes."""


@overload
def map_net(net: Net, hardware: ChipHardware) -> Mapping: ...


@overload
def map_net(net: Net, hardware: LimitsHardware) -> LayerCores: ...


@overload
def map_net(net: Net, hardware: Hardware | str | Path) -> Mapping | LayerCores: ...


def map_net(net: Net, hardware: Hardware | str | Path) -> Mapping | LayerCores:
    """Put a net onto the cores of a chip, on as many chips as it needs, and list every rule of it that the net breaks.

    Populations are cut from the last to the first, as a neuron needs an out-axon for each core that it reaches; those
    that fit a core each share cores; cores are placed so that messages have short ways. On a chip of one core a layer,
    of which only limits are known, each population takes the core that holds it. The same net and chip give the same
    mapping.

    Parameters
    ----------
    net
        An integer net, or the .nir it lies in.
    hardware
        A chip: its name, the path of a YAML file, or what `load_hardware` gave.

    Returns
    -------
    Mapping or LayerCores
        The former on a chip with cores on a mesh, the latter on one of one core a layer, such as ``speck``.

    Raises
    ------
    InputError
        The hardware is a table of operations, which has no cores.
    LoweringError
        The net would take more cores than are worth placing, see `MAX_PARTS`.
    """
    graph = open_net(net)
    chip = hardware if not isinstance(hardware, str | Path) else load_hardware(hardware)
    if isinstance(chip, LimitsHardware):
        return map_layers(graph, chip)
    if not isinstance(chip, ChipHardware):
        raise InputError(
            f"hardware {chip.name!r} is a description of family {chip.family!r}, which has no cores to map onto: name "
            "a chip, such as loihi1, loihi2 or speck"
        )
    return _on_mesh(graph, chip)


def _on_mesh(graph: FixedPointGraph, chip: ChipHardware) -> Mapping:
    connections = tuple(Connection(graph, s) for s in graph.synapses)
    splits = _split_all(graph, connections, chip)
    _check_size(graph, splits, chip)
    loads, cores = pack(splits, chip)
    placed = {s.population.name: (s.grid, c) for s, c in zip(splits, cores, strict=True)}
    mesh = Mesh(chip)
    routes = [routes_between(c, placed.get(c.source), placed[c.target]) for c in connections]
    places, improved = place(routes, len(loads), mesh)
    notes = list(cautions(splits, chip))
    if not improved:
        notes.append(
            f"more than {MAX_IMPROVED_ROUTES:,} routes: cores lie in the order of the layers, and no shorter ways were "
            "looked for"
        )
    return Mapping(
        graph.name, chip.name, core_limits(chip), mesh.cores, (mesh.columns, mesh.rows),
        tuple(_layer(s, c, connections) for s, c in zip(splits, cores, strict=True)), connections,
        tuple(
            Core(i, load.parts, load.use, where, (column, row))
            for i, (load, (where, column, row)) in enumerate(zip(loads, places.tolist(), strict=True))
        ),
        violations(graph, splits, connections, 1 + int(places[:, 0].max(initial=0)), chip), tuple(notes),
    )  # fmt: skip


def _check_size(graph: FixedPointGraph, splits: list[Split], chip: ChipHardware) -> None:
    parts = sum(s.grid.boxes for s in splits)
    if parts <= MAX_PARTS:
        return
    largest = max(splits, key=lambda s: s.grid.boxes)
    raise LoweringError(
        f"net {graph.name!r} on {chip.name}: it falls into {parts:,} parts, for about "
        f"{parts / chip.limits.cores.number:,.0f} chips, {largest.grid.boxes:,} of them in layer "
        f"{largest.population.name!r}, whose {largest.limited_by} run out first; up to {MAX_PARTS:,} are placed: take "
        "a chip with more of that, or smaller layers"
    )


def _split_all(graph: FixedPointGraph, connections: tuple[Connection, ...], chip: ChipHardware) -> list[Split]:
    """All populations cut, in execution order; the last first, so that it is known which cores a source reaches."""
    reached = {n.name: np.zeros(n.shape, dtype=np.int64) for n in graph.neurons}
    splits = []
    for population in reversed(graph.neurons):
        incoming = [c for c in connections if c.target == population.name]
        splits.append(split(population, incoming, reached[population.name], chip))
        for connection in incoming:
            if not connection.from_outside:
                reached[connection.source] += connection.fan_out(splits[-1].grid)
    return splits[::-1]


def _layer(one: Split, cores: Counts, connections: tuple[Connection, ...]) -> Layer:
    fan_in = sum(c.fan_in for c in connections if c.target == one.population.name)
    return Layer(one.population.name, one.grid, cores, one.limited_by, fan_in)
