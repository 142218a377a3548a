"""Running files: what is refused, and that it is refused before ONNX Runtime sees it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from generated_graphs import random_clips, random_graph
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.converters.onnx import save_onnx, to_onnx_clip, to_onnx_step
from spikefold.converters.reference import run_reference
from spikefold.deploy.equality import run_steps
from spikefold.deploy.onnx_runner import ClipRunner, StepRunner, run_onnx
from spikefold.errors import BackendError, FileFormatError, InputError


@pytest.fixture
def clip_file(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    save_onnx(to_onnx_clip(random_graph(0)), path)
    return path


def with_metadata(model: onnx.ModelProto, **changes: str | None) -> onnx.ModelProto:
    props = {p.key: p.value for p in model.metadata_props} | changes
    del model.metadata_props[:]
    helper.set_model_props(model, {k: v for k, v in props.items() if v is not None})
    return model


def test_a_file_runs_as_the_graph_does(clip_file: Path) -> None:
    graph = random_graph(0)
    clips = random_clips(graph, 9, batch=5)
    results = [run_onnx(s, clips, batch_size=b) for s, b in ((graph, 16), (clip_file, 2), (str(clip_file), 1))]
    for result in results:
        np.testing.assert_array_equal(result.logits, run_reference(graph, clips).logits)
        assert result.trace is None
        for name, count in results[0].spike_counts.items():
            np.testing.assert_array_equal(result.spike_counts[name], count)
        for name, count in results[0].synops.items():
            np.testing.assert_array_equal(result.synops[name], count)


def test_a_trace_needs_a_graph_exported_with_it(clip_file: Path) -> None:
    with pytest.raises(InputError, match=r"net\.onnx.*trace=True"):
        ClipRunner(clip_file, trace=True)
    full = to_onnx_clip(random_graph(0), trace=True)
    clips = random_clips(random_graph(0), 1)
    assert run_onnx(full, clips).trace is None
    assert run_onnx(full, clips, trace=True).trace is not None


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (np.zeros((3, 2, 2, 7, 7)), r"shape \(3, 2, 2, 7, 7\)"),
        (np.zeros((3, 2, 7, 6)), "shape"),
        (np.zeros((0, 2, 2, 7, 6)), "at least 1"),
        (np.zeros((3, 0, 2, 7, 6)), "at least 1"),
        (np.full((3, 2, 2, 7, 6), 0.5), "not integers"),
        (np.full((3, 2, 2, 7, 6), np.nan), "not integers"),
        (np.full((3, 2, 2, 7, 6), 255), r"255..255.*0..1"),
        (np.full((3, 2, 2, 7, 6), -1), "-1"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_wrong_clips_never_reach_onnx_runtime(
    clip_file: Path, monkeypatch: pytest.MonkeyPatch, clips: np.ndarray, message: str
) -> None:
    monkeypatch.setattr("spikefold.deploy.onnx_runner._run", lambda *_: pytest.fail("ONNX Runtime was called"))
    with pytest.raises(InputError, match=message):
        run_onnx(clip_file, clips)


def test_batch_size_must_be_positive(clip_file: Path) -> None:
    with pytest.raises(InputError, match="batch_size is 0"):
        run_onnx(clip_file, random_clips(random_graph(0), 0), batch_size=0)


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_broken_files_are_named(clip_file: Path, content: bytes | None) -> None:
    whole = clip_file.read_bytes()
    clip_file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(FileFormatError, match=r"net\.onnx"):
        ClipRunner(clip_file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"none\.onnx.*No such file"):
        ClipRunner(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spikefold_format": None}, "not written by spikefold"),
        ({"spikefold_format": "2"}, "spikefold_format is 2.*update spikefold"),
        ({"spikefold_form": "step"}, "'step' form, not 'clip'"),
        ({"spikefold_input": "{}"}, "metadata on its input is damaged"),
        ({"spikefold_time_steps": "many"}, "metadata on its input is damaged"),
    ],
)
def test_foreign_and_newer_models_are_refused(tmp_path: Path, changes: dict[str, str | None], message: str) -> None:
    path = tmp_path / "other.onnx"
    save_onnx(with_metadata(to_onnx_clip(random_graph(0)), **changes), path)
    with pytest.raises(FileFormatError, match=rf"other\.onnx.*{message}"):
        ClipRunner(path)


def test_a_clip_graph_is_no_step_graph(clip_file: Path) -> None:
    with pytest.raises(FileFormatError, match="'clip' form, not 'step'"):
        StepRunner(clip_file)


@pytest.mark.parametrize("changes", [{"spikefold_states": None}, {"spikefold_states": "?"}, {"spikefold_reset": "x"}])
def test_damaged_state_metadata(changes: dict[str, str | None]) -> None:
    with pytest.raises(FileFormatError, match="metadata on states is damaged"):
        StepRunner(with_metadata(to_onnx_step(random_graph(0)), **changes))


def test_states_of_another_batch_are_refused(tmp_path: Path) -> None:
    graph = random_graph(0)
    save_onnx(to_onnx_step(graph), tmp_path / "step.onnx")
    runner = StepRunner(tmp_path / "step.onnx")
    events = random_clips(graph, 0)[0]
    with pytest.raises(InputError, match=r"'v/conv1' is int32 \(1, 4, 7, 6\); an input of batch 3"):
        runner.step(events, runner.initial_states(1))
    states: dict[str, Any] = runner.initial_states(3)
    with pytest.raises(InputError, match="int64"):
        runner.step(events, {name: v.astype(np.int64) for name, v in states.items()})
    del states["v/fc1"]
    with pytest.raises(InputError, match=r"missing \['v/fc1'\]"):
        runner.step(events, states)
    with pytest.raises(InputError, match="this net takes"):
        runner.step(events[:, :1], runner.initial_states(3))


def with_tables(graph: FixedPointGraph, steps: int) -> FixedPointGraph:
    """Gates of its first two populations as tables over time, one a channel and one alone."""
    rng = np.random.default_rng(6)
    neurons = list(graph.neurons)
    for i, channels in enumerate((neurons[0].shape[0], 1)):
        ones = [1] * (len(neurons[i].shape) - 1)
        table = rng.integers(32, 200, (steps, 1, channels, *ones))
        gate = GateProgram((steps, -1, *neurons[i].shape), (Step("table", (0,), {}, table),), steps)
        neurons[i] = dataclasses.replace(neurons[i], gate=gate, gate_shift=7)
    return dataclasses.replace(graph, neurons=tuple(neurons), attention="scheduled", time_steps=steps)


@pytest.mark.parametrize("kind", [{}, {"stress": True, "graded_input": True}, {"residual": True}])
def test_tables_stream_with_the_number_of_the_step_as_a_state(kind: dict[str, Any]) -> None:
    plain = random_graph(4, **kind)
    graph = with_tables(plain, 5)
    clips = random_clips(graph, 4)
    runner = StepRunner(to_onnx_step(graph))
    assert runner.initial_states(3)["step"].shape == ()
    trace = run_steps(runner, graph, clips)
    wanted, without = run_reference(graph, clips), run_reference(plain, clips)
    for name in wanted.spikes:
        np.testing.assert_array_equal(trace.spikes[name], wanted.spikes[name])
        np.testing.assert_array_equal(trace.membranes[name], wanted.membranes[name])
    assert any((wanted.spikes[n] != without.spikes[n]).any() for n in wanted.spikes)
    assert "step" not in StepRunner(to_onnx_step(plain)).initial_states(3)


def test_a_step_beyond_the_table_or_of_another_type_is_refused() -> None:
    graph = with_tables(random_graph(4), 5)
    runner, events = StepRunner(to_onnx_step(graph)), random_clips(graph, 4)[0]
    states = runner.initial_states(3)
    with pytest.raises(BackendError, match="ONNX Runtime failed"):
        runner.step(events, states | {"step": np.array(5)})
    with pytest.raises(InputError, match=r"state 'step' is int32 \(\); an input of batch 3 needs int64 \(\)"):
        runner.step(events, states | {"step": np.array(0, dtype=np.int32)})


def test_failures_of_onnx_runtime_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = ClipRunner(random_graph(0))

    class Broken:
        def run(self, *_: object) -> None:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(runner, "_session", Broken())
    with pytest.raises(BackendError, match=r"'random0'.*out of memory"):
        runner.run(random_clips(random_graph(0), 0))
