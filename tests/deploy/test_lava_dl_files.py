"""A `.net` of lava-dl wherever a command takes a deployed net, and `export --lava-dl`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import spikefold as sf
from lava_dl_files import CUBA, MAP, even, write_layers
from spikefold.deploy.cli import app
from spikefold.deploy.commands import export_net
from spikefold.deploy.sources import find_net
from spikefold.errors import InputError

T = 6


def silent(line: str) -> None:
    """A report that says nothing."""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    layers = ({"type": "dense", "shape": [n], "weight": even(rng, n, m), "neuron": CUBA} for n, m in ((8, 10), (3, 8)))
    return write_layers(tmp_path / "theirs.net", *layers)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    frames = (rng.random((12, T, 10)) < 0.4).astype(np.uint8)
    np.savez(tmp_path / "events.npz", frames=frames, labels=rng.integers(0, 3, 12))
    return tmp_path / "events.npz"


def test_simulate_energy_map_and_info_take_it(net: Path, data: Path) -> None:
    for command in (
        ["simulate", net, "--data", data],
        ["energy", net, "--data", data, "--hardware", "loihi1"],
        ["map", net],
        ["info", net],
    ):
        done = CliRunner().invoke(app, [*map(str, command), "--json"])
        assert done.exit_code == 0, done.output
        json.loads(done.stdout)


def test_export_writes_its_other_files_without_data(net: Path, tmp_path: Path) -> None:
    made = export_net(str(net), None, "none", "static", None, 1, None, "spikefold", False, tmp_path / "ours", silent)
    assert sf.load_nir(made["files"]["nir"]).to_plain()[0] == sf.load_lava_dl(net).to_plain()[0]
    with pytest.raises(InputError, match="is of integers"):
        export_net(str(net), None, "none", "static", None, 1, 4, "spikefold", False, tmp_path / "ours", silent)


def test_it_is_no_trained_net(net: Path) -> None:
    with pytest.raises(InputError, match="is of integers already; export, simulate"):
        find_net(str(net))


def test_export_writes_one_and_tells_what_rounding_its_biases_costs(tmp_path: Path) -> None:
    arguments = ("plain", None, "saccade-mnist", "static", None, 16, None, "spikefold")
    made = export_net(*arguments, True, tmp_path / "plain", silent, lava_dl=True)
    ours, theirs = sf.load_nir(made["files"]["nir"]), sf.load_lava_dl(made["files"]["lava-dl"])
    assert [n.size for n in ours.neurons] == [n.size for n in theirs.neurons]
    assert made["lava_dl"][0].startswith("netx.hdf5.Network(FILE, reset_interval=STEPS")
    assert any(line.startswith("replaced: neurons 'readout', bias") for line in made["lava_dl"])
    assert "of 16 predictions differ from the exact integers; accuracy" in made["lava_dl"][-1]


def test_what_a_file_does_not_say_of_its_input_is_said_once_in_python(tmp_path: Path) -> None:
    kernel = even(np.random.default_rng(1), 3, 2, 3, 3)
    conv = {"type": "conv", "shape": [3, 4, 4], "weight": kernel, "neuron": CUBA, **MAP}
    theirs, ours = write_layers(tmp_path / "theirs.net", conv), tmp_path / "ours.nir"
    said = CliRunner().invoke(app, ["info", str(theirs)])
    assert isinstance(said.exception, InputError)
    call = "spikefold.save_nir(spikefold.load_lava_dl('FILE.net', input_shape=(C, H, W)), 'FILE.nir')"
    assert call in str(said.exception)
    sf.save_nir(sf.load_lava_dl(theirs, input_shape=(2, 6, 6)), ours)
    assert CliRunner().invoke(app, ["info", str(ours)]).exit_code == 0
    with pytest.raises(InputError, match=r"read a \.net with load_lava_dl\(FILE, max_value=7\)"):
        sf.run(ours, np.full((2, 1, 2, 6, 6), 7))
    sf.save_nir(sf.load_lava_dl(theirs, input_shape=(2, 6, 6), max_value=7), ours)
    assert sf.run(ours, np.full((2, 1, 2, 6, 6), 7)).time_steps == 2
