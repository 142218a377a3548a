"""The order in which populations run, and which of them have to run step by step.

A connection with a delay brings what its source sent steps ago, so its source may be its target, or come after it.
Populations that depend on each other in a circle make a block, which runs one step at a time; all others see whole
clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Links = Mapping[str, Sequence[tuple[str, bool]]]
"""For each population, what leads to it: the source's name, and whether every message of it comes a step late or more.

Sources that are no key, such as the input, are there from the start.
"""


class NoOrderError(Exception):
    """Populations wait for each other within one step; ``names`` are those."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"{sorted(names)} wait for each other within one step")
        self.names = sorted(names)


def execution_blocks(links: Links, last: str | None = None) -> tuple[tuple[str, ...], ...]:
    """Blocks in execution order, each in its own order; one of a single population without a circle is the usual.

    Parameters
    ----------
    links : mapping
        See `Links`.
    last : str, optional
        Comes last in its block where that is possible.

    Raises
    ------
    NoOrderError
        A circle has a way around without any delay.
    """
    waiting = dict(links)
    blocks: list[tuple[str, ...]] = []
    while waiting:
        ready = [n for n, sources in waiting.items() if not any(s in waiting for s, _ in sources)]
        found: list[tuple[str, ...]] = [(n,) for n in ready] or [_in_order(_first_circle(waiting), waiting, last)]
        blocks += found
        for name in (n for block in found for n in block):
            del waiting[name]
    return tuple(blocks)


def _first_circle(waiting: Links) -> list[str]:
    """Populations that all lead to each other and to which nothing else that waits leads."""
    before = {name: _ancestors(name, waiting) for name in waiting}
    return next(
        [m for m in waiting if m in ancestors]
        for name, ancestors in before.items()
        if name in ancestors and all(name in before[m] for m in ancestors)
    )


def _ancestors(name: str, waiting: Links) -> set[str]:
    found: set[str] = set()
    left = [name]
    while left:
        new = {s for s, _ in waiting[left.pop()] if s in waiting} - found
        found |= new
        left += new
    return found


def _in_order(names: Sequence[str], links: Links, last: str | None) -> tuple[str, ...]:
    waiting, ordered = list(names), []
    while waiting:
        ready = [n for n in waiting if not any(s in waiting and not delayed for s, delayed in links[n])]
        chosen = [n for n in ready if n != last] or ready
        if not chosen:
            raise NoOrderError(waiting)
        waiting.remove(chosen[0])
        ordered.append(chosen[0])
    return tuple(ordered)
