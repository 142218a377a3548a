"""Distinct threshold words of boxes: the one need of a part that has no closed form."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.fixed_point_graph import Neurons
from spikefold.deploy.mapping.demand import Counts, Cuts


class Thresholds:
    """The thresholds of one population; relays and readouts have one."""

    def __init__(self, population: Neurons) -> None:
        words, level = np.unique(population.v_threshold if population.fires else 0, return_inverse=True)
        self.words = len(words)
        """Distinct words of the whole population."""
        level = level.reshape(population.v_threshold.shape) if self.words > 1 else np.zeros((), dtype=np.int64)
        self._level = np.broadcast_to(level, population.shape)

    def distinct(self, cuts: Sequence[Cuts]) -> Counts:
        """Words in every box of one way to cut the axes, ``[ranges, *places]``."""
        boxes = [len(c.start) for c in cuts]
        if self.words == 1:
            return np.ones(boxes, dtype=np.int64)
        piece = [np.repeat(np.arange(len(c.start)), c.lengths) for c in cuts]
        box = np.ravel_multi_index(np.ix_(*piece), boxes)
        found = np.unique(box * self.words + self._level) // self.words
        return np.bincount(found, minlength=prod(boxes)).reshape(boxes)

    def narrow(self, fits: NDArray[np.bool_], cuts: Sequence[Cuts], most: int) -> NDArray[np.bool_]:
        """Keep of ``fits`` (``[ways, *places]``) the first way of each place whose ranges have ``most`` words at most.

        Ways are counted one by one, those with fewest ranges first, and no further than to the last place's first way.
        """
        channels, kept = cuts[0], np.zeros_like(fits)
        behind = [*channels.first[1:], len(channels.start)]
        for way, (first, last) in enumerate(zip(channels.first, behind, strict=True)):
            open_places = fits[way] & ~kept.any(axis=0)
            if open_places.any():
                ranges = Cuts(channels.start[first:last], channels.stop[first:last], np.arange(last - first))
                kept[way] = open_places & (self.distinct([ranges, *cuts[1:]]).max(axis=0) <= most)
        return kept
