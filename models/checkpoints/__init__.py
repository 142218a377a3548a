"""The trained networks that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from spikefold.errors import InputError
from spikefold.models.registry import SHORT_NAMES, full_name


def shipped(name: str) -> Path:
    """Return the path of the checkpoint shipped for ``plain``, ``asa`` or ``fsta``.

    Raises
    ------
    InputError
        There is no network of that name, or its file is missing from the installation.
    """
    full = full_name(name)
    short = next(short for short, registered in SHORT_NAMES.items() if registered == full)
    path = Path(str(files(__name__).joinpath(f"{short}.safetensors")))
    if not path.is_file():
        raise InputError(f"{path}: missing from this installation; reinstall spikefold")
    return path
