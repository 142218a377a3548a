"""The integers of one population: rates, mantissas, thresholds and biases for one unit, and the proof that they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spikefold.converters import arithmetic
from spikefold.converters.capture.build import Decay
from spikefold.converters.fixed_point_graph import Whole
from spikefold.converters.float_net import FloatPopulation, remembered
from spikefold.errors import LoweringError

MIN_EXPONENT, MAX_EXPONENT = -arithmetic.STATE_FRACTION_BITS, 6


@dataclass(frozen=True)
class Sender:
    """What a source sends in a step: whole numbers ``low..high`` of a real ``unit``."""

    low: int
    high: int
    unit: float


@dataclass(frozen=True)
class NumberFormat:
    """Integers of one population for one candidate unit."""

    unit: float
    mantissas: tuple[NDArray[np.int64], ...]
    exponents: tuple[int, ...]
    v_threshold: NDArray[np.int64]
    bias_mantissa: NDArray[np.int64]
    bias_exponent: int
    v_reset: NDArray[np.int64] | None = None
    current_shift: int = arithmetic.STATE_FRACTION_BITS


def decay_rate(decay: Decay) -> Whole:
    """Loihi's 12-bit ``dv`` for a membrane that keeps ``decay`` of itself each step."""
    return _rate((1 - np.asarray(decay)) * 2**arithmetic.DECAY_BITS)


def current_rate(current_decay: Decay) -> Whole:
    """Loihi's 12-bit ``du``, which forgets ``du + 1``, for a current that keeps ``current_decay`` of itself."""
    return _rate((1 - np.asarray(current_decay)) * 2**arithmetic.DECAY_BITS - 1)


def _rate(real: NDArray[np.float64]) -> Whole:
    rate = np.clip(np.round(real), 0, 2**arithmetic.DECAY_BITS - 1).astype(np.int64)
    return int(rate) if rate.ndim == 0 else rate


def kept(rate: Whole) -> Decay:
    """The decay that a rate stands for."""
    kept = 1 - np.asarray(rate) / 2**arithmetic.DECAY_BITS
    return float(kept) if kept.ndim == 0 else kept


def logic_format(population: FloatPopulation) -> NumberFormat:
    """The format of exact logic on spikes, whatever the calibration saw.

    Mantissas are even, so a weight of 1 is two units, and thresholds lie at the odd one between. Membranes that do not
    fire stay below 64 units, of which the fastest decay leaves nothing.
    """
    unit = 0.5
    weights = tuple(np.round(s.weight / unit).astype(np.int64) for s in population.synapses)
    return NumberFormat(unit, weights, (0,) * len(weights), _threshold(population, unit), *_bias(population, unit, 1))


def number_format(
    population: FloatPopulation, clipping: float, senders: Mapping[str, Sender], time_steps: int, least: int = 0
) -> NumberFormat:
    """Integers for one candidate; the largest exponent whose proved range fits 24 bits.

    It is at least ``least``, or `MIN_EXPONENT` where graded messages come in.
    """
    weights = [_Weights(s.weight, senders[s.source].unit) for s in population.synapses]
    graded = any((senders[s.source].low, senders[s.source].high) != (0, 1) for s in population.synapses)
    tops = [w.largest for w in weights]
    top = max(tops)
    if top == 0:
        raise LoweringError(f"neurons {population.name!r}: all weights into them are 0")
    step = top * clipping / 254
    steepness = [max(0, int(np.floor(np.log2(top / t)))) if t > 0 else 0 for t in tops]
    reason = ""
    least, finest = MIN_EXPONENT if graded else least, _finest_unit(population, time_steps)
    for exponent in range(MAX_EXPONENT, least - 1, -1):
        unit = step / 2.0**exponent
        if unit < finest:
            if exponent > least:
                continue
            unit = finest
        current_shift = arithmetic.STATE_FRACTION_BITS + min(0, exponent)
        exponents = tuple(max(0, exponent - s) for s in steepness)
        steps = [unit * 2.0 ** (e + min(0, exponent)) for e in exponents]
        try:
            thresholds, reset = _threshold(population, unit), _reset(population, unit)
            mantissa, bias_exponent = _bias(population, unit, time_steps)
            sums = [w.sums(s, e + current_shift) for w, s, e in zip(weights, steps, exponents, strict=True)]
            _prove(population, sums, mantissa << bias_exponent, reset, senders, time_steps)
        except LoweringError as error:
            reason = str(error)
            continue
        mantissas = tuple(w.mantissa(s) for w, s in zip(weights, steps, strict=True))
        return NumberFormat(unit, mantissas, exponents, thresholds, mantissa, bias_exponent, reset, current_shift)
    raise LoweringError(reason)


