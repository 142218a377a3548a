"""One integer net on every backend: every spike, membrane value and logit against the numpy reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.calibrate import batches
from spikefold.converters.engine import run_engine
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.nir_file import load_nir, save_nir
from spikefold.converters.onnx import has_step_form, to_onnx_step
from spikefold.converters.reference import Trace, read_out, run_reference
from spikefold.deploy.lava.runner import run_lava
from spikefold.deploy.onnx_runner import ClipRunner, StepRunner
from spikefold.deploy.run import differences_by_layer
from spikefold.errors import InputError

VerifiedBackend = Literal["fast", "torch", "onnx", "lava"]
BACKENDS: tuple[VerifiedBackend, ...] = ("fast", "torch", "onnx", "lava")
BATCH = 16


@dataclass(frozen=True)
class LayerEquality:
    """One population: values compared (as many spikes as membranes), and how many of each differ.

    What a relay sends counts as its spikes.
    """

    name: str
    values: int
    spike_differences: int
    membrane_differences: int


@dataclass(frozen=True)
class BackendEquality:
    """One backend against the numpy reference: values compared, and how many of them differ (0 expected)."""

    backend: str
    samples: int = 0
    time_steps: int = 0
    layers: tuple[LayerEquality, ...] = ()
    logits: int = 0
    logit_differences: int = 0

    @property
    def values(self) -> int:
        """Spikes compared, and as many membranes."""
        return sum(layer.values for layer in self.layers)

    @property
    def spike_differences(self) -> int:
        """Spikes that differ, over all layers."""
        return sum(layer.spike_differences for layer in self.layers)

    @property
    def membrane_differences(self) -> int:
        """Membranes that differ, over all layers."""
        return sum(layer.membrane_differences for layer in self.layers)

    @property
    def equal(self) -> bool:
        """Whether something was compared and every bit is equal."""
        return self.samples > 0 and not (self.spike_differences or self.membrane_differences or self.logit_differences)

    def plus(self, expected: Trace, actual: Trace) -> BackendEquality:
        """The same with one more run counted in."""
        steps, samples = next(iter(expected.spikes.values())).shape[:2]
        found = differences_by_layer(expected, actual)
        counted = {layer.name: layer for layer in self.layers}
        layers = []
        for name, (spikes, membranes) in found.items():
            so_far = counted.get(name, LayerEquality(name, 0, 0, 0))
            layers.append(
                LayerEquality(
                    name, so_far.values + expected.spikes[name].size, so_far.spike_differences + spikes,
                    so_far.membrane_differences + membranes,
                )
            )  # fmt: skip
        return replace(
            self,
            samples=self.samples + samples,
            time_steps=steps,
            layers=tuple(layers),
            logits=self.logits + expected.logits.size,
            logit_differences=self.logit_differences + int((expected.logits != actual.logits).sum()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and texts, sums over the layers included."""
        sums = {k: getattr(self, k) for k in ("values", "spike_differences", "membrane_differences", "equal")}
        return {**asdict(self), **sums}


def check_backends(
    graph: FixedPointGraph,
    clips: NDArray[np.generic],
    backends: Sequence[VerifiedBackend] = BACKENDS,
    lava_samples: int = 4,
    time_limit_s: float = 600.0,
) -> tuple[BackendEquality, ...]:
    """Run an integer net on every backend and count what differs from the numpy reference; see `verify`."""
    unknown = [b for b in backends if b not in BACKENDS]
    if unknown:
        raise InputError(f"backend {unknown[0]!r} is unknown; choose among {', '.join(BACKENDS)}")
    if lava_samples < 0:
        raise InputError(f"lava_samples is {lava_samples}; it must be 0 (leave Lava out) or more")
    names = [b for b in backends if b != "lava"] + (
        ["onnx step"] if "onnx" in backends and has_step_form(graph) else []
    )
    found = {name: BackendEquality(name) for name in [*names, "nir file"]}
    again = read_back(graph)
    onnx = ClipRunner(graph, trace=True) if "onnx" in names else None
    if "fast" in names:
        from spikefold.converters.fast import run_fast  # brings numba along
    stepped = StepRunner(to_onnx_step(graph)) if "onnx step" in names else None
    for batch in batches(clips, BATCH):
        expected = run_reference(graph, batch)
        runs: dict[str, Trace | None] = {"nir file": run_engine(again, batch)}
        if "fast" in names:
            runs["fast"] = run_fast(graph, batch)
        if "torch" in names:
            runs["torch"] = run_engine(graph, batch)
        if onnx is not None:
            runs["onnx"] = onnx.run(batch).trace
        if stepped is not None:
            runs["onnx step"] = run_steps(stepped, graph, batch)
        for name, trace in runs.items():
            if trace is not None:
                found[name] = found[name].plus(expected, trace)
    if "lava" in backends and lava_samples:
        some = clips[:, :lava_samples]
        lava = run_lava(graph, some, time_limit_s=time_limit_s)
        found["lava"] = BackendEquality("lava").plus(run_reference(graph, some), lava)
    return tuple(found.values())


def run_steps(runner: StepRunner, graph: FixedPointGraph, clips: NDArray[np.generic]) -> Trace:
    """Drive the step graph of ``graph`` through clips ``[T, B, *input_shape]``, handing its states on."""
    states = runner.initial_states(clips.shape[1])
    trains: dict[str, list[NDArray[np.int64]]] = {n.name: [] for n in graph.neurons}
    membranes: dict[str, list[NDArray[np.int64]]] = {n.name: [] for n in graph.neurons}
    for frame in clips:
        outputs, states = runner.step(frame, states)
        for name in trains:
            trains[name].append(outputs[f"train/{name}"].astype(np.int64))
            v = outputs[f"membrane/{name}"] if f"membrane/{name}" in outputs else states[f"v/{name}"]
            membranes[name].append(v.astype(np.int64))
    spikes, values = ({k: np.stack(v) for k, v in kept.items()} for kept in (trains, membranes))
    return Trace(spikes, values, read_out(graph.output, spikes, values, len(clips)))


def read_back(graph: FixedPointGraph) -> FixedPointGraph:
    """Write ``graph`` to a NIR file and read it."""
    with TemporaryDirectory(prefix="spikefold-verify-") as folder:
        return load_nir(save_nir(graph, Path(folder, "net.nir")))
