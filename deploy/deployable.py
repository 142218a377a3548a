"""Which registered networks can be lowered in which mode today, and what is in the way of the others.

The table is checked against the lowering itself by a test that lowers a narrow form of every network.
"""

from __future__ import annotations

from dataclasses import dataclass

from spikefold.converters.lower import ATTENTIONS
from spikefold.models.registry import full_name

_NOT_CAUSAL = {
    "tcja": "causal: a convolution over channels takes the steps as its channels, those to come as well",
    "dta": "causal: a branch merges steps and channels into one axis before it mixes them",
}


@dataclass(frozen=True)
class Deployable:
    """Modes of `spikefold.lower` that hold for a network, options as by default, and why the others do not."""

    hold: tuple[str, ...]
    refused: str


def deployable(name: str) -> Deployable:
    """Return what can be done with a registered network; InputError if there is none of that name."""
    refused = _NOT_CAUSAL.get(full_name(name).partition("-")[0])
    if refused is None:
        return Deployable(ATTENTIONS, "")
    return Deployable(tuple(mode for mode in ATTENTIONS if mode != "causal"), refused)
