"""What is neither linear nor a neuron becomes a relay that sends numbers on."""

from __future__ import annotations

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from relay_networks import NETWORKS, make
from spikefold.converters.capture import capture
from spikefold.converters.engine import run_engine
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.lower import ATTENTIONS, Attention, lower, lower_float
from spikefold.converters.reference import run_reference


def answers(net: nn.Module, graph: nir.NIRGraph, clips: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return net.double()(clips.double()), read_float_graph(graph).run(clips.double())[0]


def relays(graph: nir.NIRGraph) -> int:
    return sum(p.relays for p in read_float_graph(graph).populations)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_captured_net_answers_as_the_module_and_has_no_more_relays_than_it_needs(name: str) -> None:
    net, clips = make(name)
    graph = capture(net, clips[:, :1])
    wanted, found = answers(net, graph, clips)
    assert float(wanted.std()) > 1e-3
    assert torch.allclose(found, wanted, atol=1e-5)
    assert relays(graph) == NETWORKS[name][1]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("mode", ATTENTIONS)
def test_integers_with_relays_are_the_same_in_both_executors_and_follow_the_float_net(
    name: str, mode: Attention
) -> None:
    net, clips = make(name)
    graph = capture(net, clips[:, :1])
    fixed = lower(graph, clips.numpy(), mode)
    trace, engine = run_reference(fixed, clips.numpy()), run_engine(fixed, clips.numpy())
    for population in fixed.neurons:
        np.testing.assert_array_equal(trace.spikes[population.name], engine.spikes[population.name])
        np.testing.assert_array_equal(trace.membranes[population.name], engine.membranes[population.name])
    kept = sum(n.relay is not None for n in fixed.neurons)
    assert kept == NETWORKS[name][2 if mode == "static" else 1]
    lowered, _ = lower_float(graph, clips.numpy(), mode)
    with torch.no_grad():
        _, sent = read_float_graph(lowered).run(clips)
    first = fixed.neurons[1]
    if first.relay is not None and not name.startswith("a maximum"):  # which of equal numbers is sent is open there
        wanted = sent[first.name].numpy()
        assert np.abs(trace.spikes[first.name] * first.message_unit - wanted).mean() < 0.1 * np.abs(wanted).mean()


def test_a_constant_gate_of_spikes_becomes_part_of_the_weights_behind_it() -> None:
    net, clips = make("gated spikes")
    graph = capture(net, clips[:, :1])
    static, _ = lower_float(graph, clips.numpy(), "static")
    (gated,) = [p for p in read_float_graph(graph).populations if p.relays]
    after = [p for p in read_float_graph(static).populations if p.synapses[0].source == "neuron_one"]
    assert relays(static) == 0
    with torch.no_grad():
        spikes = net.neuron_one(net.one(clips))  # type: ignore[operator]
        mean = torch.sigmoid(4 * spikes.mean((3, 4)) - 1).mean((0, 1))
    weight = net.two.module.weight.detach() * mean.reshape(1, -1, 1, 1)  # type: ignore[union-attr]
    np.testing.assert_allclose(after[0].synapses[0].weight, weight.numpy(), rtol=1e-5)
    assert gated.gate is not None


def test_numbers_that_a_border_keeps_apart_stay_a_relay_with_the_gate_in_its_weights() -> None:
    net, clips = make("a gated and rectified current")
    graph = capture(net, clips[:, :1])
    static, _ = lower_float(graph, clips.numpy(), "static")
    (relay,) = [p for p in read_float_graph(static).populations if p.relays]
    assert relay.rectifies
    assert relay.gate is None
    before = next(p for p in read_float_graph(graph).populations if p.relays)
    assert (np.abs(relay.synapses[0].weight) < np.abs(before.synapses[0].weight)).all()


def test_both_branches_behind_a_gate_share_its_relay() -> None:
    net, clips = make("gated spikes into two branches")
    (relay,) = [p for p in read_float_graph(capture(net, clips[:, :1])).populations if p.relays]
    last = read_float_graph(capture(net, clips[:, :1])).populations[-2]
    assert [s.source for s in last.synapses] == [relay.name, relay.name]
