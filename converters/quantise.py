"""Bring a captured (and lowered) net to Loihi's number formats: `FixedPointGraph`.

All synapses into a population share one unit, the real value of one weight step, which is any number. It is searched:
for each candidate the population runs on the spikes that the float net sends it, and the unit with the fewest differing
spikes (for a readout: the smallest error of the logits) on training samples wins. Larger weights than the unit admits
saturate. The exponent of the weights, 2**0 to 2**6, refines thresholds and biases as far as the proved range of the
membranes allows; where graded messages come in, it goes down to 2**-6, as Loihi's negative weight exponents do. What
a relay sends has eight bits and a sign, or twelve where each number goes to one neuron only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikefold.converters import arithmetic
from spikefold.converters.calibrate import Calibration
from spikefold.converters.fixed_point_graph import (
    AttentionMode,
    FixedPointGraph,
    InputPort,
    Neurons,
    Relay,
    Synapse,
)
from spikefold.converters.float_graph import FloatNet, FloatPopulation, FloatSynapse, read_float_graph
from spikefold.converters.gate_float import run_float
from spikefold.converters.gate_quantise import GATE_FRACTION_BITS, HEADROOM, quantise_gate
from spikefold.converters.static_gates import FLOOR
from spikefold.errors import InputError, LoweringError

CLIPPING = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Candidates: the largest representable weight as a fraction of the largest weight."""
COARSER = tuple(1.25**k for k in range(1, 16))
"""Candidates, in order, where none of those fits: smaller mantissas, as a readout of many neurons needs them."""
MAX_EXPONENT = 6
SEARCH_SAMPLES = 32
PAYLOAD_BITS = 8
ONE_TO_ONE_PAYLOAD_BITS = 12
MAX_RELAY_SHIFT = 23


@dataclass(frozen=True)
class _Sender:
    """What a source sends in a step: whole numbers ``low..high`` of a real ``unit``."""

    low: int
    high: int
    unit: float


@dataclass(frozen=True)
class _Format:
    """Integers of one population for one candidate unit."""

    unit: float
    mantissas: tuple[NDArray[np.int64], ...]
    exponents: tuple[int, ...]
    v_threshold: NDArray[np.int64]
    bias_mantissa: NDArray[np.int64]
    bias_exponent: int
    v_reset: NDArray[np.int64] | None = None
    current_shift: int = arithmetic.STATE_FRACTION_BITS


def quantise(graph: nir.NIRGraph, calibration: Calibration, bits: Literal[8] = 8, name: str = "net") -> FixedPointGraph:
    """Quantise every population of ``graph``; gates become integer programs.

    Parameters
    ----------
    graph : nir.NIRGraph
        Float net; gates that it still holds make the result "dynamic".
    calibration : Calibration
        Training samples and gate ranges of this net.
    bits : 8
        Width of a weight, sign included; Loihi's mixed-sign format keeps even values only.

    Raises
    ------
    LoweringError
        A threshold, bias or range does not fit the chip's formats at any candidate unit.
    """
    if bits != 8:
        raise LoweringError(f"bits is {bits}; weights have 8 bits in this version")
    net = read_float_graph(graph)
    gated = any(p.has_attention for p in net.populations)
    clips = calibration.clips[:, :SEARCH_SAMPLES]
    recorded = _record(net, clips)
    neurons, synapses = [], []
    port = InputPort(net.input_shape, _largest_input(calibration.clips))
    senders = {"input": _Sender(0, port.max_value, 1.0)}
    for population in net.populations:
        if population.logic:
            chosen = _logic(population)
        else:
            chosen = _search(population, recorded, senders, calibration.time_steps)
        gate, shift, static = None, 0, None
        if population.gate is not None:
            static = _static_threshold(population, calibration, chosen.unit)
            scale = chosen.unit / 2**arithmetic.STATE_FRACTION_BITS
            gate = quantise_gate(population.gate, scale, calibration.gates[population.name].ranges)
            shift = GATE_FRACTION_BITS
        relay, static_gate = None, None
        if population.relays:
            if gate is not None:
                mean = calibration.gates[population.name].mean.mean(0)
                static_gate = np.round(mean * 2**GATE_FRACTION_BITS).astype(np.int64)
            one_to_one = _feeds_one_to_one(net, population.name)
            relay = _relay(population, recorded[population.name], chosen, senders, one_to_one)
        neurons.append(
            Neurons(
                population.name, population.shape, 0 if relay else decay_rate(population.decay), chosen.v_threshold,
                chosen.bias_mantissa, chosen.bias_exponent, chosen.unit, population.fires, gate, shift, static,
                chosen.current_shift, chosen.v_reset, population.soft_reset, relay, static_gate,
            )
        )  # fmt: skip
        sent = _Sender(0, 1, 1.0) if relay is None else _Sender(relay.low, relay.high, neurons[-1].message_unit)
        senders[population.name] = sent
        for synapse, mantissa, exponent in zip(population.synapses, chosen.mantissas, chosen.exponents, strict=True):
            synapses.append(_synapse(synapse, population.name, mantissa, exponent))
    mode: AttentionMode = "dynamic" if gated else "none"
    return FixedPointGraph(port, tuple(neurons), tuple(synapses), mode, net.time_steps, name)


