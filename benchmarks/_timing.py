"""What the benchmarks share: interleaved repeats, medians, the machine, and the page that they write into."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

PAGE = Path(__file__).with_name("RESULTS.md")
BEGAN = time.perf_counter()
LOAD = "SPIKEFOLD_BENCH_LOAD"
BUSY = 0.5
"""Load average a core beyond which the figures are not to be trusted."""
PACKAGES = ("numpy", "torch", "numba", "onnxruntime", "snntorch", "spikingjelly", "norse", "lava-nc", "sanafe")
HEAD = "# What `make bench` found\n\nMedians of interleaved repeats, all written by the programs in this folder.\n"


def interleaved(
    contestants: Mapping[str, Callable[[], object]], rounds: int, limit_s: float = 60.0
) -> dict[str, list[float]]:
    """Seconds of every contestant in turn, round after round, each once untimed right before; at least 3 rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    start = time.perf_counter()
    for done in range(rounds):
        for name, run in contestants.items():
            run()  # the caches are this contestant's own when the clock starts
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
        if done >= 2 and time.perf_counter() - start > limit_s:
            break
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Median of each."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Exponent of growth: slope of a straight line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def machine() -> str:
    """Processor, cores and versions, in one line."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} missing")
    return f"{_processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, {', '.join(found)}."


def _load() -> float | None:
    """Processes that want a core, for each core, in the last minute; before the first program, see `_all`."""
    if LOAD in os.environ:
        return float(os.environ[LOAD])
    return os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else None


LOAD_AT_START = _load()
if LOAD_AT_START is not None:
    os.environ[LOAD] = str(LOAD_AT_START)
    print(f"Load average: {LOAD_AT_START:.1f} a core.", file=sys.stderr)
    if LOAD_AT_START > BUSY:
        print("Warning: the machine is busy with other things, so times will be too long.", file=sys.stderr)


def conditions() -> str:
    """When this was measured, and how busy the machine was at the start."""
    load = "unknown" if LOAD_AT_START is None else f"{LOAD_AT_START:.1f} a core"
    busy = " (**busy: times are too long**)" if LOAD_AT_START is not None and LOAD_AT_START > BUSY else ""
    return f"{date.today().isoformat()}, load average at the start {load}{busy}, {time.perf_counter() - BEGAN:.0f} s."


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, numbers to the right."""
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(['---', *['---:'] * (len(header) - 1)])}|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def write(name: str, title: str, lines: Sequence[str]) -> None:
    """Print a section and put it into the page, in place of what this program wrote before.

    A page of another machine or of other versions starts anew: figures side by side are of one machine.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    section = "\n".join([begin, f"## {title}", "", *lines, "", conditions(), end])
    print(section, flush=True)
    head = f"{HEAD}\n{machine()}\n"
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else head
    if not page.startswith(head):
        page = head
    if begin in page:
        page = page[: page.index(begin)] + section + page[page.index(end) + len(end) :]
    else:
        page = f"{page.rstrip()}\n\n{section}\n"
    PAGE.write_text(page, encoding="utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
