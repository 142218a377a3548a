"""Weights from files that anybody wrote: read without running code, and checked before they are used."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from spikefold.errors import FileFormatError

_PICKLES = (".pt", ".pth", ".tar", ".ckpt")


def load_state_dict_file(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read weights from ``.safetensors``, ``.pt``, ``.pth``, ``.tar`` or ``.ckpt`` without running code in the file.

    A file that holds a dictionary with the weights under ``state_dict``, ``model_state_dict``, ``model`` or ``net`` is
    unwrapped.

    Raises
    ------
    FileFormatError
        The file is missing, damaged, of another kind, or needs code to be loaded; a weight is NaN or infinite.
    """
    file = Path(path)
    if file.suffix == ".safetensors":
        found = read_safetensors(file)[0]
    elif file.suffix in _PICKLES:
        found = _read_pickle(file)
    else:
        raise FileFormatError(f"{file}: suffix {file.suffix!r}; expected .safetensors, {', '.join(_PICKLES)}")
    for name, tensor in found.items():
        if not is_finite(tensor):
            raise FileFormatError(f"{file}: {name} holds NaN or infinite values")
    return found


def misfit(found: torch.Tensor, wanted: torch.Tensor) -> str | None:
    """Why a tensor cannot take the place of another of the same shape: it is of a kind that conversion would garble.

    Half and double precision are converted, as long as nothing becomes infinite; so are whole numbers held as floats
    where the net counts. Tensors on ``meta`` have no values to look at.
    """
    counts = found.is_floating_point() and not wanted.is_floating_point() and not wanted.is_complex()
    of_one_kind = found.is_floating_point() == wanted.is_floating_point() or counts
    if found.is_complex() != wanted.is_complex() or not of_one_kind:
        return f"is {found.dtype}, the net has {wanted.dtype}"
    if found.is_meta:
        return None
    if counts and not bool((found == found.trunc()).all()):
        return f"is {found.dtype} and holds fractions, the net has {wanted.dtype}"
    if not is_finite(found.to(wanted.dtype)):
        return f"is {found.dtype} and holds values that {wanted.dtype} does not reach"
    return None


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    if tensor.is_floating_point() and tensor.element_size() == 1:  # torch knows no isfinite of eight bits
        tensor = tensor.to(torch.float32)
    return bool(torch.isfinite(tensor).all())


def _read_pickle(file: Path) -> dict[str, torch.Tensor]:
    if not os.path.isfile(file):
        raise FileFormatError(f"{file}: no such file")
    try:
        with file.open("rb") as opened:
            is_zip = opened.read(4) == b"PK\x03\x04"  # as torch decides
        if is_zip:
            _check_archive(file)
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm saves its options beside the weights
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileFormatError:
        raise
    except pickle.UnpicklingError as error:
        raise FileFormatError(
            f"{file}: damaged, or holds more than tensors, which loading would have to run; "
            "save it anew with torch.save(net.state_dict(), path)"
        ) from error
    except Exception as error:  # a damaged pickle fails in a hundred ways
        raise FileFormatError(f"{file}: cannot be read ({type(error).__name__}: {error}); save it again") from error
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise FileFormatError(
            f"{file}: holds a {type(content).__name__}; save it with torch.save(net.state_dict(), path)"
        )
    for name, tensor in content.items():
        if not isinstance(tensor, torch.Tensor):
            raise FileFormatError(
                f"{file}: entry {name!r} is a {type(tensor).__name__}, not a tensor; "
                "save it with torch.save(net.state_dict(), path)"
            )
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise FileFormatError(
                f"{file}: {name} is {tensor.layout} {tensor.dtype} on {tensor.device}; save plain tensors"
            )
        stored = tensor.untyped_storage().nbytes() // tensor.element_size()
        if tensor.numel() > stored:
            raise FileFormatError(
                f"{file}: {name} is {tuple(tensor.shape)} stretched over {stored} values; save it contiguous"
            )
    return {str(name): tensor.detach().clone() for name, tensor in content.items()}


def _check_archive(file: Path) -> None:
    """Refuse an archive with packed entries, which torch does not write: a small file could hold any amount."""
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise FileFormatError(
                    f"{file}: entry {entry.filename} is packed, {entry.compress_size} bytes for {entry.file_size}; "
                    "torch.save packs nothing: save it again"
                )


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a file; FileFormatError where it cannot be read."""
    if not os.path.isfile(path):
        raise FileFormatError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # besides its own errors, those of torch on types that it lacks
        raise FileFormatError(f"{path}: damaged or not a safetensors file ({error}); fetch or save it again") from error
