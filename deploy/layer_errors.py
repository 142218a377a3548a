"""What lowering attention and quantising cost every layer, and how much of the number formats the integers use.

Each approximation is measured twice. *Isolated*: a layer gets what its sources send in the better net, spikes or
numbers, so that nothing but the layer itself errs. *Cumulative*: both nets run by themselves, and errors of the layers
before it are carried on.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikefold.converters import arithmetic
from spikefold.converters.calibrate import Calibration, batches
from spikefold.converters.engine import run_engine
from spikefold.converters.fixed_point_graph import AttentionMode, FixedPointGraph, Neurons
from spikefold.converters.float_graph import FloatNet, FloatPopulation
from spikefold.converters.gate_float import run_float
from spikefold.converters.reference import run_population
from spikefold.deploy.equality import BATCH
from spikefold.deploy.states import LayerStates, StateCounter, fire_at_equality, membranes_before_reset, weighted_sums

Int = NDArray[np.int64]

_FINE_BITS = 16
"""Fraction bits of a float net's messages, in units of the integer net's, where they are handed to an integer layer."""


@dataclass(frozen=True)
class LayerAttention:
    """What lowering its gates did to one layer of the float net.

    ``gate_variation`` is the gate's coefficient of variation over the calibration clips, None without a gate. Of
    ``neuron_steps`` spikes, ``isolated`` differ where the lowered layer gets the spikes of the net with gates per clip,
    and ``cumulative`` where both nets run by themselves. A relay has no spikes: these are 0, and the signal-to-noise
    ratios [dB] are those of its messages; they are None for neurons.
    """

    name: str
    gate_variation: float | None
    neuron_steps: int
    spikes_dynamic: int
    spikes_lowered: int
    isolated: int
    cumulative: int
    isolated_snr_db: float | None
    cumulative_snr_db: float | None


@dataclass(frozen=True)
class AttentionChange:
    """What lowering attention changed in the float net. ``gate_variation`` is measured on the calibration clips."""

    mode: AttentionMode
    layers: tuple[LayerAttention, ...]
    predictions_changed: int
    accuracy_dynamic: float | None
    accuracy_lowered: float | None


@dataclass(frozen=True)
class LayerQuantisation:
    """What rounding to integers did to one layer; a readout and a relay (``fires`` False) have no spikes to compare.

    Of ``neuron_steps`` spikes, ``isolated`` differ where the integer layer gets float spikes, ``cumulative`` in the
    whole net. The signal-to-noise ratios [dB] are those of the membranes before the reset, ``10 log10(sum v**2 / sum
    (v - v_fixed)**2)``; there both reset where the float layer fires, so that a spike that differs counts as a spike
    and not as an error of the membrane too. Of a relay they are those of its messages. They are infinite where nothing
    differs.
    """

    name: str
    fires: bool
    relays: bool
    neuron_steps: int
    isolated: int
    cumulative: int
    isolated_snr_db: float
    cumulative_snr_db: float


@dataclass(frozen=True)
class Quantisation:
    """What quantising changed, against the lowered float net in float32."""

    layers: tuple[LayerQuantisation, ...]
    predictions_changed: int
    accuracy_float: float | None
    accuracy_fixed: float | None


@dataclass(frozen=True)
class LayerErrors:
    """The two approximations and the use of the number formats; ``attention`` is None for a net without gates."""

    attention: AttentionChange | None
    quantisation: Quantisation
    states: tuple[LayerStates, ...]


class _Tally:
    """Sums over batches: counts by (what, layer), and predictions by net."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.power: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.predictions: defaultdict[str, list[int]] = defaultdict(list)

    def add(self, what: str, name: str, which: Tensor | NDArray[np.bool_]) -> None:
        self.counts[what, name] += int(which.sum())

    def compare(self, what: str, name: str, wanted: NDArray[np.float64], found: NDArray[np.float64]) -> None:
        self.power[f"{what} signal", name] += float(np.square(wanted).sum())
        self.power[what, name] += float(np.square(found - wanted).sum())

    def decibels(self, what: str, name: str) -> float:
        signal, noise = self.power[f"{what} signal", name], self.power[what, name]
        if noise == 0:
            return math.inf
        return 10 * math.log10(signal / noise) if signal else -math.inf

    def changed(self, one: str, other: str) -> int:
        return sum(a != b for a, b in zip(self.predictions[one], self.predictions[other], strict=True))

    def accuracy(self, which: str, labels: NDArray[np.integer[Any]] | None) -> float | None:
        return None if labels is None else float((np.array(self.predictions[which]) == labels).mean())


