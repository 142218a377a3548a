"""What a user should act on though nothing is wrong: every check is asked, and all answers are given at once.

Nothing here is an error of the arithmetic, which does what it should on any clips: it is what makes right arithmetic
give poor answers. Each `Caution` names a layer and a number; `tell` makes warnings of them, which ``--strict`` and
Python's own filters turn into an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.calibrate import Calibration, GateStatistics
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons
from spikefold.converters.float_graph import FloatNet
from spikefold.converters.gate_quantise import HEADROOM
from spikefold.converters.lower import Attention
from spikefold.deploy.run import Run
from spikefold.deploy.states import LayerCounts
from spikefold.errors import SpikefoldWarning

SATURATED = 0.95
"""Spikes per neuron and step from which on a layer tells next to nothing."""
CUT_OFF = 1e-3
"""Share of a relay's messages beyond their range from which on another range would be better; calibration leaves room
for a quarter more than it saw, so that single ones may."""
LOST_TO_TIES = 0.01
"""Share of a layer's spikes that the comparator costs from which on it matters beside quantising."""
UNLIKE = 0.5
"""Share of clips outside of what calibration saw from which on calibration saw other data."""


@dataclass(frozen=True)
class Caution:
    """One thing to act on: which check found it, in which layer, the number found, and in words what to do."""

    check: str
    layer: str
    number: float
    text: str

    def __str__(self) -> str:
        return f"layer {self.layer}: {self.text}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def tell(found: Iterable[Caution]) -> None:
    """Warn of each; where warnings are errors, raise one that names them all.

    Raises
    ------
    SpikefoldWarning
        A filter turns such warnings into errors, and there is one.
    """
    refused = []
    for caution in found:
        try:
            warnings.warn(str(caution), SpikefoldWarning, stacklevel=2)
        except SpikefoldWarning as raised:
            refused.append(str(raised))
    if refused:
        raise SpikefoldWarning("; ".join(refused))


def of_run(run: Run, states: Sequence[LayerCounts]) -> tuple[Caution, ...]:
    """Everything about a net and clips that it ran on, whose states were counted (`states.count_states`)."""
    steps = run.time_steps * len(run.logits)
    sent = {n.name: (int(run.spike_counts[n.name].sum()), n.size * steps) for n in run.graph.neurons}
    return tuple(_rates(run.graph, sent)) + tuple(_numbers(states)) + of_clips(run.graph, run.input_counts)


def of_states(graph: FixedPointGraph, states: Sequence[LayerCounts]) -> tuple[Caution, ...]:
    """The same where the states of all layers were counted."""
    sent = {layer.name: (layer.messages, layer.values) for layer in states}
    return tuple(_rates(graph, sent)) + tuple(_numbers(states))


def of_clips(graph: FixedPointGraph, events: NDArray[np.int64]) -> tuple[Caution, ...]:
    """Whether clips with so many events each, ``[B]``, are like those that calibrated the net, where it says."""
    match graph.provenance.get("calibration_events"):
        case [int(low), int(high)]:
            pass
        case _:
            return ()
    outside = int(((events < low) | (events > high)).sum())
    if outside <= UNLIKE * len(events):
        return ()
    text = (
        f"{outside} of {len(events)} clips hold fewer than {low:,} or more than {high:,} events (here "
        f"{int(events.min()):,} to {int(events.max()):,}), unlike all calibration samples: calibrate on such as these"
    )
    return (Caution("calibration does not cover the input", graph.input.name, outside, text),)


def of_gates(net: FloatNet, calibration: Calibration, attention: Attention) -> tuple[Caution, ...]:
    """Gates that a fold would misrepresent: folding divides thresholds by a mean, which no sign can be read from.

    Parameters
    ----------
    net : FloatNet
        As captured, gates per clip.
    calibration : Calibration
        Of its gates.
    attention : str
        What becomes of them; a gate that is computed may have any value.
    """
    if attention not in ("static", "scheduled"):
        return ()
    found = []
    for p in (p for p in net.populations if p.fires and p.has_attention):
        smallest = calibration.gates[p.name].smallest
        if smallest <= 0:
            text = (
                f"its gate falls to {smallest:.4g} on training samples, where the mean that {attention} attention "
                "folds in stays above 0: use --attention causal or dynamic, or compare them first"
            )
            found.append(Caution("gate not positive", p.name, smallest, text))
    return tuple(found)


