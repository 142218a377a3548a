from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

from gate_networks import T
from networks import SHAPE, captured, clips, clips_for
from spikefold.converters.float_graph import read_float_graph
from spikefold.errors import FileFormatError, InputError


def graph_of(name: str = "conv, norm, pool, neuron") -> nir.NIRGraph:
    """A copy that may be changed."""
    return copy.deepcopy(captured(name)[1])


def through_file(graph: nir.NIRGraph, folder: Path) -> nir.NIRGraph:
    nir.write(str(folder / "net.nir"), graph)
    return nir.read(str(folder / "net.nir"), type_check=False)  # nir's check takes no groups and no oblong kernels


@pytest.mark.parametrize(
    "name", ["grouped", "oblong", "residual", "batch first", "dense", "flattened neurons", "adaptive head"]
)
def test_a_net_runs_the_same_after_a_nir_file(name: str, tmp_path: Path) -> None:
    _, graph = captured(name)
    x = clips_for(name, 3)
    wanted, wanted_spikes = read_float_graph(graph).run(x)
    got, spikes = read_float_graph(through_file(graph, tmp_path)).run(x)
    assert torch.equal(got, wanted)
    assert all(torch.equal(spikes[n], wanted_spikes[n]) for n in wanted_spikes)


@pytest.mark.parametrize("name", ["FSTA", "ASA, reduced", "channels then pixels, batch first", "scaled input"])
def test_a_gated_net_runs_the_same_after_a_nir_file(name: str, tmp_path: Path) -> None:
    _, graph = captured(name)
    x = clips_for(name, 3)
    wanted, _ = read_float_graph(graph).run(x)
    again = read_float_graph(through_file(graph, tmp_path))
    assert again.time_steps == T
    assert torch.equal(again.run(x)[0], wanted)


def test_decays_and_comparisons_survive_a_nir_file(tmp_path: Path) -> None:
    _, graph = captured("adaptive head")
    (before, _), (after, _) = (read_float_graph(g).populations for g in (graph, through_file(graph, tmp_path)))
    assert (before.decay, before.strict) == (after.decay, after.strict) == (0.25, False)


def test_a_reader_of_the_nodes_alone_finds_the_same_decay(tmp_path: Path) -> None:
    graph = graph_of()
    graph.nodes["neuron"].metadata = {}
    assert read_float_graph(graph).populations[0].decay == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("steps", [1, T - 1, T + 1])
def test_a_gated_net_refuses_clips_of_another_length(steps: int) -> None:
    net = read_float_graph(graph_of("formula"))
    with pytest.raises(InputError, match=rf"T = {steps}; the gates or biases of this net were trained for {T}"):
        net.run(clips((steps, 2, *SHAPE[2:])))


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_a_plain_net_takes_clips_of_any_length(steps: int) -> None:
    logits, spikes = read_float_graph(graph_of()).run(clips((steps, 2, *SHAPE[2:])))
    assert logits.shape == (2, 3)
    assert spikes["neuron"].shape == (steps, 2, 4, 4, 4)


@pytest.mark.parametrize("shape", [(4, 2, 2, 8, 7), (4, 2, 8, 8), (0, 2, 2, 8, 8), (4, 0, 2, 8, 8), (4, 2)])
def test_clips_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"input has shape \(.*this net takes \[T, B, \(2, 8, 8\)\]"):
        read_float_graph(graph_of()).run(torch.zeros(shape))


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_format_is_refused_with_both_numbers(version: int) -> None:
    graph = graph_of()
    graph.metadata["spikefold_format"] = version
    with pytest.raises(FileFormatError, match=rf"spikefold_format is {version}, this version reads 1"):
        read_float_graph(graph)


def test_a_cycle_is_refused_by_the_names_in_it() -> None:
    graph = graph_of("spiking output")
    back = nir.Affine(np.zeros((144, 6), np.float32), np.zeros(144, np.float32))
    nodes = {**graph.nodes, "back": back}
    edges = [*graph.edges, ("blocks_3", "back"), ("back", "blocks_1")]
    recurrent = nir.NIRGraph(nodes, edges, type_check=False)
    with pytest.raises(FileFormatError, match=r"\['blocks_1', 'blocks_3'\] form a cycle"):
        read_float_graph(recurrent)


def rewired(edges: list[tuple[str, str]], **nodes: nir.NIRNode) -> nir.NIRGraph:
    """The net of two populations, with nodes and edges more."""
    graph = graph_of("spiking output")
    return nir.NIRGraph({**graph.nodes, **nodes}, [*graph.edges, *edges], type_check=False)


def test_what_is_read_is_the_neurons_and_what_the_answer_needs() -> None:
    dense = nir.Affine(np.zeros((6, 144), np.float32), np.zeros(6, np.float32))
    with pytest.raises(FileFormatError, match="get what 'output' sends, which are no neurons"):
        read_float_graph(rewired([("output", "more"), ("more", "blocks_3")], more=dense))
    graph = graph_of()
    head = next(a for a, b in graph.edges if b == "output")
    again = nir.Affine(np.zeros((64, 3), np.float32), np.zeros(64, np.float32))
    nodes = {**graph.nodes, "again": again}
    with pytest.raises(FileFormatError, match=f"'{head}' are integrators, whose membrane only an output may read"):
        read_float_graph(nir.NIRGraph(nodes, [*graph.edges, (head, "again"), ("again", "neuron")], type_check=False))


