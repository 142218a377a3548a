"""Small copies of public event data sets, written byte by byte in the formats that they are published in."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flatbuffers
import numpy as np

CIFAR_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
T = 3
COUNT = 50
"""Events a recording; T does not divide it, so that some are left out."""


class Events(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray


def random_events(random, pixels, tick):
    """Make events at whole ticks of microseconds that come faster at first than at the end."""
    t = np.sort(300_000 - (np.sqrt(random.choice(300**2, COUNT, replace=False)) * 1000).astype(int)) // tick * tick
    return Events(random.integers(0, pixels, COUNT), random.integers(0, pixels, COUNT), t, random.integers(0, 2, COUNT))


def write_nmnist(path, events):
    """Byte x, byte y, then one bit of polarity and 23 bits of microseconds, highest first."""
    path.write_bytes(
        b"".join(bytes([x, y]) + (int(p) << 23 | int(t)).to_bytes(3, "big") for x, y, t, p in zip(*events, strict=True))
    )


def write_gesture(path, events):
    np.save(path, np.stack([events.x, events.y, events.p, events.t // 1000], axis=1))


def write_aedat2(path, events):
    """Big-endian address and microseconds; column and row come from the address's y and x, counted backwards."""
    header = b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n# Timestamps tick is 1 us\r\n"
    body = [
        struct.pack(">II", (127 - x) << 8 | (127 - y) << 1 | (1 - p), t) for x, y, t, p in zip(*events, strict=True)
    ]
    path.write_bytes(header + b"".join(body))


def write_aedat4(path, events):
    """Header and packets as FlatBuffers; the events in two packets, uncompressed."""
    info = (
        '<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/"><node name="0" path="/0/">'
        '<attr key="typeIdentifier" type="string">EVTS</attr><node name="info" path="/0/info/">'
        '<attr key="sizeX" type="int">128</attr><attr key="sizeY" type="int">128</attr></node></node></node></dv>'
    )
    header = flatbuffers.Builder()
    text = header.CreateString(info)
    header.StartObject(3)
    header.PrependInt64Slot(1, -1, 0)
    header.PrependUOffsetTRelativeSlot(2, text, 0)
    header.FinishSizePrefixed(header.EndObject(), b"IOHE")
    half = len(events.x) // 2
    packets = [_packet(*(field[part] for field in events)) for part in (slice(half), slice(half, None))]
    path.write_bytes(
        b"#!AER-DAT4.0\r\n" + bytes(header.Output()) + b"".join(struct.pack("<ii", 0, len(p)) + p for p in packets)
    )


def _packet(*fields):
    builder = flatbuffers.Builder()
    builder.StartVector(16, len(fields[0]), 8)
    for x, y, t, p in reversed(list(zip(*(field.tolist() for field in fields), strict=True))):
        builder.Prep(8, 16)
        builder.Pad(3)
        builder.PrependBool(bool(p))
        builder.PrependInt16(y)
        builder.PrependInt16(x)
        builder.PrependInt64(t)
    elements = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, elements, 0)
    builder.FinishSizePrefixed(builder.EndObject(), b"EVTS")
    return bytes(builder.Output())


class Copy(NamedTuple):
    """A small copy of a data set: where each recording lies, below the root, and what it holds."""

    name: str
    pixels: int
    tick: int
    write: Callable[[Path, Events], None]
    files: list[tuple[str, int, bool]]
    """Path, label, whether the authors keep it for the test."""


COPIES = {
    "nmnist": Copy(
        "nmnist", 34, 1, write_nmnist,
        [(f"Train/{c}/{i:05}.bin", c, False) for c in range(10) for i in range(3)]
        + [(f"Test/{c}/{i:05}.bin", c, True) for c in range(10) for i in range(2)],
    ),
    "dvs128-gesture": Copy(
        "dvs128-gesture", 128, 1000, write_gesture,
        [(f"ibmGestureTrain/user{u:02}_fluorescent_led/{c}.npy", c, False) for u in (1, 2, 3) for c in range(11)]
        + [(f"ibmGestureTest/user{u}_lab/{c}.npy", c, True) for u in (24, 25) for c in range(11)],
    ),
    "cifar10-dvs aedat4": Copy(
        "cifar10-dvs", 128, 1, write_aedat4,
        [(f"{n}/cifar10_{n}_{i}.aedat4", c, False) for c, n in enumerate(CIFAR_CLASSES) for i in range(4)],
    ),
    "cifar10-dvs aedat": Copy(
        "cifar10-dvs", 128, 1, write_aedat2,
        [(f"{n}/cifar10_{n}_{i}.aedat", c, False) for c, n in enumerate(CIFAR_CLASSES) for i in range(4)],
    ),
}  # fmt: skip


def write_copy(copy, root):
    """Write the files; return the events of each."""
    random = np.random.default_rng(7)
    written = {}
    for file, _, _ in copy.files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        written[file] = random_events(random, copy.pixels, copy.tick)
        copy.write(path, written[file])
    return written


def frames_of(events, pixels, size=None, frames_by="count", binary=False, time_steps=T):
    """The frames that `Recordings` describes, event by event."""
    size = size or pixels
    frames = np.zeros((time_steps, 2, size, size), int)
    share = len(events.x) // time_steps
    window = (events.t[-1] - events.t[0]) // time_steps
    for i, (x, y, t, p) in enumerate(zip(*events, strict=True)):
        step = i // share if frames_by == "count" else (t - events.t[0]) // window
        if step < time_steps:
            frames[step, 0 if p else 1, y * size // pixels, x * size // pixels] += 1
    return np.minimum(frames, 1 if binary else 255)


def files_of(data, written, pixels):
    """Tell which file each clip came from."""
    known = {frames_of(events, pixels).astype(np.uint8).tobytes(): file for file, events in written.items()}
    assert len(known) == len(written)
    return [known[clip.tobytes()] for clip in data.frames]
