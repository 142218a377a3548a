"""What must not be imported before it is needed: starting takes no longer than it has to."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "onnx", "onnxruntime", "pandas", "tonic", "numpy", "numba", "h5py", "scipy", "joblib", "distributed"}
PROGRAM = """
import sys
{statement}
print(sorted({heavy} & set(sys.modules)))
"""
COMMAND = """
from spikefold.deploy.cli import app
try:
    app({arguments}, prog_name="spikefold")
except SystemExit as end:
    assert end.code in (0, None), end.code
"""


def imported(statement: str) -> str:
    """Heavy modules that a fresh interpreter has after ``statement``, as it prints them."""
    program = PROGRAM.format(statement=statement, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert imported("import spikefold") == "[]"


def test_the_check_sees_what_is_imported() -> None:
    assert "'numpy'" in imported("import spikefold; spikefold.run")


@pytest.mark.parametrize("command", [[], ["export"], ["compare"], ["sweep"], ["cache"], ["map"], ["train"]])
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    assert imported(COMMAND.format(arguments=[*command, "--help"])) == "[]"
