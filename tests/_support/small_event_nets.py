"""Files of a user's project: a net with a squeeze-and-excitation gate, its weights, and small event data."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

import user_net


def seeded_net(seed: int) -> user_net.Net:
    """The user's net in evaluation mode, with batch norm statistics that make it fire."""
    torch.manual_seed(seed)
    net = user_net.Net()
    net.norm.running_var.uniform_(0.02, 0.1)
    return net.eval()


def write_user_project(folder: Path, module: str, seed: int = 0) -> None:
    """Write ``<module>.py``, ``w.pt``, ``train.npz`` and ``test.npz`` (T = 4, 2 x 8 x 8, 3 classes) into ``folder``."""
    shutil.copy(user_net.__file__, folder / f"{module}.py")
    torch.save(seeded_net(seed).state_dict(), folder / "w.pt")
    generator = np.random.default_rng(seed)
    for split, count in (("train", 12), ("test", 9)):
        frames = (generator.random((count, 4, 2, 8, 8)) < 0.3).astype(np.uint8)
        np.savez(folder / f"{split}.npz", frames=frames, labels=np.arange(count) % 3)
