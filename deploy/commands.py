"""What the commands do, from names to results; `spikefold.deploy.cli` only parses and prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.lower import ATTENTIONS, Attention, lower
from spikefold.converters.nir_file import save_nir
from spikefold.converters.onnx import has_step_form, save_onnx, to_onnx_clip, to_onnx_step
from spikefold.converters.palette import LayerPalette, palettise
from spikefold.deploy.compare import compare, write_csv, write_json
from spikefold.deploy.comparison import Row
from spikefold.deploy.demo import CALIBRATION_SAMPLES
from spikefold.deploy.hardware import load_hardware
from spikefold.deploy.picture import draw_accuracy_energy
from spikefold.deploy.price import Price, check_priced, price
from spikefold.deploy.run import Backend, open_net, run
from spikefold.deploy.sources import check_fit, find_data, find_net, has_splits
from spikefold.deploy.tables import activity_table
from spikefold.deploy.verify import Verification, verify
from spikefold.deploy.verify_report import write_report
from spikefold.errors import InputError

Report = Callable[[str], None]


def export_net(
    net: str, checkpoint: str | None, data: str, attention: Attention, time_steps: int | None, samples: int,
    threshold_levels: int | None, out: Path | None, report: Report,
) -> dict[str, Any]:  # fmt: skip
    """Write a net's files; returns their paths and a summary."""
    report("loading")
    named = find_net(net, checkpoint, time_steps)
    clips = find_data(data, "train", samples, time_steps).clips()
    check_fit(named, clips)
    report("capturing")
    graph = capture(named.module, torch.from_numpy(clips[:, :1]))
    report(f"calibrating on {clips.shape[1]} training samples and quantising")
    fixed = lower(graph, clips, attention, name=named.name)
    palette: tuple[LayerPalette, ...] = ()
    if threshold_levels is not None:
        report(f"reducing threshold maps to {threshold_levels} levels")
        reduced = palettise(fixed, clips, threshold_levels)
        fixed, palette = reduced.graph, reduced.layers
    stem = out if out is not None else Path(named.name if fixed.attention == "none" else f"{named.name}-{attention}")
    report("writing")
    files = write_net(fixed, stem)
    neurons = sum(n.size for n in fixed.neurons)
    weights = sum(s.weight.size for s in fixed.synapses)
    steps = "any T" if fixed.time_steps is None else f"T = {fixed.time_steps}"
    summary = f"{fixed.name}: attention {fixed.attention}, {neurons} neurons, {weights} weights of 8 bits, {steps}"
    return {"files": {k: str(v) for k, v in files.items()}, "summary": summary, "attention": fixed.attention,
            "neurons": neurons, "weights": weights, "time_steps": fixed.time_steps,
            "threshold_palette": [vars(layer) for layer in palette]}  # fmt: skip


def write_net(graph: FixedPointGraph, stem: Path) -> dict[str, Path]:
    """Write ``stem.nir``, ``stem.onnx`` and, without a computed gate, ``stem.step.onnx``; gives the paths by kind."""
    files = {"nir": stem.with_name(f"{stem.name}.nir"), "onnx": stem.with_name(f"{stem.name}.onnx")}
    clip_model = to_onnx_clip(graph)
    save_nir(graph, files["nir"])
    save_onnx(clip_model, files["onnx"])
    if has_step_form(graph):
        files["onnx step"] = stem.with_name(f"{stem.name}.step.onnx")
        save_onnx(to_onnx_step(graph), files["onnx step"])
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
    counted = result.activity
    plain = {
        "samples": len(loaded), "backend": backend, "accuracy": accuracy, "seconds": result.seconds,
        "predictions": result.predictions.tolist(), "firing_rate": counted.firing_rate, "spikes": counted.spikes,
        "synops": counted.synops, "neuron_updates": counted.updates, "gate_operations": counted.gate_operations,
        "relay_messages": counted.relay_messages, "relay_operations": counted.relay_operations,
        "layers": {layer.name: layer.messages for layer in counted.layers},
    }  # fmt: skip
    return plain, activity_table(counted)


def verify_net(
    net: str, checkpoint: str | None, data: str, attention: Attention, time_steps: int | None, file: Path | None,
    samples: int, lava_samples: int, time_limit: float, out: Path | None, report: Report,
) -> Verification:  # fmt: skip
    """Compare a net with everything that was made of it, on held-out samples; files of it go to the folder ``out``."""
    if net.endswith(".nir"):
        raise InputError(f"{net}: verifying takes the trained net, and what was made of it as --file {net}")
    report("loading")
    graph = None if file is None else open_net(file)
    if graph is not None and graph.attention != "none":
        attention = graph.attention
    named = find_net(net, checkpoint, time_steps)
    if has_splits(data):
        calibration = find_data(data, "train", CALIBRATION_SAMPLES, time_steps)
        held_out = find_data(data, "val", samples, time_steps)
    else:
        both = find_data(data, "train", None, time_steps)
        if len(both) < 2:
            raise InputError(
                f"{data}: holds {len(both)} clip; verifying needs some to calibrate and some to compare on"
            )
        held = min(samples, len(both) // 2)
        held_out, calibration = both[:held], both[held:][:CALIBRATION_SAMPLES]
    check_fit(named, calibration.clips())
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
    return result


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
    nets: Sequence[str], checkpoint: str | None, data: str, calibration: str | None, modes: Sequence[str],
    time_steps: int | None, hardware: Sequence[str], samples: int | None, lava_samples: int, out: Path | None,
    report: Report,
) -> list[Row]:  # fmt: skip
    """Compare nets on test samples, calibrated on training samples."""
    chosen = [a for m in modes for a in ATTENTIONS if a == m]
    if len(chosen) < len(modes):
        raise InputError(f"attention modes {', '.join(modes)}: choose among {', '.join(ATTENTIONS)}")
    if not has_splits(data) and calibration is None:
        raise InputError(f"--data {data} holds the test samples: name training samples with --calibration x.npz")
    for name in hardware:  # before anything long is done
        check_priced(load_hardware(name))
    named = [find_net(n, checkpoint if ":" in n else None, time_steps) for n in nets]
    training = find_data(calibration or data, "train", CALIBRATION_SAMPLES, time_steps)
    test = find_data(data, "test", samples, time_steps)
    if test.labels is None:
        raise InputError(f"{data}: has no labels; comparing accuracies needs labels [N]")
    for net in named:
        check_fit(net, training.clips())
    rows = compare(
        named, training.clips(), test.clips(), test.labels, modes=chosen, hardware=hardware,
        lava_samples=lava_samples, report=report,
    )  # fmt: skip
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_csv(rows, out / "table.csv")
        write_json(rows, out / "table.json")
        draw_accuracy_energy(rows, out / "accuracy-energy.png")
    return rows
