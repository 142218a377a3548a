"""What the registry holds of a network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from spikefold.models.released import ReleasedNames

Option = int | float | str | bool
Coupling = Literal["none", "whole clip"]


@dataclass(frozen=True)
class Sizes:
    """What a network is made for: channels of a frame, time steps, classes, height and width of a frame in pixels."""

    in_channels: int
    time_steps: int
    num_classes: int
    input_size: int


@dataclass(frozen=True)
class Entry:
    """A network that `spikefold.models.build` knows.

    Attributes
    ----------
    make : callable
        ``make(sizes, **options)`` returns the network; its keyword parameters are the options, defaults included.
    sizes : Sizes
        The authors' sizes.
    source : str
        Where the network is from.
    coupling : {"none", "whole clip"}
        Whether a step's result needs the other steps: ``none`` runs on any T, ``whole clip`` fixes T.
    released : ReleasedNames, optional
        Parameter names of the authors' checkpoints.
    build_arguments : callable, optional
        Reads the arguments of `build` that fit a released state dict from the shapes in it.
    """

    make: Callable[..., nn.Module]
    sizes: Sizes
    source: str
    coupling: Coupling = "whole clip"
    released: ReleasedNames | None = None
    build_arguments: Callable[[Mapping[str, torch.Tensor]], dict[str, Option]] | None = None

    def options(self) -> dict[str, Option]:
        """Return the options of `make` with their defaults."""
        parameters = list(inspect.signature(self.make).parameters.values())[1:]
        return {parameter.name: parameter.default for parameter in parameters}
