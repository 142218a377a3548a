"""Holds messages back for some time steps: the delay of a synapse, and what lets branches of unequal depth meet."""

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


class DelayLine(AbstractProcess):  # type: ignore[misc]
    """Sends at time step ``t`` what arrived at ``t - waits``; a message that is due after its clip is never sent.

    Parameters
    ----------
    waits : int array
        Time steps, 0 or more, of the shape of the messages.
    delays : int array of the same shape
        Steps of the clip that the messages come late.
    interval, offset : int
        Step ``t`` of clip ``n`` arrives at time step ``1 + offset + n * interval + t``.
    """

    def __init__(self, *, waits: NDArray[np.int64], delays: NDArray[np.int64], interval: int, offset: int) -> None:
        super().__init__(waits=waits, delays=delays, interval=interval, offset=offset)
        self.s_in = InPort(shape=waits.shape)
        self.s_out = OutPort(shape=waits.shape)
        self.held = Var(shape=(int(waits.max()) + 1, *waits.shape), init=0)


@implements(proc=DelayLine, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyDelayLine(PyLoihiProcessModel):  # type: ignore[misc]
    """Integer model of `DelayLine`."""

    s_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    held: Any = LavaPyType(np.ndarray, np.int32)

    def run_spk(self) -> None:
        """Keep each message in the slot of the time step that it is due at, send what is due now."""
        waits, delays, interval, offset = (self.proc_params[k] for k in ("waits", "delays", "interval", "offset"))
        step = (self.time_step - 1 - offset) % interval
        messages = np.where(step + delays < interval, self.s_in.recv(), 0)
        slots = (self.time_step + waits) % len(self.held)
        np.put_along_axis(self.held, slots[None], messages[None], axis=0)
        now = self.time_step % len(self.held)
        self.s_out.send(self.held[now])
        self.held[now] = 0
