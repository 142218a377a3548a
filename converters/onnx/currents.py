"""From the messages of the sources to the current of one population: convolutions, matrix products, wrap and bias."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import TensorProto

from spikefold.converters import arithmetic, ranges
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse
from spikefold.converters.onnx import exact
from spikefold.converters.onnx.emitter import DOMAIN, Emitter
from spikefold.converters.onnx.functions import GATED_CURRENT, SYNAPTIC_CURRENT, WRAP24, kept_share
from spikefold.errors import LoweringError

SATURATING = 2**24
"""A current this large saturates the membrane whatever the membrane was."""

MessagesOf = Callable[[Synapse, int], str]
"""Gives the tensor ``[N, *source]`` of the messages that arrive over a synapse, in an ONNX element type."""


def sum_type(graph: FixedPointGraph, population: Neurons) -> int:
    """Element type of the weighted sums of ``population``: int32 where the range allows, else int64.

    Raises
    ------
    LoweringError
        Sums could leave 64 bits.
    """
    largest = ranges.sum_bound(graph, population)
    if largest > ranges.INT64_MAX:
        raise LoweringError(
            f"neurons {population.name!r}: weighted sums could reach {largest}, outside 64 bits: use smaller exponents"
        )
    return int(TensorProto.INT32 if largest <= ranges.INT32_MAX else TensorProto.INT64)


def emit_weighted(
    e: Emitter, graph: FixedPointGraph, population: Neurons, synapses: Sequence[Synapse], messages: MessagesOf
) -> str:
    """Append the weighted sums of one or more synapses into ``population``, shifted left.

    Parameters
    ----------
    e : Emitter
        Where the nodes go.
    graph, population, synapses
        The net, and the synapses into a population of it.
    messages : callable
        Gives the tensor of what arrives over a synapse, as float32 or int64.

    Returns
    -------
    str
        Tensor ``[N, *shape]`` of `sum_type`.

    Raises
    ------
    LoweringError
        Sums could leave 64 bits, or a convolution has no exact form.
    """
    dtype = sum_type(graph, population)
    return exact.add_all(e, [_weighted(e, graph, s, population, messages, dtype) for s in synapses])


def emit_current(
    e: Emitter,
    graph: FixedPointGraph,
    population: Neurons,
    weighted: str,
    step: str | None = None,
    memory: tuple[str, str] | None = None,
) -> tuple[str, int]:
    """Append the current of ``population``, bias included, before its gate.

    Parameters
    ----------
    e : Emitter
        Where the nodes go.
    graph, population
        The net, and the population whose current is wanted.
    weighted : str
        Its weighted sums ``[N, *shape]``, of `sum_type`.
    step : str, optional
        Tensor that says which step all N are; None where N is T and B merged.
    memory : pair of str, optional
        Synaptic currents before this step, int32, and the name of those after it; for a population that remembers them.

    Returns
    -------
    str, int
        Tensor ``[N, *shape]`` and its element type, int32 or int64.
    """
    total, dtype = weighted, sum_type(graph, population)
    if memory is not None:
        share = kept_share(e, np.asarray(population.du) + 1)
        total = e.op(SYNAPTIC_CURRENT, memory[0], total, share, name=memory[1], domain=DOMAIN)
        dtype = int(TensorProto.INT32)
    elif ranges.can_wrap(graph, population):
        total = e.op(WRAP24, total, domain=DOMAIN)
    if population.bias.any():
        total = _with_bias(e, population, total, np.int32 if dtype == TensorProto.INT32 else np.int64, step)
    return total, dtype


def _with_bias(e: Emitter, population: Neurons, total: str, dtype: type[np.int32 | np.int64], step: str | None) -> str:
    shape, bias = population.shape, population.bias
    if not population.has_bias_schedule:
        return e.op("Add", total, e.constant(bias.reshape((1,) * (len(shape) - bias.ndim) + bias.shape), dtype))
    table = e.constant(bias, dtype)
    if step is not None:
        return e.op("Add", total, e.op("Gather", table, step, axis=0))
    total = e.op("Reshape", total, e.constant([len(bias), -1, *shape]))
    return e.op("Reshape", e.op("Add", total, table), e.constant([-1, *shape]))


def saturate(e: Emitter, current: str, bounds: ranges.Range, dtype: int) -> str:
    """Bring a current in ``bounds`` to int32 such that adding it to a membrane cannot overflow."""
    if ranges.magnitude(bounds) > ranges.INT32_MAX - arithmetic.STATE_LIMIT:
        if dtype == TensorProto.INT32:
            return e.op("Clip", current, e.constant(-SATURATING, np.int32), e.constant(SATURATING, np.int32))
        current = exact.clamp(e, current, bounds, -SATURATING, SATURATING)
    return _to(e, current, dtype, TensorProto.INT32)


def gated_current(e: Emitter, population: Neurons, current: str, gate: str, bounds: ranges.Range) -> str:
    """Multiply a current by an int64 gate, as int32; ``bounds`` is the range of the result."""
    if (ranges.magnitude(bounds) + 1) << population.gate_shift > exact.FLOAT64_EXACT:
        raise LoweringError(
            f"neurons {population.name!r}: gate_shift {population.gate_shift} with gated currents to {bounds} passes "
            "53 bits, which the ONNX form cannot multiply exactly: use a smaller gate_shift"
        )
    return e.op(GATED_CURRENT, current, gate, domain=DOMAIN, gate_shift=population.gate_shift)


def _to(e: Emitter, value: str, have: int, want: int) -> str:
    return value if have == want else e.cast(value, want)


def _weighted(
    e: Emitter, graph: FixedPointGraph, synapse: Synapse, population: Neurons, messages: MessagesOf, dtype: int
) -> str:
    """Shifted weighted sum of one synapse as ``dtype``, ``[N, *shape]``."""
    scale = synapse.exponent + population.current_shift
    bounds = graph.message_range(synapse.source)
    is_exact = exact.fits_float32(synapse.weight, bounds)
    values = messages(synapse, TensorProto.FLOAT if is_exact else TensorProto.INT64)
    if synapse.kind == "conv":
        if is_exact:
            return e.cast(exact.convolve_float(e, values, synapse.weight, scale, synapse.conv_attributes), dtype)
        where = f"synapse {synapse.name!r}"
        out = exact.convolve_int64(e, values, synapse.weight, bounds, scale, synapse.conv_attributes, where)
        return _to(e, out, TensorProto.INT64, dtype)
    if len(graph.source_shape(synapse.source)) > 1:
        values = e.op("Reshape", values, e.constant([-1, synapse.weight.shape[1]]))
    if is_exact:
        weight = e.constant(np.ldexp(synapse.weight.T.astype(np.float64), scale), np.float32)
        out = e.cast(e.op("MatMul", values, weight), dtype)
    else:
        out = _to(e, exact.matmul_int64(e, values, synapse.weight.T << scale), TensorProto.INT64, dtype)
    if len(population.shape) > 1:
        out = e.op("Reshape", out, e.constant([-1, *population.shape]))
    return out
