"""docs/nir_readers.md says what the readers do."""

from __future__ import annotations

import pytest
from _nir_consumers import READERS, is_missing
from nir_readers import CASES, PAGE, row, rows_on_page

pytestmark = [pytest.mark.outside(program) for program in ("snntorch", "norse", "spikingjelly")]


def test_the_page_has_a_row_for_every_net_and_a_column_for_every_reader() -> None:
    rows = rows_on_page()
    assert set(CASES) < set(rows)
    assert [c.strip() for c in rows["net"].split("|")[4:-1]] == list(READERS)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if c.fast else pytest.mark.slow) for n, c in CASES.items()])
def test_the_page_shows_what_the_readers_do(name: str) -> None:
    assert row(name, rows_on_page()[name]) == rows_on_page()[name]


def test_what_sinabs_did_stays_on_the_page_where_it_is_missing() -> None:
    if any(is_missing(reader) for reader in READERS):
        assert "not run" not in rows_on_page()["if"]


@pytest.mark.parametrize("call", ["import_from_nir(", "from_nir(", "net(x", "reset_mem()", "SingleSpike", "norm_input"])
def test_the_calls_are_written_out(call: str) -> None:
    assert call in PAGE.read_text(encoding="utf-8")
