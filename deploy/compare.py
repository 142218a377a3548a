"""Put variants side by side: accuracy in three forms, spikes, operations, energy, and equality with Lava."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spikefold.converters.calibrate import batches, calibrate, run_batches
from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.lower import Attention, lower, lower_float
from spikefold.deploy.activity import Activity
from spikefold.deploy.hardware import load_hardware
from spikefold.deploy.lava.interpreter import explain_missing, lava_python
from spikefold.deploy.price import Price, price
from spikefold.deploy.run import differences, run
from spikefold.deploy.sources import NamedNet
from spikefold.errors import InputError
from spikefold.files import atomic_path

Report = Callable[[str], None]
CHIPS = ("loihi1", "loihi2", "cmos45")


@dataclass(frozen=True)
class Paired:
    """Two classifiers on the same samples: how many became right, how many became wrong.

    ``difference`` is second minus first; ``low`` and ``high`` are its 95 % interval for paired proportions after Bonett
    and Price (2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data").
    """

    samples: int
    gained: int
    lost: int
    difference: float
    low: float
    high: float


def paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Paired:
    """Compare which samples two classifiers got right, ``[N]`` each."""
    if first.shape != second.shape or first.size == 0:
        raise InputError(f"results of {first.shape} and {second.shape} samples cannot be paired")
    n = first.size
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = 1.959964 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return Paired(n, gained, lost, (gained - lost) / n, p - q - half, p - q + half)


@dataclass(frozen=True)
class LavaCheck:
    """Samples that Lava ran too, and what differed (0 is the promise)."""

    samples: int
    values: int
    different_spikes: int
    different_membranes: int


@dataclass(frozen=True)
class Row:
    """One variant in one attention mode."""

    name: str
    mode: str
    samples: int
    accuracy_original: float
    accuracy_lowered: float
    accuracy_fixed: float
    lowering: Paired
    quantising: Paired
    gate_variation: dict[str, float]
    activity: Activity
    prices: tuple[Price, ...]
    lava: LavaCheck | None
    fixed: FixedPointGraph

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the graph."""
        return {
            "net": self.name, "mode": self.mode, "samples": self.samples,
            "accuracy": {
                "original": self.accuracy_original, "lowered_float": self.accuracy_lowered,
                "fixed_point": self.accuracy_fixed,
            },
            "lowering_changes": vars(self.lowering), "quantising_changes": vars(self.quantising),
            "gate_variation": self.gate_variation, "firing_rate": self.activity.firing_rate,
            "spikes": self.activity.spikes, "synops": self.activity.synops, "neuron_updates": self.activity.updates,
            "gate_operations": self.activity.gate_operations,
            "energy": {p.hardware: p.to_dict() for p in self.prices},
            "lava": None if self.lava is None else vars(self.lava),
        }  # fmt: skip


def compare(
    nets: Sequence[NamedNet],
    calibration_clips: NDArray[np.generic],
    clips: NDArray[np.generic],
    labels: NDArray[np.int64],
    *,
    modes: Sequence[Attention] = ("static", "dynamic"),
    hardware: Sequence[str] = CHIPS,
    lava_samples: int = 4,
    report: Report = lambda _: None,
) -> list[Row]:
    """Lower every net in every mode, run it on test clips and price it.

    Parameters
    ----------
    nets : sequence of NamedNet
        Trained modules in evaluation mode.
    calibration_clips, clips : arrays ``[T, N, *features]``
        Training samples for calibrating, and the samples to be judged on; never the same.
    labels : int64 ``[N]``
        Classes of ``clips``.
    modes : sequence of "static", "scheduled", "causal", "dynamic"
        A net without gates gets one row, "none".
    hardware : sequence of str
        Names or YAML paths.
    lava_samples : int
        How many of ``clips`` Lava runs too; 0 leaves Lava out.
    report : callable
        Called with a line on what happens next.

    Raises
    ------
    BackendError
        Lava was asked for and is not there.
    """
    if len(labels) != clips.shape[1]:
        raise InputError(f"{len(labels)} labels for {clips.shape[1]} clips")
    chips = [load_hardware(h) for h in hardware]
    if lava_samples and lava_python() is None:
        report(f"Lava is left out: {explain_missing()}")
        lava_samples = 0
    rows = []
    for net in nets:
        report(f"{net.name}: original on {len(labels)} samples")
        original = module_logits(net.module, clips).argmax(1) == labels
        report(f"{net.name}: capturing and calibrating on {calibration_clips.shape[1]} training samples")
        captured = capture(net.module, torch.from_numpy(np.ascontiguousarray(calibration_clips[:, :1])))
        calibration = calibrate(captured, calibration_clips)
        for mode in modes if calibration.gates else modes[:1]:
            lowered, _ = lower_float(captured, calibration, mode)
            report(f"{net.name} {mode}: lowered float net")
            right = run_batches(read_float_graph(lowered), clips).argmax(1) == labels
            report(f"{net.name} {mode}: quantising")
            fixed = lower(captured, calibration, mode, name=net.name)
            report(f"{net.name} {fixed.attention}: fixed point on ONNX Runtime")
            result = run(fixed, clips)
            fixed_right = result.predictions == labels
            check = None
            if lava_samples:
                report(f"{net.name} {fixed.attention}: {lava_samples} samples on Lava")
                check = check_lava(fixed, clips[:, :lava_samples])
            rows.append(
                Row(
                    net.name, fixed.attention, len(labels), float(original.mean()), float(right.mean()),
                    float(fixed_right.mean()), paired(original, right), paired(right, fixed_right),
                    {k: g.variation for k, g in calibration.gates.items()}, result.activity,
                    tuple(price(result.activity, chip) for chip in chips), check, fixed,
                )
            )  # fmt: skip
    return rows


def module_logits(module: nn.Module, clips: NDArray[np.generic]) -> NDArray[np.float64]:
    """Outputs ``[N, classes]`` of a torch module on clips ``[T, N, ...]``, batch by batch in float32."""
    outputs = []
    with torch.no_grad():
        for batch in batches(clips):
            out = module(torch.from_numpy(np.ascontiguousarray(batch)).float())
            outputs.append((out.mean(0) if out.ndim > 2 else out).flatten(1).double().numpy())
    return np.concatenate(outputs)


def check_lava(fixed: FixedPointGraph, clips: NDArray[np.generic]) -> LavaCheck:
    """Run a few clips on Lava and on ONNX Runtime and count what differs."""
    lava, onnx = run(fixed, clips, "lava").trace, run(fixed, clips, "onnx", trace=True).trace
    if lava is None or onnx is None:
        raise InputError("a traced run kept no trace")
    spikes, membranes = differences(lava, onnx)
    return LavaCheck(clips.shape[1], sum(v.size for v in lava.membranes.values()), spikes, membranes)


def write_csv(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """One line a row; energies in joules per inference, low, nominal and high."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        chips = [p.hardware for p in rows[0].prices] if rows else []
        writer.writerow(
            ["net", "mode", "samples", "accuracy_original", "accuracy_lowered_float", "accuracy_fixed_point",
             "lowering_gained", "lowering_lost", "lowering_difference", "lowering_low", "lowering_high",
             "quantising_gained", "quantising_lost", "quantising_difference", "quantising_low", "quantising_high",
             "firing_rate", "synops", "neuron_updates", "gate_operations",
             *[f"{c}_{f}" for c in chips for f in ("joules_low", "joules", "joules_high", "lower_bound", "fits")],
             "gate_processor_joules", "lava_samples", "lava_different_spikes", "lava_different_membranes"]
        )  # fmt: skip
        for r in rows:
            energies = [x for p in r.prices for x in (p.total.low, p.total.value, p.total.high, p.lower_bound, p.fits)]
            gate = next((p.gate_processor.value for p in r.prices if p.gate_processor is not None), "")
            lava = [r.lava.samples, r.lava.different_spikes, r.lava.different_membranes] if r.lava else ["", "", ""]
            changes = [x for c in (r.lowering, r.quantising) for x in (c.gained, c.lost, c.difference, c.low, c.high)]
            writer.writerow(
                [r.name, r.mode, r.samples, r.accuracy_original, r.accuracy_lowered, r.accuracy_fixed, *changes,
                 r.activity.firing_rate, r.activity.synops, r.activity.updates, r.activity.gate_operations, *energies,
                 gate, *lava]
            )  # fmt: skip


def write_json(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """All rows with every price line and its range."""
    with atomic_path(path) as temporary:
        Path(temporary).write_text(json.dumps([r.to_dict() for r in rows], indent=1) + "\n", encoding="utf-8")
