"""An attention gate that reads only the steps up to now: sends each step gated as it arrives."""

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
from spikefold.converters.gate_program import GateProgram


class StreamingGate(AbstractProcess):  # type: ignore[misc]
    """Gate over clips of ``interval`` steps whose program gives each step from the currents up to it.

    The CPU model holds the currents of a clip and runs the whole program in every step; what is left there of the last
    clip lies behind the step and does not matter to it. A chip would hold the running sums and maxima instead
    (`spikefold.converters.time_axis.running_state`).

    Parameters
    ----------
    shape : tuple of int
        Neurons, in Lava's layout.
    to_lava : tuple of int
        Axes that bring a tensor of the graph's layout into Lava's.
    program : GateProgram
        Integer program, for ``[T, B, *shape]`` in the graph's layout.
    gate_shift : int
        Fraction bits of the gate.
    bias : int64 array
        Bias of each step ``[interval or 1, *shape]`` in the graph's layout, added before the gate.
    interval, delay : int
        Sums of clip ``n`` arrive from time step ``1 + delay + n * interval`` on.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        to_lava: tuple[int, ...],
        program: GateProgram,
        gate_shift: int,
        bias: NDArray[np.int64],
        interval: int,
        delay: int,
    ) -> None:
        super().__init__(
            to_lava=to_lava, program=program, gate_shift=gate_shift, bias=bias, interval=interval, delay=delay
        )
        self.a_in = InPort(shape=shape)
        self.a_out = OutPort(shape=shape)
        self.seen = Var(shape=(interval, *np.array(shape)[np.argsort(to_lava)]), init=0)


@implements(proc=StreamingGate, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyStreamingGate(PyLoihiProcessModel):  # type: ignore[misc]
    """Integer model of `StreamingGate`."""

    a_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int64)
    a_out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int64)
    seen: Any = LavaPyType(np.ndarray, np.int64)

    def run_spk(self) -> None:
        """Take one step, compute its gate from what was seen of its clip, and send it gated."""
        p = self.proc_params
        to_lava = p["to_lava"]
        weighted = self.a_in.recv().transpose(tuple(int(i) for i in np.argsort(to_lava)))
        step = (self.time_step - 1 - p["delay"]) % p["interval"]
        self.seen[step] = (
            arithmetic.wrap24(weighted << arithmetic.STATE_FRACTION_BITS) + p["bias"][step % len(p["bias"])]
        )
        gate = np.broadcast_to(p["program"].run_integer(self.seen[:, None]), self.seen[:, None].shape)
        gated = arithmetic.gated_current(self.seen[step], gate[step, 0], p["gate_shift"])
        self.a_out.send(gated.transpose(to_lava))
