"""One layer as it lies in a ``.net`` file: its fields by name, checked one by one as they are asked for.

Arrays of the file are channels first (``CHW``, kernels ``[O, I, kh, kw]``), but per-neuron values of the neurons, which
netx hands to Lava as they are, lie in Lava's order, ``WHC``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spikefold.converters.fixed_point_graph import Whole
from spikefold.converters.hdf5_check import check_hdf5
from spikefold.converters.plain_fields import MAX_VALUES
from spikefold.errors import FileFormatError

Int = NDArray[np.int64]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerFile:
    """Layer ``number`` of a file; ``where`` names both in messages, ``neuron`` is None where it has no neurons."""

    where: str
    number: int
    kind: str
    fields: Mapping[str, Any]
    neuron: Mapping[str, Any] | None

    def refuse(self, field: str, value: object, why: str) -> FileFormatError:
        """The error that says what of this layer is not read, and why."""
        return FileFormatError(f"{self.where}, {field}: is {value}; {why}")

    def check_fields(self, known: set[str]) -> None:
        """FileFormatError on a field that nothing here would read."""
        for name in sorted({*self.fields} - known):
            raise self.refuse(name, "there", f"spikefold knows no such field of a layer of type {self.kind!r}")

    def whole(self, field: str) -> Int:
        """A field of whole numbers, which lava-dl often keeps as floats."""
        return self._whole(field, self.fields)

    def shape(self) -> Shape:
        """The field ``shape``."""
        sizes = tuple(int(n) for n in self.whole("shape").reshape(-1))
        if min(sizes) < 1 or math.prod(sizes) > MAX_VALUES:
            raise self.refuse("shape", sizes, f"sizes of together 1 to {MAX_VALUES} values are wanted")
        return sizes

    def pair(self, field: str, default: int) -> tuple[int, int]:
        """A field that holds one number for both spatial axes, or one of each, height first."""
        if field not in self.fields:
            return default, default
        values = self.whole(field).reshape(-1)
        if values.size not in (1, 2):
            raise self.refuse(field, values.tolist(), "one number or two are wanted")
        return int(values[0]), int(values[-1])

    def of_neurons(self, field: str, shape: Shape) -> Int:
        """A field of the neurons as numpy would give it to Lava's, brought to the order of ``shape``: () or like it."""
        return self.as_in_lava(f"neuron/{field}", self._whole(field, self.neuron or {}), shape)

    def as_in_lava(self, field: str, values: Int, shape: Shape) -> Int:
        """Values for one neuron each, for channels, or for all, as Lava holds them, broadcastable to ``shape``."""
        if values.size == 1:
            return values.reshape(())
        if values.shape == (shape[0],):
            return values.reshape(-1, *[1] * (len(shape) - 1))
        if values.shape == shape[::-1]:
            return values.T.copy()
        raise self.refuse(field, f"of shape {values.shape}", f"it does not fit neurons {shape} (channels first)")

    def _whole(self, field: str, fields: Mapping[str, Any]) -> Int:
        name = field if fields is self.fields else f"neuron/{field}"
        if field not in fields:
            raise FileFormatError(f"{self.where}, {name}: is missing")
        value = fields[field]
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iufb" or not value.size:
            raise self.refuse(name, value if isinstance(value, str) else "no array", "whole numbers are wanted")
        if not np.array_equal(value, np.trunc(value)) or not np.isfinite(value).all():
            raise self.refuse(
                name, "not whole everywhere", "netx would cut the numbers off; export the net with its quantisation on"
            )
        return np.asarray(value, dtype=np.int64)


def read_layers(path: str | os.PathLike[str]) -> list[LayerFile]:
    """The layers of a ``.net`` file, in order.

    Raises
    ------
    FileFormatError
        The file is missing, broken, or holds no layers.
    """
    if not Path(path).is_file():
        raise FileFormatError(f"{path}: there is no such file")
    try:
        check_hdf5(path)
        with h5py.File(path, "r") as file:
            held = _plain(file)
    except FileFormatError:
        raise
    except Exception as error:  # h5py raises whatever comes up on a damaged file
        raise FileFormatError(f"{path}: not a readable HDF5 file ({type(error).__name__}: {error})") from error
    layers = held.get("layer")
    if not isinstance(layers, dict) or not layers or {*layers} != {str(i) for i in range(len(layers))}:
        raise FileFormatError(f"{path}: holds no layers 'layer/0', 'layer/1', ...; it is no net of lava-dl")
    return [_layer(f"{path}: layer {i}", i, layers[str(i)]) for i in range(len(layers))]


def _layer(where: str, number: int, held: Any) -> LayerFile:
    if not isinstance(held, dict) or not isinstance(held.get("type"), str):
        raise FileFormatError(f"{where}, type: is missing")
    fields = {k: v for k, v in held.items() if k != "neuron"}
    neuron = held.get("neuron")
    if neuron is not None and (not isinstance(neuron, dict) or not isinstance(neuron.get("type"), str)):
        raise FileFormatError(f"{where}, neuron/type: is missing")
    return LayerFile(f"{where} ({held['type']})", number, held["type"], fields, neuron)


def _plain(group: h5py.Group) -> dict[str, Any]:
    """Groups as dicts, texts as str, all else as arrays."""
    plain: dict[str, Any] = {}
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            plain[name] = _plain(item)
            continue
        value = np.asarray(item[()])
        if value.dtype.kind in "SO":
            first = value.reshape(-1)[0]
            plain[name] = first.decode("ascii") if isinstance(first, bytes) else str(first)
        else:
            plain[name] = value
    return plain


def one_or_many(values: Int) -> Whole:
    """An int where there is one number."""
    return int(values) if values.ndim == 0 else values