def _largest_input(clips: NDArray[np.generic]) -> int:
    if not np.array_equal(clips, clips.astype(np.int64)) or int(clips.min()) < 0:
        raise InputError(
            f"calibration clips hold values {clips.min()}..{clips.max()} that are not whole numbers from 0 up; bin "
            "events into frames of counts first"
        )
    return max(1, int(clips.max()))


def decay_rate(decay: float) -> int:
    """Loihi's 12-bit ``dv`` for a membrane that keeps ``decay`` of itself each step."""
    return int(min(max(round((1 - decay) * 2**arithmetic.DECAY_BITS), 0), 2**arithmetic.DECAY_BITS - 1))


def _feeds_one_to_one(net: FloatNet, name: str) -> bool:
    """Whether no neuron adds up several messages of the population ``name``."""
    fed = [s for p in net.populations for s in p.synapses if s.source == name]
    return all(s.conv is not None and s.weight[0].size == 1 for s in fed)


def _relay(
    population: FloatPopulation, messages: Tensor, chosen: _Format, senders: Mapping[str, _Sender], one_to_one: bool
) -> Relay:
    """How a relay sends its current, so that what calibration saw, with headroom, fits the payload.

    One that slept through the calibration gets room for a small share of what could ever come.
    """
    high = 2 ** (ONE_TO_ONE_PAYLOAD_BITS if one_to_one else PAYLOAD_BITS) - 1
    possible = sum(
        float(np.abs(s.weight).reshape(len(s.weight), -1).sum(1).max()) * max(sent.high, -sent.low) * sent.unit
        for s, sent in ((s, senders[s.source]) for s in population.synapses)
    )
    largest = max(float(messages.abs().max()) * HEADROOM, possible / 2**ONE_TO_ONE_PAYLOAD_BITS)
    largest *= 2**arithmetic.STATE_FRACTION_BITS / chosen.unit
    shift = max(0, math.ceil(math.log2(largest / high)))
    return Relay(min(shift, MAX_RELAY_SHIFT), 0 if population.rectifies else -high, high)


def _static_threshold(population: FloatPopulation, calibration: Calibration, unit: float) -> NDArray[np.int64] | None:
    """Thresholds over the mean gate, for readers that know no gates; None where no threshold stands for the gate."""
    gate = calibration.gates[population.name].mean.mean(0)
    if gate.min() <= 0 or population.relays:
        return None
    real = population.v_threshold / np.maximum(gate, FLOOR) / unit
    limited: NDArray[np.int64] = np.minimum(np.round(real), arithmetic.MAX_THRESHOLD).astype(np.int64)
    return limited


def _record(net: FloatNet, clips: NDArray[np.generic]) -> dict[str, Tensor]:
    """Spikes of every population, and the input, of the float net."""
    real = torch.from_numpy(np.ascontiguousarray(clips)).float()
    with torch.no_grad():
        _, spikes = net.run(real)
    return {"input": real, **spikes}


def _synapse(s: FloatSynapse, target: str, mantissa: NDArray[np.int64], exponent: int) -> Synapse:
    if s.conv is None:
        return Synapse(s.name, s.source, target, "dense", mantissa, exponent, torch_macs=s.torch_macs)
    conv = s.conv
    return Synapse(
        s.name, s.source, target, "conv", mantissa, exponent, conv["stride"], conv["padding"], conv["dilation"],
        conv["groups"], s.torch_macs,
    )  # fmt: skip


