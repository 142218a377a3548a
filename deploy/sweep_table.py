"""The rows of a sweep as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spikefold.deploy.comparison import Paired
from spikefold.deploy.quantity import Range
from spikefold.deploy.sweep import SweepRow
from spikefold.deploy.words import change, count, ranged
from spikefold.files import atomic_path, made_folder


def plain_row(row: SweepRow) -> dict[str, Any]:
    """One row, a number or a text in each field; energies in joules and times in seconds per inference."""
    counted, price = row.activity, row.price
    return {
        "net": row.net, "mode": row.mode, "bits": row.bits, "threshold_levels": row.threshold_levels,
        "seed": row.seed, "hardware": row.hardware, "samples": len(row.right), "right": int(row.right.sum()),
        "accuracy": row.accuracy,
        **_changes("float", row.against_float), **_changes("first", row.against_first),
        "firing_rate": counted.firing_rate, "spikes": counted.spikes, "synops": counted.synops,
        "neuron_updates": counted.updates, "gate_operations": counted.gate_operations,
        "relay_messages": counted.relay_messages, "relay_operations": counted.relay_operations,
        **_range("joules", price.total), "lower_bound": price.lower_bound, "estimate": price.estimate,
        **_range("gate_processor_joules", price.gate_processor), "fits": price.fits, "cores": price.cores,
        "chips": price.chips, "steps": price.steps, **_range("seconds", price.latency),
    }  # fmt: skip


def _changes(name: str, change: Paired | None) -> dict[str, float | None]:
    fields = ("gained", "lost", "difference", "low", "high")
    return {f"against_{name}_{f}": None if change is None else getattr(change, f) for f in fields}


def _range(name: str, quantity: Range | None) -> dict[str, float | None]:
    low, value, high = (None,) * 3 if quantity is None else (quantity.low, quantity.value, quantity.high)
    return {f"{name}_low": low, name: value, f"{name}_high": high}


def plain_rows(rows: Sequence[SweepRow]) -> list[dict[str, Any]]:
    """All rows ready for JSON; ``wrong`` lists the samples that the integer net gets wrong."""
    return [{**plain_row(row), "wrong": np.flatnonzero(~row.right).tolist()} for row in rows]


def markdown(rows: Sequence[SweepRow]) -> list[str]:
    """Lines of a Markdown table: a choice of the columns, numbers to three digits."""
    columns = (
        "net", "mode", "bits", "thresholds", "seed", "chip", "accuracy", "against float, points [95 %]",
        "against the first", "spikes", "synops", "energy", "time", "fits",
    )  # fmt: skip
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        price = row.price
        cells = (
            row.net, row.mode, row.bits, "any" if row.threshold_levels is None else row.threshold_levels,
            "first" if row.seed is None else row.seed, row.hardware, f"{row.accuracy:.1%}",
            "" if row.against_float is None else change(row.against_float), change(row.against_first),
            count(row.activity.spikes), count(row.activity.synops),
            ("at least " if price.lower_bound else "") + ranged(price.total),
            "" if price.latency is None else ranged(price.latency, "s"),
            {True: "yes", False: "no", None: ""}[price.fits],
        )  # fmt: skip
        lines.append("| " + " | ".join("" if c is None else str(c).replace("|", "\\|") for c in cells) + " |")
    return lines


def write_tables(rows: Sequence[SweepRow], folder: Path) -> None:
    """``sweep.json``, ``sweep.csv`` and ``sweep.md`` in ``folder``, which is made if it is not there."""
    made_folder(folder)
    with atomic_path(folder / "sweep.json") as temporary:
        temporary.write_text(json.dumps(plain_rows(rows), indent=1) + "\n", encoding="utf-8")
    with atomic_path(folder / "sweep.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(plain_row(rows[0])))
        writer.writeheader()
        writer.writerows(plain_row(row) for row in rows)
    with atomic_path(folder / "sweep.md") as temporary:
        temporary.write_text("\n".join(markdown(rows)) + "\n", encoding="utf-8")
