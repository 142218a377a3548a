"""The fine-tuned integer nets that come with the package; ``spikefold finetune`` made them, as their metadata says."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from spikefold.errors import InputError

TUNED = ("asa-static-tuned", "fsta-static-tuned", "fsta-scheduled-tuned", "staa-static-tuned")
"""Names of the shipped nets; each is a ``.nir`` file beside this one."""


def find_file(net: str | os.PathLike[str]) -> Path:
    """Return the path of an exported net: a shipped one by name, any other by its path.

    Raises
    ------
    InputError
        A shipped net's file is missing from the installation.
    """
    if str(net) not in TUNED:
        return Path(net)
    path = Path(str(files(__name__).joinpath(f"{net}.nir")))
    if not path.is_file():
        raise InputError(f"{path}: missing from this installation; reinstall spikefold")
    return path
