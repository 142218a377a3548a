"""Nets that go to lava-dl and come from it, and where we differ on them from netx, slayer, and recorded runs."""

from __future__ import annotations

import importlib.metadata
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nir_readers import Chain, lively
from numpy.typing import NDArray

from generated_graphs import random_clips, random_graph
from lava_dl_files import CUBA, MAP, Int, currents, even, shipped_file, write_layers
from netx_job import STEPS_OF_BIASES, NetxRun, run_child, run_netx
from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.lava_dl import load_lava_dl, save_lava_dl
from spikefold.converters.lower import lower
from spikefold.converters.reference import Trace, run_reference
from spikefold.deploy.lava.interpreter import why_not
from spikefold.deploy.run import run
from spikefold.errors import SpikefoldWarning
from spikefold.models import saccade_mnist
from spikefold.models.checkpoints import load


@dataclass(frozen=True)
class Difference:
    """Spikes, currents (u) or membranes (v) of one layer: how many were compared, differ, and are not 0 in theirs."""

    layer: str
    kind: str
    differing: int
    compared: int
    nonzero: int


def between(layer: str, kind: str, ours: NDArray[Any], theirs: NDArray[Any]) -> Difference:
    """Count where two arrays of one shape differ."""
    if ours.shape != theirs.shape:
        raise ValueError(f"{layer}, {kind}: ours has shape {ours.shape}, theirs {theirs.shape}")
    return Difference(layer, kind, int((ours != theirs).sum()), theirs.size, int(np.count_nonzero(theirs)))


def has_lava_dl() -> bool:
    """Whether lava-dl is installed and Lava can run here."""
    try:
        importlib.metadata.version("lava-dl")
    except importlib.metadata.PackageNotFoundError:
        return False
    return why_not(Path(sys.executable)) is None


# ------------------------------------------------------------------------------------------------------------ netx


@dataclass(frozen=True)
class Trip:
    """A net as we run it and as netx does.

    Attributes
    ----------
    graph, clips : FixedPointGraph, array ``[T, 1, *shape]``
        Ours.
    job : mapping
        What `netx_job.run_netx` takes.
    late : mapping
        Populations that are so many steps later in netx, each neuron.
    bare_end : bool
        A last layer without neurons is in netx a current that adds up, and its image, the membrane.
    """

    graph: FixedPointGraph
    clips: Int
    job: Mapping[str, Any]
    late: Mapping[str, Int]
    bare_end: bool = False


@cache
def against_netx(group: str) -> dict[str, list[Difference]]:
    """Run a group of `NETX` in one process of netx, and compare every spike, current and membrane."""
    with tempfile.TemporaryDirectory() as made, warnings.catch_warnings():
        warnings.simplefilter("ignore", SpikefoldWarning)  # some files hold weights that netx changes, on purpose
        folder = Path(made)
        trips = {name: make(folder) for name, (_, make) in NETX[group].items()}
        runs = run_netx(folder, [dict(t.job) for t in trips.values()])
    return {name: _differences(trip, ran) for (name, trip), ran in zip(trips.items(), runs, strict=True)}


def _differences(trip: Trip, ran: NetxRun) -> list[Difference]:
    graph, trace = trip.graph, run_reference(trip.graph, trip.clips)
    u = currents(graph, trip.clips, trace)
    for n in graph.neurons:
        if n.name.startswith("input"):  # its input comes as bias, past the current
            u[n.name] = np.zeros_like(u[n.name])
    if trip.bare_end:
        u[graph.output.name] = trace.membranes[graph.output.name]
    ours, theirs = (trace.spikes, u, trace.membranes), (ran.spikes, ran.currents, ran.membranes)
    found = []
    for number, n in enumerate(graph.neurons):
        for kind, mine, other in zip(("spikes", "u", "v"), ours, theirs, strict=True):
            left = mine[n.name][:, 0].reshape(len(trip.clips), -1)
            right = other[number].reshape(len(trip.clips), -1)
            lag = np.broadcast_to(trip.late.get(n.name, 0), left.shape[1])
            pairs = [(left[: len(left) - d, j], right[d:, j]) for j, d in enumerate(lag)]
            mine_all, theirs_all = (np.concatenate(side) for side in zip(*pairs, strict=True))
            found.append(between(n.name, kind, mine_all, theirs_all))
    return found


