"""Many variants, modes, settings and chips at once: each part of the work once, on as many workers as there are.

Four stages, each a set of jobs that do not depend on each other: calibrate a net on a seed's samples; lower it in a
mode; run the integer net on a shard of the clips, its float net beside it, and place it on the cores of a chip. Which
jobs there are does not depend on who does them. Counts are whole numbers and are added up exactly; whatever float
arithmetic decides is done in one thread. So the table is the same for any number of workers of one kind of machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import nir
import numpy as np
import torch
from numpy.typing import NDArray

from spikefold.converters.calibrate import BATCH
from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.lower import ATTENTIONS, Attention
from spikefold.deploy import sweep_jobs
from spikefold.deploy.activity import Activity
from spikefold.deploy.cache import Cache, code_version
from spikefold.deploy.comparison import Paired, paired
from spikefold.deploy.hardware import ChipHardware, OperationsHardware, load_hardware
from spikefold.deploy.mapping.layout import Mapping
from spikefold.deploy.price import check_priced, price
from spikefold.deploy.price_record import Price
from spikefold.deploy.run import Run, are_right, open_net
from spikefold.deploy.sources import NamedNet
from spikefold.deploy.stored import Stored, digest, unpack
from spikefold.deploy.sweep_jobs import Clips, Counted, Gates, merge, read_mapping
from spikefold.deploy.workers import Job, Workers
from spikefold.errors import FileFormatError, InputError
from spikefold.work import work

CALIBRATION_SAMPLES = 128
SHARD = 5 * BATCH
"""Samples of one job. A multiple of the float nets' batches, so that these do not depend on it."""

Report = Callable[[str], None]
Net: TypeAlias = NamedNet | FixedPointGraph | str | os.PathLike[str]
T = TypeVar("T")


@dataclass(frozen=True)
class SweepRow:
    """One variant in one setting on one piece of hardware."""

    net: str
    mode: str
    bits: int | None
    """Of a weight; None for a net that came lowered."""
    threshold_levels: int | None
    """Most that a layer may have; None: any, or as a net that came lowered has them."""
    seed: int | None
    """Which training samples calibrated it; None: the first ones, or a net that came lowered."""
    hardware: str
    right: NDArray[np.bool_]
    """Which samples the integer net gets right, ``[samples]``."""
    against_float: Paired | None
    """From the float net as captured to the integers; None for a net that came lowered."""
    against_first: Paired
    """From the first row to this one."""
    activity: Activity
    price: Price

    @property
    def accuracy(self) -> float:
        """Share of right classes."""
        return float(self.right.mean())


@dataclass(frozen=True)
class Sweep:
    """The rows of a sweep, and how many jobs were computed for them or had been before."""

    rows: tuple[SweepRow, ...]
    computed: int
    reused: int


class _Source(NamedTuple):
    """A captured net, and the digest of it."""

    name: str
    graph: nir.NIRGraph
    key: str


class _Setting(NamedTuple):
    """A net in one setting. ``source`` is its number among the nets that were to be lowered, None for a lowered one."""

    net: str
    source: int | None
    mode: str
    bits: int | None
    threshold_levels: int | None
    seed: int | None
    graph: FixedPointGraph


class _Bench:
    """Does jobs whose results are not in the cache, and counts both."""

    def __init__(self, workers: Workers, cache: Cache | None, report: Report) -> None:
        self.workers, self.cache, self.report = workers, cache, report
        self.computed = self.reused = 0

    def do(self, kind: str, jobs: dict[str, Job], read: Callable[[str, Stored], T]) -> Iterator[tuple[str, T]]:
        """Key and result of every job, in no certain order; results are kept as they come."""
        missing = []
        for key in jobs:
            found = self._look_up(kind, key, read)
            if found is None:
                missing.append(key)
            else:
                yield key, found
        self.computed += len(missing)
        self.reused += len(jobs) - len(missing)
        done = len(jobs) - len(missing)
        with work(len(missing), "jobs") as advance:
            for number, stored in self.workers.results([jobs[key] for key in missing]):
                key, done = missing[number], done + 1
                if self.cache is not None:
                    self.cache.put(kind, key, stored)
                self.report(f"{kind}: {done} of {len(jobs)} jobs")
                advance(1)
                yield key, read(key, stored)

    def _look_up(self, kind: str, key: str, read: Callable[[str, Stored], T]) -> T | None:
        stored = None if self.cache is None else self.cache.get(kind, key)
        if self.cache is None or stored is None:
            return None
        try:
            return read(key, stored)
        except FileFormatError as error:
            self.cache.remove_damaged(kind, key, error)
            return None


