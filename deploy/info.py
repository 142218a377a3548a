"""Say what a file holds, or what this installation has."""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons
from spikefold.deploy.hardware import shipped_hardware
from spikefold.deploy.run import open_net
from spikefold.deploy.tuned import TUNED, find_file
from spikefold.errors import FileFormatError, InputError
from spikefold.models import load_checkpoint
from spikefold.models.checkpoints import SHIPPED, shipped

_PACKAGES = ("spikefold", "torch", "numpy", "onnx", "onnxruntime", "nir")


def describe(file: str | None) -> dict[str, Any]:
    """A flat description, ready for printing or JSON.

    Raises
    ------
    InputError
        The name is no file, no shipped net, or of a kind that spikefold does not read.
    FileFormatError
        The file is damaged.
    """
    if file is None:
        versions = {p: importlib.metadata.version(p) for p in _PACKAGES}
        return {**versions, "shipped nets": ", ".join([*SHIPPED, *TUNED]), "hardware": ", ".join(shipped_hardware())}
    path = shipped(file) if file in SHIPPED else find_file(file)
    if path.suffix in (".nir", ".net"):
        return _describe_net(open_net(path))
    if not os.path.isfile(path):
        raise InputError(f"{file}: neither a file nor a shipped net ({', '.join([*SHIPPED, *TUNED])})")
    if path.suffix == ".safetensors":
        _, meta = load_checkpoint(path)
        return asdict(meta)
    if path.suffix == ".onnx":
        return _describe_onnx(path)
    raise InputError(f"{file}: spikefold reads .nir, .net, .onnx and .safetensors")


def _describe_net(graph: FixedPointGraph) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "net": graph.name,
        "attention": graph.attention,
        "time steps": graph.time_steps or "free",
        "input": f"{graph.input.shape}, values 0..{graph.input.max_value}",
    }
    plain.update(graph.provenance)
    for n in graph.neurons:
        gate = f", gate of {len(n.gate.steps)} steps" if n.gate is not None else ""
        bias = ", a bias of each step" if n.has_bias_schedule else ""
        plain[n.name] = _describe_dynamics(n) + bias + gate
    for s in graph.synapses:
        plain[s.name] = f"{s.kind} {s.source} -> {s.target}, {s.weight.size} weights, exponent {s.exponent}"
    return plain


def _describe_dynamics(n: Neurons) -> str:
    if n.relay is not None:
        return f"relay of {n.size} values, numbers {n.relay.low}..{n.relay.high}"
    if n.is_readout:
        return f"{n.size} readout neurons, dv {n.dv}"
    reset = ", soft reset" if n.soft_reset else ""
    if n.v_reset is not None:
        low, high = int(n.v_reset.min()), int(n.v_reset.max())
        reset = f", reset to {low}" if low == high else f", reset to {low}..{high}"
    return f"{n.size} neurons, dv {n.dv}, {n.threshold_levels} threshold level(s){reset}"


def _describe_onnx(path: Path) -> dict[str, Any]:
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf raises whatever comes up on a damaged file
        raise FileFormatError(f"{path}: not a readable ONNX file ({type(error).__name__})") from error
    if not model.HasField("graph"):
        raise FileFormatError(f"{path}: not a readable ONNX file (it has no graph)")
    return {
        **{p.key: p.value for p in model.metadata_props},
        "inputs": ", ".join(i.name for i in model.graph.input),
        "outputs": ", ".join(o.name for o in model.graph.output),
        "functions": ", ".join(f.name for f in model.functions),
        "opset": next((o.version for o in model.opset_import if not o.domain), None),
    }
