"""The picture of accuracy against energy."""

from __future__ import annotations

import os
from collections.abc import Sequence

from spikefold.deploy.comparison import Row
from spikefold.deploy.figure import blank_figure, save_figure

MARKERS = {"none": "o", "static": "s", "scheduled": "D", "causal": "v", "dynamic": "^"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, told apart without colour vision; markers say the mode, small ones
that thresholds were reduced."""


def _plain(value: float, _: int) -> str:
    return f"{value:g}"


def draw_accuracy_energy(rows: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Draw fixed-point accuracy against energy, one panel a chip or table, ranges as bars.

    A hollow marker is a lower bound: the chip's share without gate work, which no source prices, or with numbers priced
    as spikes on a chip that sends nothing else.

    Raises
    ------
    BackendError
        matplotlib is not installed.
    """
    panels = rows[0].prices
    figure = blank_figure(4.4 * len(panels), 4.2)
    from matplotlib.ticker import FuncFormatter, NullFormatter

    names = list(dict.fromkeys(r.name for r in rows))
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        for row in rows:
            price, colour = row.prices[i], COLOURS[names.index(row.name) % len(COLOURS)]
            total = price.total
            axes.errorbar(
                total.value * 1e6, row.accuracy_fixed * 100,
                xerr=[[(total.value - total.low) * 1e6], [(total.high - total.value) * 1e6]],
                marker=MARKERS[row.mode], color=colour, markersize=8 if row.threshold_levels is None else 4, capsize=3,
                markerfacecolor="white" if price.lower_bound else colour,
                label=row.title,
            )  # fmt: skip
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_formatter(FuncFormatter(_plain))
        axes.xaxis.set_minor_formatter(FuncFormatter(_plain) if high < 10 * low else NullFormatter())
        axes.set_xlabel("energy per inference (µJ)")
        axes.set_title(panel.title, fontsize=9, wrap=True)
        axes.grid(alpha=0.3)
        if i == 0:
            axes.set_ylabel(f"fixed-point accuracy on {rows[0].samples} test samples (%)")
            axes.legend(fontsize=8)
    figure.supxlabel("bars: low to high of the sources; hollow: lower bound, not all work is priced", fontsize=8)
    save_figure(figure, path)
