"""How the time of the fast engine grows with T, batch, width and depth, and the memory of a stream with its steps.

    python benchmarks/growth.py

The exponent is the slope of log time over log size: 1 is linear. Width multiplies the work of a convolution by its
square (2), the neurons by 1. The stream is the exact step graph in ONNX Runtime.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _nets import conv_net, events, lowered
from _timing import interleaved, medians, slope, table, write

from spikefold.converters.fast import FastEngine
from spikefold.converters.onnx import to_onnx_step
from spikefold.deploy.onnx_runner import StepRunner

SIZE, ROUNDS, STREAM = 16, 15, (200, 1000, 5000)
SIZES = {
    "T": (4, 8, 16, 32, 64),
    "batch": (8, 16, 32, 64, 128),
    "width": (16, 32, 64, 128),
    "depth": (2, 4, 8, 16),
}
GOALS = {"T": "1", "batch": "1", "width": "2 at most", "depth": "1"}


def contestant(what: str, size: int) -> Callable[[], object]:
    """A run of one size; all else is T = 8, batch 16, three layers of 16 channels."""
    steps, batch = (size if what == w else n for w, n in (("T", 8), ("batch", 16)))
    width, depth = (size if what == w else n for w, n in (("width", 16), ("depth", 3)))
    net = conv_net((2, *[width] * depth), (1,) * depth, SIZE)
    engine = FastEngine(lowered(net, (2, SIZE, SIZE), steps))
    clips = events(steps, batch, (2, SIZE, SIZE), 1)
    return lambda: engine.run(clips)


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def stream() -> list[str]:
    """Memory after ever more steps of one endless clip."""
    graph = lowered(conv_net((2, 16, 32), (1, 2), SIZE), (2, SIZE, SIZE), 8)
    runner, done, held = StepRunner(to_onnx_step(graph)), 0, []
    states = runner.initial_states(1)
    frames = events(50, 1, (2, SIZE, SIZE), 2)
    for until in STREAM:
        while done < until:
            _, states = runner.step(frames[done % len(frames)], states)
            done += 1
        held.append(resident())
    words = sum(int(np.prod(s.shape)) for s in states.values())
    grown = (held[-1] - held[0]) / 2**20
    return [
        f"Streaming, {STREAM[0]:,} to {STREAM[-1]:,} steps: {words:,} numbers of state all the way, {grown:+.1f} MiB "
        f"of memory ({', '.join(f'{h / 2**20:.0f}' for h in held)} MiB)."
    ]


def main() -> None:
    streamed = stream() if Path("/proc/self/statm").exists() else ["Streaming: memory cannot be read here."]
    rows = []
    for what, sizes in SIZES.items():
        contestants = {str(n): contestant(what, n) for n in sizes}
        median = medians(interleaved(contestants, ROUNDS, 30))
        seconds = [median[str(n)] for n in sizes]
        each = ", ".join(f"{n}: {s * 1e3:.1f} ms" for n, s in zip(sizes, seconds, strict=True))
        rows.append([what, f"{slope(sizes, seconds):.2f}", GOALS[what], each])
    header = ["", "exponent", "linear would be", "median times"]
    write("growth", "Growth", [*table(header, rows), "", *streamed])


if __name__ == "__main__":
    main()
