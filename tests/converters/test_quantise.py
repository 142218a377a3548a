from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gate_networks import T
from networks import NETS, SHAPE, Dense, captured, clips, clips_for, neuron, prepared
from spikefold.converters import arithmetic, quantise
from spikefold.converters.calibrate import Calibration, calibrate
from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import FixedPointGraph, Synapse
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.gate_quantise import GATE_FRACTION_BITS
from spikefold.converters.number_format import MAX_EXPONENT, decay_rate
from spikefold.converters.ranges import membrane_range
from spikefold.converters.reference import population_current, run_reference, synapse_current
from spikefold.errors import InputError, LoweringError
from spikefold.models import LIF

PLAIN = [n for n in NETS if "one" not in n and n != "as many steps as samples"]


@cache
def lowered(name: str) -> FixedPointGraph:
    _, graph = captured(name)
    return quantise.quantise(graph, calibrate(graph, clips_for(name, 16, seed=31).numpy().astype(np.uint8)))


@pytest.mark.parametrize(("decay", "rate"), [(0.25, 3072), (0.3, 2867), (0.5, 2048), (1.0, 0), (0.0, 4095), (0.9, 410)])
def test_a_decay_becomes_the_nearest_twelve_bit_rate(decay: float, rate: int) -> None:
    assert decay_rate(decay) == rate


def test_every_rate_stands_for_its_own_decay() -> None:
    assert [decay_rate(1 - rate / 4096) for rate in range(4096)] == list(range(4096))


@pytest.mark.parametrize("name", [*PLAIN, "FSTA", "ASA", "squeeze by convolutions"])
def test_every_integer_fits_its_format_and_stands_for_the_float_it_came_from(name: str) -> None:
    fixed = lowered(name)
    populations = {p.name: p for p in read_float_graph(captured(name)[1]).populations}
    for n in fixed.neurons:
        real = populations[n.name]
        assert n.dv == decay_rate(real.decay)
        assert np.abs(n.bias_mantissa).max(initial=0) <= arithmetic.MAX_BIAS_MANTISSA
        assert 0 <= n.bias_exponent <= arithmetic.MAX_BIAS_EXPONENT
        assert 0 <= int(n.v_threshold.min()) <= int(n.v_threshold.max()) <= arithmetic.MAX_THRESHOLD
        bias = np.sum([s.bias for s in real.synapses], axis=0)
        step = n.unit / 2**arithmetic.STATE_FRACTION_BITS
        np.testing.assert_allclose(n.bias.reshape(-1) * step, bias, rtol=0, atol=step * 2.0**n.bias_exponent * 0.51)
        if n.fires:
            np.testing.assert_allclose(n.v_threshold * n.unit, real.v_threshold.max(), rtol=0, atol=n.unit * 0.51)
        for synapse, wanted in zip(fixed.incoming(n.name), real.synapses, strict=True):
            assert (synapse.name, synapse.torch_macs) == (wanted.name, wanted.torch_macs)
            assert synapse.weight.dtype == np.int64
            assert -256 <= int(synapse.weight.min()) <= int(synapse.weight.max()) <= 254
            assert not bool((synapse.weight & 1).any())
            assert 0 <= synapse.exponent <= MAX_EXPONENT
            grain = n.unit * 2**synapse.exponent
            inside = np.abs(wanted.weight) <= 254 * grain
            assert inside.mean() > 0.5
            error = np.abs(synapse.weight * grain - wanted.weight)
            assert error[inside].max() <= grain * 1.001
            assert bool((np.sign(synapse.weight) * np.sign(wanted.weight) >= 0).all())


@pytest.mark.parametrize("name", [*PLAIN, "FSTA"])
def test_no_membrane_reaches_its_limit_on_the_worst_input(name: str) -> None:
    fixed = lowered(name)
    ones = np.full((T, 1, *fixed.input.shape), fixed.input.max_value, dtype=np.int64)
    messages = {"input": ones}
    for n in fixed.neurons:
        shape = fixed.source_shape(n.name)
        messages[n.name] = np.ones((T, 1, *shape), dtype=np.int64)
    for n in fixed.neurons:
        for sign in (1, -1):
            total = sum(synapse_current(_only(s, sign), messages[s.source]) for s in fixed.incoming(n.name))
            raw = np.asarray(total) << arithmetic.STATE_FRACTION_BITS
            np.testing.assert_array_equal(arithmetic.wrap24(raw), raw)
            v = np.zeros(n.shape, dtype=np.int64)
            for current in raw.reshape(T, *n.shape) + np.clip(n.bias * sign, 0, None) * sign:
                v = arithmetic.decay(v, n.dv) + current
            limit = arithmetic.STATE_LIMIT if n.fires else arithmetic.MAX_THRESHOLD << arithmetic.STATE_FRACTION_BITS
            assert int(np.abs(v).max()) <= limit, n.name


