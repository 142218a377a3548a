"""Comparing: pairs, tables, files."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from generated_graphs import random_clips, random_graph
from networks import Chain
from small_event_nets import seeded_net
from spikefold.deploy.compare import compare, plain_rows, write_csv, write_json
from spikefold.deploy.comparison import Row, paired
from spikefold.deploy.picture import draw_accuracy_energy
from spikefold.deploy.run import run
from spikefold.deploy.sources import NamedNet
from spikefold.deploy.tables import activity_table, answers, comparison_table
from spikefold.deploy.words import count, si
from spikefold.errors import HardwareConfigError, InputError


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    net = NamedNet("mine", seeded_net(3))
    clips = (np.random.default_rng(3).random((4, 20, 2, 8, 8)) < 0.3).astype(np.uint8)
    return compare([net], clips[:, :8], clips[:, 8:], np.arange(12) % 3, lava_samples=0)


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
    ("value", "text"), [(4.6e-4, "460 uJ"), (0.0, "0 J"), (2.36e-11, "23.6 pJ"), (1.5, "1.5 J"), (1e-15, "0.001 pJ")]
)
def test_energies_are_written_with_the_right_prefix(value: float, text: str) -> None:
    assert si(value, "J") == text


def test_counts_are_written_with_the_right_letter() -> None:
    assert [count(x) for x in (12, 1234, 5.6e6, 7e9)] == ["12", "1.23 k", "5.6 M", "7 G"]