def of_ranges(calibrated: Mapping[str, GateStatistics], met: Mapping[str, GateStatistics]) -> tuple[Caution, ...]:
    """Computed gates some value of which goes beyond the room that calibration made for it.

    Parameters
    ----------
    calibrated, met : mapping of str to GateStatistics
        The gates that are left after lowering, on the calibration samples and on others.
    """
    found = []
    for name, gate in calibrated.items():
        pairs = zip(gate.ranges, met[name].ranges, strict=True)
        reach = max((_reach(new) / _reach(old) for old, new in pairs if _reach(old) > 0), default=0.0)
        if reach > HEADROOM:
            text = (
                f"a value of its gate reaches {reach:.2f} times what calibration saw, and its integers saturate at "
                f"{HEADROOM:g} times: calibrate on more samples, and such as these"
            )
            found.append(Caution("calibration does not cover a gate", name, reach, text))
    return tuple(found)


def _reach(bounds: tuple[float, float]) -> float:
    return max(abs(bounds[0]), abs(bounds[1]))


def _rates(graph: FixedPointGraph, sent: Mapping[str, tuple[int, int]]) -> Iterator[Caution]:
    """Layers that say nothing; ``sent`` holds messages and neuron-steps of each."""
    for n in graph.neurons:
        if n.is_readout or n.name not in sent or _is_constant(graph, n):
            continue
        messages, slots = sent[n.name]
        if messages == 0:
            what = "fires" if n.fires else "sends a number other than 0"
            text = (
                f"never {what} in {slots:,} neuron-steps, so that nothing reaches what is behind it: check the data, "
                "or train with a lower threshold"
            )
            yield Caution("dead layer", n.name, 0, text)
        elif n.fires and messages > SATURATED * slots:
            text = (
                f"fires in {messages / slots:.1%} of {slots:,} neuron-steps, so that its spikes tell next to nothing: "
                "train with a higher threshold or a penalty on the firing rate"
            )
            yield Caution("saturated layer", n.name, messages / slots, text)


def _is_constant(graph: FixedPointGraph, n: Neurons) -> bool:
    """Whether nothing but its bias drives a population: it is made to fire in every step, or never does."""
    return not any(s.weight.any() for s in graph.incoming(n.name))


def _numbers(states: Sequence[LayerCounts]) -> Iterator[Caution]:
    """Layers whose integers leave their format, or meet their thresholds exactly."""
    for layer in states:
        if layer.wrapped:
            text = (
                f"{layer.wrapped:,} of {layer.values:,} currents wrapped around at 24 bits, as the chip's do: "
                "calibrate on samples with as strong input as these, or make its weights smaller"
            )
            yield Caution("wrapped currents", layer.name, layer.wrapped, text)
        if layer.clipped:
            text = (
                f"{layer.clipped:,} of {layer.values:,} membranes were clipped at 24 bits: calibrate on samples with "
                "as strong input as these, or make its weights smaller"
            )
            yield Caution("clipped membranes", layer.name, layer.clipped, text)
        if layer.saturated > CUT_OFF * layer.messages:
            text = (
                f"{layer.saturated:,} of {layer.messages:,} messages were cut off at the end of their range: calibrate "
                "on samples like these"
            )
            yield Caution("messages cut off", layer.name, layer.saturated, text)
        if layer.fires_at_equality and layer.ties > LOST_TO_TIES * layer.messages:
            text = (
                f"{layer.ties:,} membranes lie exactly at the threshold, where the module fires and the chip does not "
                f"({layer.messages:,} spikes): train with neurons that fire above it (v > v_threshold), or fine-tune"
            )
            yield Caution("ties at the threshold", layer.name, layer.ties, text)