class _Driven(nn.Module):
    """Neurons that never leak, driven by an array over time far more than by their input."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.fc, self.neuron = nn.Linear(3, 2), LIF(1.0, 0.5)
        self.drive = torch.linspace(-40, 40, steps)[:, None, None] * torch.tensor([1.0, -0.5])

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.neuron(self.fc(x) + self.drive)
        return spikes


def test_the_range_proof_covers_the_largest_step_of_a_bias_schedule() -> None:
    steps = 64
    clips = np.ones((steps, 4, 3), dtype=np.uint8)
    graph = capture(_Driven(steps).eval(), torch.from_numpy(clips).float())
    fixed = quantise.quantise(graph, calibrate(graph, clips))
    (n,) = fixed.neurons
    assert n.bias_mantissa.shape == (steps, 1, 2)
    low, high = membrane_range(fixed, n, steps)
    assert -arithmetic.STATE_LIMIT <= low < 0 < high <= arithmetic.STATE_LIMIT
    population = read_float_graph(graph).populations[0]
    real = population.synapses[0].bias + population.bias_schedule
    np.testing.assert_allclose(n.bias * (n.unit / 64), real, atol=n.unit / 64 * 2**n.bias_exponent / 2 * 1.001)


def _only(synapse: Synapse, sign: int) -> Synapse:
    """The synapse with its weights of one sign."""
    kept = np.clip(synapse.weight, 0, None) if sign > 0 else np.clip(synapse.weight, None, 0)
    return dataclasses.replace(synapse, weight=kept)


@pytest.mark.parametrize("name", ["conv, norm, pool, neuron", "residual", "FSTA"])
def test_quantising_twice_gives_the_same_integers(name: str) -> None:
    _, graph = captured(name)
    samples = clips_for(name, 16, seed=31).numpy().astype(np.uint8)
    texts = [g.to_plain() for g in (lowered(name), quantise.quantise(graph, calibrate(graph, samples)))]
    assert texts[0][0] == texts[1][0]
    for a, b in zip(texts[0][1], texts[1][1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["conv, norm, pool, neuron", "view and reshape", "residual", "names that meet"])
def test_the_searched_units_err_no_more_than_the_largest_weight_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each population is fed the float net's spikes, so errors do not add up."""
    _, graph = captured(name)
    samples = clips_for(name, 16, seed=31)
    calibration = calibrate(graph, samples.numpy())
    searched = differing_spikes(quantise.quantise(graph, calibration), graph, samples)
    monkeypatch.setattr(quantise, "CLIPPING", (1.0,))
    plain = differing_spikes(quantise.quantise(graph, calibration), graph, samples)
    assert plain.keys() == searched.keys()
    assert all(searched[n] <= plain[n] + 2e-4 for n in plain)
    assert sum(searched.values()) < 0.02 * len(searched)


def differing_spikes(fixed: FixedPointGraph, graph: object, samples: Tensor) -> dict[str, float]:
    """Share of spikes of the integer net that differ from the float net's, population by population."""
    _, spikes = read_float_graph(graph).run(samples.float())  # type: ignore[arg-type]
    messages = {"input": samples, **spikes}
    whole = {n: m.numpy().astype(np.int64) for n, m in messages.items() if n != "readout"}
    rates = {}
    for n in fixed.neurons:
        if n.fires:
            total = sum(synapse_current(s, whole[s.source]) for s in fixed.incoming(n.name))
            v = np.zeros(whole[n.name].shape[1:], dtype=np.int64)
            differing = 0.0
            for current, wanted in zip(population_current(n, np.asarray(total)), whole[n.name], strict=True):
                fired, v = arithmetic.neuron_step(v, current, n.dv, n.v_threshold)
                differing += float((fired != wanted).mean())
            rates[n.name] = differing / len(samples)
    return rates


@pytest.mark.parametrize("name", [*PLAIN, "FSTA", "ASA", "formula"])
def test_the_integer_net_answers_nearly_as_the_float_net(name: str) -> None:
    net = read_float_graph(captured(name)[1])
    x = clips_for(name, 24, seed=32)
    wanted, spikes = net.run(x.float())
    trace = run_reference(lowered(name), x.numpy())
    for population, train in trace.spikes.items():
        if population != "readout":
            assert (train != spikes[population].numpy()).mean() < 0.06, population
    error = np.abs(trace.logits - wanted.numpy()).mean()
    assert error < 0.25 * float(wanted.std())


