"""What a price is made of: lines, each a count times a sourced energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from spikefold.converters.show import Shown
from spikefold.deploy.activity import Activity
from spikefold.deploy.quantity import Range

GATE_PROCESSOR = "gate processor (45 nm arithmetic + SRAM, estimate)"
"""What ``Price.gate_processor`` is called wherever it is shown."""

_NOTHING = Range.exact(0.0)


@dataclass(frozen=True)
class PriceLine:
    """One component of a price."""

    component: str
    kind: Literal["dynamic", "attention", "static"]
    count: float
    """Events per inference; chips for the static line."""
    unit_energy: Range
    """Energy of one event [J]."""

    @property
    def energy(self) -> Range:
        """Energy per inference [J]."""
        return self.unit_energy * self.count


@dataclass(frozen=True, repr=False)
class Price(Shown, by="spikefold.deploy.notebook"):
    """Energy [J] and time [s] of one inference on one hardware description."""

    hardware: str
    title: str
    family: Literal["chip", "operations", "memory"]
    estimate: bool
    """True where the constants themselves are an estimate; say so wherever the price is shown."""
    lines: tuple[PriceLine, ...]
    lower_bound: bool
    """True where ``total`` and ``latency`` lack work on a chip that no source prices: see ``notes``."""
    gate_operations: float
    gate_processor: Range | None
    """Gate work on a separate digital block [J], see ``GATE_PROCESSOR``; never part of ``total``."""
    fits: bool | None
    """False when the chip cannot run the net as it is, ``fit_notes`` says why; None where nothing was mapped."""
    fit_notes: tuple[str, ...]
    notes: tuple[str, ...]
    cores: int | None = None
    """Cores of the mapping."""
    chips: int | None = None
    """Chips of the mapping."""
    steps: int | None = None
    """Time steps from the first of a clip to its answer: T, and one for each connection on the longest way."""
    latency: Range | None = None
    """Time of these steps [s], each as long as its busiest core, the longest way of a message and a barrier take."""
    is_ann: bool = False
    """Whether the price is of the ANN of the same shape."""
    delayed: float | None = None
    """Steps that messages are held in delay lines so that branches of unequal depth meet, over all messages: counted
    only, as no source gives an energy of it."""

    @property
    def total(self) -> Range:
        """All lines [J]."""
        return sum((line.energy for line in self.lines), _NOTHING)

    @property
    def total_without_attention(self) -> Range | None:
        """The total as papers state it, attention's own operations left out [J]; None for a chip."""
        return None if self.family == "chip" else self._sum("dynamic")

    @property
    def attention(self) -> Range:
        """Attention's own operations, where they are part of the total [J]."""
        return self._sum("attention")

    @property
    def dynamic(self) -> Range:
        """All lines but the static one [J]."""
        return self._sum("dynamic") + self._sum("attention")

    @property
    def static(self) -> Range:
        """Static power times latency [J]."""
        return self._sum("static")

    def _sum(self, kind: str) -> Range:
        return sum((line.energy for line in self.lines if line.kind == kind), _NOTHING)

    def to_dict(self) -> dict[str, Any]:
        """Return everything ready for JSON: energies in joules, times in seconds."""

        def plain(quantity: Range | None) -> dict[str, float] | None:
            return None if quantity is None else quantity.to_dict()

        return {
            "hardware": self.hardware,
            "title": self.title,
            "family": self.family,
            "is_ann": self.is_ann,
            "estimate": self.estimate,
            "units": {"energy": "J", "time": "s"},
            "lines": [
                {
                    "component": line.component,
                    "kind": line.kind,
                    "count": line.count,
                    "unit_energy": line.unit_energy.to_dict(),
                    "energy": line.energy.to_dict(),
                }
                for line in self.lines
            ],
            "total": self.total.to_dict(),
            "total_without_attention": plain(self.total_without_attention),
            "dynamic": self.dynamic.to_dict(),
            "static": self.static.to_dict(),
            "lower_bound": self.lower_bound,
            "gate_operations": self.gate_operations,
            "gate_processor": plain(self.gate_processor),
            "fits": self.fits,
            "fit_notes": list(self.fit_notes),
            "notes": list(self.notes),
            "cores": self.cores,
            "chips": self.chips,
            "steps": self.steps,
            "latency": plain(self.latency),
            "delayed_message_steps": self.delayed,
        }


def silence_notes(activity: Activity) -> list[str]:
    """What a reader should know of a price of silence: that it is one."""
    if activity.input_spikes:
        return []
    if activity.spikes or activity.relay_messages:
        return ["the clips hold no input event: all spikes that are priced come from biases"]
    return ["the clips hold no input event and nothing spikes: this is the price of silence"]
