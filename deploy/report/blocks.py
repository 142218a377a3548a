"""What a page is made of: sections of blocks, of which controls choose one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table as RichTable


@dataclass(frozen=True)
class Chart:
    """A plotly figure and what it shows, in words."""

    id: str
    caption: str
    figure: Any

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.figure.layout.height)


@dataclass(frozen=True)
class Table:
    """Cells as text, a row a line; ``right`` says which columns hold numbers."""

    id: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[bool, ...]


@dataclass(frozen=True)
class Block:
    """Heading, introduction, charts side by side, lines of text and tables, each where there is one.

    ``folded`` tables are closed until a reader opens them.
    """

    heading: str = ""
    intro: str = ""
    lines: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Choice:
    """Blocks that are shown where the controls say ``key``."""

    key: tuple[int, ...]
    name: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Control:
    """A list to choose from."""

    label: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Controls and what they choose among: a choice for each option, or pair of options, of theirs."""

    id: str
    controls: tuple[Control, ...]
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Section:
    """A heading, how to read what stands below it, and that."""

    id: str
    title: str
    reading: str
    groups: tuple[Group, ...] = ()
    blocks: tuple[Block, ...] = field(default=())

    @property
    def every_block(self) -> Iterable[Block]:
        """Those of the section and of all choices."""
        yield from self.blocks
        for group in self.groups:
            for choice in group.choices:
                yield from choice.blocks


def from_rich(table: RichTable, identity: str) -> Table:
    """The same table for a page."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return Table(
        identity,
        str(table.title or ""),
        tuple(str(column.header) for column in table.columns),
        tuple(zip(*columns, strict=True)),
        tuple(column.justify == "right" for column in table.columns),
    )


def from_records(records: Sequence[dict[str, Any]], identity: str, caption: str) -> Table:
    """A table of dictionaries, numbers in full; what one of them lacks stays empty."""
    head = tuple(dict.fromkeys(key for record in records for key in record))
    rows = tuple(tuple(_plain(record.get(key)) for key in head) for record in records)
    numbers = (int, float)
    right = tuple(all(isinstance(r.get(key), (*numbers, type(None))) for r in records) for key in head)
    return Table(identity, caption, head, rows, right)


def turned(table: Table) -> Table:
    """The same with its rows as columns."""
    head, *rows = zip(*((table.head), *table.rows), strict=True)
    return Table(table.id, table.caption, tuple(head), tuple(rows), (False, *[True] * (len(head) - 1)))


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
