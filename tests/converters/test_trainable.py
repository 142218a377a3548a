"""Integers in training: the module is the reference bit for bit, ranges hold, gradients point downhill."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from generated_graphs import CLASSES, random_clips, random_graph
from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Relay, Synapse
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.converters.reference import run_reference
from spikefold.converters.trainable import TrainableNet
from spikefold.errors import LoweringError
from spikefold.models.lif import LIF
from spikefold.models.surrogate import derivative

T, BATCH = 3, 6
LABELS = torch.arange(BATCH) % CLASSES
GRAPHS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (0, {}),
    "residual": (1, {"residual": True}),
    "a threshold per neuron": (2, {"per_neuron_thresholds": True}),
    "graded": (4, {"graded_input": True, "residual": True}),
    "grouped, spiking output": (0, {"depthwise": True, "spiking_output": True}),
    "gated": (2, {"gated": True}),
    "a bias per step": (1, {"bias_schedule": True}),
    "relays": (21, {"relays": True, "current_shifts": True, "residual": True}),
    "gated relays": (8, {"relays": True, "current_shifts": True, "gated": True}),
    "other resets": (2, {"resets": ("value", "soft"), "per_neuron_thresholds": True, "spiking_output": True}),
    "relays, all else": (
        8,
        {
            "relays": True,
            "current_shifts": True,
            "graded_input": True,
            "depthwise": True,
            "resets": ("zero", "value", "soft"),
        },
    ),
    "current memory": (5, {"memory": True, "residual": True}),
    "memory and decays of neurons": (8, {"memory": True, "decays": True, "delays": 1}),
    "delays": (7, {"delays": 1, "residual": True, "spiking_output": True}),
    "gated, all else": (
        3,
        {"gated": True, "residual": True, "depthwise": True, "graded_input": True, "per_neuron_thresholds": True},
    ),
}


def graph_of(kind: str) -> FixedPointGraph:
    seed, options = GRAPHS[kind]
    return random_graph(seed, time_steps=T, **options)


def loss_of(net: TrainableNet, clips: np.ndarray) -> Tensor:
    return cross_entropy(net(torch.from_numpy(clips)), LABELS)


def train(net: TrainableNet, clips: np.ndarray, steps: int, rate: float) -> list[float]:
    optimiser = torch.optim.Adam(net.parameters(), rate)
    losses = []
    for _ in range(steps):
        loss = loss_of(net, clips)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def assert_same_integers(one: FixedPointGraph, other: FixedPointGraph) -> None:
    for a, b in zip(one.synapses, other.synapses, strict=True):
        assert (a.name, a.exponent, a.weight.dtype) == (b.name, b.exponent, b.weight.dtype)
        np.testing.assert_array_equal(a.weight, b.weight)
    for n, m in zip(one.neurons, other.neurons, strict=True):
        assert n.v_threshold.shape == m.v_threshold.shape
        assert n.bias_mantissa.shape == m.bias_mantissa.shape
        np.testing.assert_array_equal(n.v_threshold, m.v_threshold)
        np.testing.assert_array_equal(n.bias, m.bias)
        assert (n.relay, n.soft_reset, n.current_shift) == (m.relay, m.soft_reset, m.current_shift)
        assert (n.v_reset is None) == (m.v_reset is None)
        if n.v_reset is not None:
            np.testing.assert_array_equal(n.v_reset, m.v_reset)


@pytest.mark.parametrize("kind", GRAPHS)
def test_before_training_the_integers_are_the_ones_given(kind: str) -> None:
    graph = graph_of(kind)
    assert_same_integers(TrainableNet(graph, T).to_graph(), graph)


@pytest.mark.parametrize("rate", [1e-3, 0.3])
@pytest.mark.parametrize("kind", GRAPHS)
def test_after_every_optimiser_step_the_module_is_the_reference_bit_for_bit(kind: str, rate: float) -> None:
    graph = graph_of(kind)
    net = TrainableNet(graph, T)
    for step in range(4):
        train(net, random_clips(graph, step, T, BATCH), 1, rate)
        clips = random_clips(graph, step + 50, T, BATCH)
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        logits = net(torch.from_numpy(clips), lambda name, s, v, seen=seen: seen.__setitem__(name, (s, v)))
        tuned = net.to_graph()
        expected = run_reference(tuned, clips)
        assert seen.keys() == expected.spikes.keys()
        for name, (spikes, membranes) in seen.items():
            np.testing.assert_array_equal(spikes.numpy(), expected.spikes[name], err_msg=f"spikes of {name}")
            np.testing.assert_array_equal(membranes.numpy(), expected.membranes[name], err_msg=f"membranes of {name}")
        np.testing.assert_array_equal(logits.detach().numpy(), expected.logits)
    layers = list(zip(graph.neurons, tuned.neurons, strict=True))
    assert any((a.weight != b.weight).any() for a, b in zip(graph.synapses, tuned.synapses, strict=True))
    assert any((a.bias != b.bias).any() for a, b in layers)
    assert any((a.v_threshold != b.v_threshold).any() for a, b in layers if a.fires)
    assert all(a.gate is b.gate for a, b in layers)


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_however_hard_it_is_trained_membranes_keep_to_24_bits(kind: str) -> None:
    graph = graph_of(kind)
    net = TrainableNet(graph, T)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1)) * 500)
    tuned = net.to_graph()
    used = []
    for n in tuned.neurons:
        gain = min(T, 4096 / n.dv if n.dv else T)
        limit = arithmetic.STATE_LIMIT if n.fires else arithmetic.MAX_THRESHOLD << 6
        rows = sum(s.effective_weight.reshape(len(s.weight), -1).sum(1) << 6 for s in tuned.incoming(n.name))
        used.append((rows + n.bias.reshape(-1)).max() * gain / limit)  # all weights and biases are positive
    assert all(share <= 1 for share in used)
    assert any(share > 0.95 for share in used)


def test_only_the_row_that_would_leave_24_bits_is_shrunk_and_no_further_than_needed() -> None:
    weight = np.full((2, 40), 100, dtype=np.int64)
    synapse = Synapse("fc", "input", "readout", "dense", weight, exponent=3)
    bias = np.zeros(2, dtype=np.int64)
    readout = Neurons("readout", (2,), 0, np.array(arithmetic.MAX_THRESHOLD), bias, 0, 1.0, fires=False)
    net = TrainableNet(FixedPointGraph(InputPort((40,)), (readout,), (synapse,), "none", None), T)
    with torch.no_grad():
        net.populations[0].weights[0][0] = 1.0
    tuned = net.to_graph().synapses[0].weight
    # 40 inputs x 3 steps x 2**3 x 2**6: mantissas up to 136 stay below the limit of 2**23 - 64
    np.testing.assert_array_equal(tuned, [[136] * 40, [100] * 40])


def test_neurons_that_share_a_threshold_keep_sharing_it() -> None:
    graph = graph_of("a threshold per neuron")
    first = graph.neurons[0]
    shared = replace(first, v_threshold=np.where(np.arange(first.size).reshape(first.shape) % 3, 900, 500))
    net = TrainableNet(replace(graph, neurons=(shared, *graph.neurons[1:])), T)
    train(net, random_clips(graph, 3, T, BATCH), 5, 1e-2)
    tuned = net.to_graph().neurons[0]
    assert tuned.threshold_levels == 2
    assert {500, 900}.isdisjoint(np.unique(tuned.v_threshold))


def test_the_threshold_for_readers_without_gates_follows_the_threshold() -> None:
    graph = graph_of("gated")
    first = replace(graph.neurons[0], static_threshold=3 * graph.neurons[0].v_threshold)
    net = TrainableNet(replace(graph, neurons=(first, *graph.neurons[1:])), T)
    train(net, random_clips(graph, 3, T, BATCH), 5, 1e-2)
    tuned = net.to_graph().neurons[0]
    assert tuned.v_threshold != first.v_threshold
    assert tuned.static_threshold == 3 * tuned.v_threshold


@pytest.mark.parametrize("kind", GRAPHS)
def test_training_lowers_the_loss_on_a_handful_of_clips(kind: str) -> None:
    graph = graph_of(kind)
    losses = train(TrainableNet(graph, T), random_clips(graph, 9, T, BATCH), 40, 5e-3)
    assert np.mean(losses[-5:]) < 0.85 * losses[0]


def test_gradients_of_readout_weights_are_those_of_the_integers() -> None:
    graph = graph_of("plain")
    clips = random_clips(graph, 9, T, BATCH)
    net = TrainableNet(graph, T)
    loss_of(net, clips).backward()
    weight = net.populations[-1].weights[0]
    for at in [(0, 0), (1, 4), (2, 9)]:
        gradient = weight.grad[at].item()
        losses = []
        for change in (-4 / 256, 4 / 256):  # two even mantissas to either side
            moved = TrainableNet(graph, T)
            with torch.no_grad():
                moved.populations[-1].weights[0][at] += change
            losses.append(loss_of(moved, clips).item())
        assert (losses[1] - losses[0]) / (8 / 256) == pytest.approx(gradient, rel=0.05, abs=1e-4)


@pytest.mark.parametrize("layer", range(3))
def test_a_step_against_the_gradient_of_a_hidden_layer_lowers_the_loss_on_average(layer: int) -> None:
    changes = []
    for seed in range(8):
        graph = random_graph(seed, time_steps=T)
        clips = random_clips(graph, seed, T, BATCH)
        net = TrainableNet(graph, T)
        before = loss_of(net, clips)
        before.backward()
        population = net.populations[layer]
        with torch.no_grad():
            for parameter in population.parameters():
                parameter -= 0.02 * parameter.grad.sign()
        changes.append(loss_of(net, clips).item() - before.item())
    assert np.mean(changes) < 0
    assert np.mean(np.array(changes) < 0) > 0.6


def test_a_net_in_half_as_large_units_learns_the_same() -> None:
    """A folded gate only scales thresholds; gradients must not depend on the scale."""
    graph = random_graph(0, time_steps=2)
    graph = replace(graph, neurons=tuple(replace(n, dv=0) for n in graph.neurons))
    finer = replace(
        graph,
        neurons=tuple(
            replace(n, v_threshold=2 * n.v_threshold, bias_exponent=n.bias_exponent + 1, unit=n.unit / 2)
            for n in graph.neurons
        ),
        synapses=tuple(replace(s, exponent=s.exponent + 1) for s in graph.synapses),
    )
    gradients = []
    for one in (graph, finer):
        net = TrainableNet(one, 2)
        loss_of(net, random_clips(graph, 5, 2, BATCH)).backward()
        gradients.append([p.grad for p in net.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    assert all(g.abs().max() > 0 for g in gradients[0])


def test_gradients_are_those_of_the_float_neuron_with_the_same_surrogate() -> None:
    """FSTA-SNN's neuron: threshold 0.5, its surrogate's window from 0 to 1."""
    random = np.random.default_rng(0)
    unit = 0.5 / 4096
    synapse = Synapse("fc", "input", "out", "dense", 2 * random.integers(-20, 50, (3, 12)), exponent=5)
    out = Neurons("out", (3,), 2048, np.array(4096), random.integers(-400, 400, 3), 6, unit)
    net = TrainableNet(FixedPointGraph(InputPort((12,)), (out,), (synapse,), "none", None), 6)
    clips = torch.from_numpy((random.random((6, 8, 12)) < 0.4).astype(np.float32))
    weight = torch.from_numpy(synapse.effective_weight * unit).float().requires_grad_()
    bias = torch.from_numpy(out.bias * unit / 64).float().requires_grad_()
    twin = LIF(0.5, 0.5, strict=True, surrogate="tanh")(clips @ weight.T + bias).mean(0)
    labels = torch.arange(8) % 3
    logits = net(clips)
    torch.testing.assert_close(logits.float(), twin)
    assert 0.1 < twin.mean() < 0.9
    cross_entropy(twin, labels).backward()
    cross_entropy(logits, labels).backward()
    latent = unit * (256 << 5)  # the real worth of a latent of 1
    (layer,) = net.populations
    torch.testing.assert_close(layer.weights[0].grad / latent, weight.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(layer.bias.grad / latent, bias.grad, rtol=1e-3, atol=1e-5)


class Spike(torch.autograd.Function):
    """A step with FSTA-SNN's surrogate."""

    @staticmethod
    def forward(ctx: Any, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (distance,) = ctx.saved_tensors
        return grad * derivative(distance, "tanh")


@pytest.mark.parametrize("reset", ["below", "at threshold", "soft", "soft below"])
def test_gradients_of_other_resets_are_those_of_the_float_neuron(reset: str) -> None:
    """Against autograd through the steps written out, v_reset a fixed share of the threshold."""
    random = np.random.default_rng(1)
    unit, mantissa = 0.5 / 4096, {"below": -1024, "at threshold": 4096, "soft below": -1024}.get(reset)
    synapse = Synapse("fc", "input", "out", "dense", 2 * random.integers(-20, 50, (3, 12)), exponent=5)
    out = Neurons(
        "out", (3,), 2048, np.array(4096), random.integers(-400, 400, 3), 6, unit, soft_reset=reset.startswith("soft"),
        v_reset=None if mantissa is None else np.array(mantissa),
    )  # fmt: skip
    net = TrainableNet(FixedPointGraph(InputPort((12,)), (out,), (synapse,), "none", None), 6)
    clips = torch.from_numpy((random.random((6, 8, 12)) < 0.4).astype(np.float32))
    weight = torch.from_numpy(synapse.effective_weight * unit).float().requires_grad_()
    threshold = torch.tensor(0.5, requires_grad=True)
    v, twin = torch.zeros(8, 3), torch.zeros(8, 3)
    for frame in clips:
        v = 0.5 * v + frame @ weight.T + torch.from_numpy(out.bias * unit / 64).float()
        # the surrogate's window scales with the threshold and is no part of its gradient
        spikes = Spike.apply(v - threshold)
        twin = twin + spikes / 6
        left = threshold * ((mantissa or 0) / 4096)
        v = v - spikes * (threshold - left) if out.soft_reset else v * (1 - spikes) + spikes * left
    logits = net(clips)
    torch.testing.assert_close(logits.float(), twin)
    assert 0.1 < twin.mean() < 0.9
    labels = torch.arange(8) % 3
    cross_entropy(twin, labels).backward()
    cross_entropy(logits, labels).backward()
    latent = unit * (256 << 5)
    (layer,) = net.populations
    torch.testing.assert_close(layer.weights[0].grad / latent, weight.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(layer.thresholds.grad[0] / latent, threshold.grad, rtol=1e-3, atol=1e-5)


def relayed(relay: Relay) -> TrainableNet:
    """Four inputs, a relay of two numbers and a readout of two."""
    first = Synapse("a", "input", "relay", "dense", np.array([[40, 20, -60, 0], [-80, 20, 20, 100]]))
    second = Synapse("b", "relay", "out", "dense", np.array([[20, -40], [60, 100]]))
    none = np.zeros(2, dtype=np.int64)
    middle = Neurons("relay", (2,), 0, np.array(0), none, 0, 1.0, fires=False, relay=relay)
    out = Neurons("out", (2,), 0, np.array(0), none, 0, 1.0, fires=False, current_shift=1)
    return TrainableNet(FixedPointGraph(InputPort((4,)), (middle, out), (first, second), "none", None), 1)


@pytest.mark.parametrize(("low", "high"), [(-100, 100), (0, 100), (-50, 50)])
def test_gradients_through_a_relay_are_those_of_its_clipped_current(low: int, high: int) -> None:
    net = relayed(Relay(5, low, high))  # a weight of 1 is a message of 2
    clips = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]]])
    first, second = (torch.from_numpy(s.weight).double().requires_grad_() for s in net.graph.synapses)
    weights = [population.weights[0] for population in net.populations]
    messages = (2 * clips.double() @ first.T).clamp(low, high)
    twin = (messages @ second.T)[0] * 2 / 64
    logits = net(clips)
    torch.testing.assert_close(logits, twin)
    (logits * torch.arange(10).reshape(5, 2)).sum().backward()
    (twin * torch.arange(10).reshape(5, 2)).sum().backward()
    for weight, real in zip(weights, (first, second), strict=True):
        torch.testing.assert_close(weight.grad.double(), real.grad * 256)
    assert bool((first.grad != 0).any())
    assert bool((first.grad == 0).any())


