"""What the commands do, from names to results; `spikefold.deploy.cli` only parses and prints."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import nir
import torch
from rich.table import Table

from spikefold.converters.calibrate import Calibration, calibrate
from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.lava_dl.writer import to_lava_dl, write_lava_dl
from spikefold.converters.lower import ATTENTIONS, Attention, lower, lower_float
from spikefold.converters.nir_file import save_nir
from spikefold.converters.onnx import (
    has_float_step_form,
    has_step_form,
    save_onnx,
    to_onnx_clip,
    to_onnx_float_step,
    to_onnx_step,
)
from spikefold.converters.palette import LayerPalette, palettise
from spikefold.converters.portable_nir import PortableNet, to_portable_nir, write_portable_nir
from spikefold.deploy.cautions import Caution, of_gates, of_run, tell
from spikefold.deploy.certificate import Certificate, certify, read_certificate, recheck, write_certificate
from spikefold.deploy.compare import compare, write_csv, write_json
from spikefold.deploy.comparison import Row
from spikefold.deploy.demo import CALIBRATION_SAMPLES
from spikefold.deploy.hardware import load_hardware
from spikefold.deploy.lava_dl_cost import lava_dl_lines
from spikefold.deploy.picture import draw_accuracy_energy
from spikefold.deploy.portable_cost import cost_lines, portable_cost
from spikefold.deploy.price import Price, check_priced, price
from spikefold.deploy.report.evidence import Evidence
from spikefold.deploy.report.page import check_report
from spikefold.deploy.report.page import write_report as write_page
from spikefold.deploy.report.pictures import write_figures
from spikefold.deploy.run import Backend, open_net, run
from spikefold.deploy.sources import Split, check_fit, find_data, find_net, find_nets, has_splits, random_events
from spikefold.deploy.states import count_states, fire_at_equality
from spikefold.deploy.tables import activity_table
from spikefold.deploy.verify import Verification, verify
from spikefold.deploy.verify_report import write_report
from spikefold.errors import InputError, SpikefoldWarning
from spikefold.files import made_folder

Report = Callable[[str], None]
HELD_OUT: Split = "val"
"""Samples that `verify` compares on."""
CAUTION_SAMPLES = 32
"""Calibration samples that `export` runs the integers on, to see what to act on."""
NirDialect = Literal["spikefold", "portable"]


def export_net(
    net: str, checkpoint: str | None, data: str, attention: Attention, time_steps: int | None, samples: int,
    threshold_levels: int | None, nir_dialect: NirDialect, approximate: bool, out: Path | None, report: Report,
    sample: str | None = None, lava_dl: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write a net's files; returns their paths and a summary.

    With the shape of a ``sample`` in place of data, weights are scaled on random events, and a mean gate is refused.
    A ``.net`` of lava-dl is written as it is, without data.
    """
    if approximate and nir_dialect != "portable" and not lava_dl:
        raise InputError("--approximate is about --nir-dialect portable and --lava-dl; every other file is exact")
    if net.endswith(".net"):
        if lava_dl or checkpoint or threshold_levels or nir_dialect == "portable":
            raise InputError(f"{net}: is of integers; leave out what changes it, and what writes it for other programs")
        held = open_net(net)
        return _exported(held, write_net(held, out if out is not None else Path(held.name)), (), [], [])
    report("loading")
    named = find_net(net, checkpoint, time_steps)
    if sample is None:
        loaded = find_data(data, "train", samples, time_steps)
    else:
        loaded = random_events(sample, samples, time_steps)
    clips = loaded.clips()
    check_fit(named, clips, data if sample is None else f"--sample {sample}")
    report("capturing")
    graph = capture(named.module, torch.from_numpy(clips[:, :1]))
    if sample is not None:
        _check_random_fits(graph, attention)
    report(f"calibrating on {clips.shape[1]} training samples and quantising")
    calibration = calibrate(graph, clips)
    lowered, _ = lower_float(graph, calibration, attention)
    fixed = lower(graph, calibration, attention, name=named.name)
    palette: tuple[LayerPalette, ...] = ()
    if threshold_levels is not None:
        report(f"reducing threshold maps to {threshold_levels} levels")
        reduced = palettise(fixed, clips, threshold_levels)
        fixed, palette = reduced.graph, reduced.layers
    report("looking for what to act on")
    cautions = _export_cautions(graph, lowered, fixed, calibration, attention, sample is None)
    tell(cautions)
    stem = out if out is not None else Path(named.name if fixed.attention == "none" else f"{named.name}-{attention}")
    portable = to_portable_nir(fixed, approximate) if nir_dialect == "portable" else None
    for_lava_dl = to_lava_dl(fixed, approximate) if lava_dl else None
    report("writing")
    files = write_net(fixed, stem, lowered, portable)
    said: list[str] = []
    if portable is not None:
        report("measuring what the portable file costs")
        said = cost_lines(portable, portable_cost(fixed, portable, clips, loaded.labels))
    lines: list[str] = []
    if for_lava_dl is not None:
        files["lava-dl"] = stem.with_name(f"{stem.name}.net")
        write_lava_dl(for_lava_dl, files["lava-dl"])
        lines = lava_dl_lines(fixed, for_lava_dl, clips, loaded.labels)
    exported = _exported(fixed, files, palette, said, lines)
    return {**exported, "cautions": [caution.to_dict() for caution in cautions]}


