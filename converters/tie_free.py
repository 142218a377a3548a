"""Thresholds that no reachable membrane value hits, so that readers with ``>`` and with ``>=`` agree.

The integers fire at ``V > theta``. A reader that does not truncate holds, n steps after its last reset,

    V = sum over k < n of beta**k * (b + g * z_k),    z_k whole numbers,

where b is the bias and g the greatest common divisor of the weights, all in 2**-6 weights, and ``beta = p / q`` in
lowest terms. So V lies on the lattice ``b * (1 + beta + ... + beta**(n-1)) + (g / q**(n-1)) Z``, whatever comes in:
this is proved, and not tight, because z_k is bounded and the lattice is not. The integers themselves are whole, and
truncation takes less than 1 a step off a positive membrane, so every threshold in ``[theta, theta + 1)`` is as true to
them as ``theta``. Of these, the middle of the widest gap between the lattices of histories of 1 to N steps is taken,
with the largest N that leaves a gap which float32 can tell from its ends. Longer histories are too dense for any gap;
there, readers with ``>`` and with ``>=`` differ only where a rounded membrane equals the threshold in every bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd

import numpy as np

from spikefold.converters.arithmetic import DECAY_BITS

RESOLUTION_BITS = 12
"""Gaps are looked for among ``2**-12`` of the 2**-6 weight that the threshold may move by."""
ROUNDINGS = 8
"""A gap counts where each half of it is wider than so many roundings of the threshold to float32."""


@dataclass(frozen=True)
class Lattice:
    """Currents ``bias + step * Z`` of one row of neurons, in 2**-6 weights; ``step`` 0 where only the bias comes."""

    step: int
    bias: int


@dataclass(frozen=True)
class TieFree:
    """A threshold in 2**-6 weights, and the longest history, in steps, that provably cannot tie with it (None: any)."""

    value: float
    steps: int | None


def tie_free_threshold(theta: int, dv: int, lattices: Iterable[Lattice]) -> TieFree:
    """Move ``theta`` (2**-6 weights, the neuron fires above it) into the widest gap of ``[theta, theta + 1)``.

    Parameters
    ----------
    theta : int
        Threshold of the integers, at least 0.
    dv : int
        Decay of the membrane, 0 to 4095.
    lattices : iterable of Lattice
        Currents of all the neurons that have this threshold.
    """
    found = TieFree(theta + 0.5, None if dv == 0 else 1)  # whole currents: without a decay all histories are whole
    if dv == 0:
        return found
    one = 2**DECAY_BITS
    shared = gcd(one - dv, one)
    p, q = (one - dv) // shared, one // shared
    rows = set(lattices)
    narrowest = 2 * ROUNDINGS * 2.0**-24 * max(theta, 1)
    length = 2
    while q ** (length - 1) <= 2**RESOLUTION_BITS:
        middle, width = _widest_gap(theta, p, q, length, rows)
        if width < narrowest:
            break
        found = TieFree(middle, length)
        length += 1
    return found


def _widest_gap(theta: int, p: int, q: int, length: int, rows: Iterable[Lattice]) -> tuple[float, float]:
    """Middle and width of the widest gap that histories of up to ``length`` steps leave, ``q**-(length-1)`` apart."""
    fine = q ** (length - 1)
    reached = np.zeros(fine + 1, dtype=bool)
    reached[[0, fine]] = True
    for row in rows:
        for n in range(1, length + 1):
            offset = row.bias * sum(p**k * q ** (length - 1 - k) for k in range(n)) - theta * fine
            step = row.step * q ** (length - n)
            if step:
                reached[offset % step :: step] = True
            elif 0 <= offset <= fine:
                reached[offset] = True
    ends = np.flatnonzero(reached)
    widths = np.diff(ends)
    widest = int(widths.argmax())
    return theta + float(ends[widest] + widths[widest] / 2) / fine, float(widths[widest]) / fine
