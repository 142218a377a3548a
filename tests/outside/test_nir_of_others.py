"""Files of other frameworks' own exporters, run here, against the framework's own run: no spike differs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nir
import numpy as np
import pytest
from _nir_consumers import SINABS
from torch import Tensor

from exported_nets import EXPORTS, events, norse_run
from spikefold.converters.calibrate import calibrate
from spikefold.converters.dialects import import_nir
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.float_net import FloatNet, FloatPopulation
from spikefold.converters.quantise import quantise
from spikefold.converters.reference import run_reference
from spikefold.deploy.run import run


def check(graph: nir.NIRGraph, dialect: str, clips: Tensor, wanted: Sequence[Tensor], folder: Path) -> FloatNet:
    """The imported net sends the spikes of the framework, and its integers are the same on every backend."""
    nir.write(str(folder / "net.nir"), graph)
    imported = import_nir(folder / "net.nir", dialect)
    net = read_float_graph(imported)
    spikes = net.run(clips)[1]
    for population, train in zip(own_populations(net), wanted, strict=True):
        assert 0.02 < float(train.mean()) < 0.9
        assert int((spikes[population.name].reshape(train.shape) != train).sum()) == 0
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
    assert (reference.spikes[first] != spikes[first].numpy()).mean() < 0.03
    return net


def own_populations(net: FloatNet) -> list[FloatPopulation]:
    """Without the neurons that send the biases of remembered currents."""
    return [p for p in net.populations if not p.logic]


def imported_export(name: str, folder: Path) -> FloatNet:
    export = EXPORTS[name]
    made = export.make()
    return check(made.graph, export.dialect, made.clips, made.trains, folder)


def of(package: str) -> list[str]:
    return [name for name, export in EXPORTS.items() if export.package == package]


@pytest.mark.outside("snntorch")
@pytest.mark.parametrize("name", of("snntorch"))
def test_a_net_that_snntorch_exported_sends_the_spikes_of_snntorch(name: str, tmp_path: Path) -> None:
    first = own_populations(imported_export(name, tmp_path))[0]
    assert np.ndim(first.decay) == (0 if name == "Leaky, spatial" else 1)
    assert bool(np.any(first.current_decay)) == (name in ("Synaptic", "RSynaptic"))
    assert (first.name in {s.source for s in first.synapses}) == name.startswith("R")


@pytest.mark.outside("spikingjelly")
@pytest.mark.parametrize("name", of("spikingjelly"))
def test_a_net_that_spikingjelly_exported_sends_the_spikes_of_spikingjelly(name: str, tmp_path: Path) -> None:
    assert not any(p.strict for p in own_populations(imported_export(name, tmp_path)))


@pytest.mark.outside("norse")
@pytest.mark.parametrize("name", of("norse"))
def test_a_net_that_norse_exported_sends_the_spikes_of_norse(name: str, tmp_path: Path) -> None:
    assert all(p.strict for p in own_populations(imported_export(name, tmp_path)))


@pytest.mark.skipif(not SINABS.exists(), reason="sinabs has its own environment: make sinabs")
@pytest.mark.parametrize("name", of("sinabs"))
def test_a_net_that_sinabs_exported_sends_the_spikes_of_sinabs(name: str, tmp_path: Path) -> None:
    assert all(p.soft_reset for p in own_populations(imported_export(name, tmp_path)))


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
    (name,) = (n for n, held in graph.nodes.items() if isinstance(held, type(neuron)))
    clips = events(12)
    check(graph, "norse", clips, norse_run(norse.from_nir(graph, dt=1e-3), (name,), clips), tmp_path)
