"""Which registered networks can be lowered in which mode today, and what is in the way of the others.

The table is checked against the lowering itself by a test that lowers a narrow form of every network.
"""

from __future__ import annotations

from dataclasses import dataclass

from spikefold.converters.lower import ATTENTIONS
from spikefold.models.registry import full_name

_CONVOLUTION_AFTER_CONVOLUTION = (
    "a padded map follows another without a neuron between them, which does not compose exactly at the border"
)
_STEP_ATTENTION_AFTER = "the step attention follows the neuron, so spikes carry numbers; step='pre' puts it before"
_REFUSED = {
    "sma": f"{_CONVOLUTION_AFTER_CONVOLUTION}; a softmax over scales mixes several spike trains",
    "staa-resnet19": _STEP_ATTENTION_AFTER,
    "staa-resnet20": _STEP_ATTENTION_AFTER,
    "tcsa": "a rectifier between gate and neuron; a reset to the threshold",
    "tcja": "the gate follows the neuron, so spikes carry numbers",
    "dta": "the gate follows the neuron, so spikes carry numbers",
    "plain-ma-a": "a reset to the threshold",
    "plain-msresnet104": _CONVOLUTION_AFTER_CONVOLUTION,
    "resnet18": _CONVOLUTION_AFTER_CONVOLUTION,
    "resnet34": _CONVOLUTION_AFTER_CONVOLUTION,
}
_NOT_CAUSAL = {
    name: "causal: with a reduction, the time mixing is two matrices with a rectifier between them"
    for name in ("asa-a", "asa-d")
}


@dataclass(frozen=True)
class Deployable:
    """Modes of `spikefold.lower` that hold for a network, options as by default, and why the others do not."""

    hold: tuple[str, ...]
    refused: str


def deployable(name: str) -> Deployable:
    """Return what can be done with a registered network; InputError if there is none of that name."""
    name = full_name(name)
    system, _, backbone = name.partition("-")
    refused = _REFUSED.get(name) or _REFUSED.get(system) or _REFUSED.get(backbone)
    if refused is not None:
        return Deployable((), refused)
    if name in _NOT_CAUSAL:
        return Deployable(tuple(mode for mode in ATTENTIONS if mode != "causal"), _NOT_CAUSAL[name])
    return Deployable(ATTENTIONS, "")
