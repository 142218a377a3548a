"""What the report shows beyond the rows of a comparison, collected while it is made.

Rates are of all test samples. Everything that holds single spikes or values is bounded: rasters, errors and
certificates are of the first few samples, rasters of some neurons of each layer, maps of at most so many pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons
from spikefold.converters.float_graph import FloatPopulation, read_float_graph
from spikefold.converters.gate_float import run_float
from spikefold.converters.reference import check_input
from spikefold.deploy.certificate import Certificate, certify
from spikefold.deploy.comparison import Made, Row
from spikefold.deploy.equality import check_backends
from spikefold.deploy.hardware import Hardware
from spikefold.deploy.layer_energy import LayerEnergy, layer_energies
from spikefold.deploy.layer_errors import measure_layers
from spikefold.deploy.mapping.layout import Mapping
from spikefold.deploy.run import run
from spikefold.deploy.teacher_forcing import Folding, check_folding
from spikefold.deploy.verify import Verification

RASTER_SAMPLES = 3
RASTER_NEURONS = 40
"""Of a layer, evenly spaced."""
GATE_SAMPLES = 32
CHECKED_SAMPLES = 8
"""Of errors by layer and of the certificate."""
MAP_PIXELS = 64
"""Most rows and columns of a map, and most channels of a profile; larger ones are shown thinned out."""

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Raster:
    """Messages of some neurons of one layer (0 and 1 for spikes), ``[T, samples, shown]``."""

    layer: str
    neurons: int
    shown: NDArray[np.int64]
    """Which, in C order of the layer's shape."""
    sent: NDArray[np.int64]


@dataclass(frozen=True)
class GateView:
    """One gate before lowering, and what lowering left of it.

    ``space_*`` are ``[H, W]`` or None where the gate has no pixels; ``time_*`` are ``[T]`` or None where it is the
    same in every step; ``channel_*`` are ``[C]`` or None where it is the same in every channel. Each is a mean over the
    other axes. ``*_low`` and ``*_high`` are the smallest and the largest of the test samples looked at.
    """

    layer: str
    shape: tuple[int, ...]
    """``[T or 1, *features or 1]``."""
    variation: float
    samples: int
    space_mean: Float | None
    space_deviation: Float | None
    """Standard deviation over the samples looked at."""
    space_sample: Float | None
    """The first sample's own."""
    time_mean: Float | None
    time_low: Float | None
    time_high: Float | None
    channel_mean: Float | None
    channel_low: Float | None
    channel_high: Float | None
    thresholds: Float | None
    """Of the deployed neurons, in real units, ``[H, W]``, where folding made them differ from pixel to pixel."""


@dataclass(frozen=True)
class FormEvidence:
    """What was seen of one row. ``certificate`` is None where a backend differed: ``verification`` says where."""

    row: Row
    hardware: tuple[Hardware, ...]
    energies: dict[str, list[LayerEnergy]]
    """By the name of the hardware; the memory model's, which stands beside the table of operations, included."""
    rates: dict[str, Float]
    """Messages per neuron and step, ``[T]`` each, the input first; a relay's are those other than 0."""
    rasters: tuple[Raster, ...]
    gates: tuple[GateView, ...]
    verification: Verification
    """On the first samples, Lava left out: the row has it."""
    certificate: Certificate | None
    mappings: dict[str, Mapping]


class Evidence:
    """Collects what a report shows while `spikefold.compare` runs: hand it ``watch=evidence.add``.

    Parameters
    ----------
    data : str
        What the test samples are, in words that let others get them.
    report : callable
        Called with a line on what happens next.
    """

    def __init__(self, data: str, report: Callable[[str], None] = lambda _: None) -> None:
        self.data = data
        self.forms: list[FormEvidence] = []
        self._report = report
        self._folding: dict[int, tuple[Any, Folding]] = {}

    @property
    def rows(self) -> list[Row]:
        """Those of the comparison, in its order."""
        return [form.row for form in self.forms]

    def add(self, made: Made) -> None:
        """Look at one row more."""
        row, fixed = made.row, made.row.fixed
        checked = check_input(fixed, made.clips[:, :CHECKED_SAMPLES])
        self._report(f"{row.title}: errors of each layer on {checked.shape[1]} samples")
        captured, lowered = read_float_graph(made.captured), read_float_graph(made.lowered)
        if id(made.module) not in self._folding:  # the module is kept, so that no other gets its id
            self._folding[id(made.module)] = made.module, check_folding(made.module, captured, checked)
        labels = made.labels[: checked.shape[1]]
        errors = measure_layers(captured, lowered, fixed, made.calibration, checked, labels)
        self._report(f"{row.title}: every backend on {checked.shape[1]} samples")
        equality = check_backends(fixed, checked, lava_samples=0)
        verification = Verification(
            checked.shape[1], len(checked), fixed.attention, self._folding[id(made.module)][1], errors.attention,
            errors.quantisation, errors.states, equality,
        )  # fmt: skip
        certificate = certify(fixed, checked, equality, self.data) if all(e.equal for e in equality) else None
        self.forms.append(
            FormEvidence(
                row, made.hardware, _energies(made), _rates(made), _rasters(fixed, made.clips[:, :RASTER_SAMPLES]),
                _gates(made), verification, certificate, made.mappings,
            )
        )  # fmt: skip


