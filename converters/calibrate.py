"""Run a captured net on training samples and record what lowering needs: gate means, value ranges, spikes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikefold.converters.float_graph import FloatNet, FloatPopulation, read_float_graph
from spikefold.converters.gate_float import run_float
from spikefold.converters.gate_program import GateProgram
from spikefold.errors import InputError
from spikefold.work import work

BATCH = 50


@dataclass(frozen=True)
class GateStatistics:
    """Statistics of one gate over the calibration samples.

    ``mean`` is ``[T or 1, *features or 1]``; ``variation`` is the coefficient of variation over samples (standard
    deviation over mean, averaged over the gate's entries): 0 means that the gate does not depend on the input.
    ``ranges`` holds the smallest and largest value of every value of the gate program, the current first.
    """

    mean: NDArray[np.float64]
    variation: float
    smallest: float
    ranges: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Calibration:
    """What the training samples showed. ``clips`` ``[T, N, *shape]`` are kept for searching weight scales."""

    clips: NDArray[np.generic]
    gates: dict[str, GateStatistics]

    @property
    def time_steps(self) -> int:
        """T of the clips."""
        return int(self.clips.shape[0])


class _GateRecord:
    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.squares: Tensor | None = None
        self.count = 0
        self.smallest = float("inf")
        self.ranges: list[tuple[float, float]] = []

    def add(self, program: GateProgram, current: Tensor) -> None:
        seen = [(float(current.min()), float(current.max()))]
        gate = run_float(program, current, lambda _, v: seen.append((float(v.min()), float(v.max()))))
        gate = gate.expand(gate.shape[0], current.shape[1], *gate.shape[2:]).double()
        total, squares = gate.sum(1), gate.square().sum(1)
        self.total = total if self.total is None else self.total + total
        self.squares = squares if self.squares is None else self.squares + squares
        self.count += current.shape[1]
        self.smallest = min(self.smallest, float(gate.min()))
        old = self.ranges or seen
        self.ranges = [(min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(old, seen, strict=True)]

    def result(self) -> GateStatistics:
        if self.total is None or self.squares is None:
            raise InputError("calibration saw no samples")
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        variation = float((variance.sqrt() / mean.abs().clamp(min=1e-12)).mean())
        return GateStatistics(mean.numpy(), variation, self.smallest, tuple(self.ranges))


def batches(clips: NDArray[np.generic], size: int = BATCH) -> Iterator[NDArray[np.generic]]:
    """Cut clips ``[T, N, ...]`` along the samples; who listens to `spikefold.work` hears how far that is."""
    with work(clips.shape[1]) as advance:
        for start in range(0, clips.shape[1], size):
            part = clips[:, start : start + size]
            yield part
            advance(part.shape[1])


def events_per_clip(clips: NDArray[np.generic]) -> NDArray[np.int64]:
    """How many values other than 0 each of the clips ``[T, N, ...]`` holds, ``[N]``."""
    return np.asarray(np.count_nonzero(clips, axis=(0, *range(2, clips.ndim))), dtype=np.int64)


def calibrate(graph: nir.NIRGraph, clips: NDArray[np.generic]) -> Calibration:
    """Measure the gates of ``graph`` on training clips.

    Parameters
    ----------
    graph : nir.NIRGraph
        As `spikefold.converters.capture` made it.
    clips : array ``[T, N, *input_shape]``
        Training samples, never test samples; a hundred are plenty.

    Raises
    ------
    InputError
        No samples, another shape or T than the net takes, or values that are not finite.
    """
    if clips.ndim < 3 or 0 in clips.shape:
        raise InputError(f"calibration clips have shape {clips.shape}; [T, N, *features], none of them 0, is needed")
    if not np.isfinite(clips).all():
        raise InputError("calibration clips hold values that are not finite: clean the data first")
    net = read_float_graph(graph)
    records = {p.name: _GateRecord() for p in net.populations if p.gate is not None}

    def watch(population: FloatPopulation, current: Tensor, _: Tensor) -> None:
        if population.gate is not None:
            records[population.name].add(population.gate, current)

    run_batches(net, clips if records else clips[:, :1], watch)  # without gates, one clip shows whether clips fit
    return Calibration(clips, {name: record.result() for name, record in records.items()})


def run_batches(
    net: FloatNet,
    clips: NDArray[np.generic],
    watch: object = None,
) -> NDArray[np.float64]:
    """Logits ``[N, classes]`` of a float net for clips ``[T, N, ...]``, in float32, batch by batch."""
    logits = []
    with torch.no_grad():
        for batch in batches(clips):
            logits.append(net.run(torch.from_numpy(np.ascontiguousarray(batch)).float(), watch)[0].double().numpy())  # type: ignore[arg-type]
    return np.concatenate(logits)
