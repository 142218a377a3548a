"""The trained networks that come with the package, and loading any trained network."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from torch import nn

from spikefold.errors import InputError
from spikefold.models.checkpoint import load_checkpoint

SHIPPED = ("plain", "asa", "fsta", "staa", "sma", "fsta-resnet20-small", "sma-vgg8-small")
"""Names of the shipped networks; each is a file beside this one."""


def shipped(name: str) -> Path:
    """Return the path of a shipped checkpoint, such as ``asa`` (or ``asa-dvsnet``).

    Raises
    ------
    InputError
        There is no network of that name, or its file is missing from the installation.
    """
    short = name.removesuffix("-dvsnet")
    if short not in SHIPPED:
        raise InputError(f"net {name!r}: no such network is shipped; choose one of {', '.join(SHIPPED)}")
    path = Path(str(files(__name__).joinpath(f"{short}.safetensors")))
    if not path.is_file():
        raise InputError(f"{path}: missing from this installation; reinstall spikefold")
    return path


def load(net: str | os.PathLike[str]) -> nn.Module:
    """Load a trained network, in evaluation mode: a shipped one by name, or a ``.safetensors`` checkpoint by path.

    Raises
    ------
    InputError
        There is no such file or shipped network.
    FileFormatError
        The file is damaged, newer, or of another architecture.
    """
    path = shipped(str(net)) if str(net) in SHIPPED else Path(net)
    if not os.path.isfile(path):  # False, where Path.is_file raises, of names that can be none
        names = ", ".join(SHIPPED)
        raise InputError(
            f"net {str(net)!r}: neither a shipped net ({names}) nor a checkpoint file; one "
            "of your own goes as package.module:builder to the command line"
        )
    return load_checkpoint(path)[0].eval()
