"""Long work says how far it is; whoever wants to know listens, such as a command that draws a bar.

Nobody listens by default, and then saying it costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TypeAlias

Advance: TypeAlias = Callable[[int], None]
"""Told how many more units are done; any thread may call it."""
Listener: TypeAlias = Callable[[int, str], AbstractContextManager[Advance]]
"""Called with the number of units of a piece of work and what they are called."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Hear of all work that begins within the block."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


@contextmanager
def work(total: int, unit: str = "samples") -> Iterator[Advance]:
    """Say that ``total`` units of work begin; what the block gets is to be called with how many are done."""
    listener = _listener.get()
    if listener is None:
        yield _unheard
        return
    with listener(total, unit) as advance:
        yield advance


def _unheard(_: int) -> None:
    pass
