import numpy as np
import pytest
import torch

from spikefold.errors import InputError
from spikefold.models.augment import Augmentation, cutout, flip, mixup, shift, time_crop


def clips(count=40, time_steps=3, size=6):
    """Frames that are all different, so that a pixel tells where it came from."""
    shape = (count, time_steps, 2, size, size)
    return np.random.default_rng(0).integers(1, 250, shape).astype(np.uint8)


def generator(seed=1):
    return np.random.default_rng(seed)


def test_flip_mirrors_about_half_of_the_clips_left_to_right():
    frames = clips()
    flipped = flip(frames, generator())
    mirrored = [np.array_equal(new, old[..., ::-1]) for new, old in zip(flipped, frames, strict=True)]
    kept = [np.array_equal(new, old) for new, old in zip(flipped, frames, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 10 < sum(mirrored) < 30
    assert flipped.dtype == np.uint8


def test_shift_moves_each_clip_by_up_to_the_limit_and_zeros_move_in():
    frames = clips()
    moved = shift(frames, 2, generator())
    seen = set()
    for new, old in zip(moved, frames, strict=True):
        padded = np.pad(old, ((0, 0), (0, 0), (2, 2), (2, 2)))
        found = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if np.array_equal(new, padded[..., 2 - down : 8 - down, 2 - right : 8 - right])
        ]
        assert len(found) == 1
        seen.update(found)
    assert {down for down, _ in seen} == {right for _, right in seen} == set(range(-2, 3))


def test_shift_by_more_than_the_frame_leaves_nothing():
    frames = np.ones((200, 1, 1, 2, 2), np.uint8)
    moved = shift(frames, 5, generator())
    sums = moved.sum((1, 2, 3, 4))
    assert set(sums.tolist()) == {0, 1, 2, 4}


def test_cutout_blanks_one_square_in_all_frames_of_a_clip():
    frames = clips(count=60, size=9)
    cut = cutout(frames, 3, generator())
    areas = set()
    for new, old in zip(cut, frames, strict=True):
        blank = new == 0
        assert np.array_equal(new, np.where(blank, 0, old))
        assert (blank == blank[:1, :1]).all()
        rows, columns = np.nonzero(blank[0, 0])
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert blank[0, 0].sum() == height * width
        assert max(height, width) <= 3
        areas.add(int(height * width))
    assert areas == {4, 6, 9}  # whole squares, and those that reach over a border or a corner
    assert frames.min() > 0


def test_time_crop_takes_successive_frames_from_any_start():
    frames = clips(count=60, time_steps=5)
    cropped = time_crop(frames, 3, generator())
    starts = []
    for new, old in zip(cropped, frames, strict=True):
        starts += [start for start in range(3) if np.array_equal(new, old[start : start + 3])]
    assert len(starts) == 60
    assert set(starts) == {0, 1, 2}


def test_mixup_blends_clips_and_labels_by_the_same_share_with_the_same_partner():
    torch.manual_seed(0)
    clip, targets = torch.rand(3, 6, 2, 4, 4), torch.eye(6)
    mixed, blended = mixup(clip, targets, 0.5, generator())
    assert torch.allclose(blended.sum(1), torch.ones(6))
    # The targets say who was blended with whom and by how much.
    expected = torch.einsum("ij,tjchw->tichw", blended, clip)
    assert torch.allclose(mixed, expected, atol=1e-6)
    assert not torch.allclose(blended, targets)


def test_mixup_share_follows_the_beta_distribution():
    random = generator()
    shares = []
    for _ in range(400):
        blended = mixup(torch.zeros(1, 2, 1, 1, 1), torch.eye(2), 0.5, random)[1]
        if blended[0, 0] != 1.0:  # else the clip is its own partner
            shares.append(float(blended[0, 0]))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.08)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.5 + 1)), abs=0.02)  # of Beta(a, a)


ALL = Augmentation(time_crop=2, flip=True, shift=1, cutout=2)


def test_seed_decides_what_is_changed():
    frames = clips()
    first, again, other = (ALL.change(frames, generator(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (40, 2, 2, 6, 6)


@pytest.mark.parametrize(
    ("augmentation", "does"),
    [
        (Augmentation(flip=True), lambda frames, random: flip(frames, random)),
        (Augmentation(shift=2), lambda frames, random: shift(frames, 2, random)),
        (Augmentation(cutout=3), lambda frames, random: cutout(frames, 3, random)),
        (Augmentation(time_crop=2), lambda frames, random: time_crop(frames, 2, random)),
        (Augmentation(refilm=True, mixup=0.5, time_crop=3), lambda frames, random: frames),
    ],
)
def test_each_switch_does_its_change_and_no_other(augmentation, does):
    frames = clips()
    before = frames.copy()
    assert np.array_equal(augmentation.change(frames, generator()), does(before, generator()))
    assert np.array_equal(frames, before)


def test_float_frames_stay_float():
    assert ALL.change(clips().astype(np.float32), generator()).dtype == np.float32


def test_negative_numbers_are_refused():
    with pytest.raises(InputError, match="shift = -1"):
        Augmentation(shift=-1)