def _written(graph: FixedPointGraph, clip: Int, path: Path, approximate: bool = False) -> Trip:
    """Our net in a file; where that holds the nearest, the nearest is what runs here."""
    held = save_lava_dl(graph, path, approximate).graph
    bits = graph.input.max_value.bit_length() if graph.input.max_value > 1 else 0
    return Trip(held, clip, {"net": path, "clip": clip[:, 0], "bits": bits}, {})


def _graded(folder: Path) -> Trip:
    drawn = random_graph(
        4, memory=True, decays=True, depthwise=True, graded_input=True, spiking_output=True, time_steps=9
    )
    whole = tuple(replace(n, bias_mantissa=n.bias_mantissa % 7 - 2, bias_exponent=6) for n in drawn.neurons)
    graph = replace(drawn, neurons=whole)
    return _written(graph, random_clips(graph, 2, batch=1), folder / "graded.net")


def _loop(folder: Path) -> Trip:
    rng = np.random.default_rng(6)
    neurons = (
        Neurons("first", (5,), 300, np.array(30), np.zeros((), dtype=np.int64), 0, 0.1, du=2000),
        Neurons("last", (4,), 0, np.array(0), np.array([0, 1, 2, -3]), 6, 0.1, fires=False),
    )
    synapses = (
        Synapse("in", "input", "first", "dense", even(rng, 5, 12)),
        Synapse("back", "first", "first", "dense", np.abs(even(rng, 5, 5)), delay=1),
        Synapse("out", "first", "last", "dense", even(rng, 4, 5), delay=np.array([0, 4, 1, 1, 5])),
    )
    graph = FixedPointGraph(InputPort((3, 2, 2)), neurons, synapses, "none", None)
    return _written(graph, rng.integers(0, 2, (12, 1, 3, 2, 2)), folder / "loop.net")


def _chain(folder: Path) -> Trip:
    clips = (np.random.default_rng(0).random((10, 8, 2, 8, 8)) < 0.4).astype(np.int64)
    net = lively(Chain(0.5, spiking=True), without_bias=True)
    fixed = lower(capture(net, torch.from_numpy(clips[:, :1]).float()), clips, "static", name="chain")
    return _written(fixed, clips[:, :1], folder / "chain.net")


def _plain(folder: Path) -> Trip:
    training = saccade_mnist.load("train").clips(32)
    fixed = lower(capture(load("plain"), torch.from_numpy(training[:, :1]).float()), training, "static", name="plain")
    clips = np.asarray(saccade_mnist.load("test").clips(1), dtype=np.int64)
    return _written(fixed, clips, folder / "plain.net", approximate=True)


WRITTEN: Mapping[str, tuple[str, Callable[[Path], Trip]]] = {
    "ours, chain": ("convolutions and a dense layer, decay 1/2", _chain),
    "ours, graded": ("convolutions, graded input, synaptic currents, decays of each neuron", _graded),
    "ours, loop": ("dense, recurrent, delays, a readout", _loop),
}
"""Ours -> ``.net`` -> netx."""

LARGE: Mapping[str, tuple[str, Callable[[Path], Trip]]] = {
    "ours, plain": ("shipped `plain`, biases rounded to whole weights, one digit", _plain)
}


def _eager() -> dict[str, Any]:
    return {"type": "dense", "shape": [6], "bias": [400, 700, 90, 500, 60, 900], "neuron": CUBA}


