"""The loops over time, compiled: currents in, messages and their counts out, in one pass over memory.

Arrays hold ``[T, B, N]`` of a stretch of a clip, N in the order of `spikefold.converters.fast.layout`. A block of
neurons that fits the first cache runs through all steps of one sample before the next sample comes. Nothing here asks
whether a number fits: `spikefold.converters.fast.stage` chooses by proved ranges. ``counts`` ``[B, 1 + synapses]`` is
added to: messages that are not 0, and those times the fan-out ``fan`` ``[synapses, N]``. ``sent`` ``[T, N]`` and
``membranes`` are left alone where they are empty. Compiled code is cached beside this file.
"""

# Numba types these functions by their arguments; annotations would only repeat the texts.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, assignment"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_i32, _i64 = np.int32, np.int64
_BLOCK = 1024
_MOST = 255
"""Steps whose messages are counted in eight bits."""
_LIMIT = 2**23 - 1
_HALF = 2**23
_WRAP = 2**24

compiled: Any = njit(cache=True, nogil=True, error_model="numpy")


@compiled
def tally(count, fan, first, counts):
    """Add the messages of a block of neurons to ``counts`` ``[1 + synapses]`` of a sample."""
    total = 0
    for i in range(len(count)):
        total += _i64(count[i])
    counts[0] += total
    for j in range(len(fan)):
        total, reached = 0, fan[j, first : first + len(count)]
        for i in range(len(count)):
            total += _i64(count[i]) * _i64(reached[i])
        counts[1 + j] += total


def _make_fire(uniform: bool) -> Any:
    @compiled
    def fire(current, scale, bias, keep, threshold, mask, after, v, spikes, fan, counts, sent, membranes):
        """Neurons without current memory whose numbers fit 32 bits.

        Membranes ``v`` int32 ``[B, N]`` are brought up to date. ``keep``, ``threshold`` and ``after`` are of all
        neurons, or one number where they are alike; a spike leaves ``(v & mask) + after``.
        """
        steps, batch, size = current.shape
        count = np.empty(_BLOCK, np.uint8)
        keep0, threshold0, after0 = keep[0], threshold[0], after[0]
        for first in range(0, size, _BLOCK):
            n = min(_BLOCK, size - first)
            last = first + n
            rates = keep if uniform else keep[first:last]
            thresholds = threshold if uniform else threshold[first:last]
            resets = after if uniform else after[first:last]
            for b in range(batch):
                state = v[b, first:last]
                for start in range(0, steps, _MOST):
                    count[:n] = 0
                    for t in range(start, min(steps, start + _MOST)):
                        c, s = current[t, b, first:last], spikes[t, b, first:last]
                        added = bias[t if len(bias) > 1 else 0, first:last]
                        for i in range(n):
                            # tz(v * rate >> 12) in two halves of v, each of whose products fits 32 bits
                            old, rate = state[i], (keep0 if uniform else rates[i])
                            low = _i32(_i32(old & 4095) * rate)
                            held = _i32(_i32(_i32(old >> 12) * rate) + _i32(low >> 12))
                            held = _i32(held + _i32((old < 0) & (_i32(low & 4095) != 0)))
                            held = _i32(held + _i32(_i32(_i32(c[i]) * scale) + added[i]))
                            held = min(max(held, _i32(-_LIMIT)), _i32(_LIMIT))
                            fired = held > (threshold0 if uniform else thresholds[i])
                            left = _i32(_i32(held & mask) + (after0 if uniform else resets[i]))
                            state[i] = left if fired else held
                            s[i] = fired
                            count[i] += np.uint8(fired)
                        if sent.size:
                            here = sent[t, first:last]
                            for i in range(n):
                                here[i] += s[i]
                        if membranes.size:
                            membranes[t, b, first:last] = state
                    tally(count[:n], fan, first, counts[b])

    return fire


fire_alike, fire_each = _make_fire(True), _make_fire(False)


@compiled
def fire_any(
    current, scale, bias, wraps, keep_u, keep, threshold, mask, after, u, v, spikes, fan, counts, sent, membranes
):
    """Any neurons, in 64 bits: as `fire`, with current memory ``u`` int64 ``[B, N]`` and sums that may wrap."""
    steps, batch, size = current.shape
    count = np.empty(_BLOCK, np.uint8)
    for first in range(0, size, _BLOCK):
        n = min(_BLOCK, size - first)
        last = first + n
        for b in range(batch):
            for start in range(0, steps, _MOST):
                count[:n] = 0
                for t in range(start, min(steps, start + _MOST)):
                    added = bias[t if len(bias) > 1 else 0, first:last]
                    for i in range(n):
                        k = first + i
                        product = u[b, k] * keep_u[k]
                        incoming = _i64(current[t, b, k]) * scale + ((product + ((product >> 63) & 4095)) >> 12)
                        if wraps:
                            if incoming > _HALF:
                                incoming -= _WRAP
                            elif incoming <= -_HALF:
                                incoming += _WRAP
                        u[b, k] = incoming
                        product = v[b, k] * keep[k]
                        held = ((product + ((product >> 63) & 4095)) >> 12) + incoming + added[i]
                        held = min(max(held, -_LIMIT), _LIMIT)
                        fired = held > threshold[k]
                        v[b, k] = (held & mask) + after[k] if fired else held
                        spikes[t, b, k] = fired
                        count[i] += np.uint8(fired)
                        if sent.size:
                            sent[t, k] += fired
                        if membranes.size:
                            membranes[t, b, k] = v[b, k]
                tally(count[:n], fan, first, counts[b])


@compiled
def relay(current, scale, bias, wraps, shift, low, high, messages, fan, counts, sent, membranes):
    """Send currents on: ``clip(tz(clip24(current) >> shift), low, high)``, into whatever type ``messages`` has."""
    steps, batch, size = current.shape
    count = np.empty(_BLOCK, np.uint8)
    for first in range(0, size, _BLOCK):
        n = min(_BLOCK, size - first)
        for b in range(batch):
            for start in range(0, steps, _MOST):
                count[:n] = 0
                for t in range(start, min(steps, start + _MOST)):
                    added = bias[t if len(bias) > 1 else 0, first : first + n]
                    for i in range(n):
                        k = first + i
                        held = _i64(current[t, b, k]) * scale
                        if wraps:
                            if held > _HALF:
                                held -= _WRAP
                            elif held <= -_HALF:
                                held += _WRAP
                        held = min(max(held + added[i], -_LIMIT), _LIMIT)
                        message = (held + ((held >> 63) & ((1 << shift) - 1))) >> shift
                        message = min(max(message, low), high)
                        messages[t, b, k] = message
                        count[i] += np.uint8(message != 0)
                        if sent.size:
                            sent[t, k] += message != 0
                        if membranes.size:
                            membranes[t, b, k] = held
                tally(count[:n], fan, first, counts[b])


@compiled
def take_in(clips, channels, messages, fan, counts, sent):
    """Bring clips ``[T, B, N]`` in C order into the order of ``messages`` and count them."""
    steps, batch, size = clips.shape
    places = size // channels
    count = np.zeros(size, np.int32)
    for b in range(batch):
        count[:] = 0
        for t in range(steps):
            frame, out = clips[t, b], messages[t, b]
            for c in range(channels):
                for p in range(places):
                    out[p * channels + c] = frame[c * places + p]
            for k in range(size):
                count[k] += out[k] != 0
            if sent.size:
                for k in range(size):
                    sent[t, k] += out[k] != 0
        tally(count, fan, 0, counts[b])
