"""Comparing: pairs, tables, files."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from generated_graphs import random_clips, random_graph
from networks import Chain
from pixel_gate import PixelGate
from small_event_nets import seeded_net
from spikefold.deploy.compare import compare, plain_rows, write_csv, write_json
from spikefold.deploy.comparison import Row, paired
from spikefold.deploy.neurobench_counts import neurobench_counts
from spikefold.deploy.picture import draw_accuracy_energy
from spikefold.deploy.run import run
from spikefold.deploy.sources import NamedNet
from spikefold.deploy.tables import (
    activity_table,
    answers,
    comparison_table,
    differences,
    neurobench_table,
    notes,
)
from spikefold.deploy.verdict import ratio
from spikefold.deploy.words import count, si, signed, size
from spikefold.errors import HardwareConfigError, InputError


def _clips() -> NDArray[np.uint8]:
    return (np.random.default_rng(3).random((4, 20, 2, 8, 8)) < 0.3).astype(np.uint8)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    net, clips = NamedNet("mine", seeded_net(3)), _clips()
    return compare([net], clips[:, :8], clips[:, 8:], np.arange(12) % 3, lava_samples=0)


@pytest.fixture(scope="module")
def reduced() -> list[Row]:
    """Static, static with 2 thresholds a layer, dynamic."""
    clips = _clips()
    return compare(
        [NamedNet("mine", PixelGate().eval())], clips[:, :8], clips[:, 8:], np.arange(12) % 3, lava_samples=0,
        threshold_levels=2, hardware=["loihi1"],
    )  # fmt: skip


def test_a_paired_difference_counts_both_directions_and_its_interval_holds_it() -> None:
    first = np.array([True] * 90 + [False] * 10)
    second = np.array([True] * 85 + [False] * 5 + [True] * 10)
    result = paired(first, second)
    assert (result.gained, result.lost, result.samples) == (10, 5, 100)
    assert result.difference == pytest.approx(0.05)
    assert result.low < 0.05 < result.high
    # Bonett and Price (2012): p = 11/102, q = 6/102
    p, q = 11 / 102, 6 / 102
    half = 1.959964 * ((p + q - (p - q) ** 2) / 102) ** 0.5
    assert (result.low, result.high) == pytest.approx((p - q - half, p - q + half))


def test_equal_classifiers_still_have_an_interval_of_some_width() -> None:
    result = paired(np.ones(50, bool), np.ones(50, bool))
    assert result.low < 0 < result.high


def test_unequal_numbers_of_samples_cannot_be_paired() -> None:
    with pytest.raises(InputError, match=r"\(3,\)"):
        paired(np.ones(3, bool), np.ones(4, bool))


def test_labels_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match="5 labels for 4 clips"):
        compare([], np.zeros((2, 4, 2, 8, 8)), np.zeros((2, 4, 2, 8, 8)), np.zeros(5, np.int64))


def test_both_modes_of_a_gated_net_are_rows_with_gate_work_only_where_it_is_done(rows: list[Row]) -> None:
    assert [r.mode for r in rows] == ["static", "dynamic"]
    assert rows[0].activity.gate_operations == 0
    assert rows[1].activity.gate_operations > 0
    assert rows[0].accuracy_original == rows[1].accuracy_original


def test_dynamic_lowering_changes_nothing_in_the_float_net(rows: list[Row]) -> None:
    assert (rows[1].lowering.gained, rows[1].lowering.lost) == (0, 0)


def test_csv_and_json_hold_every_row_and_the_same_energies(rows: list[Row], tmp_path: Path) -> None:
    write_csv(rows, tmp_path / "t.csv")
    write_json(rows, tmp_path / "t.json")
    table = list(csv.DictReader((tmp_path / "t.csv").open()))
    plain = json.loads((tmp_path / "t.json").read_text())
    assert len(table) == len(plain) == 2
    for line, entry in zip(table, plain, strict=True):
        for chip in ("loihi1", "loihi2", "cmos45"):
            assert float(line[f"{chip}_joules"]) == entry["energy"][chip]["total"]["value"]


def test_memory_and_anns_stand_beside_and_ratios_stay_within_a_family(rows: list[Row], tmp_path: Path) -> None:
    write_json(rows, tmp_path / "t.json")
    static, dynamic = json.loads((tmp_path / "t.json").read_text())
    beside = ["cmos45-ann", "cmos45-memory", "cmos45-ann-8bit", "cmos45-ann-3bit"]  # 3 bits tell what 4 steps do
    assert list(static["energy"]) == ["loihi1", "loihi2", "cmos45", *beside]
    families = {name: price["family"] for name, price in static["energy"].items()}
    for name, value in static["ratios"].items():
        mine, other = name.split(" / ")
        assert families[mine] == families[other]
        energies = [static["energy"][n]["total"]["value"] for n in (mine, other)]
        assert value == pytest.approx(energies[0] / energies[1])
    assert sorted(static["ratios"]) == [
        "cmos45 / cmos45-ann", "cmos45-memory / cmos45-ann-3bit", "cmos45-memory / cmos45-ann-8bit",
    ]  # fmt: skip
    for name in ("cmos45-ann", "cmos45-ann-3bit"):
        assert static["energy"][name]["total"] == dynamic["energy"][name]["total"], "attention is no part of an ANN"
    assert static["verdict"] == dynamic["verdict"]
    assert [static["deploy"], dynamic["deploy"]].count(True) == 1
    assert static["against_plain"] is None


def test_a_plain_net_among_others_is_what_they_are_held_against() -> None:
    clips = (np.random.default_rng(3).random((4, 20, 2, 8, 8)) < 0.3).astype(np.uint8)
    nets = [NamedNet("mine", seeded_net(3)), NamedNet("bare", Chain().eval())]
    rows = compare(nets, clips[:, :8], clips[:, 8:], np.arange(12) % 3, lava_samples=0, hardware=["loihi2", "cmos45"])
    made = plain_rows(rows)
    assert [(r["net"], r["mode"], r["deploy"]) for r in made][-1] == ("bare", "none", True)
    assert made[0]["ratios"]["loihi2 / bare"] == pytest.approx(
        made[0]["energy"]["loihi2"]["total"]["value"] / made[2]["energy"]["loihi2"]["total"]["value"]
    )
    assert made[0]["against_plain"]["samples"] == 12
    (answer,) = answers(rows)
    assert answer.startswith("mine: deploy static")
    assert "against bare" in answer
    assert [r.prices[0].chips for r in rows] == [1, 1, 1]


def test_rows_with_fewer_thresholds_stand_beside_those_that_have_more(reduced: list[Row]) -> None:
    static, few, dynamic = reduced
    assert [r.form for r in reduced] == ["static", "static with 2 thresholds", "dynamic"]
    assert max(n.threshold_levels for n in static.fixed.neurons) > 16
    assert max(n.threshold_levels for n in few.fixed.neurons) == 2
    assert few.reducing == paired(static.right, few.right)
    assert (static.reducing, dynamic.reducing) == (None, None)
    assert few.quantising.samples == 12
    assert few.accuracy_lowered == static.accuracy_lowered
    cores = [r.prices[0].cores for r in reduced]
    assert cores[1] < cores[0]
    (cost,) = static.threshold_costs
    assert (cost.hardware, cost.per_core, cost.cores) == ("loihi1", 16, cores[0])
    assert not few.threshold_costs


def test_files_and_tables_tell_rows_with_fewer_thresholds_apart(reduced: list[Row], tmp_path: Path) -> None:
    write_csv(reduced, tmp_path / "t.csv")
    table = list(csv.DictReader((tmp_path / "t.csv").open()))
    plain = plain_rows(reduced)
    assert [line["threshold_levels"] for line in table] == ["", "2", ""]
    assert [entry["threshold_levels"] for entry in plain] == [None, 2, None]
    assert plain[1]["reducing_changes"]["samples"] == 12
    assert float(table[1]["reducing_difference"]) == plain[1]["reducing_changes"]["difference"]
    assert [entry["deploy"] for entry in plain].count(True) == 1
    shown = comparison_table(reduced)
    assert [str(c.header) for c in shown.columns][1:] == [
        "mine static",
        "mine static with 2 thresholds",
        "mine dynamic",
    ]
    assert "fewer thresholds change, points [95 %]" in list(shown.columns[0].cells)
    draw_accuracy_energy(reduced, tmp_path / "a.png")


def test_fewer_than_one_threshold_is_refused_before_anything_runs() -> None:
    told: list[str] = []
    clips = np.zeros((4, 4, 2, 8, 8), np.uint8)
    with pytest.raises(InputError, match="threshold levels are 0"):
        compare([NamedNet("mine", seeded_net(3))], clips, clips, np.zeros(4, np.int64), threshold_levels=0,
                report=told.append)  # fmt: skip
    assert told == []


def test_thresholds_that_drive_the_cores_are_named_with_the_option_that_helps(reduced: list[Row]) -> None:
    static, few, dynamic = reduced
    (cost,) = static.threshold_costs
    (line,) = [note for note in notes([static, dynamic]) if "thresholds" in note]
    assert line.startswith(
        f"mine static on loihi1: thresholds drive its {cost.cores} cores ({cost.cores_of_one} with one"
    )
    assert f"neuron has {cost.levels} and a core holds 16; --threshold-levels 16" in line
    assert not [note for note in notes([few, dynamic]) if "thresholds drive" in note]
    assert plain_rows([static])[0]["threshold_costs"] == [dataclasses.asdict(cost)]


def test_what_fewer_thresholds_bring_is_said_in_place_of_the_advice(reduced: list[Row]) -> None:
    static, few, _ = reduced
    mine, theirs = few.prices[0], static.prices[0]
    (line,) = [note for note in notes(reduced) if "thresholds" in note]
    assert line.startswith(f"mine static with 2 thresholds on loihi1: {mine.cores} cores in place of {theirs.cores}, ")
    assert f" {ratio(mine, theirs):.2f} times the energy of mine static and " in line
    assert few.reducing is not None
    assert f"[{100 * few.reducing.low:+.1f}, {100 * few.reducing.high:+.1f}]" in line


@pytest.mark.parametrize(
    ("few_bound", "whole_bound", "words"),
    [(False, True, ", at most 0."), (True, False, ", at least 0."), (False, False, ", 0.")],
)
def test_a_ratio_of_a_lower_bound_is_a_bound_itself(
    reduced: list[Row], few_bound: bool, whole_bound: bool, words: str
) -> None:
    static, few, _ = reduced
    price = dataclasses.replace(few.prices[0], lines=few.prices[0].lines[:1], lower_bound=few_bound)
    whole = dataclasses.replace(static, prices=(dataclasses.replace(static.prices[0], lower_bound=whole_bound),))
    (line,) = [note for note in notes([whole, dataclasses.replace(few, prices=(price,))]) if "in place of" in note]
    assert words in line


def test_neurobench_stands_beside_the_mapped_counts_in_every_row(rows: list[Row], tmp_path: Path) -> None:
    write_csv(rows, tmp_path / "t.csv")
    table = list(csv.DictReader((tmp_path / "t.csv").open()))
    own = neurobench_counts(seeded_net(3), np.asarray(_clips()[:, 8:]))
    for line, entry, row in zip(table, plain_rows(rows), rows, strict=True):
        there, here = entry["neurobench"]["neurobench"], entry["neurobench"]["mapped"]
        assert there["effective_acs"] == own.effective_acs == float(line["neurobench_effective_acs"])
        assert there["effective_macs"] == own.effective_macs == float(line["neurobench_effective_macs"])
        assert there["footprint"] == own.footprint == int(line["neurobench_footprint_bytes"])
        assert entry["neurobench"]["samples"] == 12 == int(line["neurobench_samples"])
        assert here["synops"] == row.activity.synops, "12 samples are below the bound"
        assert here["bytes"]["total"] == int(line["integer_net_bytes"])
        steps = entry["neurobench"]["from_neurobench_to_mapped"]
        assert sum(steps.values()) + own.effective_acs + own.effective_macs == pytest.approx(here["synops"])
        assert any("inside gates" in reason for reason in entry["neurobench"]["why"])


def test_the_table_of_neurobench_has_a_column_for_every_row_and_leaves_empty_steps_out(rows: list[Row]) -> None:
    table = neurobench_table(rows)
    names = [str(cell).strip() for cell in table.columns[0].cells]
    assert len(table.columns) == 3
    assert "layers inside gates" in names
    assert "other numbers of relays" not in names
    first = dict(zip(names, (str(c) for c in table.columns[1].cells), strict=True))
    assert first["mapped: synops"] == count(rows[0].neurobench.mapped.synops)
    assert first["layers inside gates"].startswith("-")


def test_reasons_that_hold_for_all_rows_of_a_net_are_printed_once(rows: list[Row]) -> None:
    lines = differences(rows)
    assert lines[0].startswith("mine: ")
    assert len(set(lines)) == len(lines)
    (gates,) = [line for line in lines if "folded away" in line]
    assert gates.startswith("  - mine static: ")
    (updates,) = [line for line in lines if "neuron updates are not" in line]
    assert not updates.startswith("  - mine ")


def test_hardware_without_a_price_is_refused_before_anything_runs() -> None:
    told: list[str] = []
    clips = np.zeros((4, 4, 2, 8, 8), np.uint8)
    with pytest.raises(HardwareConfigError, match="speck: has limits only"):
        compare([NamedNet("mine", seeded_net(3))], clips, clips, np.zeros(4, np.int64), hardware=["loihi1", "speck"],
                report=told.append)  # fmt: skip
    assert told == []


def test_the_picture_is_written_and_its_bytes_do_not_depend_on_the_date(rows: list[Row], tmp_path: Path) -> None:
    draw_accuracy_energy(rows, tmp_path / "a.png")
    draw_accuracy_energy(rows, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_the_table_has_a_column_for_every_row(rows: list[Row]) -> None:
    assert len(comparison_table(rows).columns) == 3


def test_tables_show_relays_only_where_there_are_some(rows: list[Row]) -> None:
    graph = random_graph(3, relays=True)
    counted = run(graph, random_clips(graph, 3), "reference").activity
    names = [layer.name for layer in counted.layers]
    rates = dict(zip(names, activity_table(counted).columns[3].cells, strict=True))
    bits = {s.source: s.payload_bits for s in counted.synapses}
    assert rates["relay1"] == f"relay, {bits['relay1']} bits" != rates["rectifier"]
    assert rates["output"] == "readout"
    assert float(str(rates["conv1"])) > 0
    relayed = dataclasses.replace(rows[0], activity=counted)
    plain, both = (comparison_table(r).row_count for r in (rows, [relayed, rows[1]]))
    assert both == plain + 2


@pytest.mark.parametrize(
    ("value", "text"), [(4.6e-4, "460 µJ"), (0.0, "0 J"), (2.36e-11, "23.6 pJ"), (1.5, "1.5 J"), (1e-15, "0.001 pJ")]
)
def test_energies_are_written_with_the_right_prefix(value: float, text: str) -> None:
    assert si(value, "J") == text


def test_counts_are_written_with_the_right_letter() -> None:
    assert [count(x) for x in (12, 1234, 5.6e6, 7e9)] == ["12", "1.23 k", "5.6 M", "7 G"]


def test_signs_and_bytes_are_written_with_counts() -> None:
    assert [signed(x) for x in (-6.14e6, 273e3, 0.5)] == ["-6.14 M", "+273 k", "+0.5"]
    assert [size(x) for x in (7, 1320, 2.5e6)] == ["7 B", "1.32 kB", "2.5 MB"]