def _weights(folder: Path) -> Trip:
    rng = np.random.default_rng(5)
    odd = rng.integers(-60, 90, (6, 6))
    kinds = [
        (odd * 4).clip(0, 254), -np.abs(odd) - 1, np.where(odd > 20, 0, -256), odd * 6,
        np.where(odd < 0, -128, -2), odd // 9,
    ]  # fmt: skip
    net = write_layers(folder / "weights.net", *({**_eager(), "weight": w} for w in kinds))
    events = rng.integers(0, 2, (14, 1, 6))
    return Trip(load_lava_dl(net), events, {"net": net, "clip": events[:, 0]}, {})


def _delays(folder: Path) -> Trip:
    rng = np.random.default_rng(5)
    late = [0, 3, 1, 0, 2, 5]
    odd = rng.integers(-60, 90, (6, 6))
    quick = {"type": "dense", "shape": [6], "neuron": {**CUBA, "vThMant": 30}}
    net = write_layers(
        folder / "delays.net",  # biases only at the end: what they do before the reset would be under way after it
        {**quick, "type": "dense_rec", "weight": even(rng, 6, 6), "weight_rec": odd},
        {**quick, "weight": even(rng, 6, 6), "delay": late},
        {**quick, "weight": even(rng, 6, 6), "delay": rng.integers(0, 4, (6, 6))},
        {**_eager(), "weight": even(rng, 6, 6), "delay": late[::-1]},
        {"type": "dense", "shape": [4], "weight": even(rng, 4, 6)},
    )
    events = rng.integers(0, 2, (14, 1, 6))
    job = {"net": net, "clip": events[:, 0]}
    return Trip(load_lava_dl(net), events, job, {"dense1": np.array(late)}, bare_end=True)


def _images(folder: Path) -> Trip:
    rng = np.random.default_rng(5)
    image = {"type": "input", "shape": [2, 4, 5], "weight": [30], "bias": [3], "neuron": {**CUBA, "iDecay": 700}}
    kernel = rng.integers(-50, 60, (3, 2, 2, 3))
    decays = {**CUBA, "iDecay": [1500, 3000, 4096], "vDecay": rng.integers(0, 900, (3, 2, 3))}
    conv = {"type": "conv", "shape": [3, 2, 3], "weight": kernel, "bias": [9, -3, 5], "neuron": decays, **MAP}
    read = {"type": "dense", "shape": [3], "weight": even(rng, 3, 18)}
    flat = {"type": "flatten", "shape": [18, 1, 1]}
    net = write_layers(folder / "images.net", image, {**conv, "stride": [2, 2], "padding": [0, 1]}, flat, read)
    picture = rng.integers(0, 4, (2, 4, 5))
    clips = np.broadcast_to(picture, (STEPS_OF_BIASES, 1, *picture.shape))
    job = {"net": net, "clip": 30 * picture + 3}
    return Trip(load_lava_dl(net, max_value=3), clips, job, {}, bare_end=True)


READ: Mapping[str, tuple[str, Callable[[Path], Trip]]] = {
    "weights": ("dense, six kinds of weights that netx fits to eight bits", _weights),
    "delays": ("dense, recurrent, delays of neurons and weights", _delays),
    "images": ("input neurons, convolution, decays of each neuron, readout", _images),
}
"""Files in lava-dl's layout, written without our writer -> ours, and netx as the judge."""

NETX = {"written": WRITTEN, "large": LARGE, "read": READ}


# ---------------------------------------------------------------------------------------------- slayer, and recordings


