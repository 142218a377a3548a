"""A NIR file of another program as the NET of a command, with its dialect named."""

from __future__ import annotations

from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spikefold.converters.capture import capture
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.nir_file import load_nir
from spikefold.deploy.cli import app
from spikefold.deploy.cli_options import with_dialect
from spikefold.deploy.sources import find_net
from spikefold.deploy.verify import verify
from spikefold.errors import FileFormatError, InputError

T = 8


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(2)
    one = np.ones(6)
    lif = nir.LIF(tau=one * 2e-4, r=one * 2, v_leak=0 * one, v_threshold=one * 0.5)
    graph = nir.NIRGraph.from_list(nir.Affine(rng.normal(0, 0.5, (6, 10)), rng.normal(0, 0.1, 6)), lif)
    nir.write(str(tmp_path / "theirs.nir"), graph)
    return tmp_path / "theirs.nir"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    frames = (rng.random((24, T, 10)) < 0.4).astype(np.uint8)
    np.savez(tmp_path / "events.npz", frames=frames, labels=rng.integers(0, 6, 24))
    return tmp_path / "events.npz"


def test_export_takes_a_foreign_file_whose_dialect_is_named(file: Path, data: Path, tmp_path: Path) -> None:
    arguments = ["export", str(file), "--from", "snntorch", "--data", str(data), "--out", str(tmp_path / "ours")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert load_nir(tmp_path / "ours.nir").neurons[0].dv == 2048


def test_a_foreign_file_without_a_dialect_asks_for_it(file: Path) -> None:
    with pytest.raises(InputError, match=r"another program.*name one with --from DIALECT .*: nir, snntorch, norse"):
        find_net(str(file))


def test_what_spikefold_deployed_is_no_net_to_deploy(file: Path, data: Path, tmp_path: Path) -> None:
    CliRunner().invoke(app, ["export", str(file), "--from", "nir", "--data", str(data), "--out", str(tmp_path / "a")])
    with pytest.raises(InputError, match="is what spikefold deployed of a net"):
        find_net(f"{tmp_path / 'a.nir'}@nir")


def test_the_same_file_is_another_net_in_another_dialect_or_step(file: Path) -> None:
    found = {
        said: read_float_graph(capture(find_net(f"{file}@{said}").module, torch.zeros(T, 1, 10))).populations[0]
        for said in ("nir", "spikingjelly", "nir,dt=5e-5")
    }
    assert [p.strict for p in found.values()] == [True, False, True]
    assert [p.decay for p in found.values()] == pytest.approx([0.5, 0.5, 0.75])


@pytest.mark.parametrize(
    ("said", "message"),
    [("klingon", "dialect is 'klingon'"), ("nir,dt=soon", "dt is 'soon', which is no number of seconds")],
)
def test_dialects_and_steps_that_are_none_are_refused(file: Path, said: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_net(f"{file}@{said}")


def test_a_dialect_belongs_to_nir_files_only(tmp_path: Path) -> None:
    assert with_dialect("plain", None) == "plain"
    with pytest.raises(InputError, match=r"--from norse: plain is no \.nir file"):
        with_dialect("plain", "norse")
    with pytest.raises(FileFormatError, match="there is no such file"):
        find_net(f"{tmp_path / 'none.nir'}@nir")


def test_a_foreign_net_is_verified_on_every_backend(file: Path, data: Path) -> None:
    clips = np.moveaxis(np.load(data)["frames"], 0, 1)
    result = verify(find_net(f"{file}@nir").module, clips[:, :8], "static", clips[:, 8:], lava_samples=0)
    assert result.passed
    assert result.folding.layers == ()
    assert all(b.equal for b in result.backends)


@pytest.mark.parametrize("command", ["simulate", "energy", "map", "info", "verify --file", "sweep"])
def test_a_command_for_deployed_nets_says_how_a_foreign_file_becomes_one(command: str, file: Path, data: Path) -> None:
    name, *option = command.split()
    arguments = [name, *(["plain"] if option else []), *option, str(file)]
    result = CliRunner().invoke(app, arguments + (["--data", str(data)] if name in ("simulate", "energy") else []))
    assert isinstance(result.exception, FileFormatError)
    assert "`spikefold export FILE.nir --from DIALECT --data DATA`" in str(result.exception)


def test_verify_asks_for_the_dialect_of_a_foreign_file(file: Path, data: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(file), "--data", str(data)])
    assert isinstance(result.exception, InputError)
    assert "give its dialect as --from DIALECT" in str(result.exception)
