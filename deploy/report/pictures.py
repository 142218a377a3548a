"""The report's main figures for papers: a PNG and an SVG each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spikefold.deploy.figure import blank_figure, save_figure
from spikefold.deploy.picture import COLOURS, draw_accuracy_energy
from spikefold.deploy.report.evidence import Evidence, FormEvidence
from spikefold.files import made_folder

_HATCHES = ("", "//", "xx", "..", "\\\\", "||", "--", "++")


def write_figures(evidence: Evidence, folder: str | os.PathLike[str]) -> list[Path]:
    """Write accuracy against energy, energy by layer, firing rates and the error ladder; returns the paths.

    One panel a row of the comparison; energy by layer on the first piece of hardware.

    Raises
    ------
    BackendError
        matplotlib is not installed.
    """
    made, written = made_folder(folder), []
    for name, draw in (
        ("accuracy-energy", partial(draw_accuracy_energy, evidence.rows)),
        ("energy-by-layer", partial(_panels, evidence.forms, _layers)),
        ("rates", partial(_panels, evidence.forms, _rates)),
        ("errors", partial(_panels, evidence.forms, _errors)),
    ):
        for suffix in ("png", "svg"):
            written.append(made / f"{name}.{suffix}")
            draw(written[-1])
    return written


def _panels(forms: Sequence[FormEvidence], draw: Callable[[Any, FormEvidence], None], path: Path) -> None:
    """One row a form, each with a legend of its own where it has one."""
    layers = max(len(form.rates) for form in forms)
    figure = blank_figure(7.0, sum([1.1 + 0.28 * layers] * len(forms)))
    for axes, form in zip(np.atleast_1d(figure.subplots(len(forms), 1, sharex=True)), forms, strict=True):
        draw(axes, form)
        axes.set_title(form.row.title, fontsize=9, loc="left")
        axes.tick_params(labelsize=7)
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=7)
    save_figure(figure, path)


def _layers(axes: Any, form: FormEvidence) -> None:
    price, layers = form.row.prices[0], form.energies[form.row.prices[0].hardware]
    names = ["whole chip" if layer.layer is None else layer.layer for layer in layers]
    components = list(dict.fromkeys(line.component for layer in layers for line in layer.lines))
    left = np.zeros(len(layers))
    for i, component in enumerate(components):
        width = [1e6 * sum(x.energy.value for x in layer.lines if x.component == component) for layer in layers]
        axes.barh(names, width, left=left, label=component, color=COLOURS[i % len(COLOURS)],
                  hatch=_HATCHES[i % len(_HATCHES)], edgecolor="white", linewidth=0.4)  # fmt: skip
        left += width
    gates = [0.0 if layer.gate_processor is None else 1e6 * layer.gate_processor.value for layer in layers]
    if any(gates):
        axes.barh(names, gates, left=left, label="gate processor (estimate, not in the total)", color="white",
                  hatch="xx", edgecolor="black", linewidth=0.4)  # fmt: skip
    axes.invert_yaxis()
    axes.set_xlabel(f"energy per inference (uJ), {price.title}", fontsize=7)


def _rates(axes: Any, form: FormEvidence) -> None:
    values = 100 * np.array(list(form.rates.values()))
    shown = axes.imshow(values, cmap="cividis", vmin=0, aspect="auto")
    axes.set_yticks(range(len(values)), labels=list(form.rates))
    axes.set_xlabel("step of the clip; messages per 100 neurons", fontsize=7)
    axes.figure.colorbar(shown, ax=axes).ax.tick_params(labelsize=7)


def _errors(axes: Any, form: FormEvidence) -> None:
    v = form.verification
    attention = () if v.attention is None else v.attention.layers
    for what, found, colour in (
        ("attention", attention, COLOURS[1]),
        ("quantisation", v.quantisation.layers, COLOURS[0]),
    ):
        some = [layer for layer in found if layer.neuron_steps]
        for which, marker, fill in (("isolated", "o", "none"), ("cumulative", "D", colour)):
            shares = [100 * getattr(layer, which) / layer.neuron_steps for layer in some]
            axes.plot(shares, [layer.name for layer in some], marker, color=colour, markerfacecolor=fill,
                      label=f"{what}, {which}")  # fmt: skip
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(f"spikes that differ (%), {v.samples} samples", fontsize=7)