def _export_cautions(
    captured: nir.NIRGraph, lowered: nir.NIRGraph, fixed: FixedPointGraph, calibration: Calibration,
    attention: Attention, real: bool,
) -> tuple[Caution, ...]:  # fmt: skip
    """What to act on, found on some of the calibration samples; ``real`` where these are no random events."""
    found = of_gates(read_float_graph(captured), calibration, attention)
    if not real:
        return found
    clips = calibration.clips[:, :CAUTION_SAMPLES]
    states = count_states(fixed, clips, fire_at_equality(read_float_graph(lowered)))
    return found + of_run(run(fixed, clips), states)


def _exported(
    fixed: FixedPointGraph, files: dict[str, Path], palette: tuple[LayerPalette, ...], portable: list[str],
    lava_dl: list[str],
) -> dict[str, Any]:  # fmt: skip
    """What `export_net` says of what it wrote."""
    neurons = sum(n.size for n in fixed.neurons)
    weights = sum(s.weight.size for s in fixed.synapses)
    steps = "any T" if fixed.time_steps is None else f"T = {fixed.time_steps}"
    summary = f"{fixed.name}: attention {fixed.attention}, {neurons} neurons, {weights} weights of 8 bits, {steps}"
    return {"files": {k: str(v) for k, v in files.items()}, "summary": summary, "attention": fixed.attention,
            "neurons": neurons, "weights": weights, "time_steps": fixed.time_steps,
            "threshold_palette": [vars(layer) for layer in palette], "portable": portable,
            "lava_dl": lava_dl}  # fmt: skip


def _check_random_fits(graph: nir.NIRGraph, attention: Attention) -> None:
    """Random events stand for data where only the scale of weights is found on them; a warning says so."""
    gated = [p.name for p in read_float_graph(graph).populations if p.has_attention]
    if gated and attention != "dynamic":
        raise InputError(
            f"--sample with --attention {attention}: the mean gate of {gated[0]} comes from training samples; give "
            "them as --data, or choose --attention dynamic"
        )
    warnings.warn(
        "weights are scaled on random events; with training samples as --data they fit the net's own spikes",
        SpikefoldWarning,
        stacklevel=2,
    )


