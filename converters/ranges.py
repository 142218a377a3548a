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
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.errors import LoweringError

Range = tuple[int, int]
Shape = tuple[int, ...]

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


def magnitude(bounds: Range) -> int:
    """Largest absolute value in a range."""
    return max(abs(bounds[0]), abs(bounds[1]))


def absolute_sum(weight: NDArray[np.int64]) -> int:
    """Largest ``sum(|w|)`` over the outputs of a weight ``[O, ...]``."""
    return int(np.abs(weight).reshape(len(weight), -1).sum(axis=1).max(initial=0))


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
    """Largest magnitude of any number on the way to the current of ``population``: partial sums, shifted, and bias."""
    total = sum(synapse_bound(s, graph.message_range(s.source)) for s in graph.incoming(population.name))
    return (total << population.current_shift) + int(np.abs(population.bias).max(initial=0))


def can_wrap(graph: FixedPointGraph, population: Neurons) -> bool:
    """Whether the shifted weighted sums of ``population`` can leave the signed 24-bit range."""
    low, high = _shifted(weighted_range(graph, population), population.current_shift)
    return high > arithmetic.WRAP // 2 or low <= -(arithmetic.WRAP // 2)


def current_range(graph: FixedPointGraph, population: Neurons) -> Range:
    """Range of the current of ``population``, wrapped once and with its bias, before any gate."""
    low, high = _shifted(weighted_range(graph, population), population.current_shift)
    half = arithmetic.WRAP // 2
    wraps_down, wraps_up = high > half, low <= -half
    if wraps_down:
        low, high = min(low, 1 - half), max(half, high - arithmetic.WRAP)
    if wraps_up:
        low, high = min(1 - half, low + arithmetic.WRAP), max(high, half)
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
    current, rate = gated_range(graph, population), 2**arithmetic.DECAY_BITS - population.dv
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


def value_shapes(program: GateProgram, batch: int) -> list[Shape]:
    """Shapes of all values of a gate program (value 0 is the current) for clips of ``batch`` samples.

    Raises
    ------
    LoweringError
        Shapes that do not fit together; the message names the step.
    """
    shapes: list[Shape] = [tuple(batch if n == -1 else n for n in program.input_shape)]
    for number, step in enumerate(program.steps):
        try:
            shapes.append(_shape(step, [shapes[i] for i in step.inputs]))
        except (ValueError, IndexError, KeyError, TypeError, ZeroDivisionError) as error:
            given = [shapes[i] for i in step.inputs if i < len(shapes)]
            raise LoweringError(
                f"gate step {number} ({step.op}): inputs of shape {given} do not fit {dict(step.attributes)}: {error}"
            ) from error
    return shapes


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


def _shifted(bounds: Range, bits: int) -> Range:
    return bounds[0] << bits, bounds[1] << bits


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


def _axes(step: Step, rank: int) -> tuple[int, ...]:
    axes = step.attributes["axes"]
    return tuple(a % rank for a in ((axes,) if isinstance(axes, int) else axes))


def _extent(step: Step, shape: Shape) -> int:
    """Length of what a step reduces, ranks or cuts; 1 for all others."""
    if step.op in ("sum", "max"):
        return _reduced(step, shape)
    if step.op.startswith("running_"):
        return shape[0]
    return shape[step.attributes["axis"]] if step.op in ("topk_mask", "slice") else 1


def _reduced(step: Step, shape: Shape) -> int:
    return prod(shape[a] for a in _axes(step, len(shape)))


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


def _shape(step: Step, given: list[Shape]) -> Shape:
    a, first = step.attributes, given[0]
    constant = np.shape(() if step.constant is None else np.asarray(step.constant))
    match step.op:
        case "conv2d":
            return _conv_shape(step, first)
        case "sum" | "max":
            axes = _axes(step, len(first))
            return tuple(1 if i in axes else n for i, n in enumerate(first) if a["keepdim"] or i not in axes)
        case "matmul":
            return (_hollow(first) @ _hollow(constant)).shape
        case "reshape":
            return _hollow(first).reshape(a["shape"]).shape
        case "permute":
            return _hollow(first).transpose(a["axes"]).shape
        case "slice":
            index = [slice(None)] * len(first)
            index[a["axis"]] = slice(a["start"], a["stop"])
            return _hollow(first)[tuple(index)].shape
        case "broadcast":
            have = (1,) * (len(a["shape"]) - len(first)) + first
            return np.broadcast_shapes(tuple(h if w == -1 else w for w, h in zip(a["shape"], have, strict=True)), first)
        case "concat":
            return np.concatenate([_hollow(s) for s in given], axis=a["axis"]).shape
        case "add" | "subtract" | "multiply" | "shift_divide":
            return np.broadcast_shapes(*given)
        case "multiply_const" | "add_const":
            return np.broadcast_shapes(first, constant)
        case "table":
            return constant
        case _:
            return first


def _hollow(shape: Shape) -> NDArray[np.int8]:
    return np.zeros(shape, dtype=np.int8)


def _conv_shape(step: Step, first: Shape) -> Shape:
    a = step.attributes
    n, channels, *size = first
    out, per_group, *kernel = np.shape(np.asarray(step.constant))
    if per_group * a["groups"] != channels:
        raise ValueError(f"kernel of {per_group} x {a['groups']} channels on {channels} channels")
    steps = zip(size, kernel, a["padding"], a["dilation"], a["stride"], strict=True)
    return (n, out, *((m + 2 * p - d * (k - 1) - 1) // s + 1 for m, k, p, d, s in steps))
