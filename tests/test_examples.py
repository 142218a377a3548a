"""The programs in examples/ run from an empty folder and say what they promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.full
def test_a_threshold_a_neuron_saves_the_cores_that_a_folded_map_takes(tmp_path: Path) -> None:
    said = run("own_chip.py", tmp_path, "--samples", "8")
    found = [(int(cores), int(joules)) for cores, joules in re.findall(r"(\d+) cores, (\d+) uJ", said)]
    (cores, joules), (fewer_cores, fewer_joules) = found
    assert fewer_cores < cores / 10
    assert fewer_joules < joules


@pytest.mark.full
def test_an_own_net_goes_from_training_to_its_report(tmp_path: Path) -> None:
    said = run("own_net_to_report.py", tmp_path, "--clips", "100", "--epochs", "1", "--out", "made")
    assert re.findall(r"^(\S+(?: static| dynamic)?): .* as integers, \d+ uJ", said, re.MULTILINE) == [
        "without",
        "with-gate static",
        "with-gate dynamic",
    ]
    assert {p.name for p in (tmp_path / "made").iterdir()} == {
        "without.pt",
        "with-gate.pt",
        "with-gate.nir",
        "report.html",
    }
    assert "with-gate" in (tmp_path / "made" / "report.html").read_text(encoding="utf-8")


def test_every_example_has_a_test() -> None:
    assert {p.name for p in EXAMPLES.glob("*.py")} == {"own_chip.py", "own_net_to_report.py"}
