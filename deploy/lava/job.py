"""The files through which the runner and its child talk: a job in, signs of life, a result out. Needs numpy only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.errors import BackendError, SpikefoldError

JOB = "job.npz"
RESULT = "result.npz"
ERROR = "error.txt"
PROGRESS = "progress.txt"
STEP = "time step"
"""What a line of the progress file begins with that names a step."""


def write_job(folder: Path, graph: FixedPointGraph, clips: NDArray[np.int64]) -> None:
    """Write a graph and its clips ``[T, B, *shape]``."""
    text, arrays = graph.to_plain()
    constants = {f"array_{i}": array for i, array in enumerate(arrays)}
    _save(folder / JOB, {"graph": np.array(text), "clips": clips, **constants})


def read_job(folder: Path) -> tuple[FixedPointGraph, NDArray[np.int64]]:
    """Read what `write_job` wrote."""
    with np.load(folder / JOB) as job:
        arrays = [job[f"array_{i}"] for i in range(len(job.files) - 2)]
        return FixedPointGraph.from_plain(str(job["graph"]), arrays), job["clips"]


def write_result(folder: Path, spikes: dict[str, NDArray[np.int64]], membranes: dict[str, NDArray[np.int64]]) -> None:
    """Write spikes and membranes ``[T, B, *shape]`` of every population."""
    arrays = {f"spikes_{i}": array for i, array in enumerate(spikes.values())}
    arrays |= {f"membranes_{i}": array for i, array in enumerate(membranes.values())}
    _save(folder / RESULT, arrays)


def read_result(
    folder: Path, graph: FixedPointGraph
) -> tuple[dict[str, NDArray[np.int64]], dict[str, NDArray[np.int64]]]:
    """Read what `write_result` wrote for ``graph``.

    Raises
    ------
    BackendError
        There is no result, or it is damaged or of another net.
    """
    try:
        with np.load(folder / RESULT) as result:
            spikes = {n.name: result[f"spikes_{i}"] for i, n in enumerate(graph.neurons)}
            membranes = {n.name: result[f"membranes_{i}"] for i, n in enumerate(graph.neurons)}
    except FileNotFoundError:
        raise BackendError("Lava's child process ended without a result: run 'spikefold doctor'") from None
    except Exception as error:  # numpy and zipfile raise whatever comes up on a damaged file
        raise BackendError(_damaged(f"{type(error).__name__}: {error}")) from error
    for n in graph.neurons:
        for found in (spikes[n.name], membranes[n.name]):
            if found.dtype.kind != "i" or found.shape[2:] != n.shape:
                raise BackendError(_damaged(f"neurons {n.name!r} have {found.dtype} {found.shape}"))
    return spikes, membranes


def _damaged(why: str) -> str:
    return f"the result of Lava's child process is damaged ({why}): run it again; more than once, check the disk"


def write_error(folder: Path, error: Exception) -> None:
    """Write what went wrong; errors of ours speak for themselves, others are named."""
    text = str(error) if isinstance(error, SpikefoldError) else f"{type(error).__name__}: {error}"
    (folder / ERROR).write_text(text)


def read_error(folder: Path) -> str | None:
    """Read what `write_error` wrote; None when it wrote nothing."""
    path = folder / ERROR
    return path.read_text(errors="replace") if path.exists() else None


def sign_of_life(path: Path, text: str) -> None:
    """Append a line to the progress file ``path``; several processes may do so at once."""
    with path.open("a") as file:
        file.write(text + "\n")


def read_progress(folder: Path) -> list[str]:
    """Read the signs of life so far, oldest first."""
    path = folder / PROGRESS
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def last_step(folder: Path) -> int:
    """The time step that Lava has come to, 0 before the first."""
    lines = read_progress(folder)
    word, _, number = lines[-1].rpartition(" ") if lines else ("", "", "")
    return int(number) if word == STEP and number.isdecimal() else 0


def _save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an npz under a temporary name and rename it, so that a reader sees all of it or nothing."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise BackendError(f"{path}: {error.strerror or error}; let TMPDIR name a folder with room") from error
