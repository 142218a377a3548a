"""The charts of a report as plotly figures: functions of the evidence and of nothing else.

Colours are Okabe and Ito's; what a colour says, a marker, a hatch or a number says, too. Names that come from outside
are escaped, because plotly reads some HTML in every text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from spikefold.deploy.comparison import Row
from spikefold.deploy.layer_energy import LayerEnergy
from spikefold.deploy.mapping.layout import Mapping
from spikefold.deploy.mapping_tables import chip_columns, chip_rows, core_pixels
from spikefold.deploy.picture import COLOURS
from spikefold.deploy.price_record import Price, PriceLine
from spikefold.deploy.report.evidence import Float, FormEvidence, GateView, Raster
from spikefold.deploy.words import si
from spikefold.errors import BackendError

SYMBOLS = {"none": "circle", "static": "square", "scheduled": "diamond", "causal": "triangle-down",
           "dynamic": "triangle-up"}  # fmt: skip
HATCHES = ("", "/", "x", ".", "\\", "|", "-", "+")
_PARTS = (*COLOURS, "#F0E442", "#999999")
MOST_CORES = 10_000
"""A core map with more of them is not drawn."""
_LINE = 26
"""Pixels of one bar or row."""


def plotly() -> Any:
    """The graph objects of plotly.

    Raises
    ------
    BackendError
        plotly is not installed.
    """
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise BackendError("the report needs plotly: pip install 'spikefold[report]'") from error
    return graph_objects


def _figure(traces: Sequence[Any], height: int, **layout: Any) -> Any:
    """A figure without title (the page has captions), its legend below the axes.

    The page makes it higher by what the legend takes at the width that it has; ``meta`` tells it of cells with numbers.
    """
    return plotly().Figure(
        list(traces),
        {
            "template": "none", "height": height, "autosize": True, "paper_bgcolor": "white", "plot_bgcolor": "white",
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#1a1a1a"}, "hovermode": "closest",
            "margin": {"l": 10, "r": 16, "t": 10, "b": 46},
            "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0,
                       "traceorder": "normal"},
            **layout,
        },
    )  # fmt: skip


def _axis(title: str = "", **more: Any) -> dict[str, Any]:
    return {"title": {"text": title, "standoff": 8}, "automargin": True, "gridcolor": "#e3e3e3", "zeroline": False,
            "ticks": "", **more}  # fmt: skip


def _joules(title: str, **more: Any) -> dict[str, Any]:
    return _axis(title, exponentformat="SI", ticksuffix="J", nticks=5, tickangle=0, **more)


def _named(names: Sequence[str]) -> dict[str, Any]:
    """An axis of names, the first at the top; long ones are cut, so that bars keep some room on a phone."""
    cut = [escape(n if len(n) <= 24 else f"{n[:11]}...{n[-10:]}") for n in names]
    return _axis(tickvals=list(range(len(names))), ticktext=cut, range=[len(names) - 0.4, -0.6])


def prices_of(row: Row, hardware: str) -> Price:
    """The row's price of that name."""
    return next(p for p in (*row.prices, *row.beside) if p.hardware == hardware)


def accuracy_energy(rows: Sequence[Row], hardware: str) -> Any:
    """Fixed-point accuracy against energy; hollow: a lower bound; dotted lines: ANNs of the same shape."""
    go, names = plotly(), list(dict.fromkeys(row.name for row in rows))
    traces: list[Any] = []
    anns: dict[str, Price] = {}
    for row in rows:
        price, colour = prices_of(row, hardware), COLOURS[names.index(row.name) % len(COLOURS)]
        total, symbol = price.total, SYMBOLS[row.mode] + ("-open" if price.lower_bound else "")
        bound = "at least " if price.lower_bound else ""
        traces.append(
            go.Scatter(
                x=[total.value], y=[100 * row.accuracy_fixed], mode="markers", name=escape(row.title),
                marker={"symbol": symbol, "color": colour, "size": 13 if row.threshold_levels is None else 8,
                        "line": {"width": 2, "color": colour}},
                error_x={"type": "data", "symmetric": False, "array": [total.high - total.value],
                         "arrayminus": [total.value - total.low], "color": colour},
                hovertemplate=f"{escape(row.title)}<br>{bound}%{{x:.3s}}J ({total.low:.3g} to {total.high:.3g} J)<br>"
                "%{y:.1f} % right<extra></extra>",
            )
        )  # fmt: skip
        anns |= {p.hardware: p for p in row.beside if p.is_ann and p.family == price.family}
    shapes = [
        {"type": "line", "x0": p.total.value, "x1": p.total.value, "y0": 0, "y1": 1, "yref": "paper",
         "line": {"dash": ("dot", "dash", "dashdot")[i % 3], "color": "#555", "width": 1.5}, "showlegend": True,
         "name": escape(p.hardware)}
        for i, p in enumerate(anns.values())
    ]  # fmt: skip
    ends = [end for row in rows for r in [prices_of(row, hardware).total] for end in (r.low, r.high)]
    ends += [p.total.value for p in anns.values()]
    found = [100 * row.accuracy_fixed for row in rows]
    room = max(0.5, 0.1 * (max(found) - min(found)))
    low, high = min(found) - room, min(max(found) + room, 100.0)
    if high == 100:
        high += 0.04 * (high - low)  # room for the bars, and less than a tick: no number stands above 100 %
    return _figure(
        traces, 340, xaxis=_log_joules(ends), shapes=shapes,
        yaxis=_axis("fixed-point accuracy, %", range=[low, high]),
    )  # fmt: skip


