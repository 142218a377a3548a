"""Files of other frameworks' own exporters, run here, against the framework's own run: no spike differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spikefold.converters.calibrate import calibrate
from spikefold.converters.dialects import import_nir
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.float_net import FloatNet, FloatPopulation
from spikefold.converters.quantise import quantise
from spikefold.converters.reference import run_reference
from spikefold.deploy.run import run

T, B = 16, 4


def events(*shape: int, seed: int = 5) -> Tensor:
    return (torch.rand((T, B, *shape), generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def check(graph: nir.NIRGraph, dialect: str, clips: Tensor, wanted: Tensor, folder: Path) -> FloatNet:
    """The imported net sends the spikes of the framework, and its integers are the same on every backend."""
    nir.write(str(folder / "net.nir"), graph)
    imported = import_nir(folder / "net.nir", dialect)
    net = read_float_graph(imported)
    spikes = net.run(clips)[1][net.populations[-1].name]
    assert 0.02 < float(wanted.mean()) < 0.9
    assert int((spikes.reshape(wanted.shape) != wanted).sum()) == 0
    whole = clips.numpy().astype(np.uint8)
    fixed = quantise(imported, calibrate(imported, whole))
    reference = run_reference(fixed, whole)
    for backend in ("torch", "onnx"):
        trace = run(fixed, whole, backend, trace=True).trace  # type: ignore[arg-type]
        assert trace is not None
        for name, train in reference.spikes.items():
            np.testing.assert_array_equal(trace.spikes[name], train)
            np.testing.assert_array_equal(trace.membranes[name], reference.membranes[name])
    first = own_populations(net)[0].name  # behind it, rounding is carried on
    assert (reference.spikes[first] != net.run(clips)[1][first].numpy()).mean() < 0.03
    return net


def own_populations(net: FloatNet) -> list[FloatPopulation]:
    """Without the neurons that send the biases of remembered currents."""
    return [p for p in net.populations if not p.logic]


def snntorch_run(net: nn.Module, clips: Tensor) -> Tensor:
    for module in net.modules():
        if hasattr(module, "reset_mem"):
            module.reset_mem()
    with torch.no_grad():
        return torch.stack([net(step) for step in clips])


def snntorch_layers(kind: str, n: int) -> nn.Module:
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


@pytest.mark.outside("snntorch")
@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "RLeaky"])
def test_a_net_that_snntorch_exported_sends_the_spikes_of_snntorch(kind: str, tmp_path: Path) -> None:
    from snntorch.export_nir import export_to_nir

    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(12, 10), snntorch_layers(kind, 10), nn.Linear(10, 6), snntorch_layers("Leaky", 6))
    clips = events(12)
    found = check(export_to_nir(net, torch.zeros(12)), "snntorch", clips, snntorch_run(net, clips), tmp_path)
    first = own_populations(found)[0]
    assert np.ndim(first.decay) == 1
    assert bool(np.any(first.current_decay)) == (kind == "Synaptic")
    assert {s.source for s in first.synapses} == {
        "Leaky": {"input"}, "Synaptic": {"input", "neurons_1_bias"}, "RLeaky": {"input", first.name},
    }[kind]  # fmt: skip


@pytest.mark.outside("snntorch")
def test_a_recurrent_net_with_synaptic_currents_sends_the_spikes_of_snntorch(tmp_path: Path) -> None:
    import snntorch
    from snntorch.export_nir import _extract_snntorch_module

    torch.manual_seed(2)
    recurrent = snntorch.RSynaptic(
        alpha=torch.rand(8) * 0.8, beta=torch.rand(8) * 0.8, threshold=torch.full((8,), 0.5), linear_features=8,
        reset_mechanism="zero", reset_delay=False,
    )  # fmt: skip
    linear = nn.Linear(12, 8)
    clips = events(12)
    with torch.no_grad():  # snnTorch 1.0.0 cannot run it with init_hidden, and its exporter runs what it exports
        spikes, synapse, membrane = (torch.zeros(B, 8) for _ in range(3))
        trains = []
        for step in clips:
            synapse = recurrent.alpha * synapse + linear(step) + recurrent.recurrent(spikes)
            membrane = recurrent.beta * membrane + synapse
            spikes = (membrane > recurrent.threshold).float()
            membrane = membrane * (1 - spikes)
            trains.append(spikes)
    nodes = {
        "input": nir.Input({"input": np.array([12])}), "l": _extract_snntorch_module(linear),
        "r": _extract_snntorch_module(recurrent), "output": nir.Output({"output": np.array([8])}),
    }  # fmt: skip
    graph = nir.NIRGraph(nodes, [("input", "l"), ("l", "r"), ("r", "output")], type_check=False)
    check(graph, "snntorch", clips, torch.stack(trains), tmp_path)


@pytest.mark.outside("snntorch")
def test_a_convolutional_net_that_snntorch_exported_sends_its_spikes(tmp_path: Path) -> None:
    import snntorch
    from snntorch.export_nir import export_to_nir

    torch.manual_seed(3)
    shape = (3, 6, 6)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        snntorch.Leaky(torch.full(shape, 0.6), torch.full(shape, 0.4), reset_mechanism="zero", init_hidden=True),
        nn.AvgPool2d(2),
        nn.Flatten(-3),
        nn.Linear(27, 5),
        snntorch.Leaky(torch.full((5,), 0.5), torch.full((5,), 0.2), reset_mechanism="zero", init_hidden=True),
    )
    clips = events(2, 6, 6)
    wanted = snntorch_run(net, clips)
    snntorch_run(net, clips[:1, 0])
    graph = export_to_nir(net, torch.zeros(2, 6, 6))
    check(graph, "snntorch", clips, wanted, tmp_path)


def spikingjelly_nets() -> dict[str, Callable[[], nn.Module]]:
    from spikingjelly.activation_based import layer, neuron

    return {
        "LIF and IF behind convolutions and pools": lambda: nn.Sequential(
            layer.Conv2d(2, 4, 3, padding=1), neuron.LIFNode(tau=2.0, v_threshold=0.3, v_reset=0.0),
            layer.AvgPool2d(2, 2), layer.Conv2d(4, 4, 3, padding=1, bias=False), neuron.IFNode(v_threshold=0.2),
            layer.Flatten(), layer.Linear(36, 8), neuron.LIFNode(tau=3.0, decay_input=False, v_threshold=0.2),
        ),
        "a reset below zero, where membranes start and rest": lambda: nn.Sequential(
            layer.Flatten(), layer.Linear(72, 8), neuron.LIFNode(tau=2.5, v_threshold=0.2, v_reset=-0.2),
            layer.Linear(8, 6), neuron.IFNode(v_threshold=0.4, v_reset=-0.1),
        ),
        "synaptic currents": lambda: nn.Sequential(
            layer.Flatten(), layer.Linear(72, 8, bias=False),
            neuron.CUBALIFNode(c_decay=0.5, v_decay=0.75, v_threshold=0.5, v_reset=0.0),
            layer.Linear(8, 6), neuron.CUBALIFNode(c_decay=0.25, v_decay=0.5, v_threshold=0.3, v_reset=0.0),
        ),
        "a learned time constant": lambda: nn.Sequential(
            layer.Flatten(), layer.Linear(72, 8), neuron.ParametricLIFNode(init_tau=1.7, v_threshold=0.1),
        ),
    }  # fmt: skip


@pytest.mark.outside("spikingjelly")
@pytest.mark.parametrize("number", range(4))
def test_a_net_that_spikingjelly_exported_sends_the_spikes_of_spikingjelly(number: int, tmp_path: Path) -> None:
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based.nir_exchange.to_nir import export_to_nir

    torch.manual_seed(4 + number)
    net = list(spikingjelly_nets().values())[number]()
    clips = events(2, 6, 6)
    graph = export_to_nir(net, clips[0])
    functional.reset_net(net)
    with torch.no_grad():
        wanted = torch.stack([net(step) for step in clips])
    found = check(graph, "spikingjelly", clips, wanted, tmp_path)
    assert not any(p.strict for p in own_populations(found))


def norse_cell(kind: str) -> nn.Module:
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


@pytest.mark.outside("norse")
@pytest.mark.parametrize("kind", ["LIFBoxCell", "LIFCell", "IAFCell"])
def test_a_net_that_norse_exported_sends_the_spikes_of_norse(kind: str, tmp_path: Path) -> None:
    import norse.torch as norse
    from norse.torch.utils.export_nir import to_nir

    torch.manual_seed(9)
    net = norse.SequentialState(nn.Linear(12, 8), norse_cell(kind))
    clips = events(12)
    state, trains = None, []
    with torch.no_grad():
        for step in clips:
            spikes, state = net(step, state)
            trains.append(spikes)
    check(to_nir(net, torch.zeros(12)), "norse", clips, torch.stack(trains), tmp_path)


@pytest.mark.outside("norse")
@pytest.mark.parametrize("node", ["LIF", "CubaLIF"])
def test_time_constants_in_a_file_mean_to_us_what_norses_importer_makes_of_them(node: str, tmp_path: Path) -> None:
    import norse.torch as norse

    rng = np.random.default_rng(3)
    weight, ones = rng.normal(0, 2.0, (8, 12)).astype(np.float32), np.ones(8, np.float32)
    common = {"r": ones, "v_leak": 0 * ones, "v_threshold": ones * 0.3}
    neuron = (
        nir.LIF(tau=np.linspace(2e-3, 9e-3, 8), **common)
        if node == "LIF"
        else nir.CubaLIF(tau_mem=np.linspace(2e-3, 9e-3, 8), tau_syn=np.linspace(5e-3, 2e-3, 8), **common)
    )
    graph = nir.NIRGraph.from_list(nir.Affine(weight, rng.normal(0, 0.2, 8).astype(np.float32)), neuron)
    net = norse.from_nir(graph, dt=1e-3)
    clips = events(12)
    state, trains = None, []
    with torch.no_grad():
        for step in clips:
            spikes, state = net(step, state)
            trains.append(spikes)
    check(graph, "norse", clips, torch.stack(trains), tmp_path)
