"""Files in lava-dl's layout, written without our writer, and what came with lava-dl's own tests."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.reference import Trace, arriving, sum_currents, synapse_current, synaptic_currents

Int = NDArray[np.int64]
CUBA: dict[str, Any] = {
    "type": "CUBA", "iDecay": 4096, "vDecay": 400, "vThMant": 60, "refDelay": 1, "gradedSpike": False,
}  # fmt: skip
MAP = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}


def write_layers(path: Path, *layers: dict[str, Any]) -> Path:
    """Write layers; ``neuron`` is a dict, texts are held as slayer holds them."""
    with h5py.File(path, "w") as file:
        for number, layer in enumerate(layers):
            group = file.create_group(f"layer/{number}")
            for field, value in layer.items():
                if field == "type":
                    group.create_dataset(field, (1,), "S10", [value.encode("ascii")])
                elif field == "neuron":
                    for name, held in value.items():
                        group.create_dataset(f"neuron/{name}", data=held)
                else:
                    dtype = np.float32 if field in ("weight", "weight_rec", "bias", "delay") else np.int64
                    group.create_dataset(field, data=np.asarray(value, dtype=dtype))
    return path


def even(rng: np.random.Generator, *shape: int) -> Int:
    """Weights as slayer trains them."""
    return np.asarray(2 * rng.integers(-50, 60, shape), dtype=np.int64)


def currents(graph: FixedPointGraph, clips: Int, trace: Trace) -> dict[str, Int]:
    """Synaptic currents ``[T, B, *shape]`` of a run."""
    sent = {graph.input.name: clips, **trace.spikes}
    return {
        n.name: synaptic_currents(
            n,
            sum_currents(
                n,
                [synapse_current(s, arriving(sent[s.source], s.delay, 0, len(clips))) for s in graph.incoming(n.name)],
            ),
        )
        for n in graph.neurons
    }


def shipped_file(name: str) -> Path:
    """A file of the tests in lava-dl's wheel; FileNotFoundError where there is none, or only a pointer to one."""
    try:
        path = Path(str(importlib.metadata.distribution("lava-dl").locate_file(f"tests/lava/lib/dl/netx/{name}")))
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError("lava-dl is not installed: see `make env`") from None
    if not path.is_file():
        raise FileNotFoundError(f"this lava-dl has no {name} among its tests")
    if path.read_bytes()[:8] == b"version ":
        raise FileNotFoundError(f"{name} is a Git LFS pointer in this lava-dl")
    return path
