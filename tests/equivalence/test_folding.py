"""The folded float net is the trained module: what float rounding cannot explain does not happen."""

from __future__ import annotations

import pytest

from equivalence_nets import SHIPPED, USERS, net
from spikefold.deploy.teacher_forcing import check_folding


@pytest.mark.parametrize("name", [*SHIPPED, *USERS])
def test_every_difference_is_rounding(name: str) -> None:
    made = net(name)
    folding = check_folding(made.module, made.float_net, made.clips)
    assert [layer.name for layer in folding.layers] == [p.name for p in made.float_net.populations if not p.logic]
    for layer in folding.layers:
        assert layer.within_bound, layer
        assert 0 < layer.mean_bound < 1e-2, layer
        assert layer.largest_share <= 1, layer
        assert layer.neuron_steps > 0, layer
    assert any(layer.largest_difference > 0 for layer in folding.layers)
    assert folding.samples == made.clips.shape[1]
