"""Recordings of event cameras that the user has on disk, read with the tonic library. Nothing is ever downloaded.

``nmnist``
    N-MNIST (Orchard et al., Frontiers in Neuroscience 2015): 34 x 34 pixels, 10 classes.
``dvs128-gesture``
    DVS128 Gesture (Amir et al., CVPR 2017): 128 x 128 pixels, 11 classes, as tonic reads it: one ``.npy`` a gesture.
``cifar10-dvs``
    CIFAR10-DVS (Li et al., Frontiers in Neuroscience 2017): 128 x 128 pixels, 10 classes, as the ``.aedat4`` files
    that tonic reads or the authors' ``.aedat`` files (AEDAT 2.0). Of these, x, y and polarity are decoded as the
    field does, so that images stand upright. The two conversions were not compared: do not mix them.

A test share is never used to choose anything. N-MNIST and DVS128 Gesture bring their own; of CIFAR10-DVS, a tenth of
each class is kept for it. A tenth of each class of what remains validates. (Subjects of validating gestures are seen
in training, too; those of test gestures are not.) Which recordings these are follows from a SHA-256 of their names:
the same on every machine, in any order of files, and nearly the same where some files are missing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from spikefold.errors import FileFormatError, InputError, SpikefoldError
from spikefold.models.data.events import EventData, check_npy

Split = Literal["train", "val", "test"]
FramesBy = Literal["count", "time"]
_Events = NDArray[np.void]
_EVENT = np.dtype([("x", np.int64), ("y", np.int64), ("t", np.int64), ("p", np.int64)])
_SHARE = 10
"""One recording in so many is held out."""
_NMNIST_EVENT_BYTES = 5
_OVERFLOW_Y = 240
_MAX_OVERFLOWS = 1000
"""Eight seconds; N-MNIST has three tenths of one."""
_AEDAT2_EVENT_BYTES = 8


@dataclass(frozen=True)
class _DataSet:
    """What tonic calls a data set, and what the user is told about it."""

    reader: str
    pixels: int
    classes: int
    has_test: bool
    files: str
    source: str


_DATA_SETS: Mapping[str, _DataSet] = {
    "nmnist": _DataSet(
        "NMNIST", 34, 10, True,
        "Train/0/*.bin to Train/9/*.bin and the same under Test/",
        "Train.zip and Test.zip of https://www.garrickorchard.com/datasets/n-mnist",
    ),
    "dvs128-gesture": _DataSet(
        "DVSGesture", 128, 11, True,
        "ibmGestureTrain/user01_fluorescent/0.npy and so on, and the same under ibmGestureTest/",
        "the data set of https://research.ibm.com/interactive/dvsgesture/, cut into gestures: ibmGestureTrain.tar.gz "
        "and ibmGestureTest.tar.gz, named in tonic's documentation, https://tonic.readthedocs.io, under DVSGesture",
    ),
    "cifar10-dvs": _DataSet(
        "CIFAR10DVS", 128, 10, False,
        "airplane/*.aedat4 (or *.aedat) to truck/*.aedat4",
        "the ten .zip files of https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671",
    ),
}  # fmt: skip
NAMES = tuple(_DATA_SETS)
TIME_STEPS = 10
MAX_TIME_STEPS = 10_000


@dataclass(frozen=True)
class _Recording:
    path: Path
    name: str
    label: int
    read: Callable[[], _Events]


@dataclass(frozen=True)
class Recordings:
    """A data set on disk and how clips are made of it.

    Attributes
    ----------
    name : {"nmnist", "dvs128-gesture", "cifar10-dvs"}
        Which data set.
    root : path
        The folder of its unpacked files, or the folder above tonic's own (``NMNIST``, ``DVSGesture``, ``CIFAR10DVS``).
    size : int, optional
        Height and width in pixels, at most the sensor's, which is what is taken without it. Sensor pixel x becomes
        ``x * size // sensor`` (`tonic.transforms.Downsample`), and the events of pixels that merge are summed, so at
        half the size a pixel holds the sum of four, four times what image resizing gives. Where ``size`` does not
        divide the sensor's (128 to 48), pixels merge unequally many.
    time_steps : int
        T, frames a clip.
    frames_by : {"count", "time"}
        Cut a recording into T frames of equally many events, or of equal duration (`tonic.transforms.ToFrame` with
        ``n_event_bins`` or ``n_time_bins``). Frames hold ``events // T`` events or last ``duration // T``; the few
        events after the last are left out.
    binary : bool
        1 where there was any event, instead of the number of events (255 at most).
    """

    name: str
    root: str | os.PathLike[str]
    size: int | None = None
    time_steps: int = TIME_STEPS
    frames_by: FramesBy = "count"
    binary: bool = False

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise InputError(f"name = {self.name!r}: must be one of {', '.join(NAMES)}")
        sensor = self._set.pixels
        if self.size is not None and not 1 <= self.size <= sensor:
            raise InputError(f"size = {self.size}: {self.name} has {sensor} x {sensor} pixels; give 1 to {sensor}")
        if not 1 <= self.time_steps <= MAX_TIME_STEPS:
            raise InputError(f"time_steps = {self.time_steps}: must be at least 1 and at most {MAX_TIME_STEPS}")
        if self.frames_by not in get_args(FramesBy):
            raise InputError(f"frames_by = {self.frames_by!r}: must be one of {', '.join(get_args(FramesBy))}")

    @property
    def _set(self) -> _DataSet:
        return _DATA_SETS[self.name]

    def load(self, split: Split, limit: int | None = None) -> EventData:
        """Read the clips of one split; classes take turns, so that any first ``limit`` clips are mixed.

        Clips are held in memory: T * 2 * size * size bytes each, 23 kB of N-MNIST, 328 kB of the others at T = 10.
        ``numpy.savez(path, frames=data.frames, labels=data.labels)`` keeps them for `load_npz`, which is faster.

        Returns
        -------
        EventData
            Frames uint8 ``[N, T, 2, size, size]`` (channel 0: ON, 1: OFF, as in ``saccade-mnist``; tonic and most
            authors have OFF first), labels int64 ``[N]``.

        Raises
        ------
        InputError
            Files are missing, lie elsewhere than expected, or hold fewer events than frames are asked for.
        FileFormatError
            A file is damaged.
        SpikefoldError
            tonic, or the aedat package that it reads ``.aedat4`` files with, is not installed.
        """
        if split not in get_args(Split):
            raise InputError(f"split = {split!r}: must be one of {', '.join(get_args(Split))}")
        if limit is not None and limit < 1:
            raise InputError(f"limit = {limit}: must be at least 1")
        chosen = self._choose(split)[:limit]
        size = self.size or self._set.pixels
        frames = np.empty((len(chosen), self.time_steps, 2, size, size), dtype=np.uint8)
        for clip, recording in zip(frames, chosen, strict=True):
            clip[:] = self._frames(recording, size)
        return EventData(frames, np.array([recording.label for recording in chosen], dtype=np.int64))

    def _choose(self, split: Split) -> list[_Recording]:
        """Return the recordings of one split, classes in turn."""
        test_files = self._set.has_test and split == "test"
        members: dict[int, list[_Recording]] = defaultdict(list)
        for recording in sorted(self._recordings(train=not test_files), key=self._rank):
            members[recording.label].append(recording)
        turns = []
        for label in range(self._set.classes):
            part = members[label]
            if not test_files:
                part = _part(part, split, self._set.has_test)
            if not part:
                raise InputError(
                    f"{self.name}: no {split} recordings of class {label} under {self.root}; the copy is incomplete, "
                    f"expected {self._set.files}"
                )
            turns += list(enumerate(part))
        return [recording for _, recording in sorted(turns, key=lambda turn: turn[0])]

    def _rank(self, recording: _Recording) -> bytes:
        return hashlib.sha256(f"{self.name}/{recording.name}".encode()).digest()

    def _recordings(self, train: bool) -> list[_Recording]:
        """List what there is, in tonic's folder below the root or in the root itself."""
        root = Path(self.root).expanduser()
        options = {"train": train} if self._set.has_test else {}
        for folder in (root / self._set.reader, root):
            try:
                found = _open(self._set.reader, folder, options)
            except (ValueError, IndexError, KeyError) as error:
                raise InputError(
                    f"{self.name}: {folder} holds files that belong to no class or subject ({error}); "
                    f"expected {self._set.files}"
                ) from error
            if not found and self.name == "cifar10-dvs":
                found = _original_cifar10_dvs(folder)
            if found:
                return found
        raise InputError(
            f"{self.name}: no {'training' if train else 'test'} recordings under {root}; expected {self._set.files}. "
            f"Nothing is downloaded: unpack {self._set.source}"
        )

    def _frames(self, recording: _Recording, size: int) -> NDArray[np.uint8]:
        """Return one clip, uint8 ``[T, 2, size, size]``."""
        transforms = _tonic().transforms
        events = self._events(recording)
        count, sensor = len(events), (self._set.pixels, self._set.pixels, 2)
        if size != self._set.pixels:
            events = transforms.Downsample(sensor_size=sensor, target_size=(size, size))(events)
        bins = "n_event_bins" if self.frames_by == "count" else "n_time_bins"
        signed = transforms.ToFrame(sensor_size=(size, size, 2), **{bins: self.time_steps})(events)
        counts = signed.view(np.uint16)  # tonic counts in int16, which a hot pixel can overrun
        if not counts.any():
            raise InputError(
                f"{recording.path}: {count} events in {np.ptp(events['t'])} us make no {self.time_steps} frames; "
                "lower time_steps"
            )
        clipped = (counts > 0) if self.binary else np.minimum(counts, 255)
        return np.flip(clipped, axis=1).astype(np.uint8)  # tonic has the polarity as channel: OFF 0, ON 1

    def _events(self, recording: _Recording) -> _Events:
        """Return the events of a recording in order of time, after checking them."""
        path = recording.path
        try:
            if self.name == "nmnist":
                _check_overflows(path)
            if path.suffix == ".npy":
                with path.open("rb") as file:
                    check_npy(file, path.stat().st_size, str(path))
            raw = recording.read()
            events = np.empty(len(raw), dtype=_EVENT)
            for field in ("x", "y", "t", "p"):
                events[field] = raw[field]
        except (FileFormatError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # whatever a reader trips over; the decoder of .aedat4 ends in a PanicException
            said = str(error)[:500]
            raise FileFormatError(f"{path}: damaged, tonic cannot read it ({said}); unpack it again") from error
        if self.name == "nmnist":
            _check_whole(path, path.stat().st_size, _NMNIST_EVENT_BYTES)
        if not len(events):
            raise FileFormatError(f"{path}: holds no events; unpack it again")
        for axis in ("x", "y"):
            low, high = int(events[axis].min()), int(events[axis].max())
            if low < 0 or high >= self._set.pixels:
                raise FileFormatError(
                    f"{path}: damaged, {axis} from {low} to {high} on a sensor of {self._set.pixels} pixels; "
                    "unpack it again"
                )
        return events[np.argsort(events["t"], kind="stable")]


def parse(data: str) -> Recordings | None:
    """Read ``name:FOLDER`` or ``name,option,...:FOLDER``; return None where ``data`` names none of `NAMES`.

    Options are ``size=N``, ``time_steps=N``, ``frames_by=count`` or ``frames_by=time``, and ``binary``; see
    `Recordings`. ``cifar10-dvs,size=64,time_steps=16:~/cifar10-dvs`` is an example.

    Raises
    ------
    InputError
        There is no folder, or an option is unknown or out of range.
    """
    head, _, root = data.partition(":")
    name, *options = head.split(",")
    if name not in NAMES:
        return None
    if not root:
        raise InputError(f"data {data!r}: say where the files are, as in {name}:FOLDER")
    values: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key in ("size", "time_steps") and re.fullmatch("[0-9]{1,9}", value):
            values[key] = int(value)
        elif key == "frames_by":
            values[key] = value
        elif option == "binary":
            values[key] = True
        else:
            raise InputError(
                f"data {data!r}: option {option!r}; give size=N, time_steps=N, frames_by=count or time, or binary"
            )
    return Recordings(name, root, **values)


def _part(members: list[_Recording], split: Split, has_test: bool) -> list[_Recording]:
    """Return one split's share of a class that is not split by its authors."""
    test = 0 if has_test else -(-len(members) // _SHARE)
    val = test + -(-(len(members) - test) // _SHARE)
    return {"test": members[:test], "val": members[test:val], "train": members[val:]}[split]


def _tonic() -> Any:
    try:
        import tonic  # takes seconds
    except ImportError as error:
        raise SpikefoldError(f"tonic cannot be imported ({error}); pip install 'spikefold[events]'") from error
    return tonic


def _open(reader: str, folder: Path, options: Mapping[str, bool]) -> list[_Recording]:
    """List what one of tonic's data sets finds in ``folder``, without its own look for archives, or its download."""
    original = getattr(_tonic().datasets, reader)

    def use_folder(self: Any) -> bool:
        self.location_on_system = str(folder)
        return True

    def download(self: Any) -> None:
        raise SpikefoldError(f"this version of tonic would download {reader}; pip install tonic==1.7.0")

    local = type(reader, (original,), {"_check_exists": use_folder, "download": download})
    data_set = local(str(folder), **options)
    if any(path.endswith(".aedat4") for path in data_set.data) and importlib.util.find_spec("aedat") is None:
        raise SpikefoldError(f"{folder}: tonic reads .aedat4 files with aedat; pip install 'spikefold[events]'")
    listed = zip(map(Path, data_set.data), data_set.targets, strict=True)
    return [
        _Recording(path, _name(path, folder), label, partial(_read, data_set, index))
        for index, (path, label) in enumerate(listed)
    ]


def _read(data_set: Any, index: int) -> _Events:
    events: _Events = data_set[index][0]
    return events


def _original_cifar10_dvs(folder: Path) -> list[_Recording]:
    """List the authors' ``.aedat`` files, which tonic's data set passes over."""
    labels: Mapping[str, int] = _tonic().datasets.CIFAR10DVS.classes
    return [
        _Recording(path, _name(path, folder), label, partial(_read_aedat2, path))
        for name, label in labels.items()
        for path in (folder / name).glob("*.aedat")
    ]


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _read_aedat2(path: Path) -> _Events:
    """Decode a recording of the authors': bit 0 of an address is set for OFF, and the camera's axes are swapped."""
    io = _tonic().io
    version, start, _ = io.read_aedat_header_from_file(str(path))
    if not 2.0 <= version < 3.0:
        raise FileFormatError(f"{path}: is AEDAT {version}; expected AEDAT 2.0, as the authors publish it")
    _check_whole(path, path.stat().st_size - start, _AEDAT2_EVENT_BYTES)
    raw = io.get_aer_events_from_file(str(path), version, start)
    address = raw["address"].astype(np.int64)
    events = np.empty(len(raw), dtype=_EVENT)
    events["x"] = 127 - (address >> 8 & 127)
    events["y"] = 127 - (address >> 1 & 127)
    events["t"] = raw["timeStamp"]
    events["p"] = 1 - (address & 1)
    return events


def _check_overflows(path: Path) -> None:
    """Refuse an N-MNIST file with more marks of a full clock than a recording can have: tonic takes long over each."""
    found = int(np.count_nonzero(np.fromfile(path, dtype=np.uint8)[1::_NMNIST_EVENT_BYTES] == _OVERFLOW_Y))
    if found > _MAX_OVERFLOWS:
        raise FileFormatError(
            f"{path}: damaged, {found} events say y = {_OVERFLOW_Y}, that the clock was full; a recording has at most "
            f"{_MAX_OVERFLOWS}; unpack it again"
        )


def _check_whole(path: Path, size: int, event: int) -> None:
    if size % event:
        raise FileFormatError(f"{path}: damaged, its events are {size} bytes, no multiple of {event}; unpack it again")
