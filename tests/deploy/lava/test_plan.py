from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from generated_graphs import random_graph
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Relay, Synapse
from spikefold.deploy.lava.plan import groups_that_fit, make_plan, sum_range
from spikefold.errors import BackendError


def _dense_graph(exponent: int, weight: int = 254, inputs: int = 4, **neurons: object) -> FixedPointGraph:
    population = Neurons("n", (2,), 0, np.array(5), np.array(0), 0, 1.0)
    return FixedPointGraph(
        InputPort((inputs,)),
        (dataclasses.replace(population, **neurons),),  # type: ignore[arg-type]
        (Synapse("s", "input", "n", "dense", np.full((2, inputs), weight), exponent),),
        "none",
        None,
    )


def test_each_hop_costs_one_step_and_a_gate_the_rest_of_its_clip() -> None:
    plan = make_plan(random_graph(0), 5, 3)
    assert [p.delay for p in plan.populations] == [1, 2, 3, 4]
    assert plan.total_steps == 5 * 3 + 4

    gated = make_plan(random_graph(0, gated=True, time_steps=5), 5, 3)
    assert [(p.arrival, p.delay) for p in gated.populations] == [(1, 5), (6, 10), (11, 15), (16, 16)]


def test_a_gate_of_the_steps_so_far_costs_no_wait() -> None:
    plan = make_plan(random_graph(0, gated=True, gates=("running",), time_steps=5), 5, 3)
    assert [(p.arrival, p.delay, p.gate) for p in plan.populations] == [
        (1, 1, "streaming"), (2, 2, "streaming"), (3, 3, "streaming"), (4, 4, "none"),
    ]  # fmt: skip
    whole = make_plan(random_graph(0, gated=True, gates=("channel",), time_steps=5), 5, 3)
    assert [p.gate for p in whole.populations] == ["clip", "clip", "clip", "none"]


def test_short_branches_wait_for_the_longest() -> None:
    graph = random_graph(0, residual=True)
    waits = {p.name: p.waits for p in make_plan(graph, 5, 1).populations}
    assert waits["conv2"] == {"conv1->conv2": 0, "input->conv2": 1}
    assert waits["output"] == {"fc1->output": 0, "conv2->output": 1}


def _loop(forth: int, back: int) -> FixedPointGraph:
    two = [Neurons(name, (1,), 0, np.array(5), np.array(0), 0, 1.0) for name in ("first", "second")]
    edges = [("input", "first", 0), ("first", "second", forth), ("second", "first", back)]
    one = np.array([[2]])
    synapses = [Synapse(f"{s}->{t}", s, t, "dense", one, delay=delay) for s, t, delay in edges]
    return FixedPointGraph(InputPort((1,)), tuple(two), tuple(synapses), "none", None)


@pytest.mark.parametrize(
    ("forth", "back", "delays", "wait"), [(0, 2, [1, 2], -2), (1, 1, [1, 1], -1), (0, 5, [1, 2], -2)]
)
def test_hops_use_up_the_delay_of_a_loop(forth: int, back: int, delays: list[int], wait: int) -> None:
    plan = make_plan(_loop(forth, back), 6, 1)
    assert [p.delay for p in plan.populations] == delays
    assert plan.populations[0].waits["second->first"] == wait
    assert all(w + d >= 0 for p, d in zip(plan.populations, (back, forth), strict=True) for w in p.waits.values() if w)


def test_the_shortest_delay_of_a_synapse_leaves_time_for_its_hop() -> None:
    graph = random_graph(3, delays=4, residual=True, loops=True)
    assert any(s.longest_delay > s.shortest_delay for s in graph.synapses)
    for part in make_plan(graph, 6, 1).populations:
        spare = [part.waits[s.name] + s.shortest_delay for s in graph.incoming(part.name)]
        assert min(spare) >= 0
        assert min(spare) == 0 or part.arrival == 0


def test_a_loop_with_more_hops_than_delay_is_refused_by_name() -> None:
    with pytest.raises(BackendError, match=r"synapse '(first->second|second->first)': it is in a loop that has fewer"):
        make_plan(_loop(0, 1), 6, 1)


def test_stock_neurons_wherever_lava_has_them() -> None:
    assert {p.process for p in make_plan(random_graph(1), 5, 3).populations} == {"stock"}
    assert {p.process for p in make_plan(random_graph(1, gated=True), 5, 3).populations[:-1]} == {"own"}
    per_neuron = make_plan(random_graph(1, per_neuron_thresholds=True), 5, 3)
    assert [p.process for p in per_neuron.populations] == ["own", "own", "own", "stock"]
    assert {p.process for p in make_plan(random_graph(1, bias_schedule=True), 5, 3).populations} == {"own"}


def test_readout_is_stock_only_while_it_provably_never_fires() -> None:
    # 4 inputs x 254 x 64 per step, largest threshold 131071 x 64
    graph = _dense_graph(0, fires=False)
    assert make_plan(graph, 129, 1).populations[0].process == "stock"
    assert make_plan(graph, 130, 1).populations[0].process == "own"
    biased = dataclasses.replace(graph, neurons=(dataclasses.replace(graph.neurons[0], bias_mantissa=np.array(-4095)),))
    assert make_plan(biased, 129, 1).populations[0].process == "own"


