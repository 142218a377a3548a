"""Put variants side by side: accuracy in three forms, spikes, operations, energy, and equality with Lava."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spikefold.converters.calibrate import Calibration, batches, calibrate, run_batches
from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.lower import Attention, lower, lower_float
from spikefold.converters.palette import palettise
from spikefold.deploy.activity import Activity
from spikefold.deploy.comparison import LavaCheck, Made, Row, paired
from spikefold.deploy.hardware import ChipHardware, Hardware, OperationsHardware, load_hardware
from spikefold.deploy.lava.interpreter import explain_missing, lava_python
from spikefold.deploy.lemaire import matched_bits, price_ann, price_memory
from spikefold.deploy.mapping.mapper import map_net
from spikefold.deploy.neurobench_beside import SAMPLES, CountedModule, beside, count_module
from spikefold.deploy.neurobench_words import reasons
from spikefold.deploy.price import Price, check_priced, price
from spikefold.deploy.run import are_right, differences, run
from spikefold.deploy.sources import NamedNet
from spikefold.deploy.threshold_cost import threshold_cost
from spikefold.deploy.verdict import plain_row, ratio, verdicts
from spikefold.errors import InputError
from spikefold.files import atomic_path

Report = Callable[[str], None]
Watch = Callable[[Made], None]
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
    threshold_levels: int | None = None,
    report: Report = lambda _: None,
    watch: Watch = lambda _: None,
) -> list[Row]:
    """Lower every net in every mode, run it on test clips and price it.

    Parameters
    ----------
    nets : sequence of NamedNet
        Trained modules in evaluation mode.
    calibration_clips, clips : arrays ``[T, N, *features]``
        Training samples for calibrating, and the samples to be judged on; never the same. On the first
        `neurobench_beside.SAMPLES` of ``clips`` the module is counted as NeuroBench does, too.
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
    threshold_levels : int, optional
        Beside each net with a layer of more thresholds a row of it with at most so many; see
        `spikefold.converters.palette`.
    report : callable
        Called with a line on what happens next.
    watch : callable
        Called with each row and what it was made of, such as `spikefold.Evidence.add`.

    Raises
    ------
    InputError
        Labels do not fit the clips, or ``threshold_levels`` is below 1; nothing was run.
    HardwareConfigError
        A description is broken, or has no energies; nothing was run.
    """
    if len(labels) != clips.shape[1]:
        raise InputError(f"{len(labels)} labels for {clips.shape[1]} clips")
    if threshold_levels is not None and threshold_levels < 1:
        raise InputError(f"threshold levels are {threshold_levels}; neurons need at least 1 threshold")
    chips = [check_priced(load_hardware(h)) for h in hardware]
    if lava_samples and lava_python() is None:
        report(f"Lava is left out: {explain_missing()}")
        lava_samples = 0
    bench = _Bench(clips, labels, chips, lava_samples, report)
    rows = []
    for net in nets:
        report(f"{net.name}: original on {len(labels)} samples")
        right = are_right(module_logits(net.module, clips), labels)
        report(f"{net.name}: capturing and calibrating on {calibration_clips.shape[1]} training samples")
        captured = capture(net.module, torch.from_numpy(np.ascontiguousarray(calibration_clips[:, :1])))
        calibration = calibrate(captured, calibration_clips)
        counted = None
        if not hasattr(net.module, "nir_graph"):  # a net that came as a file has no layers of torch to count
            report(f"{net.name}: counting as NeuroBench does on {min(SAMPLES, len(labels))} samples")
            counted = count_module(net.module, captured, clips)
        original = _Original(net, right, captured, calibration, counted)
        for mode in modes if calibration.gates else modes[:1]:
            lowered, _ = lower_float(captured, calibration, mode)
            report(f"{net.name} {mode}: lowered float net")
            lowered_right = are_right(run_batches(read_float_graph(lowered), clips), labels)
            report(f"{net.name} {mode}: quantising")
            fixed = lower(captured, calibration, mode, name=net.name)
            made = bench.make(original, lowered, lowered_right, fixed)
            watch(made)
            rows.append(made.row)
            if threshold_levels is not None and any(n.threshold_levels > threshold_levels for n in fixed.neurons):
                report(f"{rows[-1].title}: reducing to {threshold_levels} thresholds a layer")
                reduced = palettise(fixed, calibration_clips, threshold_levels).graph
                few = bench.make(original, lowered, lowered_right, reduced)
                change = paired(made.row.right, few.row.right)
                rows.append(replace(few.row, threshold_levels=threshold_levels, reducing=change))
                watch(replace(few, row=rows[-1]))
    return rows


@dataclass(frozen=True)
class _Original:
    """What is the same in all forms of a net."""

    net: NamedNet
    right: NDArray[np.bool_]
    captured: nir.NIRGraph
    calibration: Calibration
    counted: CountedModule | None


@dataclass(frozen=True)
class _Bench:
    """What every form of every net runs on."""

    clips: NDArray[np.generic]
    labels: NDArray[np.int64]
    chips: Sequence[ChipHardware | OperationsHardware]
    lava_samples: int
    report: Report

    def make(
        self, original: _Original, lowered: nir.NIRGraph, lowered_right: NDArray[np.bool_], fixed: FixedPointGraph
    ) -> Made:
        """Run an integer net, count and price what it did."""
        title = f"{original.net.name} {fixed.attention}"
        self.report(f"{title}: fixed point on ONNX Runtime")
        result = run(fixed, self.clips)
        right = are_right(result.logits, self.labels)
        check = None
        if self.lava_samples:
            self.report(f"{title}: {self.lava_samples} samples on Lava")
            check = check_lava(fixed, self.clips[:, : self.lava_samples])
        self.report(f"{title}: mapping and pricing")
        prices, costs, mappings = [], [], {}
        for chip in self.chips:
            mapping = map_net(fixed, chip) if isinstance(chip, ChipHardware) else None
            if mapping is not None:
                mappings[chip.name] = mapping
            prices.append(price(result, chip, mapping))
            if isinstance(chip, ChipHardware) and mapping is not None:
                costs.append(threshold_cost(fixed, chip, mapping))
        row = Row(
            original.net.name, fixed.attention, len(self.labels), float(original.right.mean()),
            float(lowered_right.mean()), float(right.mean()), paired(original.right, lowered_right),
            paired(lowered_right, right), {k: g.variation for k, g in original.calibration.gates.items()},
            result.activity, tuple(prices), _beside(result.activity, self.chips), check, fixed, right,
            None if original.counted is None else beside(original.counted, result),
            tuple(cost for cost in costs if cost is not None),
        )  # fmt: skip
        return Made(
            row, original.net.module, original.captured, lowered, original.calibration, result,
            self.clips, self.labels, tuple(self.chips), mappings,
        )  # fmt: skip


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
        plainly = row.to_dict()
        if row.neurobench is not None:
            plainly["neurobench"]["why"] = list(reasons(row.neurobench))
        made.append(
            {
                **plainly,
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


def csv_text(rows: Sequence[Row]) -> str:
    """One line a row; energies in joules per inference, low, nominal and high."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    chips = [p.hardware for p in rows[0].prices] if rows else []
    beside = [p.hardware for p in rows[0].beside] if rows else []
    mapped = [p.hardware for p in rows[0].prices if p.latency is not None] if rows else []
    writer.writerow(
        ["net", "mode", "threshold_levels", "samples",
         "accuracy_original", "accuracy_lowered_float", "accuracy_fixed_point",
         "lowering_gained", "lowering_lost", "lowering_difference", "lowering_low", "lowering_high",
         "quantising_gained", "quantising_lost", "quantising_difference", "quantising_low", "quantising_high",
         "reducing_difference", "reducing_low", "reducing_high",
         "firing_rate", "synops", "neuron_updates", "gate_operations", "relay_messages", "relay_operations",
         *[f"{c}_{f}" for c in chips for f in ("joules_low", "joules", "joules_high", "lower_bound", "fits")],
         *[f"{c}_{f}" for c in beside for f in ("joules_low", "joules", "joules_high")],
         *[f"{c}_{f}" for c in mapped
           for f in ("cores", "chips", "steps", "seconds_low", "seconds", "seconds_high")],
         "neurobench_samples", "neurobench_effective_acs", "neurobench_effective_macs",
         "neurobench_activation_sparsity", "neurobench_footprint_bytes", "those_samples_synops",
         "those_samples_activation_sparsity", "integer_net_bytes",
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
        few = ["", "", ""] if r.reducing is None else [r.reducing.difference, r.reducing.low, r.reducing.high]
        counts: list[object] = [""] * 8
        if r.neurobench is not None:
            both, there = r.neurobench, r.neurobench.module.counts
            counts = [there.samples, there.effective_acs, there.effective_macs, there.activation_sparsity,
                      there.footprint, both.mapped.synops, both.quiet, both.bytes.total]  # fmt: skip
        writer.writerow(
            [r.name, r.mode, r.threshold_levels, r.samples,
             r.accuracy_original, r.accuracy_lowered, r.accuracy_fixed, *changes, *few,
             r.activity.firing_rate, r.activity.synops, r.activity.updates, r.activity.gate_operations,
             r.activity.relay_messages, r.activity.relay_operations, *energies, *counts, gate, *lava]
        )  # fmt: skip
    return file.getvalue()


def write_csv(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """What `csv_text` gives."""
    with atomic_path(path) as temporary:
        temporary.write_text(csv_text(rows), encoding="utf-8", newline="")


def json_text(rows: Sequence[Row]) -> str:
    """What `plain_rows` gives."""
    return json.dumps(plain_rows(rows), indent=1) + "\n"


def write_json(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """What `json_text` gives."""
    with atomic_path(path) as temporary:
        Path(temporary).write_text(json_text(rows), encoding="utf-8")
