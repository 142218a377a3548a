"""Runs a `FixedPointGraph` in Lava and hands back what the reference hands back."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.reference import Trace, check_input, read_out
from spikefold.deploy.lava.interpreter import explain_missing, exposed_package, lava_python
from spikefold.deploy.lava.job import read_result, write_job
from spikefold.deploy.lava.plan import make_plan
from spikefold.deploy.lava.watch import Command, run_group
from spikefold.errors import BackendError


def run_lava(graph: FixedPointGraph, clips: NDArray[np.generic], time_limit_s: float = 600.0) -> Trace:
    """Run clips ``[T, B, *shape]`` one after another in one Lava run, in a child process.

    Parameters
    ----------
    graph : FixedPointGraph
        The net.
    clips : array ``[T, B, *shape]``
        Integers within the input port's range.
    time_limit_s : float
        The child and all that it started are ended after this many seconds. A child that hangs is started once more
        within them.

    Returns
    -------
    Trace
        Spikes, membranes and logits, equal to `run_reference` bit for bit.

    Raises
    ------
    InputError
        ``clips`` does not fit the net.
    BackendError
        No interpreter has Lava, Lava could not be exact for this net, or the run failed, took too long, or hung twice.
    """
    whole = check_input(graph, clips)
    plan = make_plan(graph, *whole.shape[:2])
    python = lava_python()
    if python is None:
        raise BackendError(explain_missing())
    with TemporaryDirectory(prefix="spikefold-lava-") as name, exposed_package() as environment:
        folder = Path(name)
        write_job(folder, graph, whole)
        words = [str(python), "-P", "-m", "spikefold.deploy.lava.child", str(folder)]
        run_group(Command(words, environment, folder), time_limit_s, time_steps=plan.total_steps)
        spikes, membranes = read_result(folder, graph)
    return Trace(spikes, membranes, read_out(graph.output, spikes, membranes, len(whole)))
