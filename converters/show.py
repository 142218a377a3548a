"""How objects show themselves: one line as text, a small table or drawing in a notebook, never a thousand numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import import_module
from typing import Any, ClassVar

import numpy as np


class Shown:
    """Shows what the functions ``line`` and ``html`` of the module ``by`` say of an object.

    That module knows the classes it describes and is imported when something is shown. Dataclasses need
    ``repr=False``.
    """

    _shown_by: ClassVar[str]

    def __init_subclass__(cls, by: str = "spikefold.converters.drawing", **named: Any) -> None:
        super().__init_subclass__(**named)
        cls._shown_by = by

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {import_module(self._shown_by).line(self)}>"

    def _repr_html_(self) -> str:
        found: str = import_module(self._shown_by).html(self)
        return found


def sizes(shape: Sequence[int]) -> str:
    """``(2, 34, 34)`` as ``2 x 34 x 34``."""
    return " x ".join(map(str, shape))


def spread(values: Any) -> str:
    """One number, or the smallest and the largest of many."""
    array = np.asarray(values)
    if not array.size:
        return "none"
    low, high = array.min(), array.max()
    return f"{low:g}" if low == high else f"{low:g}..{high:g}"


def table_html(title: str, head: Sequence[str], rows: Iterable[Sequence[object]], notes: Iterable[str] = ()) -> str:
    """A small table; the first column is text, the others are numbers. Everything is escaped."""

    def cells(values: Sequence[object], tag: str) -> str:
        sides = ("left", *["right"] * (len(values) - 1))
        return "".join(
            f'<{tag} style="text-align:{side}">{escape(str(value))}</{tag}>'
            for side, value in zip(sides, values, strict=True)
        )

    lines = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>" if head else ""
    below = "".join(f"<div>{escape(note)}</div>" for note in notes)
    return f"<div><b>{escape(title)}</b><table>{top}<tbody>{lines}</tbody></table>{below}</div>"
