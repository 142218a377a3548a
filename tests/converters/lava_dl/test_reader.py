"""`.net` files in lava-dl's layout: what they mean here, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from lava_dl_files import CUBA, MAP, even, write_layers
from spikefold.converters.lava_dl import load_lava_dl
from spikefold.converters.reference import run_reference
from spikefold.errors import FileFormatError, InputError, SpikefoldWarning

THETA = CUBA["vThMant"] * 64


def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def dense(rows: int, columns: int, **fields: Any) -> dict[str, Any]:
    neuron = {name: held for name, held in {**CUBA, **fields.pop("neuron", {})}.items() if held is not None}
    weight = even(np.random.default_rng(rows), rows, columns)
    return {"type": "dense", "shape": [rows], "weight": weight, "neuron": neuron, **fields}


def conv(**fields: Any) -> dict[str, Any]:
    neuron = {**CUBA, **fields.pop("neuron", {})}
    weight = even(np.random.default_rng(1), 3, 2, 2, 2)
    return {"type": "conv", "shape": [3, 3, 4], "weight": weight, "neuron": neuron, **MAP, **fields}


def without_neurons(layer: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in layer.items() if field != "neuron"}


def pool(shape: list[int], weight: Any, stride: list[int]) -> dict[str, Any]:
    return {"type": "pool", "shape": shape, "weight": weight, "stride": stride, "neuron": CUBA}


IMAGE = {"type": "input", "shape": [2, 4, 5]}
FLAT = {"type": "flatten", "shape": [36, 1, 1]}


def test_a_kernel_is_a_correlation_of_channels_height_and_width(tmp_path: Path) -> None:
    layer = conv(stride=[1, 2], padding=[1, 0], shape=[3, 5, 2])
    graph = load_lava_dl(write_layers(tmp_path / "n.net", IMAGE, layer))
    clip = rng().integers(0, 2, (1, 1, 2, 4, 5))
    image, kernel = (torch.tensor(a).double() for a in (clip[0], layer["weight"]))
    v = F.conv2d(image, kernel, stride=(1, 2), padding=(1, 0))[0].numpy() * 64
    np.testing.assert_array_equal(run_reference(graph, clip).membranes["conv1"][0, 0], np.where(v > THETA, 0, v))


def test_a_pool_adds_up_each_channel_and_fills_up_maps_at_their_ends(tmp_path: Path) -> None:
    kernel = np.array([[4, 6], [8, 10]]).reshape(1, 1, 2, 2)
    pool = {"type": "pool", "shape": [2, 2, 3], "weight": kernel, "stride": [2, 2], "neuron": {**CUBA, "vThMant": 9000}}
    graph = load_lava_dl(write_layers(tmp_path / "n.net", {"type": "input", "shape": [2, 3, 6]}, pool))
    clip = rng().integers(0, 2, (1, 3, 2, 3, 6))
    filled = torch.tensor(np.pad(clip[0], ((0, 0), (0, 0), (0, 1), (0, 0)))).double()
    expected = F.conv2d(filled, torch.tensor(np.repeat(kernel, 2, 0)).double(), stride=2, groups=2)
    np.testing.assert_array_equal(run_reference(graph, clip).membranes["pool1"][0], 64 * expected.numpy())


def test_an_average_answers_with_mean_rates_of_groups(tmp_path: Path) -> None:
    graph = load_lava_dl(write_layers(tmp_path / "n.net", dense(6, 4), {"type": "average", "shape": [2, 1, 1]}))
    clip = rng().integers(0, 2, (9, 5, 4))
    trace = run_reference(graph, clip)
    rates = trace.spikes["dense0"].mean(0).reshape(5, 2, 3).mean(2)
    assert rates.max() > 0.2
    np.testing.assert_allclose(trace.logits, rates, rtol=1e-12)


def test_a_dense_layer_without_neurons_adds_up(tmp_path: Path) -> None:
    layer = dense(3, 4)
    del layer["neuron"]
    graph = load_lava_dl(write_layers(tmp_path / "n.net", layer))
    clip = rng().integers(0, 2, (6, 2, 4))
    summed = (clip @ layer["weight"].T).cumsum(0)
    np.testing.assert_array_equal(run_reference(graph, clip).membranes["dense0"], 64 * summed)


@pytest.mark.parametrize("input_bias", [None, (-20, 90)])
def test_input_neurons_take_their_input_as_bias(tmp_path: Path, input_bias: tuple[int, int] | None) -> None:
    source = {
        "type": "input",
        "shape": [1, 3, 3],
        "weight": [37],
        "bias": [-5],
        "neuron": {**CUBA, "iDecay": 900, "vThMant": 120},
    }
    graph = load_lava_dl(write_layers(tmp_path / "n.net", source), max_value=3, input_bias=input_bias)
    clip = rng().integers(0, 1 + graph.input.max_value, (1, 4, 1, 3, 3))
    bias = 37 * clip - 5 if input_bias is None else clip - 20
    assert graph.input.max_value == (3 if input_bias is None else 110)
    np.testing.assert_array_equal(run_reference(graph, clip).membranes["input0"], 64 * bias)


def test_delays_of_outputs_and_of_single_weights_arrive_when_netx_lets_them(tmp_path: Path) -> None:
    late = rng().integers(0, 4, (3, 5))
    first = dense(5, 4, delay=[0, 3, 1, 0, 2])
    graph = load_lava_dl(write_layers(tmp_path / "n.net", first, dense(3, 5, delay=late, bias=[3, 0, -4])))
    clip = rng().integers(0, 2, (9, 1, 4))
    trace = run_reference(graph, clip)
    spikes = trace.spikes["dense0"][:, 0]
    assert spikes.sum() > 5
    u = np.zeros((9, 3))
    weight, axonal = dense(3, 5)["weight"], [0, 3, 1, 0, 2]
    for t, i, j in np.ndindex(9, 3, 5):
        sent = t - late[i, j] - axonal[j]
        u[t, i] += 64 * weight[i, j] * spikes[sent, j] if sent >= 0 else 0
    v = np.zeros(3)
    for t in range(9):
        v = np.trunc(v * (4096 - 400) / 4096) + u[t] + 64 * np.array([3, 0, -4])
        v = np.where(v > THETA, 0, v)
        np.testing.assert_array_equal(trace.membranes["dense1"][t, 0], v)


def test_where_there_is_a_bias_delays_hold_back_what_comes_as_in_netx(tmp_path: Path) -> None:
    layer = dense(3, 4, delay=[0, 2, 1], bias=[20, 9, 13])
    graph = load_lava_dl(write_layers(tmp_path / "n.net", layer, dense(2, 3)))
    clip = rng().integers(0, 2, (9, 1, 4))
    trace = run_reference(graph, clip)
    v = np.zeros(3)
    for t in range(9):
        u = [layer["weight"][i] @ clip[t - late, 0] if t >= late else 0 for i, late in enumerate([0, 2, 1])]
        v = np.trunc(v * (4096 - 400) / 4096) + 64 * (np.array(u) + np.array([20, 9, 13]))
        np.testing.assert_array_equal(trace.spikes["dense0"][t, 0], v > THETA)
        v = np.where(v > THETA, 0, v)
        np.testing.assert_array_equal(trace.membranes["dense0"][t, 0], v)
    assert not graph.synapses[-1].longest_delay


def test_delays_beyond_netx_are_cut_as_it_does_with_a_warning(tmp_path: Path) -> None:
    file = write_layers(tmp_path / "n.net", dense(3, 4, delay=[1, 90, 62]), dense(2, 3))
    with pytest.warns(SpikefoldWarning, match=r"layer 0 \(dense\): delays up to 90 are cut to 62 steps"):
        graph = load_lava_dl(file)
    assert graph.synapses[1].longest_delay == 62


def test_weights_that_netx_clips_are_clipped_with_a_warning(tmp_path: Path) -> None:
    layer = dense(2, 3, weight=[[300, 4, -6], [2, 2, 2]])
    with pytest.warns(SpikefoldWarning, match="1 weights do not fit netx's eight bits"):
        graph = load_lava_dl(write_layers(tmp_path / "n.net", layer))
    assert graph.synapses[0].effective_weight.max() == 254


def test_decays_of_channels_and_neurons_are_read_in_lavas_order(tmp_path: Path) -> None:
    rates = rng().integers(1, 4096, (4, 3, 3))  # WHC
    layer = conv(neuron={"iDecay": [10, 20, 30], "vDecay": rates})
    graph = load_lava_dl(write_layers(tmp_path / "n.net", IMAGE, layer))
    np.testing.assert_array_equal(np.ravel(graph.neurons[0].du), [9, 19, 29])
    np.testing.assert_array_equal(graph.neurons[0].dv, rates.transpose(2, 1, 0))


REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "odd weights beyond eight bits, none above 0": (
        [dense(1, 2, weight=np.array([[0, -131]]))],
        r"weight: is -131\.\.0: netx cuts them off",
    ),
    "odd weights beyond eight bits that lead back, none below 0": (
        [dense(2, 2, type="dense_rec", weight=np.array([[-131, 5], [3, 7]]), weight_rec=np.array([[201, 3], [5, 7]]))],
        r"weight: is -131\.\.201: netx cuts them off",
    ),
    "other neurons": ([dense(2, 3, neuron={"type": "ALIF"})], r"layer 0 \(dense\), neuron/type: is ALIF"),
    "sigma-delta": ([dense(2, 3, neuron={"type": "SDNN"})], "neuron/type: is SDNN"),
    "resonators": ([dense(2, 3, neuron={"type": "RF_PHASE"})], "neuron/type: is RF_PHASE"),
    "a refractory time": ([dense(2, 3, neuron={"refDelay": 2})], "neuron/refDelay: is 2; netx keeps no"),
    "graded spikes": ([dense(2, 3, neuron={"gradedSpike": True})], "neuron/gradedSpike: is 1"),
    "weight exponents": ([dense(2, 3, neuron={"wgtExp": -2})], "neuron/wgtExp: is -2"),
    "exponents of norms": ([dense(2, 3, neuron={"weight_exp": [1]})], "neuron/weight_exp: is 1"),
    "message bits": ([dense(2, 3, neuron={"messageBits": 8})], "neuron/messageBits: is there"),
    "a current for ever": ([dense(2, 3, neuron={"iDecay": 0})], "neuron/iDecay: is 0..0; Loihi's are 1..4096"),
    "no membrane at all": ([dense(2, 3, neuron={"vDecay": 4096})], "neuron/vDecay: is 4096..4096"),
    "neurons that never fire": ([dense(2, 3, neuron={"vThMant": 2**17}), dense(2, 2)], "layer 0.*vThMant: is 131072"),
    "decays of no shape": ([dense(2, 3, neuron={"iDecay": [1, 2, 3]})], r"iDecay: is of shape \(3,\)"),
    "an unknown field": ([dense(2, 3, mask=[1])], "mask: is there; spikefold knows no such field"),
    "an unknown layer": ([{**dense(2, 3), "type": "convT"}], "type: is convT; spikefold reads input, dense"),
    "complex weights": ([{**dense(2, 3), "type": "dense_comp"}], "type: is dense_comp"),
    "weights not whole": ([dense(2, 3, weight=rng().random((2, 3)))], "weight: is not whole everywhere"),
    "weights of no shape": ([dense(2, 3), dense(2, 3)], r"layer 1.*weight: is of shape \(2, 3\)"),
    "weights of 0": ([dense(2, 3, weight=np.zeros((2, 3)))], "weight: is all are 0, by which netx divides"),
    "weights of nine bits": ([dense(2, 3, weight=np.full((2, 3), 400))], "eight bits for them"),
    "odd wide weights": ([IMAGE, conv(weight=np.full((3, 2, 2, 2), 1001))], "weight: is 1001..1001; they are not even"),
    "wide biases": ([dense(2, 3, bias=[1, 9001])], "bias: is 1..9001; Loihi's biases have 13 bits"),
    "delays of convolutions": ([IMAGE, conv(delay=[0, 1, 0])], r"layer 1 \(conv\), delay: is up to 1; netx leaves out"),
    "negative delays": ([dense(2, 3, delay=[-1, 0])], "delay: is -1"),
    "delays of no shape": ([dense(2, 3, delay=[1, 2, 3, 4])], r"delay: is of shape \(4,\)"),
    "no flatten": ([IMAGE, conv(), dense(2, 36)], "layer 2.*netx puts a flatten layer between"),
    "maps behind a row": ([dense(2, 3), conv()], r"it takes channels, height and width; \(2,\) comes"),
    "a late input": ([dense(2, 3), IMAGE], "only the first layer is one"),
    "an early average": ([dense(2, 3), {"type": "average", "shape": [2]}, dense(2, 2)], "as the last layer"),
    "a readout in between": ([{**dense(2, 3), "neuron": CUBA | {"vThMant": 2**17}}, FLAT, dense(2, 2)], "vThMant"),
    "an overlapping pool": (
        [IMAGE, {"type": "pool", "shape": [2, 3, 4], "weight": np.full((1, 1, 2, 2), 64), "neuron": CUBA}],
        "stride, padding, dilation",
    ),
    "a loop with delays": (
        [{**dense(3, 3), "type": "dense_rec", "weight_rec": even(rng(), 3, 3), "delay": [1, 1, 1]}],
        "layer 0 .dense_rec., delay: is up to 1",
    ),
    "a convolution without neurons": ([IMAGE, without_neurons(conv())], "neuron: is missing; only a dense layer"),
    "sums with a bias": ([without_neurons(dense(2, 3, bias=[1, 2]))], "bias: is 1..2; without neurons netx"),
    "sums in between": ([without_neurons(dense(2, 3)), dense(2, 2)], "neuron: is missing; only the last layer"),
    "an input behind the answer": ([dense(2, 3, neuron={"vThMant": 2**17}), IMAGE], "the layer before it never fires"),
    "some that never fire": ([dense(2, 3, neuron={"vThMant": [60, 2**17]})], "some neurons fire, and some never can"),
    "neurons without a type": ([dense(2, 3, neuron={"type": None})], "neuron/type: is missing"),
    "no layer of neurons": ([IMAGE], "holds no layer of neurons"),
    "input neurons on two axes": ([{"type": "input", "shape": [2, 4], "neuron": CUBA}], "an input with neurons is"),
    "a kernel of three axes": ([IMAGE, conv(weight=np.full((3, 2, 2), 2))], r"a kernel is \[out, in, height, width\]"),
    "maps in a row": ([IMAGE, conv(shape=[36])], "channels, height and width are wanted"),
    "three strides": ([IMAGE, conv(stride=[1, 1, 1])], "one number or two are wanted"),
    "weights of 40 bits": ([IMAGE, conv(weight=np.full((3, 2, 2, 2), 2.0**40))], "they are not even numbers"),
    "a kernel for each channel of a pool": (
        [IMAGE, pool([2, 2, 2], np.full((2, 1, 2, 2), 64), [2, 2])],
        "all channels of a pool share one kernel",
    ),
    "a pool beside its maps": (
        [IMAGE, pool([2, 1, 1], np.full((1, 1, 3, 3), 64), [3, 3])],
        r"kernelSize: is \(3, 3\); maps \(4, 5\) are no multiple",
    ),
    "a shape that does not fit": ([IMAGE, conv(shape=[3, 3, 3])], "its target has shape"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_exact_meaning_is_refused_by_layer_and_field(what: str, tmp_path: Path) -> None:
    layers, message = REFUSED[what]
    with pytest.raises(FileFormatError, match=message):
        load_lava_dl(write_layers(tmp_path / "n.net", *layers))


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "damaged.net").write_bytes(b"version https://git-lfs")
    for name, message in (("missing.net", "no such file"), ("damaged.net", "not a readable HDF5 file")):
        with pytest.raises(FileFormatError, match=message):
            load_lava_dl(tmp_path / name)
    with pytest.raises(FileFormatError, match="holds no layers"):
        load_lava_dl(write_layers(tmp_path / "empty.net"))


def test_arguments_that_do_not_fit_the_file_are_refused(tmp_path: Path) -> None:
    file = write_layers(tmp_path / "n.net", conv())
    with pytest.raises(InputError, match="give it as input_shape"):
        load_lava_dl(file)
    assert load_lava_dl(file, input_shape=(2, 4, 5)).input.shape == (2, 4, 5)
    with pytest.raises(InputError, match="no input layer with neurons"):
        load_lava_dl(file, input_shape=(2, 4, 5), input_bias=(0, 9))
    with pytest.raises(InputError, match=r"input of shape \(2, 0, 5\) .*nothing can come in"):
        load_lava_dl(file, input_shape=(2, 0, 5))


def test_a_delay_of_each_input_is_that_of_its_weights(tmp_path: Path) -> None:
    late = np.array([1, 2, 0])
    of_inputs = load_lava_dl(write_layers(tmp_path / "a.net", dense(2, 3, delay=late)))
    of_weights = load_lava_dl(write_layers(tmp_path / "b.net", dense(2, 3, delay=np.tile(late, (2, 1)))))
    clips = rng().integers(0, 2, (9, 2, 3))
    found, wanted = (run_reference(graph, clips).membranes["dense0"] for graph in (of_inputs, of_weights))
    assert found.any()
    np.testing.assert_array_equal(found, wanted)


def test_wide_biases_that_are_even_keep_their_value(tmp_path: Path) -> None:
    graph = load_lava_dl(write_layers(tmp_path / "n.net", dense(2, 3, bias=[8000, -2])))
    np.testing.assert_array_equal(graph.neurons[0].bias, np.array([8000, -2]) * 64)
