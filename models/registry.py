"""Networks by name, so that a checkpoint can say what it is without carrying code."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from torch import nn

from spikefold.errors import InputError
from spikefold.models.systems import asa, dta, dvsnets, fsta, ma, sma, staa, tcja
from spikefold.models.systems.entry import Entry, Option

ENTRIES: Mapping[str, Entry] = {
    **dvsnets.ENTRIES,
    **asa.ENTRIES,
    **tcja.ENTRIES,
    **ma.ENTRIES,
    **dta.ENTRIES,
    **fsta.ENTRIES,
    **sma.ENTRIES,
    **staa.ENTRIES,
}
MODEL_NAMES = tuple(ENTRIES)
SHORT_NAMES = {name.removesuffix("-dvsnet"): name for name in dvsnets.ENTRIES}
"""Short forms of the small networks: ``asa`` for ``asa-dvsnet``."""

_LIMITS = {"in_channels": (1, 64), "time_steps": (1, 1024), "num_classes": (1, 10_000), "input_size": (4, 512)}
_LARGEST_OPTION = 4096


@dataclass(frozen=True)
class BuiltAs:
    """How `build` was called for a network; kept on it as ``network.built_as``."""

    name: str
    arguments: Mapping[str, Option]


def full_name(name: str) -> str:
    """Return the registered name for a full or short one; InputError lists the names if there is none."""
    full = SHORT_NAMES.get(name, name)
    if full not in ENTRIES:
        raise InputError(f"model {name!r}: no such network; choose one of {', '.join([*SHORT_NAMES, *MODEL_NAMES])}")
    return full


def build(
    name: str,
    in_channels: int | None = None,
    time_steps: int | None = None,
    num_classes: int | None = None,
    input_size: int | None = None,
    **options: Option,
) -> nn.Module:
    """Make a freshly initialised network.

    Parameters
    ----------
    name : str
        A registered name such as ``fsta-resnet20`` (`MODEL_NAMES`, ``spikefold models``), or the short form of a small
        one, ``asa`` for ``asa-dvsnet``.
    in_channels : int, optional
        Channels of a frame (2: ON and OFF events). Without it, as the authors built the network; so the next three.
    time_steps : int, optional
        T of the clips. A plain network accepts any T afterwards; attention fixes it.
    num_classes : int, optional
        Number of classes.
    input_size : int, optional
        Height and width of a frame in pixels.
    **options
        What else the network lets one choose, such as ``width`` or ``mask_mode``; `ENTRIES` lists them with their
        defaults.

    Returns
    -------
    nn.Module
        Takes clips ``[T, B, C, H, W]`` and returns one row of class scores a sample, ``[B, classes]``.

    Raises
    ------
    InputError
        There is no such network or option, or a size is out of range.
    """
    name = full_name(name)
    entry = ENTRIES[name]
    given = {"in_channels": in_channels, "time_steps": time_steps, "num_classes": num_classes, "input_size": input_size}
    sizes = {field: value for field, value in given.items() if value is not None}
    for field, value in sizes.items():
        low, high = _LIMITS[field]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InputError(f"{field} = {reprlib.repr(value)}: must be a whole number from {low} to {high}")
    known = entry.options()
    for option, chosen in options.items():
        if option not in known:
            raise InputError(f"{name}: no option {option!r}; it has {', '.join(known) or 'none'}")
        expected = type(known[option])
        if type(chosen) is not expected and not (expected is float and type(chosen) is int):
            raise InputError(f"{name}: {option} = {reprlib.repr(chosen)}; expected {expected.__name__}")
        if isinstance(chosen, int | float) and not abs(chosen) <= _LARGEST_OPTION:
            raise InputError(f"{name}: {option} = {reprlib.repr(chosen)}: must be at most {_LARGEST_OPTION}")
    made_for = replace(entry.sizes, **sizes)
    try:
        network = entry.make(made_for, **options)
    except (RuntimeError, ValueError, ZeroDivisionError, OverflowError, MemoryError) as error:  # torch's own words
        said = ", ".join(f"{option} = {reprlib.repr(chosen)}" for option, chosen in {**sizes, **options}.items())
        raise InputError(f"{name}: cannot be made with {said}: {str(error)[:300]}") from error
    network.built_as = BuiltAs(name, {**asdict(made_for), **options})  # type: ignore[assignment]
    if entry.released is not None:
        network.released_names = entry.released  # type: ignore[assignment]
    return network


def built_as(network: nn.Module) -> BuiltAs:
    """Return how a network was made; InputError if `build` did not make it."""
    found = getattr(network, "built_as", None)
    if not isinstance(found, BuiltAs):
        raise InputError(f"{type(network).__name__}: not made by spikefold.models.build, so its arguments are unknown")
    return found


def parse_options(name: str, words: Sequence[str]) -> dict[str, Option]:
    """Turn ``NAME=VALUE`` words into arguments of `build` of the right types.

    Raises
    ------
    InputError
        A word has no ``=``, names no size or option of the network, or its value is of another type.
    """
    name = full_name(name)
    known = {**asdict(ENTRIES[name].sizes), **ENTRIES[name].options()}
    options: dict[str, Option] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in known:
            raise InputError(f"--option {word}: expected NAME=VALUE, NAME one of {', '.join(known)}")
        kind = type(known[key])
        try:
            options[key] = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError) as error:
            raise InputError(f"--option {word}: {text!r} is not of type {kind.__name__}") from error
    return options
