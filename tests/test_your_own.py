"""The nets of the guides run as they are written: the file, its checkpoint, and every command below it."""

from __future__ import annotations

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


def files(page: str) -> dict[str, str]:
    """The Python files that a page shows, by the name in their first line."""
    shown = re.findall(r"```python\n# (\S+)\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
    return dict(shown)


def commands(page: str, file: str) -> list[list[str]]:
    """The commands of a page about a file."""
    lines = re.findall(r"^\$ spikefold (.*)$", (DOCS / page).read_text(), flags=re.MULTILINE)
    stem = Path(file).stem
    return [shlex.split(line) for line in lines if re.search(rf"\b{stem}\b|\b{stem.removesuffix('_net')}\.nir", line)]


def run_all(tmp_path: Path, page: str, file: str) -> list[str]:
    """What the commands about a file print, in a folder that holds it and its weights."""
    (tmp_path / file).write_text(files(page)[file])
    torch.manual_seed(0)
    net = runpy.run_path(str(tmp_path / file))["build"]()
    torch.save(net.state_dict(), tmp_path / f"{Path(file).stem}.pt")
    frames = (np.random.default_rng(0).random((6, 5, 2, 16, 16)) < 0.2).astype(np.uint8)
    np.savez(tmp_path / "train.npz", frames=frames, labels=np.arange(6))
    said = []
    for command in commands(page, file):
        done = subprocess.run([*SPIKEFOLD, *command], cwd=tmp_path, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        said.append(done.stdout + done.stderr)
    return said


@pytest.mark.full
@pytest.mark.parametrize(
    "framework", [pytest.param(f, marks=pytest.mark.outside(f)) for f in ("snntorch", "spikingjelly", "norse")]
)
def test_a_net_of_another_framework_is_exported_as_the_guide_says(tmp_path: Path, framework: str) -> None:
    (said,) = run_all(tmp_path, "your_network.md", f"{framework}_net.py")
    assert f"nir: {framework}_net.nir" in said
    assert "weights are scaled on random events" in said
    assert (tmp_path / f"{framework}_net.step.onnx").is_file()


@pytest.mark.full
def test_cbam_goes_through_every_command_of_the_guide(tmp_path: Path) -> None:
    exported, simulated, verified = run_all(tmp_path, "your_attention.md", "cbam_net.py")
    assert "attention dynamic" in exported
    assert "6 samples" in simulated
    assert verified
