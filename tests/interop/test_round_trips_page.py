"""docs/round_trips.md says what comes out, and nothing differs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from round_trips import GROUPS, HEAD, exported, rows_on_page

from exported_nets import EXPORTS

LAVA = {"written", "large", "read", "slayer"}


def marks(group: str) -> list[pytest.MarkDecorator]:
    slow = [pytest.mark.slow] if group == "large" else []
    return [*slow, pytest.mark.lava] if group in LAVA else slow


def test_the_page_has_a_row_for_every_net() -> None:
    nets = [name for _, _, names in GROUPS.values() for name in names]
    assert list(rows_on_page()) == [HEAD[0], *nets]


@pytest.mark.parametrize("group", [pytest.param(g, marks=marks(g)) for g in GROUPS])
def test_the_page_shows_what_comes_out(group: str) -> None:
    make, is_here, names = GROUPS[group]
    if not is_here():
        pytest.skip(f"what the rows {names} compare with is not installed: see `make env` and `make sinabs`")
    assert make() == [rows_on_page()[name] for name in names]


def test_nothing_differs() -> None:
    cells = [cell.strip() for net, row in rows_on_page().items() if net != HEAD[0] for cell in row.split("|")[5:8]]
    assert {cell.split(" of ")[0] for cell in cells} == {"0", "-"}
    assert all(int(cell.split(" of ")[1].replace(",", "")) > 50 for cell in cells if cell != "-")


@pytest.mark.outside("spikingjelly")
def test_a_file_that_is_misread_would_show() -> None:
    found = exported(replace(EXPORTS["v_reset"], dialect="nir"))
    assert sum(difference.differing for difference in found) > 10
