from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from gate_networks import T
from generated_graphs import random_clips, random_graph
from networks import captured, clips, clips_for
from spikefold.converters import nir_file
from spikefold.converters.arithmetic import STATE_FRACTION_BITS
from spikefold.converters.capture.build import DT
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.lower import lower
from spikefold.converters.nir_file import KEY, from_nir, load_nir, save_nir, to_nir
from spikefold.converters.reference import run_reference, synapse_current
from spikefold.errors import FileFormatError, InputError, LoweringError


@cache
def lowered(name: str, attention: str = "static") -> FixedPointGraph:
    return lower(captured(name)[1], clips_for(name, 8).numpy(), attention)  # type: ignore[arg-type]


def assert_same(one: FixedPointGraph, other: FixedPointGraph) -> None:
    """Bit for bit: text, arrays, their shapes, and a run."""
    (text, arrays), (other_text, other_arrays) = one.to_plain(), other.to_plain()
    assert json.loads(text) == json.loads(other_text)
    for a, b in zip(arrays, other_arrays, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
    x = random_clips(one, 3)
    a, b = run_reference(one, x), run_reference(other, x)
    for name in a.spikes:
        np.testing.assert_array_equal(a.spikes[name], b.spikes[name])
        np.testing.assert_array_equal(a.membranes[name], b.membranes[name])
    np.testing.assert_array_equal(a.logits, b.logits)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "how",
    [
        {}, {"residual": True}, {"per_neuron_thresholds": True}, {"depthwise": True, "spiking_output": True},
        {"gated": True, "graded_input": True}, {"gated": True, "residual": True, "depthwise": True},
        {"relays": True, "resets": ("value", "soft"), "current_shifts": True}, {"relays": True, "gated": True},
    ],
    ids=lambda how: ", ".join(how) or "plain",
)  # fmt: skip
def test_a_generated_net_survives_a_file_bit_for_bit(how: dict[str, Any], seed: int, tmp_path: Path) -> None:
    graph = random_graph(seed, **how)
    assert_same(load_nir(save_nir(graph, tmp_path / "net.nir")), graph)


@pytest.mark.parametrize("attention", ["static", "dynamic"])
@pytest.mark.parametrize("name", ["FSTA", "ASA", "conv, norm, pool, neuron", "residual", "grouped", "oblong", "dense"])
def test_a_lowered_net_survives_a_file_bit_for_bit(name: str, attention: str, tmp_path: Path) -> None:
    graph = lowered(name, attention)
    assert_same(load_nir(save_nir(graph, tmp_path / "net.nir")), graph)


@pytest.mark.parametrize("name", ["conv, norm, pool, neuron", "FSTA", "residual", "grouped", "oblong", "dense"])
def test_the_nodes_alone_are_the_float_twin_of_the_integers(name: str) -> None:
    graph = lowered(name)
    written = to_nir(graph)
    twin = read_float_graph(written)
    assert twin.time_steps is None
    spikes = {"input": clips((T, 3, *graph.input.shape))}
    for population, n in zip(twin.populations, graph.neurons, strict=True):
        assert population.name == n.name
        total = sum(synapse_current(s, spikes[s.source].long().numpy()) for s in graph.incoming(n.name))
        whole = (np.asarray(total).reshape(T, 3, *n.shape) << STATE_FRACTION_BITS) + n.bias
        real = whole * (n.unit / 2**STATE_FRACTION_BITS)
        np.testing.assert_allclose(population.current(spikes), real, rtol=1e-5, atol=1e-5 * np.abs(real).max())
        spikes[n.name] = clips((T, 3, *n.shape), seed=5)
        if n.fires:
            assert population.decay == pytest.approx(1 - n.dv / 4096, abs=1e-6)
            threshold = np.broadcast_to(n.v_threshold * n.unit, n.shape)
            np.testing.assert_allclose(population.v_threshold, threshold, rtol=1e-6)


def test_a_gated_population_stands_there_with_its_static_threshold() -> None:
    written, dynamic = to_nir(lowered("FSTA", "dynamic")), lowered("FSTA", "dynamic")
    node, n = written.nodes["neuron"], dynamic.neurons[0]
    assert n.static_threshold is not None
    np.testing.assert_allclose(node.v_threshold, np.broadcast_to(n.static_threshold * n.unit, n.shape), rtol=1e-6)
    assert not np.allclose(node.v_threshold, n.v_threshold * n.unit)
    assert node.metadata["static_twin"]
    standard = (nir.Input, nir.Output, nir.Conv2d, nir.Affine, nir.Flatten, nir.LIF, nir.IF, nir.I)
    assert {type(x) for x in written.nodes.values()} <= set(standard)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_by_its_name(share: float, tmp_path: Path) -> None:
    path = save_nir(lowered("FSTA", "dynamic"), tmp_path / "net.nir")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(FileFormatError, match=r"net\.nir: "):
        load_nir(path)