def _energies(made: Made) -> dict[str, list[LayerEnergy]]:
    pairs = zip(made.row.prices, made.hardware, strict=True)
    found = {p.hardware: layer_energies(made.run, p, h, made.mappings.get(p.hardware)) for p, h in pairs}
    memory = [p for p in made.row.beside if p.family == "memory" and not p.is_ann]
    tables = {h.name: h for h in made.hardware}
    for price in memory:
        found[price.hardware] = layer_energies(made.run, price, tables[price.hardware.removesuffix("-memory")])
    return found


def _rates(made: Made) -> dict[str, Float]:
    samples = made.row.samples
    silent = {n.name for n in made.row.fixed.neurons if n.is_readout}
    return {
        name: sent.reshape(len(sent), -1).mean(axis=1) / samples
        for name, sent in made.run.sent.items()
        if name not in silent
    }


def thinned(length: int, most: int) -> NDArray[np.int64]:
    """At most so many places of ``length``, evenly spaced, the first among them."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(np.int64))


def _rasters(fixed: FixedPointGraph, clips: NDArray[np.generic]) -> tuple[Raster, ...]:
    trace = run(fixed, clips, trace=True).trace
    trains = {fixed.input.name: np.asarray(clips, np.int64)} | ({} if trace is None else trace.spikes)
    found = []
    for name in [fixed.input.name, *(n.name for n in fixed.neurons if not n.is_readout)]:
        flat = trains[name].reshape(*trains[name].shape[:2], -1)
        shown = thinned(flat.shape[2], RASTER_NEURONS)
        found.append(Raster(name, flat.shape[2], shown, flat[..., shown]))
    return tuple(found)


def _gates(made: Made) -> tuple[GateView, ...]:
    net, statistics = read_float_graph(made.captured), made.calibration.gates
    found: dict[str, Float] = {}

    def watch(population: FloatPopulation, current: torch.Tensor, _: torch.Tensor) -> None:
        if population.name in statistics and population.gate is not None:
            gate = run_float(population.gate, current)
            found[population.name] = gate.expand(gate.shape[0], current.shape[1], *gate.shape[2:]).double().numpy()

    if statistics:
        some = np.ascontiguousarray(made.clips[:, :GATE_SAMPLES])
        with torch.no_grad():
            net.run(torch.from_numpy(some).float(), watch)
    deployed = {n.name: n for n in made.row.fixed.neurons}
    return tuple(
        _gate_view(name, statistics[name].mean, statistics[name].variation, values, deployed.get(name))
        for name, values in found.items()
    )


def _gate_view(name: str, mean: Float, variation: float, values: Float, deployed: Neurons | None) -> GateView:
    """Profiles of a calibrated ``mean`` ``[T, *features]`` and of ``values`` ``[T, B, *features]``."""
    pixels = mean.ndim == 4 and mean.shape[2] * mean.shape[3] > 1
    spatial = _map(values.mean(axis=(0, 2))) if pixels else None
    steps = values.mean(axis=tuple(range(2, values.ndim))) if len(mean) > 1 else None
    channels = values.mean(axis=(0, *range(3, values.ndim))) if mean.shape[1] > 1 else None
    kept = thinned(mean.shape[1], MAP_PIXELS)
    return GateView(
        name, mean.shape, variation, values.shape[1],
        _map(mean.mean(axis=(0, 1))) if pixels else None,
        None if spatial is None else spatial.std(axis=0), None if spatial is None else spatial[0],
        None if steps is None else mean.reshape(len(mean), -1).mean(axis=1),
        None if steps is None else steps.min(axis=1), None if steps is None else steps.max(axis=1),
        None if channels is None else mean.mean(axis=(0, *range(2, mean.ndim)))[kept],
        None if channels is None else channels.min(axis=0)[kept],
        None if channels is None else channels.max(axis=0)[kept],
        None if deployed is None else _threshold_map(deployed),
    )  # fmt: skip


def _threshold_map(deployed: Neurons) -> Float | None:
    threshold = deployed.v_threshold
    if not deployed.fires or len(deployed.shape) != 3 or threshold.ndim != 3 or threshold.shape[1:] == (1, 1):
        return None
    return _map(threshold.mean(axis=0) * deployed.unit)


def _map(values: Float) -> Float:
    """The last two axes of ``[..., H, W]``, thinned out."""
    rows, columns = thinned(values.shape[-2], MAP_PIXELS), thinned(values.shape[-1], MAP_PIXELS)
    return np.asarray(values[..., rows[:, None], columns[None, :]])
