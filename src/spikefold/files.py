"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spikefold.errors import InputError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path``; when the block ends well, it is flushed to disk and renamed to ``path``.

    When the block raises, the temporary file is removed and what stood at ``path`` before stays as it was. The
    temporary name keeps the suffix, because some writers choose their format by it.

    Raises
    ------
    InputError
        The folder does not exist, ``path`` is a folder, or writing failed: the disk is full, a right is missing. The
        system's error is its cause.
    """
    target = Path(path)
    check_place(target)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(6)}{target.suffix}")
    try:
        yield temporary
        _flush(temporary, os.O_RDWR)
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}; what was there before is kept") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    with suppress(OSError):  # some systems cannot open a folder; the rename is then as durable as they make it
        _flush(target.parent, os.O_RDONLY)


def made_folder(path: str | os.PathLike[str]) -> Path:
    """Give the folder ``path``, made with those above it where it is not there.

    Raises
    ------
    InputError
        It cannot be made: a file stands there, a right is missing. The system's error is its cause.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror or error}; name another") from error
    return folder


def check_place(path: str | os.PathLike[str]) -> None:
    """Refuse a place for a file where there can be none, before the work is done that makes the file.

    Raises
    ------
    InputError
        Its folder does not exist or may not be entered, or a folder stands there.
    """
    target = Path(path)
    try:
        in_folder, is_folder = target.parent.is_dir(), target.is_dir()
    except OSError as error:  # who may not enter a folder is not told what is in it
        raise InputError(f"cannot write {target}: {error.strerror or error}; name another place") from error
    if not in_folder:
        raise InputError(f"cannot write {target}: the folder {target.parent} does not exist; create it first")
    if is_folder:
        raise InputError(f"cannot write {target}: it is a folder; name a file")


def _flush(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
