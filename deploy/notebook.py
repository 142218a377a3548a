"""What runs, counts, prices, mappings and proofs show of themselves: a line, and in a notebook a small table."""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch

from spikefold.converters.show import table_html
from spikefold.deploy.activity import Activity
from spikefold.deploy.certificate import Certificate
from spikefold.deploy.comparison import Row
from spikefold.deploy.mapping.layout import Mapping
from spikefold.deploy.price_record import Price
from spikefold.deploy.run import Run
from spikefold.deploy.verify import Verification
from spikefold.deploy.verify_report import headlines
from spikefold.deploy.words import change, count, ranged


@singledispatch
def line(value: object) -> str:
    """What ``repr`` says, without the name of the class."""
    raise TypeError(f"a {type(value).__name__} is not shown here")


@singledispatch
def html(value: object) -> str:
    """What a notebook shows."""
    raise TypeError(f"a {type(value).__name__} is not shown here")


@line.register
def _(run: Run) -> str:
    a = run.activity
    return (
        f"of {run.graph.name!r} on {run.backend}: {len(run.logits)} samples, T = {run.time_steps}, {a.spikes:,.0f} "
        f"spikes and {a.synops:,.0f} synops a sample, {run.seconds:.2f} s"
    )


@html.register
def _(run: Run) -> str:
    return _layers(run.activity, f"Run {line(run)}")


@line.register
def _(a: Activity) -> str:
    return (
        f"of {a.name!r}, mean of {a.samples} samples: firing rate {a.firing_rate:.4f}, {count(a.spikes)} spikes, "
        f"{count(a.synops)} synops, {count(a.updates)} updates, {count(a.gate_operations)} gate operations"
    )


@html.register
def _(a: Activity) -> str:
    return _layers(a, f"Activity {line(a)}")


def _layers(a: Activity, title: str) -> str:
    rows = []
    for layer in a.layers:
        into = sum(s.synops for s in a.synapses if s.target == layer.name)
        rate = f"{layer.spikes / layer.updates:.4f}" if layer.fires else "relay" if layer.relay else "readout"
        gate = layer.gate.operations if layer.gate is not None else 0
        rows.append((layer.name, f"{layer.neurons:,}", count(layer.messages), rate, count(into), count(gate)))
    head = ("layer", "neurons", "messages", "rate", "synops into it", "gate operations")
    return table_html(title, head, rows, ["counts are means per sample"])


@line.register
def _(price: Price) -> str:
    least = "at least " if price.lower_bound else ""
    guess = ", an estimate" if price.estimate else ""
    where = "" if price.cores is None else f", {price.cores:,} cores on {price.chips:,} chips"
    fits = ", does not fit as it is" if price.fits is False else ""
    return f"on {price.hardware}: {least}{ranged(price.total)} an inference{guess}{where}{fits}"


@html.register
def _(price: Price) -> str:
    rows = [(p.component, count(p.count), ranged(p.unit_energy), ranged(p.energy)) for p in price.lines]
    rows.append(("total, a lower bound" if price.lower_bound else "total", "", "", ranged(price.total)))
    if price.latency is not None:
        rows.append(("first step to answer", f"{price.steps} steps", "", ranged(price.latency, "s")))
    head = ("component", "count", "each", "energy")
    return table_html(f"Price {line(price)}", head, rows, (*price.fit_notes, *price.notes))


@line.register
def _(mapping: Mapping) -> str:
    broken = len(mapping.violations)
    verdict = "breaks no rule" if not broken else f"breaks {broken} rule{'s' if broken > 1 else ''}"
    return (
        f"of {mapping.net!r} on {mapping.hardware}: {len(mapping.layers)} layers, {len(mapping.cores):,} cores on "
        f"{mapping.chips:,} chips, {verdict}"
    )


@html.register
def _(mapping: Mapping) -> str:
    rows = []
    for layer in mapping.layers:
        shape, cores = " x ".join(map(str, layer.grid.shape)), len(set(layer.cores.tolist()))
        rows.append((layer.name, shape, f"{cores:,}", f"{layer.fan_in:,}", layer.limited_by or "-"))
    head = ("layer", "shape", "cores", "fan-in", "limited by")
    return table_html(f"Mapping {line(mapping)}", head, rows, (*map(str, mapping.violations), *mapping.cautions))


@line.register
def _(v: Verification) -> str:
    verdict = "verified" if v.passed else "NOT VERIFIED"
    equal = ", ".join(f"{b.backend} {'equal' if b.equal else 'DIFFERS'}" for b in v.backends)
    return f"of {v.samples} samples, attention {v.mode}: {verdict}; {equal}; {len(v.cautions)} to act on"


@html.register
def _(v: Verification) -> str:
    rows = [
        (b.backend, b.samples, f"{b.values:,}", b.spike_differences, b.membrane_differences, b.logit_differences)
        for b in v.backends
    ]
    head = ("backend", "samples", "values", "spikes differ", "membranes differ", "logits differ")
    return table_html(f"Verification {line(v)}", head, rows, (*headlines(v), *map(str, v.cautions)))


@line.register
def _(c: Certificate) -> str:
    return (
        f"for {c.net!r} ({c.attention}): {c.samples} samples of {c.data}, T = {c.time_steps}, net {c.net_sha256[:12]}, "
        f"trace {c.trace_sha256[:12]}; agreed by {', '.join(a.backend for a in c.agreements)}"
    )


@html.register
def _(c: Certificate) -> str:
    rows = [(a.backend, a.samples, f"{a.values:,}", a.spike_differences, a.membrane_differences) for a in c.agreements]
    hashes = (f"net {c.net_sha256}", f"clips {c.clips_sha256}", f"trace {c.trace_sha256}", f"spikefold {c.spikefold}")
    head = ("backend", "samples", "values", "spikes differ", "membranes differ")
    return table_html(f"Certificate {line(c)}", head, rows, hashes)


@line.register
def _(row: Row) -> str:
    prices = ", ".join(f"{p.hardware} {ranged(p.total)}" for p in row.prices)
    return f"{row.title}, {row.samples} samples: accuracy {row.accuracy_fixed:.1%} in integers, {prices or 'no price'}"


@html.register
def _(row: Row) -> str:
    return table_html(f"Row {line(row)}", ("", ""), list(_row_facts(row)))


def _row_facts(row: Row) -> Iterator[tuple[str, str]]:
    yield "accuracy, original", f"{row.accuracy_original:.1%}"
    yield "accuracy, lowered float", f"{row.accuracy_lowered:.1%}"
    yield "accuracy, fixed point", f"{row.accuracy_fixed:.1%}"
    yield "lowering changes, points [95 %]", change(row.lowering)
    yield "quantising changes, points [95 %]", change(row.quantising)
    yield "firing rate", f"{row.activity.firing_rate:.4f}"
    yield "synops", count(row.activity.synops)
    yield "gate operations", count(row.activity.gate_operations)
    for price in (*row.prices, *row.beside):
        yield price.title, f"{'>= ' if price.lower_bound else ''}{ranged(price.total)}"
    if row.lava is not None:
        differing = row.lava.different_spikes + row.lava.different_membranes
        yield "Lava", f"{row.lava.samples} samples, {differing} values differ"
