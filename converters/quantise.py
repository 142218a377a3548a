"""Bring a captured (and lowered) net to Loihi's number formats: `FixedPointGraph`.

All synapses into a population share one unit, the real value of one weight step, which is any number. It is searched:
for each candidate the population runs on the spikes that the float net sends it, and the unit with the fewest differing
spikes (for a readout: the smallest error of the logits) on training samples wins. Larger weights than the unit admits
saturate. The exponent of the weights, 2**0 to 2**6, refines thresholds and biases as far as the proved range of the
membranes allows.
"""

from __future__ import annotations

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
    Synapse,
)
from spikefold.converters.float_graph import FloatNet, FloatPopulation, FloatSynapse, read_float_graph
from spikefold.converters.gate_float import run_float
from spikefold.converters.gate_quantise import GATE_FRACTION_BITS, quantise_gate
from spikefold.converters.static_gates import FLOOR
from spikefold.errors import InputError, LoweringError

CLIPPING = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Candidates: the largest representable weight as a fraction of the largest weight."""
COARSER = tuple(1.25**k for k in range(1, 16))
"""Candidates, in order, where none of those fits: smaller mantissas, as a readout of many neurons needs them."""
MAX_EXPONENT = 6
SEARCH_SAMPLES = 32


@dataclass(frozen=True)
class _Format:
    """Integers of one population for one candidate unit."""

    unit: float
    mantissas: tuple[NDArray[np.int64], ...]
    exponents: tuple[int, ...]
    v_threshold: NDArray[np.int64]
    bias_mantissa: NDArray[np.int64]
    bias_exponent: int


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
    gated = any(p.gate is not None for p in net.populations)
    clips = calibration.clips[:, :SEARCH_SAMPLES]
    recorded = _record(net, clips)
    neurons, synapses = [], []
    port = InputPort(net.input_shape, _largest_input(calibration.clips))
    for population in net.populations:
        largest = {s.name: float(port.max_value) if s.source == "input" else 1.0 for s in population.synapses}
        if population.pools:
            chosen = _any_spike(population)
        else:
            chosen = _search(population, recorded, largest, calibration.time_steps)
        gate, shift, static = None, 0, None
        if population.gate is not None:
            static = _static_threshold(population, calibration, chosen.unit)
            scale = chosen.unit / 2**arithmetic.STATE_FRACTION_BITS
            gate = quantise_gate(population.gate, scale, calibration.gates[population.name].ranges)
            shift = GATE_FRACTION_BITS
        neurons.append(
            Neurons(
                population.name, population.shape, decay_rate(population.decay), chosen.v_threshold,
                chosen.bias_mantissa, chosen.bias_exponent, chosen.unit, population.fires, gate, shift, static,
            )
        )  # fmt: skip
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


def _static_threshold(population: FloatPopulation, calibration: Calibration, unit: float) -> NDArray[np.int64] | None:
    """Thresholds over the mean gate, for readers that know no gates; None where no threshold stands for the gate."""
    gate = calibration.gates[population.name].mean.mean(0)
    if gate.min() <= 0:
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


def _any_spike(population: FloatPopulation) -> _Format:
    """The format of a max pooling: one spike brings twice the threshold, whatever the calibration saw."""
    ones = tuple(2 * (s.weight != 0).astype(np.int64) for s in population.synapses)
    threshold, bias = np.ones((), dtype=np.int64), np.zeros((population.shape[0], 1, 1), dtype=np.int64)
    return _Format(0.5, ones, (0,) * len(ones), threshold, bias, 0)


def _search(
    population: FloatPopulation, recorded: Mapping[str, Tensor], largest: Mapping[str, float], time_steps: int
) -> _Format:
    with torch.no_grad():
        target = recorded[population.name]
        best: tuple[float, _Format] | None = None
        reasons = []
        for clipping in (*CLIPPING, *COARSER):
            if best is not None and clipping > 1:
                break
            try:
                candidate = _format(population, clipping, largest, time_steps)
            except LoweringError as error:
                reasons.append(str(error))
                continue
            error_rate = _error(population, candidate, recorded, target)
            if best is None or error_rate < best[0]:
                best = (error_rate, candidate)
    if best is None:
        raise LoweringError(f"neurons {population.name!r} fit no number format: {reasons[0]}")
    return best[1]


def _error(
    population: FloatPopulation,
    candidate: _Format,
    recorded: Mapping[str, Tensor],
    target: Tensor,
) -> float:
    """Share of differing spikes, or squared error of a readout; the float gate reads the quantised current."""
    currents = []
    for synapse, mantissa, exponent in zip(population.synapses, candidate.mantissas, candidate.exponents, strict=True):
        weight = (mantissa * (candidate.unit * 2**exponent)).astype(np.float32)
        twin = FloatSynapse(synapse.name, synapse.source, weight, np.zeros_like(synapse.bias), synapse.conv, 0)
        currents.append(twin.current(recorded[synapse.source]))
    step = candidate.unit / 2**arithmetic.STATE_FRACTION_BITS
    bias = (candidate.bias_mantissa << candidate.bias_exponent) * step
    current = torch.stack(currents).sum(0)
    current = current.reshape(*current.shape[:2], *population.shape) + torch.from_numpy(bias).float()
    if population.gate is not None:
        current = current * run_float(population.gate, current)
    if not population.fires:
        return float((current.mean(0) - target.mean(0)).square().mean())
    twin_population = FloatPopulation(
        population.name, population.shape, 1 - decay_rate(population.decay) / 2**arithmetic.DECAY_BITS,
        (candidate.v_threshold * candidate.unit).astype(np.float32), True, True, (), None,
    )  # fmt: skip
    return float((twin_population.fire(current)[0] != target).float().mean())


def _format(population: FloatPopulation, clipping: float, largest: Mapping[str, float], time_steps: int) -> _Format:
    """Integers for one candidate; the largest exponent whose proved range fits 24 bits."""
    tops = [float(np.abs(s.weight).max()) for s in population.synapses]
    top = max(tops)
    if top == 0:
        raise LoweringError(f"neurons {population.name!r}: all weights into them are 0")
    step = top * clipping / 254
    steepness = [max(0, int(np.floor(np.log2(top / t)))) if t > 0 else 0 for t in tops]
    reason = ""
    for exponent in range(MAX_EXPONENT, -1, -1):
        unit = step / 2**exponent
        exponents = tuple(max(0, exponent - s) for s in steepness)
        mantissas = tuple(
            2 * np.clip(np.round(s.weight.astype(np.float64) / (2 * unit * 2**e)), -128, 127).astype(np.int64)
            for s, e in zip(population.synapses, exponents, strict=True)
        )
        try:
            thresholds = _threshold(population, unit)
            mantissa, bias_exponent = _bias(population, unit)
            _prove(population, mantissas, exponents, mantissa << bias_exponent, largest, time_steps)
        except LoweringError as error:
            reason = str(error)
            continue
        return _Format(unit, mantissas, exponents, thresholds, mantissa, bias_exponent)
    raise LoweringError(reason)


def _threshold(population: FloatPopulation, unit: float) -> NDArray[np.int64]:
    if not population.fires:
        return np.array(arithmetic.MAX_THRESHOLD, dtype=np.int64)
    integers = np.round(population.v_threshold.astype(np.float64) / unit).astype(np.int64)
    if integers.max() > arithmetic.MAX_THRESHOLD:
        raise LoweringError(
            f"neurons {population.name!r}: v_threshold {population.v_threshold.max():.4g} is {integers.max()} weight "
            f"steps, above {arithmetic.MAX_THRESHOLD}"
        )
    uniform = bool((integers == integers.flat[0]).all())
    return np.array(integers.flat[0]) if uniform else integers


def _bias(population: FloatPopulation, unit: float) -> tuple[NDArray[np.int64], int]:
    total = np.sum([s.bias.astype(np.float64) for s in population.synapses], axis=0)
    total = total.reshape(-1, *[1] * (len(population.shape) - 1))
    if population.bias_schedule is not None:
        total = total + population.bias_schedule
    real = total * 2**arithmetic.STATE_FRACTION_BITS / unit
    for exponent in range(arithmetic.MAX_BIAS_EXPONENT + 1):
        mantissa = np.round(real / 2**exponent).astype(np.int64)
        if np.abs(mantissa).max(initial=0) <= arithmetic.MAX_BIAS_MANTISSA:
            return mantissa, exponent
    raise LoweringError(f"neurons {population.name!r}: bias {np.abs(total).max():.4g} does not fit 13 + 3 bits")


def _prove(
    population: FloatPopulation,
    mantissas: tuple[NDArray[np.int64], ...],
    exponents: tuple[int, ...],
    bias: NDArray[np.int64],
    largest: Mapping[str, float],
    time_steps: int,
) -> None:
    """Refuse a format whose worst-case membrane leaves 24 bits, or reaches the threshold of a readout."""
    rows = np.moveaxis(bias, -len(population.shape), 0).reshape(bias.shape[-len(population.shape)], -1)
    highest, lowest = (np.maximum(ends, 0).astype(float) for ends in (rows.max(1), -rows.min(1)))
    for synapse, mantissa, exponent in zip(population.synapses, mantissas, exponents, strict=True):
        rows = mantissa.reshape(mantissa.shape[0], -1)
        factor = 2.0 ** (exponent + arithmetic.STATE_FRACTION_BITS) * largest[synapse.name]
        highest += np.maximum(rows, 0).sum(1) * factor
        lowest += np.maximum(-rows, 0).sum(1) * factor
    current = float(np.maximum(highest, lowest).max())
    rate = decay_rate(population.decay)
    gain = min(time_steps, 2**arithmetic.DECAY_BITS / rate if rate else time_steps)
    limit = arithmetic.STATE_LIMIT if population.fires else arithmetic.MAX_THRESHOLD << arithmetic.STATE_FRACTION_BITS
    if current * gain > limit:
        raise LoweringError(f"neurons {population.name!r}: membranes may reach {current * gain:.4g}, beyond 24 bits")