def sweep(
    nets: Sequence[Net],
    training_clips: Clips,
    clips: Clips,
    labels: NDArray[np.int64],
    *,
    modes: Sequence[Attention] = ("static",),
    bits: Sequence[int] = (8,),
    threshold_levels: Sequence[int | None] = (None,),
    seeds: Sequence[int | None] = (None,),
    hardware: Sequence[str | Path] = ("loihi1",),
    calibration_samples: int = CALIBRATION_SAMPLES,
    shard: int = SHARD,
    jobs: int = -1,
    cluster: str | None = None,
    cache: bool = True,
    report: Report = lambda _: None,
) -> Sweep:
    """Run every net in every setting on test clips, and price it on every chip.

    Parameters
    ----------
    nets
        Trained modules in evaluation mode, each lowered in every setting, and lowered nets or their ``.nir``, which
        are taken as they are. The first is what the others are compared with.
    training_clips : array ``[T, N, *features]``
        Training samples, of which `calibration_samples` calibrate; not looked at where all nets are lowered already.
    clips : array ``[T, N, *features]``
        Samples to be judged on.
    labels : int64 ``[N]``
        Classes of ``clips``.
    modes : sequence of "static", "scheduled", "causal", "dynamic"
        A net without gates has one, "none".
    bits : sequence of int
        Widths of a weight.
    threshold_levels : sequence of int or None
        Most thresholds that a layer may have; None: any.
    seeds : sequence of int or None
        Each draws training samples to calibrate on; None takes the first, as `compare` does.
    hardware
        Names or YAML paths, each with energies.
    calibration_samples : int
        How many training samples calibrate.
    shard : int
        Test samples of one job. The integers do not depend on it, nor does the float net where it is a multiple of 50.
    jobs : int
        Processes on this machine: 1 is none beside this one, -1 one a core.
    cluster : str, optional
        Address of a running Dask scheduler, which is used instead.
    cache : bool
        Take what was computed before from the cache (`spikefold.deploy.cache`), and keep there what is computed, so
        that an interrupted sweep goes on where it was.
    report : callable
        Called with a line on what happens next.

    Returns
    -------
    Sweep
        Rows in the order net, seed, mode, bits, threshold levels, hardware.

    Raises
    ------
    InputError
        Labels, settings or clips do not fit.
    BackendError
        There is no such cluster, or workers were lost again and again.
    HardwareConfigError
        A description is broken, or has no energies.
    """
    if len(labels) != clips.shape[1] or not len(labels):
        raise InputError(f"{len(labels)} labels for {clips.shape[1]} clips")
    if unknown := [m for m in modes if m not in ATTENTIONS]:
        raise InputError(f"attention modes {unknown}: choose among {', '.join(ATTENTIONS)}")
    for name, values in {"nets": nets, "modes": modes, "bits": bits, "threshold levels": threshold_levels,
                         "seeds": seeds, "hardware": hardware}.items():  # fmt: skip
        if not values:
            raise InputError(f"{name}: give at least one")
    for name, number in {"samples of a shard": shard, "calibration samples": calibration_samples}.items():
        if number < 1:
            raise InputError(f"{name}: {number}; at least 1 is needed")
    chips = [check_priced(load_hardware(h)) for h in hardware]
    with Workers(jobs, cluster) as workers:
        bench = _Bench(workers, Cache() if cache else None, report)
        sources = _capture([n for n in nets if isinstance(n, NamedNet)], training_clips, report)
        samples = {seed: _draw(training_clips, seed, calibration_samples) for seed in seeds} if sources else {}
        lowered = _lower(bench, sources, samples, modes, bits, threshold_levels)
        settings = _in_order(nets, lowered)
        shards = [np.ascontiguousarray(clips[:, start : start + shard]) for start in range(0, clips.shape[1], shard)]
        runs = _run(bench, [s.graph for s in settings], shards)
        floats = _run_float(bench, sources, shards)
        mappings = _place(bench, [s.graph for s in settings], chips)
        rows: list[SweepRow] = []
        for setting in settings:
            report(f"{setting.net} {setting.mode}: pricing")
            key = digest(setting.graph.to_plain())
            counted = runs[key]
            right = are_right(counted.logits, labels)
            first = rows[0].right if rows else right
            before = None if setting.source is None else floats[setting.source] == labels
            for i, chip in enumerate(chips):
                rows.append(
                    SweepRow(
                        setting.net, setting.mode, setting.bits, setting.threshold_levels, setting.seed, chip.name,
                        right, None if before is None else paired(before, right), paired(first, right),
                        counted.activity, price(counted, chip, mappings.get((key, i))),
                    )
                )  # fmt: skip
    return Sweep(tuple(rows), bench.computed, bench.reused)


def _capture(nets: Sequence[NamedNet], clips: Clips, report: Report) -> list[_Source]:
    """Graphs of trained modules: they travel to workers, which need not have the user's code."""
    sources = []
    for net in nets:
        report(f"{net.name}: capturing")
        captured = capture(net.module, torch.from_numpy(np.ascontiguousarray(clips[:, :1])))
        sources.append(_Source(net.name, captured, digest(captured)))
    return sources


def _draw(clips: Clips, seed: int | None, count: int) -> Clips:
    """Training samples to calibrate on."""
    if seed is None:
        return np.ascontiguousarray(clips[:, :count])
    chosen = np.random.default_rng(seed).permutation(clips.shape[1])[:count]
    return np.ascontiguousarray(clips[:, np.sort(chosen)])


