"""Run a deployed net on a backend and keep what it did.

Five backends compute the same integers: ``fast`` (compiled, for whole test sets), ``onnx`` (the portable graph on ONNX
Runtime), ``lava`` (Lava's CPU backend in a child process), ``torch``, and ``reference`` (plain numpy int64).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.engine import run_engine
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.lava_dl import load_lava_dl
from spikefold.converters.nir_file import load_nir
from spikefold.converters.reference import Trace, check_input, run_reference
from spikefold.converters.show import Shown
from spikefold.deploy.activity import Activity
from spikefold.deploy.count import Counts, activity, counts_from_trace
from spikefold.deploy.lava.runner import run_lava
from spikefold.deploy.onnx_runner import ClipRunner
from spikefold.deploy.tuned import find_file
from spikefold.errors import InputError

if TYPE_CHECKING:
    from spikefold.converters.fast import FastRun

Backend = Literal["fast", "onnx", "lava", "torch", "reference"]
BACKENDS: tuple[Backend, ...] = ("fast", "onnx", "lava", "torch", "reference")
Net: TypeAlias = FixedPointGraph | str | os.PathLike[str]


@dataclass(frozen=True, repr=False)
class Run(Shown, by="spikefold.deploy.notebook"):
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
        """Share of right classes; InputError where `check_labels` refuses the labels."""
        return float(are_right(self.logits, labels).mean())


def are_right(logits: NDArray[Any], labels: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Which samples the greatest of ``logits`` ``[B, classes]`` names rightly; bool ``[B]``."""
    check_labels(labels, *logits.shape)
    return np.asarray(logits.argmax(1) == labels)


def check_labels(labels: NDArray[np.integer[Any]], samples: int, classes: int) -> None:
    """Refuse labels by which an accuracy would say nothing.

    Raises
    ------
    InputError
        There are not as many as samples, or one is of a class that the net does not tell.
    """
    if labels.shape != (samples,):
        raise InputError(f"labels have shape {labels.shape}; {samples} clips need ({samples},)")
    if samples and int(labels.max()) >= classes:
        raise InputError(
            f"labels: value {int(labels.max())}; the net tells {classes} classes, numbered from 0 to {classes - 1}: "
            "give the data that it was trained for"
        )


def open_net(net: Net) -> FixedPointGraph:
    """The net itself, or what a file holds: our ``.nir``, maybe a shipped one by name, or lava-dl's ``.net``."""
    if isinstance(net, FixedPointGraph):
        return net
    path = find_file(net)
    if path.suffix not in (".nir", ".net"):
        raise InputError(f"net {net}: is no .nir file; `spikefold export` makes one of a trained net")
    return load_lava_dl(path) if path.suffix == ".net" else load_nir(path)


def run(
    net: Net,
    clips: NDArray[np.generic],
    backend: Backend = "fast",
    *,
    trace: bool = False,
    time_limit_s: float = 600.0,
    device: str = "cpu",
) -> Run:
    """Run clips through a deployed net.

    Parameters
    ----------
    net : FixedPointGraph or path
        A lowered net, a ``.nir`` file that `spikefold` wrote, or a ``.net`` of lava-dl.
    clips : integer array ``[T, B, *input_shape]``
        Binary events, or small unsigned integers if the net was calibrated with them.
    backend : "fast", "onnx", "lava", "torch" or "reference"
        All give the same bits.
    trace : bool
        Keep every spike and membrane value.
    time_limit_s : float
        Seconds after which a Lava run is ended.
    device : str
        Where "torch" computes, such as "cuda"; all other backends use the CPU.

    Raises
    ------
    InputError
        The clips do not fit the net, the backend is unknown, or another than "torch" is to use another device.
    BackendError
        The backend is missing, failed, or ran past its limit.
    """
    graph = open_net(net)
    if device != "cpu" and backend != "torch":
        raise InputError(f"device is {device!r}, but backend {backend!r} computes on the CPU: choose backend 'torch'")
    start = time.perf_counter()
    if backend in ("fast", "onnx"):
        result = _run_fast(graph, clips, trace) if backend == "fast" else ClipRunner(graph, trace=trace).run(clips)
        logits, inputs, kept = result.logits, result.input_counts, result.trace
        spikes, synops, sent = result.spike_counts, result.synops, result.sent
    else:
        whole = check_input(graph, clips)
        if backend == "lava":
            kept = run_lava(graph, whole, time_limit_s=time_limit_s)
        elif backend == "torch":
            kept = run_engine(graph, whole, device)
        elif backend == "reference":
            kept = run_reference(graph, whole)
        else:
            raise InputError(f"backend is {backend!r}; choose one of {', '.join(BACKENDS)}")
        logits, inputs = kept.logits, np.count_nonzero(whole, axis=(0, *range(2, whole.ndim))).astype(np.int64)
        spikes, synops = counts_from_trace(graph, whole, kept)
        trains: dict[str, NDArray[np.generic]] = {graph.input.name: whole, **kept.spikes}
        sent = {name: np.asarray(np.count_nonzero(train, axis=1)) for name, train in trains.items()}
    seconds = time.perf_counter() - start
    return Run(graph, backend, len(clips), logits, inputs, spikes, synops, sent, kept, seconds)


def _run_fast(graph: FixedPointGraph, clips: NDArray[np.generic], trace: bool) -> FastRun:
    from spikefold.converters.fast import FastEngine  # brings numba along, which nothing else needs

    return FastEngine(graph).run(clips, trace=trace, sent=True)


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
