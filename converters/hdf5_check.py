"""What an HDF5 file must be before a NIR file is read from it: itself and nothing else, and no larger than it looks.

HDF5 can point out of a file (external links, external storage, virtual data sets), around in circles (links), at
devices, and can declare more data than it holds. NIR needs none of that, and its reader follows all of it.
"""

from __future__ import annotations

import math
import os
from typing import Any

import h5py
import nir

from spikefold.errors import FileFormatError

MAX_RATIO = 200
"""How many times the size of the file its arrays may be: gzip reaches 1,000 on zeros, and nets are none."""
FREE_BYTES = 128 << 20
"""Arrays of so many bytes are read however small the file is."""
MAX_DEPTH = 100


def read_nir(path: str | os.PathLike[str], type_check: bool = True) -> Any:
    """Check a file and give what nir reads of it.

    Raises
    ------
    FileFormatError
        There is no such file, it points elsewhere, declares more than it can hold, or nir cannot read it.
    """
    if not os.path.isfile(path):
        raise FileFormatError(f"{path}: there is no such file")
    try:
        check_hdf5(path)
        return nir.read(str(path), type_check=type_check)
    except FileFormatError:
        raise
    except Exception as error:  # nir and h5py raise whatever comes up on a damaged file
        said = f"{_culprit(path)}{type(error).__name__}: {str(error)[:500]}"
        raise FileFormatError(f"{path}: not a readable NIR file ({said})") from error


def _culprit(path: str | os.PathLike[str]) -> str:
    """Name the node that nir cannot make, if it is one."""
    try:
        with h5py.File(path, "r") as file:
            nodes = nir.serialization.hdf2dict(file["node"])["nodes"]
    except Exception:  # it is not the nodes, then
        return ""
    for name, fields in nodes.items():
        try:
            nir.dict2NIRNode(fields)
        except Exception:  # whatever it is, `read_nir` says it
            kind = fields.get("type", "no type") if isinstance(fields, dict) else "no node"
            return f"node {name!r} ({str(kind)[:80]}): "
    return ""


def check_hdf5(path: str | os.PathLike[str]) -> None:
    """Refuse a file that points elsewhere or declares more than it can hold; FileFormatError names the place."""
    limit = FREE_BYTES + MAX_RATIO * os.path.getsize(path)
    with h5py.File(path, "r") as file:
        left: list[tuple[str, Any, int]] = [("", file, 0)]
        seen: set[Any] = set()
        total = 0
        while left:
            where, item, depth = left.pop()
            if depth > MAX_DEPTH:
                raise FileFormatError(f"{path}: {where[:80]}...: groups inside groups, more than {MAX_DEPTH}")
            info = h5py.h5o.get_info(item.id)
            if info.addr in seen:
                raise FileFormatError(
                    f"{path}: {where}: is there under two names, so the file is no tree; save it anew"
                )
            seen.add(info.addr)
            if isinstance(item, h5py.Group):
                left += [(f"{where}/{name}", _member(path, where, item, name), depth + 1) for name in item]
            elif isinstance(item, h5py.Dataset):
                total += _declared_bytes(path, where, item)
            else:
                raise FileFormatError(f"{path}: {where}: a {type(item).__name__}, neither group nor array")
            if total > limit:
                raise FileFormatError(
                    f"{path}: {where}: with it the arrays declare {total} bytes, more than {MAX_RATIO} times the "
                    f"{os.path.getsize(path)} bytes of the file; it is damaged or made to exhaust memory"
                )


def _member(path: str | os.PathLike[str], where: str, group: Any, name: str) -> Any:
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise FileFormatError(
            f"{path}: {where}/{name}: a link to {link.path} in file {link.filename}; none is followed"
        )
    if not isinstance(link, h5py.HardLink):
        raise FileFormatError(f"{path}: {where}/{name}: a link to {getattr(link, 'path', '?')}; none is followed")
    return group[name]


def _declared_bytes(path: str | os.PathLike[str], where: str, array: Any) -> int:
    if array.external or array.is_virtual:
        held = ", ".join(str(entry[0]) for entry in array.external or array.virtual_sources())
        raise FileFormatError(f"{path}: {where}: its data lie in other files ({held}); none is opened")
    if array.shape is None:
        raise FileFormatError(f"{path}: {where}: an array without data")
    if array.dtype.kind not in "biufS" and h5py.check_string_dtype(array.dtype) is None:
        raise FileFormatError(f"{path}: {where}: holds {array.dtype}, neither numbers nor text")
    chunk = math.prod(array.chunks) * array.dtype.itemsize if array.chunks else 0
    return int(max(math.prod(array.shape) * array.dtype.itemsize, chunk))
