"""Hardware descriptions: YAML in, checked quantities in SI base units out.

Every number of a description is a leaf ``{value, unit, source, grade, low, high}`` with an optional ``note``. A leaf
without a source or a unit does not load. Grades:

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
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pint
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from spikefold.errors import HardwareConfigError

MAX_FILE_BYTES = 1_000_000
"""Largest description that is read."""

_units: Callable[[], pint.UnitRegistry[Any]] = functools.cache(pint.UnitRegistry)
"""The unit registry, made on first use."""

_SHIPPED_PACKAGE = "spikefold.hardware_configs"
_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
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


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Sourced(_Model):
    source: _Text
    """The paper, document or file that the number stands in."""
    grade: Literal["P", "C", "V", "D", "M", "U"]
    note: _Text | None = None

    @field_validator("grade")
    @classmethod
    def _assumptions_only_in_estimates(cls, grade: str, info: ValidationInfo) -> str:
        if grade == "U" and not (info.context or {}).get("estimate"):
            raise ValueError("grade U (unconfirmed) is for files with 'estimate: true'; cite a source or set that")
        return grade


class Leaf(_Sourced):
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


class Flag(_Sourced):
    """A sourced yes or no."""

    value: bool


class ChipLimits(_Model):
    """What a chip offers (memory, axons and thresholds: each core); null where no limit is documented."""

    cores: Count
    neurons_per_core: Count
    synapse_memory: Bits
    in_axons: Count | None
    out_axons: Count | None
    threshold_levels_per_core: Count | None
    weight: Bits
    """Stored bits of one weight."""
    max_delay: Count | None
    """Time steps."""
    graded_payload: Flag
    """Whether a spike can carry an integer."""
    programmable_neurons: Flag
    """Whether neuron models are programs."""


class ChipStorage(_Model):
    """How synapses lie in a core's memory: blocks of weights, each with a header, padded to words."""

    block_synapses: Count
    block_header: OverheadBits
    word: Bits
    index: OverheadBits
    """Per weight of a shared kernel; dense rows need none."""


class ChipEnergy(_Model):
    """Energy per event."""

    synop: Energy
    neuron_active: Energy
    neuron_inactive: Energy
    spike_within_tile: Energy
    hop_east_west: Energy
    hop_north_south: Energy


class ChipTime(_Model):
    """Time per event on one core, and the barrier that ends a time step."""

    synop: Time
    neuron_active: Time
    neuron_inactive: Time
    barrier: Time


class ChipStatic(_Model):
    """Power that flows whether anything spikes or not."""

    chip: Power


class _Description(_Model):
    name: _Text
    title: _Text
    estimate: bool
    """True where no published measurement stands behind the numbers."""
    note: _Text


class ChipHardware(_Description):
    """A neuromorphic chip."""

    family: Literal["chip"]
    limits: ChipLimits
    storage: ChipStorage
    energy: ChipEnergy
    time: ChipTime
    static: ChipStatic


class OperationEnergy(_Model):
    """Energy of single arithmetic operations."""

    fp32_add: Energy
    fp32_multiply: Energy
    int32_add: Energy
    int32_multiply: Energy


class SramBank(_Model):
    """A memory of one size."""

    size: Bits
    access: Energy


class Sram(_Model):
    """Memories with the energy of one access of ``width`` bits."""

    width: Bits
    banks: Annotated[list[SramBank], Field(min_length=1)]


class OperationsHardware(_Description):
    """A table of operation energies: no chip, no limits, no time."""

    family: Literal["operations"]
    energy: OperationEnergy
    sram: Sram


Hardware = ChipHardware | OperationsHardware

_ADAPTER: TypeAdapter[Hardware] = TypeAdapter(Annotated[Hardware, Field(discriminator="family")])

_ADVICE = {
    "missing": "add it; every number needs value, unit, source, grade, low and high",
    "extra_forbidden": "remove it or correct its spelling",
    "float_type": "write a number (YAML reads 1e-12 as text: write 1.0e-12)",
    "finite_number": "write a finite number",
    "string_too_short": "write it out; a number without a source does not load",
    "string_pattern_mismatch": "write one unit name such as pJ, ns, mW, count, bit or KiB",
    "model_type": "write a mapping with value, unit, source, grade, low and high",
    "union_tag_not_found": "add 'family: chip' or 'family: operations'",
    "union_tag_invalid": "write 'family: chip' or 'family: operations'",
}


def shipped_hardware() -> tuple[str, ...]:
    """Return the names of the descriptions that come with the package."""
    files = resources.files(_SHIPPED_PACKAGE).iterdir()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml")))


def load_hardware(name_or_path: str | Path) -> Hardware:
    """Load and check a hardware description.

    Parameters
    ----------
    name_or_path
        Name of a shipped description (``loihi1``, ``loihi2``, ``cmos45``), or the path of a YAML file: a ``Path``, or
        text that ends in .yaml or .yml or has a directory in it.

    Raises
    ------
    HardwareConfigError
        The file cannot be read, or breaks a rule; all violations of the file are listed.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or Path(text).suffix in {".yaml", ".yml"} or Path(text).name != text:
        path = Path(name_or_path)
        return _parse(_read(path), str(path))
    if text not in shipped_hardware():
        names = ", ".join(shipped_hardware())
        raise HardwareConfigError(
            f"no shipped hardware description {text!r}; use one of {names}, or the path of a YAML file"
        )
    return _shipped(text)


@functools.cache
def _shipped(name: str) -> Hardware:
    return _parse((resources.files(_SHIPPED_PACKAGE) / f"{name}.yaml").read_bytes(), f"{name}.yaml")


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise HardwareConfigError(
                f"{path}: no such file; give the path of a YAML file or one of {shipped_hardware()}"
            )
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise HardwareConfigError(f"{path}: cannot be read ({error}); check the path and its permissions") from error
    if len(content) > MAX_FILE_BYTES:
        raise HardwareConfigError(
            f"{path}: larger than {MAX_FILE_BYTES} bytes; a hardware description is a few kilobytes"
        )
    return content


def _parse(content: bytes, label: str) -> Hardware:
    try:
        document: object = yaml.safe_load(content.decode("utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise HardwareConfigError(f"{label}: not readable as YAML in UTF-8 ({error}); correct the file") from error
    if not isinstance(document, dict):
        raise HardwareConfigError(f"{label}: the top level is a {type(document).__name__}; write a mapping")
    try:
        return _ADAPTER.validate_python(document, context={"estimate": document.get("estimate") is True})
    except ValidationError as error:
        problems = [_describe(dict(e)) for e in error.errors(include_url=False)]
    raise HardwareConfigError(f"{label}: {len(problems)} problem(s)\n" + "\n".join(f"  - {p}" for p in problems))


def _describe(problem: dict[str, Any]) -> str:
    """Return field path, value, what is wrong and what to do, in one line."""
    loc = problem["loc"][1:] if problem["loc"][:1] in {("chip",), ("operations",)} else problem["loc"]
    field = ".".join(str(part) for part in loc) or "family"
    kind = problem["type"]
    message = problem["msg"].removeprefix("Value error, ")
    advice = f"; {_ADVICE[kind]}" if kind in _ADVICE else ""
    given = problem["input"]
    if kind == "missing":
        return f"{field}: missing{advice}"
    shown = f"a {type(given).__name__}" if isinstance(given, dict | list) else reprlib.repr(given)
    return f"{field}: {shown}: {message}{advice}"
