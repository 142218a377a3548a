"""What every core does in every step of a clip's way through the chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikefold.deploy.mapping.demand import Connection, Counts, Cuts, Grid
from spikefold.deploy.mapping.layout import Mapping
from spikefold.deploy.mapping.routes import box_sums
from spikefold.deploy.pipeline import Stage


@dataclass(frozen=True)
class Work:
    """Events of every core and step of the chip, ``[steps, cores]``, summed over the samples."""

    updated: Counts
    """Neurons (and values of relays) that a core holds, each updated in every step: ``[cores]``, of one sample."""
    fired: Counts
    """Updates that brought a message."""
    sent: Counts
    """Messages out, in words: one for each core and connection that a neuron reaches."""
    received: Counts
    """Messages in, in words."""
    synops: Counts
    """Synaptic operations, which the messages of a step cause in that step, before its barrier."""


def core_work(mapping: Mapping, stages: Sequence[Stage], sent: dict[str, Counts], words: dict[str, int]) -> Work:
    """Put what neurons sent onto their cores.

    Parameters
    ----------
    mapping
        Where they lie.
    stages
        When each population sends what it sends in step 0 of the clip; the input sends it in step 0 of the chip.
    sent
        For the input and every population, how many samples sent a message, ``[T, *shape]``.
    words
        Words that a message of each connection takes.

    Returns
    -------
    Work
        Of ``T + d`` steps, ``d`` being the longest delay: the last message, or answer, leaves in the last of them.
    """
    delays = {stage.name: stage.delay for stage in stages}
    time_steps = len(next(iter(sent.values())))
    shape = (time_steps + max(delays.values(), default=0), len(mapping.cores))
    work = Work(np.zeros(shape[1], np.int64), *(np.zeros(shape, np.int64) for _ in range(4)))

    def add(to: Counts, delay: int, cores: Counts, events: Counts) -> None:
        for step, row in enumerate(events, start=delay):
            np.add.at(to[step], cores, row)

    layers = {layer.name: layer for layer in mapping.layers}
    for layer in mapping.layers:
        starts, stops = layer.grid.bounds()
        np.add.at(work.updated, layer.cores, np.prod(stops - starts, axis=1))
        add(work.fired, delays[layer.name], layer.cores, box_sums(layer.grid, sent[layer.name]))
    for link in mapping.connections:
        messages, delay, target = sent[link.source], delays.get(link.source, 0), layers[link.target]
        if link.source in layers:
            source = layers[link.source]
            out = box_sums(source.grid, messages * link.fan_out(target.grid))
            add(work.sent, delay, source.cores, out * words[link.name])
        received, synops = _into_boxes(link, target.grid, messages)
        add(work.received, delay, target.cores, received * words[link.name])
        add(work.synops, delay, target.cores, synops)
    return work


def longest_ways(
    mapping: Mapping, stages: Sequence[Stage], sent: dict[str, Counts], hops: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Time [s] of the longest way that leads away from any core that sends in a step, ``[ends, steps]``.

    Parameters
    ----------
    mapping, stages, sent
        As of `core_work`. A core sends where it does so in any sample; the input's ways are not known.
    hops
        Time [s] of a hop east or west, and of one north or south, ``[ends, 2]``.
    """
    delays = {stage.name: stage.delay for stage in stages}
    time_steps = len(next(iter(sent.values())))
    found = np.zeros((len(hops), time_steps + max(delays.values(), default=0)))
    layers = {layer.name: layer for layer in mapping.layers}
    for link in (link for link in mapping.connections if link.source in layers and hops.any()):
        routes, source = mapping.routes(link.name), layers[link.source]
        sends = box_sums(source.grid, sent[link.source]) > 0
        for (column, row), all_steps in zip(hops, found, strict=True):
            longest = np.zeros(len(mapping.cores))
            np.maximum.at(longest, routes.source, routes.columns * column + routes.rows * row)
            steps = all_steps[delays[link.source] :][:time_steps]
            np.maximum(steps, (sends * longest[source.cores]).max(axis=1), out=steps)
    return found


def _into_boxes(link: Connection, grid: Grid, messages: Counts) -> tuple[Counts, Counts]:
    """Messages into every box of the target, and the synaptic operations that they cause, each ``[T, boxes]``."""
    if not link.is_conv:
        total = messages.reshape(len(messages), -1).sum(axis=1)[:, None]
        starts, stops = grid.bounds()
        return total * np.ones(grid.boxes, np.int64), total * np.prod(stops - starts, axis=1)
    rows, columns = (link.reach(axis, c.start, c.stop) for axis, c in enumerate(grid.places, start=1))
    pieces = [int(n) for n in np.unique(grid.pieces)]
    channels = {n: link.reach(0, c.start, c.stop) for n in pieces for c in [Cuts.ranges(grid.shape[0], n)]}
    reached = _weighted(grid, messages, rows > 0, columns > 0, {n: c > 0 for n, c in channels.items()})
    return reached, _weighted(grid, messages, rows, columns, channels)


def _weighted(
    grid: Grid, messages: Counts, rows: NDArray[Any], columns: NDArray[Any], channels: dict[int, NDArray[Any]]
) -> Counts:
    """Messages times what each is worth to each box, a product over the axes; float64 is fast, and exact here."""
    placed = rows.astype(np.float64) @ messages.astype(np.float64) @ columns.T.astype(np.float64)
    per_piece = {n: np.tensordot(placed, worth.astype(np.float64), axes=(1, 1)) for n, worth in channels.items()}
    boxes = [per_piece[int(n)][:, i, j] for (i, j), n in np.ndenumerate(grid.pieces)]
    return np.asarray(np.rint(np.concatenate(boxes, axis=1)), dtype=np.int64)
