"""Runs a `FixedPointGraph` in Lava and hands back what the reference hands back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.reference import Trace, check_input, read_out
from spikefold.deploy.lava.interpreter import explain_missing, exposed_package, last_error, lava_python
from spikefold.deploy.lava.job import RESULT, read_error, read_result, write_job
from spikefold.deploy.lava.plan import make_plan
from spikefold.errors import BackendError

GRACE_S = 3.0
"""Time for Lava's processes to end and give back their shared memory before they are killed."""


def run_lava(graph: FixedPointGraph, clips: NDArray[np.generic], time_limit_s: float = 600.0) -> Trace:
    """Run clips ``[T, B, *shape]`` one after another in one Lava run, in a child process.

    Parameters
    ----------
    graph : FixedPointGraph
        The net.
    clips : array ``[T, B, *shape]``
        Integers within the input port's range.
    time_limit_s : float
        The child and all that it started are ended after this many seconds.

    Returns
    -------
    Trace
        Spikes, membranes and logits, equal to `run_reference` bit for bit.

    Raises
    ------
    InputError
        ``clips`` does not fit the net.
    BackendError
        No interpreter has Lava, Lava could not be exact for this net, or the run failed or took too long.
    """
    whole = check_input(graph, clips)
    make_plan(graph, *whole.shape[:2])
    python = lava_python()
    if python is None:
        raise BackendError(explain_missing())
    with TemporaryDirectory(prefix="spikefold-lava-") as name, exposed_package() as environment:
        folder = Path(name)
        write_job(folder, graph, whole)
        command = [str(python), "-P", "-m", "spikefold.deploy.lava.child", str(folder)]
        run_group(command, environment, folder, time_limit_s)
        if not (folder / RESULT).exists():
            raise BackendError("Lava's child process ended without a result: run 'spikefold doctor'")
        spikes, membranes = read_result(folder, graph)
    return Trace(spikes, membranes, read_out(graph.output, spikes, membranes, len(whole)))


def run_group(command: list[str], environment: dict[str, str], folder: Path, time_limit_s: float) -> None:
    """Run ``command`` in ``folder`` as a process group of its own, of which nothing is left afterwards."""
    errors = folder / "stderr.txt"
    with errors.open("wb") as stderr:
        child = subprocess.Popen(  # noqa: S603
            command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = child.wait(timeout=time_limit_s)
        except subprocess.TimeoutExpired:
            raise BackendError(
                f"Lava ran past the time limit of {time_limit_s:g} s and was ended: raise it or run fewer samples"
            ) from None
        finally:
            end_group(child)
    if code != 0:
        text = read_error(folder) or last_error(errors.read_text(errors="replace"))
        raise BackendError(f"Lava's child process failed (exit code {code}): {text}")


def end_group(leader: subprocess.Popen[bytes]) -> None:
    """End every process of the group that ``leader`` leads: ask first, kill what is left after a grace period."""
    limit = time.monotonic() + GRACE_S
    members = group_members(leader.pid)
    if members:
        _signal(leader.pid, signal.SIGTERM)
    while members and time.monotonic() < limit:
        time.sleep(0.02)
        members = group_members(leader.pid)
    if members:
        _signal(leader.pid, signal.SIGKILL)
    leader.wait()


def group_members(group: int) -> list[int]:
    """Processes of a group that still run (one that ended and waits for its parent to notice does not count)."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = entry.read_text(errors="replace").rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it ended while we looked
        if int(its_group) == group and state not in "ZX":
            members.append(int(entry.parent.name))
    return members


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