def test_a_sum_is_largest_where_messages_have_the_sign_of_the_weights() -> None:
    weight = np.array([[100, -30, -90], [10, 20, 30]])
    synapse = Synapse("s", "input", "n", "dense", weight)
    assert sum_range(synapse, (0, 1)) == (-120, 100)
    assert sum_range(synapse, (0, 15)) == (-1800, 1500)
    assert sum_range(synapse, (-1, 1)) == (-220, 220)
    assert sum_range(synapse, (-5, 1)) == (-620, 700)
    assert sum_range(dataclasses.replace(synapse, exponent=3), (-5, 1)) == (-4960, 5600)
    assert sum_range(dataclasses.replace(synapse, weight=np.zeros((3, 3), dtype=np.int64)), (-7, 7)) == (0, 0)


def _conv_graph(exponent: int, weight: int = 254, **how: object) -> FixedPointGraph:
    conv = Synapse("s", "input", "n", "conv", np.full((1, 1, 3, 3), weight), exponent, padding=(1, 1))
    population = Neurons("n", (1, 4, 4), 0, np.array(5), np.array(0), 0, 1.0)
    return FixedPointGraph(InputPort((1, 4, 4)), (population,), (conv,), "none", None)


def test_processes_of_our_own_where_stock_ones_would_wrap_or_overflow() -> None:
    """66584576 into a LIF of Lava that takes less than 33554432; 9363456 in a Conv that wraps at 8388608."""
    assert make_plan(_dense_graph(15), 2, 1).populations[0].process == "stock"
    wide = make_plan(_dense_graph(16), 2, 1).populations[0]
    assert (wide.process, wide.own_synapses) == ("own", set())
    assert make_plan(_conv_graph(11), 2, 1).populations[0].own_synapses == set()
    wrapped = make_plan(_conv_graph(12), 2, 1).populations[0]
    assert (wrapped.process, wrapped.own_synapses) == ("stock", {"s"})
    graph = dataclasses.replace(_dense_graph(16), input=InputPort((4,), 40))
    assert make_plan(graph, 2, 1).populations[0].own_synapses == {"s"}


@pytest.mark.parametrize(
    "fields",
    [{"current_shift": 5}, {"soft_reset": True}, {"v_reset": np.array(-1)}],
    ids=lambda fields: " ".join(fields),
)
def test_what_stock_neurons_do_not_have_is_our_own(fields: dict[str, object]) -> None:
    assert make_plan(_dense_graph(0, **fields), 2, 1).populations[0].process == "own"
    assert make_plan(_dense_graph(0, v_reset=np.array(0)), 2, 1).populations[0].process == "stock"


def test_negative_messages_count() -> None:
    """A relay of -2**15..1 into a convolution: its messages of 1 alone would fit Lava's Conv."""
    graph = _conv_graph(0)
    relay = dataclasses.replace(graph.neurons[0], name="r", fires=False, relay=Relay(0, -(2**12), 1))
    first = dataclasses.replace(graph.synapses[0], target="r")
    second = dataclasses.replace(graph.synapses[0], name="t", source="r")
    graph = dataclasses.replace(graph, neurons=(relay, graph.neurons[0]), synapses=(first, second))
    assert [p.own_synapses for p in make_plan(graph, 2, 1).populations] == [set(), {"t"}]


def test_a_relay_costs_one_hop() -> None:
    plan = make_plan(random_graph(0, relays=True), 5, 2)
    assert {p.name for p in plan.populations if p.process == "own"} == {"relay1", "rectifier"}
    delays = {p.name: p.delay for p in plan.populations}
    assert delays == {"conv1": 1, "relay1": 2, "conv2": 3, "rectifier": 4, "after": 5, "fc1": 6, "output": 7}


def test_what_no_process_holds_is_refused() -> None:
    with pytest.raises(BackendError, match=r"input: values can reach 2147483648, Lava's messages have 32 bits"):
        make_plan(dataclasses.replace(_dense_graph(0), input=InputPort((4,), 2**31)), 2, 1)
    inputs = 2**12
    graph = dataclasses.replace(_dense_graph(16, inputs=inputs), input=InputPort((inputs,), 2**31 - 1))
    with pytest.raises(BackendError, match=r"'n': weighted sums can reach 1464.*, which leaves 64 bits"):
        make_plan(graph, 2, 1)


def test_convolution_attributes_beyond_eight_bits_are_our_own() -> None:
    conv = Synapse("s", "input", "n", "conv", np.full((1, 1, 1, 1), 2), stride=(200, 1))
    population = Neurons("n", (1, 1, 4), 0, np.array(5), np.array(0), 0, 1.0)
    graph = FixedPointGraph(InputPort((1, 4, 4)), (population,), (conv,), "none", None)
    assert make_plan(graph, 2, 1).populations[0].own_synapses == {"s"}


@pytest.mark.parametrize(("groups", "expected"), [(1, 1), (127, 127), (128, 64), (130, 65), (131, 1), (512, 64)])
def test_groups_that_fit(groups: int, expected: int) -> None:
    assert groups_that_fit(groups) == expected
