"""Tables and the picture of a mapping."""

from __future__ import annotations

import os
from dataclasses import asdict
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from spikefold.deploy.mapping.layout import Mapping
from spikefold.errors import BackendError
from spikefold.files import atomic_path

_COLUMNS = {
    "neurons": "neurons",
    "synapse_bits": "synapse memory, Kibit",
    "in_axons": "in-axons",
    "out_axons": "out-axons",
    "threshold_levels": "thresholds",
    "weight_formats": "weight formats",
}
_UNITS = {"synapse_bits": 1024}


def _amount(name: str, value: int | None) -> str:
    if value is None:
        return "no limit"
    unit = _UNITS.get(name, 1)
    return f"{value:,}" if unit == 1 else f"{ceil(value / unit):,}"


def layers_table(mapping: Mapping) -> Table:
    """What the fullest part of every layer takes of a core, against what a core has."""
    chips = f"{mapping.chips} chip{'s' if mapping.chips > 1 else ''}"
    table = Table(
        title=f"{mapping.net} on {mapping.hardware}: {len(mapping.cores):,} cores on {chips}; of each layer, the most "
        "that a core gives to it",
        title_justify="left",
    )
    table.add_column("layer")
    for name in ("shape", "cores", *_COLUMNS.values(), "limited by"):
        table.add_column(name, justify="left" if name == "limited by" else "right")
    most: dict[str, dict[str, int]] = {layer.name: dict.fromkeys(_COLUMNS, 0) for layer in mapping.layers}
    for core in mapping.cores:
        for part in core.parts:
            row = most[part.population]
            for name in _COLUMNS:
                row[name] = max(row[name], getattr(part.use, name))
    for layer in mapping.layers:
        used = [_used(name, most[layer.name][name], mapping.limits[name]) for name in _COLUMNS]
        by = _COLUMNS[layer.limited_by].split(",")[0] if layer.limited_by else "-"
        shape = " x ".join(map(str, layer.grid.shape))
        table.add_row(layer.name, shape, f"{len(layer.cores):,}", *used, by)
    table.add_section()
    limits = [_amount(name, mapping.limits[name]) for name in _COLUMNS]
    table.add_row("a core has", "", f"{mapping.cores_per_chip} a chip", *limits, "")
    return table


def _used(name: str, used: int, limit: int | None) -> str:
    share = "" if limit is None else f" ({used / limit:.0%})"
    return f"{_amount(name, used)}{share}"


def summary_lines(mapping: Mapping) -> list[str]:
    """Broken rules, cautions, and the way of messages, in one line each."""
    traffic = mapping.traffic
    hops = sum(t.column_hops + t.row_hops for t in traffic)
    inside = sum(t.axons for t in traffic if t.source in {layer.name for layer in mapping.layers})
    borders = sum(t.chip_borders for t in traffic)
    lines = [f"axons between cores: {inside:,}, {hops / max(1, inside):.2f} hops each on average"]
    if borders:
        lines[0] += f", {borders / inside:.2f} borders between chips"
    lines += [f"caution: {caution}" for caution in mapping.cautions]
    if mapping.violations:
        lines.append(f"does not run as it is, {len(mapping.violations)} rules are broken:")
    else:
        lines.append("every rule is kept")
    return lines + [f"  - {violation}" for violation in mapping.violations]


def draw_mapping(mapping: Mapping, path: str | os.PathLike[str]) -> None:
    """Draw every core of every chip: the layer on it, and how full its scarcest resource is.

    Raises
    ------
    BackendError
        matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError("the picture needs matplotlib: pip install 'spikefold[report]'") from error
    layer_of, share = _pixels(mapping)
    height, width = layer_of.shape
    figure = Figure(figsize=(9, min(16.0, 1.5 + 2 * 7 * height / width)), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1)
    count = len(mapping.layers)
    colours = colormaps["turbo"].resampled(max(2, count))
    shown = upper.imshow(layer_of, cmap=colours, vmin=-0.5, vmax=max(2, count) - 0.5)
    every = ceil(count / 24)
    names = [layer.name for layer in mapping.layers[::every]]
    figure.colorbar(shown, ax=upper).set_ticks(range(0, count, every), labels=names, fontsize=6)
    upper.set_title(f"{mapping.net} on {mapping.hardware}: the (first) layer on each core", fontsize=9)
    figure.colorbar(lower.imshow(share, cmap="viridis", vmin=0, vmax=1), ax=lower)
    lower.set_title("share used of what each core has least left of", fontsize=9)
    chip_height, chip_width = height // _chip_rows(mapping.chips), width // _chip_columns(mapping.chips)
    for axes in (upper, lower):
        axes.set_facecolor("0.92")
        axes.set_xticks(np.arange(0, width + 1, chip_width) - 0.5, labels=[])
        axes.set_yticks(np.arange(0, height + 1, chip_height) - 0.5, labels=[])
        axes.grid(color="black", linewidth=0.6)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})


def _chip_columns(chips: int) -> int:
    return ceil(sqrt(chips / 2))


def _chip_rows(chips: int) -> int:
    return ceil(chips / _chip_columns(chips))


def _pixels(mapping: Mapping) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Number of the first layer, and the largest used share, of every core, as seen from above; NaN: nothing there."""
    columns, rows = mapping.mesh
    side = ceil(sqrt(ceil(mapping.cores_per_chip / (columns * rows))))
    size = (_chip_rows(mapping.chips) * rows * side, _chip_columns(mapping.chips) * columns * side)
    layers, share = np.full(size, np.nan), np.full(size, np.nan)
    number = {layer.name: i for i, layer in enumerate(mapping.layers)}
    taken: dict[tuple[int, int, int], int] = {}
    for core in mapping.cores:
        place = (core.chip, *core.tile)
        nth = taken[place] = taken.get(place, -1) + 1
        chip_row, chip_column = divmod(core.chip, _chip_columns(mapping.chips))
        y = (chip_row * rows + core.tile[1]) * side + nth // side
        x = (chip_column * columns + core.tile[0]) * side + nth % side
        layers[y, x] = number[core.parts[0].population]
        used = asdict(core.use)
        share[y, x] = max(used[name] / limit for name, limit in mapping.limits.items() if limit is not None)
    return layers, share
