"""A net made, run and exported in slayer: ``python -P slayer_job.py FOLDER`` writes net.net and net.npz."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from netx_job import import_netx

STEPS, SILENT = 24, 12
"""Silence at the end lets slower layers finish."""


def main(folder: Path) -> None:
    """Random weights, as training begins with, random frames, and what each block sends."""
    import_netx()
    import h5py
    import numpy as np
    import torch
    from lava.lib.dl import slayer

    torch.manual_seed(0)
    neuron = {"threshold": 0.5, "current_decay": 0.3, "voltage_decay": 0.1}
    cuba = slayer.block.cuba
    blocks = [
        cuba.Conv(neuron, 2, 3, (3, 2), padding=(1, 0), weight_scale=2),
        cuba.Pool({**neuron, "threshold": 0.3}, 2),
        cuba.Flatten(),
        cuba.Dense({**neuron, "threshold": 1.0}, 27, 8, weight_scale=2, delay=True),
        cuba.Dense({**neuron, "shared_param": False}, 8, 6, weight_scale=3),
    ]
    frames = (torch.rand(3, 2, 5, 6, STEPS) < 0.4).float()
    frames[..., -SILENT:] = 0
    with torch.no_grad():
        signal, sent = frames, {}
        for number, block in enumerate(blocks):
            if number == 3:
                block(signal)  # delays take their size from the first use
                block.delay.delay.data = torch.arange(8.0) % 4
            signal = block(signal)
            sent[f"sent_{number}"] = signal.numpy()
    with h5py.File(folder / "net.net", "w") as file:
        for number, block in enumerate(blocks):
            block.export_hdf5(file.create_group(f"layer/{number}"))
    np.savez(folder / "net.npz", frames=frames.numpy(), **sent)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)
