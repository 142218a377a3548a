"""Results of other processes, damaged on their way: computed again, or refused by name; never taken for good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from generated_graphs import random_clips, random_graph
from hostile import refused
from spikefold.converters.reference import run_reference
from spikefold.deploy.cache import Cache
from spikefold.deploy.lava import runner
from spikefold.deploy.lava.job import (
    ERROR,
    PROGRESS,
    RESULT,
    last_step,
    read_error,
    read_progress,
    read_result,
    write_job,
    write_result,
)
from spikefold.errors import BackendError, SpikefoldWarning

KEY = "ab" * 32
Damage = Callable[[bytes], bytes]
DAMAGES: dict[str, Damage] = {
    "empty": lambda held: b"",
    "garbage": lambda held: b"\xff\x00" * 400,
    "text": lambda held: b"Traceback (most recent call last):",
    "cut in half": lambda held: held[: len(held) // 2],
    "cut by one byte": lambda held: held[:-1],
    "first bytes lost": lambda held: held[4:],
    "zeros at its start": lambda held: bytes(64) + held[64:],
    "a changed byte": lambda held: held[: len(held) // 3] + bytes([held[len(held) // 3] ^ 255])
    + held[len(held) // 3 + 1 :],
    "a lost block": lambda held: held[:200] + held[328:],
    "an array and no archive": lambda held: b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, "
    b"'shape': (2,), }".ljust(128) + bytes(16),
    "a pickle": lambda held: b"cos\nmkdir\n(S'canary'\ntR.",
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_cache_entry_is_none(name: str, tmp_path: Path) -> None:
    cache, stored = Cache(tmp_path), ("text", [np.arange(900), np.ones((3, 4))])
    cache.put("run", KEY, stored)
    path = tmp_path / "run" / f"{KEY}.npz"
    path.write_bytes(DAMAGES[name](path.read_bytes()))
    with pytest.warns(SpikefoldWarning, match=rf"{KEY}\.npz: a damaged cache entry .* computed again"):
        assert cache.get("run", KEY) is None
    assert not path.exists()
    cache.put("run", KEY, stored)
    again = cache.get("run", KEY)
    assert again is not None
    np.testing.assert_array_equal(again[1][0], np.arange(900))


def test_an_entry_under_the_name_of_another_is_none(tmp_path: Path) -> None:
    cache, other = Cache(tmp_path), "cd" * 32
    cache.put("run", other, ("text", []))
    (tmp_path / "run" / f"{other}.npz").rename(tmp_path / "run" / f"{KEY}.npz")
    with pytest.warns(SpikefoldWarning, match="it holds something else"):
        assert cache.get("run", KEY) is None


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_result_of_lavas_child_is_refused(name: str, tmp_path: Path) -> None:
    graph = random_graph(3)
    trace = run_reference(graph, random_clips(graph, 3))
    write_result(tmp_path, trace.spikes, trace.membranes)
    path = tmp_path / RESULT
    path.write_bytes(DAMAGES[name](path.read_bytes()))
    refused(tmp_path, lambda: read_result(tmp_path, graph), "result of Lava's child process is damaged", "again")


def test_a_result_of_another_net_is_refused(tmp_path: Path) -> None:
    graph = random_graph(3)
    trace = run_reference(graph, random_clips(graph, 3))
    first = graph.neurons[0].name
    write_result(tmp_path, trace.spikes, {**trace.membranes, first: trace.membranes[first][:, :, :1]})
    refused(tmp_path, lambda: read_result(tmp_path, graph), first, "damaged")
    write_result(tmp_path, trace.spikes, {**trace.membranes, first: trace.membranes[first].astype(float)})
    refused(tmp_path, lambda: read_result(tmp_path, graph), first, "float64", "damaged")
    write_result(tmp_path, {first: trace.spikes[first]}, {first: trace.membranes[first]})
    refused(tmp_path, lambda: read_result(tmp_path, graph), "damaged")


def test_a_child_that_ends_well_without_a_result_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = random_graph(3)
    monkeypatch.setattr(runner, "lava_python", lambda: Path("/bin/true"))
    with pytest.raises(BackendError, match="ended without a result"):
        runner.run_lava(graph, random_clips(graph, 3))


def test_garbage_among_the_signs_of_life_is_no_step(tmp_path: Path) -> None:
    (tmp_path / PROGRESS).write_bytes(b"Lava imported\ntime step 3\n\xff\xfe\x00")
    (tmp_path / ERROR).write_bytes(b"\xffout of memory")
    assert len(read_progress(tmp_path)) == 3
    assert last_step(tmp_path) == 0
    assert "out of memory" in str(read_error(tmp_path))


def test_a_job_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    graph = random_graph(3)
    with pytest.raises(BackendError, match=r"job\.npz: No such file or directory; let TMPDIR name a folder"):
        write_job(tmp_path / "gone", graph, random_clips(graph, 3))