class _Weights:
    """Weights of a synapse, times the unit of what it hears, rounded to mantissas; what was rounded last is kept.

    An exponent changes a mantissa only where it leaves the range of exponents, so most are asked for several times.
    """

    def __init__(self, weight: NDArray[np.float32], unit: float) -> None:
        self._real = weight.astype(np.float64)
        self._real *= unit
        self._step = 0.0
        self._halves = np.zeros(weight.shape, dtype=np.int8)
        self._positive = self._negative = np.zeros(len(weight))

    @property
    def largest(self) -> float:
        """Largest magnitude."""
        return float(max(self._real.max(), -self._real.min()))

    def _round(self, step: float) -> None:
        if step == self._step:
            return
        real = self._real / (2 * step)
        np.clip(np.rint(real, out=real), -128, 127, out=real)
        self._step, self._halves = step, real.astype(np.int8)
        rows = self._halves.reshape(len(real), -1)
        self._positive = 2.0 * np.maximum(rows, 0).sum(1, dtype=np.int64)
        self._negative = self._positive - 2.0 * rows.sum(1, dtype=np.int64)

    def sums(self, step: float, shift: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums of the positive and of the negative mantissas of every target, ``2**shift`` times, as magnitudes."""
        self._round(step)
        return self._positive * 2.0**shift, self._negative * 2.0**shift

    def mantissa(self, step: float) -> NDArray[np.int64]:
        """Even mantissas in which one is worth ``step``."""
        self._round(step)
        return 2 * self._halves.astype(np.int64)


def _finest_unit(population: FloatPopulation, time_steps: int) -> float:
    """The smallest unit in which thresholds, reset values and biases have no more digits than they may have.

    Weights that are small beside them lose digits instead, as they change little.
    """
    held = [] if population.v_reset is None else [population.v_reset]
    held += [population.v_threshold] if population.fires else []
    largest_bias = arithmetic.MAX_BIAS_MANTISSA << arithmetic.MAX_BIAS_EXPONENT >> arithmetic.STATE_FRACTION_BITS
    finest = float(np.abs(_total_bias(population, time_steps)).max(initial=0)) / largest_bias
    return max([finest, *(float(np.abs(values).max()) / arithmetic.MAX_THRESHOLD for values in held)])


def _threshold(population: FloatPopulation, unit: float) -> NDArray[np.int64]:
    if not population.fires:
        return np.array(arithmetic.MAX_THRESHOLD, dtype=np.int64)
    integers = np.round(population.v_threshold.astype(np.float64) / unit).astype(np.int64)
    if integers.min() < 1:
        raise LoweringError(
            f"neurons {population.name!r}: v_threshold {population.v_threshold.min():.4g} is below half a step of "
            f"{unit:.4g}, which the largest threshold, reset value or bias asks for"
        )
    return _uniform(integers)


def _reset(population: FloatPopulation, unit: float) -> NDArray[np.int64] | None:
    """Mantissas of ``v_reset``; rounded as the thresholds are, they stay at or below them."""
    if population.v_reset is None:
        return None
    integers = np.round(population.v_reset.astype(np.float64) / unit).astype(np.int64)
    return _uniform(integers) if integers.any() else None


def _uniform(integers: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number where all are the same."""
    return np.array(integers.flat[0]) if bool((integers == integers.flat[0]).all()) else integers


def _total_bias(population: FloatPopulation, time_steps: int) -> NDArray[np.float64]:
    """What is added to the membranes in a step besides weighted sums, ``[C, 1, ...]`` or of a schedule's shape.

    A current that is remembered carries its bias on: ``b_t = current_decay * b_{t-1} + bias``, from 0.
    """
    total: NDArray[np.float64] = np.sum([s.bias.astype(np.float64) for s in population.synapses], axis=0)
    total = total.reshape(-1, *[1] * (len(population.shape) - 1))
    if population.bias_schedule is not None:
        total = total + population.bias_schedule
    if not np.any(population.current_decay) or not total.any():
        return total
    steps = np.broadcast_to(total, (time_steps, 1, *total.shape[-len(population.shape) :]))
    return remembered(torch.from_numpy(steps.copy()), population.current_decay).numpy()


def _bias(population: FloatPopulation, unit: float, time_steps: int) -> tuple[NDArray[np.int64], int]:
    total = _total_bias(population, time_steps)
    real = total * 2**arithmetic.STATE_FRACTION_BITS / unit
    for exponent in range(arithmetic.MAX_BIAS_EXPONENT + 1):
        mantissa = np.round(real / 2**exponent).astype(np.int64)
        if np.abs(mantissa).max(initial=0) <= arithmetic.MAX_BIAS_MANTISSA:
            return mantissa, exponent
    raise LoweringError(f"neurons {population.name!r}: bias {np.abs(total).max():.4g} does not fit 13 + 3 bits")


def _prove(
    population: FloatPopulation,
    sums: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    bias: NDArray[np.int64],
    reset: NDArray[np.int64] | None,
    senders: Mapping[str, Sender],
    time_steps: int,
) -> None:
    """Refuse a format whose worst-case current or membrane leaves 24 bits, or reaches the threshold of a readout.

    After a hard reset the membrane holds ``v_reset``, to which all later currents may add up; a soft reset leaves of a
    positive membrane less than it was, so that it adds nothing to the worst case.
    """
    highest, lowest = np.zeros_like(sums[0][0]), np.zeros_like(sums[0][0])
    for synapse, (positive, negative) in zip(population.synapses, sums, strict=True):
        sent = senders[synapse.source]
        highest += positive * sent.high - negative * sent.low
        lowest += negative * sent.high - positive * sent.low
    kept_current = _largest_gain(int(np.min(current_rate(population.current_decay))) + 1, time_steps)
    highest, lowest = highest * kept_current, lowest * kept_current
    if kept_current > 1 and (reached := float(np.maximum(highest, lowest).max())) > arithmetic.STATE_LIMIT:
        raise LoweringError(f"neurons {population.name!r}: currents may reach {reached:.4g}, beyond 24 bits")
    rows = np.moveaxis(bias, -len(population.shape), 0).reshape(bias.shape[-len(population.shape)], -1)
    highest, lowest = (e + np.maximum(b, 0) for e, b in ((highest, rows.max(1)), (lowest, -rows.min(1))))
    current = float(np.maximum(highest, lowest).max())
    rate = int(np.min(decay_rate(population.decay)))
    gain = 1 if population.relays else _largest_gain(rate, time_steps)
    limit = arithmetic.STATE_LIMIT
    if population.is_readout:
        limit = arithmetic.MAX_THRESHOLD << arithmetic.STATE_FRACTION_BITS
    held = 0 if reset is None else int(np.abs(reset).max()) << arithmetic.STATE_FRACTION_BITS
    reached = current * gain + held * (1 - rate / 2**arithmetic.DECAY_BITS)
    if reached > limit:
        raise LoweringError(f"neurons {population.name!r}: membranes may reach {reached:.4g}, beyond 24 bits")


def _largest_gain(rate: int, time_steps: int) -> float:
    """How many times its largest summand a sum may reach that forgets ``rate`` / 4096 of itself each step."""
    return min(float(time_steps), 2**arithmetic.DECAY_BITS / rate if rate else float(time_steps))
