"""The report of verify, as text, as data and as files: complete, and each kind of error by its own name."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from functools import lru_cache
from pathlib import Path

import numpy as np

from equivalence_nets import net
from spikefold.deploy.verify import Verification, verify
from spikefold.deploy.verify_report import layer_rows, summary_lines, write_report

PARTS = ("folding", "attention", "quantisation", "states", "backend_torch", "backend_onnx", "backend_onnx_step")


@lru_cache(maxsize=1)
def result() -> Verification:
    made, labels = net("squeeze"), np.array([0, 1, 2, 3])
    return verify(made.module, made.clips, "static", made.calibration, labels=labels, backends=("torch", "onnx"))


def test_data_are_plain_and_complete() -> None:
    plain = result().to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["passed"] is True
    assert plain["backends"][0]["spike_differences"] == 0
    assert plain["backends"][0]["layers"][1] == {
        "name": "fire2", "values": 4000, "spike_differences": 0, "membrane_differences": 0,
    }  # fmt: skip
    assert plain["attention"]["layers"][0]["name"] == "fire1"
    assert plain["states"][0]["membrane"]["limit"] == 2**23 - 1


def test_infinite_ratios_stay_readable_where_json_has_no_word_for_them() -> None:
    first, *rest = result().quantisation.layers
    endless = dataclasses.replace(first, isolated_snr_db=math.inf)
    quantisation = dataclasses.replace(result().quantisation, layers=(endless, *rest))
    plain = dataclasses.replace(result(), quantisation=quantisation).to_dict()
    text = json.dumps(plain, allow_nan=False)
    assert float(json.loads(text)["quantisation"]["layers"][0]["isolated_snr_db"]) == math.inf


def test_text_has_every_part_and_every_layer_in_it() -> None:
    text = "\n".join(summary_lines(result()))
    for part in (
        "within the rounding bound", "vs static", "accuracy", "gate varies", "dB carried on", "0 wrapped", "0 clipped",
        "exactly at the threshold, where the module fires", "onnx step: 0 of", "0 in every layer",
    ):  # fmt: skip
        assert part in text
    assert text.endswith("verified: yes")
    assert [text.count(f"\n  {name}: ") for name in ("fire1", "fire2", "readout")] == [4, 4, 3]


def test_files_say_what_the_result_says(tmp_path: Path) -> None:
    whole, table = write_report(result(), tmp_path / "new" / "folder")
    assert json.loads(whole.read_text()) == result().to_dict()
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == ["fire1", "fire2", "readout"]
    for row, wanted in zip(rows, layer_rows(result()), strict=True):
        assert {k: v for k, v in row.items() if v != ""} == {k: str(v) for k, v in wanted.items() if v is not None}
    assert rows[2]["attention_isolated"] == ""
    for part in PARTS:
        assert [k for k in rows[0] if k.startswith(f"{part}_")]
    assert {k.split("_")[0] for k in rows[0]} == {"layer", "folding", "attention", "quantisation", "states", "backend"}


def test_a_line_of_the_table_holds_the_numbers_of_its_layer() -> None:
    row = layer_rows(result())[1]
    v = result()
    assert v.attention is not None
    assert row["folding_flip_distance"] == v.folding.layers[1].flip_distance
    assert row["attention_cumulative"] == v.attention.layers[1].cumulative
    assert row["quantisation_isolated_snr_db"] == v.quantisation.layers[1].isolated_snr_db
    assert row["states_membrane_proved"] == v.states[1].membrane.proved
    assert row["backend_onnx_step_membrane_differences"] == 0
