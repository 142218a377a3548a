"""Random tensors under the names and shapes of released checkpoints."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

NAMES = Path(__file__).parents[1] / "models" / "released_names"


def released_checkpoint(name: str, seed: int = 0) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a listed checkpoint, variances positive, and which of its names are dead."""
    random = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    dead: list[str] = []
    for line in (NAMES / f"{name}.txt").read_text().splitlines():
        key, shape, *mark = line.split()
        sizes = [int(n) for n in shape.split(",") if n != "-"]
        tensors[key] = torch.randn(sizes, generator=random) / math.prod(sizes[1:]) ** 0.5
        if key.endswith("running_var"):
            tensors[key] = tensors[key].abs() + 0.5
        if key.endswith("num_batches_tracked"):
            tensors[key] = torch.tensor(7)
        if mark == ["dead"]:
            dead.append(key)
    return tensors, dead
