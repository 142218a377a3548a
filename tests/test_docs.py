"""Commands and programs of the pages run as they are written; the guides for nets of one's own have their own tests."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
SPIKEFOLD = [sys.executable, "-c", "from spikefold.deploy.cli import main; main()"]


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.slow
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


def test_every_page_can_be_found_from_the_first() -> None:
    named = set(re.findall(r"^([a-z_]+)$", (DOCS / "index.md").read_text(), flags=re.MULTILINE))
    assert named == {page.stem for page in DOCS.glob("*.md")} - {"index"}
