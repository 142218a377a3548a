"""Tables on a terminal that is too narrow for them."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from spikefold.deploy.tables import print_table


def printed(width: int) -> str:
    table = Table(title="cores")
    for head in ("layer", "neurons", "synapses"):
        table.add_column(head)
    table.add_row("conv[1]", "864 (84%)", "")
    table.add_row("readout", "5", "12,000")
    shown = Console(width=width, record=True, file=io.StringIO())
    print_table(table, shown)
    return shown.export_text()


def test_no_word_is_cut_where_the_terminal_is_narrow() -> None:
    assert [line.rstrip() for line in printed(24).splitlines()] == [
        "cores",
        "  conv[1]: neurons 864",
        "(84%)",
        "  readout: neurons 5,",
        "synapses 12,000",
    ]


def test_where_it_is_wide_enough_it_is_a_table() -> None:
    assert "\u2502 conv[1] \u2502 864 (84%) \u2502" in printed(60)
