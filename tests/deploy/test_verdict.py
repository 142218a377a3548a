"""The rule for the mode to deploy, and the sentence that says what it brings."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from generated_graphs import random_graph
from spikefold.converters.reference import Trace
from spikefold.deploy.activity import Activity, GateActivity, LayerActivity, SynapseActivity
from spikefold.deploy.comparison import Row, paired
from spikefold.deploy.hardware import load_hardware
from spikefold.deploy.lemaire import price_ann, price_memory
from spikefold.deploy.neurobench_beside import Beside, CountedModule
from spikefold.deploy.neurobench_counts import NeuroBenchCounts
from spikefold.deploy.price import Price, PriceLine, price
from spikefold.deploy.quantity import Range
from spikefold.deploy.verdict import full_energy, plain_row, ratio, verdicts
from spikefold.errors import InputError

SAMPLES = 2000
NOTHING = CountedModule(
    NeuroBenchCounts(SAMPLES, (), 0.0, 0.0, 0.0, 0.0, 0, 0, 0), frozenset(), 0, np.zeros(0), Trace({}, {}, np.zeros(0))
)


def joules(total: float, gates: float | None = None, fits: bool = True) -> Price:
    return Price(
        "loihi1", "a chip", "chip", False, (PriceLine("all", "dynamic", 1.0, Range.exact(total)),), gates is not None,
        0.0, None if gates is None else Range.exact(gates), fits, () if fits else ("a rule",), (),
    )  # fmt: skip


def row(
    mode: str, lost: int, priced: Price, spikes: float = 100.0, name: str = "net", operations: float = 0.0,
    levels: int | None = None,
) -> Row:  # fmt: skip
    """A variant that gets the first ``lost`` samples wrong."""
    right = np.arange(SAMPLES) >= lost
    gate = GateActivity(multiplies=operations) if operations else None
    activity = Activity(name, mode, SAMPLES, 4, 10, 5.0, (LayerActivity("l", 50, spikes, 200.0, gate=gate),))
    same = paired(right, right)
    return Row(
        name, mode, SAMPLES, 0.9, 0.9, float(right.mean()), same, same, {}, activity, (priced,), (), None,
        random_graph(0), right, Beside(NOTHING, activity, {}, random_graph(0)), threshold_levels=levels,
    )  # fmt: skip


def chosen(*rows: Row) -> str:
    (verdict,) = verdicts(rows)
    return verdict.chosen.mode


def test_the_cheapest_mode_as_accurate_as_dynamic_is_chosen() -> None:
    dynamic = row("dynamic", 100, joules(3.0, 1.0, fits=False), operations=1e6)
    assert chosen(row("static", 100, joules(2.0)), row("causal", 100, joules(1.0)), dynamic) == "causal"


def test_a_mode_that_is_shown_to_lose_more_than_a_point_is_left_out_however_cheap() -> None:
    dynamic = row("dynamic", 0, joules(3.0, 1.0, fits=False), operations=1e6)
    for lost in range(0, 80, 4):
        static = row("static", lost, joules(0.1))
        shown = paired(dynamic.right, static.right).high < -0.01
        assert chosen(static, dynamic) == ("dynamic" if shown else "static")
    assert chosen(row("static", 20, joules(0.1)), dynamic) == "static", "one point lost is not more than a point"
    assert chosen(row("static", 79, joules(0.1)), dynamic) == "dynamic"


def test_a_mode_that_the_chip_runs_is_preferred_to_a_cheaper_one_that_it_does_not() -> None:
    dynamic = row("dynamic", 0, joules(0.5, 0.1, fits=False), operations=1e6)
    assert chosen(row("static", 0, joules(1.0)), dynamic) == "static"
    assert chosen(row("static", 0, joules(1.0, fits=False)), dynamic) == "dynamic"


def test_the_gate_processor_is_part_of_what_a_mode_costs() -> None:
    causal = row("causal", 0, joules(1.0, 0.2), operations=1e3)
    assert chosen(causal, row("dynamic", 0, joules(0.9, 0.5), operations=1e6)) == "causal"
    assert full_energy(causal.prices[0]) == pytest.approx(1.2)


def test_a_mode_with_fewer_thresholds_is_a_mode_of_its_own() -> None:
    dynamic = row("dynamic", 100, joules(3.0, 1.0, fits=False), operations=1e6)
    whole = row("static", 100, joules(2.0))
    (verdict,) = verdicts([whole, row("static", 101, joules(1.0), levels=16), dynamic])
    assert (verdict.chosen.threshold_levels, verdict.chosen.form) == (16, "static with 16 thresholds")
    assert verdict.modes == ("static", "static with 16 thresholds", "dynamic")
    assert verdict.sentence.startswith("net: deploy static with 16 thresholds, of 3 modes the cheapest")
    assert verdict.against_reference.lost == 1, "its own samples, not those of the mode with all thresholds"
    (verdict,) = verdicts([whole, row("static", 400, joules(1.0), levels=16), dynamic])
    assert verdict.chosen is whole, "it loses too much, the mode itself does not"


def test_dynamic_with_all_its_thresholds_is_the_reference() -> None:
    few = row("dynamic", 300, joules(1.0, 1.0, fits=False), operations=1e6, levels=2)
    (verdict,) = verdicts([few, row("dynamic", 0, joules(3.0, 1.0, fits=False), operations=1e6)])
    assert (verdict.reference, verdict.chosen.threshold_levels) == ("dynamic", None)


def test_without_dynamic_the_most_accurate_mode_is_the_reference() -> None:
    (verdict,) = verdicts([row("static", 200, joules(1.0)), row("causal", 10, joules(2.0))])
    assert "more samples" not in verdict.sentence
    assert (verdict.reference, verdict.chosen.mode) == ("causal", "causal")


def test_too_few_samples_to_rule_a_loss_out_are_named() -> None:
    few = dataclasses.replace(row("static", 0, joules(1.0)), right=np.ones(50, bool))
    dynamic = dataclasses.replace(row("dynamic", 0, joules(3.0, 1.0), operations=1e6), right=np.ones(50, bool))
    (verdict,) = verdicts([few, dynamic])
    assert "more samples would rule a larger loss out, or not" in verdict.sentence


def test_the_sentence_has_accuracy_spikes_energy_gates_and_mode() -> None:
    rows = [
        row("none", 50, joules(4e-6), name="plain", spikes=200.0),
        row("static", 40, joules(2e-6), spikes=100.0, name="mine"),
        row("dynamic", 38, joules(3e-6, 1e-6, fits=False), operations=2.5e6, name="mine"),
    ]
    (verdict,) = verdicts(rows)
    assert verdict.plain is rows[0] is plain_row(rows)
    assert verdict.against_plain is not None
    assert (verdict.against_plain.gained, verdict.against_plain.lost) == (10, 0)
    for words in (
        "mine: deploy static",
        "of 2 modes the cheapest on loihi1 that keeps its rules",
        "more than 1 point less accurate than dynamic (-0.1 [",
        "against plain +0.5 [",
        "(+10 -0) points of accuracy [95 %] on 2,000 samples",
        "0.50 times the spikes",
        "0.50 times the energy on loihi1: 2 µJ, against 4 µJ",
        "2.5 M operations a clip in dynamic, which static saves, about 1 µJ",
    ):
        assert words in verdict.sentence
    assert verdict.sentence.count(". ") == 0, "one sentence"


def test_a_mode_that_needs_a_gate_processor_shows_its_line_and_its_broken_rules() -> None:
    rows = [row("none", 0, joules(4e-6), name="plain"), row("dynamic", 0, joules(3e-6, 1e-6, False), operations=2e6)]
    (verdict,) = verdicts(rows)
    assert "deploy dynamic, the only mode compared" in verdict.sentence
    assert "1.00 times the energy on loihi1: at least 3 µJ and 1 µJ of its gate processor (45 nm" in verdict.sentence
    assert "breaks 1 rules" in verdict.sentence
    assert "2 M operations a clip in dynamic about 1 µJ" in verdict.sentence


def test_nets_without_gates_get_no_verdict_and_silence_no_division_by_zero() -> None:
    assert verdicts([row("none", 0, joules(1.0))]) == []
    assert verdicts([]) == []
    rows = [row("none", 0, joules(0.0), name="plain", spikes=0.0), row("static", 0, joules(0.0), spikes=0.0)]
    (verdict,) = verdicts(rows)
    assert "inf times the spikes, inf times the energy" in verdict.sentence


def test_ratios_are_taken_within_one_family_and_one_chip_only() -> None:
    layer = LayerActivity("l", 50, 10.0, 200.0)
    synapse = SynapseActivity("input", "l", "dense", 500, 500, 250.0, 10, 500.0, 0.1)
    activity = Activity("net", "none", 1, 4, 10, 5.0, (layer,), (synapse,))
    table = load_hardware("cmos45")
    operations, memory = price(activity, table), price_memory(activity, table)
    ann, quantised = price_ann(activity, table, "operations"), price_ann(activity, table, activation_bits=3)
    assert ratio(operations, ann) == pytest.approx(operations.total.value / ann.total.value)
    assert ratio(memory, quantised) == pytest.approx(memory.total.value / quantised.total.value)
    for other in (memory, quantised, price(activity, "loihi1")):
        with pytest.raises(InputError, match="have no ratio: compare within one family"):
            ratio(operations, other)
    with pytest.raises(InputError, match="and on one chip"):
        ratio(price(activity, "loihi1"), price(activity, "loihi2"))
    chip = dataclasses.replace(joules(3.0), family="chip")
    assert ratio(chip, joules(1.5)) == 2.0
