"""Put variants side by side: accuracy in three forms, spikes, operations, energy, and equality with Lava."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Sequence
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
from spikefold.deploy.comparison import LavaCheck, Row, paired
from spikefold.deploy.hardware import Hardware, OperationsHardware, load_hardware
from spikefold.deploy.lava.interpreter import explain_missing, lava_python
from spikefold.deploy.lemaire import matched_bits, price_ann, price_memory
from spikefold.deploy.price import Price, check_priced, price
from spikefold.deploy.run import differences, run
from spikefold.deploy.sources import NamedNet
from spikefold.deploy.verdict import plain_row, ratio, verdicts
from spikefold.errors import InputError
from spikefold.files import atomic_path

Report = Callable[[str], None]
CHIPS = ("loihi1", "loihi2", "cmos45")


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
        Names or YAML paths, each with energies. A table of operations with a line through its memories brings what it
        compares with, too: memory included, and the ANN of the same shape, with activations of 8 bits and of as many as
        tell what T steps of spikes can.
    lava_samples : int
        How many of ``clips`` Lava runs too; 0 leaves Lava out.
    report : callable
        Called with a line on what happens next.

    Raises
    ------
    HardwareConfigError
        A description is broken, or has no energies; nothing was run.
    """
    if len(labels) != clips.shape[1]:
        raise InputError(f"{len(labels)} labels for {clips.shape[1]} clips")
    chips = [check_priced(load_hardware(h)) for h in hardware]
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
            report(f"{net.name} {fixed.attention}: mapping and pricing")
            rows.append(
                Row(
                    net.name, fixed.attention, len(labels), float(original.mean()), float(right.mean()),
                    float(fixed_right.mean()), paired(original, right), paired(right, fixed_right),
                    {k: g.variation for k, g in calibration.gates.items()}, result.activity,
                    tuple(price(result, chip) for chip in chips), _beside(result.activity, chips), check, fixed,
                    fixed_right,
                )
            )  # fmt: skip
    return rows


def _beside(activity: Activity, hardware: Sequence[Hardware]) -> tuple[Price, ...]:
    """Prices that those by the tables among ``hardware`` compare with."""
    prices = []
    for table in (h for h in hardware if isinstance(h, OperationsHardware)):
        prices.append(price_ann(activity, table, "operations"))
        if table.sram.regression is not None:
            bits = dict.fromkeys((8, matched_bits(activity.time_steps)))
            prices += [price_memory(activity, table), *(price_ann(activity, table, activation_bits=b) for b in bits)]
    return tuple(prices)


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


def plain_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """All rows ready for JSON: every price line with its range, the ratios that make sense, and the verdict."""
    plain, answers = plain_row(rows), {v.chosen.name: v for v in verdicts(rows)}
    made = []
    for row in rows:
        verdict = answers.get(row.name)
        made.append(
            {
                **row.to_dict(),
                "ratios": ratios(row, plain),
                "against_plain": None if plain is None else vars(paired(plain.right, row.right)),
                "deploy": verdict is None or verdict.chosen is row,
                "verdict": None if verdict is None else verdict.sentence,
            }
        )
    return made


def ratios(row: Row, plain: Row | None) -> dict[str, float]:
    """Energy over that of the plain net on each piece of hardware, and over that of each ANN in its family."""
    found: dict[str, float] = {}
    own = [*row.prices, *(p for p in row.beside if not p.is_ann)]
    theirs = [] if plain is None else [*plain.prices, *plain.beside]
    for mine in own:
        others = [(f"{mine.hardware} / {plain.name}", p) for p in theirs if plain and p.hardware == mine.hardware]
        others += [(f"{mine.hardware} / {p.hardware}", p) for p in row.beside if p.is_ann and p.family == mine.family]
        found |= {name: ratio(mine, other) for name, other in others}
    return found


def write_csv(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """One line a row; energies in joules per inference, low, nominal and high."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        chips = [p.hardware for p in rows[0].prices] if rows else []
        beside = [p.hardware for p in rows[0].beside] if rows else []
        mapped = [p.hardware for p in rows[0].prices if p.latency is not None] if rows else []
        writer.writerow(
            ["net", "mode", "samples", "accuracy_original", "accuracy_lowered_float", "accuracy_fixed_point",
             "lowering_gained", "lowering_lost", "lowering_difference", "lowering_low", "lowering_high",
             "quantising_gained", "quantising_lost", "quantising_difference", "quantising_low", "quantising_high",
             "firing_rate", "synops", "neuron_updates", "gate_operations", "relay_messages", "relay_operations",
             *[f"{c}_{f}" for c in chips for f in ("joules_low", "joules", "joules_high", "lower_bound", "fits")],
             *[f"{c}_{f}" for c in beside for f in ("joules_low", "joules", "joules_high")],
             *[f"{c}_{f}" for c in mapped
               for f in ("cores", "chips", "steps", "seconds_low", "seconds", "seconds_high")],
             "gate_processor_joules", "lava_samples", "lava_different_spikes", "lava_different_membranes"]
        )  # fmt: skip
        for r in rows:
            energies = [x for p in r.prices for x in (p.total.low, p.total.value, p.total.high, p.lower_bound, p.fits)]
            energies += [x for p in r.beside for x in (p.total.low, p.total.value, p.total.high)]
            energies += [
                x for p in r.prices if p.latency is not None
                for x in (p.cores, p.chips, p.steps, p.latency.low, p.latency.value, p.latency.high)
            ]  # fmt: skip
            gate = next((p.gate_processor.value for p in r.prices if p.gate_processor is not None), "")
            lava = [r.lava.samples, r.lava.different_spikes, r.lava.different_membranes] if r.lava else ["", "", ""]
            changes = [x for c in (r.lowering, r.quantising) for x in (c.gained, c.lost, c.difference, c.low, c.high)]
            writer.writerow(
                [r.name, r.mode, r.samples, r.accuracy_original, r.accuracy_lowered, r.accuracy_fixed, *changes,
                 r.activity.firing_rate, r.activity.synops, r.activity.updates, r.activity.gate_operations,
                 r.activity.relay_messages, r.activity.relay_operations, *energies, gate, *lava]
            )  # fmt: skip


def write_json(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """What `plain_rows` gives."""
    with atomic_path(path) as temporary:
        Path(temporary).write_text(json.dumps(plain_rows(rows), indent=1) + "\n", encoding="utf-8")