def _lower(
    bench: _Bench, sources: Sequence[_Source], samples: dict[int | None, Clips], modes: Sequence[Attention],
    bits: Sequence[int], levels: Sequence[int | None],
) -> list[_Setting]:  # fmt: skip
    names = {seed: digest(clips) for seed, clips in samples.items()}
    keys = {(i, seed): _key(s.key, names[seed]) for i, s in enumerate(sources) for seed in samples}
    jobs = {k: Job(sweep_jobs.calibrate_gates, (sources[i].graph, samples[seed])) for (i, seed), k in keys.items()}
    gates = dict(bench.do("calibration", jobs, lambda _, stored: unpack(Gates, stored)))
    wanted: list[tuple[tuple[int, int | None, Attention, int, int | None], str]] = []
    jobs = {}
    for (i, seed), calibrated in keys.items():
        for mode, width, most in product(modes if gates[calibrated] else modes[:1], bits, levels):
            key = _key(calibrated, sources[i].name, mode, width, most)
            arguments = (sources[i].graph, samples[seed], gates[calibrated], mode, width, most, sources[i].name)
            jobs[key] = Job(sweep_jobs.lower_net, arguments)
            wanted.append(((i, seed, mode, width, most), key))
    graphs = dict(bench.do("lowered", jobs, lambda _, stored: FixedPointGraph.from_plain(*stored)))
    return [
        _Setting(sources[i].name, i, graphs[key].attention, width, most, seed, graphs[key])
        for (i, seed, _, width, most), key in wanted
    ]


def _in_order(nets: Sequence[Net], lowered: list[_Setting]) -> list[_Setting]:
    """Settings of all nets in the order of ``nets``."""
    settings, number = [], 0
    for net in nets:
        if isinstance(net, NamedNet):
            settings += [s for s in lowered if s.source == number]
            number += 1
        else:
            graph = open_net(net)
            name = graph.name if isinstance(net, FixedPointGraph) else Path(net).stem
            settings.append(_Setting(name, None, graph.attention, None, None, None, graph))
    return settings


def _run(bench: _Bench, graphs: Iterable[FixedPointGraph], shards: Sequence[Clips]) -> dict[str, Run]:
    """Runs by the digest of their net; shards are added up as they come, for what neurons sent may be large."""
    distinct = {digest(graph.to_plain()): graph for graph in graphs}
    jobs: dict[str, Job] = {}
    owners: dict[str, list[tuple[str, int]]] = {}
    for i, shard in enumerate(shards):
        content = digest(shard)
        for g, graph in distinct.items():
            jobs[key := _key(g, content)] = Job(sweep_jobs.run_integers, (graph, shard))
            owners.setdefault(key, []).append((g, i))
    sent: dict[str, dict[str, NDArray[np.int64]]] = {g: {} for g in distinct}
    rest: dict[str, dict[int, Counted]] = {g: {} for g in distinct}
    for key, counted in bench.do("run", jobs, lambda _, stored: unpack(Counted, stored)):
        for g, i in owners[key]:
            sent[g] = {name: sent[g].get(name, 0) + events for name, events in counted.sent.items()}
            rest[g][i] = replace(counted, sent={})
    steps = len(shards[0])
    return {g: merge(graph, steps, [rest[g][i] for i in range(len(shards))], sent[g]) for g, graph in distinct.items()}


def _run_float(bench: _Bench, sources: Sequence[_Source], shards: Sequence[Clips]) -> list[NDArray[np.int64]]:
    """Classes that each float net says, ``[samples]``."""
    keys = [[_key(source.key, digest(shard)) for shard in shards] for source in sources]
    jobs = {
        key: Job(sweep_jobs.run_float, (source.graph, shard))
        for source, row in zip(sources, keys, strict=True)
        for key, shard in zip(row, shards, strict=True)
    }
    classes = dict(bench.do("float", jobs, lambda _, stored: unpack(NDArray[np.int64], stored)))
    return [np.concatenate([classes[key] for key in row]) for row in keys]


def _place(
    bench: _Bench, graphs: Iterable[FixedPointGraph], chips: Sequence[ChipHardware | OperationsHardware]
) -> dict[tuple[str, int], Mapping]:
    """Mappings by the digest of the net and the number of the chip; a table of operations has none."""
    distinct = {digest(graph.to_plain()): graph for graph in graphs}
    jobs: dict[str, Job] = {}
    keys: dict[tuple[str, int], str] = {}
    owners: dict[str, FixedPointGraph] = {}
    for (g, graph), (i, chip) in product(distinct.items(), enumerate(chips)):
        if isinstance(chip, ChipHardware):
            key = keys[g, i] = _key(g, chip.model_dump_json())
            jobs[key], owners[key] = Job(sweep_jobs.place_net, (graph, chip)), graph
    made = dict(bench.do("placement", jobs, lambda key, stored: read_mapping(owners[key], stored)))
    return {pair: made[key] for pair, key in keys.items()}


def _key(*parts: object) -> str:
    return digest(code_version(), *parts)
