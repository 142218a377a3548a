"""Rich tables and the words in them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from spikefold.deploy.activity import Activity
from spikefold.deploy.compare import Paired, Row
from spikefold.deploy.hardware import Range
from spikefold.deploy.price import GATE_PROCESSOR, Price

_PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p"))


def si(value: float, unit: str) -> str:
    """A number with three digits and an SI prefix: ``4.6e-4, "J"`` becomes ``460 uJ``."""
    if value == 0:
        return f"0 {unit}"
    factor, prefix = next(((f, p) for f, p in _PREFIXES if abs(value) >= f), _PREFIXES[-1])
    return f"{value / factor:.3g} {prefix}{unit}"


def count(value: float) -> str:
    """A count in thousands or millions, three digits."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {letter}"
    return f"{value:.3g}"


def ranged(quantity: Range) -> str:
    """Nominal value with its low and high."""
    if quantity.low == quantity.high:
        return si(quantity.value, "J")
    return f"{si(quantity.value, 'J')} ({si(quantity.low, 'J')} to {si(quantity.high, 'J')})"


def change(result: Paired) -> str:
    """A paired difference in percentage points with its interval and the samples behind it."""
    return (
        f"{100 * result.difference:+.1f} [{100 * result.low:+.1f}, {100 * result.high:+.1f}] "
        f"(+{result.gained} -{result.lost})"
    )


def comparison_table(rows: Sequence[Row]) -> Table:
    """Variants as columns, figures as rows."""
    samples = rows[0].samples if rows else 0
    table = Table(title=f"{samples} test samples; energies per inference: nominal (low to high)", title_justify="left")
    table.add_column("", no_wrap=False)
    for row in rows:
        table.add_column(row.name if row.mode == "none" else f"{row.name} {row.mode}", justify="right")

    def line(name: str, values: list[str], *, end: bool = False) -> None:
        table.add_row(name, *values, end_section=end)

    line("accuracy, original", [f"{r.accuracy_original:.1%}" for r in rows])
    line("accuracy, lowered float", [f"{r.accuracy_lowered:.1%}" for r in rows])
    line("accuracy, fixed point", [f"{r.accuracy_fixed:.1%}" for r in rows])
    line("lowering changes, points [95 %]", [change(r.lowering) for r in rows])
    line("quantising changes, points [95 %]", [change(r.quantising) for r in rows], end=True)
    line("gate variation over samples", [_variation(r) for r in rows])
    line("firing rate", [f"{r.activity.firing_rate:.3f}" for r in rows])
    line("synops (counted)", [count(r.activity.synops) for r in rows])
    line("neuron updates (counted)", [count(r.activity.updates) for r in rows])
    line("gate operations (counted)", [count(r.activity.gate_operations) for r in rows], end=True)
    for i, first in enumerate(rows[0].prices if rows else ()):
        line(_chip_name(first), [_energy(r.prices[i]) for r in rows])
        if first.family == "chip":
            line("  fits as is", [_fits(r.prices[i]) for r in rows])
    if any(p.gate_processor for r in rows for p in r.prices):
        line(GATE_PROCESSOR, [_gate_line(r) for r in rows], end=True)
    line("Lava: samples", [str(r.lava.samples) if r.lava else "not run" for r in rows])
    line("Lava: differing spikes", [str(r.lava.different_spikes) if r.lava else "-" for r in rows])
    line("Lava: differing membranes", [str(r.lava.different_membranes) if r.lava else "-" for r in rows])
    return table


def _variation(row: Row) -> str:
    return " ".join(f"{v:.1%}" for v in row.gate_variation.values()) or "no gates"


def _chip_name(price: Price) -> str:
    return f"{price.title}{' (estimate)' if price.estimate and 'estimate' not in price.title else ''}"


def _energy(price: Price) -> str:
    return f"{'>= ' if price.lower_bound else ''}{ranged(price.total)}"


def _fits(price: Price) -> str:
    return "yes" if price.fits else f"no ({len(price.fit_notes)} reasons)"


def _gate_line(row: Row) -> str:
    priced = [p.gate_processor for p in row.prices if p.gate_processor is not None]
    return ranged(priced[0]) if priced else "0 J"


def notes(rows: Sequence[Row]) -> list[str]:
    """Why a variant does not fit a chip as is: the first reason, and how many more there are (JSON has them all)."""
    lines = []
    for row in rows:
        for price in row.prices:
            if price.fit_notes:
                more = f" (and {len(price.fit_notes) - 1} more)" if len(price.fit_notes) > 1 else ""
                lines.append(f"{row.name} {row.mode} on {price.hardware}: {price.fit_notes[0]}{more}")
    return lines


def price_table(price: Price) -> Table:
    """Every line of one price."""
    table = Table(title=_chip_name(price), title_justify="left")
    for name, justify in (("component", "left"), ("count", "right"), ("each", "right"), ("energy", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for entry in price.lines:
        table.add_row(entry.component, count(entry.count), ranged(entry.unit_energy), ranged(entry.energy))
    table.add_section()
    table.add_row("total, a lower bound" if price.lower_bound else "total", "", "", ranged(price.total))
    if price.total_without_attention is not None:
        table.add_row("total as papers count, attention left out", "", "", ranged(price.total_without_attention))
    if price.gate_processor is not None:
        table.add_row(GATE_PROCESSOR, count(price.gate_operations), "", ranged(price.gate_processor))
    return table


def activity_table(activity: Activity) -> Table:
    """Spikes, synaptic operations and gate work of every layer."""
    table = Table(title="counted, mean per sample", title_justify="left")
    for name in ("layer", "neurons", "spikes", "rate", "synops into it", "gate operations"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for layer in activity.layers:
        into = sum(s.synops for s in activity.synapses if s.target == layer.name)
        rate = f"{layer.spikes / layer.updates:.3f}" if layer.fires else "readout"
        gate = count(layer.gate.operations) if layer.gate else "-"
        table.add_row(layer.name, count(layer.neurons), count(layer.spikes), rate, count(into), gate)
    return table


def console(stderr: bool = False) -> Console:
    """A console wide enough for tables also where no terminal says its width."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made = Console(stderr=stderr, highlight=False, width=180)
    return made
