"""A population one time step at a time: what Lava processes of ours share. Imports nothing of Lava."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import Neurons


@dataclass(frozen=True)
class Stepwise:
    """A population and its clock: step ``t`` of clip ``n`` is at Lava's time step ``1 + delay + n * interval + t``.

    All arrays are in the graph's layout. Before the first clip, steps are counted as if clips had come before; what is
    computed then is not used.
    """

    population: Neurons
    interval: int
    delay: int

    def step(self, time_step: int) -> int:
        """Step of its clip, from 0."""
        return (time_step - 1 - self.delay) % self.interval

    def synaptic(self, u: NDArray[np.int64], weighted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Synaptic current ``[*shape]`` after one step with these weighted sums."""
        return arithmetic.synaptic_current(u, weighted << self.population.current_shift, self.population.du)

    def current(self, u: NDArray[np.int64], step: int) -> NDArray[np.int64]:
        """Current of one step, bias included, for its synaptic current."""
        n = self.population
        return u + (n.bias[step, 0] if n.has_bias_schedule else n.bias)

    def gated(self, currents: NDArray[np.int64]) -> NDArray[np.int64]:
        """Gated currents of a whole clip ``[interval, *shape]``."""
        n = self.population
        if n.gate is None:
            return currents
        clip = currents[:, None]
        return arithmetic.gated_current(clip, n.gate.run_integer(clip), n.gate_shift)[:, 0]

    def advance(self, v: NDArray[np.int64], current: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Messages (spikes, or the numbers of a relay) and new membranes."""
        n = self.population
        if n.relay is not None:
            sent = arithmetic.clip24(current)
            return arithmetic.relay_message(sent, n.relay.shift, n.relay.low, n.relay.high), sent
        threshold = n.v_threshold if n.fires else None
        return arithmetic.neuron_step(v, current, n.dv, threshold, n.v_reset, n.soft_reset)
