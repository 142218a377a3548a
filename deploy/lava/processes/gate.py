"""An attention gate: collects the currents of a clip, computes the gate from them, and sends them on gated."""

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

from spikefold.deploy.lava.layout import into_graph, into_lava, lava_shape
from spikefold.deploy.lava.stepwise import Stepwise


class Gate(AbstractProcess):  # type: ignore[misc]
    """Takes weighted sums of a population, and sends ready currents to its neurons in the same time step.

    A gate that ``streams`` says of each step only what the steps up to it tell, and sends each step as it arrives. Any
    other replays a clip, beginning in the time step in which its last sum arrives, while the next clip streams in.
    The CPU model runs the whole program each time; a chip would hold running sums and maxima of a gate that streams
    (`spikefold.converters.time_axis.running_state`).

    Parameters
    ----------
    stepwise : Stepwise
        The population, and when the sums of its clips arrive.
    streams : bool
        See above.
    """

    def __init__(self, *, stepwise: Stepwise, streams: bool) -> None:
        super().__init__(stepwise=stepwise, streams=streams)
        shape = lava_shape(stepwise.population.shape)
        self.a_in = InPort(shape=shape)
        self.a_out = OutPort(shape=shape)
        clip = (stepwise.interval, *stepwise.population.shape)
        self.clip = Var(shape=clip, init=0)
        self.gated = Var(shape=clip, init=0)


@implements(proc=Gate, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyGate(PyLoihiProcessModel):  # type: ignore[misc]
    """Integer model of `Gate`. What a streaming gate still holds of the last clip lies behind the step."""

    a_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int64)
    a_out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int64)
    clip: Any = LavaPyType(np.ndarray, np.int64)
    gated: Any = LavaPyType(np.ndarray, np.int64)

    def run_spk(self) -> None:
        """Store one step, compute the gate where it is due, send one gated step."""
        stepwise, streams = self.proc_params["stepwise"], self.proc_params["streams"]
        step = stepwise.step(self.time_step)
        weighted = into_graph(self.a_in.recv())
        self.clip[step] = stepwise.current(stepwise.synaptic(np.zeros_like(weighted), weighted), step)
        whole = step == stepwise.interval - 1 and self.time_step >= stepwise.interval + stepwise.delay
        if streams or whole:
            self.gated[:] = stepwise.gated(self.clip)
        due = step if streams else (step + 1) % stepwise.interval
        self.a_out.send(into_lava(self.gated[due]))
