"""Finds a Python interpreter that can run Lava, and starts programs of ours in it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import spikefold

ENVIRONMENT_VARIABLE = "SPIKEFOLD_LAVA_PYTHON"
PROBE_LIMIT_S = 60.0
_PROBE = "from spikefold.deploy.lava import network"


def environment_folder() -> Path:
    """Where `spikefold doctor --install-lava` makes the environment for Lava."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "spikefold" / "lava-env"


def environment_python(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / "bin" / "python"


def lava_python() -> Path | None:
    """First interpreter that can import Lava.

    Asked in turn: the current one, the one named by ``SPIKEFOLD_LAVA_PYTHON``, the environment that
    ``spikefold doctor --install-lava`` made. None when there is none.
    """
    return next((python for python in _candidates() if why_not(python) is None), None)


def explain_missing() -> str:
    """Say what was tried, why it was of no use, and what to do."""
    tried = "; ".join(f"{python}: {why_not(python)}" for python in _candidates())
    return (
        f"no Python with Lava was found ({tried}): run 'spikefold doctor --install-lava', or let "
        f"{ENVIRONMENT_VARIABLE} name a Python (3.11 or newer) that has lava-nc 0.10"
    )


@lru_cache
def why_not(python: Path) -> str | None:
    """Reason why ``python`` cannot run Lava, None when it can. Asked once per interpreter and process."""
    if not python.exists():
        return "does not exist"
    with exposed_package() as environment:
        try:
            done = subprocess.run(  # noqa: S603
                [str(python), "-P", "-c", _PROBE],
                env=environment,
                capture_output=True,
                text=True,
                timeout=PROBE_LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    if "Unknown option" in done.stderr:
        return "is older than Python 3.11"
    return None if done.returncode == 0 else last_error(done.stderr)


@contextmanager
def exposed_package() -> Iterator[dict[str, str]]:
    """Environment variables under which any interpreter imports this very package, and nothing else of ours.

    The search path holds one folder with one link to the package, so that neither the other packages of the current
    environment nor files of the working directory come with it.
    """
    with TemporaryDirectory(prefix="spikefold-path-") as folder:
        (Path(folder) / "spikefold").symlink_to(Path(spikefold.__file__).resolve().parent)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        yield {**os.environ, "PYTHONPATH": folder, "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", **threads}


def last_error(text: str) -> str:
    """Last line of an error output that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _candidates() -> list[Path]:
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    candidates = [Path(sys.executable)] if _worth_asking() else []
    candidates += [Path(named)] if named else []
    return [*candidates, environment_python(environment_folder())]


def _worth_asking() -> bool:
    """Whether the current environment holds Lava and a numpy that Lava can use, by its metadata alone."""
    try:
        importlib.metadata.version("lava-nc")
        return int(importlib.metadata.version("numpy").split(".")[0]) < 2
    except importlib.metadata.PackageNotFoundError:
        return False
