"""Tables and the picture of a mapping."""

from __future__ import annotations

import os
from dataclasses import asdict
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from spikefold.deploy.figure import blank_figure, save_figure
from spikefold.deploy.mapping.layer_cores import PARTS, LayerCores
from spikefold.deploy.mapping.layout import Mapping

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


def layer_cores_table(mapping: LayerCores) -> Table:
    """What every layer takes of the core that runs it, or of the largest where none does."""
    title = f"{mapping.net} on {mapping.hardware}: a core a layer, {mapping.cores} cores; limits only, not simulated"
    table = Table(title=title, title_justify="left")
    for name in ("layer", "shape", "core", *PARTS):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for layer in mapping.layers:
        used = [f"{layer.used[p]:,} of {layer.limits[p]:,} ({layer.used[p] / layer.limits[p]:.0%})" for p in PARTS]
        core = "none" if layer.core is None else f"{layer.core}"
        table.add_row(layer.name, " x ".join(map(str, layer.shape)), core, *used)
    return table


def summary_lines(mapping: Mapping | LayerCores) -> list[str]:
    """The way of messages, cautions, and broken rules, in one line each."""
    lines = [] if isinstance(mapping, LayerCores) else [_way(mapping)]
    lines += [f"caution: {caution}" for caution in mapping.cautions]
    if mapping.violations:
        many = "1 rule is" if len(mapping.violations) == 1 else f"{len(mapping.violations)} rules are"
        lines.append(f"does not run as it is, {many} broken:")
    else:
        lines.append("every rule is kept" if isinstance(mapping, Mapping) else "every limit is kept")
    return lines + [f"  - {violation}" for violation in mapping.violations]


def _way(mapping: Mapping) -> str:
    traffic = mapping.traffic
    hops = sum(t.column_hops + t.row_hops for t in traffic)
    inside = sum(t.axons for t in traffic if t.source in {layer.name for layer in mapping.layers})
    borders = sum(t.chip_borders for t in traffic)
    line = f"axons between cores: {inside:,}, {hops / max(1, inside):.2f} hops each on average"
    return f"{line}, {borders / inside:.2f} borders between chips" if borders else line


def draw_mapping(mapping: Mapping, path: str | os.PathLike[str]) -> None:
    """Draw every core of every chip: the layer on it, and how full its scarcest resource is.

    Raises
    ------
    BackendError
        matplotlib is not installed.
    """
    layer_of, share = core_pixels(mapping)
    height, width = layer_of.shape
    figure = blank_figure(9, min(16.0, 1.5 + 2 * 7 * height / width))
    from matplotlib import colormaps

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
    chip_height, chip_width = height // chip_rows(mapping.chips), width // chip_columns(mapping.chips)
    for axes in (upper, lower):
        axes.set_facecolor("0.92")
        axes.set_xticks(np.arange(0, width + 1, chip_width) - 0.5, labels=[])
        axes.set_yticks(np.arange(0, height + 1, chip_height) - 0.5, labels=[])
        axes.grid(color="black", linewidth=0.6)
    save_figure(figure, path)


def chip_columns(chips: int) -> int:
    """Chips that the picture of a mapping puts side by side."""
    return ceil(sqrt(chips / 2))


def chip_rows(chips: int) -> int:
    """Chips that it puts above each other."""
    return ceil(chips / chip_columns(chips))


def core_pixels(mapping: Mapping) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Number of the first layer, and the largest used share, of every core, as seen from above; NaN: nothing there."""
    columns, rows = mapping.mesh
    side = ceil(sqrt(ceil(mapping.cores_per_chip / (columns * rows))))
    size = (chip_rows(mapping.chips) * rows * side, chip_columns(mapping.chips) * columns * side)
    layers, share = np.full(size, np.nan), np.full(size, np.nan)
    number = {layer.name: i for i, layer in enumerate(mapping.layers)}
    taken: dict[tuple[int, int, int], int] = {}
    for core in mapping.cores:
        place = (core.chip, *core.tile)
        nth = taken[place] = taken.get(place, -1) + 1
        chip_row, chip_column = divmod(core.chip, chip_columns(mapping.chips))
        y = (chip_row * rows + core.tile[1]) * side + nth // side
        x = (chip_column * columns + core.tile[0]) * side + nth % side
        layers[y, x] = number[core.parts[0].population]
        used = asdict(core.use)
        share[y, x] = max(used[name] / limit for name, limit in mapping.limits.items() if limit is not None)
    return layers, share