def _logic(population: FloatPopulation) -> _Format:
    """The format of exact logic on spikes, whatever the calibration saw.

    Mantissas are even, so a weight of 1 is two units, and thresholds lie at the odd one between. Membranes that do not
    fire stay below 64 units, of which the fastest decay leaves nothing.
    """
    unit = 0.5
    weights = tuple(np.round(s.weight / unit).astype(np.int64) for s in population.synapses)
    return _Format(unit, weights, (0,) * len(weights), _threshold(population, unit), *_bias(population, unit))


def _search(
    population: FloatPopulation, recorded: Mapping[str, Tensor], senders: Mapping[str, _Sender], time_steps: int
) -> _Format:
    with torch.no_grad():
        target = recorded[population.name]
        best: tuple[float, _Format] | None = None
        reasons = []
        for clipping in (*CLIPPING, *COARSER):
            if best is not None and clipping > 1:
                break
            try:
                candidate = _format(population, clipping, senders, time_steps)
            except LoweringError as error:
                reasons.append(str(error))
                continue
            error_rate = _error(population, candidate, recorded, senders, target)
            if best is None or error_rate < best[0]:
                best = (error_rate, candidate)
    if best is None:
        raise LoweringError(f"neurons {population.name!r} fit no number format: {reasons[0]}")
    return best[1]


def _error(
    population: FloatPopulation,
    candidate: _Format,
    recorded: Mapping[str, Tensor],
    senders: Mapping[str, _Sender],
    target: Tensor,
) -> float:
    """Share of differing spikes, or squared error of what is no spike; the float gate reads the quantised current."""
    currents = []
    for synapse, mantissa, exponent in zip(population.synapses, candidate.mantissas, candidate.exponents, strict=True):
        left = exponent + candidate.current_shift - arithmetic.STATE_FRACTION_BITS
        weight = (mantissa * (candidate.unit * 2.0**left / senders[synapse.source].unit)).astype(np.float32)
        twin = FloatSynapse(synapse.name, synapse.source, weight, np.zeros_like(synapse.bias), synapse.conv, 0)
        currents.append(twin.current(recorded[synapse.source]))
    step = candidate.unit / 2**arithmetic.STATE_FRACTION_BITS
    bias = (candidate.bias_mantissa << candidate.bias_exponent) * step
    current = torch.stack(currents).sum(0)
    current = current.reshape(*current.shape[:2], *population.shape) + torch.from_numpy(bias).float()
    if population.gate is not None:
        current = current * run_float(population.gate, current)
    if population.relays:
        sent = current.clamp(min=0) if population.rectifies else current
        return float((sent - target).square().mean())
    if not population.fires:
        return float((current.mean(0) - target.mean(0)).square().mean())
    twin_population = FloatPopulation(
        population.name, population.shape, 1 - decay_rate(population.decay) / 2**arithmetic.DECAY_BITS,
        (candidate.v_threshold * candidate.unit).astype(np.float32), True, True, (), None,
        v_reset=None if candidate.v_reset is None else (candidate.v_reset * candidate.unit).astype(np.float32),
        soft_reset=population.soft_reset,
    )  # fmt: skip
    return float((twin_population.fire(current)[0] != target).float().mean())


def _format(population: FloatPopulation, clipping: float, senders: Mapping[str, _Sender], time_steps: int) -> _Format:
    """Integers for one candidate; the largest exponent whose proved range fits 24 bits."""
    weights = [s.weight.astype(np.float64) * senders[s.source].unit for s in population.synapses]
    graded = any((senders[s.source].low, senders[s.source].high) != (0, 1) for s in population.synapses)
    tops = [float(np.abs(w).max()) for w in weights]
    top = max(tops)
    if top == 0:
        raise LoweringError(f"neurons {population.name!r}: all weights into them are 0")
    step = top * clipping / 254
    steepness = [max(0, int(np.floor(np.log2(top / t)))) if t > 0 else 0 for t in tops]
    reason = ""
    least, finest = -arithmetic.STATE_FRACTION_BITS if graded else 0, _finest_unit(population)
    for exponent in range(MAX_EXPONENT, least - 1, -1):
        unit = step / 2.0**exponent
        if unit < finest:
            if exponent > least:
                continue
            unit = finest
        current_shift = arithmetic.STATE_FRACTION_BITS + min(0, exponent)
        exponents = tuple(max(0, exponent - s) for s in steepness)
        mantissas = tuple(
            2 * np.clip(np.round(w / (2 * unit * 2.0 ** (e + min(0, exponent)))), -128, 127).astype(np.int64)
            for w, e in zip(weights, exponents, strict=True)
        )
        try:
            thresholds, reset = _threshold(population, unit), _reset(population, unit)
            mantissa, bias_exponent = _bias(population, unit)
            shifts = tuple(e + current_shift for e in exponents)
            _prove(population, mantissas, shifts, mantissa << bias_exponent, reset, senders, time_steps)
        except LoweringError as error:
            reason = str(error)
            continue
        return _Format(unit, mantissas, exponents, thresholds, mantissa, bias_exponent, reset, current_shift)
    raise LoweringError(reason)


