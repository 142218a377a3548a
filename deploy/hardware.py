"""Hardware descriptions: YAML in, checked quantities in SI base units out.

Three families: a *chip* has limits, energies and times; a table of *operations* has energies alone; *limits* has what a
chip holds where no energy of it is agreed on. Every number is a sourced leaf, see `spikefold.deploy.quantity`. Where a
chip has no such limit, or no source gives the number, a field that may be null is written out as null.
"""

from __future__ import annotations

import functools
import reprlib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from spikefold.deploy.quantity import Bits, Count, Energy, Flag, Leaf, OverheadBits, Power, Range, Strict, Text, Time
from spikefold.errors import HardwareConfigError

__all__ = [
    "MAX_FILE_BYTES",
    "ChipHardware",
    "ChipStorage",
    "Count",
    "Hardware",
    "Leaf",
    "LimitsHardware",
    "OperationsHardware",
    "Range",
    "load_hardware",
    "shipped_hardware",
]

MAX_FILE_BYTES = 1_000_000
"""Largest description that is read."""

_SHIPPED_PACKAGE = "spikefold.hardware_configs"


class ChipLimits(Strict):
    """What a chip offers (memory, axons and thresholds: each core); null where no limit is documented."""

    chips: Count | None
    """Chips of the largest system that was built."""
    cores: Count
    neurons_per_core: Count
    synapse_memory: Bits
    in_axons: Count | None
    channels_per_axon: Count | None
    """Channels of one position whose spikes can share an in-axon of a convolution (population axons); null where each
    neuron takes its own."""
    out_axons: Count | None
    threshold_levels_per_core: Count | None
    weight_formats_per_core: Count | None
    """Weight exponents and widths that differ."""
    weight: Bits
    """Stored bits of one weight."""
    weight_exponent: Count | None
    """Largest exponent of two, up or down, that a connection's weights can have."""
    fan_in: Count | None
    """Synapses that may end at one neuron."""
    max_delay: Count | None
    """Time steps."""
    graded_payload: Flag
    """Whether a spike can carry an integer."""
    payload_word: Bits | None
    """What one message carries of it; wider numbers take several. Null where messages carry none."""
    programmable_neurons: Flag
    """Whether neuron models are programs."""


class ChipMesh(Strict):
    """The grid of routers: tiles of cores, messages going along a row and then along a column."""

    columns: Count
    rows: Count
    cores_per_tile: Count


class ChipStorage(Strict):
    """How synapses lie in a core's memory: blocks of weights, each with a header, padded to words."""

    block_synapses: Count
    block_header: OverheadBits
    word: Bits
    index: OverheadBits
    """Per weight of a shared kernel; dense rows need none."""


class ChipEnergy(Strict):
    """Energy per event."""

    synop: Energy
    neuron_active: Energy
    neuron_inactive: Energy
    spike_out: Energy | None
    """Of an update that fires, on top of ``neuron_active``; null where the source does not tell it apart."""
    spike_within_tile: Energy
    """Of one message to one core, hops apart."""
    hop_east_west: Energy
    hop_north_south: Energy
    state_reset: Energy | None
    """Of clearing all states of one chip between samples."""


class BarrierStep(Strict):
    """The barrier from so many used tiles on."""

    tiles: Count
    barrier: Time


class ChipTime(Strict):
    """Time per event on one core, and the barrier that ends a time step."""

    synop: Time
    neuron_active: Time
    neuron_inactive: Time
    spike_out: Time | None
    """Of an update that fires, on top of ``neuron_active``."""
    spike_within_tile: Time | None
    """Of sending one message to one core."""
    message_in: Time | None
    """Of receiving one message, before its synaptic operations."""
    hop_east_west: Time | None
    hop_north_south: Time | None
    barrier: Time
    """Of one chip."""
    barrier_steps: Annotated[list[BarrierStep], Field(min_length=1)] | None
    """The same by used tiles, where a source gives a table."""
    barrier_across_chips: Time | None


class ChipStatic(Strict):
    """Power that flows whether anything spikes or not."""

    chip: Power


class _Description(Strict):
    name: Text
    title: Text
    estimate: bool
    """True where no published measurement stands behind the numbers."""
    note: Text


class ChipHardware(_Description):
    """A neuromorphic chip."""

    family: Literal["chip"]
    limits: ChipLimits
    mesh: ChipMesh
    storage: ChipStorage
    energy: ChipEnergy
    time: ChipTime
    static: ChipStatic


class OperationEnergy(Strict):
    """Energy of single arithmetic operations."""

    fp32_add: Energy
    fp32_multiply: Energy
    int32_add: Energy
    int32_multiply: Energy
    int8_add: Energy
    int8_multiply: Energy


