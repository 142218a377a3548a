"""Holds messages back for some time steps, so that branches of unequal depth meet."""

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


class DelayLine(AbstractProcess):  # type: ignore[misc]
    """Sends at time step ``t`` what arrived at ``t - steps``; zeros at first. ``steps`` is at least 1."""

    def __init__(self, *, shape: tuple[int, ...], steps: int) -> None:
        super().__init__(steps=steps)
        self.s_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.held = Var(shape=(steps, *shape), init=0)


@implements(proc=DelayLine, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyDelayLine(PyLoihiProcessModel):  # type: ignore[misc]
    """Integer model of `DelayLine`."""

    s_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    held: Any = LavaPyType(np.ndarray, np.int32)

    def run_spk(self) -> None:
        """Send the oldest message, keep the newest in its place."""
        slot = self.time_step % self.proc_params["steps"]
        self.s_out.send(self.held[slot])
        self.held[slot] = self.s_in.recv()
