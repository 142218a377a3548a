"""The jobs of a sweep: what a worker does, from plain arguments to what a cache can keep (`stored.Stored`)."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import nir
import numpy as np
import torch
from numpy.typing import NDArray

from spikefold.converters.calibrate import Calibration, GateStatistics, calibrate, run_batches
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.lower import Attention, lower
from spikefold.converters.palette import palettise
from spikefold.deploy.count import Counts
from spikefold.deploy.hardware import ChipHardware
from spikefold.deploy.mapping.demand import Connection
from spikefold.deploy.mapping.layout import Mapping
from spikefold.deploy.mapping.mapper import map_net
from spikefold.deploy.run import Run, run
from spikefold.deploy.stored import Stored, pack, unpack

Clips = NDArray[np.generic]
Gates = dict[str, GateStatistics]
_FLOAT = threading.Lock()


@dataclass(frozen=True)
class Counted:
    """What a `Run` counted on some of the clips, without its net."""

    logits: NDArray[np.float64]
    input_counts: NDArray[np.int64]
    spike_counts: Counts
    synops: Counts
    sent: Counts


@contextmanager
def same_floats() -> Iterator[None]:
    """One thread for torch while the block runs: sums of floats come out the same wherever there are more.

    The number of threads belongs to a process, so that blocks in threads of one process wait for each other.
    """
    with _FLOAT:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def calibrate_gates(captured: nir.NIRGraph, clips: Clips) -> Stored:
    """Statistics of a net's gates, to be read as `Gates`."""
    with same_floats():
        return pack(calibrate(captured, clips).gates)


def lower_net(
    captured: nir.NIRGraph, clips: Clips, gates: Gates, mode: Attention, bits: int, levels: int | None, name: str
) -> Stored:
    """The integer net, as `FixedPointGraph.to_plain` writes it."""
    with same_floats():
        # Other widths than those of the annotation are refused by `lower`.
        graph = lower(captured, Calibration(clips, gates), mode, cast(Literal[8], bits), name)
    return (graph if levels is None else palettise(graph, clips, levels).graph).to_plain()


def run_float(captured: nir.NIRGraph, clips: Clips) -> Stored:
    """Classes ``[N]`` that the float net says, to be read as an array."""
    with same_floats():
        return pack(run_batches(read_float_graph(captured), clips).argmax(axis=1))


def run_integers(graph: FixedPointGraph, clips: Clips) -> Stored:
    """What the integer net does on some clips, to be read as `Counted`."""
    done = run(graph, clips)
    return pack(Counted(done.logits, done.input_counts, done.spike_counts, done.synops, done.sent))


def place_net(graph: FixedPointGraph, chip: ChipHardware) -> Stored:
    """The net on the cores of a chip, to be read by `read_mapping`."""
    return pack(map_net(graph, chip), leave_out=frozenset({"connections"}))


def read_mapping(graph: FixedPointGraph, stored: Stored) -> Mapping:
    """The mapping that `place_net` made of this net; its connections follow from the net."""
    return unpack(Mapping, stored, connections=tuple(Connection(graph, s) for s in graph.synapses))


def merge(graph: FixedPointGraph, time_steps: int, shards: Sequence[Counted], sent: Counts) -> Run:
    """One run from its shards, in the order of their samples; ``sent`` is added up already."""

    def whole(field: str) -> Counts:
        return {n: np.concatenate([getattr(s, field)[n] for s in shards]) for n in getattr(shards[0], field)}

    logits, inputs = (np.concatenate([getattr(s, field) for s in shards]) for field in ("logits", "input_counts"))
    return Run(graph, "onnx", time_steps, logits, inputs, whole("spike_counts"), whole("synops"), sent, None, 0.0)
