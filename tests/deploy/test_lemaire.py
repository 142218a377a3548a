"""Memory-inclusive energies against numbers worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from spikefold.deploy.activity import Activity, GateActivity, LayerActivity, RelayActivity, SynapseActivity
from spikefold.deploy.hardware import OperationsHardware, load_hardware
from spikefold.deploy.lemaire import matched_bits, price_ann, price_memory
from spikefold.deploy.price import Price, price
from spikefold.errors import HardwareConfigError, InputError

CMOS = load_hardware("cmos45")
T = 4


def ram(words: float, bits: int) -> float:
    """One access [pJ], the regression of Lemaire et al."""
    return 1.09e-5 * words * bits + 13.2


def net(payload_bits: int = 0, gate: GateActivity | None = None) -> Activity:
    """40 inputs -conv-> 20 neurons -dense-> 5 neurons, 4 steps; 30 input events, 10 and 2 spikes."""
    return Activity(
        name="net",
        mode="none",
        samples=1,
        time_steps=T,
        input_neurons=40,
        input_spikes=30.0,
        layers=(
            LayerActivity("conv", neurons=20, spikes=10.0, updates=80.0, gate=gate),
            LayerActivity("out", neurons=5, spikes=2.0, updates=20.0),
        ),
        synapses=(
            SynapseActivity("input", "conv", "conv", 360, 18, 250.0, 9, 400.0, 30 / (40 * T), payload_bits),
            SynapseActivity("conv", "out", "dense", 100, 100, 50.0, 20, 100.0, 10 / (20 * T)),
        ),
    )


def picojoules(priced: Price, component: str) -> float:
    (line,) = [line for line in priced.lines if line.component == component]
    return line.energy.value * 1e12


def test_a_convolution_by_hand():
    priced = price_memory(net(), CMOS)
    reached = 30 * 400 / 40  # events x the mean fan-out of the torch layer
    potentials = (2 * reached + 2 * T * 20) * ram(20, 24)
    queues = (30 + 10) * 13.2
    assert picojoules(priced, "conv: memory") == pytest.approx(
        queues + reached * ram(18, 8) + potentials + T * 20 * ram(20, 16)
    )
    assert picojoules(priced, "conv: operations") == pytest.approx((reached + T * 20 + 10) * 0.1 + T * 20 * 3.2)
    assert picojoules(priced, "conv: addressing") == pytest.approx(2 * 30 * 3.2 + reached * 0.1)


def test_a_dense_layer_by_hand():
    priced = price_memory(net(), CMOS)
    potentials = (2 * 50 + 2 * T * 5) * ram(5, 24)
    assert picojoules(priced, "out: memory") == pytest.approx(
        (10 + 2) * 13.2 + 50 * ram(100, 8) + potentials + T * 5 * ram(5, 16)
    )
    assert picojoules(priced, "out: operations") == pytest.approx((50 + T * 5 + 2) * 0.1 + T * 5 * 3.2)
    assert picojoules(priced, "out: addressing") == pytest.approx(50 * 0.1)


def test_numbers_at_the_input_are_a_dense_pass_of_multiply_accumulates_a_step():
    priced = price_memory(net(payload_bits=4), CMOS)
    macs = 400 * T
    assert picojoules(priced, "conv: operations") == pytest.approx(
        macs * (0.2 * 4 / 8 + 0.1) + (T * 20 + 10) * 0.1 + T * 20 * 3.2
    )
    assert picojoules(priced, "conv: memory") == pytest.approx(
        macs * (ram(40, 4) + ram(18, 8)) + 10 * 13.2 + 2 * T * 20 * ram(20, 24) + T * 20 * ram(20, 16)
    )
    assert picojoules(priced, "conv: addressing") == 0.0
    assert picojoules(priced, "out: memory") == picojoules(price_memory(net(), CMOS), "out: memory")


def test_attention_has_lines_of_its_own():
    gate = GateActivity(multiplies=100, additions=200, comparisons=50, lookups=10, buffer_words=80, word_bits=24)
    plain, gated = price_memory(net(), CMOS), price_memory(net(gate=gate), CMOS)
    assert picojoules(gated, "conv: attention, operations") == pytest.approx(100 * 3.1 + 250 * 0.1)
    assert picojoules(gated, "conv: attention, memory") == pytest.approx(160 * ram(80, 24) + 10 * 13.2)
    assert gated.total_without_attention == plain.total
    assert gated.total.value > plain.total.value
    assert gated.gate_operations == 360


def test_a_relay_has_no_potential():
    activity = net()
    relay = LayerActivity("conv", 20, 0.0, 0.0, fires=False, relay=RelayActivity(10.0, 80.0))
    priced = price_memory(replace(activity, layers=(relay, activity.layers[1])), CMOS)
    reached = 300
    assert picojoules(priced, "conv: operations") == pytest.approx((reached + 160) * 0.1)
    assert picojoules(priced, "conv: memory") == pytest.approx(
        40 * 13.2 + reached * ram(18, 8) + 2 * reached * ram(20, 24)
    )


def test_the_low_end_packs_words_into_accesses_of_the_smallest_bank():
    silent = replace(net(), input_spikes=0.0, layers=(LayerActivity("out", 5, 0.0, 20.0),), synapses=())
    (memory, *_) = price_memory(silent, CMOS).lines
    assert memory.energy.low == pytest.approx((T * 5 * 10 / 4 + 2 * T * 5 * 10 / 2) * 1e-12)
    assert memory.energy.high == memory.energy.value


def test_the_ann_reads_an_input_and_a_weight_for_every_multiply_accumulate_once_a_clip():
    priced = price_ann(net(), CMOS)
    assert picojoules(priced, "conv: memory") == pytest.approx(
        400 * (ram(40, 8) + ram(18, 8)) + 20 * (ram(20, 16) + ram(20, 8))
    )
    assert picojoules(priced, "conv: operations") == pytest.approx(400 * 0.3 + 20 * 0.1)
    assert picojoules(priced, "conv: addressing") == pytest.approx((40 + 20) * 0.1)
    assert picojoules(priced, "out: memory") == pytest.approx(
        20 * ram(20, 8) + 100 * ram(100, 8) + 5 * (ram(5, 16) + ram(5, 8))
    )
    assert picojoules(priced, "out: addressing") == pytest.approx(100 * 0.1)


def test_the_ann_does_not_depend_on_what_the_spikes_did():
    quiet = replace(net(), time_steps=7, input_spikes=0.0)
    for family in ("operations", "memory"):
        assert price_ann(quiet, CMOS, family).total == price_ann(net(), CMOS, family).total


def test_the_ann_of_the_operation_count_is_dense_float():
    priced = price_ann(net(), CMOS, "operations")
    assert priced.total.value == pytest.approx(500 * 4.6e-12)
    assert priced.family == price(net(), CMOS).family == "operations"
    assert price_memory(net(), CMOS).family == price_ann(net(), CMOS).family == "memory"


@pytest.mark.parametrize(("steps", "bits"), [(1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4), (10, 4), (15, 4), (16, 5)])
def test_bits_that_match_the_steps(steps, bits):
    assert matched_bits(steps) == bits


def test_fewer_bits_cost_less_and_the_published_product_is_the_high_end():
    full, matched = price_ann(net(), CMOS), price_ann(net(), CMOS, activation_bits=matched_bits(T))
    assert matched.total.value < full.total.value
    assert picojoules(matched, "conv: operations") == pytest.approx(400 * (0.2 * 3 / 8 + 0.1) + 20 * 0.1)
    for one, other in zip(matched.lines, full.lines, strict=True):
        if "operations" in one.component:
            assert one.energy.high == pytest.approx(other.energy.high)
    wide = price_ann(net(), CMOS, activation_bits=9)
    (line,) = [line for line in wide.lines if line.component == "conv: operations"]
    assert line.energy.high == pytest.approx((400 * 3.2 + 20 * 0.1) * 1e-12)


def test_prices_are_told_apart_by_name_and_survive_json():
    prices = [price(net(), CMOS), price_memory(net(), CMOS), price_ann(net(), CMOS, "operations"),
              price_ann(net(), CMOS), price_ann(net(), CMOS, activation_bits=3)]  # fmt: skip
    assert len({p.hardware for p in prices}) == len({p.title for p in prices}) == 5
    for p in prices:
        assert json.loads(json.dumps(p.to_dict(), allow_nan=False))["family"] == p.family
        assert p.total.low <= p.total.value <= p.total.high


def test_what_has_no_memory_to_price_is_refused_by_name():
    with pytest.raises(HardwareConfigError, match=r"loihi1: has family 'chip'; memory.*cmos45"):
        price_memory(net(), load_hardware("loihi1"))
    with pytest.raises(HardwareConfigError, match=r"speck: has family 'limits'.*cmos45"):
        price_ann(net(), load_hardware("speck"), "operations")
    assert isinstance(CMOS, OperationsHardware)
    without = CMOS.model_copy(update={"sram": CMOS.sram.model_copy(update={"regression": None})})
    with pytest.raises(HardwareConfigError, match=r"cmos45: sram\.regression is null"):
        price_memory(net(), without)
    for bits in (0, 33):
        with pytest.raises(InputError, match=f"activation_bits is {bits}"):
            price_ann(net(), CMOS, activation_bits=bits)
    assert (
        price_ann(net(), CMOS, activation_bits=1).total.value < price_ann(net(), CMOS, activation_bits=32).total.value
    )
    with pytest.raises(InputError, match="time_steps is 0"):
        price_memory(replace(net(), time_steps=0), CMOS)
    with pytest.raises(InputError, match="time_steps is 0"):
        matched_bits(0)


def test_nothing_happened_costs_the_neurons_alone():
    silent = replace(
        net(),
        input_spikes=0.0,
        layers=tuple(replace(layer, spikes=0.0) for layer in net().layers),
        synapses=tuple(replace(s, source_rate=0.0) for s in net().synapses),
    )
    priced = price_memory(silent, CMOS)
    assert picojoules(priced, "conv: addressing") == picojoules(priced, "out: addressing") == 0.0
    assert picojoules(priced, "out: operations") == pytest.approx(T * 5 * 3.3)
