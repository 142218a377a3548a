"""The comparisons can fail: one changed weight or spike is seen, and counted."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

from equivalence_nets import SHIPPED, USERS, assert_equal, expected, lowered, net
from spikefold.converters.engine import run_engine
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.reference import Trace, run_reference
from spikefold.deploy.equality import BackendEquality
from spikefold.deploy.run import differences
from spikefold.deploy.teacher_forcing import check_folding


def with_one_weight_changed(graph: FixedPointGraph) -> FixedPointGraph:
    """The same net, the largest weight of the first synapse one step nearer to zero."""
    first = graph.synapses[0]
    weight = first.weight.copy()
    place = np.unravel_index(np.abs(weight).argmax(), weight.shape)
    weight[place] -= 2 * np.sign(weight[place])
    return dataclasses.replace(graph, synapses=(dataclasses.replace(first, weight=weight), *graph.synapses[1:]))


@pytest.mark.parametrize("name", SHIPPED)
def test_one_weight_by_one_step(name: str) -> None:
    wanted = expected(name, "static")
    other = run_engine(with_one_weight_changed(lowered(name, "static")), net(name).clips)
    spikes, membranes = differences(wanted, other)
    assert spikes > 0
    assert membranes > 0
    with pytest.raises(AssertionError, match=r"membranes of|spikes of"):
        assert_equal(other, wanted)
    row = BackendEquality("other").plus(wanted, other)
    assert (row.spike_differences, row.membrane_differences, row.equal) == (spikes, membranes, False)


def test_one_spike_is_counted_once() -> None:
    wanted = expected("squeeze", "dynamic")
    spikes = copy.deepcopy(wanted.spikes)
    spikes["fire2"][1, 2, 3, 4, 4] ^= 1
    other = Trace(spikes, wanted.membranes, wanted.logits)
    assert differences(wanted, other) == (1, 0)
    row = BackendEquality("other").plus(wanted, other)
    assert (row.spike_differences, row.membrane_differences, row.logit_differences) == (1, 0, 0)
    assert not row.equal
    assert [layer.spike_differences for layer in row.layers] == [0, 1, 0]
    twice = row.plus(wanted, other)
    assert (twice.samples, twice.values, twice.spike_differences) == (2 * row.samples, 2 * row.values, 2)
    with pytest.raises(AssertionError, match="spikes of fire2"):
        assert_equal(other, wanted)


def test_samples_that_leak_into_each_other_would_be_seen() -> None:
    """Two clips run as one of twice the length differ from each run alone."""
    graph = lowered("residual", "static")
    clips = net("residual").clips
    joined = run_reference(graph, np.concatenate([clips[:, :1], clips[:, 1:2]]))
    alone = expected("residual", "static")
    assert any((joined.membranes[k][len(clips) :, 0] != v[:, 1]).any() for k, v in alone.membranes.items())


@pytest.mark.parametrize("name", [*SHIPPED, *USERS])
def test_folded_weights_off_by_a_hundredth(name: str) -> None:
    made = net(name)
    graph = copy.deepcopy(made.graph)
    population = made.float_net.populations[0]
    graph.nodes[population.synapses[0].name].weight *= np.float32(1.01)
    folding = check_folding(made.module, read_float_graph(graph), made.clips)
    assert not folding.within_bound
    assert folding.layers[0].outside > 0
    assert all(layer.within_bound for layer in folding.layers[1:])
