"""Long work is heard of wherever it is done, drawn on a terminal, plain elsewhere, and silent when asked to be."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.progress import ProgressSample, Task

from generated_graphs import random_clips, random_graph
from spikefold.converters.calibrate import batches
from spikefold.deploy import tables
from spikefold.deploy.lava.job import PROGRESS, last_step
from spikefold.deploy.lava.watch import Command, run_group
from spikefold.deploy.progress import progress, quietly, rate_text, shows_progress
from spikefold.deploy.run import run
from spikefold.work import Advance, listening, work


class Heard:
    def __init__(self) -> None:
        self.works: list[list[object]] = []

    @contextmanager
    def listen(self, total: int, unit: str) -> Iterator[Advance]:
        mine: list[object] = [unit, total]
        self.works.append(mine)
        yield mine.append


def test_nobody_has_to_listen() -> None:
    with work(3) as advance:
        advance(1)
    heard = Heard()
    with listening(heard.listen):
        pass
    list(batches(np.zeros((2, 3, 1))))
    assert heard.works == []


def test_batches_say_how_many_samples_are_done() -> None:
    heard = Heard()
    with listening(heard.listen):
        list(batches(np.zeros((2, 7, 1)), 3))
    assert heard.works == [["samples", 7, 3, 3, 1]]


@pytest.mark.parametrize("backend", ["fast", "onnx"])
def test_a_run_says_how_many_samples_are_done(backend: str) -> None:
    graph, heard = random_graph(0), Heard()
    with listening(heard.listen):
        run(graph, random_clips(graph, 0, batch=20), backend)  # type: ignore[arg-type]
    (told,) = heard.works
    assert told[:2] == ["samples", 20]
    assert sum(told[2:]) == 20  # type: ignore[arg-type]


def test_lava_says_which_time_step_it_is_at(tmp_path: Path) -> None:
    code = (
        "import pathlib, time\n"
        f"path = pathlib.Path({PROGRESS!r})\n"
        "for text in ('Lava imported\\n', 'time step 2\\n', 'time step 2\\ntime step 3\\n'):\n"
        "    path.open('a').write(text)\n"
        "    time.sleep(0.3)\n"
    )
    heard = Heard()
    with listening(heard.listen):
        run_group(Command([sys.executable, "-c", code], {}, tmp_path), 30.0, 1.0, time_steps=4)
    assert last_step(tmp_path) == 3
    ((unit, total, *steps),) = heard.works
    assert (unit, total) == ("time steps", 4)
    assert {2, 1} <= set(steps) or 3 in steps


def test_a_rate_and_the_time_left_stand_beside_what_is_done() -> None:
    task = Task(0, "", total=1000, completed=0, _get_time=lambda: 0.0)
    task.fields["unit"] = "samples"
    assert rate_text(task) == "0 of 1,000 samples"
    task.start_time, task.completed = 0.0, 200
    task._progress.extend([ProgressSample(0.0, 0), ProgressSample(20.0, 200)])
    assert rate_text(task) == "200 of 1,000 samples, 10/s, 1:20 left"
    assert rate_text(Task(0, "", total=None, completed=0, _get_time=lambda: 0.0)) == ""


def test_off_a_terminal_each_step_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as report, work(10) as advance:
        report("running")
        advance(5)
    assert capsys.readouterr() == ("", "running\n")


def test_on_a_terminal_work_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(tables, "console", lambda stderr: screen)
    with progress() as report, work(1000, "jobs") as advance:
        report("sweeping")
        advance(250)
    drawn = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "sweeping" in drawn
    assert "of 1,000 jobs" in drawn


def test_json_and_quiet_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(True) as report:
        report("running")
    with quietly(), progress() as report:
        assert not shows_progress(False)
        report("running")
    assert capsys.readouterr() == ("", "")
    assert (shows_progress(False), shows_progress(True)) == (True, False)
