"""Authors' checkpoints become checkpoints of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spikefold.errors import FileFormatError, InputError
from spikefold.models import CheckpointMeta, build, load_released, load_state_dict_file, save_checkpoint
from spikefold.models.registry import ENTRIES, built_as, full_name
from spikefold.models.systems.entry import Option


def import_checkpoint(file: Path, name: str, out: Path, arguments: dict[str, Option]) -> dict[str, Any]:
    """Read a released checkpoint, run none of its code, and write it as ``.safetensors``.

    Parameters
    ----------
    file : Path
        A state dict as the authors saved it, bare or under ``state_dict``, ``model`` or ``net``.
    name : str
        Registered name of the network.
    out : Path
        Where the checkpoint goes.
    arguments : dict
        Arguments of `spikefold.models.build` that the shapes in the file do not tell, or that differ from what they
        tell.

    Returns
    -------
    dict
        The build arguments, how many tensors were read, and which names were dead or aliases.

    Raises
    ------
    InputError
        The network has no released form, or names or shapes do not fit; each is named.
    FileFormatError
        The file is damaged or needs code to be loaded.
    """
    name = full_name(name)
    entry = ENTRIES[name]
    if entry.released is None or entry.build_arguments is None:
        known = ", ".join(n for n, e in ENTRIES.items() if e.released is not None)
        raise InputError(f"--as {name}: no checkpoint of its authors' is known for it; choose one of {known}")
    found = {key.removeprefix("module."): tensor for key, tensor in load_state_dict_file(file).items()}
    try:
        read = entry.build_arguments(found)
    except (LookupError, StopIteration) as error:
        raise FileFormatError(
            f"{file}: no checkpoint of {entry.released.repository}: {error} is missing; name another network with --as"
        ) from error
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:  # shapes of something else
        raise FileFormatError(
            f"{file}: no checkpoint of {entry.released.repository}: its shapes fit no such network ({error}); name "
            "another with --as"
        ) from error
    network = build(name, **{**read, **arguments})  # type: ignore[arg-type]
    report = load_released(network, found)
    built_from = dict(built_as(network).arguments)  # after loading: released weights may need an option of their own
    meta = CheckpointMeta(model=name, build=built_from, data=f"imported from {entry.released.repository}")
    save_checkpoint(out, network, meta)
    return {
        "out": str(out),
        "model": name,
        "build": built_from,
        "repository": entry.released.repository,
        "tensors": len(report.loaded),
        "dead": list(report.dead),
        "aliases": len(report.aliases),
    }
