"""From the messages of the sources to the current of one population: convolutions, matrix products, wrap and bias."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from spikefold.converters import arithmetic, ranges
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse
from spikefold.converters.onnx import exact
from spikefold.converters.onnx.emitter import DOMAIN, Emitter
from spikefold.converters.onnx.functions import GATED_CURRENT, WRAP24
from spikefold.errors import LoweringError

SATURATING = 2**24
"""A current this large saturates the membrane whatever the membrane was."""

MessagesOf = Callable[[str, int], str]
"""Gives the tensor ``[N, *shape]`` of a source's messages in an ONNX element type."""


def emit_current(
    e: Emitter, graph: FixedPointGraph, population: Neurons, messages: MessagesOf, step: str | None = None
) -> tuple[str, int]:
    """Append the current of ``population``, bias included, before its gate.

    Parameters
    ----------
    e : Emitter
        Where the nodes go.
    graph, population
        The net, and the population whose current is wanted.
    messages : callable
        Gives the tensor of a source's messages, as float32 or int64.
    step : str, optional
        Tensor that says which step all N are; None where N is T and B merged.

    Returns
    -------
    str, int
        Tensor ``[N, *shape]`` and its element type: int32 where the range allows, else int64.

    Raises
    ------
    LoweringError
        Sums could leave 64 bits, or a convolution has no exact form.
    """
    incoming = graph.incoming(population.name)
    largest = ranges.sum_bound(graph, population)
    if largest > ranges.INT64_MAX:
        raise LoweringError(
            f"neurons {population.name!r}: weighted sums could reach {largest}, outside 64 bits: use smaller exponents"
        )
    narrow = largest <= ranges.INT32_MAX
    dtype = TensorProto.INT32 if narrow else TensorProto.INT64
    parts = [_weighted(e, graph, s, population, messages, dtype) for s in incoming]
    total = exact.add_all(e, parts)
    if ranges.can_wrap(graph, population):
        total = e.op(WRAP24, total, domain=DOMAIN)
    if population.bias.any():
        total = _with_bias(e, population, total, np.int32 if narrow else np.int64, step)
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
    values = messages(synapse.source, TensorProto.FLOAT if is_exact else TensorProto.INT64)
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
