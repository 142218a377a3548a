"""Clips of events in memory and in ``.npz`` files."""

from __future__ import annotations

import math
import os
import zipfile
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from spikefold.errors import FileFormatError, InputError

MAX_RATIO = 500
"""How many times as large as its packed form an array of clips may be; deflate reaches 1,000 on nothing but zeros."""
FREE_BYTES = 128 << 20
"""So many bytes are unpacked whatever their packed form."""
MAX_CLASS = 10**6


@dataclass(frozen=True)
class EventData:
    """Clips and, where known, what they show.

    Attributes
    ----------
    frames : ndarray
        ``[N, T, C, H, W]``, uint8 (0/1 events or graded 0..255) or float32.
    labels : ndarray or None
        int64 ``[N]``.
    """

    frames: NDArray[Any]
    labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, samples: slice | NDArray[np.int64]) -> EventData:
        """Return some of the clips, by slice or by positions."""
        return EventData(self.frames[samples], None if self.labels is None else self.labels[samples])

    def clips(self, limit: int | None = None) -> NDArray[Any]:
        """Return the first ``limit`` clips (all without it) with time first: ``[T, N, C, H, W]``."""
        return np.ascontiguousarray(np.moveaxis(self.frames[:limit], 0, 1))

    def clip(self) -> torch.Tensor:
        """Return all clips as a network takes them: float32 ``[T, N, C, H, W]``."""
        return torch.from_numpy(self.frames).transpose(0, 1).to(torch.float32)


def load_npz(path: str | os.PathLike[str]) -> EventData:
    """Read clips from an ``.npz`` file with ``frames`` ``[N, T, C, H, W]`` and, optionally, ``labels`` ``[N]``.

    Nets without pictures take ``frames`` ``[N, T, n]``. ``frames`` holds booleans, integers from 0 to 255, or finite
    floats; it becomes uint8 or float32.

    Raises
    ------
    FileFormatError
        The file cannot be read, or holds pickled objects (which are never unpickled).
    InputError
        An array is missing, or has the wrong shape, type or range.
    """
    try:
        _check_archive(path)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("frames", "labels") if name in archive.files}
            found = ", ".join(archive.files) or "none"
    except FileNotFoundError as error:
        raise FileFormatError(f"{path}: no such file") from error
    except FileFormatError:
        raise
    except Exception as error:  # numpy and zipfile raise whatever comes up on a damaged file
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise FileFormatError(f"{path}: cannot be read as .npz ({said}); save it with numpy.savez") from error
    if "frames" not in arrays:
        raise InputError(f"{path}: no array 'frames' (found: {found}); save it with numpy.savez(path, frames=...)")
    frames = check_frames(arrays["frames"], f"{path}: frames")
    return EventData(frames, _check_labels(arrays["labels"], len(frames), path) if "labels" in arrays else None)


def _check_archive(path: str | os.PathLike[str]) -> None:
    """Refuse arrays that are not plain, or declare more than is there: numpy makes room for all that they declare."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if bare := sorted({"frames", "labels"} & set(names)):
            raise FileFormatError(f"{path}: {bare[0]} is no array; save it with numpy.savez(path, frames=...)")
        for entry in archive.infolist():
            if entry.filename not in ("frames.npy", "labels.npy"):
                continue
            if names.count(entry.filename) > 1:
                raise FileFormatError(f"{path}: {entry.filename} is there twice; save it again")
            if entry.file_size > max(FREE_BYTES, MAX_RATIO * entry.compress_size):
                raise FileFormatError(
                    f"{path}: {entry.filename} is {entry.file_size} bytes packed into {entry.compress_size}, more than "
                    f"{MAX_RATIO} times as many; no recording is so empty: save it with numpy.savez"
                )
            with archive.open(entry) as file:
                check_npy(file, entry.file_size, f"{path}: {entry.filename}")


def check_npy(file: IO[bytes], size: int, where: str) -> None:
    """Refuse an array in numpy's format that declares another size than its ``size`` in bytes: numpy makes room for it.

    Raises
    ------
    FileFormatError
        It declares another size.
    ValueError, KeyError
        It is no such array.
    """
    numpy_format: Any = np.lib.format
    read = {(1, 0): numpy_format.read_array_header_1_0, (2, 0): numpy_format.read_array_header_2_0}
    shape, _, dtype = read[numpy_format.read_magic(file)](file)
    declared = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and file.tell() + declared != size:
        raise FileFormatError(
            f"{where} declares {dtype} of shape {shape}, {declared} bytes, and holds {size - file.tell()}; "
            "save it again"
        )


def check_frames(frames: NDArray[Any], name: str = "frames") -> NDArray[Any]:
    """Return ``frames`` as uint8 or float32 after checking shape, type and range; see `load_npz`."""
    if frames.ndim not in (3, 5):
        raise InputError(f"{name}: shape {frames.shape}; expected 5 axes [N, T, C, H, W], or 3 [N, T, n] for flat nets")
    if 0 in frames.shape:
        axis = "NTCHW"[frames.shape.index(0)]
        raise InputError(f"{name}: shape {frames.shape}; axis {axis} is empty, it must be at least 1")
    if frames.dtype == np.bool_ or np.issubdtype(frames.dtype, np.integer):
        low, high = int(frames.min()), int(frames.max())
        if low < 0 or high > 255:
            raise InputError(f"{name}: values from {low} to {high}; integers must lie in 0..255 (0/1 for plain events)")
        return frames.astype(np.uint8)
    if np.issubdtype(frames.dtype, np.floating):
        bad = int(frames.size - np.isfinite(frames).sum())
        if bad:
            raise InputError(f"{name}: {bad} values are NaN or infinite; remove or replace them")
        with np.errstate(over="ignore"):
            single = frames.astype(np.float32)
        if not np.isfinite(single).all():
            raise InputError(f"{name}: values up to {np.abs(frames).max():.3g} do not fit float32; scale them down")
        return single
    raise InputError(f"{name}: dtype {frames.dtype}; expected bool, integers 0..255 or floats")


def _check_labels(labels: NDArray[Any], count: int, path: str | os.PathLike[str]) -> NDArray[np.int64]:
    if labels.shape != (count,):
        raise InputError(f"{path}: labels: shape {labels.shape}; expected ({count},), one for each clip in frames")
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{path}: labels: dtype {labels.dtype}; expected integers")
    if labels.min() < 0 or labels.max() > MAX_CLASS:
        outside = labels.min() if labels.min() < 0 else labels.max()
        raise InputError(f"{path}: labels: value {outside}; classes are numbered from 0 to {MAX_CLASS} at most")
    return labels.astype(np.int64)
