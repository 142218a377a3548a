import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from event_files import COPIES, COUNT, Events, T, files_of, frames_of, random_events, write_copy
from spikefold.errors import FileFormatError, InputError, SpikefoldError
from spikefold.models.data import tonic_events
from spikefold.models.data.tonic_events import Recordings

PARTS = ("train", "val", "test")


class DownloadTriedError(Exception):
    pass


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    def refuse(*arguments, **options):
        raise DownloadTriedError

    for place in (
        "tonic.dataset.download_and_extract_archive",
        "tonic.download_utils.download_url",
        "urllib.request.urlopen",
    ):
        monkeypatch.setattr(place, refuse)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Each copy on disk, with the events that were written: never changed by a test."""
    made = {}
    for key, copy in COPIES.items():
        root = tmp_path_factory.mktemp("copy")
        made[key] = root, write_copy(copy, root)
    return made


@pytest.fixture
def one_of_each(tmp_path):
    """A Gesture copy of one user whose recordings a test writes itself, all alike."""

    def write(events):
        for c in range(11):
            path = tmp_path / f"ibmGestureTest/user24_lab/{c}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.stack([events.x, events.y, events.p, events.t], axis=1))
        return tmp_path

    return write


@pytest.mark.parametrize("key", COPIES)
def test_each_clip_is_what_its_file_holds_and_each_file_is_in_one_split(key, roots):
    copy, (root, written) = COPIES[key], roots[key]
    labels = {file: label for file, label, _ in copy.files}
    official = {file for file, _, is_test in copy.files if is_test}
    split_of = {}
    for split in PARTS:
        data = Recordings(copy.name, root, time_steps=T).load(split)
        assert data.frames.dtype == np.uint8
        assert data.frames.shape[1:] == (T, 2, copy.pixels, copy.pixels)
        files = files_of(data, written, copy.pixels)
        assert data.labels.tolist() == [labels[file] for file in files]
        assert not set(files) & set(split_of)
        split_of |= dict.fromkeys(files, split)
    assert set(split_of) == set(written)
    if official:
        assert {file for file, split in split_of.items() if split == "test"} == official
    for label in set(labels.values()):
        held = [split for file, split in split_of.items() if labels[file] == label and file not in official]
        assert held.count("val") == 1
        assert held.count("test") == (0 if official else 1)


@pytest.mark.parametrize("key", COPIES)
def test_frames_of_equal_duration_follow_the_times_in_the_files(key, roots):
    copy, (root, written) = COPIES[key], roots[key]
    by_time, by_count = (
        Recordings(copy.name, root, time_steps=T, frames_by=way).load("val") for way in ("time", "count")
    )
    files = files_of(by_count, written, copy.pixels)
    for clip, file in zip(by_time.frames, files, strict=True):
        assert np.array_equal(clip, frames_of(written[file], copy.pixels, frames_by="time"))
    assert not np.array_equal(by_time.frames, by_count.frames)


@pytest.mark.parametrize(("key", "size"), [("nmnist", 32), ("nmnist", 17), ("dvs128-gesture", 64), ("nmnist", 1),
                                           ("dvs128-gesture", 48), ("cifar10-dvs aedat4", 48)])  # fmt: skip
@pytest.mark.parametrize("binary", [False, True])
def test_smaller_frames_sum_the_events_of_merged_pixels(key, size, binary, roots):
    copy, (root, written) = COPIES[key], roots[key]
    files = files_of(Recordings(copy.name, root, time_steps=T).load("val", 5), written, copy.pixels)
    data = Recordings(copy.name, root, size, T, binary=binary).load("val", 5)
    for clip, file in zip(data.frames, files, strict=True):
        assert np.array_equal(clip, frames_of(written[file], copy.pixels, size, binary=binary))


@pytest.mark.parametrize(
    ("key", "file", "raw", "row", "column"),
    [
        ("nmnist", "Test/0/1.bin", bytes([5, 7, 0x80, 0, 9, 5, 7, 0x80, 0, 9, 30, 33, 0, 0, 10]), 7, 5),
        ("cifar10-dvs aedat", "airplane/1.aedat", b"#!AER-DAT2.0\r\n" + struct.pack(
            ">6I", 5 << 8 | 7 << 1, 9, 5 << 8 | 7 << 1, 9, 97 << 8 | 94 << 1 | 1, 10), 120, 122),
    ],
)  # fmt: skip
def test_bytes_written_by_hand_come_out_in_their_place(key, file, raw, row, column, tmp_path):
    """Two ON events at (row, column), one OFF event at (33, 30)."""
    copy = COPIES[key]
    write_copy(copy, tmp_path)
    shutil.rmtree((tmp_path / file).parent)
    (tmp_path / file).parent.mkdir()
    for name in ("1", "2", "3"):
        (tmp_path / file).with_stem(name).write_bytes(raw)
    clip = Recordings(copy.name, tmp_path, time_steps=1).load("test", 1).frames[0, 0]
    assert {(*where,): clip[(*where,)] for where in np.argwhere(clip).tolist()} == {
        (0, row, column): 2,
        (1, 33, 30): 1,
    }


def test_counts_stop_at_255_also_where_tonic_overruns(one_of_each):
    """Pixels with 255, 256 and 40,000 events; the last is beyond 16 bits with a sign."""
    x = np.repeat([1, 2, 3], [255, 256, 40_000])
    root = one_of_each(Events(x, x, np.arange(len(x)), np.ones_like(x)))
    clip = Recordings("dvs128-gesture", root, time_steps=1).load("test", 1).frames[0, 0]
    assert [clip[0, i, i] for i in (1, 2, 3)] == [255, 255, 255]
    assert clip.sum() == 3 * 255


def test_events_out_of_order_are_sorted_by_time(one_of_each):
    events = random_events(np.random.default_rng(3), 128, 1000)
    events = events._replace(t=np.arange(COUNT))
    order = np.random.default_rng(4).permutation(COUNT)
    root = one_of_each(Events(*(field[order] for field in events)))
    for way in ("count", "time"):
        clip = Recordings("dvs128-gesture", root, time_steps=T, frames_by=way).load("test", 1).frames[0]
        in_us = events._replace(t=events.t * 1000)
        assert np.array_equal(clip, frames_of(in_us, 128, frames_by=way))


@pytest.mark.parametrize("split", PARTS)
def test_first_clips_show_all_classes(split, roots):
    data = Recordings("nmnist", roots["nmnist"][0], time_steps=T).load(split, limit=10)
    assert data.labels.tolist() == list(range(10))


@pytest.mark.parametrize("key", COPIES)
def test_splits_depend_on_names_alone(key, roots, tmp_path):
    """Files written in another order, elsewhere and with one of class 0 missing: the other classes stay."""
    copy, (root, written) = COPIES[key], roots[key]
    for file, label, _ in reversed(copy.files):
        if label or "_0." not in file:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / file, tmp_path / file)
    for split in PARTS:
        here, there = (Recordings(copy.name, place, time_steps=T).load(split) for place in (root, tmp_path))
        again = Recordings(copy.name, root, time_steps=T).load(split)
        assert np.array_equal(here.frames, again.frames)
        assert np.array_equal(here.labels, again.labels)
        one, two = (
            [f for f, label in zip(files_of(d, written, copy.pixels), d.labels, strict=True) if label]
            for d in (here, there)
        )
        assert one == two


def test_both_forms_of_cifar10_dvs_are_split_alike(roots):
    for split in PARTS:
        one, two = (
            files_of(Recordings("cifar10-dvs", roots[key][0], time_steps=T).load(split), roots[key][1], 128)
            for key in ("cifar10-dvs aedat", "cifar10-dvs aedat4")
        )
        assert [Path(f).stem for f in one] == [Path(f).stem for f in two]


def test_folder_that_tonic_made_is_found_below_the_root(roots, tmp_path, monkeypatch):
    shutil.copytree(roots["nmnist"][0], tmp_path / "data" / "NMNIST")
    monkeypatch.setenv("HOME", str(tmp_path))
    below = Recordings("nmnist", "~/data", time_steps=T).load("test", 3)
    itself = Recordings("nmnist", tmp_path / "data" / "NMNIST", time_steps=T).load("test", 3)
    assert np.array_equal(below.frames, itself.frames)


@pytest.mark.parametrize(
    ("name", "reader", "message"),
    [
        ("nmnist", "NMNIST", r"Train/0/\*\.bin.*garrickorchard"),
        ("dvs128-gesture", "DVSGesture", r"user01_fluorescent/0\.npy.*research\.ibm\.com"),
        ("cifar10-dvs", "CIFAR10DVS", r"airplane/\*\.aedat4.*figshare\.com"),
    ],
)
def test_missing_files_are_not_downloaded_but_asked_for(name, reader, message, tmp_path):
    import tonic

    with pytest.raises(DownloadTriedError):
        getattr(tonic.datasets, reader)(str(tmp_path))
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=message):
            Recordings(name, root).load("train")
    assert not list(tmp_path.iterdir())


def test_incomplete_copy_for_tonic_is_read_without_its_archives(roots):
    """tonic itself wants the .zip beside 10,000 files, and would download it."""
    import tonic

    root = roots["nmnist"][0]
    with pytest.raises(DownloadTriedError):
        tonic.datasets.NMNIST(str(root))
    assert len(Recordings("nmnist", root, time_steps=T).load("test")) == 20


def test_a_tonic_that_looks_for_files_in_another_way_cannot_download(monkeypatch, roots):
    import tonic

    monkeypatch.setattr(tonic.datasets.NMNIST, "__init__", lambda self, save_to, train: self.download())
    with pytest.raises(SpikefoldError, match=r"would download NMNIST; pip install tonic"):
        Recordings("nmnist", roots["nmnist"][0]).load("test")


@pytest.mark.parametrize(
    ("key", "gone", "split", "message"),
    [
        ("nmnist", "Train/7", "val", "no val recordings of class 7"),
        ("nmnist", "Test", "test", "no test recordings under"),
        ("dvs128-gesture", "ibmGestureTest/user24_lab/10.npy", "test", "no test recordings of class 10"),
        ("cifar10-dvs aedat4", "truck", "train", "no train recordings of class 9"),
    ],
)
def test_missing_class_is_named(key, gone, split, message, roots, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(roots[key][0], root, ignore=shutil.ignore_patterns("user25_lab"))
    shutil.rmtree(root / gone) if (root / gone).is_dir() else (root / gone).unlink()
    with pytest.raises(InputError, match=message):
        Recordings(COPIES[key].name, root, time_steps=T).load(split)


@pytest.mark.parametrize(
    ("name", "stray"),
    [
        ("nmnist", "Train/other/0.bin"),
        ("dvs128-gesture", "ibmGestureTrain/backup/0.npy"),
        ("cifar10-dvs", "other/0.aedat4"),
    ],
)
def test_files_of_no_class_are_refused(name, stray, tmp_path):
    (tmp_path / stray).parent.mkdir(parents=True)
    (tmp_path / stray).touch()
    with pytest.raises(InputError, match=rf"{name}: .*belong to no class or subject"):
        Recordings(name, tmp_path).load("train")


def _cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("key", "damage", "message"),
    [
        ("nmnist", lambda path: _cut(path, 61), "61 bytes, no multiple of 5"),
        ("nmnist", lambda path: _cut(path, 64), "damaged"),
        ("nmnist", lambda path: path.write_bytes(bytes([34, 0, 0, 0, 0] * 9)), "x from 34 to 34 on a sensor of 34"),
        ("nmnist", lambda path: path.write_bytes(b""), "holds no events"),
        ("dvs128-gesture", lambda path: _cut(path, 300), "damaged"),
        ("dvs128-gesture", lambda path: path.write_text("hello"), "damaged"),
        ("dvs128-gesture", lambda path: np.save(path, np.zeros((5, 3))), "damaged"),
        ("dvs128-gesture", lambda path: np.save(path, np.full((9, 4), -1)), "x from -1 to -1"),
        ("dvs128-gesture", lambda path: np.save(path, np.array([{}], object)), "damaged"),
        ("cifar10-dvs aedat4", lambda path: _cut(path, path.stat().st_size - 20), "damaged"),
        ("cifar10-dvs aedat4", lambda path: _cut(path, 200), "damaged"),
        ("cifar10-dvs aedat4", lambda path: path.write_text("hello"), "damaged"),
        ("cifar10-dvs aedat", lambda path: _cut(path, path.stat().st_size - 3), "397 bytes, no multiple of 8"),
        ("cifar10-dvs aedat", lambda path: path.write_bytes(b"#!AER-DAT3.1\r\n" + bytes(28)), r"is AEDAT 3\.1"),
        ("cifar10-dvs aedat", lambda path: path.write_text("hello"), "damaged"),
        ("cifar10-dvs aedat", lambda path: path.write_bytes(b""), "damaged"),
    ],
)
def test_damaged_file_is_named(key, damage, message, roots, tmp_path):
    copy, root = COPIES[key], tmp_path / "copy"
    shutil.copytree(roots[key][0], root)
    data = Recordings(copy.name, root, time_steps=T)
    file = files_of(data.load("test", 1), roots[key][1], copy.pixels)[0]
    damage(root / file)
    with pytest.raises(FileFormatError, match=message) as caught:
        data.load("test", 1)
    assert str(root / file) in str(caught.value)


@pytest.mark.parametrize("frames_by", ["count", "time"])
def test_recording_shorter_than_its_frames_is_refused(frames_by, one_of_each):
    """Four events within three milliseconds."""
    x = np.arange(4)
    root = one_of_each(Events(x, x, x, x % 2))
    Recordings("dvs128-gesture", root, time_steps=4, frames_by=frames_by).load("test")
    with pytest.raises(InputError, match=r"4 events in 3000 us make no 3001 frames; lower time_steps"):
        Recordings("dvs128-gesture", root, 2, 3001, frames_by).load("test", 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Recordings("cifar", "."), "name = 'cifar': must be one of nmnist, dvs128-gesture, cifar10-dvs"),
        (lambda: Recordings("nmnist", ".", 35), "size = 35: nmnist has 34 x 34 pixels; give 1 to 34"),
        (lambda: Recordings("nmnist", ".", 0), "size = 0"),
        (lambda: Recordings("nmnist", ".", time_steps=0), "time_steps = 0: must be at least 1"),
        (lambda: Recordings("nmnist", ".", frames_by="number"), "frames_by = 'number': must be one of count, time"),
        (lambda: Recordings("nmnist", ".").load("dev"), "split = 'dev': must be one of train, val, test"),
        (lambda: Recordings("nmnist", ".").load("val", 0), "limit = 0: must be at least 1"),
        (lambda: tonic_events.parse("nmnist"), "data 'nmnist': say where the files are, as in nmnist:FOLDER"),
        (lambda: tonic_events.parse("nmnist,size=8:"), "say where the files are"),
        (lambda: tonic_events.parse("nmnist,size=x:here"), "option 'size=x'; give size=N"),
        (lambda: tonic_events.parse("nmnist,Size=8:here"), "option 'Size=8'"),
        (lambda: tonic_events.parse("nmnist,binary=no:here"), "option 'binary=no'"),
        (lambda: tonic_events.parse("nmnist,frames_by=bins:here"), "frames_by = 'bins'"),
    ],
)
def test_impossible_requests_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_names_on_the_command_line_are_parsed():
    assert tonic_events.parse("nmnist:sets/n-mnist") == Recordings("nmnist", "sets/n-mnist")
    assert tonic_events.parse("cifar10-dvs,size=64,time_steps=16,frames_by=time,binary:C:/a,b=c") == Recordings(
        "cifar10-dvs", "C:/a,b=c", 64, 16, "time", True
    )
    for other in ("saccade-mnist", "clips.npz", "nmnist.npz", "folder/nmnist:x"):
        assert tonic_events.parse(other) is None


def test_tonic_is_imported_only_to_read():
    code = "import sys, spikefold.models; sys.exit(sum(name in sys.modules for name in ('tonic', 'numba', 'aedat')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_packages_are_named(monkeypatch, roots):
    cifar = Recordings("cifar10-dvs", roots["cifar10-dvs aedat4"][0])
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "tonic", None)
        with pytest.raises(SpikefoldError, match=r"tonic cannot be imported.*pip install 'spikefold\[events\]'"):
            cifar.load("test")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpikefoldError, match=r"with aedat; pip install 'spikefold\[events\]'"):
        cifar.load("test")
