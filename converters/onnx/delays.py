"""Messages that arrive later than they are sent: of whole clips at once, or held from step to step."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from spikefold.converters.fixed_point_graph import Synapse, Whole
from spikefold.converters.onnx.emitter import Emitter

_TO_THE_END = 2**31 - 1


def longest_delays(synapses: Iterable[Synapse]) -> dict[str, int]:
    """For each source of delayed messages, how many steps of them have to be held."""
    longest: dict[str, int] = {}
    for synapse in synapses:
        if synapse.longest_delay:
            longest[synapse.source] = max(longest.get(synapse.source, 0), synapse.longest_delay)
    return longest


def emit_shifted(e: Emitter, messages: str, delay: Whole, silence: str) -> str:
    """Append what arrives at each step of whole clips.

    Parameters
    ----------
    e : Emitter
        Where the nodes go.
    messages : str
        Messages ``[T, B, *source]``.
    delay : int or int64 array
        That of the synapse.
    silence : str
        Zeros of the same type, ``[longest delay, B, *source]``: nothing arrives from before the clip.
    """
    padded, longest = e.op("Concat", silence, messages, axis=0), int(np.max(delay))

    def late(steps: int) -> str:
        end = -steps if steps else _TO_THE_END
        return e.op("Slice", padded, e.constant([longest - steps]), e.constant([end]), e.constant([0]))

    return _choose(e, delay, late)


def emit_arriving(e: Emitter, messages: str, held: str, longest: int, delay: Whole) -> str:
    """Append what arrives at a step, ``[B, *source]``.

    Parameters
    ----------
    e : Emitter
        Where the nodes go.
    messages : str
        What the source sends at this step; not read where the whole delay is 1 or more.
    held : str
        What it sent in the ``longest`` steps before, ``[longest, B, *source]``, oldest first.
    delay : int or int64 array
        That of the synapse.
    """

    def late(steps: int) -> str:
        return e.op("Gather", held, e.constant(longest - steps), axis=0) if steps else messages

    return _choose(e, delay, late)


def emit_held(e: Emitter, messages: str, held: str, name: str) -> str:
    """Append ``held`` as it is after this step: without the oldest, with what is sent now."""
    rest = e.op("Slice", held, e.constant([1]), e.constant([_TO_THE_END]), e.constant([0]))
    return e.op("Concat", rest, e.op("Unsqueeze", messages, e.constant([0])), axis=0, name=name)


def _choose(e: Emitter, delay: Whole, late: Callable[[int], str]) -> str:
    """Messages so many steps late, each neuron's by its own delay."""
    first, *others = np.unique(delay).tolist()
    chosen = late(first)
    for steps in others:
        chosen = e.op("Where", e.constant(np.equal(delay, steps), np.bool_), late(steps), chosen)
    return chosen