class BoundaryReadout(nn.Module):
    """A readout whose largest membrane lies between the largest threshold and the limit of 24 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.neuron, self.head = nn.Linear(8, 8), neuron(), nn.Linear(8, 1)
        unit = 1 / 254 / 64
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(8))
            self.first.bias.zero_()
            self.head.weight.fill_(1.0)
            self.head.bias.fill_(65488 * unit / 64)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.neuron(self.first(x)))
        return logits.mean(0)


def test_a_readout_cannot_reach_the_largest_threshold_even_by_its_last_bits() -> None:
    net = BoundaryReadout().eval()
    graph = capture(net, torch.zeros(1, 2, 8))
    x = np.ones((1, 4, 8), dtype=np.int64)
    fixed = quantise.quantise(graph, calibrate(graph, x))
    membrane = run_reference(fixed, x).membranes["readout"]
    assert int(membrane.max()) <= arithmetic.MAX_THRESHOLD << arithmetic.STATE_FRACTION_BITS
    assert int(membrane.max()) > 2**21


def test_graded_inputs_set_the_port_and_enter_the_range_proof() -> None:
    _, graph = captured("conv, norm, pool, neuron")
    samples = (clips((T, 8, *SHAPE[2:])) * 40).numpy().astype(np.uint8)
    fixed = quantise.quantise(graph, calibrate(graph, samples))
    assert fixed.input.max_value == 40
    (synapse,) = fixed.incoming("neuron")
    rows = np.abs(synapse.effective_weight).reshape(4, -1).sum(1).max()
    assert 40 * int(rows) << 6 <= arithmetic.STATE_LIMIT * 1.3


def test_silent_calibration_clips_still_prove_the_range_for_events() -> None:
    _, graph = captured("conv, norm, pool, neuron")
    silent = quantise.quantise(graph, calibrate(graph, np.zeros((T, 4, *SHAPE[2:]), dtype=np.uint8)))
    assert silent.input.max_value == 1
    (synapse,) = silent.incoming("neuron")
    positive = np.clip(synapse.effective_weight, 0, None).reshape(4, -1).sum(1).max()
    assert (int(positive) << 6) + int(silent.neurons[0].bias.max()) <= arithmetic.STATE_LIMIT


@pytest.mark.parametrize("bad", [0.5, -1.0])
def test_calibration_clips_that_are_no_counts_are_refused(bad: float) -> None:
    _, graph = captured("conv, norm, pool, neuron")
    samples = np.zeros((T, 4, *SHAPE[2:]))
    samples[0, 0, 0, 0, 0] = bad
    with pytest.raises(InputError, match="not whole numbers from 0 up"):
        quantise.quantise(graph, calibrate(graph, samples))


def test_other_widths_are_refused() -> None:
    _, graph = captured("conv, norm, pool, neuron")
    calibration = calibrate(graph, np.zeros((T, 4, *SHAPE[2:])))
    with pytest.raises(LoweringError, match="bits is 4"):
        quantise.quantise(graph, calibration, bits=4)  # type: ignore[arg-type]


def one_layer(weight: float, bias: float, threshold: float) -> tuple[object, Calibration]:
    net = prepared(Dense())
    with torch.no_grad():
        net.layers[0].weight.fill_(weight)
        net.layers[0].bias.fill_(bias)
    net.layers[1] = LIF(0.5, threshold).eval()
    graph = capture(net, torch.zeros(T, 2, 10))
    return graph, calibrate(graph, np.ones((T, 4, 10)))


@pytest.mark.parametrize(
    ("weight", "bias", "threshold", "message"),
    [
        (0.0, 0.1, 0.5, "neurons 'layers_1'.*all weights into them are 0"),
        (1.0, 1e4, 0.5, r"neurons 'layers_1'.*v_threshold 0\.5 is below half a step of 1\.22"),
    ],
)
def test_numbers_that_fit_no_format_are_refused_by_population(
    weight: float, bias: float, threshold: float, message: str
) -> None:
    graph, calibration = one_layer(weight, bias, threshold)
    with pytest.raises(LoweringError, match=message):
        quantise.quantise(graph, calibration)  # type: ignore[arg-type]


@pytest.mark.parametrize(("weight", "bias", "threshold"), [(1e-4, 0.0, 5e3), (1.0, 1e3, 0.5), (1.0, -1e3, 0.5)])
def test_large_thresholds_and_biases_keep_their_digits_and_weights_beside_them_lose_theirs(
    weight: float, bias: float, threshold: float
) -> None:
    graph, calibration = one_layer(weight, bias, threshold)
    fixed = quantise.quantise(graph, calibration)  # type: ignore[arg-type]
    n, real = fixed.neurons[0], read_float_graph(graph).populations[0]  # type: ignore[arg-type]
    held = np.broadcast_to(n.bias, n.shape) * n.unit / 64
    np.testing.assert_allclose(held, real.synapses[0].bias, rtol=1e-3, atol=n.unit / 2)
    np.testing.assert_allclose(n.v_threshold * n.unit, threshold, rtol=1e-3, atol=n.unit / 2)
    np.testing.assert_allclose(
        fixed.synapses[0].effective_weight * n.unit, real.synapses[0].weight, rtol=1e-2, atol=n.unit
    )
    wanted = bias > 0
    spikes = run_reference(fixed, np.ones((T, 2, 10), dtype=np.int64)).spikes[n.name]
    assert bool((spikes == wanted).all())


def test_a_wide_readout_over_many_steps_falls_back_to_smaller_mantissas() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.neuron, self.head = nn.Linear(10, 1200), neuron(), nn.Linear(1200, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.neuron(self.first(x)))
            return logits.mean(0)

    steps = 12
    net = prepared(Wide())
    with torch.no_grad():
        net.head.weight.abs_()
    graph = capture(net, torch.zeros(steps, 2, 10))
    x = clips((steps, 12, 10))
    fixed = quantise.quantise(graph, calibrate(graph, x.numpy()))
    (head,) = fixed.incoming("readout")
    assert head.exponent == 0
    assert int(np.abs(head.weight).max()) < 254
    assert steps * (int(head.weight.sum(1).max()) << 6) <= arithmetic.MAX_THRESHOLD << 6
    wanted, _ = read_float_graph(graph).run(x.float())
    got = run_reference(fixed, x.numpy()).logits
    assert np.abs(got - wanted.numpy()).max() < 0.1 * float(wanted.abs().max())


def test_a_readout_of_very_many_neurons_keeps_fine_weights_by_a_negative_exponent() -> None:
    class VeryWide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.neuron, self.head = nn.Linear(10, 12000), neuron(), nn.Linear(12000, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.neuron(self.first(x)))
            return logits.mean(0)

    steps = 12
    net = prepared(VeryWide())
    with torch.no_grad():
        net.head.weight.abs_()
    graph = capture(net, torch.zeros(steps, 2, 10))
    x = clips((steps, 2, 10))
    fixed = quantise.quantise(graph, calibrate(graph, x.numpy()))
    (head,) = fixed.incoming("readout")
    assert head.exponent == 0
    assert fixed.output.current_shift < arithmetic.STATE_FRACTION_BITS
    assert int(np.abs(head.weight).max()) >= 100
    wanted, _ = read_float_graph(graph).run(x.float())
    got = run_reference(fixed, x.numpy()).logits
    assert np.abs(got - wanted.numpy()).max() < 0.02 * float(wanted.abs().max())


def test_a_gate_makes_the_net_dynamic_and_ties_it_to_its_steps() -> None:
    fixed = lowered("formula")
    assert (fixed.attention, fixed.time_steps) == ("dynamic", T)
    gated = fixed.neurons[0]
    assert gated.gate is not None
    assert gated.gate_shift == GATE_FRACTION_BITS
    plain = lowered("conv, norm, pool, neuron")
    assert (plain.attention, plain.time_steps) == ("none", None)


def test_a_neuron_that_fires_at_equality_is_rounded_to_the_chips_comparison() -> None:
    fixed = lowered("adaptive head")
    n = fixed.neurons[0]
    assert float(n.v_threshold * n.unit) == pytest.approx(0.5, abs=n.unit * 0.51)


@pytest.mark.parametrize("name", ["view and reshape", "names that meet"])
def test_a_searched_unit_is_never_coarser_than_the_largest_weight_needs(name: str) -> None:
    fixed = lowered(name)
    populations = {p.name: p for p in read_float_graph(captured(name)[1]).populations}
    for n in fixed.neurons:
        largest = max(float(np.abs(s.weight).max()) for s in populations[n.name].synapses)
        coarsest = max(2**s.exponent for s in fixed.incoming(n.name)) * n.unit
        assert 0.39 * largest <= coarsest * 254 <= largest * 1.001
