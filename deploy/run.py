"""Run a deployed net on a backend and keep what it did.

Four backends compute the same integers: ``onnx`` (ONNX Runtime, fast), ``lava`` (Lava's CPU backend in a child
process), ``torch``, and ``reference`` (plain numpy int64).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.engine import run_engine
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.nir_file import load_nir
from spikefold.converters.reference import Trace, check_input, run_reference
from spikefold.deploy.activity import Activity
from spikefold.deploy.count import Counts, activity, counts_from_trace
from spikefold.deploy.lava.runner import run_lava
from spikefold.deploy.onnx_runner import ClipRunner
from spikefold.deploy.tuned import find_file
from spikefold.errors import InputError

Backend = Literal["onnx", "lava", "torch", "reference"]
BACKENDS: tuple[Backend, ...] = ("onnx", "lava", "torch", "reference")
Net: TypeAlias = FixedPointGraph | str | os.PathLike[str]


@dataclass(frozen=True)
class Run:
    """What a net did on some clips.

    ``logits`` is ``[B, classes]``; the counts are int64 ``[B]`` per population or synapse, a relay's being of the
    numbers other than 0 that it sent; ``sent`` is int64 ``[T, *shape]`` per population and for the input: how many of
    the samples sent a message there and then; ``trace`` holds every spike and membrane value where it was asked for
    (always on Lava).
    """

    graph: FixedPointGraph
    backend: Backend
    time_steps: int
    logits: NDArray[np.float64]
    input_counts: NDArray[np.int64]
    spike_counts: Counts
    synops: Counts
    sent: Counts
    trace: Trace | None
    seconds: float

    @property
    def predictions(self) -> NDArray[np.int64]:
        """Class of each sample."""
        return np.asarray(self.logits.argmax(axis=1))

    @property
    def activity(self) -> Activity:
        """Mean counts per sample, ready for `spikefold.price`."""
        return activity(self.graph, self.time_steps, self.input_counts, self.spike_counts, self.synops)

    def accuracy(self, labels: NDArray[np.int64]) -> float:
        """Share of right classes."""
        if len(labels) != len(self.logits):
            raise InputError(f"{len(labels)} labels for {len(self.logits)} samples")
        return float((self.predictions == labels).mean())


def open_net(net: Net) -> FixedPointGraph:
    """The net itself, or one that a ``.nir`` file holds, which may be a shipped one (`spikefold.deploy.tuned`)."""
    return net if isinstance(net, FixedPointGraph) else load_nir(find_file(net))


def run(
    net: Net,
    clips: NDArray[np.generic],
    backend: Backend = "onnx",
    *,
    trace: bool = False,
    time_limit_s: float = 600.0,
) -> Run:
    """Run clips through a deployed net.

    Parameters
    ----------
    net : FixedPointGraph or path
        A lowered net, or a ``.nir`` file that `spikefold` wrote.
    clips : integer array ``[T, B, *input_shape]``
        Binary events, or small unsigned integers if the net was calibrated with them.
    backend : "onnx", "lava", "torch" or "reference"
        All give the same bits.
    trace : bool
        Keep every spike and membrane value.
    time_limit_s : float
        Seconds after which a Lava run is ended.

    Raises
    ------
    InputError
        The clips do not fit the net, or the backend is unknown.
    BackendError
        The backend is missing, failed, or ran past its limit.
    """
    graph = open_net(net)
    whole = check_input(graph, clips)
    start = time.perf_counter()
    if backend == "onnx":
        result = ClipRunner(graph, trace=trace).run(whole)
        logits, spikes, synops, sent = result.logits, result.spike_counts, result.synops, result.sent
        kept = result.trace
    else:
        if backend == "lava":
            kept = run_lava(graph, whole, time_limit_s=time_limit_s)
        elif backend == "torch":
            kept = run_engine(graph, whole)
        elif backend == "reference":
            kept = run_reference(graph, whole)
        else:
            raise InputError(f"backend is {backend!r}; choose one of {', '.join(BACKENDS)}")
        logits = kept.logits
        spikes, synops = counts_from_trace(graph, whole, kept)
        trains: dict[str, NDArray[np.generic]] = {graph.input.name: whole, **kept.spikes}
        sent = {name: np.asarray(np.count_nonzero(train, axis=1)) for name, train in trains.items()}
    seconds = time.perf_counter() - start
    inputs = np.asarray(np.count_nonzero(whole, axis=(0, *range(2, whole.ndim))), dtype=np.int64)
    return Run(graph, backend, len(whole), logits, inputs, spikes, synops, sent, kept, seconds)


def differences(left: Trace, right: Trace) -> tuple[int, int]:
    """Number of differing spikes (or numbers of a relay) and of membrane values between two runs of the same clips."""
    found = differences_by_layer(left, right).values()
    return sum(spikes for spikes, _ in found), sum(membranes for _, membranes in found)


def differences_by_layer(left: Trace, right: Trace) -> dict[str, tuple[int, int]]:
    """The same for each population by itself."""
    if left.spikes.keys() != right.spikes.keys():
        raise InputError(f"the runs have different populations: {sorted(left.spikes)} and {sorted(right.spikes)}")
    return {
        name: (
            int((left.spikes[name] != right.spikes[name]).sum()),
            int((left.membranes[name] != right.membranes[name]).sum()),
        )
        for name in left.spikes
    }
