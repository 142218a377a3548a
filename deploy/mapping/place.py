"""Put cores on the tiles of chips so that messages have short ways.

Chips stand side by side in a row, so that the east edge of one meets the west edge of the next.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spikefold.deploy.hardware import ChipHardware
from spikefold.deploy.mapping.demand import Counts
from spikefold.deploy.mapping.routes import OUTSIDE, Sides

MAX_IMPROVED_ROUTES = 4_000_000
"""Beyond so many routes cores stay where the snake puts them: looking for better places would take minutes."""
PASSES = 3


class Mesh:
    """Slots for cores, numbered along a snake that runs up one column of tiles and down the next, chip after chip."""

    def __init__(self, chip: ChipHardware) -> None:
        self.columns, self.rows = chip.mesh.columns.number, chip.mesh.rows.number
        self.cores_per_tile = chip.mesh.cores_per_tile.number
        self.cores = min(chip.limits.cores.number, self.columns * self.rows * self.cores_per_tile)

    def places(self, slots: Counts) -> Counts:
        """Chip, column and row of slots, ``[slots, 3]``."""
        chips, tiles = slots // self.cores, slots % self.cores // self.cores_per_tile
        columns, rows = tiles // self.rows, tiles % self.rows
        return np.column_stack([chips, columns, np.where(columns % 2, self.rows - 1 - rows, rows)])

    def slots(self, x: int, y: int) -> range:
        """Slots of the tile in column ``x``, counted over all chips, and row ``y``."""
        chip, column = divmod(x, self.columns)
        tile = column * self.rows + (self.rows - 1 - y if column % 2 else y)
        first = chip * self.cores + tile * self.cores_per_tile
        return range(first, min(first + self.cores_per_tile, (chip + 1) * self.cores))

    def plane(self, slots: Counts) -> Counts:
        """Column, counted over all chips, and row of slots, ``[slots, 2]``."""
        chips, columns, rows = self.places(slots).T
        return np.column_stack([chips * self.columns + columns, rows])


def place(routes: Sequence[Sides], cores: int, mesh: Mesh, passes: int = PASSES) -> tuple[Counts, bool]:
    """Give every core a place: chip, column and row of its tile, ``[cores, 3]``.

    Cores are laid in their order along the snake. Then, ``passes`` times, each core in turn goes to the tile in the
    middle of those it talks to, exchanging places with what is there so that the way of all axons together gets
    shortest; it stays where that makes no way shorter.

    Returns
    -------
    int64 array, bool
        The places, and whether better ones than the snake's were looked for, see `MAX_IMPROVED_ROUTES`.
    """
    slots = np.arange(cores)
    source, target, axons = (np.concatenate(side) for side in zip(*routes, strict=True))
    counts = (source != OUTSIDE) & (source != target)
    small = int(counts.sum()) <= MAX_IMPROVED_ROUTES
    if small and counts.any():
        _improve(slots, mesh, (source[counts], target[counts], axons[counts]), passes)
    return mesh.places(slots), small


def _improve(slots: Counts, mesh: Mesh, routes: Sides, passes: int) -> None:
    """Exchange places in ``slots`` while that shortens the way of all axons."""
    talk = _Talk(routes, len(slots))
    owner = np.full(-(-len(slots) // mesh.cores) * mesh.cores, -1)
    owner[slots] = np.arange(len(slots))
    every = mesh.plane(np.arange(len(owner)))
    columns, rows = (np.arange(n) for n in every.max(axis=0) + 1)
    along, across = talk.axons_at(every[slots, 0], len(columns)), talk.axons_at(every[slots, 1], len(rows))
    axons = along.sum(axis=1)
    for _ in range(passes):
        moved = False
        for core in np.flatnonzero(axons).tolist():
            old = every[slots[core]]
            x = int(np.rint(along[core] @ columns / axons[core]))
            y = int(np.rint(across[core] @ rows / axons[core]))
            new = np.array([x, y])
            if (new == old).all() or not len(mesh.slots(x, y)):
                continue
            gains = [abs(places - b) - abs(places - a) for places, a, b in zip((columns, rows), old, new, strict=True)]
            free = np.array(mesh.slots(x, y))
            there = owner[free]
            taken = there >= 0
            change = np.full(len(free), along[core] @ gains[0] + across[core] @ gains[1])
            change[taken] -= along[there[taken]] @ gains[0] + across[there[taken]] @ gains[1]
            # two that talk to each other are no nearer after the exchange
            change[taken] += 2 * talk.between(core, there[taken]) * abs(new - old).sum()
            best = int(change.argmin())
            if change[best] >= 0:
                continue
            slot, other, moved = int(free[best]), int(there[best]), True
            owner[[slots[core], slot]] = other, core
            if other >= 0:
                slots[other] = slots[core]
            slots[core] = slot
            for one, a, b in ((core, old, new), *([(other, new, old)] if other >= 0 else [])):
                to, weights = talk.of(one)
                for held, before, after in zip((along, across), a, b, strict=True):
                    held[to, before] -= weights
                    held[to, after] += weights
        if not moved:
            return


class _Talk:
    """Who talks to whom over how many axons, either way, each pair once."""

    def __init__(self, routes: Sides, cores: int) -> None:
        source, target, axons = routes
        pairs = np.concatenate([source * cores + target, target * cores + source])
        each, where = np.unique(pairs, return_inverse=True)
        self._axons = np.zeros(len(each), dtype=np.int64)
        np.add.at(self._axons, where.reshape(-1), np.concatenate([axons, axons]))
        self._ends, self._others = np.divmod(each, cores)
        self._first = np.searchsorted(self._ends, np.arange(cores + 1))

    def of(self, core: int) -> tuple[Counts, Counts]:
        """Cores that talk to ``core``, in order, and the axons between."""
        edges = slice(self._first[core], self._first[core + 1])
        return self._others[edges], self._axons[edges]

    def between(self, core: int, others: Counts) -> Counts:
        """Axons between ``core`` and each of some others."""
        known, axons = self.of(core)
        at = np.searchsorted(known, others).clip(max=len(known) - 1)
        return np.where(known[at] == others, axons[at], 0)

    def axons_at(self, places: Counts, size: int) -> Counts:
        """For each core the axons to and from each of ``size`` places ``[cores, size]``, given the place of each."""
        held = np.zeros((len(places), size), dtype=np.int64)
        np.add.at(held, (self._ends, places[self._others]), self._axons)
        return held
