"""Sourced quantities: what one number of a hardware description must say of itself.

A leaf is ``{value, unit, source, grade, low, high}`` with an optional ``note``. Without a source or a unit it does not
load. Grades:

===== ==============================================================================================================
grade meaning
===== ==============================================================================================================
P     value of a primary paper
C     read in published source code
V     statement of the vendor
D     derived; the derivation stands in the file
M     measured on silicon, reported by others
U     unconfirmed assumption; only in files with ``estimate: true``
===== ==============================================================================================================
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import pint
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationInfo, field_validator, model_validator

_units: Callable[[], pint.UnitRegistry[Any]] = functools.cache(pint.UnitRegistry)
"""The unit registry, made on first use."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_UnitName = Annotated[str, StringConstraints(pattern=r"^[A-Za-zµμ]{1,16}$")]


@dataclass(frozen=True)
class Range:
    """A quantity in an SI base unit with the span that its sources leave open: low <= value <= high."""

    low: float
    value: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Range:
        """Return a range that is one point."""
        return cls(value, value, value)

    def __add__(self, other: Range) -> Range:
        """Add end by end: the ends of all terms are taken to occur together."""
        return Range(self.low + other.low, self.value + other.value, self.high + other.high)

    def __mul__(self, factor: float | Range) -> Range:
        """Multiply by a count or by another range, neither of them negative."""
        other = factor if isinstance(factor, Range) else Range.exact(factor)
        return Range(self.low * other.low, self.value * other.value, self.high * other.high)

    __rmul__ = __mul__

    def to_dict(self) -> dict[str, float]:
        """Return the three numbers, ready for JSON."""
        return {"low": self.low, "value": self.value, "high": self.high}


class Strict(BaseModel):
    """Fields as declared, nothing more, nothing converted, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Sourced(Strict):
    """Where something is known from, and how well."""

    source: Text
    """The paper, document or file that the number stands in."""
    grade: Literal["P", "C", "V", "D", "M", "U"]
    note: Text | None = None

    @field_validator("grade")
    @classmethod
    def _assumptions_only_in_estimates(cls, grade: str, info: ValidationInfo) -> str:
        if grade == "U" and not (info.context or {}).get("estimate"):
            raise ValueError("grade U (unconfirmed) is for files with 'estimate: true'; cite a source or set that")
        return grade


class Leaf(Sourced):
    """One number of a description, as written; ``range`` is what to compute with."""

    base_unit: ClassVar[str]
    smallest: ClassVar[float] = 0.0
    whole: ClassVar[bool] = False

    value: float
    unit: _UnitName
    low: float
    high: float

    @field_validator("value", "low", "high")
    @classmethod
    def _in_domain(cls, number: float, info: ValidationInfo) -> float:
        if number < cls.smallest:
            raise ValueError(f"must be at least {cls.smallest:g}; correct the number")
        if cls.whole and not number.is_integer():
            raise ValueError("must be a whole number; correct it")
        value = info.data.get("value", number)
        if info.field_name == "low" and number > value:
            raise ValueError(f"low is above the value {value:g}; exchange or correct them")
        if info.field_name == "high" and number < value:
            raise ValueError(f"high is below the value {value:g}; exchange or correct them")
        return number

    @field_validator("unit")
    @classmethod
    def _of_right_dimension(cls, unit: str) -> str:
        registry = _units()
        try:
            given = registry.Quantity(1.0, unit).to_root_units().units
        except pint.PintError as error:
            raise ValueError(f"unknown unit; write one that converts to {cls.base_unit}") from error
        if given != registry.Quantity(1.0, cls.base_unit).to_root_units().units:
            raise ValueError(f"wrong dimension; write a unit that converts to {cls.base_unit}")
        return unit

    @model_validator(mode="after")
    def _finite_in_base_unit(self) -> Self:
        if not math.isfinite(self.range.high):
            raise ValueError(f"{self.high:g} {self.unit} is past what a number holds in {self.base_unit}; correct it")
        return self

    @functools.cached_property
    def range(self) -> Range:
        """Low, value and high in the base unit of the field (J, s, W, count or bit)."""
        factor = float(_units().Quantity(1.0, self.unit).to(self.base_unit).magnitude)
        return Range(self.low * factor, self.value * factor, self.high * factor)


class Energy(Leaf):
    """An energy [J]."""

    base_unit = "J"


class Time(Leaf):
    """A duration [s]."""

    base_unit = "s"


class Power(Leaf):
    """A power [W]."""

    base_unit = "W"


class _Whole(Leaf):
    whole = True

    @property
    def number(self) -> int:
        """The value as an integer, in the base unit."""
        return int(self.range.value)


class Count(_Whole):
    """A whole number of things, at least one."""

    base_unit = "count"
    smallest = 1.0


class OverheadBits(_Whole):
    """An amount of memory [bit] that may be none."""

    base_unit = "bit"


class Bits(OverheadBits):
    """An amount of memory [bit], at least one."""

    smallest = 1.0


class Flag(Sourced):
    """A sourced yes or no."""

    value: bool
