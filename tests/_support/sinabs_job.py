"""Nets made, run and exported in sinabs: ``python sinabs_job.py FOLDER``, in the environment of ``make sinabs``.

Of each net ``NAME.nir`` and ``NAME.npz``: ``clips`` ``[T, B, ...]`` and what its neurons send, ``sent_0``, ``sent_1``.
By default sinabs' neurons send several spikes a step, and integrators have a lowest membrane; no chip neuron does, so
both are set otherwise here, which is what the dialect ``sinabs-single-spike`` means.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nir
import numpy as np
import sinabs.activation as sa
import sinabs.layers as sl
import sinabs.nir as sn
import torch
from torch import nn

STEPS, BATCH = 16, 4


def neurons(threshold: float, tau: float | None = None, features: int = 0) -> Any:
    """A layer of neurons; without ``tau`` they integrate."""
    common = {"spike_fn": sa.SingleSpike, "min_v_mem": None, "batch_size": BATCH}
    if tau is None:
        return sl.IAFSqueeze(spike_threshold=torch.tensor(threshold), **common)
    thresholds, taus = torch.full((features,), threshold), torch.full((features,), tau)  # nir wants them of one shape
    return sl.LIFSqueeze(tau_mem=taus, spike_threshold=thresholds, norm_input=False, **common)


def main(folder: Path) -> None:
    """Random weights, random events."""
    torch.manual_seed(6)
    spatial = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), neurons(0.6), sl.SumPool2d(2), nn.Flatten(), nn.Linear(36, 8),
        neurons(1.0),
    )  # fmt: skip
    dense = nn.Sequential(nn.Linear(12, 10), neurons(0.5, 4.0, 10), nn.Linear(10, 6), neurons(0.1, 2.5, 6))
    nets: dict[str, tuple[nn.Sequential, tuple[int, ...]]] = {"IAF": (spatial, (2, 6, 6)), "LIF": (dense, (12,))}
    for name, (net, shape) in nets.items():
        clips = (torch.rand(STEPS, BATCH, *shape) < 0.4).float()
        merged = clips.transpose(0, 1).flatten(0, 1)  # batch and time in one axis
        sent: dict[str, Any] = {}
        with torch.no_grad():
            for layer in net:
                merged = layer(merged)
                if isinstance(layer, sl.LIF):
                    sent[f"sent_{len(sent)}"] = merged.unflatten(0, (BATCH, STEPS)).transpose(0, 1).numpy()
            graph = sn.to_nir(net, clips.transpose(0, 1).flatten(0, 1))
        graph.infer_types()  # else nir cannot write the convolution, whose input_shape sinabs leaves out
        nir.write(str(folder / f"{name}.nir"), graph)
        np.savez(folder / f"{name}.npz", clips=clips.numpy(), **sent)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
