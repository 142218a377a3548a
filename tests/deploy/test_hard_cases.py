"""Bad chip files, layers that fit nowhere, silence and clips of one step, at the command line: clear answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import spikefold as sf
from generated_graphs import random_graph
from large_nets import neurons
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Synapse
from spikefold.deploy.cli import app
from spikefold.errors import SpikefoldError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a small net, the same whose first layer fires by itself, silent clips, and clips of one step."""
    graph = random_graph(0)
    first, *rest = graph.neurons
    driven = replace(first, bias_mantissa=np.array(4095), bias_exponent=7)
    for name, changed in (("net", graph), ("driven", replace(graph, neurons=(driven, *rest)))):
        sf.save_nir(changed, tmp_path / f"{name}.nir")
    some = np.random.default_rng(0).random((2, 1, *graph.input.shape)) < 0.5
    for name, frames in (("silent", np.zeros((2, 5, *graph.input.shape))), ("short", some)):
        np.savez(tmp_path / f"{name}.npz", frames=frames.astype(np.uint8), labels=np.zeros(2, np.int64))
    return tmp_path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.mark.parametrize("command", ["map", "energy"])
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "chip.yaml: the file is empty; write a mapping, such as docs/hardware_files.md shows"),
        ("- loihi1", "chip.yaml: the top level is a list; write a mapping"),
        ("family: [", "chip.yaml: not readable as YAML"),
        ("family: chips", "family: 'chips': no such family; write 'family: chip'"),
        ("family: chip\nlimits: {cores: {value: -3}}", "limits.cores.value: -3: must be at least 1"),
        (None, "chip.yaml: no such file; give the path of a YAML file, or one of cmos45, loihi1"),
    ],
)
def test_a_bad_chip_file_is_named_with_what_to_do(folder: Path, command: str, text: str | None, answer: str) -> None:
    if text is not None:
        (folder / "chip.yaml").write_text(text)
    data = ["--data", folder / "short.npz"] if command == "energy" else []
    done = call(command, folder / "net.nir", *data, "--hardware", folder / "chip.yaml")
    assert isinstance(done.exception, SpikefoldError)
    assert answer in str(done.exception)


def test_a_folder_in_place_of_a_chip_file_is_called_one(folder: Path) -> None:
    done = call("map", folder / "net.nir", "--hardware", folder)
    assert "no file but a folder; give the path of a YAML file" in str(done.exception)


@pytest.mark.parametrize(
    ("chip", "answers"),
    [
        ("loihi1", ("synapse memory, bit: layer fc uses 8,960,000, limit 1,048,576: the weights of a single neuron",
                    "in-axons: layer fc uses 140,000, limit 4,096: a single neuron hears too many sources",
                    "does not run as it is, 2 rules are broken")),
        ("loihi2", ("synapse memory, bit: layer fc uses 1,120,000, limit 1,048,576", "as it is, 1 rule is broken")),
        ("speck", ("weights: layer fc uses 560,000, limit 65,536", "as it is, 1 rule is broken")),
    ],
)  # fmt: skip
def test_a_layer_that_fits_on_no_core_is_named_with_its_numbers(
    tmp_path: Path, chip: str, answers: tuple[str, ...]
) -> None:
    weight = np.full((4, 140_000), 2)
    graph = FixedPointGraph(
        InputPort((140_000,)), (neurons("fc", (4,)),), (Synapse("s", "input", "fc", "dense", weight),), "none", None
    )
    sf.save_nir(graph, tmp_path / "wide.nir")
    done = call("map", tmp_path / "wide.nir", "--hardware", chip)
    assert done.exit_code == 1
    for answer in answers:
        assert answer in done.stdout


@pytest.mark.parametrize(
    ("net", "words"),
    [("driven", "all spikes that are priced come from biases"), ("net", "this is the price of silence")],
)
def test_clips_without_an_event_are_priced_and_called_silent(folder: Path, net: str, words: str) -> None:
    done = call("energy", folder / f"{net}.nir", "--data", folder / "silent.npz", "--json")
    assert done.exit_code == 0
    for name, price in json.loads(done.stdout).items():
        assert any(words in note for note in price["notes"]), name
        assert np.isfinite(price["total"]["value"])
        assert price["total"]["value"] > 0 or name == "cmos45"
    heard = call("energy", folder / "net.nir", "--data", folder / "short.npz", "--json")
    assert not any("no input event" in note for p in json.loads(heard.stdout).values() for note in p["notes"])


def test_clips_of_one_step_are_priced_with_the_steps_through_the_net(folder: Path) -> None:
    done = call("energy", folder / "net.nir", "--data", folder / "short.npz", "--json")
    assert done.exit_code == 0
    prices = json.loads(done.stdout)
    depth = len(random_graph(0).neurons)
    for name in ("loihi1", "loihi2"):
        assert prices[name]["steps"] == 1 + depth
        assert 0 < prices[name]["latency"]["low"] <= prices[name]["latency"]["high"]
        assert any(f"latency is {1 + depth} steps, 1 of the clip and {depth}" in note for note in prices[name]["notes"])


def test_a_gate_trained_for_more_steps_refuses_one(tmp_path: Path) -> None:
    gated = random_graph(2, gated=True)
    sf.save_nir(gated, tmp_path / "gated.nir")
    frames = np.zeros((1, 1, *gated.input.shape), np.uint8)
    np.savez(tmp_path / "short.npz", frames=frames, labels=np.zeros(1, np.int64))
    done = call("energy", tmp_path / "gated.nir", "--data", tmp_path / "short.npz")
    assert "T = 1; the gates or biases of this net were trained for T = " in str(done.exception)
