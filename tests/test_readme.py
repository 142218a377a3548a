"""The README's net and commands run as they are written, on small data."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from spikefold.deploy.lava.interpreter import explain_missing, lava_python

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.mark.full
@pytest.mark.lava
@pytest.mark.skipif(lava_python() is None, reason=explain_missing())
def test_the_users_own_net_goes_through_every_command_of_the_readme(tmp_path: Path) -> None:
    source = next(b for b in blocks("python") if "# mynet.py" in b)
    (tmp_path / "mynet.py").write_text(source)
    torch.manual_seed(0)
    torch.save(runpy.run_path(str(tmp_path / "mynet.py"))["build"]().state_dict(), tmp_path / "w.pt")
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 5)):
        frames = (generator.random((count, 10, 2, 32, 32)) < 0.1).astype(np.uint8)
        np.savez(tmp_path / f"{split}.npz", frames=frames, labels=np.arange(count))
    lines = [line for b in blocks("console") for line in b.splitlines() if line.startswith("$ spikefold")]
    assert len(lines) == 5
    for line in lines:
        program = [sys.executable, "-c", "from spikefold.deploy.cli import main; main()"]
        command = [*program, *shlex.split(line.removeprefix("$ spikefold"))]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, (line, done.stdout, done.stderr)


@pytest.mark.slow
def test_the_python_lines_of_the_readme_run(tmp_path: Path) -> None:
    source = next(b for b in blocks("python") if "import spikefold as sf" in b)
    done = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "Range(" in done.stdout