def measure_layers(
    dynamic: FloatNet,
    lowered: FloatNet,
    fixed: FixedPointGraph,
    calibration: Calibration,
    clips: Int,
    labels: NDArray[np.integer[Any]] | None,
) -> LayerErrors:
    """Run three forms of one net and compare them layer by layer.

    Parameters
    ----------
    dynamic, lowered : FloatNet
        As captured, gates per clip; and with its attention lowered, which may have spared it some relays.
    fixed : FixedPointGraph
        The integers made of ``lowered``.
    calibration : Calibration
        Of the gates of ``dynamic``.
    clips : int64 array ``[T, B, *input_shape]``
        Held-out samples.
    labels : integer array ``[B]`` or None
        Their classes.
    """
    tally, states = _Tally(), StateCounter(fixed, fire_at_equality(lowered))
    for batch in batches(clips, BATCH):
        _add_batch(tally, states, dynamic, lowered, fixed, np.asarray(batch, dtype=np.int64))
    count, changed = tally.counts, tally.changed
    attention = None
    if calibration.gates:
        variation = {name: gate.variation for name, gate in calibration.gates.items()}
        both = ("attention isolated", "attention cumulative")
        kinds = ("spikes", "dynamic", "lowered", *both)
        changes = tuple(
            LayerAttention(
                n.name, variation.get(n.name), *(count[kind, n.name] for kind in kinds),
                *(None if n.fires else tally.decibels(kind, n.name) for kind in both),
            )
            for n in fixed.neurons if not n.is_readout
        )  # fmt: skip
        attention = AttentionChange(
            fixed.attention, changes, changed("dynamic", "lowered"), tally.accuracy("dynamic", labels),
            tally.accuracy("lowered", labels),
        )  # fmt: skip
    quantised = tuple(
        LayerQuantisation(
            n.name, n.fires, n.relay is not None,
            *(count[kind, n.name] for kind in ("spikes", "isolated", "cumulative")),
            *(tally.decibels(kind, n.name) for kind in ("isolated", "cumulative")),
        )
        for n in fixed.neurons
    )  # fmt: skip
    quantisation = Quantisation(
        quantised, changed("lowered", "fixed"), tally.accuracy("lowered", labels), tally.accuracy("fixed", labels)
    )
    return LayerErrors(attention, quantisation, states.states())


def _add_batch(
    tally: _Tally, states: StateCounter, dynamic: FloatNet, lowered: FloatNet, fixed: FixedPointGraph, batch: Int
) -> None:
    real = torch.from_numpy(batch).float()
    with torch.no_grad():
        logits, before = dynamic.run(real)
        lowered_logits, after = lowered.run(real)
        trace = run_engine(fixed, batch)
        for which, values in (("dynamic", logits), ("lowered", lowered_logits), ("fixed", trace.logits)):
            tally.predictions[which] += [int(i) for i in values.argmax(1)]
        before["input"] = after["input"] = real
        own = {**trace.spikes, fixed.input.name: batch}
        fine = {fixed.input.name: batch << _FINE_BITS} | {
            n.name: np.rint(after[n.name].double().numpy() / n.message_unit * 2**_FINE_BITS).astype(np.int64)
            for n in fixed.neurons
            if not n.is_readout
        }
        for p in lowered.populations:
            n = next(n for n in fixed.neurons if n.name == p.name)
            _add_attention(tally, p, before, after)
            carried = weighted_sums(fixed, n, own)
            states.add(n, carried, own[n.name])
            _add_rounding(tally, fixed, p, n, after, fine, carried, own[n.name])


def _add_attention(
    tally: _Tally, p: FloatPopulation, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> None:
    """Count one layer in: ``before`` and ``after`` lowering, what each sends."""
    if p.is_readout:
        return
    gated = _gated_current(p, before)
    if p.relays:
        for what, messages in (("isolated", _message(p, gated)), ("cumulative", after[p.name])):
            tally.compare(f"attention {what}", p.name, before[p.name].double().numpy(), messages.double().numpy())
        return
    alone = p.fire(gated)[0]
    tally.counts["spikes", p.name] += alone.numel()
    tally.add("dynamic", p.name, before[p.name] != 0)
    tally.add("lowered", p.name, after[p.name] != 0)
    tally.add("attention isolated", p.name, alone != before[p.name])
    tally.add("attention cumulative", p.name, after[p.name] != before[p.name])


def _add_rounding(
    tally: _Tally,
    fixed: FixedPointGraph,
    p: FloatPopulation,
    n: Neurons,
    floats: Mapping[str, Tensor],
    fine: Mapping[str, Int],
    carried: Int,
    own: Int,
) -> None:
    """Count one layer in: ``fine`` is what the float net sends, in `_FINE_BITS`.

    ``carried`` are the weighted sums of what the integer net sends, ``own`` is what the layer makes of them.
    """
    isolated = _whole(weighted_sums(fixed, n, fine))
    teacher = _whole(fine[n.name]) if n.fires else np.zeros_like(carried)
    gated = _gated_current(p, floats)
    wanted = _message(p, gated) if p.relays else p.fire(gated, torch.from_numpy(teacher).float())[1]
    for what, weighted in (("isolated", isolated), ("cumulative", carried)):
        rounded = arithmetic.clip24(membranes_before_reset(n, weighted, teacher))
        if n.relay is None:
            real = rounded * (n.unit / 2**arithmetic.STATE_FRACTION_BITS)
        else:
            real = arithmetic.relay_message(rounded, n.relay.shift, n.relay.low, n.relay.high) * n.message_unit
        tally.compare(what, n.name, wanted.double().numpy(), real)
    if n.fires:
        tally.add("isolated", n.name, run_population(n, isolated)[0] != teacher)
        tally.add("cumulative", n.name, own != teacher)


def _whole(fine: Int) -> Int:
    """The nearest whole number of what has `_FINE_BITS` fraction bits; exact where it comes from spikes."""
    return (fine + (1 << (_FINE_BITS - 1))) >> _FINE_BITS


def _gated_current(population: FloatPopulation, spikes: Mapping[str, Tensor]) -> Tensor:
    current = population.current(spikes)
    return current if population.gate is None else current * run_float(population.gate, current)


def _message(population: FloatPopulation, gated: Tensor) -> Tensor:
    """What a relay of the float net sends."""
    return gated.clamp(min=0) if population.rectifies else gated
