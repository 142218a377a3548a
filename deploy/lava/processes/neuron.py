"""A leaky integrate-and-fire neuron with one threshold per neuron, reset once per clip, fed with sums or currents."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from numpy.typing import NDArray

from spikefold.converters import arithmetic


class ThresholdNeuron(AbstractProcess):  # type: ignore[misc]
    """Neurons as `spikefold.converters.arithmetic` defines them.

    Parameters
    ----------
    shape : tuple of int
        Neurons, in Lava's layout.
    dv : int
        Decay rate of the membrane.
    v_threshold : int64 array of ``shape`` or None
        Threshold mantissas; None never fires.
    bias : int64 array ``[interval or 1, *shape]``
        Added to the weighted sum of each step (after its shift); not used for ready currents.
    ready : bool
        The input is a ready current (from a gate) instead of a weighted sum.
    interval, delay : int
        Membranes start anew at time steps ``1 + delay + n * interval``.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        dv: int,
        v_threshold: NDArray[np.int64] | None,
        bias: NDArray[np.int64],
        ready: bool,
        interval: int,
        delay: int,
    ) -> None:
        super().__init__(dv=dv, v_threshold=v_threshold, bias=bias, ready=ready, interval=interval, delay=delay)
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.v = Var(shape=shape, init=0)


@implements(proc=ThresholdNeuron, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyThresholdNeuron(PyLoihiProcessModel):  # type: ignore[misc]
    """Integer model of `ThresholdNeuron`."""

    a_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int64)
    s_out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    v: Any = LavaPyType(np.ndarray, np.int64)

    def run_spk(self) -> None:
        """One time step."""
        current = self.a_in.recv()
        p = self.proc_params
        step = (self.time_step - 1 - p["delay"]) % p["interval"]
        if not p["ready"]:
            bias = p["bias"][step % len(p["bias"])]
            current = arithmetic.wrap24(current << arithmetic.STATE_FRACTION_BITS) + bias
        if step == 0:
            self.v[:] = 0
        spikes, self.v[:] = arithmetic.neuron_step(self.v, current, p["dv"], p["v_threshold"])
        self.s_out.send(spikes)
