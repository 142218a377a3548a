"""The weights that netx's dense synapses compute with, which are not always those of the file.

netx shifts the weights of a layer left until they fill eight bits, notes how many bits they need, and lets Lava's Dense
clip and cut them to that and shift the sums back. All is lost in that for some matrices: those of zeros alone, those
that are nowhere negative and hold numbers above 255. Other numbers are clipped, such as a -256 where no weight is above
0. Convolutions are left as they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.arithmetic import STATE_FRACTION_BITS

Int = NDArray[np.int64]
LOWEST, HIGHEST = -256, 254
ALIGNED_BITS = 8


def netx_weights(weights: list[Int]) -> list[Int] | str:
    """Weights ``[out, in]`` that netx's dense synapses have in effect, or why it has none.

    Parameters
    ----------
    weights : list of int64 arrays
        The matrices that lead to one layer: one, and of a recurrent layer a second one.
    """
    top, bottom = max(int(w.max()) for w in weights), min(int(w.min()) for w in weights)
    if top == 0 == bottom:
        return "all are 0, by which netx divides"
    if (top > HIGHEST and bottom < 0) or (bottom < LOWEST and top > 0):
        weights = [np.clip(w, LOWEST, HIGHEST) for w in weights]
        top, bottom = min(top, HIGHEST), max(bottom, LOWEST)
    mixed = bottom < 0 <= top
    room = _room(top, bottom, mixed)
    if room < 0:
        return f"{bottom}..{top}: netx has eight bits for them"
    even = next((n for n in range(ALIGNED_BITS, 0, -1) if not any(np.any(w % 2**n) for w in weights)), 0)
    bits = ALIGNED_BITS - room - (even - mixed)
    held = [_as_dense_holds(w << room, bits) for w in weights]
    if any(h is None or np.any(h % 2**room) for h in held):
        return f"{bottom}..{top}: netx cuts them off so that their sums are no longer whole"
    return [h >> room for h in held if h is not None]


def _room(top: int, bottom: int, mixed: bool) -> int:
    """How many bits the weights can be shifted left."""
    if not mixed:
        return int(np.floor(np.log2(-256 / bottom if top < 0 else 255 / top)))
    scale = min(127 / top if top else np.inf, -128 / bottom)
    return int(np.floor(np.log2(scale))) + 1


def _as_dense_holds(weight: Int, bits: int) -> Int | None:
    """What Lava's Dense keeps of weights that fill eight bits, given that they need ``bits``; None: nothing."""
    mixed = bool(weight.min() < 0 < weight.max())
    cut = ALIGNED_BITS - bits + mixed
    if cut < 0:
        return None
    sign = 1 if mixed or weight.max() > 0 else -1
    limited = np.clip(sign * weight, -256 if mixed else 0, 255)
    return sign * (limited >> cut << cut)


def as_mantissas(weights: list[Int]) -> tuple[list[Int], int, int] | None:
    """Even mantissas in -256..254, one exponent, and the `current_shift` with which they are the same weights.

    Odd weights become even ones with one left shift of the sums less. None where the weights need more than that.
    """
    for current_shift in (STATE_FRACTION_BITS, STATE_FRACTION_BITS - 1):
        doubled = [w << (STATE_FRACTION_BITS - current_shift) for w in weights]
        for exponent in range(17):
            fits = all(w.min() >= LOWEST << exponent and w.max() <= HIGHEST << exponent for w in doubled)
            if any(np.any(w % 2 ** (exponent + 1)) for w in doubled):
                break
            if fits:
                return [w >> exponent for w in doubled], exponent, current_shift
    return None
