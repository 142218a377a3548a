"""Let populations that fit a core each share cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from spikefold.deploy.hardware import ChipHardware
from spikefold.deploy.mapping.demand import Needs
from spikefold.deploy.mapping.layout import Part, Use
from spikefold.deploy.mapping.split import Split, core_limits

NO_THRESHOLD = -1
"""Stands for the threshold word of populations that never fire."""


@dataclass(frozen=True)
class Load:
    """One core before it has a place; thresholds and formats that parts have in common count once."""

    parts: tuple[Part, ...]
    use: Use
    thresholds: frozenset[int] = frozenset()
    formats: frozenset[int] = frozenset()

    def with_load(self, other: Load) -> Load:
        """Both on one core."""
        a, b = self.use, other.use
        thresholds, formats = self.thresholds | other.thresholds, self.formats | other.formats
        added = {f.name: getattr(a, f.name) + getattr(b, f.name) for f in fields(Use)}
        use = replace(Use(**added), threshold_levels=len(thresholds), weight_formats=len(formats))
        return Load(self.parts + other.parts, use, thresholds, formats)

    def fits(self, limits: dict[str, int | None]) -> bool:
        """Whether a core holds it."""
        return all(limit is None or getattr(self.use, name) <= limit for name, limit in limits.items())


def pack(splits: Sequence[Split], chip: ChipHardware) -> tuple[list[Load], list[NDArray[np.int64]]]:
    """Put the boxes of all populations on cores, in the order given.

    Each box of a population that was cut has a core of its own. A population in one piece goes to the first core that
    holds other populations in one piece and has room for it by every limit, else to a new one (first fit).

    Returns
    -------
    list of Load
        Cores.
    list of int64 array
        For each split the core of each of its boxes.
    """
    limits = core_limits(chip)
    cores: list[Load] = []
    shared: list[int] = []
    placed: list[NDArray[np.int64]] = []
    for one in splits:
        loads = _loads(one)
        if len(loads) == 1:
            together = ((i, cores[i].with_load(loads[0])) for i in shared)
            found = next(((i, load) for i, load in together if load.fits(limits)), None)
            if found is not None:
                cores[found[0]] = found[1]
                placed.append(np.array(found[:1]))
                continue
            if loads[0].fits(limits):
                shared.append(len(cores))
        placed.append(np.arange(len(cores), len(cores) + len(loads)))
        cores += loads
    return cores, placed


def _loads(one: Split) -> list[Load]:
    name = one.population.name
    starts, stops = (bound.tolist() for bound in one.grid.bounds())
    columns = {f.name: getattr(one.needs, f.name).tolist() for f in fields(Needs)}
    uses = [Use(**dict(zip(columns, row, strict=True)), threshold_levels=level)
            for *row, level in zip(*columns.values(), one.levels.tolist(), strict=True)]  # fmt: skip
    parts = [Part(name, tuple(start), tuple(stop), use) for start, stop, use in zip(starts, stops, uses, strict=True)]
    if len(parts) > 1:
        return [Load((part,), part.use) for part in parts]
    words = np.unique(one.population.v_threshold).tolist() if one.population.fires else [NO_THRESHOLD]
    return [Load((parts[0],), parts[0].use, frozenset(words), frozenset(one.formats))]
