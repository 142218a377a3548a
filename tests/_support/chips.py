"""Chips whose limits are what a test wants: Loihi 1 with other numbers."""

from __future__ import annotations

from typing import cast

from spikefold.deploy.hardware import ChipHardware, load_hardware


def chip_with(base: str = "loihi1", **limits: int | bool | None) -> ChipHardware:
    """Loihi 1 (or ``base``) with these limits in place of its own; None where there is none."""
    chip = cast(ChipHardware, load_hardware(base))
    template = cast(ChipHardware, load_hardware("loihi1")).limits
    changed = {}
    for name, value in limits.items():
        old = getattr(chip.limits, name) or getattr(template, name) or template.in_axons
        number = {"value": value} if isinstance(value, bool) else {"value": value, "low": value, "high": value}
        changed[name] = None if value is None else type(old)(**{**old.model_dump(), **number})
    return chip.model_copy(update={"limits": chip.limits.model_copy(update=changed)})


def with_mesh(chip: ChipHardware, cores: int, columns: int, rows: int, cores_per_tile: int) -> ChipHardware:
    """The chip with so many cores on a mesh of that shape."""
    leaf = chip.mesh.columns
    # made anew, for a copy would keep the range that a leaf remembers
    count = {
        n: type(leaf)(**{**leaf.model_dump(), **dict.fromkeys(("value", "low", "high"), float(n))})
        for n in (cores, columns, rows, cores_per_tile)
    }
    mesh = chip.mesh.model_copy(
        update={"columns": count[columns], "rows": count[rows], "cores_per_tile": count[cores_per_tile]}
    )
    return chip.model_copy(update={"mesh": mesh, "limits": chip.limits.model_copy(update={"cores": count[cores]})})
