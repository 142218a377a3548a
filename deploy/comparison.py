"""What a comparison holds: a row for each net in each mode, and which of two classifiers is right where."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.deploy.activity import Activity
from spikefold.deploy.price_record import Price
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


@dataclass(frozen=True)
class Row:
    """One variant in one attention mode."""

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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without the graph and single samples."""
        return {
            "net": self.name, "mode": self.mode, "samples": self.samples,
            "accuracy": {
                "original": self.accuracy_original, "lowered_float": self.accuracy_lowered,
                "fixed_point": self.accuracy_fixed,
            },
            "lowering_changes": vars(self.lowering), "quantising_changes": vars(self.quantising),
            "gate_variation": self.gate_variation, "firing_rate": self.activity.firing_rate,
            "spikes": self.activity.spikes, "synops": self.activity.synops, "neuron_updates": self.activity.updates,
            "gate_operations": self.activity.gate_operations, "relay_messages": self.activity.relay_messages,
            "relay_operations": self.activity.relay_operations,
            "energy": {p.hardware: p.to_dict() for p in (*self.prices, *self.beside)},
            "lava": None if self.lava is None else vars(self.lava),
        }  # fmt: skip