def _log_joules(shown: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis that holds what is shown, with at most six numbers."""
    low, high = max(min(shown), 1e-15) / 1.2, max(*shown, 1e-15) * 1.2
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(ticks) <= 6:
            break
    return _axis(
        "energy per inference", type="log", range=[math.log10(low), math.log10(high)], tickvals=ticks, tickangle=0,
        ticktext=[si(t, "J") for t in ticks],
    )  # fmt: skip


def _stacked(labels: Sequence[str], parts: Sequence[tuple[Sequence[PriceLine], Any]]) -> Any:
    """Stacked bars, one a label, of price lines; a gate processor's share beside them is a part of its own."""
    go = plotly()
    components = list(dict.fromkeys(line.component for lines, _ in parts for line in lines if line.energy.value))
    traces = []
    for i, component in enumerate(components):
        energies = [sum(line.energy.value for line in lines if line.component == component) for lines, _ in parts]
        traces.append(_bars(go, component, energies, _PARTS[i % len(_PARTS)], HATCHES[i % len(HATCHES)]))
    beside = [0.0 if gate is None else gate.value for _, gate in parts]
    if any(beside):
        traces.append(_bars(go, "gate processor (estimate, not in the total)", beside, "#ffffff", "x", "#000000"))
    return _figure(
        traces, 60 + _LINE * len(labels), barmode="stack", bargap=0.25, yaxis=_named(labels),
        xaxis=_joules("energy per inference", rangemode="tozero"),
    )  # fmt: skip


def _bars(go: Any, name: str, energies: Sequence[float], colour: str, hatch: str, ink: str = "") -> Any:
    pattern = {"shape": hatch, "fgcolor": ink or "rgba(0,0,0,0.45)", "fillmode": "overlay", "size": 8, "solidity": 0.2}
    return go.Bar(
        x=[e or None for e in energies], y=list(range(len(energies))), orientation="h", name=escape(name),
        marker={"color": colour, "line": {"color": ink or "#ffffff", "width": 1}, "pattern": pattern},
        hovertemplate=f"{escape(name)}: %{{x:.3s}}J<extra></extra>",
    )  # fmt: skip


def energy_by_component(rows: Sequence[Row], hardware: str) -> Any:
    """One bar a row, a part each component of the price."""
    prices = [prices_of(row, hardware) for row in rows]
    return _stacked([row.title for row in rows], [(p.lines, p.gate_processor) for p in prices])


def energy_by_layer(layers: Sequence[LayerEnergy]) -> Any:
    """One bar a layer of one row on one piece of hardware."""
    labels = ["whole chip" if layer.layer is None else layer.layer for layer in layers]
    return _stacked(labels, [(layer.lines, layer.gate_processor) for layer in layers])


def rates(form: FormEvidence) -> Any:
    """Messages per neuron and step, a row each layer, a column each step."""
    values: Float = np.array(list(form.rates.values()), np.float64) * 100
    return _cells(values, _named(list(form.rates)), "%", "layer %{y}, step %{x}: %{z:.2f} %", ".1f")


def _cells(values: Float, rows: dict[str, Any], unit: str, hover: str, digits: str) -> Any:
    cells = plotly().Heatmap(
        z=values, colorscale="Cividis", zmin=0, texttemplate=f"%{{z:{digits}}}", textfont={"size": 11}, xgap=1, ygap=1,
        hovertemplate=hover + "<extra></extra>", colorbar=_colours(unit),
    )  # fmt: skip
    steps = list(range(values.shape[1])) if values.shape[1] <= 16 else None
    return _figure([cells], 112 + _LINE * len(values), xaxis=_axis(showgrid=False, tickvals=steps), yaxis=rows)


def _colours(unit: str = "") -> dict[str, Any]:
    """A colour bar above the map, which leaves the map its width."""
    return {"orientation": "h", "y": 1, "yanchor": "bottom", "thickness": 8, "outlinewidth": 0, "ticksuffix": unit,
            "nticks": 5, "ticklabelposition": "outside top", "ypad": 8}  # fmt: skip


def raster(rasters: Sequence[Raster], sample: int) -> Any:
    """Messages of one sample: a mark where a neuron sent one."""
    go, offset = plotly(), 0
    traces: list[Any] = []
    middles: list[float] = []
    for i, layer in enumerate(rasters):
        steps, places = np.nonzero(layer.sent[:, sample])
        traces.append(
            go.Scatter(
                x=steps, y=places + offset, mode="markers", showlegend=False, customdata=layer.shown[places],
                marker={"symbol": "square", "size": 4, "color": COLOURS[i % len(COLOURS)]},
                hovertemplate=f"{escape(layer.layer)}, neuron %{{customdata}}, step %{{x}}<extra></extra>",
            )
        )  # fmt: skip
        middles.append(offset + (len(layer.shown) - 1) / 2)
        offset += len(layer.shown) + 2
    length = len(rasters[0].sent)
    borders = [{"type": "line", "x0": -0.5, "x1": length - 0.5, "y0": m, "y1": m, "line": {"color": "#999", "width": 1}}
               for m in np.cumsum([len(layer.shown) + 2 for layer in rasters])[:-1] - 1.5]  # fmt: skip
    names = _named([layer.layer for layer in rasters]) | {"tickvals": middles, "range": [offset - 1.5, -1]}
    ticks = {"tickmode": "array", "tickvals": list(range(length))} if length <= 16 else {}
    return _figure(
        traces, 70 + min(900, 4 * offset), shapes=borders, yaxis=names | {"showgrid": False},
        xaxis=_axis("step of the clip", range=[-0.5, length - 0.5], **ticks),
    )  # fmt: skip


def gate_charts(gate: GateView) -> list[tuple[str, Any]]:
    """Caption and figure of each view that the gate has."""
    found = []
    for caption, pixels in (
        ("calibrated mean", gate.space_mean),
        (f"standard deviation over {gate.samples} test samples", gate.space_deviation),
        ("the first test sample's own gate", gate.space_sample),
        ("after folding: the deployed thresholds", gate.thresholds),
    ):
        if pixels is not None:
            found.append((caption, _pixels(pixels)))
    if gate.time_mean is not None and gate.time_low is not None and gate.time_high is not None:
        found.append(("per step", _band(gate.time_mean, gate.time_low, gate.time_high, "step of the clip")))
    if gate.channel_mean is not None and gate.channel_low is not None and gate.channel_high is not None:
        found.append(("per channel", _band(gate.channel_mean, gate.channel_low, gate.channel_high, "channel")))
    return found


def _pixels(values: Float) -> Any:
    cells = plotly().Heatmap(
        z=values, colorscale="Cividis", hovertemplate="row %{y}, column %{x}: %{z:.4g}<extra></extra>",
        colorbar=_colours(),
    )  # fmt: skip
    return _map([cells], values, 280)


def _map(traces: Sequence[Any], values: Float, most: int, **layout: Any) -> Any:
    """Square pixels ``[H, W]``, the first row at the top; the page fits the height, up to ``most``, to the width."""
    height, width = values.shape
    blank: dict[str, Any] = {"showgrid": False, "showticklabels": False, "automargin": False}
    return _figure(
        traces, 300, meta={"aspect": height / width, "most": most}, xaxis=_axis(**blank, constrain="domain"),
        yaxis=_axis(**blank, autorange="reversed", scaleanchor="x", constrain="domain", constraintoward="top"),
        margin={"l": 4, "r": 16, "t": 46, "b": 8}, **layout,
    )  # fmt: skip


def _band(mean: Float, low: Float, high: Float, x: str) -> Any:
    go, places = plotly(), list(range(len(mean)))
    edge = {"mode": "lines", "line": {"width": 1, "color": COLOURS[0], "dash": "dot"}, "hovertemplate": "%{y:.4g}"}
    traces = [
        go.Scatter(x=places, y=low, name="smallest sample", showlegend=False, **edge),
        go.Scatter(x=places, y=high, name="samples, smallest to largest", fill="tonexty",
                   fillcolor="rgba(0,114,178,0.15)", **edge),
        go.Scatter(x=places, y=mean, name="calibrated mean", mode="lines+markers", hovertemplate="%{y:.4g}",
                   line={"color": COLOURS[1], "width": 2}, marker={"symbol": "square", "size": 7}),
    ]  # fmt: skip
    return _figure(
        traces, 320, xaxis=_axis(x), yaxis=_axis("gate")
    )  # fmt: skip


def error_ladder(form: FormEvidence) -> Any:
    """Share of spikes that differ, layer by layer, for each approximation alone and carried on."""
    errors, go = form.verification, plotly()
    layers = [q.name for q in errors.quantisation.layers if q.fires]
    folding = {f.name: f for f in errors.folding.layers}
    series: list[tuple[str, dict[str, float], str, str]] = [
        ("folding (float rounding)", {n: folding[n].flips / folding[n].neuron_steps for n in layers if n in folding},
         "cross-thin", "#000000")
    ]  # fmt: skip
    changes = () if errors.attention is None else errors.attention.layers
    for what, found, colour in (
        ("attention", {a.name: a for a in changes if a.neuron_steps}, COLOURS[1]),
        ("quantisation", {q.name: q for q in errors.quantisation.layers if q.neuron_steps}, COLOURS[0]),
    ):
        for which, words, symbol in (
            ("isolated", "this layer alone", "circle-open"),
            ("cumulative", "carried on from layers before", "diamond"),
        ):
            shares = {n: getattr(found[n], which) / found[n].neuron_steps for n in layers if n in found}
            series.append((f"{what}, {words}", shares, symbol, colour))
    traces = [
        go.Scatter(
            x=[100 * v for v in shares.values()], y=[layers.index(n) for n in shares], mode="markers", name=name,
            marker={"symbol": symbol, "size": 11, "color": colour, "line": {"width": 2, "color": colour}},
            hovertemplate=f"{name}: %{{x:.3g}} % of spikes differ<extra></extra>",
        )
        for name, shares, symbol, colour in series if shares
    ]  # fmt: skip
    return _figure(
        traces, 66 + 34 * len(layers), yaxis=_named(layers),
        xaxis=_axis("spikes that differ, %", rangemode="tozero"),
    )  # fmt: skip


def core_maps(mapping: Mapping) -> list[tuple[str, Any]]:
    """Caption and figure: the layer on each core, and how full its scarcest resource is; none for very many cores."""
    if len(mapping.cores) > MOST_CORES:
        return []
    layer_of, share = core_pixels(mapping)
    names = [layer.name for layer in mapping.layers]
    hover = [["" if np.isnan(v) else escape(names[int(v)]) for v in line] for line in layer_of.tolist()]
    return [
        ("number of the (first) layer on each core", _cores(mapping, layer_of + 1, hover, "%{z}", len(names))),
        ("share used of what the core has least left of, %",
         _cores(mapping, share * 100, hover, "%{z:.0f}", None)),
    ]  # fmt: skip


def _cores(mapping: Mapping, values: Float, hover: Sequence[Sequence[str]], text: str, layers: int | None) -> Any:
    """Cores in the colours of so many numbered layers, or of shares in percent."""
    colours, most = _colours(), 100 if layers is None else layers
    if layers is not None:
        every = max(1, math.ceil(layers / 8))
        colours |= {"tickvals": list(range(1, layers + 1, every))}
    height, width = values.shape
    across, down = width // chip_columns(mapping.chips), height // chip_rows(mapping.chips)
    borders = [
        {"type": "line", "x0": x - 0.5, "x1": x - 0.5, "y0": -0.5, "y1": height - 0.5, "line": {"color": "#000"}}
        for x in range(0, width + 1, across)
    ] + [
        {"type": "line", "x0": -0.5, "x1": width - 0.5, "y0": y - 0.5, "y1": y - 0.5, "line": {"color": "#000"}}
        for y in range(0, height + 1, down)
    ]
    cells = plotly().Heatmap(
        z=values, customdata=hover, colorscale="Cividis", texttemplate=text, textfont={"size": 10},
        hoverongaps=False, hovertemplate="%{customdata}: %{z:.3g}<extra></extra>", xgap=1, ygap=1,
        colorbar=colours, zmin=0 if layers is None else 1, zmax=most,
    )  # fmt: skip
    return _map([cells], values, 560, shapes=borders, plot_bgcolor="#f2f2f2")
