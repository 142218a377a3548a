"""Hardware descriptions as ``spikefold hardware`` shows them: every number with range, unit, grade and source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel
from rich.table import Table

from spikefold.deploy.hardware import Hardware, load_hardware, shipped_hardware
from spikefold.deploy.quantity import Leaf, Sourced


def list_hardware() -> list[dict[str, Any]]:
    """Describe each shipped description: name, title, family, whether it is an estimate, note."""
    return [_heading(load_hardware(name)) for name in shipped_hardware()]


def describe_hardware(hardware: Hardware) -> dict[str, Any]:
    """Return a description ready for JSON, its numbers in the units they were written in.

    ``leaves`` maps the path of each field to its parts; None where the description says null.
    """
    leaves = {path: None if item is None else item.model_dump() for path, item in walk(hardware)}
    return {**_heading(hardware), "leaves": leaves}


def walk(model: BaseModel, path: str = "") -> Iterator[tuple[str, Sourced | None]]:
    """Each sourced field below ``model`` with its path, such as ``energy.synop`` or ``sram.banks.0.size``."""
    for name in type(model).model_fields:
        child, here = getattr(model, name), f"{path}{name}"
        if child is None or isinstance(child, Sourced):
            yield here, child
        elif isinstance(child, BaseModel):
            yield from walk(child, f"{here}.")
        elif isinstance(child, list):
            for number, item in enumerate(child):
                yield from walk(item, f"{here}.{number}.")


def _heading(hardware: Hardware) -> dict[str, Any]:
    return {key: getattr(hardware, key) for key in ("name", "title", "family", "estimate", "note")}


def list_table(rows: Sequence[dict[str, Any]]) -> Table:
    """One description a line."""
    table = Table(title="hardware descriptions; `spikefold hardware NAME` shows every number", title_justify="left")
    for head in ("name", "title", "family", "estimate", "note"):
        table.add_column(head, no_wrap=head == "name")
    for row in rows:
        table.add_row(row["name"], row["title"], row["family"], "yes" if row["estimate"] else "no", row["note"])
    return table


def leaf_table(hardware: Hardware) -> Table:
    """One number a line."""
    estimate = ", estimate" if hardware.estimate and "estimate" not in hardware.title else ""
    table = Table(title=f"{hardware.name}: {hardware.title}{estimate} ({hardware.family})", title_justify="left")
    for head, justify in (("field", "left"), ("value", "right"), ("low", "right"), ("high", "right"), ("unit", "left"),
                          ("grade", "left"), ("source", "left")):  # fmt: skip
        table.add_column(head, justify=justify, no_wrap=head == "field")  # type: ignore[arg-type]
    for path, item in walk(hardware):
        if item is None:
            table.add_row(path, "none", "", "", "", "", "")
            continue
        numbers = ["yes" if getattr(item, "value", None) else "no", "", "", ""]
        if isinstance(item, Leaf):
            numbers = [*(f"{n:.12g}" for n in (item.value, item.low, item.high)), item.unit]
        table.add_row(path, *numbers, item.grade, f"{item.source} ({item.note})" if item.note else item.source)
    return table
