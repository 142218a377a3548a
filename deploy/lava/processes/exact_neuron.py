"""Neurons and relays that compute what the reference does, whatever thresholds, resets and shifts they have."""

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


class ExactNeuron(AbstractProcess):  # type: ignore[misc]
    """A population as `spikefold.converters.arithmetic` defines it, for what Lava's own neurons cannot compute.

    A relay sends whole numbers of either sign as graded messages; its ``v`` is the clipped current they are made of.

    Parameters
    ----------
    stepwise : Stepwise
        The population, and when its membranes start anew.
    ready : bool
        The input is a ready current (from a gate) instead of a weighted sum.
    """

    def __init__(self, *, stepwise: Stepwise, ready: bool) -> None:
        super().__init__(stepwise=stepwise, ready=ready)
        shape = lava_shape(stepwise.population.shape)
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.u = Var(shape=shape, init=0)
        self.v = Var(shape=shape, init=0)


@implements(proc=ExactNeuron, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyExactNeuron(PyLoihiProcessModel):  # type: ignore[misc]
    """Integer model of `ExactNeuron`."""

    a_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int64)
    s_out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    u: Any = LavaPyType(np.ndarray, np.int64)
    v: Any = LavaPyType(np.ndarray, np.int64)

    def run_spk(self) -> None:
        """One time step."""
        stepwise = self.proc_params["stepwise"]
        step = stepwise.step(self.time_step)
        current = into_graph(self.a_in.recv())
        u, before = (np.zeros_like(current) if step == 0 else into_graph(state) for state in (self.u, self.v))
        if not self.proc_params["ready"]:
            u = stepwise.synaptic(u, current)
            self.u[:] = into_lava(u)
            current = stepwise.current(u, step)
        messages, v = stepwise.advance(before, current)
        self.v[:] = into_lava(v)
        self.s_out.send(into_lava(messages))
