"""What is counted of states: every wrap, clip, tie and cut-off message, on fast and slow ways alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from generated_graphs import random_clips, random_graph
from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.reference import run_reference
from spikefold.deploy.states import StateCounter, count_states, weighted_sums

ZERO = np.array(0)


def one_neuron(
    weight: int, threshold: int = 1000, dv: int = 0, du: int = arithmetic.NO_CURRENT_MEMORY
) -> FixedPointGraph:
    neurons = (
        Neurons("cell", (1,), dv, np.array(threshold), ZERO, 0, 1.0, du=du),
        Neurons("readout", (1,), 0, ZERO, ZERO, 0, 1.0, fires=False),
    )
    synapses = (
        Synapse("in", "input", "cell", "dense", np.array([[weight]]), 6),
        Synapse("out", "cell", "readout", "dense", np.array([[2]])),
    )
    return FixedPointGraph(InputPort((1,), 16), neurons, synapses, "none", None)


def counted(graph: FixedPointGraph, clips: np.ndarray, *at_equality: str) -> dict[str, Any]:
    return {layer.name: layer for layer in count_states(graph, clips, at_equality)}


def train(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64).reshape(-1, 1, 1)


def test_a_membrane_at_its_threshold_is_a_tie_and_one_that_fires_is_none() -> None:
    graph = one_neuron(2, threshold=256)  # an event adds 2 << 12, two reach 256 << 6
    layer = counted(graph, train(2, 0, 1, 3), "cell")["cell"]
    assert (layer.ties, layer.fires_at_equality, layer.messages, layer.values) == (2, True, 2, 4)


def test_what_a_reset_brings_to_the_threshold_is_no_tie() -> None:
    graph = one_neuron(2, threshold=256)
    cell = replace(graph.neurons[0], v_reset=np.array(256))
    graph = replace(graph, neurons=(cell, *graph.neurons[1:]))
    assert run_reference(graph, train(3)).membranes["cell"][0, 0] == 256 << 6
    assert counted(graph, train(3), "cell")["cell"].ties == 0
    assert counted(graph, train(3, 0), "cell")["cell"].ties == 1


def test_a_current_beyond_24_bits_is_a_wrap_and_counts_once_a_step() -> None:
    graph = one_neuron(254, dv=4095)  # an event adds 254 << 12, nine pass 2**23
    layer = counted(graph, train(8, 9, 0, 12))["cell"]
    assert (layer.wrapped, layer.clipped) == (2, 0)


def test_what_a_current_remembers_counts_toward_its_wrap() -> None:
    graph = one_neuron(254, du=2047)  # half of what is there stays
    assert counted(graph, train(5, 0, 7))["cell"].wrapped == 1
    assert counted(graph, train(5, 0, 6))["cell"].wrapped == 0
    assert counted(graph, train(0, 0, 7))["cell"].wrapped == 0


def test_a_membrane_beyond_24_bits_is_a_clip() -> None:
    graph = one_neuron(-254)  # it never fires, and adds up
    layer = counted(graph, train(8, 8, 0))["cell"]
    assert (layer.wrapped, layer.clipped) == (0, 1)
    assert run_reference(graph, train(8, 8, 0)).membranes["cell"].min() == -arithmetic.STATE_LIMIT


def test_layers_whose_ranges_are_proved_are_not_run_again() -> None:
    graph = replace(one_neuron(2), input=InputPort((1,), 1))
    assert count_states(graph, train(1, 1)) == ()


@pytest.mark.parametrize("how", [{"stress": True}, {"stress": True, "memory": True}, {"relays": True}, {"delays": 3}])
@pytest.mark.parametrize("seed", range(3))
def test_counts_on_the_fast_engine_are_those_of_the_reference(seed: int, how: dict[str, Any]) -> None:
    graph = random_graph(seed, **how)
    clips = random_clips(graph, seed)
    trace = run_reference(graph, clips)
    firing = [n.name for n in graph.neurons if n.fires]
    counter = StateCounter(graph, firing)
    for n in graph.neurons:
        sent = {"input": clips, **trace.spikes}
        counter.add(n, weighted_sums(graph, n, sent), sent[n.name])
    wanted = {state.name: state for state in counter.states()}
    found = counted(graph, clips, *firing)
    assert set(firing) <= found.keys()
    for name, layer in found.items():
        assert vars(layer) == {key: value for key, value in vars(wanted[name]).items() if key in vars(layer)}
    for name in wanted.keys() - found.keys():
        assert (wanted[name].wrapped, wanted[name].clipped, wanted[name].saturated) == (0, 0, 0)
    for state in wanted.values():
        assert state.current.used <= state.current.proved
        assert state.membrane.used <= state.membrane.proved
    if how.get("stress"):
        assert any(state.wrapped for state in wanted.values())
        assert any(state.clipped for state in wanted.values())
