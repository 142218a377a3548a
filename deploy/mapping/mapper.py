"""The way from a net and a chip to a `Mapping`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.deploy.hardware import ChipHardware, load_hardware
from spikefold.deploy.mapping.demand import Connection, Counts
from spikefold.deploy.mapping.layout import Core, Layer, Mapping
from spikefold.deploy.mapping.pack import pack
from spikefold.deploy.mapping.place import MAX_IMPROVED_ROUTES, Mesh, place
from spikefold.deploy.mapping.routes import routes_between
from spikefold.deploy.mapping.rules import cautions, violations
from spikefold.deploy.mapping.split import Split, core_limits, split
from spikefold.deploy.run import Net, open_net
from spikefold.errors import InputError


def map_net(net: Net, hardware: ChipHardware | str | Path) -> Mapping:
    """Put a net onto the cores of a chip, on as many chips as it needs.

    Populations are cut from the last to the first, as a neuron needs an out-axon for each core that it reaches; those
    that fit a core each share cores; cores are placed so that messages have short ways; and every rule of the chip that
    the net breaks is listed. The same net and chip give the same mapping.

    Parameters
    ----------
    net
        An integer net, or the .nir it lies in.
    hardware
        A chip: its name, the path of a YAML file, or what `load_hardware` gave.

    Raises
    ------
    InputError
        The hardware is no chip with cores on a mesh.
    """
    graph = open_net(net)
    chip = hardware if not isinstance(hardware, str | Path) else load_hardware(hardware)
    if not isinstance(chip, ChipHardware):
        raise InputError(
            f"hardware {chip.name!r} is a description of family {chip.family!r}: mapping needs a chip with cores on a "
            "mesh, such as loihi1 or loihi2"
        )
    connections = tuple(Connection(graph, s) for s in graph.synapses)
    splits = _split_all(graph, connections, chip)
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
