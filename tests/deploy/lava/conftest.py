from __future__ import annotations

import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.reference import Trace, run_reference
from spikefold.deploy.lava import watch
from spikefold.deploy.lava.interpreter import explain_missing, lava_python
from spikefold.deploy.lava.runner import run_lava

Check = Callable[[FixedPointGraph, NDArray[np.int64]], Trace]


@pytest.fixture(autouse=True)
def _lava_or_skip(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("lava") is not None and lava_python() is None:
        pytest.skip(explain_missing())


@pytest.fixture
def leaders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Process groups that were started, in turn."""
    started: list[int] = []

    def end_group(leader: subprocess.Popen[bytes]) -> None:
        started.append(leader.pid)
        original(leader)

    original = watch.end_group
    monkeypatch.setattr(watch, "end_group", end_group)
    return started


@pytest.fixture
def equal_in_lava() -> Check:
    """Runs clips in Lava and asserts that every spike, membrane value and logit equals the numpy reference."""

    def check(graph: FixedPointGraph, clips: NDArray[np.int64]) -> Trace:
        expected, actual = run_reference(graph, clips), run_lava(graph, clips, 120.0)
        differing = {
            (kind, n.name): int((getattr(actual, kind)[n.name] != getattr(expected, kind)[n.name]).sum())
            for n in graph.neurons
            for kind in ("spikes", "membranes")
        }
        assert differing == dict.fromkeys(differing, 0)
        assert all(actual.spikes[n.name].shape == (*clips.shape[:2], *n.shape) for n in graph.neurons)
        np.testing.assert_array_equal(actual.logits, expected.logits)
        return expected

    return check
