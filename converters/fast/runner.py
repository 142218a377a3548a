"""Run whole test sets through a `FixedPointGraph` on the processor, fast: the integers of the reference, in every bit.

A chunk of samples goes through all populations before the next: layer by layer with all steps at once, loops step by
step. Every thread takes chunks whose currents stay in its cache, with one thread inside each convolution; what a chunk
needs is held for the next one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from spikefold.converters import arithmetic
from spikefold.converters.fast import kernels
from spikefold.converters.fast.layout import unflat
from spikefold.converters.fast.stage import Held, Stage, fans, message_dtype
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.reference import Trace, check_input
from spikefold.converters.whole_sums import full_precision
from spikefold.work import Advance, work

Counts = dict[str, NDArray[np.int64]]

CHUNK_BYTES = 2**22
"""Currents of the largest population for all steps of a chunk: larger ones leave the caches, smaller ones pay calls."""


@dataclass(frozen=True)
class FastRun:
    """What a run of whole clips gave.

    ``logits`` is float64 ``[B, classes]``; ``input_counts``, ``spike_counts`` (per population) and ``synops`` (per
    synapse) are int64 ``[B]``: messages that are not 0, and those times their border-exact fan-out. ``sent`` (input and
    populations, int64 ``[T, *shape]``: when and where, summed over samples) and ``trace`` are there if asked for.
    """

    logits: NDArray[np.float64]
    input_counts: NDArray[np.int64]
    spike_counts: Counts
    synops: Counts
    sent: Counts
    trace: Trace | None = None


def run_fast(graph: FixedPointGraph, clips: NDArray[np.generic]) -> Trace:
    """Run clips ``[T, B, *shape]`` once and keep everything; equal to `run_reference` in every bit."""
    kept = FastEngine(graph).run(clips, trace=True).trace
    return cast(Trace, kept)


class FastEngine:
    """A net ready to run; keep it for further runs, and its memory is held with it. Threads may share it.

    Parameters
    ----------
    graph : FixedPointGraph
        Any net.

    Raises
    ------
    LoweringError
        Weighted sums could pass 2**53.
    """

    def __init__(self, graph: FixedPointGraph) -> None:
        self.graph = graph
        self._stages = {n.name: Stage(graph, n) for n in graph.neurons}
        self._fan, self._dtype = fans(graph, graph.input.name), message_dtype(graph, graph.input.name)
        self._outgoing = {
            name: [s.name for s in graph.synapses if s.source == name] for name in (graph.input.name, *self._stages)
        }
        self._spare: list[_Memory] = []

    def run(self, clips: NDArray[np.generic], *, trace: bool = False, sent: bool = False) -> FastRun:
        """Run clips ``[T, B, *shape]`` (integers), on as many threads as torch may use.

        Raises
        ------
        InputError
            The clips do not fit the input port.
        """
        whole = _checked(self.graph, clips)
        steps, batch = whole.shape[:2]
        result = _Result(self, steps, batch, sent, trace)
        threads = min(torch.get_num_threads(), batch)
        largest = 4 * steps * max((n.size for n in self.graph.neurons), default=1)
        chunk = max(1, min(CHUNK_BYTES // largest, -(-batch // threads)))
        starts, lock = iter(range(0, batch, chunk)), Lock()

        def take_chunks(advance: Advance) -> None:
            memory = self._memory(steps, chunk, sent, trace)
            with torch.inference_mode():
                for start in _each(starts, lock):
                    part = whole[:, start : start + chunk]
                    self._run_chunk(memory.for_batch(part.shape[1]), part)
                    result.take(memory.of_batch, start)
                    advance(part.shape[1])
            with lock:
                result.take_sent(memory)
                self._spare.append(memory)

        with work(batch) as advance, full_precision():
            if threads == 1 or batch <= chunk:
                take_chunks(advance)
            else:
                for done in [_pool(threads).submit(take_chunks, advance) for _ in range(threads)]:
                    done.result()
        return result.finished()

    def _memory(self, steps: int, chunk: int, sent: bool, trace: bool) -> _Memory:
        while self._spare:
            memory = self._spare.pop()
            if memory.key == (steps, chunk, sent, trace):
                return memory
        return _Memory(self, steps, chunk, sent, trace)

    def hold(self, steps: int, batch: int, sent: bool, trace: bool) -> dict[str, Held]:
        """Fresh memory for the input and all populations."""
        size = int(np.prod(self.graph.input.shape))
        port = Held(
            np.zeros((steps, batch, size), self._dtype),
            np.zeros((batch, 1 + len(self._fan)), np.int64),
            np.zeros((steps, size) if sent else (0, 0), np.int32),
        )
        return {self.graph.input.name: port, **{k: s.hold(steps, batch, sent, trace) for k, s in self._stages.items()}}

    def _run_chunk(self, held: dict[str, Held], clips: NDArray[Any]) -> None:
        graph, port = self.graph, held[self.graph.input.name]
        steps, batch = clips.shape[:2]
        channels = graph.input.shape[0] if len(graph.input.shape) == 3 else 1
        for h in held.values():
            h.counts[:], h.u[:], h.v[:] = 0, 0, 0
        kernels.take_in(clips.reshape(steps, batch, -1), channels, port.messages, self._fan, port.counts, port.sent)
        messages = {name: h.messages for name, h in held.items()}
        for block in graph.blocks:
            stretch = 1 if graph.is_loop(block) else steps
            for first in range(0, steps, stretch):
                for n in block:
                    self._stages[n.name].run(messages, held[n.name], first, stretch)


class _Memory:
    """What one thread holds: arrays for chunks of one size, and views of them for the last, smaller one."""

    def __init__(self, engine: FastEngine, steps: int, chunk: int, sent: bool, trace: bool) -> None:
        self.key = (steps, chunk, sent, trace)
        self._chunk = chunk
        self.held = self.of_batch = engine.hold(steps, chunk, sent, trace)

    def for_batch(self, batch: int) -> dict[str, Held]:
        """Contiguous arrays for ``batch`` samples."""
        if batch == self._chunk:
            self.of_batch = self.held
        else:
            self.of_batch = {
                name: Held(
                    _over_time(h.messages, batch), h.counts[:batch], h.sent, _over_time(h.membranes, batch),
                    h.u[:batch], h.v[:batch],
                )
                for name, h in self.held.items()
            }  # fmt: skip
        return self.of_batch


class _Result:
    """Where chunks put what they found."""

    def __init__(self, engine: FastEngine, steps: int, batch: int, sent: bool, trace: bool) -> None:
        self._graph, self._outgoing, self._steps = engine.graph, engine._outgoing, steps
        graph = engine.graph
        self._counts = {k: np.empty((batch, 1 + len(v)), np.int64) for k, v in self._outgoing.items()}
        self._sent = {k: np.zeros((steps, *graph.source_shape(k)), np.int64) for k in self._outgoing if sent}
        self._logits = np.empty((batch, graph.output.size))
        shapes = {n.name: (steps, batch, *n.shape) for n in graph.neurons if trace}
        self._spikes, self._membranes = ({k: np.empty(v, np.int64) for k, v in shapes.items()} for _ in range(2))

    def take(self, held: dict[str, Held], start: int) -> None:
        """Keep what a chunk that begins at sample ``start`` found."""
        graph, output = self._graph, self._graph.output
        last = held[output.name]
        some = slice(start, start + len(last.counts))
        for name, h in held.items():
            self._counts[name][some] = h.counts
        if output.fires:
            low, high = graph.message_range(output.name)
            few = low >= 0 and high * self._steps <= np.iinfo(np.uint8).max  # bytes add up twelve times as fast
            total = unflat(last.messages.sum(axis=0, dtype=np.uint8 if few else np.int64), output.shape)
            np.divide(total.reshape(len(total), -1), self._steps, out=self._logits[some], dtype=np.float64)
        else:
            v = unflat(last.v, output.shape).reshape(len(last.v), -1)
            self._logits[some] = v * (output.unit / 2**arithmetic.STATE_FRACTION_BITS / self._steps)
        for name in self._spikes:
            shape = graph.source_shape(name)
            self._spikes[name][:, some] = unflat(held[name].messages, shape)
            self._membranes[name][:, some] = unflat(held[name].membranes, shape)

    def take_sent(self, memory: _Memory) -> None:
        """Keep where messages were sent in the chunks of one thread."""
        for name, total in self._sent.items():
            total += unflat(memory.held[name].sent, self._graph.source_shape(name))
            memory.held[name].sent[:] = 0

    def finished(self) -> FastRun:
        """All of it, by name."""
        port = self._graph.input.name
        synops = {s: self._counts[k][:, 1 + j] for k, names in self._outgoing.items() for j, s in enumerate(names)}
        spikes = {k: counts[:, 0] for k, counts in self._counts.items() if k != port}
        trace = Trace(self._spikes, self._membranes, self._logits) if self._spikes else None
        return FastRun(
            self._logits, self._counts[port][:, 0], spikes, {s.name: synops[s.name] for s in self._graph.synapses},
            self._sent, trace,
        )  # fmt: skip


def _over_time(array: NDArray[Any], batch: int) -> NDArray[Any]:
    steps, _, size = array.shape
    return array.reshape(-1)[: steps * batch * size].reshape(steps, batch if steps else 0, size)


def _each(starts: Iterator[int], lock: Lock) -> Iterator[int]:
    """Chunks that no other thread has taken."""
    while True:
        with lock:
            start = next(starts, None)
        if start is None:
            return
        yield start


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads in each of which torch's own operations use one."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "spikefold", torch.set_num_threads, (1,))
    try:
        for started in [pool.submit(torch.get_num_threads) for _ in range(threads)]:
            started.result()
    finally:
        torch.set_num_threads(before)
    return pool


def _checked(graph: FixedPointGraph, clips: NDArray[np.generic]) -> NDArray[Any]:
    """Clips as they are if they are bytes that fit the port, else as int64 from `check_input`."""
    if clips.dtype == np.bool_:
        clips = clips.view(np.uint8)
    fits = clips.ndim == 2 + len(graph.input.shape) and clips.shape[2:] == graph.input.shape and clips.size
    in_range = clips.dtype == np.uint8 and fits and int(clips.max()) <= graph.input.max_value
    if in_range and graph.time_steps in (None, len(clips)):
        return np.ascontiguousarray(clips)
    return check_input(graph, clips)


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
