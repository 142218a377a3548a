"""Integer chains as `.net` files: read back they do the same, and what cannot be said is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from generated_graphs import random_clips, random_graph
from lava_dl_files import even
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.lava_dl import load_lava_dl, save_lava_dl, to_lava_dl
from spikefold.converters.reference import run_reference
from spikefold.errors import LoweringError


def with_neurons(graph: FixedPointGraph, number: int, **fields: Any) -> FixedPointGraph:
    neurons = list(graph.neurons)
    neurons[number] = replace(neurons[number], **fields)
    return replace(graph, neurons=tuple(neurons))


def chain(seed: int = 0, **options: Any) -> FixedPointGraph:
    """Convolutions, a dense layer and a readout whose biases are whole weights."""
    graph = random_graph(seed, **options)
    neurons = tuple(replace(n, bias_mantissa=n.bias_mantissa % 7 - 3, bias_exponent=6) for n in graph.neurons)
    return replace(graph, neurons=neurons)


def assert_same(graph: FixedPointGraph, read: FixedPointGraph, seed: int = 0) -> None:
    clips = random_clips(graph, seed)
    before, after = run_reference(graph, clips), run_reference(read, clips)
    assert sum(int(s.sum()) for s in before.spikes.values()) > 20
    for old, new in zip(graph.neurons, read.neurons, strict=True):
        for kind in ("spikes", "membranes"):
            left, right = getattr(before, kind)[old.name], getattr(after, kind)[new.name]
            np.testing.assert_array_equal(left, right.reshape(left.shape))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"spiking_output": True, "memory": True},
        {"memory": True, "decays": True},
        {"graded_input": True},
        {"depthwise": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_chain_read_back_does_the_same(options: dict[str, Any], seed: int, tmp_path: Path) -> None:
    graph = chain(seed, **options)
    save_lava_dl(graph, tmp_path / "n.net")
    assert_same(graph, load_lava_dl(tmp_path / "n.net", max_value=graph.input.max_value), seed)


def small(delay: Any = 0, rec: bool = False, exponent: int = 0) -> FixedPointGraph:
    rng = np.random.default_rng(8)
    zero = np.zeros((), dtype=np.int64)
    neurons = (
        Neurons("first", (5,), 300, np.array(30 << exponent), zero, 0, 0.1),
        Neurons("last", (4,), 300, np.array(40), np.array([0, 1, 2, -3]), 6, 0.1),
    )
    back = (Synapse("back", "first", "first", "dense", np.abs(even(rng, 5, 5)), exponent, delay=1),) if rec else ()
    synapses = (
        Synapse("in", "input", "first", "dense", even(rng, 5, 6), exponent),
        *back,
        Synapse("out", "first", "last", "dense", even(rng, 4, 5), delay=delay),
    )
    return FixedPointGraph(InputPort((6,)), neurons, synapses, "none", None)


def with_synapse(graph: FixedPointGraph, name: str, **fields: Any) -> FixedPointGraph:
    synapses = tuple(replace(s, **fields) if s.name == name else s for s in graph.synapses)
    return replace(graph, synapses=synapses)


def with_shape(shape: tuple[int, ...]) -> FixedPointGraph:
    """`small`, its first neurons in another shape."""
    return with_neurons(small(), 0, shape=shape)


def maps_behind_dense() -> FixedPointGraph:
    """A convolution that reads neurons of a dense layer as maps."""
    first, last = small().neurons
    first, last = replace(first, shape=(2, 2, 1)), replace(last, shape=(3, 2, 1), bias_mantissa=np.array(0))
    dense = Synapse("in", "input", "first", "dense", even(np.random.default_rng(0), 4, 6))
    conv = Synapse("out", "first", "last", "conv", even(np.random.default_rng(1), 3, 2, 1, 1))
    return replace(small(), neurons=(first, last), synapses=(dense, conv))


def wide_kernel() -> FixedPointGraph:
    """A convolution over a row of 300 inputs."""
    last = Neurons("last", (1, 1, 1), 300, np.array(40), np.zeros((), dtype=np.int64), 0, 0.1)
    conv = Synapse("in", "input", "last", "conv", even(np.random.default_rng(1), 1, 1, 1, 300))
    return FixedPointGraph(InputPort((1, 1, 300)), (last,), (conv,), "none", None)


def finer_readout(exponent: int) -> FixedPointGraph:
    """A chain whose readout has large biases and a shift that netx has not."""
    graph = with_neurons(chain(2), 3, current_shift=4, bias_mantissa=np.array(4095), bias_exponent=exponent)
    narrow = tuple(replace(s, exponent=0) if s.target == graph.output.name else s for s in graph.synapses)
    return replace(graph, synapses=narrow)


@pytest.mark.parametrize(
    "graph",
    [small(3), small(np.array([0, 4, 1, 1, 62])), small(rec=True), small(2, exponent=3)],
    ids=["one delay", "axonal delays", "a loop", "wide dense weights"],
)
def test_delays_loops_and_exponents_come_back(graph: FixedPointGraph, tmp_path: Path) -> None:
    save_lava_dl(graph, tmp_path / "n.net")
    read = load_lava_dl(tmp_path / "n.net")
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 2, (20, 3, 6))
    before, after = run_reference(graph, clips), run_reference(read, clips.reshape(20, 3, *read.input.shape))
    assert before.spikes["last"].sum() > 5
    for old, new in zip(graph.neurons, read.neurons, strict=True):
        np.testing.assert_array_equal(before.membranes[old.name], after.membranes[new.name].reshape(20, 3, -1))


def test_delays_that_were_split_over_synapses_are_one_layer_again(tmp_path: Path) -> None:
    graph = small(np.array([0, 4, 1, 1, 6]))
    save_lava_dl(graph, tmp_path / "n.net")
    with h5py.File(tmp_path / "n.net") as file:
        assert file["layer/2/delay"].shape == (4, 5)
    read = load_lava_dl(tmp_path / "n.net")
    save_lava_dl(read, tmp_path / "again.net")
    with h5py.File(tmp_path / "n.net") as old, h5py.File(tmp_path / "again.net") as new:
        for field in ("weight", "delay", "bias", "neuron/vThMant"):
            np.testing.assert_array_equal(old[f"layer/2/{field}"][()], new[f"layer/2/{field}"][()])


def test_dense_weights_wider_than_eight_bits_become_a_kernel_over_the_whole_map() -> None:
    graph = chain(0)
    wide = tuple(replace(s, exponent=3) if s.target == "fc1" else s for s in graph.synapses)
    kinds = [layer["type"] for layer in to_lava_dl(replace(graph, synapses=wide)).layers]
    assert kinds == ["input", "conv", "conv", "conv", "flatten", "dense"]


def test_biases_are_rounded_only_when_asked_and_the_returned_net_has_them_so(tmp_path: Path) -> None:
    graph = with_neurons(chain(1), 0, bias_mantissa=np.array(1601), bias_exponent=0)
    with pytest.raises(LoweringError, match=r"'conv1', bias: .* no multiple of a weight step \(64\).*--approximate"):
        to_lava_dl(graph)
    net = save_lava_dl(graph, tmp_path / "n.net", approximate=True)
    assert [r.node for r in net.replacements] == ["neurons 'conv1'"]
    assert int(net.graph.neurons[0].bias) == 1600
    assert_same(net.graph, load_lava_dl(tmp_path / "n.net"), 1)


def test_a_readout_of_a_finer_shift_answers_the_same_in_a_finer_unit(tmp_path: Path) -> None:
    graph = finer_readout(5)
    with pytest.raises(LoweringError, match="current_shift: sums are shifted by 4"):
        to_lava_dl(graph)
    net = save_lava_dl(graph, tmp_path / "n.net", approximate=True)
    clips = random_clips(graph, 2)
    np.testing.assert_array_equal(run_reference(net.graph, clips).logits, run_reference(graph, clips).logits)
    assert_same(net.graph, load_lava_dl(tmp_path / "n.net"), 2)


REFUSED: dict[str, tuple[FixedPointGraph, str]] = {
    "thresholds": (chain(0, per_neuron_thresholds=True), r"'conv1', v_threshold: \d+ of them; a layer of Lava's"),
    "gate": (random_graph(0, gated=True), "'conv1', gate: netx has none"),
    "relay": (random_graph(0, relays=True), "relay: netx sends spikes"),
    "soft reset": (chain(0, resets=("soft",)), "soft_reset: netx resets to 0"),
    "reset value": (chain(0, resets=("value",)), "v_reset: netx resets to 0"),
    "bias schedule": (random_graph(0, bias_schedule=True), "bias: changes with the step"),
    "residual": (random_graph(0, residual=True), "no chain"),
    "long delay": (small(63), "delay of 'out': 63 steps; netx has 62"),
    "delay of a convolution": (chain(0, delays=3), "a convolution stands alone, without a delay"),
    "shift": (with_neurons(small(), 0, current_shift=4), "current_shift: 4; netx shifts by 6"),
    "wide loop": (small(rec=True, exponent=3), "wider than eight bits"),
    "maps behind a dense layer": (maps_behind_dense(), r"its convolution takes maps; a dense layer sends \(4,\)"),
    "two axes": (with_shape((5, 1)), r"'first', shape: \(5, 1\); layers have one axis or three"),
    "a slow loop": (with_synapse(small(rec=True), "back", delay=2), "'back' leads back otherwise than over dense"),
    "a loop behind a delay": (with_synapse(small(rec=True), "in", delay=2), "none in layers that lead back"),
    "two delays between neurons": (
        replace(small(), synapses=(*small().synapses, replace(small().synapses[-1], name="late", delay=2))),
        "delay of 'late': two delays between the same neurons",
    ),
    "a wide kernel": (wide_kernel(), "stride, padding, dilation, kernel or groups above"),
    "biases of a finer shift": (finer_readout(7), "bias: up to .*, netx's biases have 13 bits"),
    "sums": (
        replace(chain(0), synapses=tuple(replace(s, exponent=15) for s in chain(0).synapses)),
        "netx wraps them at 24 bits",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_netx_cannot_hold_is_refused_by_node_and_field(what: str, tmp_path: Path) -> None:
    graph, message = REFUSED[what]
    with pytest.raises(LoweringError, match=message):
        save_lava_dl(graph, tmp_path / "n.net", approximate=True)
    assert not list(tmp_path.iterdir())
