"""The proved range of membranes: no input leaves it, and for one neuron without a bias some input reaches it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.ranges import membrane_range

STEPS = 4


def one_neuron(
    weights: list[int], bias: int, dv: int, threshold: int, fires: bool, exponent: int = 0
) -> FixedPointGraph:
    neurons = Neurons("n", (1,), dv, np.array(threshold), np.array([bias]), 0, 1.0, fires)
    synapse = Synapse("s", "input", "n", "dense", np.array([weights]), exponent)
    return FixedPointGraph(InputPort((len(weights),)), (neurons,), (synapse,), "none", None)


def reached(graph: FixedPointGraph) -> tuple[int, int]:
    """Lowest and highest membrane before clipping and reset, over every clip of binary events there is."""
    (n,), (s,) = graph.neurons, graph.synapses
    frames = list(product((0, 1), repeat=s.weight.shape[1]))
    low = high = 0
    for clip in product(frames, repeat=STEPS):
        v = 0
        for frame in clip:
            current = arithmetic.wrap24((s.effective_weight[0] @ np.array(frame)) << 6) + n.bias[0]
            total = int(arithmetic.decay(np.array(v), n.dv) + current)
            low, high = min(low, total), max(high, total)
            v = max(-arithmetic.STATE_LIMIT, min(arithmetic.STATE_LIMIT, total))
            if n.fires and v > int(n.v_threshold) << 6:
                v = 0
    return low, high


@pytest.mark.parametrize(
    ("how", "tight"),
    [
        (([20, -30], 0, 0, 0, False), True),
        (([20, -30], 0, 1000, 0, False), True),
        (([20, -30], 0, 0, 20, True), True),
        (([20, -30], 0, 300, 1000, True), True),
        (([20, 30], 0, 0, 5, True), False),
        (([20, -30], 700, 300, 33, True), False),
        (([20, -30], -700, 0, 33, True), False),
        (([254, -256], 0, 0, 0, False, 8), True),
        (([254, -256], 0, 0, 131071, True, 8), False),
        (([254, 250], 0, 0, 131071, True, 9), False),
    ],
    ids=[
        "sum", "decay", "threshold", "decay to a high threshold", "always firing", "bias up", "bias down", "clips",
        "clips and fires", "wraps",
    ],
)  # fmt: skip
def test_every_clip_stays_within_it(how: tuple, tight: bool) -> None:
    graph = one_neuron(*how)
    low, high = membrane_range(graph, graph.neurons[0], STEPS)
    lowest, highest = reached(graph)
    assert low <= lowest
    assert highest <= high
    if tight:
        assert (low, high) == (lowest, highest)
