"""A net that needs relays: a gate behind a neuron, and a padded pooling in front of a convolution."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from equivalence_nets import CALIBRATION_SAMPLES, SAMPLES, Net, SqueezeExcite, events, layer, settled
from spikefold.converters.calibrate import calibrate
from spikefold.converters.capture import capture
from spikefold.models import LIF, OverTime

GATED, POOLED = "pool_module_relay", "conv2_module_0_relay"
"""The relays, by the modules that they come before."""


class RelayedNet(nn.Module):
    """Its neurons reset to their threshold and by subtraction."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.fire1, self.gate1 = layer(2, 6), LIF(0.4, 0.5, v_reset=0.5), SqueezeExcite(6)
        self.pool = OverTime(nn.AvgPool2d(3, 1, 1))
        self.conv2, self.fire2 = layer(6, 8, 2), LIF(0.7, 0.6, strict=False, soft_reset=True)
        self.readout = OverTime(nn.Linear(8 * 5 * 5, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.gate1(self.fire1(self.conv1(x))))
        logits: Tensor = self.readout(self.fire2(self.conv2(x)).flatten(2))
        return logits.mean(0)


@lru_cache(maxsize=1)
def relayed_net() -> Net:
    """It with everything that is made of it."""
    torch.manual_seed(3)
    train, clips = events(CALIBRATION_SAMPLES, 1), events(SAMPLES, 2)
    module = settled(RelayedNet(), train)
    with torch.no_grad():  # a gate that differs from clip to clip
        module.gate1.squeeze.weight *= 20
        module.gate1.excite.weight *= 5
    graph = capture(module, torch.from_numpy(clips).float())
    return Net(module, graph, calibrate(graph, train), clips)
