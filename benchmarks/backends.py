"""Seconds per sample of every backend on the same net and samples, side by side, as medians and ratios.

Run: ``make bench`` or ``python benchmarks/backends.py [--net plain] [--samples 16] [--rounds 5]``. Lava's start-up is
in its time, as a user meets it.
"""

from __future__ import annotations

import argparse
import statistics

from rich.table import Table

from spikefold.converters.capture import capture
from spikefold.converters.lower import ATTENTIONS, lower
from spikefold.deploy.lava.interpreter import explain_missing, lava_python
from spikefold.deploy.run import run
from spikefold.deploy.tables import console
from spikefold.models import saccade_mnist
from spikefold.models.checkpoints import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--net", default="plain", help="plain, asa or fsta")
    parser.add_argument("--attention", default="static", choices=ATTENTIONS)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    training = saccade_mnist.load("train").clips(32)
    clips = saccade_mnist.load("val").clips(options.samples)
    net = lower(capture(load(options.net), training), training, options.attention)
    backends = ["onnx", "torch", "reference"]
    if lava_python() is None:
        console(stderr=True).print(f"Lava is left out: {explain_missing()}")
    else:
        backends.append("lava")
    seconds: dict[str, list[float]] = {b: [] for b in backends}
    for _ in range(options.rounds):
        for backend in backends:
            seconds[backend].append(run(net, clips, backend).seconds / options.samples)
    medians = {b: statistics.median(s) for b, s in seconds.items()}
    what = f"{options.net} {options.attention}, {options.samples} samples, median of {options.rounds} rounds"
    table = Table(title=what)
    for name in ("backend", "ms a sample", "samples a second", "times ONNX Runtime's"):
        table.add_column(name, justify="right")
    for backend, median in medians.items():
        table.add_row(backend, f"{median * 1e3:.2f}", f"{1 / median:.0f}", f"{median / medians['onnx']:.1f}")
    console().print(table)


if __name__ == "__main__":
    main()
