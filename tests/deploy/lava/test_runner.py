from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest

import spikefold
from generated_graphs import random_clips, random_graph
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.converters.reference import run_reference
from spikefold.deploy.lava import interpreter, watch
from spikefold.deploy.lava.job import read_job, read_progress, read_result, write_job, write_result
from spikefold.deploy.lava.plan import make_plan
from spikefold.deploy.lava.runner import run_lava
from spikefold.deploy.lava.watch import group_members
from spikefold.errors import BackendError, InputError


@pytest.fixture
def without_lava(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(interpreter.importlib.metadata, "version", lambda name: "2.3.0")
    monkeypatch.delenv(interpreter.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_job_files_keep_everything(tmp_path: Path) -> None:
    graph = random_graph(1, gated=True)
    clips = random_clips(graph, 1)
    write_job(tmp_path, graph, clips)
    again, same_clips = read_job(tmp_path)
    np.testing.assert_array_equal(same_clips, clips)
    assert again.to_plain()[0] == graph.to_plain()[0]

    trace = run_reference(again, clips)
    write_result(tmp_path, trace.spikes, trace.membranes)
    spikes, membranes = read_result(tmp_path, graph)
    assert list(spikes) == list(membranes) == [n.name for n in graph.neurons]
    for name in spikes:
        np.testing.assert_array_equal(spikes[name], trace.spikes[name])
        np.testing.assert_array_equal(membranes[name], trace.membranes[name])
    assert not list(tmp_path.glob("*.part"))


def test_clips_are_checked_before_anything_starts(without_lava: None) -> None:
    with pytest.raises(InputError, match=r"values 0\.\.7"):
        run_lava(random_graph(0), np.full((5, 1, 2, 7, 6), 7) * np.eye(6, dtype=np.int64)[0])


def test_missing_lava_says_what_to_do(without_lava: None, tmp_path: Path) -> None:
    graph = random_graph(0)
    with pytest.raises(BackendError, match=r"no Python with Lava.*lava-env.*does not exist.*doctor --install-lava"):
        run_lava(graph, random_clips(graph, 0))


def test_named_interpreter_without_lava_is_explained(without_lava: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(interpreter.ENVIRONMENT_VARIABLE, "/bin/false")
    assert interpreter.lava_python() is None
    assert "/bin/false: no message" in interpreter.explain_missing()


@pytest.mark.lava
def test_a_run_past_its_time_limit_ends_quickly_and_whole(leaders: list[int]) -> None:
    graph = random_graph(0)
    clips = random_clips(graph, 0, batch=3000)
    start = time.monotonic()
    with pytest.raises(BackendError, match=r"time limit of 3 s"):
        run_lava(graph, clips, 3.0)
    assert time.monotonic() - start < 3 + watch.GRACE_S + 4
    assert group_members(leaders[0]) == []


@pytest.mark.lava
def test_every_time_step_of_every_population_is_a_sign_of_life(tmp_path: Path) -> None:
    graph = random_graph(0)
    write_job(tmp_path, graph, random_clips(graph, 0))
    with interpreter.exposed_package() as environment:
        words = [str(interpreter.lava_python()), "-P", "-m", "spikefold.deploy.lava.child", str(tmp_path)]
        watch.run_group(watch.Command(words, environment, tmp_path), 60.0)
    steps = make_plan(graph, 5, 3).total_steps
    begin, built, *later = read_progress(tmp_path)
    assert (begin, built) == ("Lava imported", f"built, {steps} time steps to go")
    expected = [f"time step {step}" for step in range(1, steps + 1) for _ in graph.neurons]
    assert sorted(later) == sorted(expected)


@pytest.mark.lava
def test_a_failing_process_ends_the_run_with_its_message(leaders: list[int]) -> None:
    graph = random_graph(0, gated=True, time_steps=2)
    broken = GateProgram((2, -1, 4, 7, 6), (Step("reshape", (0,), {"shape": (5, 5)}),), 2)
    neurons = (dataclasses.replace(graph.neurons[0], gate=broken), *graph.neurons[1:])
    graph = dataclasses.replace(graph, neurons=neurons)
    with pytest.raises(BackendError, match=r"a Lava process failed: ValueError: cannot reshape"):
        run_lava(graph, random_clips(graph, 0), 60.0)
    assert group_members(leaders[0]) == []


@pytest.mark.lava
def test_files_of_the_working_directory_shadow_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "models/__init__.py",
        "nir.py",
        "networkx.py",
        "recorder.py",
        "spikefold/__init__.py",
        "lava/__init__.py",
    ):
        decoy = tmp_path / name
        decoy.parent.mkdir(exist_ok=True)
        decoy.write_text("raise SystemExit('decoy')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    graph = random_graph(2)
    clips = random_clips(graph, 2, batch=1)
    expected, actual = run_reference(graph, clips), run_lava(graph, clips, 60.0)
    np.testing.assert_array_equal(actual.logits, expected.logits)


def test_only_our_package_is_exposed_to_another_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    with interpreter.exposed_package() as environment:
        folder = Path(environment["PYTHONPATH"])
        assert [p.name for p in folder.iterdir()] == ["spikefold"]
        assert (folder / "spikefold").samefile(Path(spikefold.__file__).parent)
    assert not folder.exists()
