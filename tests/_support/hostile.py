"""What every hostile input must end in: a clear refusal, soon, in little memory, and nothing done on the way."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spikefold.errors import SpikefoldError

TIME_LIMIT_S = 20.0
"""Generous, for a busy machine: what is refused at all is refused within a second."""
PEAK_LIMIT = 400 << 20
"""Bytes that refusing one input may take, on top of what the process held."""
ADDRESS_LIMIT = 3 << 30
"""Bytes of addresses; past them the allocation itself fails, so that a broken reader cannot take the machine along."""
CANARY = "canary"


def refused(folder: Path, read: Callable[[], Any], *said: str) -> str:
    """Assert that ``read`` refuses with a `SpikefoldError` that says all of ``said``; gives its message.

    Nothing may be written into ``folder`` or run (what runs makes a file `CANARY` there), and neither much time nor
    much memory be taken. Memory that ran out is no refusal: the declared size was trusted.
    """
    before = _content(folder)
    start = time.monotonic()
    with bounded(), pytest.raises(SpikefoldError) as found:
        read()
    assert time.monotonic() - start < TIME_LIMIT_S, "it took too long"
    assert type(found.value) is not SpikefoldError, "a kind of error is needed, not their base"
    assert _content(folder) == before, "the folder was written to"
    cause: BaseException | None = found.value
    while cause is not None:
        assert not isinstance(cause, MemoryError), "memory ran out"
        assert "allocate memory" not in str(cause), "memory ran out"
        cause = cause.__cause__ or cause.__context__
    message = str(found.value)
    assert len(message) < 20_000, "the message is as hostile as the input"
    for part in said:
        assert part in message, f"{part!r} is not said in {message[:2000]!r}"
    return message


@contextmanager
def bounded() -> Iterator[None]:
    """Run the block in bounded memory, and assert that it stayed below `PEAK_LIMIT`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (held + ADDRESS_LIMIT, hard))
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    resident = _status("VmRSS")
    try:
        yield
    finally:
        peak = _status("VmHWM") - resident
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert peak < PEAK_LIMIT, f"it took {peak >> 20} MiB"


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def _content(folder: Path) -> dict[str, tuple[int, int]]:
    found = ((path, path.stat()) for path in folder.rglob("*") if path.is_file())
    return {str(path): (status.st_size, status.st_mtime_ns) for path, status in found}
