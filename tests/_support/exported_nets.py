"""Nets of snnTorch, SpikingJelly, Norse and sinabs, written as NIR by their own exporters and run by themselves.

The frameworks are imported where a net is made: tests of one need not have the others.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from _nir_consumers import SINABS, record
from torch import Tensor, nn

STEPS, BATCH = 16, 4


@dataclass(frozen=True)
class Exported:
    """What an exporter made of a net, clips ``[T, B, ...]``, and what each layer of neurons sends ``[T, B, ...]``."""

    graph: nir.NIRGraph
    clips: Tensor
    trains: Sequence[Tensor]


@dataclass(frozen=True)
class Export:
    """A net of a framework: the package, what the net is, the dialect of its file, and how it is made and run."""

    package: str
    words: str
    dialect: str
    make: Callable[[], Exported]


def events(*shape: int, seed: int = 5) -> Tensor:
    """Random events ``[T, B, *shape]``."""
    return (torch.rand((STEPS, BATCH, *shape), generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def run_recorded(net: nn.Module, neurons: Sequence[int], step: Callable[[Tensor], Any], clips: Tensor) -> list[Tensor]:
    """What the modules at ``neurons`` of a sequence send while ``step`` runs each frame."""
    trains, end_of_clip = record(net, [str(n) for n in neurons])
    with torch.no_grad():
        for frame in clips:
            step(frame)
    end_of_clip()
    return [trains[str(n)].squeeze(1) for n in neurons]


# ------------------------------------------------------------------------------------------------------- snnTorch


def _snntorch_layers(kind: str, n: int) -> nn.Module:
    import snntorch

    common: dict[str, Any] = {
        "threshold": torch.full((n,), 0.5), "reset_mechanism": "zero", "reset_delay": False, "init_hidden": True,
    }  # fmt: skip
    beta, alpha = torch.rand(n) * 0.8 + 0.1, torch.rand(n) * 0.8 + 0.1
    if kind == "Leaky":
        return snntorch.Leaky(beta=beta, **common)
    if kind == "Synaptic":
        return snntorch.Synaptic(alpha=alpha, beta=beta, **common)
    return snntorch.RLeaky(beta=beta, linear_features=n, **common)


def _snntorch_run(net: nn.Sequential, neurons: Sequence[int], clips: Tensor) -> list[Tensor]:
    for n in neurons:
        net[n].reset_mem()  # type: ignore[operator]
    return run_recorded(net, neurons, net, clips)


def _snntorch_dense(kind: str) -> Exported:
    from snntorch.export_nir import export_to_nir

    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(12, 10), _snntorch_layers(kind, 10), nn.Linear(10, 6), _snntorch_layers("Leaky", 6))
    graph, clips = export_to_nir(net, torch.zeros(12)), events(12)
    return Exported(graph, clips, _snntorch_run(net, (1, 3), clips))


def _snntorch_rsynaptic() -> Exported:
    """Run by hand: snnTorch 1.0.0 cannot run it with init_hidden, and its exporter runs what it exports."""
    import snntorch
    from snntorch.export_nir import _extract_snntorch_module

    torch.manual_seed(2)
    recurrent = snntorch.RSynaptic(
        alpha=torch.rand(8) * 0.8, beta=torch.rand(8) * 0.8, threshold=torch.full((8,), 0.5), linear_features=8,
        reset_mechanism="zero", reset_delay=False,
    )  # fmt: skip
    linear, clips = nn.Linear(12, 8), events(12)
    with torch.no_grad():
        spikes, synapse, membrane = (torch.zeros(BATCH, 8) for _ in range(3))
        train = []
        for step in clips:
            synapse = recurrent.alpha * synapse + linear(step) + recurrent.recurrent(spikes)
            membrane = recurrent.beta * membrane + synapse
            spikes = (membrane > recurrent.threshold).float()
            membrane = membrane * (1 - spikes)
            train.append(spikes)
    nodes = {
        "input": nir.Input({"input": np.array([12])}), "l": _extract_snntorch_module(linear),
        "r": _extract_snntorch_module(recurrent), "output": nir.Output({"output": np.array([8])}),
    }  # fmt: skip
    graph = nir.NIRGraph(nodes, [("input", "l"), ("l", "r"), ("r", "output")], type_check=False)
    return Exported(graph, clips, [torch.stack(train)])


def _snntorch_spatial() -> Exported:
    import snntorch
    from snntorch.export_nir import export_to_nir

    torch.manual_seed(3)
    shape = (3, 6, 6)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        snntorch.Leaky(torch.full(shape, 0.6), torch.full(shape, 0.4), reset_mechanism="zero", init_hidden=True),
        nn.AvgPool2d(2), nn.Flatten(-3), nn.Linear(27, 5),
        snntorch.Leaky(torch.full((5,), 0.5), torch.full((5,), 0.2), reset_mechanism="zero", init_hidden=True),
    )  # fmt: skip
    clips = events(2, 6, 6)
    trains = _snntorch_run(net, (1, 5), clips)
    _snntorch_run(net, (1, 5), clips[:1, 0])  # the exporter runs one sample on the states that are there
    return Exported(export_to_nir(net, torch.zeros(2, 6, 6)), clips, trains)


# ---------------------------------------------------------------------------------------------------- SpikingJelly


def _spikingjelly(seed: int, make: Callable[[Any, Any], list[nn.Module]]) -> Exported:
    from spikingjelly.activation_based import functional, layer, neuron
    from spikingjelly.activation_based.nir_exchange.to_nir import export_to_nir

    torch.manual_seed(seed)
    net, clips = nn.Sequential(*make(layer, neuron)), events(2, 6, 6)
    graph = export_to_nir(net, clips[0])
    functional.reset_net(net)
    neurons = [n for n, module in enumerate(net) if isinstance(module, neuron.BaseNode)]
    return Exported(graph, clips, run_recorded(net, neurons, net, clips))


def _lif_and_if(layer: Any, neuron: Any) -> list[nn.Module]:
    return [
        layer.Conv2d(2, 4, 3, padding=1), neuron.LIFNode(tau=2.0, v_threshold=0.3, v_reset=0.0),
        layer.AvgPool2d(2, 2), layer.Conv2d(4, 4, 3, padding=1, bias=False), neuron.IFNode(v_threshold=0.2),
        layer.Flatten(), layer.Linear(36, 8), neuron.LIFNode(tau=3.0, decay_input=False, v_threshold=0.2),
    ]  # fmt: skip


def _reset_below_zero(layer: Any, neuron: Any) -> list[nn.Module]:
    return [
        layer.Flatten(), layer.Linear(72, 8), neuron.LIFNode(tau=2.5, v_threshold=0.2, v_reset=-0.2),
        layer.Linear(8, 6), neuron.IFNode(v_threshold=0.4, v_reset=-0.1),
    ]  # fmt: skip


def _cuba(layer: Any, neuron: Any) -> list[nn.Module]:
    return [
        layer.Flatten(), layer.Linear(72, 8, bias=False),
        neuron.CUBALIFNode(c_decay=0.5, v_decay=0.75, v_threshold=0.5, v_reset=0.0),
        layer.Linear(8, 6), neuron.CUBALIFNode(c_decay=0.25, v_decay=0.5, v_threshold=0.3, v_reset=0.0),
    ]  # fmt: skip


def _parametric(layer: Any, neuron: Any) -> list[nn.Module]:
    return [layer.Flatten(), layer.Linear(72, 8), neuron.ParametricLIFNode(init_tau=1.7, v_threshold=0.1)]


# ----------------------------------------------------------------------------------------------------------- Norse


def _norse_cell(kind: str) -> nn.Module:
    from norse.torch.module.iaf import IAFCell, IAFParameters
    from norse.torch.module.lif import LIFCell, LIFParameters
    from norse.torch.module.lif_box import LIFBoxCell, LIFBoxParameters

    if kind == "LIFBoxCell":
        return LIFBoxCell(
            LIFBoxParameters(torch.rand(8) * 500 + 100, torch.full((8,), 0.05), v_th=torch.full((8,), 0.2))
        )
    if kind == "LIFCell":
        inverse = torch.linspace(100.0, 500.0, 8)
        return LIFCell(LIFParameters(inverse, inverse.flip(0), torch.full((8,), -0.05), torch.full((8,), 0.2)))
    return IAFCell(IAFParameters(torch.full((8,), 0.7)))


def norse_run(net: Any, neurons: Sequence[int | str], clips: Tensor) -> list[Tensor]:
    """A net of Norse hands its states out and takes them again."""
    state = None

    def step(frame: Tensor) -> None:
        nonlocal state
        _, state = net(frame, state)

    return run_recorded(net, neurons, step, clips)  # type: ignore[arg-type]


def _norse(kind: str) -> Exported:
    import norse.torch as norse
    from norse.torch.utils.export_nir import to_nir

    torch.manual_seed(9)
    net, clips = norse.SequentialState(nn.Linear(12, 8), _norse_cell(kind)), events(12)
    return Exported(to_nir(net, torch.zeros(12)), clips, norse_run(net, (1,), clips))


# ---------------------------------------------------------------------------------------------------------- sinabs


def _sinabs(name: str) -> Exported:
    with tempfile.TemporaryDirectory() as folder:
        job = Path(__file__).with_name("sinabs_job.py")
        subprocess.run([SINABS, job, folder], capture_output=True, timeout=300, check=True)
        with np.load(Path(folder) / f"{name}.npz") as held:
            arrays = {key: torch.from_numpy(held[key]) for key in held.files}
        clips = arrays.pop("clips")
        return Exported(nir.read(str(Path(folder) / f"{name}.nir")), clips, [arrays[key] for key in sorted(arrays)])


EXPORTS: dict[str, Export] = {
    "Leaky": Export("snntorch", "dense, a decay of each neuron", "snntorch", lambda: _snntorch_dense("Leaky")),
    "Synaptic": Export("snntorch", "dense, synaptic currents", "snntorch", lambda: _snntorch_dense("Synaptic")),
    "RLeaky": Export("snntorch", "dense, recurrent", "snntorch", lambda: _snntorch_dense("RLeaky")),
    "RSynaptic": Export("snntorch", "dense, recurrent, synaptic currents", "snntorch", _snntorch_rsynaptic),
    "Leaky, spatial": Export("snntorch", "convolution, pool, dense", "snntorch", _snntorch_spatial),
    "LIFNode, IFNode": Export(
        "spikingjelly", "convolutions, pool, dense", "spikingjelly", lambda: _spikingjelly(4, _lif_and_if)
    ),
    "v_reset": Export(
        "spikingjelly", "dense, resets below 0", "spikingjelly", lambda: _spikingjelly(5, _reset_below_zero)
    ),
    "CUBALIFNode": Export("spikingjelly", "dense, synaptic currents", "spikingjelly", lambda: _spikingjelly(6, _cuba)),
    "ParametricLIFNode": Export(
        "spikingjelly", "dense, a learned decay", "spikingjelly", lambda: _spikingjelly(7, _parametric)
    ),
    "LIFBoxCell": Export("norse", "dense", "norse", lambda: _norse("LIFBoxCell")),
    "LIFCell": Export("norse", "dense, synaptic currents, a rest below 0", "norse", lambda: _norse("LIFCell")),
    "IAFCell": Export("norse", "dense, no decay", "norse", lambda: _norse("IAFCell")),
    "IAF": Export(
        "sinabs", "convolution, sum pool, dense; one spike a step", "sinabs-single-spike", lambda: _sinabs("IAF")
    ),
    "LIF": Export("sinabs", "dense; one spike a step", "sinabs-single-spike", lambda: _sinabs("LIF")),
}
"""By the neurons that are in it."""
