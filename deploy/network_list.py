"""The networks that can be built by name, as ``spikefold models`` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from spikefold.deploy.deployable import deployable
from spikefold.deploy.words import count
from spikefold.models.catalogue import card
from spikefold.models.registry import MODEL_NAMES


def describe_networks(name: str | None = None) -> list[dict[str, Any]]:
    """Describe one network, or all: what it is, what it weighs, how it can be deployed."""
    rows = []
    for each in MODEL_NAMES if name is None else [name]:
        known = card(each)
        modes = deployable(known.name)
        rows.append({**asdict(known), "modes": list(modes.hold), "refused": modes.refused})
    return rows


def networks_table(rows: Sequence[dict[str, Any]]) -> Table:
    """One network a line; MACs are those of one clip at the sizes shown."""
    table = Table(title="networks at their authors' size; MACs of one clip, attention included", title_justify="left")
    for head in ("name", "T", "input", "classes"):
        table.add_column(head, justify="left" if head == "name" else "right", no_wrap=True)
    for head in ("parameters", "never read", "MACs"):
        table.add_column(head, justify="right")
    for head in ("time coupling", "deployment modes", "released weights"):
        table.add_column(head)
    for row in rows:
        sizes = row["sizes"]
        table.add_row(
            row["name"],
            str(sizes["time_steps"]),
            f"{sizes['in_channels']} x {sizes['input_size']} x {sizes['input_size']}",
            str(sizes["num_classes"]),
            f"{row['parameters']:,}",
            f"{row['unused_parameters']:,}" if row["unused_parameters"] else "",
            count(row["macs"]),
            row["coupling"],
            ", ".join(row["modes"]) or "none yet",
            "readable" if row["released"] else "",
        )
    return table
