"""Synapses in 64-bit integers, for weighted sums that Lava's Conv would wrap and its Dense overflow."""

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

from spikefold.converters.fixed_point_graph import Synapse
from spikefold.converters.reference import synapse_current
from spikefold.deploy.lava.layout import into_graph, into_lava, lava_shape


class ExactSynapse(AbstractProcess):  # type: ignore[misc]
    """Sends at each time step the weighted sums of what arrived one step before, as Lava's Conv and Dense do.

    Parameters
    ----------
    synapse : Synapse
        Weights, and how they are applied.
    source, target : tuple of int
        Shapes of both ends, in the graph's layout.
    """

    def __init__(self, *, synapse: Synapse, source: tuple[int, ...], target: tuple[int, ...]) -> None:
        super().__init__(synapse=synapse, target=target)
        self.s_in = InPort(shape=lava_shape(source))
        self.a_out = OutPort(shape=lava_shape(target))
        self.held = Var(shape=lava_shape(target), init=0)


@implements(proc=ExactSynapse, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyExactSynapse(PyLoihiProcessModel):  # type: ignore[misc]
    """Integer model of `ExactSynapse`."""

    s_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int64)
    a_out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int64)
    held: Any = LavaPyType(np.ndarray, np.int64)

    def run_spk(self) -> None:
        """Send the sums of the last step, take the messages of this one."""
        self.a_out.send(self.held)
        messages = into_graph(self.s_in.recv())[None, None]
        current = synapse_current(self.proc_params["synapse"], messages)
        self.held[:] = into_lava(current.reshape(self.proc_params["target"]))
