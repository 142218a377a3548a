"""What a ``.net`` file for lava-dl costs where something had to be replaced: its integers against the net's own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.lava_dl import LavaDlNet
from spikefold.deploy.run import run


def lava_dl_lines(
    graph: FixedPointGraph, net: LavaDlNet, clips: NDArray[np.generic], labels: NDArray[np.int64] | None
) -> list[str]:
    """How netx is to be called, the replacements, and what they change on clips ``[T, N, *input_shape]``, as lines."""
    call = f", input_message_bits={graph.input.max_value.bit_length()}" if graph.input.max_value > 1 else ""
    lines = [f"netx.hdf5.Network(FILE{call}, reset_interval=STEPS, reset_offset=1) runs it with the same spikes"]
    if not net.replacements:
        return lines
    before, after = run(graph, clips), run(net.graph, clips)
    lines += [f"replaced: {replacement}" for replacement in net.replacements]
    differ = int((before.predictions != after.predictions).sum())
    accuracy = "" if labels is None else f"; accuracy {before.accuracy(labels):.1%} -> {after.accuracy(labels):.1%}"
    return [*lines, f"{differ} of {clips.shape[1]} predictions differ from the exact integers{accuracy}"]
