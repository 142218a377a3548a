"""Accuracy and spikes of the shipped nets in every deployment mode, before and after fine-tuning.

    python benchmarks/deployment_ladder.py [NET ...]

Runs the 1,000 test digits of saccade-mnist through the module in float, through its integers in each mode (calibrated
on 128 training digits), and through the fine-tuned integers that come with the package. Writes the table into
``docs/deployment_modes.md``. Every net and mode is a fixed choice: nothing is selected by these figures.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import spikefold as sf
from spikefold.converters.calibrate import calibrate
from spikefold.converters.lower import ATTENTIONS
from spikefold.deploy.comparison import Paired, paired
from spikefold.deploy.run import Run, run
from spikefold.deploy.tuned import TUNED
from spikefold.errors import LoweringError
from spikefold.models import saccade_mnist

NETS = ("plain", "asa", "fsta", "staa", "sma")
CALIBRATION = 128
PAGE = Path(__file__).parents[1] / "docs" / "deployment_modes.md"
BEGIN, END = "<!-- ladder:begin -->", "<!-- ladder:end -->"


def right(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(logits.argmax(1) == labels)


def module_logits(net: torch.nn.Module, clips: NDArray[np.generic]) -> NDArray[np.float64]:
    parts = []
    with torch.no_grad():
        for start in range(0, clips.shape[1], 50):
            parts.append(net(torch.from_numpy(clips[:, start : start + 50].astype(np.float32))).double().numpy())
    return np.concatenate(parts)


def cells(result: Run, labels: NDArray[np.int64], original: NDArray[np.bool_]) -> list[str]:
    correct = right(result.logits, labels)
    return [f"{correct.mean():.1%}", points(paired(original, correct)), f"{spikes(result) / 1e3:.1f} k"]


def points(pair: Paired) -> str:
    return f"{100 * pair.difference:+.1f} [{100 * pair.low:+.1f}, {100 * pair.high:+.1f}]"


def spikes(result: Run) -> float:
    """Spikes and graded messages per clip."""
    return float(sum(counts.mean() for counts in result.spike_counts.values()))


def rows(name: str, clips: NDArray[np.generic], labels: NDArray[np.int64], training: NDArray[np.generic]) -> list[str]:
    net = sf.load(name)
    original = right(module_logits(net, clips), labels)
    graph = sf.capture(net, torch.from_numpy(training[:, :1]).float())
    calibration = calibrate(graph, training)
    lines = []
    for mode in ATTENTIONS if calibration.gates else ATTENTIONS[:1]:
        started = time.perf_counter()
        try:
            before = cells(run(sf.lower(graph, calibration, mode, name=name), clips), labels, original)
        except LoweringError as error:
            lines.append(f"| {name} | {mode} | {original.mean():.1%} | refused: {error} | | | | | |")
            continue
        tuned = f"{name}-{mode}-tuned"
        after = cells(run(tuned, clips), labels, original) if tuned in TUNED else ["", "", ""]
        shown = mode if calibration.gates else "no gates"
        lines.append(f"| {name} | {shown} | {original.mean():.1%} | {' | '.join(before)} | {' | '.join(after)} |")
        print(lines[-1], f"{time.perf_counter() - started:.0f} s", flush=True)
    return lines


def main() -> None:
    test, train = saccade_mnist.load("test"), saccade_mnist.load("train")
    clips, labels, training = test.clips(), test.labels, train.clips(CALIBRATION)
    lines = [
        "| net | mode | float | integers | change, points [95 %] | spikes | tuned | change, points [95 %] | spikes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sys.argv[1:] or NETS:
        lines += rows(name, clips, labels, training)
    if not sys.argv[1:]:
        page = PAGE.read_text(encoding="utf-8")
        head, tail = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
        PAGE.write_text("\n".join([head, *lines, tail]), encoding="utf-8")


if __name__ == "__main__":
    main()
