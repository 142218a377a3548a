"""Records the spikes and membranes of one population and writes them to a file at its last step.

Lava's own Monitor hands its data back one number at a time, which takes longer than the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyRefPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, RefPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from spikefold.deploy.lava.job import STEP, sign_of_life


class Recorder(AbstractProcess):  # type: ignore[misc]
    """Keeps time steps ``1 + delay`` to ``delay + steps``; writes arrays ``spikes`` and ``membranes`` to ``path``.

    Every time step leaves a line in the file ``progress``.
    """

    def __init__(self, *, shape: tuple[int, ...], delay: int, steps: int, path: str, progress: str) -> None:
        super().__init__(shape=shape, delay=delay, steps=steps, path=path, progress=progress)
        self.s_in = InPort(shape=shape)
        self.v_in = RefPort(shape=shape)


@implements(proc=Recorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyRecorder(PyLoihiProcessModel):  # type: ignore[misc]
    """Integer model of `Recorder`."""

    s_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    v_in: Any = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        shape = (proc_params["steps"], *proc_params["shape"])
        self.spikes = np.zeros(shape, dtype=np.int32)
        self.membranes = np.zeros(shape, dtype=np.int32)

    @property
    def step(self) -> int:
        """Position in the record, outside of it before the start and after the end."""
        return int(self.time_step - 1 - self.proc_params["delay"])

    def run_spk(self) -> None:
        """Take this step's spikes."""
        spikes = self.s_in.recv()
        sign_of_life(Path(self.proc_params["progress"]), f"{STEP} {self.time_step}")
        if self.post_guard():
            self.spikes[self.step] = spikes

    def post_guard(self) -> bool:
        """Whether this step belongs to the record."""
        return 0 <= self.step < len(self.spikes)

    def run_post_mgmt(self) -> None:
        """Read the membranes, after every neuron is through with this step."""
        self.membranes[self.step] = self.v_in.read()
        if self.step == len(self.spikes) - 1:
            np.savez(self.proc_params["path"], spikes=self.spikes, membranes=self.membranes)