class SramBank(Strict):
    """A memory of one size."""

    size: Bits
    access: Energy


class SramRegression(Strict):
    """One access of a word as ``access + per_bit * bits of the memory``."""

    access: Energy
    per_bit: Energy


class Sram(Strict):
    """Memories with the energy of one access of ``width`` bits."""

    width: Bits
    banks: Annotated[list[SramBank], Field(min_length=1)]
    regression: SramRegression | None


class OperationsHardware(_Description):
    """A table of operation energies: no chip, no limits, no time."""

    family: Literal["operations"]
    energy: OperationEnergy
    sram: Sram


class LayerCore(Strict):
    """A core that runs one whole layer."""

    weights: Count
    neurons: Count
    biases: Count


class LayerCoreLimits(Strict):
    """What a chip of one core a layer offers."""

    cores: Annotated[list[LayerCore], Field(min_length=1)]
    destinations_per_core: Count
    weight: Bits
    state: Bits
    square_kernels: Flag
    """Whether convolutions must be as wide as high."""


class LimitsHardware(_Description):
    """A chip that can be checked against, not priced: no energy per operation of it is agreed on."""

    family: Literal["limits"]
    limits: LayerCoreLimits


Hardware = ChipHardware | OperationsHardware | LimitsHardware

_ADAPTER: TypeAdapter[Hardware] = TypeAdapter(Annotated[Hardware, Field(discriminator="family")])

_ADVICE = {
    "missing": "add it; every number needs value, unit, source, grade, low and high",
    "extra_forbidden": "remove it or correct its spelling",
    "float_type": "write a number (YAML reads 1e-12 as text: write 1.0e-12)",
    "finite_number": "write a finite number",
    "string_too_short": "write it out; a number without a source does not load",
    "string_pattern_mismatch": "write one unit name such as pJ, ns, mW, count, bit or KiB",
    "model_type": "write a mapping with value, unit, source, grade, low and high",
    "union_tag_not_found": "add 'family: chip', 'family: operations' or 'family: limits'",
    "union_tag_invalid": "write 'family: chip', 'family: operations' or 'family: limits'",
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
        Name of a shipped description (`shipped_hardware` lists them), or the path of a YAML file: a ``Path``, or
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


class _PlainLoader(yaml.SafeLoader):
    """YAML without what can grow without end (aliases) or vanish in silence (the first of two equal keys)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"alias *{event.anchor}: aliases are not read, write it out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.value.__hash__ is not None and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value} is there twice; remove one", key.start_mark
                )
            if key.value.__hash__ is not None:
                seen.add(key.value)
        return super().construct_mapping(node, deep)


@functools.cache
def _shipped(name: str) -> Hardware:
    return _parse((resources.files(_SHIPPED_PACKAGE) / f"{name}.yaml").read_bytes(), f"{name}.yaml")


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            what = "no file but a folder" if path.is_dir() else "no such file"
            names = ", ".join(shipped_hardware())
            raise HardwareConfigError(f"{path}: {what}; give the path of a YAML file, or one of {names}")
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
        document: object = yaml.load(content.decode("utf-8"), _PlainLoader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise HardwareConfigError(f"{label}: not readable as YAML in UTF-8 ({error}); correct the file") from error
    if not isinstance(document, dict):
        what = "the file is empty" if document is None else f"the top level is a {type(document).__name__}"
        raise HardwareConfigError(f"{label}: {what}; write a mapping, such as docs/hardware_files.md shows in full")
    try:
        return _ADAPTER.validate_python(document, context={"estimate": document.get("estimate") is True})
    except ValidationError as error:
        problems = [_describe(dict(e)) for e in error.errors(include_url=False)]
    raise HardwareConfigError(f"{label}: {len(problems)} problem(s)\n" + "\n".join(f"  - {p}" for p in problems))


def _describe(problem: dict[str, Any]) -> str:
    """Return field path, value, what is wrong and what to do, in one line."""
    loc = problem["loc"][1:] if problem["loc"][:1] in {("chip",), ("operations",), ("limits",)} else problem["loc"]
    field = ".".join(str(part) for part in loc) or "family"
    kind = problem["type"]
    message = problem["msg"].removeprefix("Value error, ")
    advice = f"; {_ADVICE[kind]}" if kind in _ADVICE else ""
    given = problem["input"]
    if kind == "missing":
        return f"{field}: missing{advice}"
    if kind == "union_tag_invalid":
        return f"family: {given['family']!r}: no such family{advice}"
    shown = f"a {type(given).__name__}" if isinstance(given, dict | list) else reprlib.repr(given)
    return f"{field}: {shown}: {message}{advice}"
