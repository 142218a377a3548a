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
    source, target, axons = routes
    ends, others = np.concatenate([source, target]), np.concatenate([target, source])
    order = np.argsort(ends, kind="stable")
    others, weights = others[order], np.concatenate([axons, axons])[order]
    first = np.searchsorted(ends[order], np.arange(len(slots) + 1))
    owner = np.full(-(-len(slots) // mesh.cores) * mesh.cores, -1)
    owner[slots] = np.arange(len(slots))
    every = mesh.plane(np.arange(len(owner)))
    at = every[slots]

    def way(core: int, place: Counts, but: int) -> int:
        edges = slice(first[core], first[core + 1])
        far = np.abs(at[others[edges]] - place).sum(axis=1) * (others[edges] != but)
        return int(far @ weights[edges])

    for _ in range(passes):
        moved = False
        for core in range(len(slots)):
            edges = slice(first[core], first[core + 1])
            if first[core] == first[core + 1]:
                continue
            x, y = np.rint(np.average(at[others[edges]], axis=0, weights=weights[edges])).astype(int).tolist()
            here, best, shortest = int(slots[core]), -1, 0
            for slot in mesh.slots(x, y):
                if slot == here or (every[slot] == every[here]).all():
                    continue
                there = int(owner[slot])
                change = way(core, every[slot], there) - way(core, every[here], there)
                if there >= 0:
                    change += way(there, every[here], core) - way(there, every[slot], core)
                if change < shortest:
                    best, shortest = slot, change
            if best >= 0:
                there = int(owner[best])
                owner[[here, best]] = there, core
                slots[core], at[core], moved = best, every[best], True
                if there >= 0:
                    slots[there], at[there] = here, every[here]
        if not moved:
            return
