"""What is done to training clips, anew in every epoch: arrays in, arrays out, all chance from one generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spikefold.errors import InputError


@dataclass(frozen=True)
class Augmentation:
    """Which changes training clips go through; the order is that of the attributes.

    Attributes
    ----------
    refilm : bool
        Clips are made anew by the data set where it can: saccade-mnist warps its digits and films them again.
    time_crop : int
        Steps that are cut out of longer clips at a random place; networks are built for so many. 0: none.
    flip : bool
        Every second clip or so is mirrored, left to right.
    shift : int
        Pixels by which a clip moves at most, along each axis.
    cutout : int
        Side in pixels of a square that is blanked. 0: none.
    mixup : float
        alpha of mixup; 0: none.
    """

    refilm: bool = False
    time_crop: int = 0
    flip: bool = False
    shift: int = 0
    cutout: int = 0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        """Refuse negative numbers."""
        for name in ("time_crop", "shift", "cutout", "mixup"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} = {getattr(self, name)}: must not be negative")

    def change(self, frames: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
        """Return frames ``[n, T, C, H, W]`` cropped in time, flipped, shifted and blanked, of the same dtype."""
        if 0 < self.time_crop < frames.shape[1]:
            frames = time_crop(frames, self.time_crop, random)
        if self.flip:
            frames = flip(frames, random)
        if self.shift:
            frames = shift(frames, self.shift, random)
        if self.cutout:
            frames = cutout(frames, self.cutout, random)
        return frames


def time_crop(frames: NDArray[Any], steps: int, random: np.random.Generator) -> NDArray[Any]:
    """Return ``steps`` successive frames of each clip ``[n, T, C, H, W]``, from a random one on."""
    starts = random.integers(0, frames.shape[1] - steps + 1, len(frames))
    return np.stack([clip[start : start + steps] for clip, start in zip(frames, starts, strict=True)])


def flip(frames: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    """Return clips ``[n, T, C, H, W]`` of which each is mirrored, left to right, with probability 1/2."""
    mirrored = random.random(len(frames)) < 0.5
    return np.where(mirrored[:, None, None, None, None], frames[..., ::-1], frames)


def shift(frames: NDArray[Any], limit: int, random: np.random.Generator) -> NDArray[Any]:
    """Return clips ``[n, T, C, H, W]`` moved by up to ``limit`` pixels down or up and right or left; zeros move in."""
    moved = np.zeros_like(frames)
    for clip, target, (down, right) in zip(
        frames, moved, random.integers(-limit, limit + 1, (len(frames), 2)), strict=True
    ):
        to_rows, from_rows = _overlap(frames.shape[3], int(down))
        to_columns, from_columns = _overlap(frames.shape[4], int(right))
        target[..., to_rows, to_columns] = clip[..., from_rows, from_columns]
    return moved


def cutout(frames: NDArray[Any], side: int, random: np.random.Generator) -> NDArray[Any]:
    """Return clips ``[n, T, C, H, W]`` with a square set to zero in all frames (DeVries and Taylor, 2017).

    Its centre is any pixel, so that it may reach over the border.
    """
    cut = frames.copy()
    for clip, (row, column) in zip(cut, random.integers(0, frames.shape[3:], (len(frames), 2)), strict=True):
        top, left = int(row) - side // 2, int(column) - side // 2
        clip[..., max(top, 0) : top + side, max(left, 0) : left + side] = 0
    return cut


def mixup(
    clip: torch.Tensor, targets: torch.Tensor, alpha: float, random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Blend every clip of a batch, and its target, with another one's (Zhang et al., ICLR 2018).

        x = l * x_i + (1 - l) * x_j,   y = l * y_i + (1 - l) * y_j,   l ~ Beta(alpha, alpha), once a batch

    Parameters
    ----------
    clip : torch.Tensor
        Float ``[T, B, C, H, W]``.
    targets : torch.Tensor
        Probabilities ``[B, classes]``.
    alpha : float
        Greater than 0.
    random : numpy.random.Generator
        Draws l and who is blended with whom.

    Returns
    -------
    tuple of torch.Tensor
        Blended clip and targets.
    """
    share = float(random.beta(alpha, alpha))
    partner = torch.from_numpy(random.permutation(len(targets))).to(targets.device)
    return share * clip + (1.0 - share) * clip[:, partner], share * targets + (1.0 - share) * targets[partner]


def _overlap(length: int, offset: int) -> tuple[slice, slice]:
    """Return where an axis moved by ``offset`` is written to and where that is read from."""
    kept = max(length - abs(offset), 0)
    if offset >= 0:
        return slice(length - kept, length), slice(0, kept)
    return slice(0, kept), slice(length - kept, length)
