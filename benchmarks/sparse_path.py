"""Would a sparse path pay: weights added for each spike that came, against the convolution that the fast engine uses.

    python benchmarks/sparse_path.py

The shipped nets on test digits, and the dense net of `against_lava`; one thread, layer by layer, equal sums. The engine
would get such a path if it were 1.5 times as fast on a shipped net.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _nets import conv_net, events, lowered
from _timing import interleaved, medians, table, write
from numba import njit
from numpy.typing import NDArray

import spikefold as sf
from spikefold.converters.fast import FastEngine
from spikefold.converters.fast.connection import Connection
from spikefold.models import saccade_mnist

SAMPLES, ROUNDS, GOAL = 8, 9, 1.5


@njit(error_model="numpy")  # type: ignore[misc]
def scatter(messages, weight, stride, padding, out):  # type: ignore[no-untyped-def]
    """Sums int32 ``[F, H, W, O]`` of messages uint8 ``[F, H, W, C]`` with weights int32 ``[C, kh, kw, O]``."""
    frames, height, width, channels = messages.shape
    for f in range(frames):
        out[f] = 0
        for y, x, c in np.ndindex(height, width, channels):
            if messages[f, y, x, c]:
                for a in range(weight.shape[1]):
                    row = y + padding - a
                    if row < 0 or row % stride or row // stride >= out.shape[1]:
                        continue
                    for b in range(weight.shape[2]):
                        column = x + padding - b
                        if column < 0 or column % stride or column // stride >= out.shape[2]:
                            continue
                        reached, added = out[f, row // stride, column // stride], weight[c, a, b]
                        for o in range(len(added)):
                            reached[o] += added[o]


def contestants(connection: Connection, sent: NDArray[Any], target: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    """Both ways to add one connection up for binary messages ``[T, B, C, H, W]``; they must agree."""
    steps, batch, *shape = sent.shape
    messages = np.ascontiguousarray(np.moveaxis(sent.reshape(-1, *shape), 1, 3)).astype(np.uint8)
    flat = messages.reshape(steps, batch, -1)
    s = connection.synapse
    weight = np.ascontiguousarray((s.weight // 2).transpose(1, 2, 3, 0)).astype(np.int32)
    out = np.empty((len(messages), *target[1:], target[0]), np.int32)

    def sparse() -> None:
        scatter(messages, weight, s.stride[0], s.padding[0], out)

    sparse()
    dense = connection.weighted(flat).numpy().reshape(-1)
    if not np.array_equal(dense, out.reshape(-1)):
        raise SystemExit(f"{s.name}: the sums differ")
    return {"dense": lambda: connection.weighted(flat), "sparse": sparse}


def main() -> None:
    torch.set_num_threads(1)
    train, test = saccade_mnist.load("train").clips(64), saccade_mnist.load("test").clips(SAMPLES)
    nets = {
        n: sf.lower(sf.capture(sf.load(n), train[:, :2]), train, attention="static") for n in ("plain", "asa", "fsta")
    }
    nets["2-32-64-64"] = lowered(conv_net((2, 32, 64, 64), (1, 1, 1), 32), (2, 32, 32), 16)
    rows, ratios = [], []
    for name, graph in nets.items():
        clips = events(16, SAMPLES, (2, 32, 32), 1) if "-" in name else test
        engine = FastEngine(graph)
        trace = engine.run(clips, trace=True).trace
        assert trace is not None  # noqa: S101
        for synapse in graph.synapses:
            connection = Connection(graph, synapse, synapse.exponent + 1)
            if synapse.kind != "conv":
                continue
            sent = clips if synapse.source == graph.input.name else trace.spikes[synapse.source]
            with torch.inference_mode():
                found = medians(interleaved(contestants(connection, sent, graph.source_shape(synapse.target)), ROUNDS))
            ratios.append((found["dense"] / found["sparse"], name))
            times = [f"{found[way] / SAMPLES * 1e3:.3f}" for way in ("dense", "sparse")]
            rows.append([f"{name}, {synapse.name}", f"{(sent != 0).mean():.2f}", *times, f"{ratios[-1][0]:.2f}"])
    best = max(ratio for ratio, name in ratios if name in ("plain", "asa", "fsta"))
    verdict = "so there is none" if best < GOAL else "so it is worth building"
    write(
        "sparse",
        "A sparse path",
        [
            "Milliseconds a sample, one thread.",
            "",
            *table(["layer", "rate of what comes", "dense", "sparse", "dense / sparse"], rows),
            "",
            f"**{best:.2f} times as fast at best** would a sparse path be on a shipped net (goal {GOAL}), {verdict}.",
        ],
    )


if __name__ == "__main__":
    main()