def test_a_missing_file_and_a_file_of_another_kind_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"gone\.nir: there is no such file"):
        load_nir(tmp_path / "gone.nir")
    (tmp_path / "text.nir").write_text("hello")
    with pytest.raises(FileFormatError, match=r"text\.nir: not a readable NIR file"):
        load_nir(tmp_path / "text.nir")


def test_a_file_of_others_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "theirs.nir"
    nir.write(str(path), captured("conv, norm, pool, neuron")[1])
    with pytest.raises(FileFormatError, match=r"theirs\.nir: holds no integer net \(metadata 'spikefold' is missing\)"):
        load_nir(path)


def test_other_readers_find_the_mean_of_a_bias_schedule() -> None:
    graph = random_graph(2, bias_schedule=True)
    nodes = to_nir(graph).nodes
    for n in graph.neurons:
        synapse = graph.incoming(n.name)[0]
        mean = np.broadcast_to(n.bias, (5, 1, *n.shape)).mean((0, 1)).reshape(n.shape[0], -1).mean(1)
        np.testing.assert_allclose(nodes[synapse.name].bias, mean * n.unit / 64, rtol=1e-5, atol=1e-6)


def test_a_relay_stands_there_as_a_scale_of_one_and_real_numbers_reach_its_targets() -> None:
    graph = random_graph(3, relays=True, current_shifts=True, gated=True, gates=("none", "table"))
    nodes = to_nir(graph).nodes
    relays = {n.name: n for n in graph.neurons if n.relay is not None}
    for name, rectifies in (("relay1", False), ("rectifier", True)):
        np.testing.assert_array_equal(nodes[name].scale, np.ones(relays[name].shape))
        gated = relays[name].gate is not None
        assert nodes[name].metadata == {"relay": True, "rectifies": rectifies, "static_twin": gated}
    trace = run_reference(graph, random_clips(graph, 3))
    for synapse in graph.synapses:
        target, source = (
            next((n for n in graph.neurons if n.name == x), None) for x in (synapse.target, synapse.source)
        )
        assert target is not None
        unit = 1.0 if source is None else source.message_unit
        ratio = target.unit * 2.0**target.current_shift / 64 / unit
        weight = nodes[synapse.name].weight
        if synapse.groups == 1 or synapse.kind == "dense":
            np.testing.assert_allclose(weight, synapse.effective_weight * ratio, rtol=1e-6)
    (synapse,) = graph.incoming("after")
    after = next(n for n in graph.neurons if n.name == "after")
    sent = trace.spikes["rectifier"]
    whole = (synapse_current(synapse, sent) << after.current_shift) * (after.unit / 64)
    weight = nodes[synapse.name].weight[range(6), range(6)].reshape(6, 1, 1)
    np.testing.assert_allclose(weight * (sent * relays["rectifier"].message_unit), whole, rtol=1e-5)
    assert whole.any()


def test_other_resets_stand_there_in_real_units() -> None:
    graph = random_graph(3, resets=("value", "soft", "zero"), per_neuron_thresholds=True)
    nodes = to_nir(graph).nodes
    for n in (n for n in graph.neurons if n.fires):
        real = 0 if n.v_reset is None else n.v_reset * n.unit
        np.testing.assert_allclose(nodes[n.name].v_reset, np.broadcast_to(real, n.shape), rtol=1e-6)
        assert nodes[n.name].metadata.get("soft_reset", False) == n.soft_reset
    assert {(n.v_reset is None, n.soft_reset) for n in graph.neurons if n.fires} == {
        (False, False), (True, True), (True, False)
    }  # fmt: skip


def test_a_gated_population_resets_there_to_its_value_over_the_mean_gate() -> None:
    graph = random_graph(3, resets=("value",), gated=True)
    n = graph.neurons[0]
    assert n.v_reset is not None
    n = dataclasses.replace(n, static_threshold=np.broadcast_to(n.v_threshold * 4, n.shape))
    node = to_nir(dataclasses.replace(graph, neurons=(n, *graph.neurons[1:]))).nodes[n.name]
    np.testing.assert_allclose(node.v_reset, np.broadcast_to(n.v_reset * 4 * n.unit, n.shape), rtol=1e-6)
    np.testing.assert_allclose(node.v_threshold, np.broadcast_to(n.v_threshold * 4 * n.unit, n.shape), rtol=1e-6)


