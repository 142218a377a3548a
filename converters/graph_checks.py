"""What `FixedPointGraph` asks of its parts: shapes that fit, integers in range, loops that have a delay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spikefold.converters import arithmetic
from spikefold.errors import LoweringError

if TYPE_CHECKING:
    from spikefold.converters.fixed_point_graph import Neurons, Synapse


def check_synapse(synapse: Synapse, source: tuple[int, ...], target: tuple[int, ...]) -> None:
    """Check weights, exponent, delay and shape of a synapse between ends of these shapes."""
    where = f"synapse {synapse.name!r}"
    delay = np.asarray(synapse.delay)
    if not _broadcasts(delay, source):
        raise LoweringError(f"{where}: delay of shape {delay.shape} does not fit its source {source}")
    if delay.dtype.kind not in "iu" or delay.min() < 0:
        raise LoweringError(f"{where}: delay is {delay.min()}..{delay.max()}; it is whole steps, 0 or more")
    weight = synapse.weight
    if weight.size and (int(weight.min()) < -256 or int(weight.max()) > 254 or bool((weight & 1).any())):
        raise LoweringError(f"{where}: weight {weight.min()}..{weight.max()}: mantissas are even and within -256..254")
    if not 0 <= synapse.exponent <= arithmetic.MAX_WEIGHT_EXPONENT:
        raise LoweringError(f"{where}: exponent is {synapse.exponent}, it must be 0..{arithmetic.MAX_WEIGHT_EXPONENT}")
    if synapse.kind == "dense":
        expected = (int(np.prod(target)), int(np.prod(source)))
        if weight.shape != expected:
            raise LoweringError(f"{where}: weight has shape {weight.shape}, its ends ask for {expected}")
        return
    (channels, height, width), k = source, weight.shape
    size = [
        (n + 2 * p - d * (m - 1) - 1) // s + 1
        for n, m, p, s, d in zip((height, width), k[2:], synapse.padding, synapse.stride, synapse.dilation, strict=True)
    ]
    if (k[0], *size) != tuple(target) or k[1] * synapse.groups != channels:
        raise LoweringError(f"{where}: kernel {k} on {source} gives {(k[0], *size)}, its target has shape {target}")


def check_neurons(n: Neurons, time_steps: int | None) -> None:
    """Check decays, thresholds, bias, reset and relay of a population."""
    where = f"neurons {n.name!r}"
    for field_name, rate in (("dv", np.asarray(n.dv)), ("du", np.asarray(n.du))):
        if rate.dtype.kind not in "iu" or rate.min() < 0 or rate.max() >= 2**arithmetic.DECAY_BITS:
            found = rate.min() if rate.size == 1 else f"{rate.min()}..{rate.max()}"
            raise LoweringError(f"{where}: {field_name} is {found}, it must be 0..4095")
    if n.remembers_current and (n.gate is not None or n.relay is not None):
        raise LoweringError(
            f"{where}: a population with a gate or a relay has no current memory: its du is "
            f"{np.min(n.du)}, it must be {arithmetic.NO_CURRENT_MEMORY}"
        )
    if n.fires and (n.v_threshold.min() < 0 or n.v_threshold.max() > arithmetic.MAX_THRESHOLD):
        raise LoweringError(
            f"{where}: v_threshold {n.v_threshold.min()}..{n.v_threshold.max()} leaves 0..{arithmetic.MAX_THRESHOLD}"
        )
    if np.abs(n.bias_mantissa).max(initial=0) > arithmetic.MAX_BIAS_MANTISSA:
        raise LoweringError(f"{where}: bias mantissa {np.abs(n.bias_mantissa).max()} is above 4095")
    if not 0 <= n.bias_exponent <= arithmetic.MAX_BIAS_EXPONENT:
        raise LoweringError(f"{where}: bias exponent is {n.bias_exponent}, it must be 0..7")
    if not 0 <= n.current_shift <= arithmetic.STATE_FRACTION_BITS:
        raise LoweringError(f"{where}: current_shift is {n.current_shift}, it must be 0..6")
    bias = n.bias_mantissa
    if n.has_bias_schedule:
        if bias.shape[:2] != (time_steps, 1):
            raise LoweringError(
                f"{where}: bias_mantissa of shape {bias.shape} changes with the step; its first axes must be those of "
                f"the net, ({time_steps}, 1)"
            )
        bias = bias[0, 0]
    given = {"v_threshold": n.v_threshold, "bias_mantissa": bias, "v_reset": n.v_reset, "dv": n.dv, "du": n.du}
    for field_name, array in given.items():
        if array is not None and not _broadcasts(np.asarray(array), n.shape):
            raise LoweringError(
                f"{where}: {field_name} of shape {getattr(n, field_name).shape} does not fit neurons {n.shape}"
            )
    if n.v_reset is not None:
        lowest, highest = int(n.v_reset.min()), int((n.v_reset - n.v_threshold).max())
        if lowest < -arithmetic.MAX_THRESHOLD or highest > 0 or not n.fires:
            raise LoweringError(
                f"{where}: v_reset {lowest}..{n.v_reset.max()} must lie within -{arithmetic.MAX_THRESHOLD} and "
                "v_threshold, and belongs to neurons that fire"
            )
    if n.relay is not None:
        _check_relay(where, n)


def _check_relay(where: str, n: Neurons) -> None:
    relay = n.relay
    if relay is None:
        return
    if n.fires or n.soft_reset or np.any(n.dv):
        raise LoweringError(f"{where}: a relay neither fires nor remembers: fires, soft_reset and dv must be off and 0")
    limit = arithmetic.STATE_LIMIT
    if not 0 <= relay.shift < 24 or not -limit <= relay.low <= 0 < relay.high <= limit:
        raise LoweringError(
            f"{where}: relay {relay} is none: its shift must be 0..23, low at most 0, high above it, within {limit}"
        )


def check_in_loop(n: Neurons) -> None:
    """Check that each step of a population in a loop can be computed before the next one."""
    if n.gate is not None and n.gate_table is None:
        raise LoweringError(
            f"neurons {n.name!r}: its gate reads several steps of its current, which the loop it is in gives one after "
            "another: lower with attention='static' or 'scheduled'"
        )


def _broadcasts(array: NDArray[np.int64], shape: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(array.shape, shape) == tuple(shape)
    except ValueError:
        return False
