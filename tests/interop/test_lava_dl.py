"""lava-dl's netx runs what we write and we run what it reads: 0 differing spikes, currents and membranes.

In netx a layer handles a frame one step after the layer before it, and its biases are at work from the first step on;
netx's own reset, one step later from layer to layer, starts each when its first frame comes. `netx_job` cuts the
recordings there.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from generated_graphs import random_clips, random_graph
from lava_dl_files import CUBA, MAP, Int, currents, even, write_layers
from netx_job import STEPS_OF_BIASES, NetxRun, run_child, run_netx
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.lava_dl import load_lava_dl, save_lava_dl
from spikefold.converters.reference import run_reference
from spikefold.deploy.lava.interpreter import explain_missing, why_not


def _has_netx() -> bool:
    try:
        importlib.metadata.version("lava-dl")
    except importlib.metadata.PackageNotFoundError:
        return False
    return why_not(Path(sys.executable)) is None


pytestmark = [
    pytest.mark.lava,
    pytest.mark.skipif(not _has_netx(), reason=f"lava-dl is not here: see `make env`; {explain_missing()}"),
]


def assert_equal(
    graph: FixedPointGraph, clips: Int, ran: NetxRun, late: Mapping[str, Int] | None = None, bare_end: bool = False
) -> None:
    """Compare all that ``graph`` does on one clip; populations of ``late`` are that much later in netx, each neuron.

    A last layer without neurons (``bare_end``) is in netx a current that adds up, and its image, the membrane.
    """
    trace = run_reference(graph, clips)
    u = currents(graph, clips, trace)
    for n in graph.neurons:
        if n.name.startswith("input"):  # its input comes as bias, past the current
            u[n.name] = np.zeros_like(u[n.name])
    if bare_end:
        u[graph.output.name] = trace.membranes[graph.output.name]
    ours = (trace.spikes, u, trace.membranes)
    for number, n in enumerate(graph.neurons):
        assert trace.spikes[n.name].any() or not n.fires
        for kind, mine, theirs in zip(
            ("spikes", "u", "v"), ours, (ran.spikes, ran.currents, ran.membranes), strict=True
        ):
            left = mine[n.name][:, 0].reshape(len(clips), -1)
            right = theirs[number].reshape(len(clips), -1)
            for j, lag in enumerate(np.broadcast_to((late or {}).get(n.name, 0), left.shape[1])):
                differing = int((left[: len(left) - lag, j] != right[lag:, j]).sum())
                assert differing == 0, f"{kind} of {n.name}, neuron {j}"


def test_netx_runs_written_chains(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    drawn = random_graph(
        4, memory=True, decays=True, depthwise=True, graded_input=True, spiking_output=True, time_steps=9
    )
    whole = tuple(replace(n, bias_mantissa=n.bias_mantissa % 7 - 2, bias_exponent=6) for n in drawn.neurons)
    wide = replace(drawn, neurons=whole)
    neurons = (
        Neurons("first", (5,), 300, np.array(30), np.zeros((), dtype=np.int64), 0, 0.1, du=2000),
        Neurons("last", (4,), 0, np.array(0), np.array([0, 1, 2, -3]), 6, 0.1, fires=False),
    )
    synapses = (
        Synapse("in", "input", "first", "dense", even(rng, 5, 12)),
        Synapse("back", "first", "first", "dense", np.abs(even(rng, 5, 5)), delay=1),
        Synapse("out", "first", "last", "dense", even(rng, 4, 5), delay=np.array([0, 4, 1, 1, 5])),
    )
    loop = FixedPointGraph(InputPort((3, 2, 2)), neurons, synapses, "none", None)
    graphs = [wide, loop]
    clips = [random_clips(g, 2, batch=1) if g is wide else rng.integers(0, 2, (12, 1, 3, 2, 2)) for g in graphs]
    jobs = []
    for number, (graph, clip) in enumerate(zip(graphs, clips, strict=True)):
        save_lava_dl(graph, tmp_path / f"{number}.net")
        bits = graph.input.max_value.bit_length() if graph.input.max_value > 1 else 0
        jobs.append({"net": tmp_path / f"{number}.net", "clip": clip[:, 0], "bits": bits})
    for graph, clip, ran in zip(graphs, clips, run_netx(tmp_path, jobs), strict=True):
        assert_equal(graph, clip, ran)


@pytest.mark.filterwarnings("ignore::spikefold.errors.SpikefoldWarning")
def test_files_in_lava_dls_layout_do_here_what_they_do_in_netx(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    eager = {"type": "dense", "shape": [6], "bias": [400, 700, 90, 500, 60, 900], "neuron": CUBA}
    odd = rng.integers(-60, 90, (6, 6))
    kinds = [
        (odd * 4).clip(0, 254), -np.abs(odd) - 1, np.where(odd > 20, 0, -256), odd * 6,
        np.where(odd < 0, -128, -2), odd // 9,
    ]  # fmt: skip
    weights = write_layers(tmp_path / "weights.net", *({**eager, "weight": w} for w in kinds))
    late = [0, 3, 1, 0, 2, 5]
    quick = {"type": "dense", "shape": [6], "neuron": {**CUBA, "vThMant": 30}}
    delays = write_layers(
        tmp_path / "delays.net",  # biases only at the end: what they do before the reset would be under way after it
        {**quick, "type": "dense_rec", "weight": even(rng, 6, 6), "weight_rec": odd},
        {**quick, "weight": even(rng, 6, 6), "delay": late},
        {**quick, "weight": even(rng, 6, 6), "delay": rng.integers(0, 4, (6, 6))},
        {**eager, "weight": even(rng, 6, 6), "delay": late[::-1]},
        {"type": "dense", "shape": [4], "weight": even(rng, 4, 6)},
    )
    image = {"type": "input", "shape": [2, 4, 5], "weight": [30], "bias": [3], "neuron": {**CUBA, "iDecay": 700}}
    kernel = rng.integers(-50, 60, (3, 2, 2, 3))
    decays = {**CUBA, "iDecay": [1500, 3000, 4096], "vDecay": rng.integers(0, 900, (3, 2, 3))}
    conv = {"type": "conv", "shape": [3, 2, 3], "weight": kernel, "bias": [9, -3, 5], "neuron": decays, **MAP}
    read = {"type": "dense", "shape": [3], "weight": even(rng, 3, 18)}
    flat = {"type": "flatten", "shape": [18, 1, 1]}
    images = write_layers(tmp_path / "images.net", image, {**conv, "stride": [2, 2], "padding": [0, 1]}, flat, read)

    events = rng.integers(0, 2, (14, 1, 6))
    picture = rng.integers(0, 4, (2, 4, 5))
    jobs = [{"net": net, "clip": events[:, 0]} for net in (weights, delays)]
    first, second, third = run_netx(tmp_path, [*jobs, {"net": images, "clip": 30 * picture + 3}])
    assert_equal(load_lava_dl(weights), events, first)
    assert_equal(load_lava_dl(delays), events, second, {"dense1": np.array(late)}, bare_end=True)
    clips = np.broadcast_to(picture, (STEPS_OF_BIASES, 1, *picture.shape))
    assert_equal(load_lava_dl(images, max_value=3), clips, third, bare_end=True)


def test_what_slayer_exports_fires_here_as_it_does_there(tmp_path: Path) -> None:
    run_child(Path(__file__).parents[1] / "_support" / "slayer_job.py", tmp_path)
    with np.load(tmp_path / "net.npz") as held:
        sent = {k: np.moveaxis(v, -1, 0).astype(np.int64) for k, v in held.items()}
    graph = load_lava_dl(tmp_path / "net.net", input_shape=(2, 5, 6))
    trace = run_reference(graph, sent["frames"])
    layers = [("conv0", "sent_0"), ("pool1", "sent_1"), ("dense3", "sent_3"), ("dense4", "sent_4")]
    for lag, (name, key) in enumerate(layers, 1):  # each block sends a step late
        ours, theirs = (a.reshape(*a.shape[:2], -1) for a in (trace.spikes[name], sent[key]))
        assert ours.sum() > 20
        for j in range(ours.shape[2]):
            late = lag + (j % 4 if name == "dense3" else 0)
            np.testing.assert_array_equal(ours[:-late, :, j], theirs[late:, :, j])
