"""An attention gate: holds the currents of a clip, computes the gate from all of them, and replays them gated."""

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


class ClipGate(AbstractProcess):  # type: ignore[misc]
    """Gate over clips of ``interval`` steps.

    The replay starts in the time step in which the last sum of the clip arrives, while the next clip streams in.

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
        self.clip = Var(shape=(interval, *shape), init=0)
        self.replay = Var(shape=(interval, *shape), init=0)


@implements(proc=ClipGate, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyClipGate(PyLoihiProcessModel):  # type: ignore[misc]
    """Integer model of `ClipGate`."""

    a_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int64)
    a_out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int64)
    clip: Any = LavaPyType(np.ndarray, np.int64)
    replay: Any = LavaPyType(np.ndarray, np.int64)

    def run_spk(self) -> None:
        """Store one step; at the last step of a clip compute the gate; send one gated step."""
        weighted = self.a_in.recv()
        interval = self.proc_params["interval"]
        step = (self.time_step - 1 - self.proc_params["delay"]) % interval
        self.clip[step] = weighted
        if step == interval - 1 and self.time_step >= interval + self.proc_params["delay"]:
            self.replay[:] = self._gated()
        self.a_out.send(self.replay[(step + 1) % interval])

    def _gated(self) -> NDArray[np.int64]:
        p = self.proc_params
        to_lava = p["to_lava"]
        to_graph = tuple(int(i) for i in np.argsort(to_lava))
        weighted = self.clip.transpose(0, *(1 + i for i in to_graph))[:, None]
        current = arithmetic.wrap24(weighted << arithmetic.STATE_FRACTION_BITS) + p["bias"][:, None]
        gated = arithmetic.gated_current(current, p["program"].run_integer(current), p["gate_shift"])
        return gated[:, 0].transpose(0, *(1 + i for i in to_lava))
