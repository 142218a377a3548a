"""Jobs for tests of workers: top-level functions, which processes of any kind can import."""

import os
import signal
import time
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikefold.deploy.cache import Cache
from spikefold.errors import InputError, SpikefoldWarning


def add_up(array: NDArray[np.int64], factor: int) -> int:
    return int(array.sum()) * factor


def die_first(marker: Path, number: int, array: NDArray[np.int64]) -> int:
    """Job 2 ends its process when it runs for the first time; the others give it something to lose."""
    time.sleep(0.05)
    if number == 2 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return int(array.sum()) + number


def die_always(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def warn(number: int) -> int:
    warnings.warn(f"job {number}", SpikefoldWarning, stacklevel=1)
    return number


def refuse(number: int) -> int:
    raise InputError(f"job {number} is refused")


def process(_: int) -> int:
    time.sleep(0.2)
    return os.getpid()


def put_and_get(folder: Path, text: str) -> int:
    """Write an entry and read it back many times; gives how often what was read was neither nothing nor whole."""
    cache, arrays = Cache(folder), [np.arange(2000)]
    broken = 0
    for _ in range(40):
        cache.put("run", "0" * 64, (text, arrays))
        found = cache.get("run", "0" * 64)
        broken += found is None or found[0] != text or not np.array_equal(found[1][0], arrays[0])
    return broken
