from __future__ import annotations

import copy
from collections.abc import Callable

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compared_networks import assert_same_but_for_rounding, record
from gate_networks import GATES, T
from networks import NETS, SHAPE, Chain, PoolBetween, Residual, captured, clips, clips_for, prepared
from spikefold.converters.capture import capture
from spikefold.converters.float_graph import read_float_graph
from spikefold.models import ASA, FSTA, LIF, DVSNet, OverTime


@pytest.mark.parametrize("name", NETS)
def test_every_current_and_spike_of_a_captured_net_is_the_modules(name: str) -> None:
    net, graph = captured(name)
    assert_same_but_for_rounding(graph, net, clips_for(name, 5))


@pytest.mark.parametrize("name", GATES)
def test_every_current_and_spike_of_a_gated_net_is_the_modules(name: str) -> None:
    net, graph = captured(name)
    assert_same_but_for_rounding(graph, net, clips_for(name, 5))


@pytest.mark.parametrize(
    ("attention", "threshold"),
    [(None, 0.75), (lambda: FSTA(T), 1.5), (lambda: ASA(T), 0.5)],
    ids=["none", "FSTA", "ASA"],
)
def test_every_current_and_spike_of_the_shipped_net_is_the_modules(
    attention: Callable[[], nn.Module] | None, threshold: float
) -> None:
    def spiking(_: int) -> dict[str, nn.Module]:
        gate = {} if attention is None else {"attention": attention()}
        return {**gate, "neuron": LIF(0.25, threshold)}

    net = prepared(DVSNet(spiking, 2, 3, 9))
    graph = capture(net, torch.zeros(T, 1, 2, 9, 9))
    assert_same_but_for_rounding(graph, net, clips((T, 3, 2, 9, 9)))


@pytest.mark.parametrize("name", [n for n in NETS if n not in ("odd size", "dense")])
def test_with_weights_that_float32_holds_exactly_every_spike_and_logit_is_equal(name: str) -> None:
    make, shape = NETS[name]
    net = prepared(make(), dyadic=True)
    x = clips((shape[0], 4, *shape[2:]))
    answer, calls = record(net, x)
    graph = read_float_graph(capture(net, torch.zeros(shape)))
    logits, spikes = graph.run(x)
    own = [spikes[p.name] for p in graph.populations if p.fires and not p.logic]
    assert own
    for train, (_, wanted) in zip(own, calls, strict=False):
        assert torch.equal(train.flatten(2), wanted.flatten(2))
    if answer.ndim > 2:
        answer = answer.mean(0).flatten(1)
    assert torch.equal(logits, answer)


def test_only_standard_nodes_are_used_and_the_graph_passes_nirs_own_check() -> None:
    _, graph = captured("residual")
    standard = (nir.Input, nir.Output, nir.Conv2d, nir.Affine, nir.Flatten, nir.LIF, nir.IF, nir.I)
    assert {type(node) for node in graph.nodes.values()} <= set(standard)
    assert graph.check_types()


def test_a_neuron_gets_its_input_unscaled_by_the_rules_of_nir() -> None:
    _, graph = captured("dense")
    dt = graph.metadata["dt"]
    leaky, counting = graph.nodes["layers_1"], graph.nodes["layers_3"]
    assert isinstance(leaky, nir.LIF)
    assert isinstance(counting, nir.IF)
    np.testing.assert_allclose(leaky.r * dt / leaky.tau, 1.0, rtol=1e-6)
    np.testing.assert_allclose(1 - dt / leaky.tau, 0.5, rtol=1e-6)
    np.testing.assert_allclose(counting.r * dt, 1.0, rtol=1e-6)


def test_the_work_as_written_survives_folding() -> None:
    _, graph = captured("conv, norm, pool, neuron")
    assert graph.nodes["conv"].metadata["torch_macs"] == 2 * 9 * 4 * 64
    assert graph.nodes["head"].metadata["torch_macs"] == 4 * 16 * 3


def test_a_grouped_convolution_keeps_its_groups_through_batch_norm_and_pooling() -> None:
    _, graph = captured("grouped")
    node = graph.nodes["conv"]
    assert (int(node.groups), node.weight.shape[:2]) == (2, (4, 1))


def test_only_gated_nets_are_tied_to_a_number_of_steps() -> None:
    assert captured("residual")[1].metadata["time_steps"] == 0
    assert captured("formula")[1].metadata["time_steps"] == T


def test_neurons_of_one_module_used_twice_are_two_populations() -> None:
    names = [p.name for p in read_float_graph(captured("convolutional head")[1]).populations]
    assert names == ["neuron", "neuron_2", "readout"]


def test_names_that_meet_or_that_nir_needs_are_made_unique() -> None:
    _, graph = captured("names that meet")
    assert {"a_b_c", "a_b_c_2"} <= set(graph.nodes)
    _, graph = captured("flattened neurons")
    assert isinstance(graph.nodes["input"], nir.Input)
    assert isinstance(graph.nodes["output"], nir.Output)


def test_a_branch_that_the_answer_does_not_depend_on_is_left_out() -> None:
    _, graph = captured("names that meet")
    assert not {"unused", "nowhere", "nowhere_module"} & set(graph.nodes)


def test_flattened_neurons_of_a_convolution_keep_its_shape_because_nir_cannot_flatten_there() -> None:
    _, graph = captured("flattened neurons")
    assert graph.nodes["input_2"].v_threshold.shape == (3, 8, 8)
    assert graph.nodes["output_2"].v_threshold.shape == (192,)


def test_capture_leaves_the_module_as_it_was() -> None:
    net = prepared(Residual())
    before = copy.deepcopy(net.state_dict())
    capture(net, torch.zeros(SHAPE))
    assert [type(m) for m in net.modules() if isinstance(m, LIF)] == [LIF] * 3
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_a_float64_module_gives_the_graph_of_its_float32_twin() -> None:
    net = prepared(Chain())
    one, other = (capture(n, torch.zeros(SHAPE)) for n in (net, copy.deepcopy(net).double()))
    for name in ("conv", "head"):
        np.testing.assert_array_equal(one.nodes[name].weight, other.nodes[name].weight)
        np.testing.assert_array_equal(one.nodes[name].bias, other.nodes[name].bias)


def test_only_the_shape_of_the_sample_matters() -> None:
    net = prepared(PoolBetween())
    one, other = capture(net, torch.zeros(SHAPE)), capture(net, torch.full((2, 7, *SHAPE[2:]), 9.0))
    assert one.nodes.keys() == other.nodes.keys()
    for name in ("first_module", "second_module", "fc"):
        np.testing.assert_array_equal(one.nodes[name].weight, other.nodes[name].weight)


def test_operations_in_place_are_followed() -> None:
    class Net(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            self.one, self.other = OverTime(nn.Conv2d(2, 4, 3)), OverTime(nn.Conv2d(2, 4, 3))
            self.neuron = LIF(0.5, 0.5)
            self.in_place = in_place

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x)
            if self.in_place:
                y.add_(self.other(x)).mul_(0.5)
            else:
                y = (y + self.other(x)) * 0.5
            out: Tensor = self.neuron(y)
            return out

    one, other = (capture(prepared(Net(b)), torch.zeros(SHAPE)) for b in (False, True))
    assert one.nodes.keys() == other.nodes.keys()
    for name in ("one_module", "other_module"):
        np.testing.assert_array_equal(one.nodes[name].weight, other.nodes[name].weight)
