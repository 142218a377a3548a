"""Cut a population into boxes that each fit a core, with as few cores as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import product
from math import prod

import numpy as np

from spikefold.converters.fixed_point_graph import Neurons
from spikefold.deploy.hardware import ChipHardware
from spikefold.deploy.mapping.demand import (
    Connection,
    Counts,
    Cuts,
    Demand,
    Grid,
    Needs,
    ways,
)
from spikefold.deploy.mapping.thresholds import Thresholds

RESOURCES = {
    "neurons": "neurons_per_core",
    "synapse_bits": "synapse_memory",
    "in_axons": "in_axons",
    "out_axons": "out_axons",
    "threshold_levels": "threshold_levels_per_core",
    "weight_formats": "weight_formats_per_core",
}
"""What is limited on a core: the field of `Use`, and the limit's field of a hardware description."""

SOURCE_WEIGHT = 2.0
"""Cores at its sources that a core's worth of axons is charged as."""


@dataclass(frozen=True)
class Split:
    """How one population is cut.

    ``needs`` and ``levels`` (threshold words) are those of every box, in the order of ``grid.bounds()``; ``formats``
    are the weight formats of all connections that end here. ``limited_by`` is the resource that asks for most cores,
    None where one core holds everything; ``broken`` holds what a single neuron needs of resources of which no core has
    as much: the split leaves them out.
    """

    population: Neurons
    grid: Grid
    needs: Needs
    levels: Counts
    formats: frozenset[int]
    limited_by: str | None
    broken: dict[str, int]


def core_limits(chip: ChipHardware) -> dict[str, int | None]:
    """What a core offers of each resource, by the field of `Use`; None where no limit is known."""
    leaves = {name: getattr(chip.limits, field) for name, field in RESOURCES.items()}
    return {name: None if leaf is None else leaf.number for name, leaf in leaves.items()}


def split(population: Neurons, incoming: Sequence[Connection], fan_out: Counts, chip: ChipHardware) -> Split:
    """Find the boxes that take the fewest cores and keep every limit of a core.

    Rows and columns are cut into a grid, then the channels of every place of the grid on their own; lengths of the
    pieces of an axis differ by one at most. Out-axons belong to the sources: a neuron needs one for each core that it
    reaches. So boxes are charged for the cores that their axons will fill at the sources as well, ``cores + 2 * axons /
    (out-axons of a core)``: twice, because cutting a source more finely asks for axons at its own sources. Of equals,
    the one with fewest places is taken.

    Parameters
    ----------
    population
        What is to be cut.
    incoming
        Connections that end at it.
    fan_out
        Cores that each of its neurons reaches, over all connections that leave it: their targets are cut already.
    chip
        What it is cut for.
    """
    demand, thresholds = Demand(incoming, fan_out, chip), Thresholds(population)
    limits = {name: limit for name, limit in core_limits(chip).items() if limit is not None}
    if thresholds.words <= limits.get("threshold_levels", thresholds.words):
        limits.pop("threshold_levels", None)
    alone = demand.needs([Cuts.into(population.shape[0], population.shape[:1]), *_places(population.shape[1:])])
    broken = {n: int(getattr(alone, n).max()) for n in limits if n != "threshold_levels"}
    broken = {n: need for n, need in broken.items() if need > limits[n]}
    kept = {n: limit for n, limit in limits.items() if n not in broken}
    grid = _fewest(population.shape, demand, thresholds, kept)
    cuts = {int(n): [Cuts.ranges(population.shape[0], int(n)), *grid.places] for n in np.unique(grid.pieces)}
    exact = {n: demand.needs(c) for n, c in cuts.items()}
    gathered = {f.name: grid.gather({n: getattr(e, f.name) for n, e in exact.items()}) for f in fields(Needs)}
    levels = grid.gather({n: thresholds.distinct(c) for n, c in cuts.items()})
    limited_by = _scarcest(grid, demand, thresholds, kept) if grid.boxes > 1 else None
    formats = frozenset(c.weight_format for c in incoming)
    return Split(population, grid, Needs(**gathered), levels, formats, limited_by, broken)


def _places(shape: Sequence[int]) -> list[Cuts]:
    """Every place of the axes on its own."""
    return [Cuts.ranges(n, n) for n in shape]


def _fewest(shape: tuple[int, ...], demand: Demand, thresholds: Thresholds, limits: dict[str, int]) -> Grid:
    """The cheapest boxes within ``limits``, which every single neuron keeps."""
    first, *rest = shape
    counts = np.asarray(ways(first))
    best, cheapest = Grid(shape, tuple(_places(rest)), np.full(rest, first)), np.inf
    for pieces in sorted(product(*(ways(n) for n in rest)), key=prod):
        if prod(pieces) >= cheapest:
            break
        places = tuple(Cuts.ranges(n, p) for n, p in zip(rest, pieces, strict=True))
        cuts = [Cuts.into(first, ways(first)), *places]
        need, most = demand.needs(cuts), limits.get("threshold_levels")
        fits = np.ones_like(need.neurons, dtype=np.bool_)
        for name in (n for n in limits if n != "threshold_levels"):
            fits &= getattr(need, name) <= limits[name]
        if most is not None:
            fewest = -(-thresholds.distinct([Cuts.into(first, [1]), *places])[0] // most)
            fits &= np.multiply.outer(counts, np.ones_like(fewest)) >= fewest
            if not fits.any(axis=0).all() or counts[fits.argmax(axis=0)].sum() >= cheapest:
                continue
            fits = thresholds.narrow(fits, cuts, most)
        if not fits.any(axis=0).all():
            continue
        chosen = fits.argmax(axis=0)
        cost = float(counts[chosen].sum())
        if "out_axons" in limits:
            axons = np.take_along_axis(demand.axons_in(cuts), chosen[None], axis=0)
            cost += SOURCE_WEIGHT * int(axons.sum()) / limits["out_axons"]
        if cost < cheapest:
            best, cheapest = Grid(shape, places, counts[chosen]), cost
    return best


def _scarcest(grid: Grid, demand: Demand, thresholds: Thresholds, limits: dict[str, int]) -> str:
    """The limit for which the places of ``grid`` need most pieces; of equals, the most exceeded by the whole."""
    counts = np.asarray(ways(grid.shape[0]))
    cuts = [Cuts.into(grid.shape[0], ways(grid.shape[0])), *grid.places]
    need, whole = demand.needs(cuts), demand.needs([Cuts.ranges(n, 1) for n in grid.shape])
    ranks = {}
    for name, limit in limits.items():
        if name == "threshold_levels":
            fits = thresholds.narrow(np.ones_like(need.neurons, dtype=np.bool_), cuts, limit)
            uncut = thresholds.words
        else:
            fits, uncut = getattr(need, name) <= limit, int(getattr(whole, name).max())
        ranks[name] = int(counts[fits.argmax(axis=0)].sum()), uncut / limit
    return max(ranks, key=lambda name: ranks[name])
