"""Runs a command as a process group, ends it whole, and tells one that hangs from one that is slow.

Under heavy load a Lava run now and then never gets going: one of its processes misses a message and all others wait for
it. A group is taken to hang when for a while it left no line in its progress file and used next to no processor time;
what is slow, or starved by other programs, does one or the other.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from spikefold.deploy.lava.interpreter import last_error
from spikefold.deploy.lava.job import PROGRESS, last_step, read_error, read_progress
from spikefold.errors import BackendError
from spikefold.work import Advance, work

GRACE_S = 3.0
"""Time for Lava's processes to end and give back their shared memory before they are killed."""
STALL_S = 30.0
IDLE_SHARE = 0.03
"""Of one core: what a group that hangs may still use, by polling."""
LOOK_S = 1.0
"""How often a group is looked at."""
STARTS = 2
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Command:
    """What to run: in which folder, which also takes its messages, and under which environment variables."""

    words: list[str]
    environment: dict[str, str]
    folder: Path


class _HangError(Exception):
    """The group did nothing for the whole stall limit."""


def run_group(command: Command, time_limit_s: float, stall_limit_s: float = STALL_S, time_steps: int = 0) -> None:
    """Run a command as a process group of its own, of which nothing is left afterwards.

    Parameters
    ----------
    command : Command
        What to run.
    time_limit_s : float
        The group is ended after this many seconds, a second start included.
    stall_limit_s : float
        A group that hangs this long is ended, and started once more.
    time_steps : int
        Steps that Lava has to run, for those who want to hear how far it is (`spikefold.work`).

    Raises
    ------
    BackendError
        It failed, took too long, or hung twice.
    """
    deadline = time.monotonic() + time_limit_s
    with work(time_steps, "time steps") as advance:
        _start(command, deadline, time_limit_s, stall_limit_s, _Steps(command.folder, advance))


class _Steps:
    """Tells how many steps more Lava has come to; fewer where it was started once more."""

    def __init__(self, folder: Path, advance: Advance) -> None:
        self._folder, self._advance, self._done = folder, advance, 0

    def look(self) -> None:
        done = last_step(self._folder)
        self._advance(done - self._done)
        self._done = done


def _start(command: Command, deadline: float, time_limit_s: float, stall_limit_s: float, steps: _Steps) -> None:
    for start in range(1, STARTS + 1):
        (command.folder / PROGRESS).unlink(missing_ok=True)
        try:
            _run_once(command, deadline, stall_limit_s, steps)
        except _HangError:
            if start == STARTS:
                raise BackendError(
                    f"Lava was started {STARTS} times and hung each time: for {stall_limit_s:g} s it neither made "
                    f"progress nor used the processor ({last_sign(command.folder)}): run it once more, with fewer "
                    "other programs beside it"
                ) from None
        except TimeoutError:
            raise BackendError(
                f"Lava ran past the time limit of {time_limit_s:g} s and was ended ({last_sign(command.folder)}): "
                "raise it or run fewer samples"
            ) from None
        else:
            return


def last_sign(folder: Path) -> str:
    """Last sign of life, in words."""
    lines = read_progress(folder)
    return f"its last sign of life: {lines[-1]}" if lines else "it gave no sign of life"


def _run_once(command: Command, deadline: float, stall_limit_s: float, steps: _Steps) -> None:
    errors = command.folder / "stderr.txt"
    with errors.open("wb") as stderr:
        child = subprocess.Popen(  # noqa: S603
            command.words, env=command.environment, cwd=command.folder, stdin=subprocess.DEVNULL, stdout=stderr,
            stderr=stderr, start_new_session=True,
        )  # fmt: skip
        try:
            code = _wait(child, command.folder / PROGRESS, deadline, stall_limit_s, steps)
        finally:
            end_group(child)
    if code < 0:
        name = signal.Signals(-code).name
        why = (
            ", as the system does when memory runs out: run fewer samples, or a smaller net"
            if -code == signal.SIGKILL
            else ""
        )
        raise BackendError(f"Lava's child process was ended by {name}{why}; {last_sign(command.folder)}")
    if code != 0:
        text = read_error(command.folder) or last_error(errors.read_text(errors="replace"))
        raise BackendError(f"Lava's child process failed (exit code {code}): {text}")


def _wait(child: subprocess.Popen[bytes], progress: Path, deadline: float, stall_limit_s: float, steps: _Steps) -> int:
    """Exit code of ``child``; TimeoutError at the deadline, _HangError when its group hangs."""
    look = min(LOOK_S, stall_limit_s / 10)
    seen, used, since = 0, 0.0, time.monotonic()
    while (now := time.monotonic()) < deadline:
        steps.look()
        signs, seconds = progress.stat().st_size if progress.exists() else 0, processor_seconds(child.pid)
        if signs != seen or abs(seconds - used) > IDLE_SHARE * stall_limit_s:
            seen, used, since = signs, seconds, now
        elif now - since > stall_limit_s:
            raise _HangError
        with suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=min(look, deadline - now))
    raise TimeoutError


def end_group(leader: subprocess.Popen[bytes]) -> None:
    """End every process of the group that ``leader`` leads: ask first, kill what is left after a grace period."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        limit = time.monotonic() + GRACE_S
        if group_members(leader.pid):
            with suppress(ProcessLookupError):
                os.killpg(leader.pid, number)
        while group_members(leader.pid) and time.monotonic() < limit:
            time.sleep(0.02)
    leader.wait()


def group_members(group: int) -> list[int]:
    """Processes of a group that still run (one that ended and waits for its parent to notice does not count)."""
    return list(_members(group))


def processor_seconds(group: int) -> float:
    """Processor time that the processes of a group have used, those that still run."""
    return sum(_members(group).values())


def _members(group: int) -> dict[int, float]:
    """Processes of a group that still run, and the seconds of processor time of each."""
    members = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group, *fields = entry.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if int(its_group) == group and state not in "ZX":
            members[int(entry.parent.name)] = (int(fields[8]) + int(fields[9])) * _TICK_S
    return members
