"""Prices against numbers worked out by hand, and against the one published measurement of Loihi 1."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikefold.deploy.activity import Activity, GateActivity, LayerActivity, SynapseActivity
from spikefold.deploy.hardware import load_hardware, shipped_hardware
from spikefold.deploy.price import Price, PriceLine, price
from spikefold.errors import InputError

CHIPS = ("loihi1", "loihi2")

GATE = GateActivity(
    multiplies=1000, additions=2000, comparisons=500, lookups=100, buffer_words=2000, word_bits=24
)  # 48,000 bits: fits the 8 KiB bank


def toy(gate: GateActivity | None = None, graded: bool = False, levels: int = 1) -> Activity:
    """200 inputs -conv-> 100 neurons (gate) -dense-> 10 neurons, 10 steps."""
    return Activity(
        name="toy",
        mode="dynamic" if gate else "none",
        samples=4,
        time_steps=10,
        input_neurons=200,
        input_spikes=100.0,
        layers=(
            LayerActivity("hidden", neurons=100, spikes=50.0, updates=1000.0, threshold_levels=levels, gate=gate),
            LayerActivity("out", neurons=10, spikes=5.0, updates=100.0),
        ),
        synapses=(
            SynapseActivity(
                source="input",
                target="hidden",
                kind="conv",
                synapses=900,
                stored_weights=18,
                synops=450.0,
                fan_in=9,
                torch_macs=900.0,
                source_rate=0.05,
                graded_source=graded,
            ),
            SynapseActivity(
                source="hidden",
                target="out",
                kind="dense",
                synapses=1000,
                stored_weights=1000,
                synops=500.0,
                fan_in=100,
                torch_macs=1000.0,
                source_rate=0.05,
            ),
        ),
    )


def line(priced: Price, start: str) -> PriceLine:
    (found,) = [item for item in priced.lines if item.component.startswith(start)]
    return found


def run(activity: Activity, name: str) -> Price:
    return price(activity, load_hardware(name))


# Frady et al., NICE 2020: nearest-neighbour search over 76,800 patterns; measured neuro-core dynamic energy 1.33 mJ.
FRADY_MEASURED = 1.33e-3


@pytest.mark.parametrize(("synops", "millijoule"), [(5.12e7, 1.448), (5.76e7, 1.599)])
def test_loihi1_constants_reproduce_the_measured_search_of_frady_2020(synops, millijoule):
    search = Activity(
        name="search",
        mode="none",
        samples=1,
        time_steps=60,
        input_neurons=1000,
        input_spikes=0.0,
        layers=(LayerActivity("patterns", neurons=76_800, spikes=0.0, updates=4.608e6),),
        synapses=(SynapseActivity("query", "patterns", "dense", 76_800_000, 76_800_000, synops, 1000, 7.68e7, 0.01),),
    )
    dynamic = run(search, "loihi1").dynamic
    assert dynamic.value * 1e3 == pytest.approx(millijoule, abs=0.001)
    assert 1.08 < dynamic.value / FRADY_MEASURED < 1.21
    assert dynamic.high / FRADY_MEASURED > 1.6, "the silicon fit is the upper end"


def test_operations_total_is_spikes_times_fan_out_times_an_accumulate():
    priced = run(toy(), "cmos45")
    accumulates = 900 * 0.05 * 10 + 1000 * 0.05 * 10
    assert priced.total.value == pytest.approx(accumulates * 0.9e-12)
    assert priced.total_without_attention == priced.total
    assert priced.static.value == 0.0
    assert priced.latency is priced.cores is None
    assert priced.fits


def test_operations_price_graded_sources_as_dense_multiply_accumulates():
    priced = run(toy(graded=True), "cmos45")
    assert priced.total.value == pytest.approx(900 * 10 * 4.6e-12 + 1000 * 0.05 * 10 * 0.9e-12)


def test_operations_show_the_total_with_and_without_attention():
    plain, gated = run(toy(), "cmos45"), run(toy(GATE), "cmos45")
    attention = (1000 * 3.7 + (2000 + 500) * 0.9 + 100 * 10) * 1e-12
    assert gated.total.value == pytest.approx(plain.total.value + attention)
    assert gated.total_without_attention == plain.total
    assert gated.gate_processor is None, "its gates are in the total"
    assert not gated.lower_bound


def test_loihi1_dynamic_lines_by_hand():
    priced = run(toy(), "loihi1")
    assert line(priced, "synaptic operations").energy.value == pytest.approx(950 * 23.6e-12)
    assert line(priced, "neuron updates that fired").energy.value == pytest.approx(55 * 81e-12)
    assert line(priced, "neuron updates that did not").energy.value == pytest.approx(1045 * 52e-12)
    assert line(priced, "spike messages").energy.value == pytest.approx(150 * 1.7e-12)
    assert priced.dynamic.value == pytest.approx((950 * 23.6 + 55 * 81 + 1045 * 52 + 150 * 1.7) * 1e-12)
    assert priced.total_without_attention is None


def test_update_range_reaches_from_all_inactive_to_all_active():
    priced = run(toy(), "loihi1")
    fired, quiet = line(priced, "neuron updates that fired"), line(priced, "neuron updates that did not")
    assert fired.energy.low + quiet.energy.low == pytest.approx(1100 * 51.2e-12)
    assert fired.energy.high + quiet.energy.high == pytest.approx((55 * 142.1 + 1045 * 81) * 1e-12)


def test_loihi1_latency_is_the_slowest_layer_and_the_barrier_every_step():
    priced = run(toy(), "loihi1")
    hidden = (50 * 8.4 + 950 * 5.3 + 450 * 3.5) / 10
    out = (5 * 8.4 + 95 * 5.3 + 500 * 3.5) / 10
    assert hidden > out
    assert priced.latency is not None
    assert priced.latency.value == pytest.approx(10 * (hidden + 465) * 1e-9)
    assert priced.static.value == pytest.approx(priced.latency.value * 104.4e-3)
    assert priced.total.value == pytest.approx(priced.dynamic.value + priced.static.value)


def test_loihi2_is_labelled_an_estimate_wherever_it_is_shown():
    priced = run(toy(), "loihi2")
    assert priced.estimate
    assert priced.to_dict()["estimate"] is True
    assert "estimate" in priced.title
    assert any("Estimate" in note for note in priced.notes)
    assert line(priced, "synaptic operations").energy.value == pytest.approx(950 * 6.84e-12)
    assert not run(toy(), "loihi1").estimate


@pytest.mark.parametrize("name", CHIPS)
def test_gate_work_on_a_chip_is_a_separate_line_and_never_in_the_total(name):
    plain, gated = run(toy(), name), run(toy(GATE), name)
    assert gated.total == plain.total
    assert gated.lower_bound
    assert not plain.lower_bound
    assert plain.gate_processor is None
    assert gated.gate_operations == 3600
    arithmetic = 1000 * 3.1 + 2500 * 0.1 + 100 * 10
    assert gated.gate_processor is not None
    assert gated.gate_processor.value == pytest.approx((arithmetic + 2 * 2000 * 10) * 1e-12)
    assert gated.gate_processor.low == pytest.approx((arithmetic + 2 * 2000 * 10 / 2) * 1e-12), "two words an access"
    assert any("lower bound" in note for note in gated.notes)


@pytest.mark.parametrize(("words", "picojoule"), [(2000, 10), (10_000, 20), (300_000, 100), (10_000_000, 100)])
def test_gate_buffer_is_priced_in_the_smallest_memory_that_holds_it(words, picojoule):
    priced = run(toy(GateActivity(buffer_words=words)), "loihi1")
    assert priced.gate_processor is not None
    assert priced.gate_processor.value == pytest.approx(2 * words * picojoule * 1e-12)


def test_dense_layer_takes_the_cores_that_its_blocks_of_weights_fill():
    # 784 rows x 8 blocks x 576 bits = 3.61 Mbit on Loihi 1's 1,048,576-bit cores.
    layer = LayerActivity("fc", neurons=512, spikes=0.0, updates=512.0)
    synapse = SynapseActivity("input", "fc", "dense", 784 * 512, 784 * 512, 0.0, 784, 0.0, 0.0)
    activity = Activity("fc", "none", 1, 1, 784, 10.0, (layer,), (synapse,))
    priced = run(activity, "loihi1")
    assert priced.cores == 4
    assert line(priced, "spike messages").count == 10 * 4, "a dense source reaches every core of its target"


def test_conv_layer_takes_the_cores_that_its_neurons_fill():
    layer = LayerActivity("conv", neurons=3000, spikes=0.0, updates=3000.0)
    synapse = SynapseActivity("input", "conv", "conv", 27_000, 18, 0.0, 9, 0.0, 0.0)
    activity = Activity("conv", "none", 1, 1, 2000, 10.0, (layer,), (synapse,))
    priced = run(activity, "loihi1")
    assert priced.cores == 3
    assert line(priced, "spike messages").count == 10, "a 3x3 patch lies on one core at least"


def test_two_connections_between_the_same_layers_share_their_messages():
    activity = toy()
    doubled = replace(activity, synapses=(*activity.synapses, activity.synapses[0]))
    messages = [line(run(a, "loihi1"), "spike messages").count for a in (activity, doubled)]
    assert messages[0] == messages[1]


def test_a_plain_net_fits_both_chips():
    for name in CHIPS:
        priced = run(toy(), name)
        assert priced.fits
        assert priced.fit_notes == ()
        assert priced.cores == 2


def test_a_net_of_too_many_cores_does_not_fit_and_pays_for_more_chips():
    layer = LayerActivity("big", neurons=200_000, spikes=0.0, updates=200_000.0)
    priced = run(Activity("big", "none", 1, 1, 1, 0.0, (layer,)), "loihi1")
    assert priced.cores == 196
    assert not priced.fits
    assert "too many cores: the net uses at least 196 (layer big: 196), limit 128" in priced.fit_notes[0]
    assert line(priced, "static").count == 2


def test_threshold_map_beyond_the_cores_levels_does_not_fit_loihi1():
    priced = run(toy(levels=17), "loihi1")
    assert priced.fit_notes == (
        "threshold map unpalettised: layer hidden uses 17 distinct thresholds, limit 16 per core",
    )
    assert not priced.fits
    assert run(toy(levels=17), "loihi2").fits


@pytest.mark.parametrize(("levels", "warned"), [(8, False), (9, True), (16, True)])
def test_threshold_levels_that_sources_disagree_on_are_noted(levels, warned):
    priced = run(toy(levels=levels), "loihi1")
    assert priced.fits
    assert any(f"hidden uses {levels} distinct thresholds" in note for note in priced.notes) is warned


@pytest.mark.parametrize(("name", "words"), [("loihi1", "cannot compute it natively"), ("loihi2", "no published")])
def test_gates_do_not_fit_any_chip_as_they_are(name, words):
    priced = run(toy(GATE), name)
    assert not priced.fits
    (note,) = priced.fit_notes
    assert "layer hidden uses 3600 gate operations" in note
    assert words in note


def test_graded_sources_fit_loihi2_only():
    assert run(toy(graded=True), "loihi2").fits
    (note,) = run(toy(graded=True), "loihi1").fit_notes
    assert note.startswith("graded source: connection input -> hidden")


def test_dense_fan_in_beyond_the_input_axons_does_not_fit_loihi1():
    layer = LayerActivity("fc", neurons=10, spikes=0.0, updates=10.0)
    synapse = SynapseActivity("input", "fc", "dense", 81_920, 81_920, 0.0, 8192, 0.0, 0.0)
    activity = Activity("fc", "none", 1, 1, 8192, 0.0, (layer,), (synapse,))
    assert "layer fc hears 8192 sources" in run(activity, "loihi1").fit_notes[0]
    assert run(activity, "loihi2").fits


def test_broken_activities_are_refused_by_name():
    activity = toy()
    with pytest.raises(InputError, match="'toy': time_steps is 0"):
        run(replace(activity, time_steps=0), "loihi1")
    lost = replace(activity, synapses=(replace(activity.synapses[0], target="nowhere"),))
    with pytest.raises(InputError, match="'input' -> 'nowhere'"):
        run(lost, "cmos45")
    odd = replace(activity, synapses=(replace(activity.synapses[0], kind="magic"),))
    with pytest.raises(InputError, match="kind 'magic'"):
        run(odd, "loihi1")


@pytest.mark.parametrize("name", shipped_hardware())
@pytest.mark.parametrize("gate", [None, GATE], ids=["plain", "gated"])
def test_price_survives_json(name, gate):
    priced = run(toy(gate), name)
    text = json.dumps(priced.to_dict(), allow_nan=False)
    assert json.loads(text) == priced.to_dict()
    assert json.loads(text)["total"]["value"] == priced.total.value


@settings(max_examples=50)
@given(
    fired=st.floats(0, 1),
    synops=st.floats(0, 1e9),
    neurons=st.integers(1, 10**6),
    steps=st.integers(1, 500),
    name=st.sampled_from(shipped_hardware()),
)
def test_every_range_of_a_price_is_ordered_and_lines_add_up(fired, synops, neurons, steps, name):
    updates = float(neurons * steps)
    layer = LayerActivity("layer", neurons, fired * updates, updates, gate=GATE)
    synapse = SynapseActivity("input", "layer", "conv", 9 * neurons, 9, synops, 9, 9.0 * neurons, fired)
    priced = run(Activity("any", "dynamic", 1, steps, neurons, synops / 9, (layer,), (synapse,)), name)
    quantities = [priced.total, priced.dynamic, priced.static, *(item.energy for item in priced.lines)]
    quantities += [q for q in (priced.latency, priced.gate_processor, priced.total_without_attention) if q is not None]
    for quantity in quantities:
        assert 0 <= quantity.low <= quantity.value <= quantity.high
    assert priced.total.value == pytest.approx(priced.dynamic.value + priced.static.value)
