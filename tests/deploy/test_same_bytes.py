"""The same inputs give the same files, byte for byte, whatever Python's hashes, the time and the folder are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import write_everything

GIVEN = {"writing_net.py", "w.pt", "train.npz", "test.npz"}
KINDS = {".nir", ".onnx", ".net", ".safetensors", ".json", ".csv", ".md", ".html", ".png"}


@pytest.mark.slow
def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    first, second = (written(tmp_path / name, seed) for name, seed in (("one", "1"), ("another", "2")))
    assert {Path(name).suffix for name in first} == KINDS
    assert {"verified/certificate.json", "compared/table.json", "compared/report.html"} <= set(first)
    assert set(first) == set(second)
    assert [name for name in first if first[name] != second[name]] == []


def written(folder: Path, seed: str) -> dict[str, bytes]:
    """Every file of a run in a process of its own, by its name in ``folder``."""
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(write_everything.__file__).parent)}
    command = [sys.executable, write_everything.__file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.name not in GIVEN}
