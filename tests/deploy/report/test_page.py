"""The page as text: what it says equals the rows, nothing is loaded, nothing is taken for markup."""

from __future__ import annotations

import csv
import io
import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relay_networks import make
from report_evidence import NAME, made, page
from spikefold.deploy.compare import compare, csv_text, plain_rows
from spikefold.deploy.comparison import Row
from spikefold.deploy.hardware import load_hardware
from spikefold.deploy.hardware_list import walk
from spikefold.deploy.quantity import Leaf
from spikefold.deploy.report.evidence import Evidence
from spikefold.deploy.report.page import report_html, write_report
from spikefold.deploy.sources import NamedNet
from spikefold.deploy.tables import answers
from spikefold.errors import InputError


class Parsed(HTMLParser):
    """Tables by id, texts, ids, scripts, and whatever names a resource."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.scripts: dict[str, str] = {}
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.headings: list[int] = []
        self.text = ""
        self._table, self._cell, self._script = "", False, None
        self.feed(text)

    def handle_starttag(self, tag, attributes) -> None:
        a = dict(attributes)
        self.ids += [a["id"]] if "id" in a else []
        self.loaded += [v for k, v in attributes if k in ("src", "srcset", "action", "data", "poster")]
        self.loaded += [a["href"]] if tag == "link" else []
        if tag == "table":
            self._table = a["id"]
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self._cell = True
            self.tables[self._table][-1].append("")
        elif tag == "script":
            self._script = a.get("id", f"script {len(self.scripts)}")
            self.scripts[self._script] = ""
        elif re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag) -> None:
        self._cell = self._cell and tag not in ("td", "th")
        self._script = None if tag == "script" else self._script

    def handle_data(self, data) -> None:
        if self._script is not None:
            self.scripts[self._script] += data
            return
        self.text += data
        if self._cell:
            self.tables[self._table][-1][-1] += data


@cache
def parsed(gated: bool = True) -> Parsed:
    return Parsed(page(gated))


@cache
def figures() -> dict[str, Any]:
    return json.loads(parsed().scripts["figures"])


def rows() -> list[Row]:
    return made()[0].rows


def test_the_comparison_is_that_of_the_rows() -> None:
    table = {line[0]: line[1:] for line in parsed().tables["comparison"]}
    assert table[""] == [row.title for row in rows()]
    assert table["accuracy, fixed point"] == [f"{row.accuracy_fixed:.1%}" for row in rows()]
    assert table["firing rate"] == [f"{row.activity.firing_rate:.3f}" for row in rows()]
    for sentence in answers(rows()):
        assert sentence in parsed().text


def test_files_to_save_hold_every_number() -> None:
    files = json.loads(parsed().scripts["files"])
    assert files["table.csv"] == csv_text(rows())
    assert json.loads(files["table.json"]) == json.loads(json.dumps(plain_rows(rows())))
    assert len(list(csv.DictReader(io.StringIO(files["table.csv"])))) == len(rows())


def test_points_of_accuracy_against_energy_are_those_of_the_rows() -> None:
    for i, hardware in enumerate(("loihi1", "cmos45")):
        traces = figures()[f"accuracy-{i}"]["data"]
        assert [t["y"] for t in traces] == [[100 * row.accuracy_fixed] for row in rows()]
        for trace, row in zip(traces, rows(), strict=True):
            price = next(p for p in row.prices if p.hardware == hardware)
            total = price.total
            assert trace["x"] == [total.value]
            assert trace["error_x"]["array"] == [total.high - total.value]
            assert trace["error_x"]["arrayminus"] == [total.value - total.low]
            assert trace["marker"]["symbol"].endswith("-open") == price.lower_bound
    assert any(row.prices[0].lower_bound for row in rows())
    shown = [shape["name"] for shape in figures()["accuracy-1"]["layout"]["shapes"]]
    assert shown == [p.hardware for p in rows()[0].beside if p.is_ann and p.family == "operations"]


def test_bars_of_layers_and_of_components_add_up_to_the_totals() -> None:
    for j, row in enumerate(rows()):
        for i, price in enumerate(row.prices):
            whole = sum(x or 0 for t in figures()[f"layers-{i}-{j}"]["data"] for x in t["x"])
            gate = 0.0 if price.gate_processor is None else price.gate_processor.value
            assert whole == pytest.approx(price.total.value + gate)
            bars = figures()[f"components-{i}"]["data"]
            assert sum(t["x"][j] or 0 for t in bars) == pytest.approx(price.total.value + gate)


def test_parts_of_a_bar_differ_by_more_than_colour() -> None:
    looks = [(t["marker"]["color"], t["marker"]["pattern"]["shape"]) for t in figures()["components-0"]["data"]]
    assert len({hatch for _, hatch in looks[:-1]}) == len(looks) - 1
    symbols = {t["marker"]["symbol"] for t in figures()["accuracy-1"]["data"]}
    assert len(symbols) == len({row.mode for row in rows()})


def test_every_constant_stands_with_unit_grade_range_and_source() -> None:
    for i, name in enumerate(("loihi1", "cmos45")):
        lines = {line[0]: line for line in parsed().tables[f"constants-{i}"]}
        leaves = {path: leaf for path, leaf in walk(load_hardware(name)) if isinstance(leaf, Leaf)}
        assert len(leaves) > 10
        for path, leaf in leaves.items():
            _, value, low, high, unit, grade, source = lines[path]
            assert [float(x) for x in (value, low, high)] == pytest.approx([leaf.value, leaf.low, leaf.high])
            assert (unit, grade) == (leaf.unit, leaf.grade)
            assert leaf.source in source


def test_certificates_and_differences_are_shown() -> None:
    for i, form in enumerate(made()[0].forms):
        facts = dict(parsed().tables[f"certificate-{i}"][1:])
        assert facts["net sha256"] == form.certificate.net_sha256
        assert facts["trace sha256"] == form.certificate.trace_sha256
        assert facts["version of numpy"] == form.certificate.versions["numpy"]
        programs = {line[0]: line for line in parsed().tables[f"equality-{i}"][1:]}
        assert {"fast", "torch", "onnx", "nir file"} <= programs.keys()
        assert all(line[4:] == ["0", "0"] for line in programs.values())
    assert "Lava did not run." in parsed().text


def test_rules_that_a_net_breaks_are_said_where_its_energy_and_its_cores_are_shown() -> None:
    (broken,) = (row for row in rows() if row.prices[0].fits is False)
    for note in broken.prices[0].fit_notes:
        assert parsed().text.count(note) >= 2
    assert "does not run as it is" in parsed().text


def test_nothing_is_loaded_from_anywhere() -> None:
    assert [url for url in parsed().loaded if not url.startswith("data:")] == []
    ours = page().replace(next(s for s in parsed().scripts.values() if len(s) > 10**6), "")
    assert re.findall(r"@import|url\((?!data:)|https?://[^\s\"'<)]+\.(?:js|css|woff2?)", ours) == []
    assert "default-src 'none'" in ours
    assert "connect-src" not in ours, "what is not named falls back to none"


def test_names_are_text_and_never_markup() -> None:
    assert NAME in parsed().text
    assert len(parsed().scripts) == 4
    assert NAME not in page()
    names = [t["name"] for t in figures()["accuracy-0"]["data"]]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;co static" in names
    assert "<script" not in parsed().scripts["figures"]


def test_ids_are_unique_and_headings_leave_no_level_out() -> None:
    assert len(set(parsed().ids)) == len(parsed().ids)
    assert set(figures()) <= set(parsed().ids)
    assert parsed().headings[0] == 1
    assert all(b - a <= 1 for a, b in zip(parsed().headings, parsed().headings[1:], strict=False))


def test_equal_evidence_gives_equal_bytes(tmp_path: Path) -> None:
    write_report(made()[0], tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == page()


def test_a_net_without_gates_has_a_page_that_says_so() -> None:
    bare = parsed(gated=False)
    assert "No net with gates was compared" in bare.text
    assert "This net has no gates." in bare.text
    assert [line[0] for line in bare.tables["comparison"]].count("") == 1


def test_a_net_whose_relay_is_composed_away_has_a_page() -> None:
    module, clips = make("a current gated by a layer that another one gates")
    events, evidence = clips.numpy().astype(np.uint8), Evidence("random events")
    compare(
        [NamedNet("relayed", module)], events[:, :3], events[:, 3:], np.arange(3), modes=["static"], lava_samples=0,
        hardware=["loihi2"], watch=evidence.add,
    )  # fmt: skip
    (form,) = evidence.forms
    spared = {f.name for f in form.verification.folding.layers} - {n.name for n in form.row.fixed.neurons}
    assert spared
    table = Parsed(report_html(evidence)).tables["errors-table-0"]
    assert spared <= set(table[0])


def test_a_report_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"watch=evidence\.add"):
        report_html(Evidence("nothing"))
