import numpy as np
import pytest

from spikefold.errors import FileFormatError, InputError
from spikefold.models import EventData, load_npz

FRAMES = np.random.default_rng(0).integers(0, 2, (4, 3, 2, 5, 6))


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "clips.npz", **arrays)
    return tmp_path / "clips.npz"


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float64])
def test_frames_and_labels_are_read(tmp_path, dtype):
    data = load_npz(saved(tmp_path, frames=FRAMES.astype(dtype), labels=np.array([1, 0, 2, 1], np.int32)))
    assert data.frames.dtype == (np.float32 if dtype is np.float64 else np.uint8)
    assert np.array_equal(data.frames, FRAMES)
    assert data.labels.tolist() == [1, 0, 2, 1]


def test_labels_may_be_absent(tmp_path):
    assert load_npz(saved(tmp_path, frames=FRAMES)).labels is None


def test_clip_has_time_first():
    data = EventData(FRAMES.astype(np.uint8), np.arange(4))
    assert data.clip().shape == (3, 4, 2, 5, 6)
    assert np.array_equal(data[1:3].clip()[2, 1].numpy(), FRAMES[2, 2])
    assert data[np.array([3, 0])].labels.tolist() == [3, 0]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (FRAMES[0], r"shape \(3, 2, 5, 6\); expected 5 axes"),
        (FRAMES[:, :0], r"axis T is empty"),
        (FRAMES[:0], r"axis N is empty"),
        (FRAMES - 1, r"values from -1 to 0"),
        (FRAMES * 256, r"values from 0 to 256"),
        (np.where(FRAMES, np.nan, np.inf), r"values are NaN or infinite"),
        (FRAMES.astype(np.complex64), r"dtype complex64"),
    ],
)
def test_frames_no_network_can_take_are_refused(tmp_path, frames, message):
    with pytest.raises(InputError, match=message):
        load_npz(saved(tmp_path, frames=frames))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(3, int), r"labels: shape \(3,\); expected \(4,\)"),
        (np.zeros(4), "labels: dtype float64"),
        (np.array([0, -1, 2, 3]), "labels: value -1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, message):
    with pytest.raises(InputError, match=message):
        load_npz(saved(tmp_path, frames=FRAMES, labels=labels))


def test_missing_array_names_what_is_there(tmp_path):
    with pytest.raises(InputError, match=r"no array 'frames' \(found: clips\)"):
        load_npz(saved(tmp_path, clips=FRAMES))


def test_pickled_objects_are_not_loaded(tmp_path):
    with pytest.raises(FileFormatError, match="cannot be read"):
        load_npz(saved(tmp_path, frames=np.array([{}], dtype=object)))


def test_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "one.npy", FRAMES)
    whole = saved(tmp_path, frames=FRAMES).read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("text.npz", "one.npy", "half.npz", "missing.npz"):
        with pytest.raises(FileFormatError, match=name):
            load_npz(tmp_path / name)
