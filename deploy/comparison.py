"""What a comparison holds: a row for each net in each form, and which of two classifiers is right where."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray
from torch import nn

from spikefold.converters.calibrate import Calibration
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.show import Shown
from spikefold.deploy.activity import Activity
from spikefold.deploy.hardware import Hardware
from spikefold.deploy.mapping.layout import Mapping
from spikefold.deploy.neurobench_beside import Beside
from spikefold.deploy.price_record import Price
from spikefold.deploy.run import Run
from spikefold.deploy.threshold_cost import ThresholdCost
from spikefold.errors import InputError


@dataclass(frozen=True)
class Paired:
    """Two classifiers on the same samples: how many became right, how many became wrong.

    ``difference`` is second minus first; ``low`` and ``high`` are its 95 % interval for paired proportions after Bonett
    and Price (2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data").
    """

    samples: int
    gained: int
    lost: int
    difference: float
    low: float
    high: float


def paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Paired:
    """Compare which samples two classifiers got right, ``[N]`` each."""
    if first.shape != second.shape or first.size == 0:
        raise InputError(f"results of {first.shape} and {second.shape} samples cannot be paired")
    n = first.size
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = 1.959964 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return Paired(n, gained, lost, (gained - lost) / n, p - q - half, p - q + half)


@dataclass(frozen=True)
class LavaCheck:
    """Samples that Lava ran too, and what differed (0 is the promise)."""

    samples: int
    values: int
    different_spikes: int
    different_membranes: int


@dataclass(frozen=True, repr=False)
class Row(Shown, by="spikefold.deploy.notebook"):
    """One variant in one form: an attention mode, with its thresholds as they come or reduced to a few."""

    name: str
    mode: str
    samples: int
    accuracy_original: float
    accuracy_lowered: float
    accuracy_fixed: float
    lowering: Paired
    quantising: Paired
    gate_variation: dict[str, float]
    activity: Activity
    prices: tuple[Price, ...]
    beside: tuple[Price, ...]
    """What the prices by tables of operations compare with: memory included, and ANNs of the same shape."""
    lava: LavaCheck | None
    fixed: FixedPointGraph
    right: NDArray[np.bool_]
    """Which samples the integer net gets right, ``[samples]``."""
    neurobench: Beside | None
    """What NeuroBench counts of the module, beside what was mapped, on the first samples; None of a net that came as a
    file: there is no module."""
    threshold_costs: tuple[ThresholdCost, ...] = ()
    """Chips on which thresholds drive how many cores it takes."""
    threshold_levels: int | None = None
    """Most thresholds that a layer was reduced to."""
    reducing: Paired | None = None
    """What that changed: the integer net against the one with all its thresholds."""

    @property
    def form(self) -> str:
        """The mode, and to how many thresholds a layer it was reduced: "static with 16 thresholds"."""
        return self.mode + ("" if self.threshold_levels is None else f" with {self.threshold_levels} thresholds")

    @property
    def title(self) -> str:
        """Name and form."""
        return self.name if self.form == "none" else f"{self.name} {self.form}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the graph and single samples."""
        return {
            "net": self.name, "mode": self.mode, "threshold_levels": self.threshold_levels, "samples": self.samples,
            "accuracy": {
                "original": self.accuracy_original, "lowered_float": self.accuracy_lowered,
                "fixed_point": self.accuracy_fixed,
            },
            "lowering_changes": vars(self.lowering), "quantising_changes": vars(self.quantising),
            "reducing_changes": None if self.reducing is None else vars(self.reducing),
            "threshold_costs": [asdict(cost) for cost in self.threshold_costs],
            "gate_variation": self.gate_variation, "firing_rate": self.activity.firing_rate,
            "spikes": self.activity.spikes, "synops": self.activity.synops, "neuron_updates": self.activity.updates,
            "gate_operations": self.activity.gate_operations, "relay_messages": self.activity.relay_messages,
            "relay_operations": self.activity.relay_operations,
            "energy": {p.hardware: p.to_dict() for p in (*self.prices, *self.beside)},
            "lava": None if self.lava is None else vars(self.lava),
            "neurobench": None if self.neurobench is None else self.neurobench.to_dict(),
        }  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A row, and what it was made of, for whoever looks closer than a row does."""

    row: Row
    module: nn.Module
    captured: nir.NIRGraph
    """The float net, gates per clip."""
    lowered: nir.NIRGraph
    """The same with its attention lowered."""
    calibration: Calibration
    run: Run
    """Of the integer net on all ``clips``."""
    clips: NDArray[np.generic]
    labels: NDArray[np.int64]
    hardware: tuple[Hardware, ...]
    """In the order of the row's prices."""
    mappings: dict[str, Mapping]
    """By the name of the chip."""
