"""Checkpoints that cannot carry code: safetensors, with what the network is in the header."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from spikefold.errors import FileFormatError, InputError
from spikefold.files import atomic_path
from spikefold.models.registry import build
from spikefold.models.weights import is_finite, read_safetensors

FORMAT = 1
_HEADER = "spikefold"


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
    tensors, metadata = read_safetensors(Path(path))
    meta = _parse_header(Path(path), metadata)
    _check_tensors(Path(path), tensors, _built(Path(path), meta, "meta").state_dict())
    model = _built(Path(path), meta, "cpu")  # no larger than the file, now
    model.load_state_dict(tensors)
    return model.eval(), meta


def _built(path: Path, meta: CheckpointMeta, device: str) -> nn.Module:
    """The network that a header names; on the device ``meta`` its weights take no memory."""
    try:
        with torch.device(device):
            return build(meta.model, **meta.build)  # type: ignore[arg-type]  # build checks them
    except (InputError, TypeError) as error:
        raise FileFormatError(f"{path}: header: {error}") from error


def _parse_header(path: Path, metadata: Mapping[str, str]) -> CheckpointMeta:
    if _HEADER not in metadata:
        raise FileFormatError(f"{path}: no {_HEADER!r} entry in the header; weights alone are not a checkpoint")
    try:
        header: Any = json.loads(metadata[_HEADER])
    except (ValueError, RecursionError) as error:
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
            shown = reprlib.repr(header[entry.name])
            raise FileFormatError(f"{path}: header: {entry.name} = {shown}; expected {entry.type}")
        values[entry.name] = header[entry.name]
    return CheckpointMeta(**values)


def _check_tensors(path: Path, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unknown:
        raise FileFormatError(
            f"{path}: the weights are of another network than its header says; "
            f"missing: {_listed(missing)}; unknown: {_listed(unknown)}"
        )
    for name, tensor in found.items():
        expected = wanted[name]
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            raise FileFormatError(
                f"{path}: {name} is {tensor.dtype} {tuple(tensor.shape)}; "
                f"expected {expected.dtype} {tuple(expected.shape)}"
            )
        if not is_finite(tensor):
            raise FileFormatError(f"{path}: {name} holds NaN or infinite values")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(reprlib.repr(name)[1:-1] if len(name) > 80 else name for name in names[:12]) + more or "none"
