"""Checkpoints that cannot carry code: safetensors, with what the network is in the header."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from spikefold.errors import FileFormatError, InputError
from spikefold.files import atomic_path
from spikefold.models.registry import build

FORMAT = 1
_HEADER = "spikefold"
_PICKLES = (".pt", ".pth", ".tar", ".ckpt")


@dataclass(frozen=True)
class CheckpointMeta:
    """What a checkpoint says of itself.

    Attributes
    ----------
    model : str
        Registered name of the network, such as ``asa-dvsnet``.
    build : dict
        Arguments of `spikefold.models.build` besides the name.
    data : str
        Name of the data set.
    seed, epochs, best_epoch : int
        Seed, length of the training, and the epoch the weights are from (chosen by validation accuracy).
    accuracy : dict
        Share of clips classified rightly, by split: ``val``, ``test``.
    command : str
        Command line that makes this checkpoint again.
    versions : dict
        Versions of the packages it was made with.
    """

    model: str
    build: dict[str, int | float | str | bool] = field(default_factory=dict)
    data: str = ""
    seed: int = 0
    epochs: int = 0
    best_epoch: int = 0
    accuracy: dict[str, float] = field(default_factory=dict)
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)


def save_checkpoint(path: str | os.PathLike[str], model: nn.Module, meta: CheckpointMeta) -> None:
    """Write a network's weights and ``meta`` to ``path`` (safetensors), whole or not at all.

    Raises
    ------
    InputError
        A weight is NaN or infinite, or the folder does not exist.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: {name} holds NaN or infinite values; such a network is not saved")
    header = json.dumps({"spikefold_format": FORMAT, **asdict(meta)}, sort_keys=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={_HEADER: header}))


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[nn.Module, CheckpointMeta]:
    """Read a checkpoint and return its network, in evaluation mode, and what it says of itself. Runs no code of it.

    Raises
    ------
    FileFormatError
        The file is missing, truncated, of another kind or of a newer format; the header names a network that does
        not exist; tensors are missing, unknown, of another shape or not finite.
    """
    tensors, metadata = _read_safetensors(Path(path))
    meta = _parse_header(Path(path), metadata)
    try:
        model = build(meta.model, **meta.build)  # type: ignore[arg-type]  # build checks them
    except (InputError, TypeError) as error:
        raise FileFormatError(f"{path}: header: {error}") from error
    _check_tensors(Path(path), tensors, model.state_dict())
    model.load_state_dict(tensors)
    return model.eval(), meta


def load_state_dict_file(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read weights from ``.safetensors``, ``.pt``, ``.pth``, ``.tar`` or ``.ckpt`` without running code in the file.

    A file that holds a dictionary with the weights under ``state_dict``, ``model`` or ``net`` is unwrapped.

    Raises
    ------
    FileFormatError
        The file is missing, damaged, of another kind, or needs code to be loaded.
    """
    file = Path(path)
    if file.suffix == ".safetensors":
        return _read_safetensors(file)[0]
    if file.suffix not in _PICKLES:
        raise FileFormatError(f"{file}: suffix {file.suffix!r}; expected .safetensors, {', '.join(_PICKLES)}")
    if not file.is_file():
        raise FileFormatError(f"{file}: no such file")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm saves its options beside the weights
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FileFormatError(
            f"{file}: damaged, or holds more than tensors, which loading would have to run; "
            "save it anew with torch.save(net.state_dict(), path)"
        ) from error
    except Exception as error:  # a damaged pickle fails in a hundred ways
        raise FileFormatError(f"{file}: cannot be read ({type(error).__name__}: {error}); save it again") from error
    for key in ("state_dict", "model", "net"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise FileFormatError(
            f"{file}: holds a {type(content).__name__}; save it with torch.save(net.state_dict(), path)"
        )
    for name, tensor in content.items():
        if not isinstance(tensor, torch.Tensor):
            raise FileFormatError(f"{file}: entry {name!r} is a {type(tensor).__name__}, not a tensor")
    return {str(name): tensor for name, tensor in content.items()}


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not path.is_file():
        raise FileFormatError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{path}: damaged or not a safetensors file ({error}); fetch or save it again") from error


def _parse_header(path: Path, metadata: Mapping[str, str]) -> CheckpointMeta:
    if _HEADER not in metadata:
        raise FileFormatError(f"{path}: no {_HEADER!r} entry in the header; weights alone are not a checkpoint")
    try:
        header: Any = json.loads(metadata[_HEADER])
    except json.JSONDecodeError as error:
        raise FileFormatError(f"{path}: header {_HEADER!r} is not JSON ({error})") from error
    version = header.get("spikefold_format") if isinstance(header, dict) else None
    if not isinstance(version, int) or version < 1:
        raise FileFormatError(f"{path}: header: spikefold_format = {version!r}; expected {FORMAT}")
    if version > FORMAT:
        raise FileFormatError(
            f"{path}: header: spikefold_format = {version}, newer than {FORMAT}, the newest known; update spikefold"
        )
    values: dict[str, Any] = {}
    for entry in fields(CheckpointMeta):
        if entry.name not in header:
            raise FileFormatError(f"{path}: header: {entry.name} is missing; the file is damaged")
        expected = str(entry.type).partition("[")[0]
        if type(header[entry.name]).__name__ != expected:
            raise FileFormatError(f"{path}: header: {entry.name} = {header[entry.name]!r}; expected {entry.type}")
        values[entry.name] = header[entry.name]
    return CheckpointMeta(**values)


def _check_tensors(path: Path, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unknown:
        raise FileFormatError(
            f"{path}: the weights are of another network than its header says; "
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        )
    for name, tensor in found.items():
        expected = wanted[name]
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            raise FileFormatError(
                f"{path}: {name} is {tensor.dtype} {tuple(tensor.shape)}; "
                f"expected {expected.dtype} {tuple(expected.shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise FileFormatError(f"{path}: {name} holds NaN or infinite values")