@pytest.mark.parametrize(("low", "latent", "mantissa"), [(-10, 1, 254), (-10_000, 1, 208), (-10_000, -1, -208)])
def test_negative_messages_count_in_the_worst_case(low: int, latent: int, mantissa: int) -> None:
    """Only messages below 0 are large enough to bring the readout beyond 24 bits, at either end."""
    net = relayed(Relay(0, low, 10))
    with torch.no_grad():
        net.populations[1].weights[0].fill_(latent)
    # 2 messages x 2**1 x 10,000 x 208 < 2**23 - 64
    np.testing.assert_array_equal(net.to_graph().synapses[1].weight, np.full((2, 2), mantissa))


@pytest.mark.parametrize("share", [1.0, 0.5, -0.5])
def test_what_a_spike_leaves_keeps_its_ratio_to_the_threshold(share: float) -> None:
    graph = graph_of("plain")
    first = graph.neurons[0]
    left = np.asarray(np.floor(share * first.v_threshold), dtype=np.int64)
    net = TrainableNet(replace(graph, neurons=(replace(first, v_reset=left), *graph.neurons[1:])), T)
    for factor in (0.5, 4):
        with torch.no_grad():
            net.populations[0].thresholds *= factor
        tuned = net.to_graph().neurons[0]
        assert tuned.v_reset == pytest.approx(max(share * tuned.v_threshold, min(0, left)), abs=1)
        assert tuned.v_reset <= tuned.v_threshold


