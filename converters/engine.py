"""Run a `FixedPointGraph` in torch: the integers of `spikefold.converters.reference`, in whole batches.

Convolutions run in float32 where ``sum |w| * max x < 2**24`` proves them exact, else in float64 (exact below 2**53);
membranes are float64 whole numbers, whose 12-bit decay stays below 2**53; gates run in int64. A net whose sums could
pass 2**53 is refused.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse
from spikefold.converters.gate_float import SAME_OPS, TensorOp
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.converters.ranges import can_wrap, sum_bound, synapse_bound
from spikefold.converters.reference import Trace, check_input, read_out
from spikefold.errors import LoweringError

EXACT_FLOAT32 = 2**24
EXACT_FLOAT64 = 2**53


def run_engine(graph: FixedPointGraph, clips: NDArray[np.generic]) -> Trace:
    """Run clips ``[T, B, *shape]``; equal to `run_reference` in every bit.

    Raises
    ------
    InputError
        The clips do not fit the input port.
    LoweringError
        Weighted sums could pass 2**53.
    """
    spikes = {graph.input.name: torch.from_numpy(check_input(graph, clips)).to(torch.float32)}
    trains: dict[str, NDArray[np.int64]] = {}
    membranes: dict[str, NDArray[np.int64]] = {}
    with torch.no_grad():
        for population in graph.neurons:
            current = _current(graph, population, spikes)
            train, membrane = _fire(population, current)
            spikes[population.name] = train
            trains[population.name] = train.to(torch.int64).numpy()
            membranes[population.name] = membrane.to(torch.int64).numpy()
    return Trace(trains, membranes, read_out(graph.output, trains, membranes, len(clips)))


def _current(graph: FixedPointGraph, population: Neurons, spikes: dict[str, Tensor]) -> Tensor:
    """What is added to the membranes, float64 whole numbers ``[T, B, *shape]``."""
    largest = sum_bound(graph, population)
    if largest > EXACT_FLOAT64:
        raise LoweringError(
            f"neurons {population.name!r}: weighted sums could reach {largest}, outside the 53 bits that torch adds "
            "exactly: use smaller exponents or smaller messages"
        )
    steps, batch = spikes[graph.input.name].shape[:2]
    total = torch.zeros(steps, batch, *population.shape, dtype=torch.float64)
    for synapse in graph.incoming(population.name):
        exact = synapse_bound(synapse, graph.message_range(synapse.source)) < EXACT_FLOAT32
        dtype = torch.float32 if exact else torch.float64
        total += _weighted(synapse, spikes[synapse.source].to(dtype)).reshape(total.shape)
    total *= 2**population.current_shift
    if can_wrap(graph, population):
        half = arithmetic.WRAP // 2
        total = torch.where(total > half, total - arithmetic.WRAP, total)
        total = torch.where(total <= -half, total + arithmetic.WRAP, total)
    total += torch.from_numpy(population.bias.astype(np.float64))
    if population.gate is None:
        return total
    current = total.to(torch.int64)
    gated = current * run_gate(population.gate, current)
    return torch.div(gated, 2**population.gate_shift, rounding_mode="trunc").to(torch.float64)


def _weighted(synapse: Synapse, messages: Tensor) -> Tensor:
    weight = torch.from_numpy(synapse.effective_weight).to(messages.dtype)
    if synapse.kind == "dense":
        return messages.flatten(2) @ weight.T
    return functional.conv2d(messages.flatten(0, 1), weight, None, **synapse.conv_attributes)


def _fire(population: Neurons, current: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes (float32) and membranes after the reset (float64), ``[T, B, *shape]``."""
    relay = population.relay
    if relay is not None:
        sent = current.clamp(-arithmetic.STATE_LIMIT, arithmetic.STATE_LIMIT)
        return (sent / 2**relay.shift).trunc().clamp(relay.low, relay.high).float(), sent
    keep = (2**arithmetic.DECAY_BITS - population.dv) / 2**arithmetic.DECAY_BITS
    threshold = torch.as_tensor((population.v_threshold << arithmetic.STATE_FRACTION_BITS).astype(np.float64))
    spikes = torch.zeros(current.shape, dtype=torch.float32)
    membranes = torch.empty_like(current)
    reset = 0 if population.v_reset is None else population.v_reset << arithmetic.STATE_FRACTION_BITS
    after = torch.as_tensor(np.asarray(reset, dtype=np.float64))
    v = torch.zeros_like(current[0])
    for t in range(len(current)):
        v = v.mul_(keep).trunc_().add_(current[t]).clamp_(-arithmetic.STATE_LIMIT, arithmetic.STATE_LIMIT)
        if population.fires:
            fired = v > threshold
            spikes[t] = fired
            v = v - fired * threshold if population.soft_reset else torch.where(fired, after, v)
        membranes[t] = v
    return spikes, membranes


def run_gate(program: GateProgram, current: Tensor) -> Tensor:
    """Integer gate of an int64 current ``[T, B, *features]``; equal to `GateProgram.run_integer`."""
    values = [current]
    for step in program.steps:
        values.append(_OPS[step.op](step, [values[i] for i in step.inputs]))
    return values[-1]


def _constant(step: Step) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.asarray(step.constant, dtype=np.int64)))


def _conv2d(step: Step, args: list[Tensor]) -> Tensor:
    a = step.attributes
    out = functional.conv2d(
        args[0].double(), _constant(step).double(), None, a["stride"], a["padding"], a["dilation"], a["groups"]
    )
    return out.to(torch.int64)


def _top_k(step: Step, args: list[Tensor]) -> Tensor:
    k, axis = step.attributes["k"], step.attributes["axis"]
    n = args[0].shape[axis]
    if k <= 0:
        return torch.zeros_like(args[0])
    shape = [1] * args[0].ndim
    shape[axis] = n
    key = args[0] * n + torch.arange(n - 1, -1, -1).reshape(shape)
    limit = key.topk(min(k, n), dim=axis).values.amin(axis, keepdim=True)
    mask: Tensor = (key >= limit).to(torch.int64)
    return mask


def _rescale(step: Step, args: list[Tensor]) -> Tensor:
    a = step.attributes
    shifted = torch.div(args[0] * a["multiplier"], 2 ** a["shift"], rounding_mode="trunc")
    return torch.clamp(shifted, -a["limit"], a["limit"])


def _shift_divide(step: Step, args: list[Tensor]) -> Tensor:
    return torch.div(args[0] * 2 ** step.attributes["shift"], args[1], rounding_mode="trunc")


def _look_up(step: Step, args: list[Tensor]) -> Tensor:
    table = _constant(step)
    return table[(args[0] + step.attributes["offset"]).clamp(0, len(table) - 1)]


_OPS: dict[str, TensorOp] = {
    **SAME_OPS,
    "multiply_const": lambda s, a: a[0] * _constant(s),
    "add_const": lambda s, a: a[0] + _constant(s),
    "matmul": lambda s, a: a[0] @ _constant(s),
    "conv2d": _conv2d,
    "topk_mask": _top_k,
    "table": lambda s, a: _constant(s),
    "rescale": _rescale,
    "look_up": _look_up,
    "shift_divide": _shift_divide,
    "square_root": lambda s, a: a[0].double().sqrt().to(torch.int64),
}
