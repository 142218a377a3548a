"""Read a portable NIR file with sinabs and run it; runs in the environment `.venv-sinabs`, without spikefold.

    python _sinabs_child.py FILE.nir CLIPS.npy DECAYS.json SPIKES.npz

``from_nir`` makes neurons that fire several times a step, subtract the threshold and clip their membranes; it takes
``tau`` in steps and leaves the input as it is. All of this can be set on the layers it returns, and is.
"""

from __future__ import annotations

import json
import math
import sys

import nir
import numpy as np
import sinabs.activation as sa
import sinabs.layers as sl
import sinabs.nir as sn
import torch


def main(file: str, clips_file: str, decays_file: str, spikes_file: str) -> None:
    """Run clips ``[T, B, ...]`` and write the spikes of every neuron layer, ``[T, B, ...]``, by node."""
    clips = torch.from_numpy(np.load(clips_file)).float()
    with open(decays_file) as held:
        decays = json.load(held)
    steps, batch = clips.shape[:2]
    with torch.no_grad():
        net = sn.from_nir(nir.read(file), batch_size=batch)
        sent = {}
        for name, layer in net.named_modules():
            if isinstance(layer, sl.LIF):
                node = name.split(".")[-1]
                layer.spike_fn, layer.reset_fn, layer.min_v_mem = sa.SingleSpike, sa.MembraneReset(), None
                if not isinstance(layer, sl.IAF):
                    layer.norm_input = True
                    layer.tau_mem.data = torch.full_like(layer.tau_mem, -1 / math.log(decays[node]))
                layer.register_forward_hook(lambda _, __, out, node=node: sent.__setitem__(node, out))
        net(clips.transpose(0, 1).flatten(0, 1))
    arrays = {n: s.unflatten(0, (batch, steps)).transpose(0, 1).numpy() for n, s in sent.items()}
    np.savez(spikes_file, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
