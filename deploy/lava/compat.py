"""Makes lava-nc 0.10, written for Python up to 3.10, import on newer Pythons. Import this before anything of Lava."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

_MODULE = "lava.magma.compiler.var_model"
_CLASS = "ByteEncoder"
"""Serves as default value in three dataclasses of the module; Python 3.11 asks that such values be hashable."""


def load() -> None:
    """Import Lava's compiler with the one class of it hashable that newer Pythons refuse."""
    original = dataclasses.dataclass

    def dataclass(cls: Any = None, /, **options: Any) -> Any:
        if cls is None:
            return lambda c: dataclass(c, **options)
        if (cls.__module__, cls.__qualname__) == (_MODULE, _CLASS):
            options["unsafe_hash"] = True
        return original(cls, **options)

    vars(dataclasses)["dataclass"] = dataclass
    try:
        importlib.import_module(_MODULE)
    finally:
        vars(dataclasses)["dataclass"] = original
