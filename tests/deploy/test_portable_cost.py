"""What a portable file costs: 0 where nothing is truncated or replaced, the layer's own share where something is."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nir
import numpy as np
import pytest

from generated_graphs import random_clips, random_graph
from small_event_nets import write_user_project
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.portable_nir import to_portable_nir
from spikefold.deploy.portable_cost import cost_lines, portable_cost


def without_decay(graph: FixedPointGraph) -> FixedPointGraph:
    return replace(graph, neurons=tuple(replace(n, dv=0) if n.fires else n for n in graph.neurons))


def test_an_exact_file_of_a_net_without_decay_costs_nothing() -> None:
    graph = without_decay(random_graph(0, residual=True))
    clips = random_clips(graph, 0, batch=11)  # more than a batch
    cost = portable_cost(graph, to_portable_nir(graph), clips, np.zeros(11, dtype=np.int64))
    assert cost.samples == 11
    assert cost.predictions_differ == 0
    assert cost.accuracy_integers == cost.accuracy_portable
    for layer, n in zip(cost.layers, [n for n in graph.neurons if n.fires], strict=True):
        assert (layer.name, layer.neuron_steps) == (n.name, 5 * 11 * n.size)
        assert (layer.spikes_differ, layer.own_spikes_differ) == (0, 0)


def test_a_replaced_threshold_map_costs_its_own_layer_and_those_behind_it() -> None:
    graph = without_decay(random_graph(1))
    first, *others = graph.neurons
    random = np.random.default_rng(0)
    mapped = first.v_threshold + random.integers(0, 2 * int(first.v_threshold.max()), first.shape)
    graph = replace(graph, neurons=(replace(first, v_threshold=mapped), *others))
    portable = to_portable_nir(graph, approximate=True)
    cost = portable_cost(graph, portable, random_clips(graph, 1, batch=6))
    changed, *behind = cost.layers
    assert changed.own_spikes_differ > 0
    assert all(layer.own_spikes_differ == 0 for layer in behind)
    assert any(layer.spikes_differ > 0 for layer in behind)
    assert cost.accuracy_integers is None
    lines = cost_lines(portable, cost)
    assert lines[0].startswith(f"replaced: neurons {first.name!r}, v_threshold")
    assert f"{changed.own_spikes_differ / changed.neuron_steps:.3%}" in lines[1]
    assert f"{cost.predictions_differ} of 6 predictions" in lines[-1]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    write_user_project(folder, "portablenet")
    return folder


def export(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    net = ("portablenet:build", "--checkpoint", "w.pt", "--data", "train.npz", "--time-steps", "4")
    command = [sys.executable, "-c", "from spikefold.deploy.cli import main; main()", "export", *net, *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300)


def test_export_refuses_lists_and_measures(project: Path) -> None:
    refused = export(project, "--attention", "dynamic", "--nir-dialect", "portable", "--out", "strict")
    assert refused.returncode == 2
    assert "gate: computed in each clip" in refused.stderr
    assert not list(project.glob("strict*"))
    done = export(
        project, "--attention", "dynamic", "--nir-dialect", "portable", "--approximate", "--out", "near", "--json"
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["portable"]
    assert any(line.startswith("replaced: ") and "its mean over the calibration" in line for line in said)
    assert "predictions differ from the integers; accuracy" in said[-1]
    assert nir.read(project / "near.nir").metadata["dialect"] in ("portable", b"portable")


def test_export_asks_for_the_dialect_that_approximate_belongs_to(project: Path) -> None:
    refused = export(project, "--approximate")
    assert refused.returncode == 2
    assert "--nir-dialect portable" in refused.stderr
