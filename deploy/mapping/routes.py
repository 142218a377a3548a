"""Which cores talk to which, over how many axons and how far.

Messages run along a row of tiles and then along a column. Chips stand side by side in a row; stepping over the border
between two is counted as a border, not as a hop.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from spikefold.deploy.mapping.demand import Connection, Counts, Cuts, Grid

OUTSIDE = -1
"""Core number of what enters from outside, the input."""

Placed = tuple[Grid, Counts]
"""Boxes of a population and the core of each, in the order of ``Grid.bounds()``."""
Sides = tuple[Counts, Counts, Counts]
"""Source cores, target cores and axons of some routes; or what `route_lengths` gives."""


def routes_between(connection: Connection, source: Placed | None, target: Placed, sent: Counts | None = None) -> Sides:
    """Routes of one connection: pairs of cores, and how many neurons of the first reach the second.

    Parameters
    ----------
    connection
        The synapse.
    source
        Boxes of its source and the core of each; None for the input.
    target
        The same of where it leads.
    sent
        Messages of every source neuron, shaped as the source: then what is told of a route is the messages along it.
    """
    (grid, cores), (target_grid, target_cores) = source or _outside(connection.source_shape), target
    if not connection.is_conv:
        starts, stops = grid.bounds()
        sizes = np.prod(stops - starts, axis=1) if sent is None else box_sums(grid, sent)
        times = len(target_cores)
        return np.tile(cores, times), np.repeat(target_cores, len(cores)), np.tile(sizes, times)
    # source places that each target place reads
    reads = [connection.sources(axis, t.start, t.stop) for axis, t in enumerate(target_grid.places, start=1)]
    rows, columns = (_in_each(r, s) for r, s in zip(reads, grid.places, strict=True))
    (row_t, row_s), (column_t, column_s) = np.nonzero(rows), np.nonzero(columns)
    across = (np.repeat(row_t, len(column_t)), np.tile(column_t, len(row_t)))
    along = (np.repeat(row_s, len(column_s)), np.tile(column_s, len(row_s)))
    places = np.multiply.outer(rows[row_t, row_s], columns[column_t, column_s]).ravel()
    if sent is not None:
        masks = (_both(reads[0], row_t, grid.places[0], row_s), _both(reads[1], column_t, grid.places[1], column_s))
        per_channel = (masks[0] @ sent @ masks[1].T).reshape(len(sent), -1)
    pieces_t, pieces_s = target_grid.pieces[across], grid.pieces[along]
    first_t, first_s = (_first_boxes(g)[at] for g, at in ((target_grid, across), (grid, along)))
    found: list[Sides] = []
    for n_t, n_s in np.unique(np.column_stack([pieces_t, pieces_s]), axis=0).tolist():
        here = np.flatnonzero((pieces_t == n_t) & (pieces_s == n_s))
        to, off = Cuts.ranges(target_grid.shape[0], n_t), Cuts.ranges(grid.shape[0], n_s)
        read = connection.sources(0, to.start, to.stop)
        channels = _in_each(read, off)
        piece_t, piece_s = np.nonzero(channels)
        if sent is None:
            axons = np.multiply.outer(places[here], channels[piece_t, piece_s])
        else:
            axons = (_both(read, piece_t, off, piece_s) @ per_channel[:, here]).T
        found.append(
            (
                cores[np.add.outer(first_s[here], piece_s).ravel()],
                target_cores[np.add.outer(first_t[here], piece_t).ravel()],
                np.rint(axons).astype(np.int64).ravel(),
            )
        )
    sources, targets, axons = (np.concatenate(side) for side in zip(*found, strict=True))
    return sources, targets, axons


def box_sums(grid: Grid, values: Counts) -> Counts:
    """Sums of ``values`` ``[..., *grid.shape]`` over every box, ``[..., boxes]``, in the order of ``grid.bounds()``."""
    axes = len(grid.shape)
    total = np.pad(values, [(0, 0)] * (values.ndim - axes) + [(1, 0)] * axes)
    for axis in range(-axes, 0):
        total = total.cumsum(axis=axis)
    bounds = grid.bounds()
    total = np.moveaxis(total, range(-axes, 0), range(axes))
    sums = np.zeros((grid.boxes, *total.shape[axes:]), dtype=np.int64)
    for corner in product((0, 1), repeat=axes):
        at = tuple(bounds[side][:, axis] for axis, side in enumerate(corner))
        sums += (-1) ** (axes - sum(corner)) * total[at]
    return np.moveaxis(sums, 0, -1)


def _in_each(read: NDArray[np.bool_], pieces: Cuts) -> Counts:
    """Places read ``[ranges, source]``, counted by piece of the source's axis."""
    return np.asarray(np.add.reduceat(read.astype(np.int64), pieces.start, axis=1))


def _both(read: NDArray[np.bool_], target: Counts, pieces: Cuts, source: Counts) -> NDArray[np.float64]:
    """1 for each place that range ``target[i]`` reads in piece ``source[i]``; float64 multiplies fast, and is exact."""
    place = np.arange(read.shape[1])
    inside = (pieces.start[source, None] <= place) & (place < pieces.stop[source, None])
    return (read[target] & inside).astype(np.float64)


def _outside(shape: tuple[int, ...]) -> Placed:
    """The input: one box of its own, on no core."""
    whole = tuple(Cuts.ranges(n, 1) for n in shape[1:])
    return Grid(shape, whole, np.ones([1] * len(whole), dtype=np.int64)), np.array([OUTSIDE])


def _first_boxes(grid: Grid) -> Counts:
    """Number of the first box of every place."""
    before = np.cumsum(grid.pieces.ravel()) - grid.pieces.ravel()
    return np.asarray(before.reshape(grid.pieces.shape))


def route_lengths(positions: Counts, columns: int, source: Counts, target: Counts) -> Sides:
    """Hops along rows of tiles, hops along columns, and borders between chips.

    Parameters
    ----------
    positions
        Chip, column and row of every core, ``[cores, 3]``.
    columns
        Columns of tiles of a chip.
    source, target
        Cores; from `OUTSIDE` nothing is counted.
    """
    inside = source != OUTSIDE
    chips, _, across = np.where(inside, np.abs(positions[source] - positions[target]).T, 0)
    plane = positions[:, 0] * columns + positions[:, 1]
    along = np.where(inside, np.abs(plane[source] - plane[target]), 0)
    return along - chips, across, chips
