"""Event files that somebody broke or built: archives that unpack without end, recordings of anything."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from event_files import COPIES, write_aedat2, write_copy
from hostile import CANARY, refused
from spikefold.deploy.sources import find_data, random_events
from spikefold.models import load_npz

FRAMES = np.zeros((2, 3, 2, 4, 4), np.uint8)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def claimed(shape: str, descr: str = "'|u1'", data: bytes = b"", order: str = "False") -> bytes:
    """An array that says of itself what it likes."""
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def npz(method: int = zipfile.ZIP_STORED, **members: bytes | np.ndarray) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content if isinstance(content, bytes) else npy(content))
    return file.getvalue()


def zeros_packed(size: int) -> bytes:
    """An array of so many zeros, without holding them at once."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("frames.npy", "w") as member,
    ):
        member.write(claimed(f"(1, 1, 1, {size >> 20}, {1 << 20})"))
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    return file.getvalue()


def twice(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.npy", npy(FRAMES))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(f"{name}.npy", npy(FRAMES + 1))
    return file.getvalue()


def named(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def damaged(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def objects(folder: Path) -> bytes:
    file = io.BytesIO()
    array = np.empty(1, object)
    array[0] = Touch(folder / CANARY)
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


GOOD = npz(frames=FRAMES, labels=np.array([0, 1]))


def start_of(share: float) -> Callable[[Path], bytes]:
    return lambda folder: GOOD[: int(len(GOOD) * share)]


REFUSED: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "pickled frames": (lambda f: npz(frames=objects(f)), "cannot be read as .npz"),
    "pickled labels": (lambda f: npz(frames=FRAMES, labels=objects(f)), "cannot be read as .npz"),
    "a pickle": (lambda f: pickle.dumps(Touch(f / CANARY)), "cannot be read as .npz"),
    "a single array": (lambda f: npy(FRAMES), "cannot be read as .npz"),
    "a bomb": (lambda f: zeros_packed(160 << 20), "frames.npy is 1677"),
    "a terabyte that is not there": (
        lambda f: npz(frames=claimed("(1, 1, 1, 1000000, 1000000)")),
        "declares uint8 of shape",
    ),
    "a shape that overflows": (
        lambda f: npz(frames=claimed("(9223372036854775807, 2, 1, 1, 9)")),
        "declares uint8 of shape",
    ),
    "a shape below 0": (lambda f: npz(frames=claimed("(-1, 1, 1, 1, 1)", data=bytes(9))), "net.npz"),
    "a shape in text": (lambda f: npz(frames=claimed("'x'")), "cannot be read as .npz"),
    "a shape of code": (lambda f: npz(frames=claimed("__import__('os')")), "cannot be read as .npz"),
    "a header of code": (lambda f: npz(frames=b"\x93NUMPY\x01\x00\x05\x00exec("), "cannot be read as .npz"),
    "a header without end": (lambda f: npz(frames=b"\x93NUMPY\x02\x00\xff\xff\xff\xff{"), "cannot be read as .npz"),
    "a header of a newer numpy": (lambda f: npz(frames=b"\x93NUMPY\x09\x00\x05\x00{}   "), "cannot be read as .npz"),
    "fewer values than declared": (lambda f: npz(frames=npy(FRAMES)[:-5]), "declares uint8 of shape"),
    "more values than declared": (lambda f: npz(frames=npy(FRAMES) + b"x"), "declares uint8 of shape"),
    "frames twice": (lambda f: twice("frames"), "frames.npy is there twice"),
    "no array": (lambda f: named("frames.npy", b"hello"), "cannot be read as .npz"),
    "frames without numpy": (lambda f: named("frames", b"hello"), "frames is no array"),
    "a path out of the archive": (lambda f: named("../frames.npy", npy(FRAMES)), "no array 'frames'"),
    "nothing in it": (lambda f: npz(), "no array 'frames'"),
    "no frames": (lambda f: npz(labels=np.array([0])), "no array 'frames'"),
    "a damaged sum": (lambda f: damaged(GOOD, 200), "cannot be read as .npz"),
    "a damaged packed array": (
        lambda f: damaged(
            npz(zipfile.ZIP_DEFLATED, frames=np.random.default_rng(0).integers(0, 99, (2, 3, 2, 4, 4))), 300
        ),
        "cannot be read as .npz",
    ),
    **{f"cut at {share}": (start_of(share), "cannot be read as .npz") for share in (0, 0.1, 0.5, 0.9, 0.99)},
    "text": (lambda f: b"hello", "cannot be read as .npz"),
    "flat frames": (lambda f: npz(frames=np.zeros(5)), "frames: shape (5,)"),
    "frames of six axes": (lambda f: npz(frames=np.zeros((1,) * 6)), "frames: shape (1, 1, 1, 1, 1, 1)"),
    "no clips": (lambda f: npz(frames=FRAMES[:0]), "axis N is empty"),
    "no pixels": (lambda f: npz(frames=FRAMES[..., :0]), "axis W is empty"),
    "NaN": (lambda f: npz(frames=FRAMES + np.nan), "96 values are NaN or infinite".replace("96", str(FRAMES.size))),
    "infinite": (lambda f: npz(frames=FRAMES - np.inf), "values are NaN or infinite"),
    "past single precision": (lambda f: npz(frames=FRAMES + 1e300), "values up to 1e+300 do not fit float32"),
    "below 0": (lambda f: npz(frames=FRAMES.astype(int) - 1), "values from -1 to -1"),
    "past 255": (lambda f: npz(frames=FRAMES.astype("u8") + np.uint64(2**63)), "values from 9223372036854775808"),
    "complex": (lambda f: npz(frames=FRAMES.astype(complex)), "dtype complex128"),
    "text for frames": (lambda f: npz(frames=FRAMES.astype("S1")), "dtype |S1"),
    "dates": (lambda f: npz(frames=FRAMES.astype("M8[s]")), "dtype datetime64[s]"),
    "structures": (lambda f: npz(frames=np.zeros((1,) * 5, [("a", "i8")])), "frames: dtype"),
    "too many labels": (lambda f: npz(frames=FRAMES, labels=np.arange(3)), "labels: shape (3,)"),
    "labels of two axes": (lambda f: npz(frames=FRAMES, labels=np.zeros((2, 2), int)), "labels: shape (2, 2)"),
    "labels below 0": (lambda f: npz(frames=FRAMES, labels=np.array([0, -1])), "labels: value -1"),
    "labels of halves": (lambda f: npz(frames=FRAMES, labels=np.array([0, 0.5])), "labels: dtype float64"),
    "labels past int64": (
        lambda f: npz(frames=FRAMES, labels=np.array([0, 2**64 - 1], "u8")),
        "labels: value 18446744073709551615",
    ),
    "labels without end": (lambda f: npz(frames=FRAMES, labels=np.array([0, 2**40])), "labels: value 1099511627776"),
    "labels in text": (lambda f: npz(frames=FRAMES, labels=np.array(["a", "b"])), "labels: dtype <U1"),
    "labels of a terabyte": (lambda f: npz(frames=FRAMES, labels=claimed("(1000000000000,)")), "labels.npy declares"),
}


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_archive_is_refused(name: str, tmp_path: Path) -> None:
    make, said = REFUSED[name]
    path = tmp_path / "net.npz"
    path.write_bytes(make(tmp_path))
    refused(tmp_path, lambda: load_npz(path), "net.npz", said)


def test_the_archive_that_was_broken_was_good(tmp_path: Path) -> None:
    (tmp_path / "net.npz").write_bytes(GOOD)
    assert len(load_npz(tmp_path / "net.npz")) == 2


NMNIST, AEDAT2, AEDAT4, GESTURE = "nmnist", "cifar10-dvs aedat", "cifar10-dvs aedat4", "dvs128-gesture"
BROKEN: dict[str, tuple[str, Callable[[bytes, Path], bytes], str]] = {
    "half an event": (NMNIST, lambda b, f: b[:-2], "00.bin: damaged"),
    "no events": (NMNIST, lambda b, f: b"", "holds no events"),
    "pixels past the sensor": (NMNIST, lambda b, f: b"\x63" + b[1:], "on a sensor of 34 pixels"),
    "nothing but full clocks": (NMNIST, lambda b, f: b"\xf0" * 500_000, "100000 events say y = 240"),
    "another format": (NMNIST, lambda b, f: b"\x89HDF\r\n\x1a\n", "no multiple of 5"),
    "one event": (NMNIST, lambda b, f: b[:5], "events"),
    "a cut event": (AEDAT2, lambda b, f: b[:-3], "no multiple of 8"),
    "a newer version": (AEDAT2, lambda b, f: b.replace(b"DAT2.0", b"DAT3.1"), "is AEDAT 3.1"),
    "a version in words": (AEDAT2, lambda b, f: b.replace(b"DAT2.0", b"DAT2.x"), "aedat"),
    "no header": (AEDAT2, lambda b, f: b"", "aedat"),
    "a header without end": (AEDAT2, lambda b, f: b"#" * 100_000, "aedat"),
    "noise": (AEDAT2, lambda b, f: np.random.default_rng(0).bytes(999), "aedat"),
    "an empty file": (AEDAT4, lambda b, f: b"", "damaged, tonic cannot read it"),
    "a cut header": (AEDAT4, lambda b, f: b[:40], "damaged, tonic cannot read it"),
    "a cut packet": (AEDAT4, lambda b, f: b[:-50], "damaged, tonic cannot read it"),
    "a packet of 2 GB": (AEDAT4, lambda b, f: b[:-9] + b"\xff" * 9, "aedat4"),
    "a header of 4 GB": (AEDAT4, lambda b, f: b[:14] + b"\xff\xff\xff\x7f" + b[18:], "damaged, tonic cannot read it"),
    "broken XML": (AEDAT4, lambda b, f: b.replace(b"</dv>", b"<<<<<"), "damaged, tonic cannot read it"),
    "no stream of events": (AEDAT4, lambda b, f: b.replace(b"EVTS", b"NONE"), "damaged, tonic cannot read it"),
    "pickled gestures": (GESTURE, lambda b, f: objects(f), "damaged, tonic cannot read it"),
    "cut gestures": (GESTURE, lambda b, f: b[:-9], "declares int64 of shape"),
    "gestures of a terabyte": (
        GESTURE,
        lambda b, f: claimed("(1000000000000, 4)", "'<i8'"),
        "declares int64 of shape (1000000000000, 4)",
    ),
    "gestures of three columns": (GESTURE, lambda b, f: npy(np.zeros((9, 3), int)), "damaged, tonic cannot read it"),
    "gestures of one axis": (GESTURE, lambda b, f: npy(np.zeros(9, int)), "damaged, tonic cannot read it"),
    "no gestures": (GESTURE, lambda b, f: npy(np.zeros((0, 4), int)), "0.npy"),
    "gestures in text": (GESTURE, lambda b, f: npy(np.full((9, 4), "x")), "damaged, tonic cannot read it"),
    "gestures NaN": (GESTURE, lambda b, f: npy(np.full((9, 4), np.nan)), "0.npy"),
    "gestures below 0": (GESTURE, lambda b, f: npy(np.full((9, 4), -5)), "on a sensor of 128 pixels"),
}


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("tonic")
    if find_spec("aedat") is None:
        pytest.skip("aedat is not installed")
    roots = {name: tmp_path_factory.mktemp("recordings") for name in COPIES}
    for name, root in roots.items():
        write_copy(COPIES[name], root)
    return roots


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", BROKEN)
def test_a_hostile_recording_is_refused(name: str, copies: dict[str, Path], tmp_path: Path) -> None:
    of, change, said = BROKEN[name]
    copy, root = COPIES[of], copies[of]
    kept = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    try:
        for held, content in kept.items():
            held.write_bytes(change(content, root))
        refused(root, lambda: find_data(f"{copy.name}:{root}", "test", 1), said)
    finally:
        for held, content in kept.items():
            held.write_bytes(content)


@pytest.mark.parametrize("data", [
    "", ":", "nmnist", "nmnist:", "nmnist,size=0:x", "nmnist,size=99999:x", "nmnist,size=-1:x", "nmnist,size=1e3:x",
    "nmnist,size=²:x", "nmnist,size=" + "9" * 9000 + ":x", "nmnist,time_steps=0:x", "nmnist,time_steps=999999999:x",
    "nmnist,time_steps=" + "9" * 9000 + ":x", "nmnist,frames_by=magic:x", "nmnist,frames_by=:x", "nmnist,,:x",
    "nmnist,evil=1:x", "nmnist,binary=1:x", "http://a/b.npz", "data.npy", "data.pkl", "x.npz", "/dev/zero", "a\0b.npz",
    "x" * 5000 + ".npz", "nmnist:/nowhere", "cifar10-dvs:/nowhere", "dvs128-gesture:/nowhere",
])  # fmt: skip
def test_a_name_that_is_no_data_is_refused(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, lambda: find_data(data, "test", 4))


@pytest.mark.parametrize("sample", ["", "x", "0x3", "-1", "2x", "2xx3", "1e3", "9" * 5000, "x".join(["2"] * 40),
                                    "99999x99999", "999999999", "²", "2X3", "2x3\n"])  # fmt: skip
def test_a_shape_that_is_none_is_refused(sample: str, tmp_path: Path) -> None:
    refused(tmp_path, lambda: random_events(sample, 128, 10), "--sample")


def test_the_writer_of_the_broken_files_writes_good_ones(copies: dict[str, Path]) -> None:
    assert write_aedat2 is COPIES[AEDAT2].write
    for name, root in copies.items():
        assert len(find_data(f"{COPIES[name].name}:{root}", "test", 1, 3)) == 1
