"""The rules of the house that no other tool watches over."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("models", "converters", "deploy", "hardware_configs")
NOT_SOURCE = {"__pycache__", "build", "dist", "demo-out"}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:data|farm|home|mnt|opt|private|root|srv|tmp|Users|work)/[\w.-]+")
LONGEST = 400


def source_files() -> Iterator[Path]:
    """Every file that is not hidden, cached or built; links are not followed, so that each comes once."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [
            f
            for f in folders
            if f not in NOT_SOURCE and not f.endswith(".egg-info") and (not f.startswith(".") or f == ".ci")
        ]
        yield from (Path(folder, file) for file in files if not file.startswith(".coverage"))


@pytest.mark.parametrize("part", PARTS)
def test_the_package_links_to_the_folder_of_the_top_level(part: str) -> None:
    link = ROOT / "src" / "spikefold" / part
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{part}"
    assert link.resolve() == ROOT / part
    assert (link / "__init__.py").is_file()


@pytest.mark.parametrize("part", PARTS)
def test_nothing_of_ours_is_importable_at_top_level(part: str) -> None:
    """A second name means a second copy of every class; start the tests with `pytest`, not with `python -m pytest`."""
    spec = find_spec(part)
    assert spec is None or spec.origin is None or not Path(spec.origin).resolve().is_relative_to(ROOT / part)
    assert part not in sys.modules


def test_tests_are_no_package() -> None:
    """Lava installs a package `tests` of its own, and pytest's importlib mode needs none."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_no_path_of_one_machine() -> None:
    found = []
    for path in source_files():
        content = path.read_bytes()
        if b"\0" not in content:
            lines = enumerate(content.decode().splitlines(), 1)
            found += [f"{path.relative_to(ROOT)}:{number}" for number, line in lines if MACHINE_PATH.search(line)]
    assert found == []


def test_no_long_file() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in source_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in {*PARTS, "src"}
    }
    assert len(lengths) > len(PARTS)
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_imports_point_one_way(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--cache-dir", tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout
