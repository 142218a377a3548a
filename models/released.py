"""Authors' checkpoints: their parameter names, read into our networks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models.weights import misfit

Rule = tuple[str, str]
"""A regular expression and what takes its place, as for `re.sub`."""


@dataclass(frozen=True)
class ReleasedNames:
    """How a system's authors named their parameters.

    Attributes
    ----------
    repository : str
        Where the names are from, with the commit.
    rules : tuple of Rule
        Applied one after another to a released name; the outcome is our name.
    dead : tuple of str
        Expressions that match, somewhere, the names of tensors which the released code holds but never reads.
    aliases : tuple of Rule
        Applied one after another to a released name; where that changes it, the name is a second one for the tensor
        under the outcome.
    prepare : callable, optional
        Changes a network so that released weights mean what they meant to their authors.
    """

    repository: str
    rules: tuple[Rule, ...]
    dead: tuple[str, ...] = ()
    aliases: tuple[Rule, ...] = ()
    prepare: Callable[[nn.Module], None] | None = None


@dataclass(frozen=True)
class ReleasedReport:
    """What `load_released` did.

    Attributes
    ----------
    loaded : dict
        Our name for each released name that was read.
    dead : tuple of str
        Released names of tensors that the released code never reads.
    aliases : tuple of str
        Released names that repeat another tensor.
    """

    loaded: Mapping[str, str] = field(default_factory=dict)
    dead: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def load_released(model: nn.Module, state_dict: Mapping[str, torch.Tensor]) -> ReleasedReport:
    """Read weights that carry their authors' parameter names into a network of ours.

    Parameters
    ----------
    model : nn.Module
        A network from `spikefold.models.build`, or an attention module that has released names of its own.
    state_dict : mapping
        Tensors by the authors' names, with or without the prefix ``module.`` that data-parallel training leaves.

    Returns
    -------
    ReleasedReport
        Which names were read, dead, or aliases.

    Raises
    ------
    InputError
        The network has no released form, or names or shapes do not fit; every one of them is listed. Nothing is
        loaded then.
    """
    names = released_names(model)
    found = {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}
    dead = tuple(name for name in found if any(re.search(pattern, name) for pattern in names.dead))
    own = model.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    loaded: dict[str, str] = {}
    aliases, problems = [], []
    for name, tensor in found.items():
        canonical = _substituted(name, names.aliases)
        if canonical != name:
            aliases.append(name)
            if canonical in found and not _equal(found[canonical], tensor):
                problems.append(f"{name} is another name of {canonical} but holds other values")
            if canonical in found:
                continue
        target = _substituted(canonical, names.rules)
        if target not in own:
            if name not in dead:
                problems.append(f"{name}: unknown")
            continue
        if _squeezed(tensor.shape) != _squeezed(own[target].shape):
            problems.append(f"{name} is {tuple(tensor.shape)}; expected {tuple(own[target].shape)} ({target})")
            continue
        if garbled := misfit(tensor, own[target]):
            problems.append(f"{name} {garbled} ({target})")
            continue
        tensors[target] = tensor.reshape(own[target].shape)
        loaded[name] = target
    problems += [f"{name}: missing, no released name leads to it" for name in own if name not in tensors]
    if problems:
        shown = "; ".join(problems[:12]) + (f"; and {len(problems) - 12} more" if len(problems) > 12 else "")
        raise InputError(f"weights of {names.repository}: {shown}. Build the network with the sizes of the checkpoint")
    if names.prepare is not None:
        names.prepare(model)
    model.load_state_dict(tensors)
    return ReleasedReport(loaded, dead, tuple(aliases))


def released_names(model: nn.Module) -> ReleasedNames:
    """Return the released names of a network or attention module; InputError if it has none."""
    names = getattr(model, "released_names", None)
    if not isinstance(names, ReleasedNames):
        what = getattr(getattr(model, "built_as", None), "name", type(model).__name__)
        raise InputError(f"{what}: no checkpoint of its authors' is known for it; use load_state_dict for your own")
    return names


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _substituted(name: str, rules: tuple[Rule, ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _squeezed(shape: torch.Size) -> tuple[int, ...]:
    """Leave out axes of length 1: a 1x1 convolution over time may be a matrix here."""
    return tuple(length for length in shape if length != 1)
