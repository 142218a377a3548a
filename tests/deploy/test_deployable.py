"""The table of what can be deployed, against the lowering itself."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from registered import awaken, clip, narrow
from spikefold.converters.capture import capture
from spikefold.converters.engine import run_engine
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.lower import ATTENTIONS, Attention, lower
from spikefold.deploy.deployable import deployable
from spikefold.deploy.equality import check_backends
from spikefold.errors import CaptureError, LoweringError
from spikefold.models import ENTRIES, MODEL_NAMES


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.full if "resnet" in n else pytest.mark.slow) for n in MODEL_NAMES]
)
def test_the_listed_modes_are_those_that_lower_and_every_backend_runs_them_alike(name: str) -> None:
    clips = clip(name, 2)
    net = awaken(narrow(name), clips)
    modes = modes_to_try(name)
    assert modes_that_lower(name, net, clips, modes) == [m for m in modes if m in deployable(name).hold]


def modes_to_try(name: str) -> tuple[Attention, ...]:
    """All of them; one where they are the same net, or the parts of an 18-layer net stand only more often in a row."""
    return ATTENTIONS if ENTRIES[name].coupling != "none" and not name.endswith(("34", "104")) else ("dynamic",)


def modes_that_lower(name: str, net: nn.Module, clips: Tensor, modes: tuple[Attention, ...]) -> list[str]:
    try:
        graph = capture(net, clips[:, :1])
    except CaptureError:
        return []
    hold = []
    for mode in modes:
        try:
            fixed = lower(graph, clips.numpy(), mode)
        except LoweringError:
            continue
        assert fixed.attention == ("none" if ENTRIES[name].coupling == "none" else mode)
        if not name.endswith("104"):  # minutes; its parts run in the shallower nets
            run_alike(fixed, clips)
        hold.append(mode)
    return hold


def run_alike(fixed: FixedPointGraph, clips: Tensor) -> None:
    found = check_backends(fixed, clips.numpy(), ("torch", "onnx"))
    firing = [n.name for n in fixed.neurons if n.fires]
    trains = run_engine(fixed, clips.numpy()).spikes
    assert all(backend.equal for backend in found)
    assert sum(bool(trains[name].any()) for name in firing) > len(firing) / 3


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_refusal_says_why(name: str) -> None:
    found = deployable(name)
    assert bool(found.refused) == (found.hold != ATTENTIONS)
