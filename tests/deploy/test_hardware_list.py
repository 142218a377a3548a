"""``spikefold hardware`` shows every number of a description, with where it is from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spikefold.deploy.cli import app
from spikefold.deploy.hardware import load_hardware, shipped_hardware
from spikefold.errors import HardwareConfigError

RUNNER = CliRunner()


def shown(*arguments: str) -> str:
    done = RUNNER.invoke(app, ["hardware", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_without_a_name_every_description_is_listed_and_the_estimate_called_one():
    rows = json.loads(shown("--json"))
    assert [row["name"] for row in rows] == list(shipped_hardware())
    assert [row["name"] for row in rows if row["estimate"]] == ["loihi2"]
    table = shown()
    assert all(name in table for name in shipped_hardware())


def test_json_holds_every_leaf_as_it_was_written():
    leaves = json.loads(shown("loihi1", "--json"))["leaves"]
    assert leaves["energy.synop"]["value"] == 23.6
    assert leaves["energy.synop"]["unit"] == "pJ"
    assert leaves["energy.synop"]["high"] == 35.5
    assert leaves["energy.synop"]["grade"] == "P"
    assert "Davies" in leaves["energy.synop"]["source"]
    assert leaves["limits.graded_payload"]["value"] is False
    assert leaves["energy.spike_out"] is None
    sections = {path.partition(".")[0] for path in leaves}
    assert sections == {"limits", "mesh", "storage", "energy", "time", "static"}


@pytest.mark.parametrize("name", shipped_hardware())
def test_every_number_of_the_file_is_shown_with_its_source(name):
    text = (Path(__file__).parents[2] / "hardware_configs" / f"{name}.yaml").read_text()
    leaves = [leaf for leaf in json.loads(shown(name, "--json"))["leaves"].values() if leaf is not None]
    assert len(leaves) == text.count("source:")
    table = shown(name)
    assert load_hardware(name).title in table
    assert table.count("│") >= 6 * len(leaves)


def test_numbers_of_lists_have_paths_of_their_own():
    assert json.loads(shown("cmos45", "--json"))["leaves"]["sram.banks.1.access"]["value"] == 20


def test_a_file_of_the_users_own_is_shown_by_path(tmp_path):
    source = Path(__file__).parents[2] / "hardware_configs" / "loihi1.yaml"
    (tmp_path / "mine.yaml").write_text(source.read_text().replace("name: loihi1", "name: mine"))
    assert shown(str(tmp_path / "mine.yaml")).startswith("mine: ")


def test_an_unknown_name_is_refused():
    result = RUNNER.invoke(app, ["hardware", "loihi9"])
    assert isinstance(result.exception, HardwareConfigError)