@pytest.mark.parametrize(("gate", "clips"), [(2**8, False), (2**12, True)])
def test_a_membrane_that_clips_passes_no_gradient_to_weights(gate: int, clips: bool) -> None:
    synapse = Synapse("fc", "input", "out", "dense", np.full((2, 4), 100, dtype=np.int64))
    program = GateProgram((1, -1, 2), (Step("clip", (0,), {"low": gate, "high": gate}),), 1)
    limit = np.array(arithmetic.MAX_THRESHOLD)
    out = Neurons("out", (2,), 0, limit, np.zeros(2, dtype=np.int64), 0, 1.0, gate=program)
    net = TrainableNet(FixedPointGraph(InputPort((4,)), (out,), (synapse,), "dynamic", 1), 1)
    cross_entropy(net(torch.ones(1, 3, 4)), torch.tensor([0, 1, 0])).backward()
    (layer,) = net.populations
    assert bool((layer.weights[0].grad == 0).all()) is clips
    assert bool(layer.thresholds.grad.isfinite().all())


def test_a_graph_whose_membranes_may_leave_24_bits_is_refused() -> None:
    graph = graph_of("plain")
    with pytest.raises(LoweringError, match=r"neurons .* T = 5000, beyond 24 bits"):
        TrainableNet(graph, 5000)


def test_diverged_training_is_refused() -> None:
    net = TrainableNet(graph_of("plain"), T)
    with torch.no_grad():
        net.populations[0].thresholds.fill_(torch.nan)
    with pytest.raises(LoweringError, match="'conv1': training diverged; use a smaller learning rate"):
        net.to_graph()
