"""Random gate programs in the integer dialect; together they hold every integer operation (a test says so)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.gate_program import GateProgram, Step

GATES = ("channel", "spatial", "temporal", "top_k", "context", "running")


class _Builder:
    """Appends steps; keeps the values of one calibration current, to choose scales by."""

    def __init__(self, current: NDArray[np.int64]) -> None:
        self.shape = (current.shape[0], -1, *current.shape[2:])
        self.current = current
        self.steps: list[Step] = []
        self.values = [current]

    def add(self, op: str, *inputs: int, constant: NDArray[np.int64] | None = None, **attributes: Any) -> int:
        """Append a step and return the number of its value."""
        self.steps.append(Step(op, inputs, attributes, constant))
        self.values.append(self.program().run_integer(self.current))
        return len(self.steps)

    def shrink(self, value: int, limit: int) -> int:
        """Append a rescale that brings ``value`` to at most about ``1.2 * limit`` on the calibration current."""
        largest = max(1, int(np.abs(self.values[value]).max()))
        shift = max(0, (8 * largest // limit).bit_length())
        multiplier = max(1, round(1.2 * limit / largest * 2**shift))
        return self.add("rescale", value, multiplier=multiplier, shift=shift, limit=limit)

    def program(self) -> GateProgram:
        """Return the steps so far."""
        return GateProgram(self.shape, tuple(self.steps), self.shape[0])


def make_gate(rng: np.random.Generator, kind: str, current: NDArray[np.int64], gate_shift: int) -> GateProgram:
    """Gate program of ``kind`` (one of `GATES`, or ``"table"``) for currents like ``current`` ``[T, B, *features]``.

    The gate is 0 .. ``2**gate_shift`` and broadcasts to the current.
    """
    builder = _Builder(current)
    makers = {
        "channel": _channel,
        "spatial": _spatial,
        "temporal": _temporal,
        "top_k": _top_k,
        "context": _context,
        "running": _running,
        "table": _schedule,
    }
    makers[kind](rng, builder, _table(rng, gate_shift))
    return builder.program()


def _table(rng: np.random.Generator, gate_shift: int) -> NDArray[np.int64]:
    """Make a sigmoid of 256 entries, 0 .. ``2**gate_shift``."""
    x = (np.arange(256) - 128) / rng.uniform(20, 50)
    return np.asarray(np.round(2**gate_shift / (1 + np.exp(-x))), dtype=np.int64)


def _channel(rng: np.random.Generator, b: _Builder, table: NDArray[np.int64]) -> None:
    """Squeeze and excitation: pool over time and space, two matrices, sigmoid table."""
    _, _, channels, *space = b.shape
    pooled = b.add("sum", 0, axes=(0, *range(3, len(b.shape))), keepdim=True)
    flat = b.add("reshape", pooled, shape=(-1, channels))
    small = b.shrink(flat, 255)
    hidden = b.add("matmul", small, constant=rng.integers(-60, 61, (channels, 3)))
    hidden = b.add("add_const", hidden, constant=rng.integers(-500, 501, (3,)))
    hidden = b.add("relu", hidden)
    hidden = b.add("clip", b.shrink(hidden, 400), low=0, high=300)
    out = b.add("matmul", hidden, constant=rng.integers(-60, 61, (3, channels)))
    gate = b.add("look_up", b.shrink(out, 127), constant=table, offset=128)
    b.add("reshape", gate, shape=(1, -1, channels, *(1 for _ in space)))


def _spatial(rng: np.random.Generator, b: _Builder, table: NDArray[np.int64]) -> None:
    """Mean and max over channels of the time sum, a 3x3 convolution of both, sigmoid table, spread over time."""
    time_steps, _, _, height, width = b.shape
    total = b.add("sum", 0, axes=(0,), keepdim=False)
    mean = b.shrink(b.add("sum", total, axes=(1,), keepdim=True), 2**15)
    top = b.shrink(b.add("max", total, axes=(1,), keepdim=True), 2**15)
    both = b.add("concat", mean, top, axis=1)
    attributes = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    out = b.add("conv2d", both, constant=rng.integers(-127, 128, (1, 2, 3, 3)), **attributes)
    gate = b.add("look_up", b.shrink(out, 127), constant=table, offset=128)
    gate = b.add("reshape", gate, shape=(1, -1, 1, height, width))
    b.add("broadcast", gate, shape=(time_steps, -1, 1, height, width))


def _temporal(rng: np.random.Generator, b: _Builder, table: NDArray[np.int64]) -> None:
    """One number per step from a T x T matrix over the pooled steps, minus what the first steps say."""
    time_steps = b.shape[0]
    axes = tuple(range(2, len(b.shape)))
    pooled = b.add("permute", b.add("sum", 0, axes=axes, keepdim=False), axes=(1, 0))
    top = b.add("permute", b.add("max", 0, axes=axes, keepdim=False), axes=(1, 0))
    mixed = b.add("add", b.shrink(pooled, 1000), b.shrink(top, 1000))
    out = b.add("matmul", mixed, constant=rng.integers(-50, 51, (time_steps, time_steps)))
    first = b.add("slice", out, axis=1, start=0, stop=max(1, time_steps // 2))
    early = b.add("sum", first, axes=(1,), keepdim=True)
    out = b.add("subtract", out, early)
    gate = b.add("look_up", b.shrink(out, 127), constant=table, offset=128)
    b.add("reshape", b.add("permute", gate, axes=(1, 0)), shape=(time_steps, -1, *(1 for _ in axes)))


def _top_k(rng: np.random.Generator, b: _Builder, table: NDArray[np.int64]) -> None:
    """Keep the k channels of largest coarse importance (ties are common) and weight them by the sigmoid table."""
    _, _, channels, *space = b.shape
    pooled = b.add("sum", 0, axes=(0, *range(3, len(b.shape))), keepdim=False)
    coarse = b.shrink(pooled, 3)
    mask = b.add("topk_mask", coarse, k=(channels + 1) // 2, axis=1)
    signed = b.add("add_const", b.add("multiply_const", mask, constant=np.array(2)), constant=np.array(-1))
    kept = b.add("relu", signed)
    gate = b.add("look_up", b.shrink(pooled, 127), constant=table, offset=128)
    out = b.add("multiply", gate, kept)
    b.add("reshape", out, shape=(1, -1, channels, *(1 for _ in space)))


def _context(rng: np.random.Generator, b: _Builder, table: NDArray[np.int64]) -> None:
    """Softmax over pixels, a pooling by it, a layer norm over channels, sigmoid table; numerators of both signs."""
    time_steps, _, channels, *space = b.shape
    small = b.shrink(b.add("reshape", 0, shape=(time_steps, -1, channels, int(np.prod(space)))), 2**12)
    score = b.shrink(b.add("sum", small, axes=(2,), keepdim=True), 300)
    below = b.add("subtract", score, b.add("max", score, axes=(3,), keepdim=True))
    powers = np.maximum(1, np.round(2**16 * np.exp((np.arange(256) - 255) / rng.uniform(10, 60)))).astype(np.int64)
    part = b.add("look_up", below, constant=powers, offset=255)
    weight = b.add("shift_divide", part, b.add("sum", part, axes=(3,), keepdim=True), shift=12)
    pooled = b.shrink(b.add("sum", b.add("multiply", small, weight), axes=(3,), keepdim=False), 500)
    total = b.add("sum", pooled, axes=(2,), keepdim=True)
    centred = b.add("subtract", b.add("multiply_const", pooled, constant=np.array(channels)), total)
    squares = b.add("sum", b.add("multiply", centred, centred), axes=(2,), keepdim=True)
    root = b.add("square_root", b.add("add_const", squares, constant=np.array(3)))
    normed = b.add("clip", b.add("shift_divide", centred, root, shift=7), low=-127, high=127)
    gate = b.add("look_up", normed, constant=table, offset=128)
    b.add("reshape", gate, shape=(time_steps, -1, channels, *(1 for _ in space)))


def _running(rng: np.random.Generator, b: _Builder, table: NDArray[np.int64]) -> None:
    """Sum, maximum and rank of each channel over the steps so far (ties are common), times a table over steps."""
    time_steps, _, channels, *space = b.shape
    axes = tuple(range(3, len(b.shape)))
    pooled, top = (b.add(op, 0, axes=axes, keepdim=True) if axes else 0 for op in ("sum", "max"))
    so_far = b.shrink(b.add("running_sum", pooled), 2**12)
    share = (
        np.round(64 * time_steps / np.arange(1, time_steps + 1)).astype(np.int64).reshape(-1, *[1] * len(b.shape[1:]))
    )
    mean = b.add("multiply_const", so_far, constant=share)
    top = b.shrink(b.add("running_max", top), 2**15)
    gate = b.add("look_up", b.shrink(b.add("add", mean, top), 127), constant=table, offset=128)
    mask = b.add("running_topk_mask", b.shrink(pooled, 3), k=(time_steps + 1) // 2)
    schedule = rng.integers(0, 3, (time_steps, 1, channels, *(1 for _ in space)))
    b.add("relu", b.add("subtract", b.add("multiply", gate, mask), b.add("table", 0, constant=schedule)))


def _schedule(rng: np.random.Generator, b: _Builder, table: NDArray[np.int64]) -> None:
    """One number per step and channel, whatever the current holds."""
    time_steps, _, channels, *space = b.shape
    b.add("table", 0, constant=rng.choice(table, (time_steps, 1, channels, *(1 for _ in space))))
