from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from generated_graphs import random_graph
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.deploy.lava.plan import groups_that_fit, largest_sum, make_plan
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


def test_largest_sum_counts_one_sign_at_a_time() -> None:
    weight = np.array([[100, -30, -90], [10, 20, 30]])
    assert largest_sum(weight, 1) == 120
    assert largest_sum(weight, 15) == 1800
    assert largest_sum(np.zeros((3, 2, 1, 1), dtype=np.int64), 7) == 0


def test_sums_that_lava_would_wrap_or_overflow_are_refused() -> None:
    make_plan(_dense_graph(15), 2, 1)
    with pytest.raises(
        BackendError, match=r"'n': weighted sums can reach 66584576, Lava's LIF takes less than 33554432"
    ):
        make_plan(_dense_graph(16), 2, 1)
    conv = Synapse("s", "input", "n", "conv", np.full((1, 1, 3, 3), 254), 12, padding=(1, 1))
    population = Neurons("n", (1, 4, 4), 0, np.array(5), np.array(0), 0, 1.0)
    graph = FixedPointGraph(InputPort((1, 4, 4)), (population,), (conv,), "none", None)
    with pytest.raises(
        BackendError, match=r"synapse 's': weighted sums can reach 9363456, Lava's Conv wraps at 8388608"
    ):
        make_plan(graph, 2, 1)


def test_convolution_attributes_beyond_eight_bits_are_refused() -> None:
    conv = Synapse("s", "input", "n", "conv", np.full((1, 1, 1, 1), 2), stride=(200, 1))
    population = Neurons("n", (1, 1, 4), 0, np.array(5), np.array(0), 0, 1.0)
    graph = FixedPointGraph(InputPort((1, 4, 4)), (population,), (conv,), "none", None)
    with pytest.raises(BackendError, match=r"synapse 's': stride is \(200, 1\), Lava's Conv holds at most 127"):
        make_plan(graph, 2, 1)


@pytest.mark.parametrize(("groups", "expected"), [(1, 1), (127, 127), (128, 64), (130, 65), (131, 1), (512, 64)])
def test_groups_that_fit(groups: int, expected: int) -> None:
    assert groups_that_fit(groups) == expected
