"""What `verify` found, as text, and as files: ``verification.json`` whole, ``layers.csv`` one line a layer."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spikefold.deploy.equality import BackendEquality
from spikefold.deploy.states import Used
from spikefold.deploy.verify import Verification
from spikefold.files import atomic_path, made_folder


def summary_lines(v: Verification) -> list[str]:
    """The report as text, one kind of error after the other and each layer in a line of it."""
    parts = (_folding_lines, _attention_lines, _quantisation_lines, _state_lines, _backend_lines)
    return [line for part in parts for line in part(v)]


def headlines(v: Verification) -> list[str]:
    """Of folding, attention and quantising one line each."""
    return [part(v)[0] for part in (_folding_lines, _attention_lines, _quantisation_lines)]


def write_report(v: Verification, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write ``verification.json`` and ``layers.csv`` into ``folder``, which is made; returns their paths."""
    made = made_folder(folder)
    whole, table = made / "verification.json", made / "layers.csv"
    with atomic_path(whole) as temporary:
        temporary.write_text(json.dumps(v.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    rows = layer_rows(v)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_path(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return whole, table


def layer_rows(v: Verification) -> list[dict[str, Any]]:
    """One dictionary a layer; the start of a column's name says which kind of error it belongs to."""
    rows: dict[str, dict[str, Any]] = {layer.name: {"layer": layer.name} for layer in v.states}
    parts: list[tuple[str, tuple[Any, ...]]] = [
        ("folding", v.folding.layers),
        ("attention", v.attention.layers if v.attention else ()),
        ("quantisation", v.quantisation.layers),
        ("states", v.states),
        *((f"backend_{b.backend.replace(' ', '_')}", b.layers) for b in v.backends),
    ]
    for part, layers in parts:
        for layer in layers:
            row = rows.setdefault(layer.name, {"layer": layer.name})  # a relay that lowering spared was folded
            row.update(_flat(part, asdict(layer)))
    return list(rows.values())


def _flat(start: str, record: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            found.update(_flat(f"{start}_{key}", value))
        elif key != "name":
            found[f"{start}_{key}"] = value
    return found


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}" + (f" ({100 * part / whole:.2g} %)" if part else "")


def _accuracy(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"; accuracy {before:.1%} -> {after:.1%}"


def _folding_lines(v: Verification) -> list[str]:
    f = v.folding
    verdict = "within the rounding bound" if f.within_bound else "NOT EXPLAINED BY ROUNDING"
    lines = [f"module vs folded float net, layer by layer in float64: {verdict}"]
    for layer in f.layers:
        what = f"{_share(layer.flips, layer.neuron_steps)} neuron-steps flip" if layer.fires else "logits"
        line = (
            f"  {layer.name}: {what}; largest difference {layer.largest_difference:.1e}, {layer.largest_share:.2f} of "
            f"its bound (mean bound {layer.mean_bound:.1e})"
        )
        if layer.flips:
            line += f"; farthest flip {layer.flip_distance:.1e} from the threshold, bound {layer.flip_bound:.1e}"
        if not layer.within_bound:
            line += f"; {layer.outside:,} values and {layer.flips_outside:,} flips OUTSIDE"
        lines.append(line)
    lines.append(
        f"  for information, both run freely in float32: {_share(f.float32_flips, f.float32_spikes)} neuron-steps and "
        f"{f.float32_predictions} of {f.samples} predictions differ"
    )
    return lines


def _attention_lines(v: Verification) -> list[str]:
    a = v.attention
    if a is None:
        return ["attention: none in this net"]
    lines = ["attention: computed per clip, as trained"]
    if a.mode != "dynamic":
        lines = [
            f"attention computed per clip vs {a.mode}: {a.predictions_changed} of {v.samples} predictions change"
            + _accuracy(a.accuracy_dynamic, a.accuracy_lowered)
        ]
    for layer in a.layers:
        if layer.isolated_snr_db is not None and layer.cumulative_snr_db is not None:
            line = f"  {layer.name}: relay"
            if a.mode != "dynamic":
                line += f", messages {_ratios(layer.isolated_snr_db, layer.cumulative_snr_db)}"
        else:
            line = f"  {layer.name}: {layer.spikes_dynamic:,} -> {layer.spikes_lowered:,} spikes"
            if a.mode != "dynamic":
                line += f"; spikes differ in {_both(layer.isolated, layer.cumulative, layer.neuron_steps)}"
        if layer.gate_variation is not None:
            line += f"; gate varies {layer.gate_variation:.1%} over samples"
        lines.append(line)
    return lines


def _quantisation_lines(v: Verification) -> list[str]:
    q = v.quantisation
    lines = [
        f"float vs fixed point: {q.predictions_changed} of {v.samples} predictions change"
        + _accuracy(q.accuracy_float, q.accuracy_fixed)
    ]
    for layer in q.layers:
        spikes = ""
        if layer.fires:
            spikes = f"spikes differ in {_both(layer.isolated, layer.cumulative, layer.neuron_steps)}; "
        what = "messages" if layer.relays else "membranes"
        lines.append(f"  {layer.name}: {spikes}{what} {_ratios(layer.isolated_snr_db, layer.cumulative_snr_db)}")
    return lines


def _both(isolated: int, cumulative: int, whole: int) -> str:
    return f"{isolated / whole:.3%} of neuron-steps alone, {cumulative / whole:.3%} carried on"


def _ratios(isolated_db: float, cumulative_db: float) -> str:
    return f"{isolated_db:.1f} dB above their error alone, {cumulative_db:.1f} dB carried on"


def _state_lines(v: Verification) -> list[str]:
    lines = [
        f"states of the integers against their 24 bits, used on these clips (proved for any of T = {v.time_steps})"
    ]
    for layer in v.states:
        line = (
            f"  {layer.name}: u {_used(layer.current)}, {layer.wrapped:,} wrapped; v {_used(layer.membrane)}, "
            f"{layer.clipped:,} clipped"
        )
        if layer.saturated:
            line += f"; {_share(layer.saturated, layer.values)} messages saturate"
        if layer.fires_at_equality:
            line += f"; {_share(layer.ties, layer.values)} exactly at the threshold, where the module fires"
        lines.append(line)
    return lines


def _used(state: Used) -> str:
    return f"{state.used / state.limit:.1%} ({state.proved / state.limit:.1%})"


def _backend_lines(v: Verification) -> list[str]:
    lines = ["fixed point vs the numpy reference, differing values:"]
    for b in v.backends:
        lines.append(
            f"  {b.backend}: {b.spike_differences:,} of {b.values:,} spike values, {b.membrane_differences:,} of "
            f"{b.values:,} membrane values, {b.logit_differences:,} of {b.logits:,} logits "
            f"({b.samples} samples, {b.time_steps} steps); " + _by_layer(b)
        )
    return [*lines, f"verified: {'yes' if v.passed else 'NO'}"]


def _by_layer(b: BackendEquality) -> str:
    differing = [
        f"{x.name} {x.spike_differences:,} and {x.membrane_differences:,}"
        for x in b.layers
        if x.spike_differences or x.membrane_differences
    ]
    return f"spikes and membranes of {', '.join(differing)}" if differing else "0 in every layer"