def test_a_node_that_is_not_ours_is_refused_by_name_and_type() -> None:
    graph = graph_of()
    graph.nodes["head"] = nir.Linear(np.zeros((3, 64), np.float32))
    with pytest.raises(FileFormatError, match=r"node 'head' is a Linear"):
        read_float_graph(graph)


def test_a_graph_without_our_ends_is_refused() -> None:
    graph = graph_of()
    nodes = {("start" if n == "input" else n): node for n, node in graph.nodes.items()}
    edges = [("start" if a == "input" else a, b) for a, b in graph.edges]
    with pytest.raises(FileFormatError, match="needs a node 'input'"):
        read_float_graph(nir.NIRGraph(nodes, edges, type_check=False))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("r", 1.0, "input is scaled by 0.5 a step"),
        ("v_leak", 0.25, "v_leak is not 0"),
        ("v_reset", 2.0, "v_reset must be finite, one number a neuron, and at most v_threshold; .*2.0"),
        ("v_reset", -np.inf, "v_reset must be finite"),
    ],
)
def test_neurons_of_other_dynamics_are_refused_by_name(field: str, value: float, message: str) -> None:
    graph = graph_of()
    node = graph.nodes["neuron"]
    setattr(node, field, np.full_like(node.v_threshold, value))
    with pytest.raises(FileFormatError, match=f"neurons 'neuron': {message}"):
        read_float_graph(graph)


def test_neurons_of_several_time_constants_keep_each_its_own() -> None:
    graph = graph_of()
    node = graph.nodes["neuron"]
    del node.metadata["decay"]
    node.tau, node.r = node.tau.copy(), node.r.copy()
    node.tau[0], node.r[0] = node.tau[0] * 2, node.r[0] * 2
    decay = np.asarray(read_float_graph(graph).populations[0].decay)
    np.testing.assert_allclose(decay[0], 0.75, rtol=1e-6)
    np.testing.assert_allclose(decay[1:], 0.5, rtol=1e-6)


@pytest.mark.parametrize("decay", [-0.1, 1.1])
def test_a_decay_outside_zero_to_one_is_refused_by_name(decay: float) -> None:
    graph = graph_of()
    graph.nodes["neuron"].metadata["decay"] = decay
    with pytest.raises(FileFormatError, match=r"neurons 'neuron': decay .* must lie within 0\.\.1"):
        read_float_graph(graph)


@pytest.mark.parametrize("damage", ["not json", "{}", '{"steps": [{"op": "sum"}]}'])
def test_a_damaged_gate_is_refused_by_name(damage: str) -> None:
    graph = graph_of("formula")
    graph.nodes["neuron"].metadata["gate"] = damage
    with pytest.raises(FileFormatError, match="neurons 'neuron': the gate is damaged"):
        read_float_graph(graph)


def test_a_gate_whose_constants_are_gone_is_refused_by_name() -> None:
    graph = graph_of("formula")
    del graph.nodes["neuron"].metadata["gate_1"]
    with pytest.raises(FileFormatError, match="neurons 'neuron': the gate is damaged: KeyError 'gate_1'"):
        read_float_graph(graph)


def test_a_gate_of_a_newer_version_is_refused_by_its_operation() -> None:
    graph = graph_of("formula")
    metadata = graph.nodes["neuron"].metadata
    metadata["gate"] = metadata["gate"].replace('"function"', '"wavelet"')
    with pytest.raises(FileFormatError, match="unknown operation 'wavelet'"):
        read_float_graph(graph)


def test_the_watcher_sees_every_population_with_the_current_before_its_gate() -> None:
    net = read_float_graph(graph_of("formula"))
    seen: list[str] = []

    def watch(population: Any, current: torch.Tensor, spikes: torch.Tensor) -> None:
        seen.append(population.name)
        torch.testing.assert_close(current, population.current({"input": x, **spikes_of}))
        spikes_of[population.name] = spikes

    x, spikes_of = clips((T, 2, *SHAPE[2:])), dict[str, torch.Tensor]()
    _, spikes = net.run(x, watch)
    assert seen == ["neuron", "readout"] == list(spikes)


def test_populations_that_the_answer_does_not_depend_on_are_left_out() -> None:
    graph = graph_of("spiking output")
    lone = nir.Affine(np.ones((6, 6), np.float32), np.zeros(6, np.float32))
    nodes = {**graph.nodes, "behind": copy.deepcopy(lone), "dead": copy.deepcopy(graph.nodes["blocks_3"])}
    more = nir.NIRGraph(nodes, [*graph.edges, ("blocks_3", "behind"), ("behind", "dead")], type_check=False)
    more.metadata = graph.metadata
    x = clips_for("spiking output", 3)
    assert [p.name for p in read_float_graph(more).populations] == ["blocks_1", "blocks_3"]
    assert torch.equal(read_float_graph(more).run(x)[0], read_float_graph(graph).run(x)[0])


def test_populations_come_in_an_order_that_runs() -> None:
    graph = graph_of("residual")
    shuffled = nir.NIRGraph(dict(sorted(graph.nodes.items(), reverse=True)), graph.edges[::-1])
    shuffled.metadata = graph.metadata
    x = clips((T, 2, *SHAPE[2:]))
    assert torch.equal(read_float_graph(shuffled).run(x)[0], read_float_graph(graph).run(x)[0])
    assert [p.name for p in read_float_graph(shuffled).populations][-1] == "readout"
