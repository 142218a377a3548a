"""Bring a captured (and lowered) net to Loihi's number formats: `FixedPointGraph`.

All synapses into a population share one unit, the real value of one weight step, which is any number. It is searched:
for each candidate the population runs on the spikes that the float net sends it, and the unit with the fewest differing
spikes (for a readout: the smallest error of the logits) on training samples wins. Larger weights than the unit admits
saturate. The exponent of the weights, 2**0 to 2**6, refines thresholds and biases as far as the proved range of the
membranes allows; where graded messages come in, or nothing else fits, it goes down to 2**-6, as Loihi's negative weight
exponents do. What a relay sends has eight bits and a sign, or twelve where each number goes to one neuron only.

Loihi adds a bias to the membrane, a captured net to the current, whose memory, where it has one, filters it: such a
bias becomes a schedule over the steps of the calibration clips, and ties the net to their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
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
from spikefold.converters.float_net import remembered
from spikefold.converters.gate_float import run_float
from spikefold.converters.gate_quantise import GATE_FRACTION_BITS, HEADROOM, quantise_gate
from spikefold.converters.number_format import (
    MIN_EXPONENT,
    NumberFormat,
    Sender,
    current_rate,
    decay_rate,
    kept,
    logic_format,
    number_format,
)
from spikefold.converters.static_gates import FLOOR
from spikefold.errors import InputError, LoweringError

CLIPPING = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Candidates: the largest representable weight as a fraction of the largest weight."""
COARSER = tuple(1.25**k for k in range(1, 16))
"""Candidates, in order, where none of those fits: smaller mantissas, as a readout of many neurons needs them."""
SEARCH_SAMPLES = 32
PAYLOAD_BITS = 8
ONE_TO_ONE_PAYLOAD_BITS = 12
MAX_RELAY_SHIFT = 23


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
    senders = {"input": Sender(0, port.max_value, 1.0)}
    senders |= {p.name: Sender(0, 1, 1.0) for p in net.populations if p.fires}
    time_steps = net.time_steps
    for population in net.populations:
        _check_senders(population, senders)
        if population.logic:
            chosen = logic_format(population)
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
                current_rate(population.current_decay),
            )
        )  # fmt: skip
        if neurons[-1].has_bias_schedule:
            time_steps = calibration.time_steps
        if relay is not None:
            senders[population.name] = Sender(relay.low, relay.high, neurons[-1].message_unit)
        for synapse, mantissa, exponent in zip(population.synapses, chosen.mantissas, chosen.exponents, strict=True):
            synapses.append(_synapse(synapse, population.name, mantissa, exponent))
    mode: AttentionMode = "dynamic" if gated else "none"
    return FixedPointGraph(port, tuple(neurons), tuple(synapses), mode, time_steps, name)


def _check_senders(population: FloatPopulation, senders: Mapping[str, Sender]) -> None:
    """What a relay sends has a unit that is known only once it is quantised, so a relay may not be in a circle."""
    for synapse in population.synapses:
        if synapse.source not in senders:
            raise LoweringError(
                f"synapse {synapse.name!r}: relay {synapse.source!r} is in a circle, where only spikes may go around"
            )


def _largest_input(clips: NDArray[np.generic]) -> int:
    if not np.array_equal(clips, clips.astype(np.int64)) or int(clips.min()) < 0:
        raise InputError(
            f"calibration clips hold values {clips.min()}..{clips.max()} that are not whole numbers from 0 up; bin "
            "events into frames of counts first"
        )
    return max(1, int(clips.max()))


def _feeds_one_to_one(net: FloatNet, name: str) -> bool:
    """Whether no neuron adds up several messages of the population ``name``."""
    fed = [s for p in net.populations for s in p.synapses if s.source == name]
    return all(s.conv is not None and s.weight[0].size == 1 for s in fed)


def _relay(
    population: FloatPopulation, messages: Tensor, chosen: NumberFormat, senders: Mapping[str, Sender], one_to_one: bool
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
        return Synapse(s.name, s.source, target, "dense", mantissa, exponent, torch_macs=s.torch_macs, delay=s.delay)
    conv = s.conv
    return Synapse(
        s.name, s.source, target, "conv", mantissa, exponent, conv["stride"], conv["padding"], conv["dilation"],
        conv["groups"], s.torch_macs, s.delay,
    )  # fmt: skip


def _search(
    population: FloatPopulation, recorded: Mapping[str, Tensor], senders: Mapping[str, Sender], time_steps: int
) -> NumberFormat:
    with torch.no_grad():
        target = recorded[population.name]
        best: tuple[float, NumberFormat] | None = None
        reasons = []
        rounds = [(c, least) for least in (0, MIN_EXPONENT) for c in (CLIPPING, *((c,) for c in COARSER))]
        for clipping, least in ((c, least) for some, least in rounds if best is None for c in some):
            try:
                candidate = number_format(population, clipping, senders, time_steps, least)
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
    candidate: NumberFormat,
    recorded: Mapping[str, Tensor],
    senders: Mapping[str, Sender],
    target: Tensor,
) -> float:
    """Share of differing spikes, or squared error of what is no spike; the float gate reads the quantised current."""
    currents = []
    for synapse, mantissa, exponent in zip(population.synapses, candidate.mantissas, candidate.exponents, strict=True):
        left = exponent + candidate.current_shift - arithmetic.STATE_FRACTION_BITS
        weight = (mantissa * (candidate.unit * 2.0**left / senders[synapse.source].unit)).astype(np.float32)
        twin = replace(synapse, weight=weight, bias=np.zeros_like(synapse.bias))
        currents.append(twin.current(recorded[synapse.source]))
    step = candidate.unit / 2**arithmetic.STATE_FRACTION_BITS
    bias = (candidate.bias_mantissa << candidate.bias_exponent) * step
    current = torch.stack(currents).sum(0)
    current = current.reshape(*current.shape[:2], *population.shape)
    current = remembered(current, kept(current_rate(population.current_decay) + 1)) + torch.from_numpy(bias).float()
    if population.gate is not None:
        current = current * run_float(population.gate, current)
    if population.relays:
        sent = current.clamp(min=0) if population.rectifies else current
        return float((sent - target).square().mean())
    decay = kept(decay_rate(population.decay))
    if not population.fires:
        answer = replace(population, decay=decay, current_decay=0.0).answer(current)
        return float((answer - population.answer(target)).square().mean())
    twin_population = FloatPopulation(
        population.name, population.shape, decay,
        (candidate.v_threshold * candidate.unit).astype(np.float32), True, True, (), None,
        v_reset=None if candidate.v_reset is None else (candidate.v_reset * candidate.unit).astype(np.float32),
        soft_reset=population.soft_reset,
    )  # fmt: skip
    return float((twin_population.fire(current)[0] != target).float().mean())