def write_net(
    graph: FixedPointGraph,
    stem: Path,
    float_graph: nir.NIRGraph | None = None,
    portable: PortableNet | None = None,
) -> dict[str, Path]:
    """Write ``stem.nir``, ``stem.onnx`` and, without a computed gate, ``stem.step.onnx``; gives the paths by kind.

    With the lowered float net also ``stem.float.step.onnx``, where that has a step form. The nodes of the ``.nir`` are
    those of ``portable``, where it is given.
    """
    files = {"nir": stem.with_name(f"{stem.name}.nir"), "onnx": stem.with_name(f"{stem.name}.onnx")}
    clip_model = to_onnx_clip(graph)
    if portable is None:
        save_nir(graph, files["nir"])
    else:
        write_portable_nir(portable, files["nir"])
    save_onnx(clip_model, files["onnx"])
    if has_step_form(graph):
        files["onnx step"] = stem.with_name(f"{stem.name}.step.onnx")
        save_onnx(to_onnx_step(graph), files["onnx step"])
    if float_graph is not None and has_float_step_form(float_graph):
        files["onnx float step"] = stem.with_name(f"{stem.name}.float.step.onnx")
        save_onnx(to_onnx_float_step(float_graph, graph.name), files["onnx float step"])
    return files


def simulate_file(
    file: Path, data: str, backend: Backend, samples: int | None, time_limit: float, report: Report
) -> tuple[dict[str, Any], Table]:
    """Run a file on test samples."""
    graph = open_net(file)
    if samples is None and backend == "lava":
        samples = 4
    loaded = find_data(data, "test", samples)
    report(f"running {len(loaded)} samples on {backend}")
    result = run(graph, loaded.clips(), backend, time_limit_s=time_limit)
    accuracy = None if loaded.labels is None else result.accuracy(loaded.labels)
    report("looking for what to act on")
    cautions = of_run(result, count_states(graph, loaded.clips()))
    tell(cautions)
    counted = result.activity
    plain = {
        "samples": len(loaded), "backend": backend, "accuracy": accuracy, "seconds": result.seconds,
        "predictions": result.predictions.tolist(), "firing_rate": counted.firing_rate, "spikes": counted.spikes,
        "synops": counted.synops, "neuron_updates": counted.updates, "gate_operations": counted.gate_operations,
        "relay_messages": counted.relay_messages, "relay_operations": counted.relay_operations,
        "layers": {layer.name: layer.messages for layer in counted.layers},
        "cautions": [caution.to_dict() for caution in cautions],
    }  # fmt: skip
    return plain, activity_table(counted)


