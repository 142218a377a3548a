"""`spikefold export --sample`: a shape in place of data."""

from __future__ import annotations

from pathlib import Path

import pytest

from spikefold.converters.lower import Attention
from spikefold.deploy.commands import export_net
from spikefold.deploy.run import open_net
from spikefold.deploy.sources import random_events
from spikefold.errors import InputError, SpikefoldWarning


def export(tmp_path: Path, attention: Attention) -> dict[str, object]:
    return export_net(
        "user_net:build", None, "unused", attention, 3, 4, None, "spikefold", False, tmp_path / "n", print, "2x8x8"
    )


def test_random_events_have_the_shape_that_was_asked_for() -> None:
    events = random_events("2x34x30", 3, 10)
    assert events.frames.shape == (3, 10, 2, 34, 30)
    assert events.labels is None
    assert 0.08 < events.frames.mean() < 0.12
    assert random_events("700", 1, 2).frames.shape == (1, 2, 700)


@pytest.mark.parametrize("shape", ["2x34x", "2,34,34", "0x8", "", "2x-4"])
def test_what_is_no_shape_is_refused(shape: str) -> None:
    with pytest.raises(InputError, match=r"--sample .*: give the shape of one step, such as 2x34x34"):
        random_events(shape, 1, 2)


def test_a_shape_without_a_number_of_steps_is_refused() -> None:
    with pytest.raises(InputError, match="give T as --time-steps"):
        random_events("2x8x8", 1, None)


def test_a_mean_gate_cannot_come_from_random_events(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the mean gate of neuron comes from training samples"):
        export(tmp_path, "static")


def test_a_computed_gate_can_and_a_warning_says_what_random_events_are_good_for(tmp_path: Path) -> None:
    with pytest.warns(SpikefoldWarning, match="weights are scaled on random events"):
        made = export(tmp_path, "dynamic")
    assert made["attention"] == "dynamic"
    assert open_net(tmp_path / "n.nir").input.shape == (2, 8, 8)
