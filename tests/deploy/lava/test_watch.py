"""The watch over Lava's child, with stand-ins for the child: what hangs is started once more, what is slow is left."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from spikefold.deploy.lava.watch import Command, group_members, processor_seconds, run_group
from spikefold.errors import BackendError

HANG = "import time; time.sleep(60)"
STALL_S = 0.4
PATIENT_S = 1.0
"""For children that must not be taken for hung, also on a machine that is busy."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def command(folder: Path, code: str, *arguments: str) -> Command:
    return Command([sys.executable, "-c", code, *arguments], {}, folder)


def test_a_group_leaves_nothing_behind(folder: Path, leaders: list[int]) -> None:
    """Even when its leader ends and its members ignore the polite signal."""
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    code = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE);"
        "p.stdout.readline(); sys.exit('first\\nlast words')"
    )
    with pytest.raises(BackendError, match=r"exit code 1\): last words"):
        run_group(command(folder, code, stubborn), 30.0)
    assert group_members(leaders[0]) == []


@pytest.mark.parametrize(
    ("signal", "said"),
    [("SIGKILL", "SIGKILL, as the system does when memory runs out"), ("SIGSEGV", "SIGSEGV; it gave")],
)
def test_a_child_that_the_system_ends_is_no_riddle(folder: Path, leaders: list[int], signal: str, said: str) -> None:
    code = f"import os, signal; os.kill(os.getpid(), signal.{signal})"
    with pytest.raises(BackendError, match=rf"was ended by {said}.*no sign of life"):
        run_group(command(folder, code), 30.0)
    assert len(leaders) == 1


def test_a_child_that_the_system_ends_later_says_how_far_it_came(folder: Path, leaders: list[int]) -> None:
    code = "import os; open('progress.txt', 'a').write('time step 3\\n'); os.kill(os.getpid(), 9)"
    with pytest.raises(BackendError, match=r"SIGKILL.*its last sign of life: time step 3"):
        run_group(command(folder, code), 30.0)


def test_a_child_that_hangs_at_the_start_is_started_once_more(folder: Path, leaders: list[int]) -> None:
    """By then what it had started is gone with it."""
    code = (
        "import pathlib, subprocess, sys, time\n"
        "first = not pathlib.Path('started').exists()\n"
        "pathlib.Path('started').touch()\n"
        "if first:\n"
        "    subprocess.run([sys.executable, '-c', sys.argv[1]])\n"
        "pathlib.Path('result').write_text('second')\n"
    )
    run_group(command(folder, code, HANG), 30.0, STALL_S)
    assert (folder / "result").read_text() == "second"
    assert len(leaders) == 2
    assert group_members(leaders[0]) == []


def test_a_child_that_always_hangs_is_given_up_with_its_last_sign_of_life(folder: Path, leaders: list[int]) -> None:
    start = time.monotonic()
    with pytest.raises(BackendError, match=r"started 2 times and hung each time: for 0\.4 s.*gave no sign of life"):
        run_group(command(folder, HANG), 60.0, STALL_S)
    assert time.monotonic() - start < 20
    assert len(leaders) == 2
    assert [group_members(leader) for leader in leaders] == [[], []]

    spoke = "open('progress.txt', 'a').write('Lava imported\\ntime step 3\\n'); " + HANG
    with pytest.raises(BackendError, match=r"its last sign of life: time step 3\)"):
        run_group(command(folder, spoke), 60.0, STALL_S)


def test_a_child_that_works_without_a_word_is_slow_and_not_hung(folder: Path, leaders: list[int]) -> None:
    busy = f"import time; end = time.process_time() + {2 * PATIENT_S}\nwhile time.process_time() < end: pass"
    run_group(command(folder, busy), 60.0, PATIENT_S)
    assert len(leaders) == 1


def test_a_child_that_waits_but_makes_progress_is_not_hung(folder: Path, leaders: list[int]) -> None:
    code = (
        "import time\n"
        "for step in range(12):\n"
        f"    time.sleep({PATIENT_S / 5})\n"
        "    open('progress.txt', 'a').write(f'time step {step}\\n')\n"
    )
    run_group(command(folder, code), 60.0, PATIENT_S)
    assert len(leaders) == 1


def test_both_starts_together_keep_the_time_limit(folder: Path, leaders: list[int]) -> None:
    start = time.monotonic()
    with pytest.raises(BackendError, match=r"past the time limit of 1 s .*no sign of life"):
        run_group(command(folder, HANG), 1.0, 0.7)
    assert time.monotonic() - start < 8
    assert len(leaders) == 2


def test_processor_time_of_every_process_of_the_group_counts(folder: Path, leaders: list[int]) -> None:
    """A child whose work is done by a process it started, while it waits, is not hung either."""
    busy = f"import time; end = time.process_time() + {2 * PATIENT_S}\nwhile time.process_time() < end: pass"
    waits = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    run_group(command(folder, waits, busy), 60.0, PATIENT_S)
    assert len(leaders) == 1
    assert processor_seconds(leaders[0]) == 0.0
