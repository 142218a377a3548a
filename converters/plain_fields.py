"""Fields of a net that was written as JSON text: of the type that they must have, or refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikefold.errors import FileFormatError

MAX_VALUES = 2**31 - 1
"""Neurons or pixels that one shape may stand for; executors index them in 32 bits."""


def parse_json(text: str | bytes, where: str) -> Any:
    """What JSON text holds; FileFormatError where it is none, or nested without end."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{where}: not readable as JSON ({str(error)[:200]})") from error


class Fields:
    """A JSON object whose fields are read by type; ``where`` names it in messages.

    Every method raises FileFormatError with the field and its value where it is missing or of another type.
    """

    def __init__(self, plain: Any, where: str) -> None:
        self.where = where
        if not isinstance(plain, Mapping):
            raise FileFormatError(f"{where}: is {short(plain)}, a JSON object is needed; the file is damaged")
        self._plain = plain

    def __contains__(self, name: str) -> bool:
        return name in self._plain

    def names(self) -> tuple[str, ...]:
        """All fields."""
        return tuple(self._plain)

    def held(self, name: str) -> Any:
        """The field as it is."""
        if name not in self._plain:
            raise FileFormatError(f"{self.where}: {name} is missing; the file is damaged")
        return self._plain[name]

    def refuse(self, name: str, needed: str) -> FileFormatError:
        """An error about the value of a field."""
        return FileFormatError(f"{self.where}: {name} is {short(self.held(name))}; {needed}")

    def text(self, name: str) -> str:
        """A text."""
        value = self.held(name)
        if not isinstance(value, str):
            raise self.refuse(name, "text is needed")
        return value

    def flag(self, name: str, missing: bool | None = None) -> bool:
        """True or false; ``missing``, where that is given, in place of a missing field."""
        if missing is not None and name not in self:
            return missing
        value = self.held(name)
        if not isinstance(value, bool):
            raise self.refuse(name, "true or false is needed")
        return value

    def whole(self, name: str, low: int = -MAX_VALUES, high: int = MAX_VALUES, missing: int | None = None) -> int:
        """A whole number within ``low`` and ``high``."""
        if missing is not None and name not in self:
            return missing
        value = self.held(name)
        if not is_whole(value) or not low <= value <= high:
            raise self.refuse(name, f"a whole number from {low} to {high} is needed")
        return int(value)

    def wholes(self, name: str, low: int, count: int | None = None) -> tuple[int, ...]:
        """Whole numbers, none below ``low``; ``count`` of them where that is given."""
        value = self.held(name)
        if not isinstance(value, list) or not all(is_whole(v) and low <= v <= MAX_VALUES for v in value):
            raise self.refuse(name, f"whole numbers from {low} on are needed")
        if count is not None and len(value) != count:
            raise self.refuse(name, f"{count} whole numbers are needed")
        return tuple(value)

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes of at least 1, of at most `MAX_VALUES` values together."""
        sizes = self.wholes(name, 1)
        if not sizes or math.prod(sizes) > MAX_VALUES:
            raise self.refuse(name, f"sizes of together 1 to {MAX_VALUES} values are needed")
        return sizes

    def array(self, name: str, arrays: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
        """The array that the field refers to by position."""
        return self.referred(name, self.held(name), arrays)

    def referred(self, name: str, position: Any, arrays: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
        """The array at a position that the field holds somewhere."""
        if not is_whole(position) or not 0 <= position < len(arrays):
            raise FileFormatError(f"{self.where}: {name} refers to array {short(position)}; there are {len(arrays)}")
        array = np.asarray(arrays[position])
        if array.dtype != np.int64 or not array.size:
            raise FileFormatError(
                f"{self.where}: {name} is array {position}, {array.dtype} of shape {array.shape}; int64 is needed"
            )
        return array

    def mapping(self, name: str) -> Mapping[str, Any]:
        """A JSON object."""
        value = self.held(name)
        if not isinstance(value, Mapping):
            raise self.refuse(name, "a JSON object is needed")
        return value

    def objects(self, name: str) -> list[Any]:
        """A list."""
        value = self.held(name)
        if not isinstance(value, list):
            raise self.refuse(name, "a list is needed")
        return value


def is_whole(value: Any) -> bool:
    """Whether a JSON value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def short(value: Any) -> str:
    """A value as messages show it."""
    if isinstance(value, list | tuple | Mapping) and len(value) > 20:
        return f"a {type(value).__name__} of {len(value)}"
    try:
        text = repr(value.item() if isinstance(value, np.generic) else value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or nested without end
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= 80 else f"{text[:77]}..."