def _finest_unit(population: FloatPopulation) -> float:
    """The smallest unit in which thresholds, reset values and biases have no more digits than they may have.

    Weights that are small beside them lose digits instead, as they change little.
    """
    held = [] if population.v_reset is None else [population.v_reset]
    held += [population.v_threshold] if population.fires else []
    largest_bias = arithmetic.MAX_BIAS_MANTISSA << arithmetic.MAX_BIAS_EXPONENT >> arithmetic.STATE_FRACTION_BITS
    finest = float(np.abs(_total_bias(population)).max(initial=0)) / largest_bias
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


def _total_bias(population: FloatPopulation) -> NDArray[np.float64]:
    """What is added to the currents of a step besides weighted sums, ``[C, 1, ...]`` or of a schedule's shape."""
    total: NDArray[np.float64] = np.sum([s.bias.astype(np.float64) for s in population.synapses], axis=0)
    total = total.reshape(-1, *[1] * (len(population.shape) - 1))
    return total if population.bias_schedule is None else total + population.bias_schedule


def _bias(population: FloatPopulation, unit: float) -> tuple[NDArray[np.int64], int]:
    total = _total_bias(population)
    real = total * 2**arithmetic.STATE_FRACTION_BITS / unit
    for exponent in range(arithmetic.MAX_BIAS_EXPONENT + 1):
        mantissa = np.round(real / 2**exponent).astype(np.int64)
        if np.abs(mantissa).max(initial=0) <= arithmetic.MAX_BIAS_MANTISSA:
            return mantissa, exponent
    raise LoweringError(f"neurons {population.name!r}: bias {np.abs(total).max():.4g} does not fit 13 + 3 bits")


def _prove(
    population: FloatPopulation,
    mantissas: tuple[NDArray[np.int64], ...],
    shifts: tuple[int, ...],
    bias: NDArray[np.int64],
    reset: NDArray[np.int64] | None,
    senders: Mapping[str, _Sender],
    time_steps: int,
) -> None:
    """Refuse a format whose worst-case membrane leaves 24 bits, or reaches the threshold of a readout.

    After a hard reset the membrane holds ``v_reset``, to which all later currents may add up; a soft reset leaves of a
    positive membrane less than it was, so that it adds nothing to the worst case.
    """
    rows = np.moveaxis(bias, -len(population.shape), 0).reshape(bias.shape[-len(population.shape)], -1)
    highest, lowest = (np.maximum(ends, 0).astype(float) for ends in (rows.max(1), -rows.min(1)))
    for synapse, mantissa, shift in zip(population.synapses, mantissas, shifts, strict=True):
        rows, sent = mantissa.reshape(mantissa.shape[0], -1), senders[synapse.source]
        positive, negative = np.maximum(rows, 0).sum(1) * 2.0**shift, np.maximum(-rows, 0).sum(1) * 2.0**shift
        highest += positive * sent.high - negative * sent.low
        lowest += negative * sent.high - positive * sent.low
    current = float(np.maximum(highest, lowest).max())
    rate = decay_rate(population.decay)
    gain = 1 if population.relays else min(time_steps, 2**arithmetic.DECAY_BITS / rate if rate else time_steps)
    limit = arithmetic.STATE_LIMIT
    if population.is_readout:
        limit = arithmetic.MAX_THRESHOLD << arithmetic.STATE_FRACTION_BITS
    held = 0 if reset is None else int(np.abs(reset).max()) << arithmetic.STATE_FRACTION_BITS
    reached = current * gain + held * (1 - rate / 2**arithmetic.DECAY_BITS)
    if reached > limit:
        raise LoweringError(f"neurons {population.name!r}: membranes may reach {reached:.4g}, beyond 24 bits")
