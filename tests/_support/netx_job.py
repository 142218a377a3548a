"""Runs nets in lava-dl's netx, in a child process: ``python -P netx_job.py FOLDER``; `run_netx` starts it.

In the folder lies ``jobs.json``, a list of ``{"net", "clip", "bits"}``: a ``.net`` file, an ``.npy`` with a clip
``[T, *shape]`` in the layout of the file (or, of a net whose input layer has neurons, their biases ``[*shape]``), and
the bits of an input message. Of job i ``result_i.npz`` tells spikes, currents and membranes of every layer, its first
step being that of the clip's first frame at that layer: layers handle a frame one after another, a step apart, and
netx's own reset clears what their biases did before.
"""

from __future__ import annotations

import json
import os
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
STEPS_OF_BIASES = 12
"""How long a net runs on biases alone."""


@dataclass(frozen=True)
class NetxRun:
    """Spikes, currents and membranes ``[T, *shape]`` of each layer, channels first."""

    spikes: list[Int]
    currents: list[Int]
    membranes: list[Int]


def run_child(script: Path, folder: Path) -> None:
    """Run a script on a folder in a process of its own, ended when it hangs."""
    from spikefold.deploy.lava.interpreter import exposed_package
    from spikefold.deploy.lava.watch import Command, run_group

    with exposed_package() as environment:
        run_group(Command([sys.executable, "-P", str(script), str(folder)], environment, folder), 300.0)


def run_netx(folder: Path, jobs: list[dict[str, Any]]) -> list[NetxRun]:
    """Run jobs in one child process; ``net`` and ``clip`` are a path and an array."""
    for i, job in enumerate(jobs):
        np.save(folder / f"clip_{i}.npy", job["clip"])
    plain = [{"net": str(j["net"]), "clip": f"clip_{i}.npy", "bits": j.get("bits", 0)} for i, j in enumerate(jobs)]
    (folder / "jobs.json").write_text(json.dumps(plain))
    run_child(Path(__file__), folder)
    runs = []
    for i in range(len(jobs)):
        with np.load(folder / f"result_{i}.npz") as held:
            count = len(held.files) // 3
            runs.append(NetxRun(*([held[f"{kind}_{n}"] for n in range(count)] for kind in ("s", "u", "v"))))
    return runs


def import_netx() -> Any:
    """lava-dl's netx on a newer Python, and without what only its detection networks need."""
    from spikefold.deploy.lava import compat

    compat.load()
    sys.modules["lava.lib.dl.slayer.object_detection"] = types.ModuleType("object_detection")
    from lava.lib.dl import netx

    return netx


def _run(netx: Any, net: str, clip: Int, bits: int) -> dict[str, Int]:
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Source
    from lava.proc.monitor.process import Monitor

    first = netx.hdf5.Network(net)
    from_biases = type(first.layers[0]).__name__ == "Input"
    steps = STEPS_OF_BIASES if from_biases else len(clip)
    hops = 0 if from_biases else 1
    total = steps + len(first.layers) + hops
    network = netx.hdf5.Network(net, input_message_bits=bits, reset_interval=1000, reset_offset=hops)
    if from_biases:
        network.in_layer.neuron.bias_mant.init = clip.T.astype(np.int32)
    else:
        frames = np.zeros((*network.inp.shape, total), dtype=np.int32)
        flat = clip.reshape(steps, -1) if len(network.inp.shape) == 1 else clip.transpose(0, 3, 2, 1)
        frames[..., :steps] = np.moveaxis(flat, 0, -1)
        source = Source(data=frames)
        source.s_out.connect(network.inp)
    recorded: list[tuple[Any, Any, Any]] = []
    for layer in network.layers:
        sink = Sink(shape=layer.out.shape, buffer=total)
        layer.out.connect(sink.a_in)
        monitors = []
        for variable in (layer.neuron.u, layer.neuron.v):
            monitor = Monitor()
            monitor.probe(variable, total)
            monitors.append(monitor)
        recorded.append((sink, *monitors))
    network.run(condition=RunSteps(num_steps=total), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    result: dict[str, Int] = {}
    for number, (sink, *monitors) in enumerate(recorded):
        window = slice(number + hops, number + hops + steps)
        result[f"s_{number}"] = sink.data.get().astype(np.int64).T[window]
        for kind, monitor in zip("uv", monitors, strict=True):
            held = next(iter(next(iter(monitor.get_data().values())).values()))
            held = np.asarray(held).reshape(total, *network.layers[number].out.shape)
            result[f"{kind}_{number}"] = np.moveaxis(held, 0, -1).astype(np.int64).T[window]
    network.stop()
    return result


def main(folder: Path) -> None:
    """Run the jobs in ``folder``."""
    netx = import_netx()
    for i, job in enumerate(json.loads((folder / "jobs.json").read_text())):
        held = _run(netx, job["net"], np.load(folder / job["clip"]), job["bits"])
        np.savez(folder / f"result_{i}.npz", **held)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    os._exit(0)  # an orderly exit would wait for Lava's processes
