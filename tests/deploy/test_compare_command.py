"""`spikefold compare` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spikefold.deploy.cli import app
from spikefold.errors import InputError

ARGUMENTS = [
    "compare", "pixel_gate:PixelGate", "--data", "test.npz", "--calibration", "train.npz", "--lava-samples", "0",
    "--hardware", "loihi1", "--attention", "static", "--attention", "dynamic",
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", frames=(rng.random((8, 4, 2, 8, 8)) < 0.3).astype(np.uint8),
                 labels=np.arange(8) % 3)  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def test_tables_reasons_answers_and_notes_are_printed() -> None:
    done = CliRunner().invoke(app, ARGUMENTS)
    assert done.exit_code == 0, done.output
    for words in (
        "pixel_gate-PixelGate static", "pixel_gate-PixelGate dynamic", "NeuroBench: effective MACs",
        "layers inside gates", "mapped: synops", "why NeuroBench's counts and the mapped ones differ",
        "pixel_gate-PixelGate: deploy static", "--threshold-levels 16",
    ):  # fmt: skip
        assert words in done.output, words


def test_threshold_levels_add_a_row_and_files_hold_it(folder: Path) -> None:
    done = CliRunner().invoke(app, [*ARGUMENTS, "--threshold-levels", "4", "--out", "made", "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [(row["mode"], row["threshold_levels"]) for row in rows] == [
        ("static", None),
        ("static", 4),
        ("dynamic", None),
    ]
    assert json.loads((folder / "made" / "table.json").read_text()) == rows


def test_no_threshold_at_all_is_refused() -> None:
    done = CliRunner().invoke(app, [*ARGUMENTS, "--threshold-levels", "0"])
    assert isinstance(done.exception, InputError)


def test_a_report_and_its_figures_are_written_where_they_are_asked_for(folder: Path) -> None:
    done = CliRunner().invoke(app, [*ARGUMENTS[:-2], "--report", "new/out.html", "--figures", "figures", "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    page = (folder / "new" / "out.html").read_text(encoding="utf-8")
    assert "Spikefold report: pixel_gate" in page
    assert f"{row['accuracy']['fixed_point']:.1%}" in page
    names = ("accuracy-energy", "energy-by-layer", "rates", "errors")
    expected = {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    assert {path.name for path in (folder / "figures").iterdir()} == expected
    assert (folder / "figures" / "rates.svg").read_text().startswith("<?xml")
