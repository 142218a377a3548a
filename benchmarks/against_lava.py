"""The fast engine beside Lava's CPU simulation: the same net, the same samples, the same bits.

    python benchmarks/against_lava.py [--samples 6]

Three dense convolutions 2-32-64-64 on 2 x 32 x 32, T = 16. Lava runs all samples one after another in
one run; what it takes to start is left out by the difference between a run of many samples and one of a single one.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from _nets import conv_net, events, lowered, rates
from _timing import interleaved, medians, table, write

from spikefold.converters.fast import FastEngine
from spikefold.deploy.lava.interpreter import explain_missing, lava_python
from spikefold.deploy.lava.runner import run_lava

CHANNELS, STRIDES, SIZE, STEPS, FAST_SAMPLES, LIMIT_S = (2, 32, 64, 64), (1, 1, 1), 32, 16, 32, 3600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=6, help="samples of the longer run of Lava")
    samples = parser.parse_args().samples
    if lava_python() is None:
        write("lava", "Lava's CPU simulation", [f"Left out: {explain_missing()}"])
        return
    shape = (CHANNELS[0], SIZE, SIZE)
    graph = lowered(conv_net(CHANNELS, STRIDES, SIZE), shape, STEPS)
    clips = events(STEPS, FAST_SAMPLES, shape, 1)
    engine = FastEngine(graph)
    taken, rounds = {}, 3
    for count in (1, samples):
        begin = time.perf_counter()
        trace = run_lava(graph, clips[:, :count], LIMIT_S)
        taken[count] = time.perf_counter() - begin
    ours = engine.run(clips[:, :samples], trace=True)
    assert ours.trace is not None  # noqa: S101
    differ = sum(int((ours.trace.spikes[k] != s).sum()) for k, s in trace.spikes.items())
    differ += sum(int((ours.trace.membranes[k] != v).sum()) for k, v in trace.membranes.items())
    fast = medians(interleaved({"fast": lambda: engine.run(clips)}, rounds * 5))["fast"] / FAST_SAMPLES
    lava = (taken[samples] - taken[1]) / (samples - 1)
    values = sum(2 * int(np.prod(s.shape)) for s in trace.spikes.values())
    write(
        "lava",
        "Lava's CPU simulation",
        [
            "Dense convolutions 2-32-64-64 (3x3, stride 1), 2 x 32 x 32, T = 16.",
            rates(ours.spike_counts, graph, STEPS),
            "",
            *table(
                ["", "seconds a sample", "samples a second"],
                [
                    ["spikefold fast", f"{fast:.5f}", f"{1 / fast:,.0f}"],
                    [f"Lava, {samples} samples in one run, without its start", f"{lava:.2f}", f"{1 / lava:.3f}"],
                    ["Lava, one sample, start included", f"{taken[1]:.1f}", ""],
                ],
            ),
            "",
            f"**{lava / fast:,.0f} times as fast as Lava** (goal 1,000); {differ} of {values:,} spikes and membranes "
            "differ.",
        ],
    )


if __name__ == "__main__":
    main()
