"""The one reference of spikefold's integer arithmetic, in plain numpy int64.

Every faster or foreign form (torch, ONNX, Lava) is checked against these functions. The neuron is Loihi's (Davies et
al., IEEE Micro 38(1), 2018) as the bit-accurate models of Lava compute it:

    u[t] = wrap24(tz(u[t-1] * (4096 - (du + 1))) + (a[t] << 6))
    v[t] = clip24(tz(v[t-1] * (4096 - dv)) + u[t] + bias),   tz(p) = sign(p) * (|p| >> 12)
    s[t] = v[t] > (v_threshold << 6),                        v[t] = v_reset << 6 where s[t]

With du = 4095 there is no current memory, ``u[t] = wrap24(a[t] << 6)``. With a soft reset, a spike leaves
``v[t] - (v_threshold << 6)``. A gated neuron, which has no current memory, takes ``tz(((a << 6) + bias) * gate >>
gate_shift)`` as its whole current instead. Sums of graded messages need more room: they are shifted left by fewer than
six bits, which is what a negative weight exponent does on Loihi. A relay has no memory and does not fire: it sends its
current on as a number, ``clip(tz(v[t] >> shift), low, high)`` with ``v[t] = clip24(u[t] + bias)``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]

DECAY_BITS = 12
STATE_FRACTION_BITS = 6
STATE_LIMIT = 2**23 - 1
"""Largest magnitude of a membrane value; it clips there."""
WRAP = 2**24
MAX_THRESHOLD = 2**17 - 1
MAX_BIAS_MANTISSA = 2**12 - 1
MAX_BIAS_EXPONENT = 7
MAX_WEIGHT_EXPONENT = 16
"""Weights stay below 2**24 with it."""
NO_CURRENT_MEMORY = 4095
"""The ``du`` that forgets the current at once."""
MAX_SQUARE_BITS = 52
"""Square roots are exact below ``2**52``; see `square_root`."""


def shift_toward_zero(value: Int, bits: int) -> Int:
    """``sign(value) * (|value| >> bits)``: division by ``2**bits`` rounding toward zero."""
    result: Int = np.sign(value) * (np.abs(value) >> bits)
    return result


def wrap24(value: Int) -> Int:
    """Wrap once into the signed 24-bit range as Lava does: above ``2**23`` or at most ``-2**23``."""
    return np.where(value > WRAP // 2, value - WRAP, np.where(value <= -(WRAP // 2), value + WRAP, value))


def clip24(value: Int) -> Int:
    """Saturate at plus or minus ``2**23 - 1``."""
    return np.clip(value, -STATE_LIMIT, STATE_LIMIT)


def decay(state: Int, rate: int | Int) -> Int:
    """Multiply by ``(4096 - rate) / 4096``, rounding toward zero. ``rate`` is 0 (keep) to 4096 (forget)."""
    return shift_toward_zero(state * (2**DECAY_BITS - rate), DECAY_BITS)


def synaptic_current(u: Int, weighted: Int, du: int | Int) -> Int:
    """One time step of the synaptic current ``u``, where ``weighted`` is the weighted sum, shifted left."""
    return wrap24(decay(u, du + 1) + weighted)


def gated_current(current: Int, gate: Int, gate_shift: int) -> Int:
    """``tz(current * gate >> gate_shift)``; the gate is unsigned fixed point with ``gate_shift`` fraction bits."""
    return shift_toward_zero(current * gate, gate_shift)


def relay_message(v: Int, shift: int, low: int, high: int) -> Int:
    """Give the number that a relay sends for its clipped current ``v``: shifted toward zero, saturated at both ends."""
    return np.clip(shift_toward_zero(v, shift), low, high)


def neuron_step(
    v: Int, current: Int, dv: int | Int, v_threshold: Int | None, v_reset: Int | None = None, soft_reset: bool = False
) -> tuple[Int, Int]:
    """One time step of a population.

    Parameters
    ----------
    v : int64 array
        Membrane values after the last step.
    current : int64 array of the same shape
        What is added in this step, bias included, in units of ``2**-6`` weight.
    dv : int or int64 array
        Decay rate of the membrane, 0 to 4095, broadcastable to ``v``.
    v_threshold : int64 array or None
        Threshold mantissa, broadcastable to ``v``; None for a readout, which never fires.
    v_reset : int64 array, optional
        Mantissa of what a spike leaves of the membrane, broadcastable to ``v``; 0 where it is not given.
    soft_reset : bool
        A spike takes ``v_threshold - v_reset`` off the membrane instead.

    Returns
    -------
    spikes, v : int64 arrays
        Spikes (0 or 1) and the membrane values after the reset.
    """
    v = clip24(decay(v, dv) + current)
    if v_threshold is None:
        return np.zeros_like(v), v
    spikes = (v > v_threshold << STATE_FRACTION_BITS).astype(np.int64)
    return spikes, after_reset(v, spikes, v_threshold, v_reset, soft_reset)


def after_reset(v: Int, spikes: Int, v_threshold: Int, v_reset: Int | None = None, soft_reset: bool = False) -> Int:
    """Membranes that ``spikes`` (0 or 1) leave of ``v``; see `neuron_step`."""
    reset = 0 if v_reset is None else v_reset << STATE_FRACTION_BITS
    if soft_reset:
        return v - spikes * ((v_threshold << STATE_FRACTION_BITS) - reset)
    return np.where(spikes == 1, reset, v)


def rescale(value: Int, multiplier: int, shift: int, limit: int) -> Int:
    """``tz(value * multiplier >> shift)``, saturated at plus or minus ``limit``."""
    return np.clip(shift_toward_zero(value * multiplier, shift), -limit, limit)


def divide(numerator: Int, denominator: Int, shift: int) -> Int:
    """``tz((numerator << shift) / denominator)`` for denominators above 0; tz rounds toward zero."""
    scaled = numerator * 2**shift
    result: Int = np.sign(scaled) * (np.abs(scaled) // denominator)
    return result


def square_root(value: Int) -> Int:
    """``floor(sqrt(value))`` for values 0 to ``2**52 - 1``.

    IEEE 754 rounds the square root of a float64 correctly, and below ``2**52`` the root of ``m**2 - 1`` is more than
    half a last place below m, so that it never rounds up to the next whole number.
    """
    root: Int = np.asarray(np.sqrt(value.astype(np.float64)), dtype=np.int64)
    return root


def look_up(value: Int, table: Int, offset: int) -> Int:
    """``table[value + offset]``, the index saturated at both ends of the table."""
    result: Int = table[np.clip(value + offset, 0, len(table) - 1)]
    return result


def rank_key(importance: Int, axis: int) -> Int:
    """Unique sorting key along ``axis``: the larger importance first, of equals the lower index first."""
    n = importance.shape[axis]
    shape = [1] * importance.ndim
    shape[axis] = n
    return importance * n + np.arange(n - 1, -1, -1, dtype=np.int64).reshape(shape)


def top_k_mask(importance: Int, k: int, axis: int) -> Int:
    """1 where ``importance`` is among the ``k`` largest along ``axis``, 0 elsewhere; ties by `rank_key`."""
    key = rank_key(importance, axis)
    if k <= 0:
        return np.zeros_like(key)
    limit = np.take(np.sort(key, axis=axis), [-min(k, key.shape[axis])], axis=axis)
    return (key >= limit).astype(np.int64)


def running_k(k: int, steps: int) -> Int:
    """How many of the steps up to each one may be chosen, ``ceil(k * (t + 1) / T)``, ``[T]``."""
    share: Int = (k * np.arange(1, steps + 1, dtype=np.int64) + steps - 1) // steps
    return share


def running_top_k_mask(importance: Int, k: int) -> Int:
    """1 where a step, when it comes, is among the `running_k` largest of the steps so far (first axis); ties as above.

    An earlier step of the same importance counts as larger, so a later step never changes what was decided.
    """
    steps = len(importance)
    past = np.tri(steps, dtype=np.int64).reshape(steps, steps, *[1] * (importance.ndim - 1))
    ahead = ((importance[None] >= importance[:, None]) * past).sum(axis=1)
    mask: Int = (ahead <= running_k(k, steps).reshape(-1, *[1] * (importance.ndim - 1))).astype(np.int64)
    return mask
