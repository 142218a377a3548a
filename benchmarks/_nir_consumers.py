"""Other frameworks' own readers of NIR, each with the exact call that works, and how far they are from the float twin.

Used by `nir_readers` and tests/interop. sinabs runs in an environment of its own (``make sinabs``).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikefold.converters.float_net import FloatPopulation, FloatSynapse
from spikefold.converters.portable_nir import PortableNet
from spikefold.deploy.rounding import U32, gamma

SINABS = Path(__file__).parents[1] / ".venv-sinabs" / "bin" / "python"
ROUNDINGS = 8
Trains = dict[str, Tensor]


class ReaderError(Exception):
    """What a reader in a child process says."""


@dataclass(frozen=True)
class Comparison:
    """A reader against the float twin of one file.

    Attributes
    ----------
    spikes, differing : int
        Spikes (neurons times steps, all layers) of free runs, and how many differ.
    flips, outside : int
        With the reader's own spikes as input and resets, layer by layer: spikes that differ, and those of them whose
        membrane is farther from the threshold than float32 explains.
    exact : bool
        Whether 1 - beta is a power of two and every state of the twin on these clips fits the 24 bits of float32, so
        that no reader rounds anything.
    """

    spikes: int
    differing: int
    flips: int
    outside: int
    exact: bool

    @property
    def cell(self) -> str:
        """The words of the table."""
        if self.outside:
            return f"**wrong**: {self.differing:,} of {self.spikes:,}"
        bound = ", within the bound" if self.differing else ""
        return f"{self.differing:,} of {self.spikes:,}{bound}"


def record(net: nn.Module, nodes: list[str]) -> tuple[Trains, Callable[[], None]]:
    """Keep what the modules of ``nodes`` send, step by step; the second result stacks it and starts anew."""
    modules = dict(net.named_modules())
    steps: dict[str, list[Tensor]] = {n: [] for n in nodes}
    clips: dict[str, list[Tensor]] = {n: [] for n in nodes}
    trains: Trains = {}

    def keep(node: str, out: Any) -> None:
        steps[node].append((out[0] if isinstance(out, tuple) else out).detach().clone())

    for node in nodes:
        modules[node].register_forward_hook(lambda _, __, out, node=node: keep(node, out))

    def end_of_clip() -> None:
        for node in nodes:
            clips[node].append(torch.stack(steps[node]))
            steps[node].clear()
            trains[node] = torch.stack(clips[node], 1)

    return trains, end_of_clip


def read_snntorch(path: Path, clips: Tensor, nodes: list[str]) -> Trains:
    """One unbatched sample at a time, because of ``Flatten``."""
    import snntorch
    from snntorch.import_nir import import_from_nir

    net = import_from_nir(nir.read(path))
    trains, end_of_clip = record(net, nodes)
    for sample in clips.unbind(1):
        for module in net.modules():
            if isinstance(module, snntorch.Leaky):
                module.reset_mem()
        state = None
        for x in sample:
            _, state = net(x, state)
        end_of_clip()
    return trains


def read_norse(path: Path, clips: Tensor, nodes: list[str]) -> Trains:
    """One unbatched sample at a time, because of ``Flatten``."""
    import norse.torch as norse

    net = norse.from_nir(nir.read(path), dt=1e-4)
    trains, end_of_clip = record(net, nodes)
    for sample in clips.unbind(1):
        state = None
        for x in sample:
            _, state = net(x, state)
        end_of_clip()
    return trains


def read_spikingjelly(path: Path, clips: Tensor, nodes: list[str]) -> Trains:
    """Whole batches; the state is passed back."""
    from spikingjelly.activation_based.nir_exchange.from_nir import import_from_nir

    net = import_from_nir(str(path), dt=1e-4)
    trains, end_of_clip = record(net, nodes)
    state = None
    for x in clips:
        _, state = net(x, state)
    end_of_clip()
    return {node: train.squeeze(1) for node, train in trains.items()}


def read_sinabs(path: Path, clips: Tensor, nodes: list[str]) -> Trains:
    """In a child process of ``.venv-sinabs``; see `_sinabs_child`."""
    graph = nir.read(path)
    decays = {n: 1 - 1e-4 / float(v.tau.flat[0]) for n, v in graph.nodes.items() if isinstance(v, nir.LIF)}
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        np.save(at / "clips.npy", clips.numpy())
        (at / "decays.json").write_text(json.dumps(decays))
        child = Path(__file__).with_name("_sinabs_child.py")
        done = subprocess.run(
            [SINABS, child, path, at / "clips.npy", at / "decays.json", at / "spikes.npz"],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ReaderError(done.stderr.strip().splitlines()[-1])
        with np.load(at / "spikes.npz") as held:
            return {node: torch.from_numpy(held[node]) for node in nodes}


READERS: Mapping[str, Callable[[Path, Tensor, list[str]], Trains]] = {
    "snnTorch 1.0.0": read_snntorch,
    "Norse 1.1.0": read_norse,
    "SpikingJelly 2.0.0": read_spikingjelly,
    "sinabs 3.1.3": read_sinabs,
}


# ---------------------------------------------------------------------------------------------------- the comparison


def compare(reader: str, path: Path, portable: PortableNet, clips: NDArray[np.generic]) -> Comparison:
    """Run one reader on clips ``[T, B, ...]`` and compare it with the twin of the file.

    The bound, by running error analysis as in `spikefold.deploy.rounding`: with ``x`` the input, ``c = 1 - beta`` and
    ``I = c x``, readers compute ``v + c' (x - v)`` or, over c, ``beta' v + x``, where x is summed in float32 (off by
    ``gamma_n sum |w| |x|``, in any order) and c' and beta' are off by at most 4 roundings. With the roundings of the
    sum, the product and the result that is less than `ROUNDINGS` roundings each of ``|I|``, ``|v[t-1]|`` and
    ``|v[t]|`` a step. What was off before decays with the membrane, and a reset ends it. A spike may differ where the
    membrane is so near to the threshold, itself rounded a few times.
    """
    firing = [p for p in portable.twin.populations if p.fires]
    real = torch.from_numpy(np.ascontiguousarray(clips))
    logging.getLogger().setLevel(logging.ERROR)  # Norse logs that r is not 1 for an IF, and ignores it
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        theirs = READERS[reader](path, real.float(), [p.name for p in firing])
        _, ours = portable.twin.run(real.double())
        trains = {n: t.double() for n, t in theirs.items()}
        forced = [_forced(p, {"input": real.double(), **trains}) for p in firing]
        free = [_forced(p, {"input": real.double(), **ours}) for p in firing]
    return Comparison(
        sum(t.numel() for t in trains.values()),
        sum(int((t != ours[n]).sum()) for n, t in trains.items()),
        sum(f[0] for f in forced),
        sum(f[1] for f in forced),
        all(f[2] for f in free),
    )


def _forced(p: FloatPopulation, sent: Mapping[str, Tensor]) -> tuple[int, int, bool]:
    """Flips of one population, those outside the bound, and whether float32 holds every number without rounding."""
    teacher = sent[p.name]
    current = torch.stack([s.current(sent[s.source]) for s in p.synapses]).sum(0).reshape(teacher.shape)
    size = sum(s.weight[0].size + 1 for s in p.synapses)
    absolute = torch.stack([_absolute(s, sent[s.source]) for s in p.synapses]).sum(0).reshape(teacher.shape)
    theta, decay = torch.as_tensor(p.v_threshold, dtype=torch.float64), float(p.decay)
    v, error = torch.zeros_like(current[0]), torch.zeros_like(current[0])
    flips = outside = 0
    leak = 1 - decay if decay < 1 else 1.0
    exact = math.frexp(leak)[0] == 0.5
    for t, total in enumerate(current):
        old, v = v, decay * v + total
        error = decay * error + gamma(size, U32) * absolute[t]
        error = error + ROUNDINGS * U32 * (total.abs() + old.abs() + v.abs())
        exact = exact and all(_fits(x) for x in (total / leak, total / leak - old, v))
        flipped = (v > theta) != (teacher[t] == 1)
        flips += int(flipped.sum())
        outside += int((flipped & ~((v - theta).abs() <= error + ROUNDINGS * U32 * theta)).sum())
        v, error = v * (1 - teacher[t]), error * (1 - teacher[t])
    return flips, outside, exact


def _absolute(synapse: FloatSynapse, messages: Tensor) -> Tensor:
    return replace(synapse, weight=np.abs(synapse.weight), bias=np.abs(synapse.bias)).current(messages)


def _fits(values: Tensor) -> bool:
    return bool((values.float().double() == values.double()).all())


def is_missing(reader: str) -> bool:
    """Whether the environment of a reader is to be made first."""
    return READERS[reader] is read_sinabs and not SINABS.exists()
