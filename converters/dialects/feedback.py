"""Which connections of a circle come a step late.

NIR's edges take no time, but a simulator computes neurons in some order, and what leads back arrives a step later.
Where a circle has a ``Delay`` of a step or more, the file says so itself. Otherwise what leads back to the neurons at
which signals enter the circle is late, as in snnTorch's RLeaky and RSynaptic and wherever ``neurons -> weights -> the
same neurons``. A circle that signals enter at several neurons has no order of its own and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from spikefold.converters.capture.network import CapturedPopulation
from spikefold.converters.execution_order import NoOrderError, execution_blocks
from spikefold.errors import FileFormatError


def feedback(populations: Mapping[str, CapturedPopulation]) -> dict[str, frozenset[str]]:
    """For each population that something leads back to, the sources that come a step late.

    Raises
    ------
    FileFormatError
        A circle has no one way in.
    """
    direct = {name: {part.source for part in p.flow.parts if np.min(part.delay) < 1} for name, p in populations.items()}
    late: dict[str, frozenset[str]] = {}
    for block in execution_blocks({name: [(s, True) for s in sources] for name, sources in direct.items()}):
        names = set(block)
        if not any(direct[name] & names for name in block):
            continue
        entries = [n for n in block if any(part.source not in names for part in populations[n].flow.parts)]
        if len(entries) != 1 and len(block) > 1:
            raise FileFormatError(
                f"neurons {sorted(names)} form a circle that signals enter at {sorted(entries)}: which of them run "
                "first is open; put a Delay of one step on the connections that lead back"
            )
        entry = entries[0] if entries else block[0]
        late[entry] = frozenset(direct[entry] & names)
        for name in names - {entry}:
            if name in direct[name]:
                late[name] = frozenset({name})
        rest = {n: [(s, s in late.get(n, ())) for s in direct[n] & names] for n in block}
        try:
            execution_blocks(rest)
        except NoOrderError as error:
            raise FileFormatError(
                f"neurons {error.names} form a circle that does not pass {entry!r}, where signals enter: put a Delay "
                "of one step on the connections that lead back"
            ) from error
    return late
