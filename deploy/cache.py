"""Results that need not be computed twice, in files named by what they were computed from.

Not ``joblib.Memory``: that keeps pickles, and knows the code of the one function that it wraps, not what that calls.
"""

from __future__ import annotations

import functools
import os
import re
import warnings
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

import numpy as np

from spikefold.deploy.stored import Stored, digest
from spikefold.errors import InputError, SpikefoldWarning
from spikefold.files import atomic_path

FORMAT = 1
_ENTRY = re.compile(r"\.?[0-9a-f]{64}(\.[0-9a-f]+)?\.npz")
"""Entries, and what a process that was killed left of one: nothing else in the folder is ours."""


def cache_folder() -> Path:
    """``SPIKEFOLD_CACHE``, or ``spikefold/results`` in ``XDG_CACHE_HOME``, or in ``~/.cache``."""
    named = os.environ.get("SPIKEFOLD_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spikefold" / "results"


@functools.cache
def code_version() -> str:
    """What every key depends on besides its inputs: the format, our source files, and the versions of numpy and torch.

    The source itself, because a checkout keeps its version number while it changes.
    """
    root = Path(str(resources.files("spikefold")))
    folders = [(root / part).resolve() for part in ("converters", "deploy", "models")]  # links, in a checkout
    sources = {f"{p.name}/{f.relative_to(p)}": f.read_bytes() for p in folders for f in p.rglob("*.py")}
    return digest(FORMAT, sources, *(metadata.version(name) for name in ("spikefold", "numpy", "torch")))


@dataclass(frozen=True)
class Held:
    """What a cache holds of one kind."""

    kind: str
    entries: int
    bytes: int


class Cache:
    """A folder of results, ``<kind>/<key>.npz``; several processes may share it.

    An entry is written beside its place and renamed, so that it is there whole or not at all. Nothing in it is
    unpickled.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder() if folder is None else folder

    def get(self, kind: str, key: str) -> Stored | None:
        """The entry, or None where there is none; a damaged one is removed with a warning."""
        try:
            with np.load(self._path(kind, key), allow_pickle=False) as archive:
                if str(archive["key"]) != key:
                    raise ValueError("it holds something else")
                text = archive["text"].tobytes().decode()
                return text, [archive[f"array_{i}"] for i in range(len(archive.files) - 2)]
        except FileNotFoundError:
            return None
        except Exception as error:  # numpy and zipfile raise whatever comes up on a damaged file
            self.remove_damaged(kind, key, error)
            return None

    def remove_damaged(self, kind: str, key: str, error: Exception) -> None:
        """Remove an entry that cannot be read, and say so: something else than spikefold wrote to it."""
        path = self._path(kind, key)
        warnings.warn(
            f"{path}: a damaged cache entry ({type(error).__name__}: {error}); it is computed again. Where that "
            "happens more than once, check the disk",
            SpikefoldWarning,
            stacklevel=3,
        )
        with suppress(OSError):
            path.unlink()

    def put(self, kind: str, key: str, stored: Stored) -> None:
        """Keep a result.

        Raises
        ------
        InputError
            The folder cannot be written.
        """
        text, arrays = stored
        path = self._path(kind, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with atomic_path(path) as temporary:
                named = {f"array_{i}": array for i, array in enumerate(arrays)}
                plain = np.frombuffer(text.encode(), dtype=np.uint8)
                np.savez_compressed(temporary, key=np.array(key), text=plain, **named)
        except (InputError, OSError) as error:
            if isinstance(error.__cause__ or error, FileNotFoundError):
                return  # another process has just cleared the cache
            raise InputError(
                f"cache {self.folder}: cannot be written ({error}); set SPIKEFOLD_CACHE to a folder that can, or do "
                "without (--no-cache)"
            ) from error

    def held(self) -> list[Held]:
        """Entries and bytes of every kind.

        Raises
        ------
        InputError
            The folder cannot be read.
        """
        sizes: dict[str, list[int]] = {}
        for path in self._entries():
            try:
                sizes.setdefault(path.parent.name, []).append(path.stat().st_size)
            except FileNotFoundError:  # another process has just removed it
                continue
            except OSError as error:
                raise self._unreadable(error) from error
        return [Held(kind, len(bytes_), sum(bytes_)) for kind, bytes_ in sorted(sizes.items())]

    def clear(self) -> int:
        """Remove all entries, and nothing else that lies in the folder; gives how many they were.

        Raises
        ------
        InputError
            The folder cannot be read, or an entry not be removed.
        """
        paths = self._entries()
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise InputError(f"{path}: cannot be removed ({error.strerror or error}); see whose it is") from error
        return len(paths)

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.npz"

    def _entries(self) -> list[Path]:
        try:
            return [p for p in sorted(self.folder.glob("*/*.npz")) if _ENTRY.fullmatch(p.name)]
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> InputError:
        return InputError(
            f"cache {self.folder}: cannot be read ({error.strerror or error}); set SPIKEFOLD_CACHE to a folder that can"
        )
