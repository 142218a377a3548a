"""Every backend on the shipped net `plain` and the same samples, side by side.

    python benchmarks/backends.py

What a user waits for `spikefold.run`, counts and the start of Lava included.
"""

from __future__ import annotations

import statistics

from _timing import table, write

from spikefold.converters.capture import capture
from spikefold.converters.lower import lower
from spikefold.deploy.lava.interpreter import explain_missing, lava_python
from spikefold.deploy.run import Backend, run
from spikefold.models import saccade_mnist
from spikefold.models.checkpoints import load

NET, SAMPLES, ROUNDS, LAVA_ROUNDS = "plain", 16, 15, 1


def main() -> None:
    training = saccade_mnist.load("train").clips(32)
    clips = saccade_mnist.load("val").clips(SAMPLES)
    net = lower(capture(load(NET), training), training)
    backends: list[Backend] = ["fast", "onnx", "torch", "reference"]
    lava = lava_python() is not None
    if lava:
        backends.append("lava")
    run(net, clips)  # what is compiled on first use
    seconds: dict[str, list[float]] = {b: [] for b in backends}
    for number in range(ROUNDS):
        for backend in backends:
            if backend != "lava" or number < LAVA_ROUNDS:
                seconds[backend].append(run(net, clips, backend).seconds / SAMPLES)
    medians = {b: statistics.median(s) for b, s in seconds.items()}
    rows = [
        [backend, f"{s * 1e3:.2f}", f"{1 / s:,.1f}", f"{s / medians['fast']:,.1f}"] for backend, s in medians.items()
    ]
    write(
        "backends",
        "Every backend, as a user meets it",
        [
            f"Shipped `{NET}`, {SAMPLES} samples a run, median of {ROUNDS} runs (Lava: {LAVA_ROUNDS}).",
            *([] if lava else [f"Lava is left out: {explain_missing()}"]),
            "",
            *table(["", "milliseconds a sample", "samples a second", "times fast's"], rows),
        ],
    )


if __name__ == "__main__":
    main()
