"""One population, ready to run: which loop its proved ranges allow, its constants in the loop's order and types."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikefold.converters import arithmetic
from spikefold.converters.engine import EXACT_FLOAT64, run_gate
from spikefold.converters.fast import kernels
from spikefold.converters.fast.connection import EIGHT_BITS_MAX, EXACT_FLOAT32, Connection
from spikefold.converters.fast.layout import flat, per_neuron, unflat
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons
from spikefold.converters.gate_program import GateProgram
from spikefold.converters.onnx.counts import fan_out
from spikefold.converters.ranges import INT32_MAX, can_wrap, sum_bound
from spikefold.errors import LoweringError

NEVER = INT32_MAX
"""A threshold that no membrane reaches."""


@dataclass
class Held:
    """Memory of a population for one chunk of samples; arrays over time hold all steps.

    ``messages`` is ``[T, B, N]``, ``u`` and ``v`` ``[B, N]``, ``counts`` int64 ``[B, 1 + synapses]``, ``sent`` int32
    ``[T, N]`` and ``membranes`` int32 ``[T, B, N]`` (both empty unless they are asked for).
    """

    messages: NDArray[Any]
    counts: NDArray[np.int64]
    sent: NDArray[np.int32]
    membranes: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0, 0), np.int32))
    u: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    v: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 0), np.int64))


def message_dtype(graph: FixedPointGraph, name: str) -> Any:
    """Type of the messages of ``name``: a byte where the eight-bit convolution takes them."""
    low, high = graph.message_range(name)
    return np.uint8 if low >= 0 and high <= EIGHT_BITS_MAX else np.float32 if high < EXACT_FLOAT32 else np.float64


def fans(graph: FixedPointGraph, name: str) -> NDArray[np.int32]:
    """Connections that leave each neuron of ``name`` over each of its synapses, ``[synapses, N]``."""
    shape = graph.source_shape(name)
    rows = [
        per_neuron(fan_out(s, shape, graph.source_shape(s.target)), shape) for s in graph.synapses if s.source == name
    ]
    return np.array(rows, dtype=np.int32).reshape(len(rows), int(np.prod(shape)))


class Stage:
    """A population and the synapses into it.

    Raises
    ------
    LoweringError
        Weighted sums could pass 2**53.
    """

    def __init__(self, graph: FixedPointGraph, population: Neurons) -> None:
        incoming = graph.incoming(population.name)
        largest = sum_bound(graph, population)
        if largest > EXACT_FLOAT64:
            raise LoweringError(
                f"neurons {population.name!r}: weighted sums could reach {largest}, outside the 53 bits that torch "
                "adds exactly: use smaller exponents or smaller messages"
            )
        self.population, shape = population, population.shape
        unit = min(s.exponent for s in incoming) + 1
        self.connections = [Connection(graph, s, unit) for s in incoming]
        self._dtype = torch.float32 if sum(c.bound for c in self.connections) < EXACT_FLOAT32 else torch.float64
        self.fan = fans(graph, population.name)
        self.message_dtype = message_dtype(graph, population.name)
        self._wraps = can_wrap(graph, population)
        self._fits_32_bits = (
            self._dtype == torch.float32
            and not self._wraps
            and not population.remembers_current
            and population.gate is None
            and population.relay is None
        )  # what does not wrap stays below 2**23, and a bias below 2**20
        self.state_dtype = np.int32 if self._fits_32_bits else np.int64
        self._scale = 1 << (unit + population.current_shift)
        self._set_constants(shape)

    def _set_constants(self, shape: tuple[int, ...]) -> None:
        n = self.population
        bias = n.bias if n.has_bias_schedule else np.asarray(n.bias)[None, None]
        steps = len(bias)
        self._bias = flat(np.broadcast_to(bias, (steps, 1, *shape)), shape)[:, 0].astype(self.state_dtype)
        threshold = np.asarray(n.v_threshold << arithmetic.STATE_FRACTION_BITS) if n.fires else np.array(NEVER)
        reset = np.asarray(0 if n.v_reset is None else n.v_reset << arithmetic.STATE_FRACTION_BITS)
        after = reset - threshold if n.soft_reset else reset
        self._mask = self.state_dtype(-1 if n.soft_reset else 0)
        given = [2**arithmetic.DECAY_BITS - np.asarray(n.dv), threshold, after]
        self.alike = self._fits_32_bits and all(c.size == 1 for c in given)
        put = [c.reshape(1) if self.alike else per_neuron(c, shape) for c in given]
        self._keep, self._threshold, self._after = (c.astype(self.state_dtype) for c in put)
        self._keep_u = per_neuron(2**arithmetic.DECAY_BITS - 1 - np.asarray(n.du), shape)

    def hold(self, steps: int, batch: int, sent: bool, trace: bool) -> Held:
        """Fresh memory for clips of ``steps``."""
        size = self.population.size
        every = (steps, batch, size)
        return Held(
            np.zeros(every, self.message_dtype),
            np.zeros((batch, 1 + len(self.fan)), np.int64),
            np.zeros((steps, size) if sent else (0, 0), np.int32),
            np.zeros(every if trace else (0, 0, 0), np.int32),
            np.zeros((0, 0) if self._fits_32_bits else (batch, size), np.int64),
            np.zeros((batch, size), self.state_dtype),
        )

    def run(self, messages: dict[str, NDArray[Any]], held: Held, first: int, steps: int) -> None:
        """Run ``steps`` steps from ``first`` on, given all messages ``[T, B, N]`` of the sources."""
        stretch, n = slice(first, first + steps), self.population
        total = self._total(messages, first, steps)
        bias = self._bias[stretch] if len(self._bias) > 1 else self._bias
        scale, wraps = self._scale, self._wraps
        if n.gate is not None:
            total, scale, wraps = self._gated(n.gate, total, torch.from_numpy(bias), stretch), 1, False
            bias = np.zeros((1, n.size), np.int64)
        current = total.numpy()
        sent = held.sent[stretch]
        out = (held.messages[stretch], self.fan, held.counts, sent, held.membranes[stretch])
        if n.relay is not None:
            kernels.relay(current, scale, bias, wraps, n.relay.shift, n.relay.low, n.relay.high, *out)
            return
        constants = (self._threshold, self._mask, self._after)
        if self._fits_32_bits:
            fire = kernels.fire_alike if self.alike else kernels.fire_each
            fire(current, np.int32(scale), bias, self._keep, *constants, held.v, *out)
        else:
            kernels.fire_any(current, scale, bias, wraps, self._keep_u, self._keep, *constants, held.u, held.v, *out)

    def _total(self, messages: dict[str, NDArray[Any]], first: int, steps: int) -> Tensor:
        """Sums over all synapses ``[T, B, N]``, in units of the stage."""
        parts = (c.weighted(c.arriving(messages[c.source], first, steps)) for c in self.connections)
        total = next(parts).to(self._dtype)
        for part in parts:
            total += part
        return total

    def _gated(self, program: GateProgram, total: Tensor, bias: Tensor, stretch: slice) -> Tensor:
        """Gated currents int64 ``[T, B, N]``, bias included."""
        n = self.population
        current = total.to(torch.int64) * self._scale
        if self._wraps:
            half = arithmetic.WRAP // 2
            current = torch.where(current > half, current - arithmetic.WRAP, current)
            current = torch.where(current <= -half, current + arithmetic.WRAP, current)
        current += bias[:, None]
        shaped = torch.from_numpy(np.ascontiguousarray(unflat(current.numpy(), n.shape)))
        table = n.gate_table
        gate = run_gate(program, shaped) if table is None else torch.from_numpy(table[stretch])
        gated = torch.div(shaped * gate, 2**n.gate_shift, rounding_mode="trunc")
        return torch.from_numpy(flat(gated.numpy(), n.shape))
