"""The sections of a report, each made of the evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import product

from spikefold.deploy.hardware import load_hardware
from spikefold.deploy.hardware_list import leaf_table
from spikefold.deploy.layer_energy import LayerEnergy
from spikefold.deploy.mapping_tables import layers_table, summary_lines
from spikefold.deploy.price_record import GATE_PROCESSOR
from spikefold.deploy.report import charts
from spikefold.deploy.report.blocks import (
    Block,
    Chart,
    Choice,
    Control,
    Group,
    Section,
    Table,
    from_records,
    from_rich,
    turned,
)
from spikefold.deploy.report.charts import prices_of
from spikefold.deploy.report.evidence import GATE_SAMPLES, RASTER_NEURONS, RASTER_SAMPLES, Evidence, FormEvidence
from spikefold.deploy.tables import (
    activity_table,
    answers,
    comparison_table,
    differences,
    neurobench_table,
    notes,
    price_table,
)
from spikefold.deploy.verify_report import headlines, layer_rows

Forms = Sequence[FormEvidence]

_KINDS = Table("kinds-table", "kinds of numbers on this page", ("kind", "which", "how"), (
    ("measured", "accuracies, gates, errors by layer", "the trained module and the lowered nets, run on the samples "
     "that are named; 95 % intervals are of paired samples (Bonett and Price, 2012)"),
    ("counted", "spikes, synaptic operations, updates, gate operations, messages, cores",
     "event by event, from the integer net's own run and its mapping; nothing in these is estimated"),
    ("compared", "differences between backends", "bit by bit against plain numpy integers; the promise is 0"),
    ("from sources", "energies and times on chips", "counts x published constants; low and high are the ends that the "
     "sources leave open, all taken together; every constant is listed with its source and grade"),
    ("a lower bound", "hollow markers, \"at least\"", "some work is done on the chip that no source prices, such as "
     "that of gates; the total lacks it"),
    ("estimated", f"\"{GATE_PROCESSOR}\", descriptions that say so",
     "constants of another technology stand in; never added to a chip's total"),
), (False,) * 3)  # fmt: skip


def sections(evidence: Evidence) -> list[Section]:
    """All sections, in the order of the page."""
    forms, rows = evidence.forms, evidence.rows
    titles = tuple(row.title for row in rows)
    priced = [p.hardware for p in (*rows[0].prices, *rows[0].beside) if not p.is_ann]
    hardware = Control("chip or table", tuple(prices_of(rows[0], name).title for name in priced))
    variant = Control("variant", titles)
    samples = Control("sample", tuple(f"test sample {i}" for i in range(forms[0].rasters[0].sent.shape[1])))
    chips, gated = tuple(forms[0].mappings), [form for form in forms if form.gates] or forms[:1]
    found = [
        Section(
            "answer", "The answer",
            "What each kind of attention brings against the net without it, and in which form to deploy it.",
            blocks=(
                Block(lines=tuple(answers(rows)) or ("No net with gates was compared: there is no form to choose.",)),
                Block(tables=(from_rich(comparison_table(rows), "comparison"),)),
                *([Block("What to know besides", lines=tuple(notes(rows)))] if notes(rows) else []),
            ),
        ),
        Section(
            "accuracy", "Accuracy against energy",
            "Up and to the left is better. Bars reach from the lowest to the highest energy that the sources allow. A "
            "hollow marker is a lower bound: work is done that no source prices. Dotted lines are artificial networks "
            "of the same shape. Chips, operation counts and memory models are different yardsticks: stay within one.",
            (
                _group("accuracy", (hardware,), lambda i: [
                    Block(charts=(Chart(f"accuracy-{i}", f"fixed-point accuracy against energy, {hardware.options[i]}",
                                        charts.accuracy_energy(rows, priced[i])),))
                ]),
            ),
        ),
        Section(
            "energy", "Where the energy goes",
            "First each variant by component, then one variant by layer: a layer pays for its own updates and for what "
            "arrives at it. White hatched bars are gate work on a separate processor, an estimate that is not part of "
            "the chip's total.",
            (
                _group("components", (hardware,), lambda i: [
                    Block(charts=(Chart(f"components-{i}", f"energy by component, {hardware.options[i]}",
                                        charts.energy_by_component(rows, priced[i])),))
                ]),
                _group("layers", (hardware, variant), lambda i, j: [_layers(forms[j], priced[i], f"{i}-{j}")]),
            ),
        ),
        Section(
            "activity", "Spikes",
            "How often the neurons of each layer fire in each step (100 %: all of them), over all test samples; then "
            f"single spikes of the first {RASTER_SAMPLES} test samples, for at most {RASTER_NEURONS} neurons a layer, "
            "evenly spaced. A relay's messages are those other than 0.",
            (
                _group("rates", (variant,), lambda i: [_rates(forms[i], i)]),
                _group("rasters", (variant, samples), lambda i, j: [
                    Block(charts=(Chart(f"raster-{i}-{j}", f"{titles[i]}, test sample {j}: a mark is a message",
                                        charts.raster(forms[i].rasters, j)),))
                ]),
            ),
        ),
        Section(
            "gates", "Gates before and after folding",
            f"Each gate as trained, on the first {GATE_SAMPLES} test samples (or as many as there are), beside the "
            "mean of the training samples that folding puts in its place. Where samples differ little from it, folding "
            "costs little. Maps are means over steps and channels; large ones are thinned out.",
            (_group("gates", (Control("variant", tuple(f.row.title for f in gated)),), lambda i: _gates(gated[i], i)),),
        ),
        Section(
            "errors", "What each step of lowering costs",
            "The share of spikes that change, layer by layer: by folding (float rounding alone), by lowering "
            "attention, and by quantising; this layer alone, on exact inputs, and carried on from the layers before.",
            (_group("errors", (variant,), lambda i: [_errors(forms[i], i)]),),
        ),
        Section(
            "equality", "Equal on every backend",
            "The integers of the deployed net, run by several programs that share no code, give the same spikes and "
            "membranes in every bit. Whoever has the net and the clips can check the hashes (SHA-256) again.",
            (_group("equality", (variant,), lambda i: [_equality(forms[i], i)]),),
        ),
        *_neurobench(evidence),
        Section(
            "constants", "Every constant and its source",
            "Grades: P value of a primary paper, C read in published code, V statement of the vendor, D derived, M "
            "measured by others, U unconfirmed assumption. Low and high are what the sources leave open.",
            (_constants(forms),),
        ),
        Section(
            "kinds", "What is measured, counted, estimated",
            f"Test data: {evidence.data}; {rows[0].samples:,} samples.",
            blocks=(Block(tables=(_KINDS,)),),
        ),
    ]  # fmt: skip
    if chips:
        cores = Section(
            "cores", "On the cores of a chip",
            "Which layer lies on which core, and how full it is. Each square is a core, black lines are the borders of "
            f"chips. Maps of more than {charts.MOST_CORES:,} cores are left to the table.",
            (
                _group("cores", (variant, Control("chip", chips)),
                       lambda i, j: [_cores(forms[i], chips[j], f"{i}-{j}")]),
            ),
        )  # fmt: skip
        found.insert(6, cores)
    return found


def _group(identity: str, controls: tuple[Control, ...], make: Callable[..., list[Block]]) -> Group:
    """A choice for each combination of the options."""
    keys = product(*(range(len(c.options)) for c in controls))
    choices = [
        Choice(key, ", ".join(c.options[k] for c, k in zip(controls, key, strict=True)), tuple(make(*key)))
        for key in keys
    ]
    return Group(identity, controls, tuple(choices))


def _layers(form: FormEvidence, hardware: str, identity: str) -> Block:
    price, layers = prices_of(form.row, hardware), form.energies[hardware]
    title = f"{form.row.title} by layer, {price.title}"
    return Block(
        charts=(Chart(f"layers-{identity}", title, charts.energy_by_layer(layers)),),
        folded=(
            from_records(_layer_records(layers), f"layers-table-{identity}", f"{title}, in joules"),
            from_rich(price_table(price), f"price-{identity}"),
        ),
        lines=(*price.fit_notes, *price.notes),
    )


def _layer_records(layers: Sequence[LayerEnergy]) -> list[dict[str, object]]:
    """A record a line: layer, component, events, and joules."""
    records: list[dict[str, object]] = []
    for layer in layers:
        name = "whole chip" if layer.layer is None else layer.layer
        for line in layer.lines:
            e = line.energy
            records.append({"layer": name, "component": line.component, "count": float(line.count), "low": e.low,
                            "value": e.value, "high": e.high})  # fmt: skip
        if layer.gate_processor is not None:
            g = layer.gate_processor
            records.append({"layer": name, "component": GATE_PROCESSOR, "count": None, "low": g.low, "value": g.value,
                            "high": g.high})  # fmt: skip
    return records


def _rates(form: FormEvidence, i: int) -> Block:
    title = f"{form.row.title}: messages per 100 neurons, by layer and step, mean of {form.row.samples:,} samples"
    return Block(
        charts=(Chart(f"rates-{i}", title, charts.rates(form)),),
        folded=(from_rich(activity_table(form.row.activity), f"activity-{i}"),),
    )


def _gates(form: FormEvidence, i: int) -> list[Block]:
    if not form.gates:
        return [Block(lines=("This net has no gates.",))]
    return [
        Block(
            f"{form.row.title}, gate of {gate.layer}",
            f"Shape {' x '.join(map(str, gate.shape))} (steps x features); varies {gate.variation:.1%} over training "
            f"samples; deployed: {_DEPLOYED[form.row.mode]}.",
            charts=tuple(Chart(f"gate-{i}-{k}-{j}", caption, figure)
                  for j, (caption, figure) in enumerate(charts.gate_charts(gate))),
        )
        for k, gate in enumerate(form.gates)
    ]  # fmt: skip


_DEPLOYED = {
    "static": "its mean, folded into weights or thresholds",
    "scheduled": "its mean, and a factor for each step",
    "causal": "computed in integers from the steps up to now",
    "dynamic": "computed in integers from the whole clip, as trained",
}


def _errors(form: FormEvidence, i: int) -> Block:
    v = form.verification
    title = f"{form.row.title}: spikes that differ, on {v.samples} test samples"
    return Block(
        charts=(Chart(f"errors-{i}", title, charts.error_ladder(form)),),
        folded=(turned(from_records(layer_rows(v), f"errors-table-{i}", f"{form.row.title}: every number by layer")),),
        lines=tuple(headlines(v)),
    )


def _cores(form: FormEvidence, chip: str, identity: str) -> Block:
    mapping = form.mappings[chip]
    drawn = charts.core_maps(mapping)
    return Block(
        charts=tuple(
            Chart(f"cores-{identity}-{k}", f"{form.row.title} on {chip}: {caption}", figure)
            for k, (caption, figure) in enumerate(drawn)
        ),
        tables=(_numbered(from_rich(layers_table(mapping), f"cores-table-{identity}"), len(mapping.layers)),),
        lines=tuple(line.removeprefix("  - ") for line in summary_lines(mapping)),
    )


def _numbered(table: Table, layers: int) -> Table:
    """With the numbers in front that the map shows."""
    numbers = [*map(str, range(1, layers + 1)), *[""] * (len(table.rows) - layers)]
    rows = tuple((n, *row) for n, row in zip(numbers, table.rows, strict=True))
    return Table(table.id, table.caption, ("no.", *table.head), rows, (True, *table.right))


def _equality(form: FormEvidence, i: int) -> Block:
    title, lava, certificate = form.row.title, form.row.lava, form.certificate
    compared: list[dict[str, object]] = [
        {"program": b.backend, "against": "numpy reference", "samples": b.samples, "values": b.values,
         "different spikes": b.spike_differences, "different membranes": b.membrane_differences}
        for b in form.verification.backends
    ]  # fmt: skip
    if lava is not None:
        compared.append(
            {"program": "lava", "against": "onnx", "samples": lava.samples, "values": lava.values,
             "different spikes": lava.different_spikes, "different membranes": lava.different_membranes}
        )  # fmt: skip
    lines = () if lava is not None else ("Lava did not run.",)
    tables = [from_records(compared, f"equality-{i}", f"{title}: what differs, bit by bit")]
    if certificate is None:
        lines = (*lines, "NOT EQUAL: a program differs from the reference, so there is no certificate.")
    else:
        plain = asdict(certificate)
        facts = [{"what": key.replace("_", " "), "value": plain[key]} for key in
                 ("net", "attention", "net_sha256", "data", "clips_sha256", "samples", "time_steps", "trace_sha256",
                  "spikefold")]  # fmt: skip
        facts += [{"what": f"version of {name}", "value": v} for name, v in certificate.versions.items()]
        tables.append(from_records(facts, f"certificate-{i}", f"{title}: certificate"))
    return Block(lines=lines, tables=tuple(tables))


def _neurobench(evidence: Evidence) -> list[Section]:
    rows = evidence.rows
    if all(row.neurobench is None for row in rows):
        return []
    why: dict[str, list[str]] = {}
    for line in differences(rows):
        if line.startswith("  - "):
            why[next(reversed(why))].append(line.removeprefix("  - "))
        else:
            why[line] = []
    return [
        Section(
            "neurobench", "NeuroBench's counts beside",
            "The benchmark counts the module as written, this report the net that is deployed. What lies between, step "
            "by step.",
            blocks=(Block(tables=(from_rich(neurobench_table(rows), "neurobench-table"),)),
                    *(Block(net, lines=tuple(lines)) for net, lines in why.items())),
        )
    ]  # fmt: skip


def _constants(forms: Forms) -> Group:
    shown = {h.name: h for h in forms[0].hardware}
    if any(price.gate_processor is not None for form in forms for price in form.row.prices):
        shown.setdefault("cmos45", load_hardware("cmos45"))  # what a gate processor is priced with
    found = list(shown.values())
    tables = [from_rich(leaf_table(h), f"constants-{i}") for i, h in enumerate(found)]
    return _group(
        "constants", (Control("description", tuple(h.title for h in found)),),
        lambda i: [Block(lines=(found[i].note,), tables=(tables[i],))],
    )  # fmt: skip