@cache
def slayer() -> list[Difference]:
    """What slayer exports fires here as it does there; each block sends a step late, delays come on top."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        run_child(Path(__file__).with_name("slayer_job.py"), folder)
        with np.load(folder / "net.npz") as held:
            sent = {k: np.moveaxis(v, -1, 0).astype(np.int64) for k, v in held.items()}
        graph = load_lava_dl(folder / "net.net", input_shape=(2, 5, 6))
    trace = run_reference(graph, sent["frames"])
    layers = [("conv0", "sent_0"), ("pool1", "sent_1"), ("dense3", "sent_3"), ("dense4", "sent_4")]
    found = []
    for lag, (name, key) in enumerate(layers, 1):
        ours, theirs = (a.reshape(*a.shape[:2], -1) for a in (trace.spikes[name], sent[key]))
        late = [lag + (j % 4 if name == "dense3" else 0) for j in range(ours.shape[2])]
        mine = np.concatenate([ours[:-d, :, j] for j, d in enumerate(late)])
        found.append(between(name, "spikes", mine, np.concatenate([theirs[d:, :, j] for j, d in enumerate(late)])))
    return found


def recorded(name: str) -> NDArray[np.float64]:
    """``[T, *shape]``; the files hold WHC, or CHW behind a batch axis, and time last."""
    held = np.load(shipped_file(name))
    return held[0].transpose(3, 0, 1, 2) if held.ndim == 5 else held.T


def _of(graph: FixedPointGraph, clips: Int, backend: Any) -> Trace:
    trace = run(graph, clips, backend, trace=True).trace
    assert trace is not None
    return trace


def tinynet() -> list[Difference]:
    """An image as biases of input neurons, two convolutions; recordings begin with an empty step."""
    bias = np.load(shipped_file("gts/tinynet/input_bias.npy")).T.astype(np.int64)
    graph = load_lava_dl(shipped_file("tiny.net"), input_bias=(0, int(bias.max())))
    trace = _of(graph, np.broadcast_to(bias, (15, 1, *bias.shape)), "reference")
    files = {"input0": "input", "conv1": "layer1", "conv2": "output"}
    return [
        between(name, "spikes", trace.spikes[name][:, 0], recorded(f"gts/tinynet/{file}.npy")[1:])
        for name, file in files.items()
    ]


def pilotnet() -> list[Difference]:
    """The last layer (fc-3), which lava-dl's tests never look at, was recorded in another run and is left out."""
    steps = 16  # then the recording goes on with another image
    bias = np.load(shipped_file("gts/pilotnet_lif/image.npy")).T.astype(np.int64)
    graph = load_lava_dl(shipped_file("gts/pilotnet_lif/network.net"), input_bias=(0, int(bias.max())))
    clips = np.broadcast_to(bias, (steps, 1, *bias.shape)).copy()
    trace = _of(graph, clips, "fast")
    u = currents(graph, clips, trace)
    first = recorded("gts/pilotnet_lif/input.npy")[:steps]
    found = [between("input0", "spikes", trace.spikes["input0"][:, 0], first)]
    for lag, n in enumerate(graph.neurons[1:-1], 1):
        file = f"conv-{lag - 1}" if n.name.startswith("conv") else f"fc-{lag - 6}"
        spikes, current, membrane = (
            recorded(f"gts/pilotnet_lif/{file}{kind}.npy")[lag:steps] for kind in ("", "-u", "-v")
        )
        fired, mine_u, mine_v = (a[n.name][: steps - lag, 0] for a in (trace.spikes, u, trace.membranes))
        found.append(between(n.name, "spikes", fired, spikes))
        found.append(between(n.name, "u", mine_u, current))
        found.append(between(n.name, "v", mine_v, np.where(fired, 0, membrane)))  # recorded before the reset
    return found


def ntidigits() -> list[Difference]:
    """Three dense layers with axonal delays; with the recording's source, four steps late."""
    graph = load_lava_dl(shipped_file("gts/ntidigits/ntidigits.net"))
    frames = recorded("gts/ntidigits/input.npy").reshape(-1, 1, 1, 1, 64).astype(np.int64)
    truth = recorded("gts/ntidigits/output.npy")
    spikes = _of(graph, frames, "fast").spikes["dense4"]
    return [between("dense4", "spikes", spikes[:-4, 0], truth[4:])]


RECORDED: Mapping[str, tuple[str, Callable[[], list[Difference]]]] = {
    "TinyNet": ("input neurons, two convolutions", tinynet),
    "PilotNet": ("input neurons, convolutions, dense layers", pilotnet),
    "NTIDIGITS": ("dense, axonal delays; the last firing layer", ntidigits),
}
"""Nets and recorded runs in lava-dl's own wheel."""
