"""Rich tables and the words in them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from spikefold.deploy.activity import Activity
from spikefold.deploy.compare import ratios
from spikefold.deploy.comparison import Row
from spikefold.deploy.neurobench_words import reasons
from spikefold.deploy.price_record import GATE_PROCESSOR, Price
from spikefold.deploy.threshold_cost import ThresholdCost
from spikefold.deploy.verdict import plain_row, ratio, verdicts
from spikefold.deploy.words import change, count, ranged, si, signed, size


def comparison_table(rows: Sequence[Row]) -> Table:
    """Variants as columns, figures as rows."""
    samples = rows[0].samples if rows else 0
    title = f"{samples} test samples; energies per inference: nominal (low to high); ratios nominal, gates included"
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=False)
    for row in rows:
        table.add_column(row.title, justify="right")

    def line(name: str, values: list[str], *, end: bool = False) -> None:
        table.add_row(name, *values, end_section=end)

    line("accuracy, original", [f"{r.accuracy_original:.1%}" for r in rows])
    line("accuracy, lowered float", [f"{r.accuracy_lowered:.1%}" for r in rows])
    line("accuracy, fixed point", [f"{r.accuracy_fixed:.1%}" for r in rows])
    line("lowering changes, points [95 %]", [change(r.lowering) for r in rows])
    line(
        "quantising changes, points [95 %]", [change(r.quantising) for r in rows], end=not any(r.reducing for r in rows)
    )
    if any(r.reducing for r in rows):
        reducing = [change(r.reducing) if r.reducing else "" for r in rows]
        line("fewer thresholds change, points [95 %]", reducing, end=True)
    line("gate variation over samples", [_variation(r) for r in rows])
    line("firing rate", [f"{r.activity.firing_rate:.3f}" for r in rows])
    line("synops (counted)", [count(r.activity.synops) for r in rows])
    line("neuron updates (counted)", [count(r.activity.updates) for r in rows])
    if any(r.activity.relay_operations for r in rows):
        line("graded messages of relays (counted)", [count(r.activity.relay_messages) for r in rows])
        line("relay operations (counted)", [count(r.activity.relay_operations) for r in rows])
    line("gate operations (counted)", [count(r.activity.gate_operations) for r in rows], end=True)
    for i, first in enumerate(rows[0].prices if rows else ()):
        line(_chip_name(first), [_energy(r.prices[i]) for r in rows])
        if first.family == "chip":
            line("  fits as is", [_fits(r.prices[i]) for r in rows])
            line("  cores, chips", [_cores(r.prices[i]) for r in rows])
            line("  first step to answer", [_time(r.prices[i]) for r in rows])
    for i, first in enumerate(rows[0].beside if rows else ()):
        line(first.title, [_energy(r.beside[i]) for r in rows])
    found = [ratios(r, plain_row(rows)) for r in rows]
    for name in found[0] if rows else ():
        line(f"energy of {name}", [_ratio(r, name, f[name]) for r, f in zip(rows, found, strict=True)])
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


def _ratio(row: Row, name: str, value: float) -> str:
    bound = any(p.lower_bound for p in row.prices if p.hardware == name.split(" / ")[0])
    return f"{'>= ' if bound else ''}{value:.2f}"


def _cores(price: Price) -> str:
    return f"{price.cores:,}, {price.chips:,}"


def _time(price: Price) -> str:
    return "" if price.latency is None else f"{price.steps} steps, {_latency(price)}"


def _latency(price: Price) -> str:
    """A lower bound where the energy is one: both lack the same work."""
    return "" if price.latency is None else f"{'>= ' if price.lower_bound else ''}{ranged(price.latency, 's')}"


def _gate_line(row: Row) -> str:
    priced = [p.gate_processor for p in row.prices if p.gate_processor is not None]
    return ranged(priced[0]) if priced else "0 J"


def neurobench_table(rows: Sequence[Row]) -> Table:
    """What NeuroBench counts of each module, what was mapped, and what lies between, step by step.

    Nets that came as files have no module, and no column.
    """
    both = [row.neurobench for row in rows if row.neurobench is not None]
    samples = both[0].mapped.samples if both else 0
    title = (
        f"NeuroBench's counts of the module as written, and the mapped net's: the first {samples} test samples, a clip"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for row in (r for r in rows if r.neurobench is not None):
        table.add_column(row.title, justify="right")

    def line(name: str, values: list[str], *, end: bool = False) -> None:
        table.add_row(name, *values, end_section=end)

    there = [b.module.counts for b in both]
    line("NeuroBench: effective ACs", [count(c.effective_acs) for c in there])
    line("NeuroBench: effective MACs", [count(c.effective_macs) for c in there])
    for name in both[0].steps if both else ():
        steps = [b.steps[name] for b in both]
        if any(steps):
            line(f"  {name}", [signed(s) if s else "0" for s in steps])
    line("mapped: synops", [count(b.mapped.synops) for b in both], end=True)
    line("NeuroBench: activation sparsity", [f"{c.activation_sparsity:.4f}" for c in there])
    if any(c.other_outputs for c in there):
        line("  of neurons alone", [f"{c.neuron_sparsity:.4f}" for c in there])
    line("mapped: 1 - firing rate", [f"{b.quiet:.4f}" for b in both], end=True)
    line("NeuroBench: footprint", [size(c.footprint) for c in there])
    line("mapped: bytes of the integer net", [size(b.bytes.total) for b in both], end=True)
    return table


def differences(rows: Sequence[Row]) -> list[str]:
    """Why NeuroBench's counts are others than the mapped ones, net by net, a line a reason.

    What is so in some rows of a net only has these rows' names in front.
    """
    lines = []
    for name in dict.fromkeys(row.name for row in rows if row.neurobench is not None):
        own = {r.title: list(reasons(r.neurobench)) for r in rows if r.name == name and r.neurobench is not None}
        lines.append(f"{name}: why NeuroBench's counts and the mapped ones differ")
        for reason in dict.fromkeys(r for found in own.values() for r in found):
            titles = [title for title, found in own.items() if reason in found]
            where = "" if len(titles) == len(own) else f"{', '.join(titles)}: "
            lines.append(f"  - {where}{reason}")
    return lines


def answers(rows: Sequence[Row]) -> list[str]:
    """One sentence a variant: what it brings against the plain net, and which mode to deploy."""
    return [verdict.sentence for verdict in verdicts(rows)]


def notes(rows: Sequence[Row]) -> list[str]:
    """What to know of rows: what thresholds cost in cores, and why a variant does not fit a chip as is.

    Of the rules that it breaks the first is named, and how many more there are (JSON has them all).
    """
    lines = []
    for before, row in zip([None, *rows], rows, strict=False):
        if row.reducing is not None and before is not None:
            lines += _reduced(before, row)
        lines += [_threshold_advice(row, cost) for cost in row.threshold_costs if not _was_reduced(row, rows)]
        for price in row.prices:
            if price.fit_notes:
                more = f" (and {len(price.fit_notes) - 1} more)" if len(price.fit_notes) > 1 else ""
                lines.append(f"{row.title} on {price.hardware}: {price.fit_notes[0]}{more}")
    return lines


def _was_reduced(row: Row, rows: Sequence[Row]) -> bool:
    """Whether a row with fewer thresholds of the same net and mode stands beside it."""
    own = [r.threshold_levels for r in rows if (r.name, r.mode) == (row.name, row.mode)]
    return row.threshold_levels is None and any(own)


def _threshold_advice(row: Row, cost: ThresholdCost) -> str:
    return (
        f"{row.title} on {cost.hardware}: thresholds drive its {cost.cores:,} cores ({cost.cores_of_one:,} with one a "
        f"layer): {cost.layer} has {cost.levels:,} and a core holds {cost.per_core}; --threshold-levels "
        f"{cost.per_core} puts a row beside it in which no layer has more"
    )


def _reduced(whole: Row, few: Row) -> list[str]:
    """What reducing thresholds brought on each chip where it changes the cores."""
    lines = []
    for theirs, mine in zip(whole.prices, few.prices, strict=True):
        if few.reducing is None or mine.cores == theirs.cores:
            continue
        bound = {(True, False): "at least ", (False, True): "at most "}.get((mine.lower_bound, theirs.lower_bound), "")
        lines.append(
            f"{few.title} on {mine.hardware}: {mine.cores:,} cores in place of {theirs.cores:,}, {bound}"
            f"{ratio(mine, theirs):.2f} times the energy of {whole.title}{_times(mine, theirs)}, for "
            f"{change(few.reducing)} points of accuracy [95 %]"
        )
    return lines


def _times(mine: Price, theirs: Price) -> str:
    if mine.latency is None or theirs.latency is None:
        return ""
    return f" and {si(mine.latency.value, 's')} to the answer in place of {si(theirs.latency.value, 's')}"


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
    if price.latency is not None:
        table.add_row("cores, chips", _cores(price), "", "")
        table.add_row("first step to answer", f"{price.steps} steps", "", _latency(price))
    return table


def activity_table(activity: Activity) -> Table:
    """Messages, synaptic operations and gate work of every layer."""
    table = Table(title="counted, mean per sample", title_justify="left")
    for name in ("layer", "neurons", "messages", "rate", "synops into it", "gate operations"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for layer in activity.layers:
        into = sum(s.synops for s in activity.synapses if s.target == layer.name)
        rate = f"{layer.spikes / layer.updates:.3f}" if layer.fires else "readout"
        if layer.relay is not None:
            bits = max((s.payload_bits for s in activity.synapses if s.source == layer.name), default=0)
            rate = f"relay, {bits} bits"
        gate = count(layer.gate.operations) if layer.gate else "-"
        table.add_row(layer.name, count(layer.neurons), count(layer.messages), rate, count(into), gate)
    return table


def print_table(table: Table, shown: Console | None = None) -> None:
    """Print a table; where the terminal is too narrow for its longest words, a line for each row instead."""
    shown = console() if shown is None else shown
    unbounded = shown.options.update(max_width=10_000)  # what a terminal is too narrow for is not measured there
    if Measurement.get(shown, unbounded, table).minimum <= shown.width:
        shown.print(table)
        return
    heads, cells = [str(c.header) for c in table.columns], zip(*(c.cells for c in table.columns), strict=True)
    if table.title:
        shown.print(table.title)
    for first, *rest in cells:
        said = ", ".join(f"{head} {cell}" for head, cell in zip(heads[1:], rest, strict=True) if str(cell).strip())
        shown.print(f"  {first}: {said}", markup=False)


def console(stderr: bool = False) -> Console:
    """A console wide enough for tables also where no terminal says its width."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made = Console(stderr=stderr, highlight=False, width=180)
    return made