def verify_net(
    net: str, checkpoint: str | None, data: str, attention: Attention, time_steps: int | None, file: Path | None,
    samples: int, lava_samples: int, time_limit: float, out: Path | None, report: Report,
) -> Verification:  # fmt: skip
    """Compare a net with everything that was made of it, on held-out samples; files of it go to the folder ``out``."""
    if net.endswith(".nir"):
        raise InputError(
            f"{net}: verifying takes the trained net, and what was made of it as --file {net}; if another program "
            "wrote this one, give its dialect as --from DIALECT"
        )
    if out is not None:  # before anything long is done
        made_folder(out)
    report("loading")
    graph = None if file is None else open_net(file)
    if graph is not None and graph.attention != "none":
        attention = graph.attention
    named = find_net(net, checkpoint, time_steps)
    if has_splits(data):
        calibration = find_data(data, "train", CALIBRATION_SAMPLES, time_steps)
        held_out = find_data(data, HELD_OUT, samples, time_steps)
    else:
        both = find_data(data, "train", None, time_steps)
        if len(both) < 2:
            raise InputError(
                f"{data}: holds {len(both)} clip; verifying needs some to calibrate and some to compare on"
            )
        held = min(samples, len(both) // 2)
        held_out, calibration = both[:held], both[held:][:CALIBRATION_SAMPLES]
    check_fit(named, calibration.clips(), data)
    report("comparing module, captured net, integers and backends")
    result = verify(
        named.module,
        held_out.clips(),
        calibration_clips=calibration.clips(),
        attention=attention,
        graph=graph,
        labels=held_out.labels,
        lava_samples=lava_samples,
        time_limit_s=time_limit,
    )
    if out is not None:
        write_report(result, out)
        if graph is not None and result.passed:
            said = f"{data}, {HELD_OUT}" if has_splits(data) else Path(data).name
            made = certify(graph, held_out.clips(), result.backends, f"{said}, the first {len(held_out)}")
            write_certificate(made, out / "certificate.json")
    tell(result.cautions)
    return result


def recheck_file(
    file: str, certificate: Path, data: str, lava_samples: int, time_limit: float, report: Report
) -> tuple[Certificate, list[str]]:
    """Check what a certificate says of a file and of the first held-out clips; gives it and what does not hold."""
    said, graph = read_certificate(certificate), open_net(file)
    clips = find_data(data, HELD_OUT if has_splits(data) else "train", said.samples, said.time_steps).clips()
    report(f"running {clips.shape[1]} samples on every backend")
    return said, recheck(said, graph, clips, min(lava_samples, clips.shape[1]), time_limit)


def price_file(
    file: Path, data: str, hardware: Sequence[str], samples: int | None, report: Report
) -> tuple[Price, ...]:
    """Run a file and price what it did on every chip named."""
    chips = [check_priced(load_hardware(h)) for h in hardware]
    graph = open_net(file)
    loaded = find_data(data, "test", samples)
    report(f"running {len(loaded)} samples")
    done = run(graph, loaded.clips())
    report("mapping and pricing")
    return tuple(price(done, chip) for chip in chips)


def compare_nets(
    nets: Sequence[str], checkpoints: Sequence[str], data: str, calibration: str | None, modes: Sequence[str],
    time_steps: int | None, hardware: Sequence[str], samples: int | None, lava_samples: int,
    threshold_levels: int | None, out: Path | None, page: Path | None, figures: Path | None, report: Report,
) -> list[Row]:  # fmt: skip
    """Compare nets on test samples, calibrated on training samples; ``page`` is an HTML file, ``figures`` a folder."""
    chosen = [a for m in modes for a in ATTENTIONS if a == m]
    if len(chosen) < len(modes):
        raise InputError(f"attention modes {', '.join(modes)}: choose among {', '.join(ATTENTIONS)}")
    if not has_splits(data) and calibration is None:
        raise InputError(f"--data {data} holds the test samples: name training samples with --calibration x.npz")
    if page is not None:  # before anything long is done
        check_report()
    for folder in (out, figures, None if page is None else page.parent):
        if folder is not None:
            made_folder(folder)
    for name in hardware:
        check_priced(load_hardware(name))
    named = find_nets(nets, checkpoints, time_steps)
    training = find_data(calibration or data, "train", CALIBRATION_SAMPLES, time_steps)
    test = find_data(data, "test", samples, time_steps)
    if test.labels is None:
        raise InputError(f"{data}: has no labels; comparing accuracies needs labels [N]")
    for net in named:
        check_fit(net, training.clips(), calibration or data)
    said = data if has_splits(data) else Path(data).name
    evidence = None if page is None and figures is None else Evidence(said, report)
    rows = compare(
        named, training.clips(), test.clips(), test.labels, modes=chosen, hardware=hardware,
        lava_samples=lava_samples, threshold_levels=threshold_levels, report=report,
        watch=(lambda _: None) if evidence is None else evidence.add,
    )  # fmt: skip
    if out is not None:
        write_csv(rows, out / "table.csv")
        write_json(rows, out / "table.json")
        draw_accuracy_energy(rows, out / "accuracy-energy.png")
    if evidence is not None:
        write_evidence(evidence, page, figures)
    return rows


def write_evidence(evidence: Evidence, page: Path | None, figures: Path | None) -> None:
    """Write the report, its figures for papers, or both."""
    if page is not None:
        write_page(evidence, page)
    if figures is not None:
        write_figures(evidence, figures)
