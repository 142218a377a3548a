"""Runs, counts, prices, mappings and proofs show themselves: a line, and a small table that is escaped."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from xml.etree import ElementTree

import pytest

from generated_graphs import random_clips, random_graph
from spikefold.deploy.certificate import certify
from spikefold.deploy.comparison import Row, paired
from spikefold.deploy.equality import check_backends
from spikefold.deploy.layer_errors import Quantisation
from spikefold.deploy.mapping.mapper import map_net
from spikefold.deploy.price import price
from spikefold.deploy.run import run
from spikefold.deploy.teacher_forcing import Folding
from spikefold.deploy.verify import Verification
from spikefold.deploy.words import ranged

NASTY = "<b>&net"


@lru_cache(maxsize=1)
def shown() -> dict[str, object]:
    graph = replace(random_graph(0), name=NASTY)
    clips = random_clips(graph, 0)
    done = run(graph, clips, "reference")
    priced = price(done, "loihi1")
    equal = check_backends(graph, clips, ("torch",), 0)
    right = done.predictions == done.predictions
    verified = Verification(
        3, 5, "none", Folding((), 3, 0, 0, 0), None, Quantisation((), 0, None, None), (), equal
    )  # fmt: skip
    row = Row(
        NASTY, "none", 3, 0.5, 0.5, 0.25, paired(right, right), paired(right, right), {}, done.activity, (priced,), (),
        None, graph, right, None,
    )  # fmt: skip
    return {
        "Run": done, "Activity": done.activity, "Price": priced, "Mapping": map_net(graph, "loihi1"),
        "Verification": verified, "Certificate": certify(graph, clips, equal, "some clips"), "Row": row,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["Run", "Activity", "Price", "Mapping", "Verification", "Certificate", "Row"])
def test_each_shows_itself(name: str) -> None:
    value = shown()[name]
    text = repr(value)
    assert text.startswith(f"<{name} ")
    assert len(text) < 300
    assert "\n" not in text
    html = value._repr_html_()  # type: ignore[attr-defined]
    assert "<b>&net" not in html
    table = ElementTree.fromstring(html)  # noqa: S314  # made here
    rows = list(table.iter("tr"))
    assert 2 <= len(rows) < 40
    assert len({len(list(row)) for row in rows if len(list(row))}) == 1
    assert len(html) < 10_000


def test_tables_hold_the_numbers_of_what_they_show() -> None:
    done, priced = shown()["Run"], shown()["Price"]
    html = priced._repr_html_()  # type: ignore[attr-defined]
    assert ranged(priced.total) in html  # type: ignore[attr-defined]
    for line in priced.lines:  # type: ignore[attr-defined]
        assert ranged(line.energy) in html
    activity = done.activity  # type: ignore[attr-defined]
    assert f"{activity.layers[0].spikes / activity.layers[0].updates:.4f}" in done._repr_html_()  # type: ignore[attr-defined]
    assert "torch equal" in repr(shown()["Verification"])
    assert "NOT VERIFIED" not in repr(shown()["Verification"])
    assert "accuracy 25.0% in integers" in repr(shown()["Row"])
