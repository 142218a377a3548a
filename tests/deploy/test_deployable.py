"""The table of what can be deployed, against the lowering itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from registered import clip, narrow
from spikefold.converters.capture import capture
from spikefold.converters.lower import ATTENTIONS, lower
from spikefold.deploy.deployable import deployable
from spikefold.errors import CaptureError, LoweringError
from spikefold.models import ENTRIES, MODEL_NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_listed_modes_are_those_that_lower(name: str) -> None:
    net, clips = narrow(name), clip(name, 2)
    with torch.no_grad():
        net(clips)  # gives batch norms statistics
    net.eval()
    assert tuple(modes_that_lower(name, net, clips)) == deployable(name).hold


def modes_that_lower(name: str, net: nn.Module, clips: Tensor) -> list[str]:
    try:
        graph = capture(net, clips[:, :1])
    except CaptureError:
        return []
    hold = []
    for mode in ATTENTIONS:
        try:
            fixed = lower(graph, clips.numpy(), mode)
        except LoweringError:
            continue
        assert fixed.attention == ("none" if ENTRIES[name].coupling == "none" else mode)
        hold.append(mode)
    return hold


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_refusal_says_why(name: str) -> None:
    found = deployable(name)
    assert bool(found.refused) == (found.hold != ATTENTIONS)
