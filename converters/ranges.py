"""Proved value ranges of the integer net, in Python integers of any size: what is exact, what must be refused.

A range is a pair ``(low, high)``, both ends included. Ranges are worst cases over every input that the port admits, so
they hold for all data; they are not tight where values depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isqrt, prod

import numpy as np
from numpy.typing import NDArray

from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse, Whole
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.converters.gate_shapes import Shape, reduced_axes, value_shapes
from spikefold.errors import LoweringError

Range = tuple[int, int]

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
_U_LIMIT = 2**30
"""Leaves room for bias and membrane in 32 bits."""


def magnitude(bounds: Range) -> int:
    """Largest absolute value in a range."""
    return max(abs(bounds[0]), abs(bounds[1]))


def absolute_sum(weight: NDArray[np.int64]) -> int:
    """Largest ``sum(|w|)`` over the outputs of a weight ``[O, ...]``."""
    return int(np.abs(weight).reshape(len(weight), -1).sum(axis=1).max(initial=0))


def slowest(rate: Whole) -> int:
    """Smallest decay rate of a population."""
    return int(np.min(rate))


def synapse_bound(synapse: Synapse, messages: Range) -> int:
    """Largest magnitude of any (partial) weighted sum of one synapse for messages in that range."""
    return (absolute_sum(synapse.weight) * magnitude(messages)) << synapse.exponent


def weighted_range(graph: FixedPointGraph, population: Neurons) -> Range:
    """Range of the weighted sum of all synapses into ``population``, before it is shifted left."""
    low = high = 0
    for synapse in graph.incoming(population.name):
        weight = synapse.weight.reshape(len(synapse.weight), -1)
        negative, positive = -np.minimum(weight, 0).sum(axis=1), np.maximum(weight, 0).sum(axis=1)
        least, most = graph.message_range(synapse.source)
        low -= int((negative * most - positive * least).max(initial=0)) << synapse.exponent
        high += int((positive * most - negative * least).max(initial=0)) << synapse.exponent
    return low, high


def sum_bound(graph: FixedPointGraph, population: Neurons) -> int:
    """Largest magnitude of any number on the way to the current of ``population``.

    That is partial sums, shifted, with what is left of the last step's current, and bias.
    """
    total = sum(synapse_bound(s, graph.message_range(s.source)) for s in graph.incoming(population.name))
    left = magnitude(synaptic_range(graph, population)) * (arithmetic.NO_CURRENT_MEMORY - slowest(population.du))
    bias = int(np.abs(population.bias).max(initial=0))
    return (total << population.current_shift) + (left >> arithmetic.DECAY_BITS) + bias


def unwrapped_range(graph: FixedPointGraph, population: Neurons) -> Range:
    """Range of the synaptic current of ``population``, what it remembers included, before it wraps."""
    return _remembered(graph, population, 0)


def can_wrap(graph: FixedPointGraph, population: Neurons) -> bool:
    """Whether the synaptic current of ``population`` can leave the signed 24-bit range."""
    low, high = unwrapped_range(graph, population)
    return high > arithmetic.WRAP // 2 or low <= -(arithmetic.WRAP // 2)


def synaptic_range(graph: FixedPointGraph, population: Neurons) -> Range:
    """Range of the synaptic current ``u`` of ``population``, wrapped once, in clips of any length.

    Raises
    ------
    LoweringError
        What one step adds to a current that is remembered is so large that wrapping once does not keep it in 32 bits.
    """
    low, high = _remembered(graph, population, 0)
    if can_wrap(graph, population):
        half, (below, above) = arithmetic.WRAP // 2, _remembered(graph, population, arithmetic.WRAP)
        low, high = min(1 - half, below), max(half, above)
    if population.remembers_current and magnitude((low, high)) > _U_LIMIT:
        raise LoweringError(
            f"neurons {population.name!r}: the current that it remembers could reach {low}..{high}, outside 32 bits: "
            "use smaller weight exponents or a larger du"
        )
    return low, high


def current_range(graph: FixedPointGraph, population: Neurons) -> Range:
    """Range of the current of ``population``, its memory included, wrapped once and with its bias, before any gate."""
    low, high = synaptic_range(graph, population)
    return low + int(population.bias.min(initial=0)), high + int(population.bias.max(initial=0))


def gated_range(graph: FixedPointGraph, population: Neurons) -> Range:
    """Range of what the membrane of ``population`` adds in one step, its gate included.

    Raises
    ------
    LoweringError
        A value of the gate could leave 64 bits, or the gated current 32 bits; or the gate does not fit the population.
    """
    current = current_range(graph, population)
    if population.gate is None:
        return current
    where = f"neurons {population.name!r}"
    try:
        _check_fit(population, population.gate)
        gate = value_bounds(population.gate, current)[-1]
    except LoweringError as error:
        raise LoweringError(f"{where}: {error}") from error
    product = _multiply(current, gate)
    _check(product, f"{where}: current times gate")
    low, high = (_shift_toward_zero(end, population.gate_shift) for end in product)
    if magnitude((low, high)) > INT32_MAX:
        raise LoweringError(
            f"{where}: the gated current could reach {low}..{high}, outside 32 bits (gate {gate[0]}..{gate[1]}, "
            f"gate_shift {population.gate_shift}): use a smaller gate or smaller weight exponents"
        )
    return low, high


def membrane_range(graph: FixedPointGraph, population: Neurons, time_steps: int) -> Range:
    """Range of the membranes of ``population`` in clips of ``time_steps``, before they clip at 24 bits and reset.

    A neuron that has not fired holds at most its threshold; after a hard reset it holds ``v_reset``, which may be lower
    than any current alone would bring it. Ranges of currents hold 0, so both ends only move outwards.
    """
    current, rate = gated_range(graph, population), 2**arithmetic.DECAY_BITS - slowest(population.dv)
    if population.relay is not None:
        return current
    limit = held = arithmetic.STATE_LIMIT
    if population.fires and not population.soft_reset:
        held = int(population.v_threshold.max()) << arithmetic.STATE_FRACTION_BITS
    after = 0 if population.v_reset is None else int(population.v_reset.min()) << arithmetic.STATE_FRACTION_BITS
    low = high = 0
    for _ in range(time_steps):
        low = _shift_toward_zero(max(min(low, after), -limit) * rate, arithmetic.DECAY_BITS) + current[0]
        high = _shift_toward_zero(min(high, held) * rate, arithmetic.DECAY_BITS) + current[1]
    return low, high


def value_bounds(program: GateProgram, input_bound: Range) -> list[Range]:
    """Ranges of all values of an integer gate program; value 0, the current, has ``input_bound``.

    Raises
    ------
    LoweringError
        A value, or a number on the way to it, could leave 64 bits, or a statistic mixes the samples of a batch.
    """
    shapes, twice = value_shapes(program, 1), value_shapes(program, 2)
    ranges = [input_bound]
    for number, step in enumerate(program.steps):
        where = f"gate step {number} ({step.op})"
        if step.op not in _RANGES:
            raise LoweringError(f"{where}: no integer operation; lower the float program first")
        if step.constant is not None and np.asarray(step.constant).dtype.kind not in "iu":
            raise LoweringError(f"{where}: its constant is {np.asarray(step.constant).dtype}, it must be integer")
        given = [shapes[i] for i in step.inputs]
        if _extent(step, given[0]) != _extent(step, twice[step.inputs[0]]):
            raise LoweringError(f"{where}: it works along the batch axis ({dict(step.attributes)}), mixing samples")
        for working in _RANGES[step.op](step, [ranges[i] for i in step.inputs], given[0]):
            _check(working, where)
        ranges.append(working)
    return ranges


def _remembered(graph: FixedPointGraph, population: Neurons, less: int) -> Range:
    """Range of sums over time of a step's shifted weighted sums, brought ``less`` nearer to 0, as ``du`` forgets them.

    At the end ``h`` no step can add more than decay takes: ``tz(h * (4096 - k) >> 12) + most <= h`` with ``k = du + 1``
    says that ``h * k / 4096``, rounded up, is ``most`` at least; the smallest such h is it.
    """
    low, high = (end << population.current_shift for end in weighted_range(graph, population))
    k, one = slowest(population.du) + 1, 2**arithmetic.DECAY_BITS
    down, up = (0 if most <= 0 else (most - 1) * one // k + 1 for most in (-low - less, high - less))
    return -down, up


def _check(bounds: Range, where: str) -> None:
    if magnitude(bounds) > INT64_MAX:
        raise LoweringError(f"{where}: values could reach {bounds[0]}..{bounds[1]}, outside 64 bits: rescale earlier")


def _check_fit(population: Neurons, program: GateProgram) -> None:
    expected = (program.time_steps, -1, *population.shape)
    if tuple(program.input_shape) != expected:
        raise LoweringError(f"its gate reads a current of shape {program.input_shape}, not {expected}")
    for batch in (1, 2):
        shapes = value_shapes(program, batch)
        try:
            together: Shape | None = np.broadcast_shapes(shapes[0], shapes[-1])
        except ValueError:
            together = None
        if together != shapes[0]:
            raise LoweringError(f"its gate has shape {shapes[-1]}, which does not broadcast to the current {shapes[0]}")


def _shift_toward_zero(value: int, bits: int) -> int:
    return -(-value >> bits) if value < 0 else value >> bits


def _divide_toward_zero(value: int, by: int) -> int:
    return -(-value // by) if value < 0 else value // by


def _multiply(a: Range, b: Range) -> Range:
    products = [x * y for x in a for y in b]
    return min(products), max(products)


def _square(a: Range) -> Range:
    low, high = _multiply(a, a)
    return (0 if low < 0 else low), high


def _extent(step: Step, shape: Shape) -> int:
    """Length of what a step reduces, ranks or cuts; 1 for all others."""
    if step.op in ("sum", "max"):
        return _reduced(step, shape)
    if step.op.startswith("running_"):
        return shape[0]
    return shape[step.attributes["axis"]] if step.op in ("topk_mask", "slice") else 1


def _reduced(step: Step, shape: Shape) -> int:
    return prod(shape[a] for a in reduced_axes(step, len(shape)))


def _constant_range(step: Step) -> Range:
    constant = np.asarray(step.constant)
    return int(constant.min()), int(constant.max())


def _weighted(weight: NDArray[np.int64], axes: tuple[int, ...], bounds: Range) -> list[Range]:
    """Range of every partial sum, then of the whole weighted sum, of values in ``bounds``."""
    exact = np.asarray(weight).astype(object)
    positive = np.maximum(exact, 0).sum(axis=axes).ravel()
    negative = np.minimum(exact, 0).sum(axis=axes).ravel()
    low, high = bounds
    partial = max(positive - negative) * magnitude(bounds)
    return [(-partial, partial), (min(positive * low + negative * high), max(positive * high + negative * low))]


def _conv_range(step: Step, r: Sequence[Range], shape: Shape) -> list[Range]:
    padded = (min(0, r[0][0]), max(0, r[0][1])) if any(step.attributes["padding"]) else r[0]
    return _weighted(np.asarray(step.constant), (1, 2, 3), padded)


def _running_sum_range(step: Step, r: Sequence[Range], shape: Shape) -> list[Range]:
    (low, high), n = r[0], shape[0]
    return [(min(low, n * low), max(high, n * high))]


def _sum_range(step: Step, r: Sequence[Range], shape: Shape) -> list[Range]:
    n = _reduced(step, shape)
    return [(-n * magnitude(r[0]), n * magnitude(r[0])), (n * r[0][0], n * r[0][1])]


def _top_k_range(step: Step, r: Sequence[Range], shape: Shape) -> list[Range]:
    n = shape[step.attributes["axis"]]
    return [(r[0][0] * n, r[0][1] * n + n - 1), (0, 1)]


def _rescale_range(step: Step, r: Sequence[Range], shape: Shape) -> list[Range]:
    multiplier, shift, limit = (step.attributes[k] for k in ("multiplier", "shift", "limit"))
    if not 0 <= shift <= 62:
        raise LoweringError(f"gate step rescale: shift is {shift}, it must be 0..62")
    product = _multiply(r[0], (multiplier, multiplier))
    low, high = (min(limit, max(-limit, _shift_toward_zero(end, shift))) for end in product)
    return [product, (low, high)]


def _divide_range(step: Step, r: Sequence[Range], shape: Shape) -> list[Range]:
    shift, (low, high) = step.attributes["shift"], r[1]
    if not 0 <= shift <= 62:
        raise LoweringError(f"gate step shift_divide: shift is {shift}, it must be 0..62")
    if low <= 0:
        raise LoweringError(f"gate step shift_divide: its denominator could reach {low}..{high}, it must be above 0")
    numerator = (r[0][0] << shift, r[0][1] << shift)
    ends = [_divide_toward_zero(n, d) for n in numerator for d in (low, high)]
    return [numerator, (min(ends), max(ends))]


def _square_root_range(step: Step, r: Sequence[Range], shape: Shape) -> list[Range]:
    low, high = r[0]
    if low < 0 or high >= 1 << arithmetic.MAX_SQUARE_BITS:
        raise LoweringError(
            f"gate step square_root: values could reach {low}..{high}; they must lie within 0..2**52 - 1"
        )
    return [(isqrt(low), isqrt(high))]


def _look_up_range(step: Step, r: Sequence[Range], shape: Shape) -> list[Range]:
    table, offset = np.asarray(step.constant), step.attributes["offset"]
    index = (r[0][0] + offset, r[0][1] + offset)
    first, last = (min(len(table) - 1, max(0, end)) for end in index)
    reached = table[first : last + 1]
    return [index, (int(reached.min()), int(reached.max()))]


def _clip_range(step: Step, r: Sequence[Range], shape: Shape) -> list[Range]:
    low, high = step.attributes["low"], step.attributes["high"]
    return [(min(high, max(low, r[0][0])), min(high, max(low, r[0][1])))]


def _same(step: Step, r: Sequence[Range], shape: Shape) -> list[Range]:
    return [r[0]]


_RangeOp = Callable[[Step, Sequence[Range], Shape], list[Range]]
_RANGES: dict[str, _RangeOp] = {
    "reshape": _same,
    "permute": _same,
    "broadcast": _same,
    "slice": _same,
    "max": _same,
    "sum": _sum_range,
    "add": lambda s, r, _: [(r[0][0] + r[1][0], r[0][1] + r[1][1])],
    "subtract": lambda s, r, _: [(r[0][0] - r[1][1], r[0][1] - r[1][0])],
    "multiply": lambda s, r, _: [_square(r[0]) if s.inputs[0] == s.inputs[1] else _multiply(r[0], r[1])],
    "multiply_const": lambda s, r, _: [_multiply(r[0], _constant_range(s))],
    "add_const": lambda s, r, _: [(r[0][0] + _constant_range(s)[0], r[0][1] + _constant_range(s)[1])],
    "relu": lambda s, r, _: [(max(0, r[0][0]), max(0, r[0][1]))],
    "clip": _clip_range,
    "matmul": lambda s, r, _: _weighted(np.asarray(s.constant), (-2,), r[0]),
    "conv2d": _conv_range,
    "topk_mask": _top_k_range,
    "concat": lambda s, r, _: [(min(x[0] for x in r), max(x[1] for x in r))],
    "rescale": _rescale_range,
    "look_up": _look_up_range,
    "table": lambda s, r, _: [_constant_range(s)],
    "running_sum": _running_sum_range,
    "running_max": _same,
    "running_topk_mask": lambda s, r, _: [(0, 1)],
    "shift_divide": _divide_range,
    "square_root": _square_root_range,
}
"""Ranges on the way to a step's value, the value's own last; given the ranges and the first shape of its inputs."""
