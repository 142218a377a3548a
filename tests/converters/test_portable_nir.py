"""Portable NIR against an Euler run of its own nodes, and against the integers where nothing is truncated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from generated_graphs import random_clips, random_graph
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.nir_file import load_nir
from spikefold.converters.portable_nir import save_portable_nir, to_portable_nir
from spikefold.converters.reference import run_reference
from spikefold.errors import LoweringError

DT = 1e-4
KINDS = (nir.Input, nir.Output, nir.Conv2d, nir.Affine, nir.Flatten, nir.LIF, nir.IF)
STRUCTURES: list[dict[str, Any]] = [
    {}, {"residual": True}, {"depthwise": True, "spiking_output": True}, {"graded_input": True},
    {"current_shifts": True},
]  # fmt: skip


def with_neurons(graph: FixedPointGraph, **fields: Any) -> FixedPointGraph:
    """The same net, ``fields`` of its firing neurons replaced."""
    return replace(graph, neurons=tuple(replace(n, **fields) if n.fires else n for n in graph.neurons))


def euler(graph: nir.NIRGraph, clips: Tensor) -> dict[str, Tensor]:
    """What every node gives, ``[T, B, ...]``: the equations of NIR, forward Euler, dt = 1e-4, strict threshold."""
    given = {"input": clips}

    def value(name: str) -> Tensor:
        if name not in given:
            given[name] = _node(graph.nodes[name], torch.stack([value(s) for s, t in graph.edges if t == name]).sum(0))
        return given[name]

    value("output")
    return given


def _node(node: nir.NIRNode, x: Tensor) -> Tensor:
    real = {k: torch.as_tensor(v).double() for k, v in vars(node).items() if isinstance(v, np.ndarray)}
    if isinstance(node, nir.Conv2d):
        out = functional.conv2d(
            x.flatten(0, 1), real["weight"], real["bias"], tuple(node.stride), tuple(node.padding), tuple(node.dilation)
        )
        return out.unflatten(0, x.shape[:2])
    if isinstance(node, nir.Affine):
        return x @ real["weight"].T + real["bias"]
    if isinstance(node, nir.Flatten):
        return x.flatten(2)
    if isinstance(node, nir.Output):
        return x
    v, spikes = torch.zeros_like(x[0]), []
    for current in x:
        change = real["r"] * current
        if isinstance(node, nir.LIF):
            change = (real["v_leak"] - v + change) / real["tau"]
        v = v + DT * change
        spikes.append((v > real["v_threshold"]).double())
        v = torch.where(spikes[-1] == 1, real["v_reset"], v)
    return torch.stack(spikes)


def real(graph: FixedPointGraph, seed: int, steps: int = 6) -> tuple[NDArray[np.int64], Tensor]:
    clips = random_clips(graph, seed, steps)
    return clips, torch.from_numpy(clips).double()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", STRUCTURES, ids=str)
def test_the_nodes_are_those_that_all_readers_share_and_say_what_the_twin_computes(
    how: dict[str, Any], seed: int
) -> None:
    graph = random_graph(seed, **how)
    portable = to_portable_nir(graph)
    for node in portable.graph.nodes.values():
        assert isinstance(node, KINDS)
        if isinstance(node, nir.LIF):
            assert np.all(node.r == 1)
            assert not np.any(node.v_leak)
            assert node.tau.min() == node.tau.max() > DT
        if isinstance(node, nir.IF):
            np.testing.assert_allclose(node.r, 1 / DT, rtol=1e-6)
        if isinstance(node, (nir.LIF, nir.IF)):
            assert not np.any(node.v_reset)
            assert node.v_threshold.min() == node.v_threshold.max() > 0
        if isinstance(node, nir.Conv2d):
            assert node.groups == 1
            assert node.weight.shape[2] == node.weight.shape[3]
    _, clips = real(graph, seed)
    given = euler(portable.graph, clips)
    logits, trains = portable.twin.run(clips)
    for name in portable.tie_free_steps:
        assert 0 < trains[name].mean() < 1
        assert torch.equal(given[name], trains[name])
    torch.testing.assert_close(given["output"].mean(0).flatten(1), logits)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("how", STRUCTURES, ids=str)
def test_without_a_decay_the_twin_fires_exactly_as_the_integers(how: dict[str, Any], seed: int) -> None:
    graph = with_neurons(random_graph(seed, **how), dv=0)
    portable = to_portable_nir(graph)
    clips, given = real(graph, seed)
    wanted = run_reference(graph, clips)
    logits, trains = portable.twin.run(given)
    for name, steps in portable.tie_free_steps.items():
        assert steps is None
        np.testing.assert_array_equal(trains[name].numpy(), wanted.spikes[name])
    np.testing.assert_allclose(logits.numpy(), wanted.logits, rtol=1e-5, atol=1e-6)


def test_thresholds_a_channel_are_said_by_scaling_rows() -> None:
    graph = with_neurons(random_graph(1, residual=True), dv=0)
    random = np.random.default_rng(0)
    neurons = tuple(
        replace(n, v_threshold=n.v_threshold + random.integers(1, 40, (n.shape[0], *[1] * (len(n.shape) - 1))))
        if n.fires
        else n
        for n in graph.neurons
    )
    graph = replace(graph, neurons=neurons)
    assert max(n.threshold_levels for n in graph.neurons) > 3
    portable = to_portable_nir(graph)
    clips, given = real(graph, 1)
    for name, train in run_reference(graph, clips).spikes.items():
        if name in portable.tie_free_steps:
            np.testing.assert_array_equal(portable.twin.run(given)[1][name].numpy(), train)


def test_weights_of_one_threshold_are_whole_in_a_power_of_two() -> None:
    graph = random_graph(0)
    for name, node in to_portable_nir(graph).graph.nodes.items():
        synapse = next((s for s in graph.synapses if s.name == name and s.target != graph.output.name), None)
        if synapse is not None:
            at = synapse.weight != 0
            scale = np.unique(node.weight[at] / synapse.weight[at])
            assert len(scale) == 1
            assert np.frexp(scale[0])[0] == 0.5


REFUSED = [
    ({"per_neuron_thresholds": True}, {}, "v_threshold: differs from pixel to pixel"),
    ({"resets": ("soft",)}, {}, "soft_reset: a spike takes the threshold"),
    ({"resets": ("value",)}, {}, "v_reset"),
    ({"bias_schedule": True}, {}, "bias: changes with the step"),
]


@pytest.mark.parametrize(("how", "fields", "words"), REFUSED, ids=[w for _, _, w in REFUSED])
def test_what_cannot_be_said_is_refused_by_node_and_field_or_replaced_and_listed(
    how: dict[str, Any], fields: dict[str, Any], words: str, tmp_path: Path
) -> None:
    graph = with_neurons(random_graph(2, **how), **fields)
    with pytest.raises(LoweringError, match=rf"neurons 'conv\d', {words}.*--approximate"):
        to_portable_nir(graph)
    with pytest.raises(LoweringError):
        save_portable_nir(graph, tmp_path / "net.nir")
    assert not list(tmp_path.iterdir())
    portable = save_portable_nir(graph, tmp_path / "net.nir", approximate=True)
    assert any(f"{r.field}: {r.had}".startswith(words) for r in portable.replacements)
    held = json.loads(nir.read(tmp_path / "net.nir").metadata["replaced"])
    assert [h["node"] for h in held] == [r.node for r in portable.replacements]


def test_everything_in_the_way_is_named_at_once() -> None:
    graph = random_graph(2, per_neuron_thresholds=True, resets=("soft",))
    with pytest.raises(LoweringError) as caught:
        to_portable_nir(graph)
    for n in graph.neurons:
        if n.fires and len(n.shape) > 1:
            assert f"{n.name!r}, v_threshold" in str(caught.value)
            assert f"{n.name!r}, soft_reset" in str(caught.value)


IMPOSSIBLE = [({"memory": True}, "du"), ({"delays": 3}, "delay of"), ({"loops": True}, "delay of")]


@pytest.mark.parametrize(("how", "words"), IMPOSSIBLE, ids=[w for _, w in IMPOSSIBLE])
def test_what_has_no_form_at_all_is_refused_with_approximate_too(how: dict[str, Any], words: str) -> None:
    with pytest.raises(LoweringError, match=rf"neurons '\w+', {words}"):
        to_portable_nir(random_graph(3, **how), approximate=True)


@pytest.mark.parametrize("seed", range(2))
def test_rectifying_relays_have_no_form_and_others_become_sums(seed: int) -> None:
    graph = random_graph(seed, relays=True)
    assert any(n.relay is not None and n.relay.low == 0 for n in graph.neurons)
    with pytest.raises(LoweringError, match="relay: it leaves negative numbers out"):
        to_portable_nir(graph, approximate=True)
    both_signs = tuple(
        n if n.relay is None else replace(n, relay=replace(n.relay, low=-n.relay.high)) for n in graph.neurons
    )
    graph = replace(graph, neurons=both_signs)
    with pytest.raises(LoweringError, match=r"relay: sends whole numbers.*--approximate"):
        to_portable_nir(graph)
    portable = to_portable_nir(graph, approximate=True)
    whole, clips = real(graph, 0)
    given, trains = euler(portable.graph, clips), portable.twin.run(clips)[1]
    for name in portable.tie_free_steps:
        assert torch.equal(given[name], trains[name])
    membranes = run_reference(graph, whole).membranes
    relays, twins = {n.name: n.relay for n in graph.neurons}, {p.name: p for p in portable.twin.populations}
    found = 0
    for s in graph.synapses:
        target, relay = next(n for n in graph.neurons if n.name == s.target), relays.get(s.source)
        if relay is None or not target.fires:
            continue
        at = membranes[s.source] != 0
        ratio = np.median(trains[s.source].numpy()[at] / membranes[s.source][at])  # the layers before may differ
        value = 2.0 ** np.round(np.log2(ratio))  # of 2**-6 weight in the twin
        weight = next(t.weight for t in twins[s.target].synapses if t.name == s.name)
        unit = np.abs(weight).max() / (np.abs(s.effective_weight).max() << target.current_shift)
        wanted = twins[s.target].v_threshold.max() / (64 * target.v_threshold.max() + 0.5)
        assert unit * value * 2**relay.shift == pytest.approx(wanted, rel=0.01)
        found += 1
    assert found


def test_pixels_get_the_mean_threshold_of_their_channel() -> None:
    graph = random_graph(2, per_neuron_thresholds=True)
    means = tuple(
        replace(n, v_threshold=np.round(n.v_threshold.mean((1, 2), keepdims=True)).astype(np.int64))
        if n.fires and n.v_threshold.ndim == 3
        else n
        for n in graph.neurons
    )
    _, clips = real(graph, 2)
    found = to_portable_nir(graph, approximate=True).twin.run(clips)[1]
    wanted = to_portable_nir(replace(graph, neurons=means)).twin.run(clips)[1]
    for name, train in wanted.items():
        assert (found[name] != train).float().mean() < 0.01  # the means are rounded to 2**-6 of what these are


def test_a_gate_computed_in_each_clip_is_replaced_by_its_mean_in_the_thresholds() -> None:
    graph = random_graph(1, gated=True, gates=("channel",))
    with pytest.raises(LoweringError, match="gate: no threshold stands for it"):
        to_portable_nir(graph, approximate=True)
    doubled = tuple(n if n.gate is None else replace(n, static_threshold=2 * n.v_threshold) for n in graph.neurons)
    graph = replace(graph, neurons=doubled)
    with pytest.raises(LoweringError, match=r"gate: computed in each clip.*--approximate"):
        to_portable_nir(graph)
    static = tuple(n if n.gate is None else replace(n, gate=None, v_threshold=2 * n.v_threshold) for n in doubled)
    _, clips = real(graph, 1)
    found = to_portable_nir(graph, approximate=True).twin.run(clips)[1]
    for name, train in to_portable_nir(replace(graph, neurons=static)).twin.run(clips)[1].items():
        assert torch.equal(found[name], train)


def test_the_file_still_holds_the_exact_integers(tmp_path: Path) -> None:
    graph = random_graph(0, per_neuron_thresholds=True)
    save_portable_nir(graph, tmp_path / "net.nir", approximate=True)
    text, arrays = load_nir(tmp_path / "net.nir").to_plain()
    wanted_text, wanted = graph.to_plain()
    assert json.loads(text) == json.loads(wanted_text)
    for a, b in zip(arrays, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
