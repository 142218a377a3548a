"""Run a `FixedPointGraph` in torch: the integers of `spikefold.converters.reference`, in whole batches.

Convolutions run in float32 where ``sum |w| * max x < 2**24`` proves them exact, else in float64 (exact below 2**53);
currents and membranes are float64 whole numbers, whose 12-bit decay stays below 2**53; gates run in int64. A net whose
sums could pass 2**53 is refused. Populations in a loop run one step at a time, all others a clip at a time. On another
device than the CPU, sums are the matrix products of `spikefold.converters.whole_sums`, exact by the same proofs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse, Whole
from spikefold.converters.gate_float import SAME_OPS, TensorOp
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.converters.ranges import can_wrap, sum_bound, synapse_bound
from spikefold.converters.reference import Trace, check_input, read_out
from spikefold.converters.whole_sums import convolve, full_precision, multiply
from spikefold.errors import BackendError, LoweringError

EXACT_FLOAT32 = 2**24
EXACT_FLOAT64 = 2**53


def run_engine(graph: FixedPointGraph, clips: NDArray[np.generic], device: str = "cpu") -> Trace:
    """Run clips ``[T, B, *shape]`` on a torch device; equal to `run_reference` in every bit.

    Raises
    ------
    BackendError
        Torch finds no such device.
    InputError
        The clips do not fit the input port.
    LoweringError
        Weighted sums could pass 2**53.
    """
    whole, membranes = check_input(graph, clips), dict[str, Tensor]()
    with torch.no_grad(), _found(device), full_precision():
        spikes = {graph.input.name: torch.as_tensor(whole).to(torch.float32)}
        for block in graph.blocks:
            _check_sums(graph, block)
            if graph.is_loop(block):
                _run_loop(graph, block, spikes, membranes)
                continue
            spikes[block[0].name], membranes[block[0].name] = _run(graph, block[0], spikes, _State(), 0, len(clips))
    trains, kept = (
        {n.name: of[n.name].to(torch.int64).cpu().numpy() for n in graph.neurons} for of in (spikes, membranes)
    )
    return Trace(trains, kept, read_out(graph.output, trains, kept, len(clips)))


def _found(device: str) -> torch.device:
    """A device on which torch can make numbers; as a context, it is where new tensors are made."""
    try:
        found = torch.device(device)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise BackendError(f"device {device!r}: {str(error).splitlines()[0]}; use the CPU") from error
    return found


@dataclass
class _State:
    """Current and membrane after the last step, float64; 0 when a clip starts."""

    u: Tensor | float = 0.0
    v: Tensor | float = 0.0


def _run_loop(
    graph: FixedPointGraph, block: tuple[Neurons, ...], spikes: dict[str, Tensor], membranes: dict[str, Tensor]
) -> None:
    """Run populations that wait for each other, one step after another."""
    steps, batch = spikes[graph.input.name].shape[:2]
    for n in block:
        spikes[n.name] = torch.zeros(steps, batch, *n.shape)
        membranes[n.name] = torch.zeros(steps, batch, *n.shape, dtype=torch.float64)
    states = {n.name: _State() for n in block}
    for t in range(steps):
        for n in block:
            spikes[n.name][t : t + 1], membranes[n.name][t : t + 1] = _run(graph, n, spikes, states[n.name], t, 1)


def _run(
    graph: FixedPointGraph, population: Neurons, spikes: dict[str, Tensor], state: _State, first: int, steps: int
) -> tuple[Tensor, Tensor]:
    """Messages and membranes of so many steps from step ``first`` on; brings ``state`` up to date."""
    return _fire(population, _current(graph, population, spikes, state, first, steps), state)


def arriving(messages: Tensor, delay: Whole, first: int, steps: int) -> Tensor:
    """What of ``messages`` ``[T, B, *source]`` arrives from step ``first`` on, ``[steps, B, *source]``."""
    if not np.any(delay):
        return messages[first : first + steps]
    arrived = torch.zeros_like(messages[first : first + steps])
    for late in np.unique(delay).tolist():
        start = max(first, late)
        if start < first + steps:
            there = torch.as_tensor(np.equal(delay, late)).to(messages.dtype)
            arrived[start - first :] += messages[start - late : first + steps - late] * there
    return arrived


def _check_sums(graph: FixedPointGraph, block: tuple[Neurons, ...]) -> None:
    for population in block:
        largest = sum_bound(graph, population)
        if largest > EXACT_FLOAT64:
            raise LoweringError(
                f"neurons {population.name!r}: weighted sums could reach {largest}, outside the 53 bits that torch "
                "adds exactly: use smaller exponents or smaller messages"
            )


def _current(
    graph: FixedPointGraph, population: Neurons, spikes: dict[str, Tensor], state: _State, first: int, steps: int
) -> Tensor:
    """What is added to the membranes, float64 whole numbers ``[steps, B, *shape]``."""
    batch = spikes[graph.input.name].shape[1]
    total = torch.zeros(steps, batch, *population.shape, dtype=torch.float64)
    for synapse in graph.incoming(population.name):
        exact = synapse_bound(synapse, graph.message_range(synapse.source)) < EXACT_FLOAT32
        dtype = torch.float32 if exact else torch.float64
        messages = arriving(spikes[synapse.source], synapse.delay, first, steps).to(dtype)
        total += _weighted(synapse, messages).reshape(total.shape)
    total *= 2**population.current_shift
    if population.remembers_current:
        total = _remember(population, total, state, can_wrap(graph, population))
    elif can_wrap(graph, population):
        total = _wrap24(total)
    bias = population.bias[first : first + steps] if population.has_bias_schedule else population.bias
    total = total + torch.as_tensor(np.asarray(bias, dtype=np.float64))
    if population.gate is None:
        return total
    current, table = total.to(torch.int64), population.gate_table
    gate = run_gate(population.gate, current) if table is None else torch.as_tensor(table[first : first + steps])
    gated = current * gate
    return torch.div(gated, 2**population.gate_shift, rounding_mode="trunc").to(torch.float64)


def _wrap24(value: Tensor) -> Tensor:
    half = arithmetic.WRAP // 2
    value = torch.where(value > half, value - arithmetic.WRAP, value)
    return torch.where(value <= -half, value + arithmetic.WRAP, value)


def _kept(rate: Whole) -> Tensor:
    """What a decay rate leaves, as a factor."""
    return torch.as_tensor(1 - np.asarray(rate, dtype=np.float64) / 2**arithmetic.DECAY_BITS)


def _remember(population: Neurons, total: Tensor, state: _State, wraps: bool) -> Tensor:
    """Synaptic currents after each step, from the shifted weighted sums."""
    keep = _kept(np.asarray(population.du) + 1)
    for t in range(len(total)):
        u = (state.u * keep).trunc() + total[t]
        total[t] = state.u = _wrap24(u) if wraps else u
    return total


def _weighted(synapse: Synapse, messages: Tensor) -> Tensor:
    weight = torch.as_tensor(synapse.effective_weight).to(messages.dtype)
    if synapse.kind == "dense":
        return messages.flatten(2) @ weight.T
    if messages.dtype == torch.float32 and messages.device.type == "cpu":
        return functional.conv2d(messages.flatten(0, 1), weight, None, **synapse.conv_attributes)
    return convolve(messages.flatten(0, 1), weight, synapse.conv_attributes)


def _fire(population: Neurons, current: Tensor, state: _State) -> tuple[Tensor, Tensor]:
    """Spikes (float32) and membranes after the reset (float64), ``[T, B, *shape]``."""
    relay = population.relay
    if relay is not None:
        sent = current.clamp(-arithmetic.STATE_LIMIT, arithmetic.STATE_LIMIT)
        return (sent / 2**relay.shift).trunc().clamp(relay.low, relay.high).float(), sent
    keep = _kept(population.dv)
    threshold = torch.as_tensor((population.v_threshold << arithmetic.STATE_FRACTION_BITS).astype(np.float64))
    spikes = torch.zeros(current.shape, dtype=torch.float32)
    membranes = torch.empty_like(current)
    reset = 0 if population.v_reset is None else population.v_reset << arithmetic.STATE_FRACTION_BITS
    after = torch.as_tensor(np.asarray(reset, dtype=np.float64))
    v = state.v + torch.zeros_like(current[0])
    for t in range(len(current)):
        v = v.mul_(keep).trunc_().add_(current[t]).clamp_(-arithmetic.STATE_LIMIT, arithmetic.STATE_LIMIT)
        if population.fires:
            fired = v > threshold
            spikes[t] = fired
            v = v - fired * (threshold - after) if population.soft_reset else torch.where(fired, after, v)
        membranes[t] = v
    state.v = v
    return spikes, membranes


def run_gate(program: GateProgram, current: Tensor) -> Tensor:
    """Integer gate of an int64 current ``[T, B, *features]``; equal to `GateProgram.run_integer`."""
    values = [current]
    with current.device:
        for step in program.steps:
            values.append(_OPS[step.op](step, [values[i] for i in step.inputs]))
    return values[-1]


def _constant(step: Step) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(np.asarray(step.constant, dtype=np.int64)))


def _conv2d(step: Step, args: list[Tensor]) -> Tensor:
    return convolve(args[0].double(), _constant(step).double(), step.attributes).to(torch.int64)


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
    "matmul": lambda s, a: multiply(a[0], _constant(s)),
    "conv2d": _conv2d,
    "topk_mask": _top_k,
    "table": lambda s, a: _constant(s),
    "rescale": _rescale,
    "look_up": _look_up,
    "shift_divide": _shift_divide,
    "square_root": lambda s, a: a[0].double().sqrt().to(torch.int64),
}
