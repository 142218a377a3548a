"""The table of what can be deployed, against the lowering itself."""

from __future__ import annotations

import pytest
import torch

from registered import clip, narrow
from spikefold.converters.capture import capture
from spikefold.converters.lower import lower
from spikefold.deploy.deployable import MODES, deployable
from spikefold.errors import SpikefoldError
from spikefold.models import ENTRIES, MODEL_NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_listed_modes_are_those_that_lower(name: str) -> None:
    net, clips = narrow(name), clip(name, 2)
    with torch.no_grad():
        net(clips)  # gives batch norms statistics
    net.eval()
    hold = []
    try:
        graph = capture(net, clips[:, :1])
        for mode in MODES:
            fixed = lower(graph, clips.numpy(), mode)
            gated = ENTRIES[name].coupling != "none"
            assert fixed.attention == (mode if gated else "none")
            hold.append(mode)
    except SpikefoldError:
        pass
    assert tuple(hold) == deployable(name).hold


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_refusal_says_why(name: str) -> None:
    found = deployable(name)
    assert bool(found.refused) == (found.hold != MODES)
