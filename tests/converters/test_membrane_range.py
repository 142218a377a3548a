"""The proved range of membranes: no input leaves it, and for one neuron without a bias some input reaches it."""

from __future__ import annotations

import dataclasses
from itertools import product
from typing import Any

import numpy as np
import pytest

from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Relay, Synapse
from spikefold.converters.ranges import membrane_range, synaptic_range
from spikefold.errors import LoweringError

STEPS = 4


def one_neuron(
    weights: list[int], bias: int, dv: int, threshold: int, fires: bool, exponent: int = 0, **reset: Any
) -> FixedPointGraph:
    neurons = Neurons("n", (1,), dv, np.array(threshold), np.array([bias]), 0, 1.0, fires, **reset)
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
                after = 0 if n.v_reset is None else int(n.v_reset) << 6
                v = v - (int(n.v_threshold) << 6) if n.soft_reset else after
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


@pytest.mark.parametrize("weights", [[20, -30], [20, 30], [-20, -30]])
@pytest.mark.parametrize("bias", [-2000, 0, 2000])
@pytest.mark.parametrize(("dv", "threshold"), [(0, 5), (700, 20), (0, 60)])
@pytest.mark.parametrize(
    "reset", [{"v_reset": -40}, {"v_reset": 0}, {"v_reset": 4}, {"soft_reset": True}], ids=lambda how: str(how)
)
def test_every_clip_stays_within_it_whatever_a_spike_leaves(
    weights: list[int], bias: int, dv: int, threshold: int, reset: dict[str, Any]
) -> None:
    reset = {k: np.array(v) if k == "v_reset" else v for k, v in reset.items()}
    graph = one_neuron(weights, bias, dv, threshold, True, **reset)
    (low, high), (lowest, highest) = membrane_range(graph, graph.neurons[0], STEPS), reached(graph)
    assert low <= lowest
    assert highest <= high


def test_a_reset_below_every_current_is_in_the_range() -> None:
    graph = one_neuron([30, 20], 0, 0, 5, True, v_reset=np.array(-100))
    assert reached(graph)[0] == membrane_range(graph, graph.neurons[0], STEPS)[0] == -6400


def test_the_membrane_of_a_relay_is_its_current_of_one_step() -> None:
    (n,), (s,) = (part := one_neuron([20, -30], 50, 0, 0, False)).neurons, part.synapses
    relay = dataclasses.replace(n, relay=Relay(3, -50, 50))
    output = Neurons("o", (1,), 0, np.array(0), np.array([0]), 0, 1.0, fires=False)
    last = Synapse("t", "n", "o", "dense", np.array([[10]]))
    graph = dataclasses.replace(part, neurons=(relay, output), synapses=(s, last))
    assert membrane_range(graph, relay, STEPS) == (-30 * 64, 20 * 64 + 50)
    assert membrane_range(graph, output, STEPS) == (-50 * 640 * STEPS, 50 * 640 * STEPS)


def test_a_remembered_current_wraps_once_as_long_as_it_leaves_room_for_a_bias_in_32_bits() -> None:
    """With du = 0 a 4096th is forgotten: ``(2**18 - 1) * 4096 + 1`` is where 2**24 + 2**18 a step, wrapped, ends."""
    graph = one_neuron([130], 0, 0, 0, False, exponent=11, du=0)
    assert (130 << 11) << 6 == 2**24 + 2**18
    assert synaptic_range(graph, graph.neurons[0]) == (1 - 2**23, 2**30 - 4095)
    beyond = one_neuron([130, 2], 0, 0, 0, False, exponent=11, du=0)
    with pytest.raises(LoweringError, match=r"the current that it remembers could reach -8388607\.\..*outside 32 bits"):
        synaptic_range(beyond, beyond.neurons[0])
