"""Commands and programs of the pages run as they are written; the guides for nets of one's own have their own tests."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"
SPIKEFOLD = [sys.executable, "-c", "from spikefold.deploy.cli import main; main()"]


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.full
def test_the_quick_start_and_the_stream_run_from_an_empty_folder(tmp_path: Path) -> None:
    lines = re.findall(r"^\$ spikefold (.*)$", (DOCS / "quick_start.md").read_text(), flags=re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["export", "verify", "compare", "simulate", "energy", "map"]
    said = {line.split()[0]: run([*SPIKEFOLD, *shlex.split(line)], tmp_path) for line in lines}
    assert {p.name for p in tmp_path.glob("asa*")} == {"asa.nir", "asa.onnx", "asa.step.onnx", "asa.float.step.onnx"}
    assert "asa: deploy static" in said["compare"]
    (source,) = re.findall(r"```python\n# stream.py\n(.*?)```", (DOCS / "streaming.md").read_text(), flags=re.DOTALL)
    assert "spikefold" not in source.replace("spikefold_states", "")
    printed = run([sys.executable, "-c", source], tmp_path).splitlines()
    assert [line.split(":")[0] for line in printed] == [f"{10 * step} ms" for step in range(1, 10)]


@pytest.mark.full
def test_what_all_commands_share_is_as_the_page_says(tmp_path: Path) -> None:
    lines = re.findall(r"^\$ spikefold (.*)$", (DOCS / "command_line.md").read_text(), flags=re.MULTILINE)
    said = {line.split()[0]: run([*SPIKEFOLD, *shlex.split(line)], tmp_path) for line in lines}
    assert "ok      numpy" in said["doctor"]
    assert "spikefold" in json.loads(said["info"])
    assert json.loads(said["simulate"])["samples"] == 20


@pytest.mark.full
def test_own_checkpoints_become_a_report_in_three_commands(tmp_path: Path) -> None:
    page = (DOCS / "your_network.md").read_text()
    (source,) = re.findall(r"```python\n# my_nets.py\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "my_nets.py").write_text(source)
    made = runpy.run_path(str(tmp_path / "my_nets.py"))
    for builder, file in (("build", "w.pt"), ("plain", "plain.pt")):
        torch.save(made[builder]().state_dict(), tmp_path / file)
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        frames = (rng.random((8, 4, 2, 16, 16)) < 0.3).astype(np.uint8)
        np.savez(tmp_path / f"{split}.npz", frames=frames, labels=np.arange(8))
    commands = re.findall(r"^\$ spikefold (.*\bmy_nets:.*)$", page, flags=re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["export", "verify", "compare"]
    said = [run([*SPIKEFOLD, *shlex.split(command)], tmp_path) for command in commands]
    assert "nir: mine.nir" in said[0]
    assert "verified: yes" in said[1]
    assert "against my_nets-plain" in said[2]
    assert "Spikefold report: my_nets-plain, my_nets" in (tmp_path / "report.html").read_text()


def test_every_page_can_be_found_from_the_first() -> None:
    named = set(re.findall(r"^([a-z_]+)$", (DOCS / "index.md").read_text(), flags=re.MULTILINE))
    assert named == {page.stem for page in DOCS.glob("*.md")} - {"index"}
