"""Values as JSON text and arrays: what a cache keeps and workers send, without pickles.

The classes of a value are those of its type hints, so that nothing in a file says what is to be made of it.
"""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from spikefold.errors import FileFormatError

T = TypeVar("T")
Stored = tuple[str, list[NDArray[Any]]]
"""JSON text, and the arrays that it refers to by position."""


def pack(value: object, leave_out: frozenset[str] = frozenset()) -> Stored:
    """Take apart dataclasses, tuples, lists, dicts by text, arrays, numbers, text and None.

    Fields of the outermost dataclass named in ``leave_out`` are left to the reader, who gives them to `unpack`.
    """
    arrays: list[NDArray[Any]] = []

    def plain(part: object, left_out: frozenset[str] = frozenset()) -> Any:
        if isinstance(part, np.ndarray):
            arrays.append(part)
            return {"array": len(arrays) - 1}
        if is_dataclass(part) and not isinstance(part, type):
            return {f.name: plain(getattr(part, f.name)) for f in fields(part) if f.name not in left_out}
        if isinstance(part, Mapping):
            return {str(key): plain(item) for key, item in part.items()}
        if isinstance(part, tuple | list):
            return [plain(item) for item in part]
        if isinstance(part, np.generic):
            return part.item()
        if part is None or isinstance(part, bool | int | float | str):
            return part
        raise TypeError(f"a {type(part).__name__} has no plain form")

    return json.dumps(plain(value, leave_out)), arrays


def unpack(kind: type[T], stored: Stored, **given: object) -> T:
    """Put together a value of type ``kind``; ``given`` are the fields that `pack` left out.

    Raises
    ------
    FileFormatError
        It is of another kind, or damaged.
    """
    text, arrays = stored
    try:
        return cast(T, _build(kind, json.loads(text), arrays, given))
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise FileFormatError(f"stored {kind}: is damaged ({type(error).__name__}: {error})") from error


def _build(kind: Any, plain: Any, arrays: list[NDArray[Any]], given: Mapping[str, object]) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if plain is None:
            return None
        (kind,) = (a for a in arguments if a is not type(None))
        return _build(kind, plain, arrays, given)
    if origin is np.ndarray:
        return arrays[plain["array"]] if isinstance(plain, dict) else np.asarray(plain)  # numpy's sums may be scalars
    if origin is tuple:
        each = [arguments[0]] * len(plain) if arguments[1:] == (...,) else list(arguments)
        return tuple(_build(a, p, arrays, {}) for a, p in zip(each, plain, strict=True))
    if origin is dict:
        return {key: _build(arguments[1], item, arrays, {}) for key, item in plain.items()}
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        own = {f.name: _build(hints[f.name], plain[f.name], arrays, {}) for f in fields(kind) if f.name not in given}
        return cast(Any, kind)(**own, **given)
    return plain


def digest(*values: object) -> str:
    """A name for what is in ``values``: SHA-256 over their content, whatever objects hold it (64 hexadecimal digits).

    As `pack` takes, and dataclasses of others, such as the nodes of a NIR graph.
    """
    sums = hashlib.sha256()

    def add(part: object) -> None:
        if isinstance(part, np.ndarray | np.generic):
            array = np.ascontiguousarray(part)
            sums.update(f"array {array.dtype.str} {np.shape(part)} ".encode())
            sums.update(array.tobytes() if array.ndim == 0 else array.data.cast("B") if array.size else b"")
        elif is_dataclass(part) and not isinstance(part, type):
            sums.update(f"{type(part).__name__} ".encode())
            add({f.name: getattr(part, f.name) for f in fields(part)})
        elif isinstance(part, Mapping):
            sums.update(f"dict {len(part)} ".encode())
            for key in sorted(part, key=str):
                add(str(key))
                add(part[key])
        elif isinstance(part, tuple | list | set | frozenset):
            items = sorted(part) if isinstance(part, set | frozenset) else part
            sums.update(f"list {len(part)} ".encode())
            for item in items:
                add(item)
        elif part is None or isinstance(part, bool | int | float | str | bytes):
            content = part if isinstance(part, bytes) else repr(part).encode()
            sums.update(f"{type(part).__name__} {len(content)} ".encode() + content)
        else:
            raise TypeError(f"a {type(part).__name__} has no digest")

    add(values)
    return sums.hexdigest()