def test_a_dense_map_into_frames_is_refused_by_name() -> None:
    graph = random_graph(1)
    n, zero = graph.neurons[0], np.array(0)
    wide = Synapse("s", "input", n.name, "dense", np.zeros((n.size, 84), dtype=np.int64))
    last = Neurons("out", (3,), 0, zero, np.zeros(3, dtype=np.int64), 0, 1.0, fires=False)
    out = Synapse("t", n.name, "out", "dense", np.zeros((3, n.size), dtype=np.int64))
    with pytest.raises(LoweringError, match=r"synapse 's': a dense map into neurons of shape \(4, 7, 6\)"):
        to_nir(FixedPointGraph(graph.input, (n, last), (wide, out), "none", None))


def damaged(**changes: Any) -> nir.NIRGraph:
    written = to_nir(random_graph(1, gated=True))
    written.metadata = {**written.metadata, **changes}
    return written


def test_a_newer_format_is_refused_before_anything_else_is_read(tmp_path: Path) -> None:
    path = tmp_path / "newer.nir"
    nir.write(str(path), damaged(spikefold_format=2, spikefold={"graph": "other"}))
    with pytest.raises(FileFormatError, match=r"newer\.nir: spikefold_format is 2, this version reads 1"):
        load_nir(path)


def test_a_newer_format_inside_the_integers_is_refused() -> None:
    written = to_nir(random_graph(1))
    held = dict(written.metadata[KEY])
    held["graph"] = held["graph"].replace('"spikefold_format": 1', '"spikefold_format": 7')
    written.metadata[KEY] = held
    with pytest.raises(FileFormatError, match="spikefold_format is 7, this version reads 1"):
        from_nir(written)


@pytest.mark.parametrize("change", ["drop", "text", "field", "weight"])
def test_damaged_integers_are_refused(change: str) -> None:
    written = to_nir(random_graph(1, gated=True))
    held = dict(written.metadata[KEY])
    if change == "drop":
        del held["array_2"]
    elif change == "text":
        held["graph"] = held["graph"][:-20]
    elif change == "field":
        held["graph"] = held["graph"].replace('"gate_shift"', '"gate_shirt"')
    else:
        held = {k: v + 1 if k.startswith("array_") and v.ndim == 4 else v for k, v in held.items()}
    written.metadata[KEY] = held
    with pytest.raises(FileFormatError, match="NIR graph: "):
        from_nir(written)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = random_graph(1)
    path = save_nir(graph, tmp_path / "net.nir")
    before = path.read_bytes()

    def fail(name: str, _: object) -> None:
        Path(name).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(nir_file.nir, "write", fail)
    with pytest.raises(InputError, match=r"net\.nir: disk full; what was there before is kept"):
        save_nir(random_graph(2), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["net.nir"]


def test_saving_replaces_what_was_there(tmp_path: Path) -> None:
    path = save_nir(random_graph(1), tmp_path / "net.nir")
    assert_same(load_nir(save_nir(random_graph(2), path)), random_graph(2))
    assert [p.name for p in tmp_path.iterdir()] == ["net.nir"]


def test_saving_into_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the folder .*nowhere does not exist"):
        save_nir(random_graph(1), tmp_path / "nowhere" / "net.nir")


def test_other_readers_find_memory_delays_and_loops_in_standard_nodes() -> None:
    """What one Euler step of their equations gives is what the integers mean, their bias included."""
    graph = random_graph(3, memory=True, decays=True, delays=3, loops=True)
    written = to_nir(graph)
    assert {e for e in written.edges if e[1] == "fc1"} == {(f"{n}->fc1", "fc1") for n in ("conv2", "fc1", "back")}
    rng = np.random.default_rng(0)
    for n in graph.neurons:
        node = written.nodes[n.name]
        assert isinstance(node, nir.CubaLIF if n.fires else nir.CubaLI)
        u, v, current = rng.normal(size=(3, *n.shape))
        alpha, beta = (np.broadcast_to(1 - rate / 4096, n.shape) for rate in (n.du + np.array(1), np.array(n.dv)))
        i = u + DT / node.tau_syn * (node.w_in * current - u)
        membrane = v + DT / node.tau_mem * (node.v_leak - v + node.r * i)
        np.testing.assert_allclose(i, alpha * u + current, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(membrane, beta * v + i + n.bias / 64 * n.unit, rtol=1e-4, atol=1e-4)
        for s in graph.incoming(n.name):
            assert not written.nodes[s.name].bias.any()
            if s.longest_delay:
                steps = np.broadcast_to(s.delay, graph.source_shape(s.source))
                np.testing.assert_array_equal(np.round(written.nodes[f"{s.name}_delay"].delay / DT), steps)
                assert (s.source, f"{s.name}_delay") in written.edges
