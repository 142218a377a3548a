"""The way from NeuroBench's counts of a module to those of the mapped net: every step is a number that adds up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from generated_graphs import random_graph
from networks import Chain, PoolBetween, Wrapped
from pixel_gate import PixelGate
from small_event_nets import seeded_net
from spikefold.converters.calibrate import calibrate
from spikefold.converters.capture import capture
from spikefold.converters.lower import Attention, lower
from spikefold.converters.palette import palettise
from spikefold.deploy.neurobench_beside import SAMPLES, Beside, beside, count_module, integer_bytes, layers_to_neurons
from spikefold.deploy.neurobench_words import reasons
from spikefold.deploy.run import run
from spikefold.models import LIF, OverTime

CLIPS = (np.random.default_rng(5).random((4, 6, 2, 8, 8)) < 0.3).astype(np.uint8)


def both(
    net: nn.Module, clips: np.ndarray = CLIPS, attention: Attention = "dynamic", levels: int | None = None
) -> Beside:
    net.eval()
    captured = capture(net, torch.from_numpy(clips[:, :1]).float())
    fixed = lower(captured, calibrate(captured, clips[:, :6]), attention)
    if levels is not None:
        fixed = palettise(fixed, clips, levels).graph
    return beside(count_module(net, captured, clips), run(fixed, clips))


def assert_adds_up(found: Beside) -> None:
    counts = found.module.counts
    total = counts.effective_acs + counts.effective_macs + sum(found.steps.values())
    assert total == pytest.approx(found.mapped.synops, rel=1e-12)


class Conv(nn.Module):
    """A convolution that may be a function, with a gate that is linear in the current."""

    def __init__(self, as_function: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.mix = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.neuron, self.head = LIF(0.5, 0.2), nn.Linear(4 * 64, 3)
        self.as_function = as_function

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        call = (
            functional.conv2d(flat, self.conv.weight, self.conv.bias, padding=1)
            if self.as_function
            else self.conv(flat)
        )
        current = call * torch.sigmoid(self.mix(call))
        logits: Tensor = self.head(self.neuron(current.unflatten(0, x.shape[:2])).flatten(2))
        return logits.mean(0)


def test_without_pooling_and_gates_composed_kernels_do_what_layers_do() -> None:
    torch.manual_seed(0)
    found = both(Wrapped())
    assert_adds_up(found)
    assert found.module.counts.effective_acs > 0
    steps = {name: value for name, value in found.steps.items() if name != "other spikes"}
    assert steps == dict.fromkeys(steps, 0.0)
    assert not any("composed" in reason for reason in reasons(found))


def test_what_pooling_in_a_kernel_saves_is_counted_to_the_border() -> None:
    torch.manual_seed(0)
    found = both(Chain())
    assert_adds_up(found)
    x = torch.from_numpy(CLIPS).flatten(0, 1).double()
    written = functional.conv2d(x, torch.ones(4, 2, 3, 3).double(), padding=1).sum()
    kernel = functional.conv2d(x, torch.ones(4, 2, 4, 4).double(), stride=2, padding=1).sum()
    assert found.steps["composed kernels"] == pytest.approx(float(kernel - written) / CLIPS.shape[1])
    (reason,) = [r for r in reasons(found) if "composed" in r]
    assert "conv is 4 x 4, stride 2 with 2.05 k taps a step for 4.61 k MACs as written" in reason


def test_weights_of_0_are_put_back() -> None:
    torch.manual_seed(0)
    net = Wrapped()
    with torch.no_grad():
        net.blocks[0].module[0].weight[0] = 0.0
    found = both(net)
    assert_adds_up(found)
    x = torch.from_numpy(CLIPS).flatten(0, 1).double()
    zeros = functional.conv2d(x, torch.ones(1, 2, 3, 3).double()).sum()
    assert found.steps["weights of 0"] == pytest.approx(float(zeros) / CLIPS.shape[1])
    assert found.steps["composed kernels"] == 0.0
    assert any("synops meet weights of 0" in reason for reason in reasons(found))


@pytest.mark.parametrize("attention", ["static", "dynamic"])
def test_layers_inside_gates_are_told_apart_and_gate_operations_take_their_place(attention: Attention) -> None:
    net = seeded_net(3)
    found = both(net, attention=attention)
    assert_adds_up(found)
    assert found.module.leading == {"conv", "head"}
    inside = {c.name: c.effective for c in found.module.counts.layers if c.name not in found.module.leading}
    assert set(inside) == {"attention.down", "attention.up"}
    assert found.steps["layers inside gates"] == -sum(inside.values()) < 0
    (reason,) = [r for r in reasons(found) if "inside gates" in r]
    assert ("folded away" in reason) == (attention == "static")
    assert ("integer operations of their own" in reason) == (attention == "dynamic")


def test_a_layer_of_a_gate_that_is_linear_in_the_current_leads_to_no_neuron() -> None:
    assert layers_to_neurons(Conv().eval(), torch.zeros(4, 1, 2, 8, 8)) == (frozenset({"conv", "head"}), 0)


def test_a_factor_without_a_nonlinearity_leads_to_no_neuron() -> None:
    class Product(Conv):
        def forward(self, x: Tensor) -> Tensor:
            flat = self.conv(x.flatten(0, 1))
            logits: Tensor = self.head(self.neuron((flat * self.mix(flat)).unflatten(0, x.shape[:2])).flatten(2))
            return logits.mean(0)

    assert layers_to_neurons(Product().eval(), torch.zeros(4, 1, 2, 8, 8)) == (frozenset({"conv", "head"}), 0)


def test_layers_called_as_functions_are_named_as_unseen() -> None:
    found = both(Conv(as_function=True))
    assert_adds_up(found)
    assert (found.module.leading, found.module.unseen) == ({"head"}, 1)
    assert any("1 convolutions or linear maps are called as functions" in reason for reason in reasons(found))
    assert found.steps["composed kernels"] > 0, "what NeuroBench does not see is work of the mapped net"


def test_a_layer_that_is_called_twice_counts_once_as_leading() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = OverTime(nn.Conv2d(2, 2, 3, padding=1))
            self.neurons = nn.ModuleList([LIF(0.5, 0.2), LIF(0.5, 0.2)])

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.neurons[1](self.layer(self.neurons[0](self.layer(x))))
            return out

    assert layers_to_neurons(Twice().eval(), torch.zeros(4, 1, 2, 8, 8)) == (frozenset({"layer.module"}), 0)


def test_pooled_spikes_are_numbers_there_and_spikes_here() -> None:
    torch.manual_seed(0)
    net = PoolBetween().eval()
    found = both(net)
    assert_adds_up(found)
    assert found.module.multiplying == found.module.counts.effective_macs > 0
    assert found.graded_synops == 0
    assert any("here every message is a spike" in reason for reason in reasons(found))


def test_an_input_of_numbers_multiplies_there_and_is_graded_here() -> None:
    torch.manual_seed(0)
    found = both(Chain(), CLIPS * np.random.default_rng(0).integers(1, 4, CLIPS.shape).astype(np.uint8))
    assert_adds_up(found)
    assert found.graded_synops > 0
    assert any("synops carry numbers" in reason for reason in reasons(found))


def test_numbers_of_relays_that_round_away_are_a_step_of_their_own() -> None:
    class Rectified(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = OverTime(nn.Conv2d(2, 4, 3, padding=1)), OverTime(nn.Conv2d(4, 2, 3, padding=1))
            self.neuron, self.head = LIF(0.5, 0.2), nn.Linear(2 * 64, 3)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.neuron(self.second(torch.relu(self.first(x)))).flatten(2))
            return logits.mean(0)

    found = both(Rectified())
    assert_adds_up(found)
    relayed = {s.name for s in found.graph.synapses if found.graph.is_graded(s.source)}
    synops = {name: float(per_sample.mean()) for name, per_sample in run(found.graph, CLIPS).synops.items()}
    assert len(relayed) == 1
    for step, names in (("other numbers of relays", relayed), ("other spikes", synops.keys() - relayed)):
        assert found.steps[step] == pytest.approx(sum(synops[n] - found.kernel_synops[n] for n in names))
    assert found.steps["other numbers of relays"] < 0, "small numbers are not sent"
    assert any("those that round to 0 are no messages" in reason for reason in reasons(found))


def test_only_the_first_samples_are_counted_and_the_same_on_both_sides() -> None:
    clips = (np.random.default_rng(6).random((4, SAMPLES + 4, 2, 8, 8)) < 0.3).astype(np.uint8)
    clips[:, SAMPLES:] = 1
    few, all_of_them = both(seeded_net(3), clips[:, :SAMPLES]), both(seeded_net(3), clips)
    assert all_of_them.mapped.samples == all_of_them.module.counts.samples == SAMPLES
    assert few.module.counts == all_of_them.module.counts
    assert few.mapped == all_of_them.mapped
    assert_adds_up(all_of_them)


def test_sparsity_is_of_the_same_neurons_or_it_is_said_how_it_is_not() -> None:
    class Rectified(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act = nn.Linear(4, 4), nn.Sigmoid()

        def forward(self, x: Tensor) -> Tensor:
            steps, batch = x.shape[:2]
            current = self.pool(self.norm(self.conv(x.flatten(0, 1)))).unflatten(0, (steps, batch))
            gate = self.act(self.fc(current.mean((0, 3, 4))))
            logits: Tensor = self.head(self.neuron(current * gate[None, :, :, None, None]).flatten(2))
            return logits.mean(0)

    torch.manual_seed(0)
    found = both(Rectified())
    counts = found.module.counts
    assert counts.neuron_outputs == 4 * 4 * 16 == sum(n.updates for n in found.mapped.layers if n.fires)
    assert counts.other_outputs == 4
    assert counts.activation_sparsity == pytest.approx(counts.neuron_sparsity * 256 / 260)
    assert any(r.startswith(f"{4 / 260:.1%} of the outputs") for r in reasons(found))
    assert found.quiet == pytest.approx(1 - found.mapped.firing_rate)


def test_a_max_pooling_is_a_neuron_here_and_none_there() -> None:
    class Pooled(Chain):
        def forward(self, x: Tensor) -> Tensor:
            steps, batch = x.shape[:2]
            spikes = self.neuron(self.norm(self.conv(x.flatten(0, 1))).unflatten(0, (steps, batch)))
            pooled = functional.max_pool2d(spikes.flatten(0, 1), 2).unflatten(0, (steps, batch))
            logits: Tensor = self.head(pooled.flatten(2))
            return logits.mean(0)

    torch.manual_seed(0)
    found = both(Pooled())
    assert_adds_up(found)
    assert any(
        r.startswith("1.28 k neuron outputs a clip make the sparsity here, 1.02 k there") for r in reasons(found)
    )


def test_bytes_count_every_stored_number_in_the_bits_of_its_format() -> None:
    graph = random_graph(2, per_neuron_thresholds=True)
    stored = integer_bytes(graph)
    assert stored.weights == sum(s.weight.size for s in graph.synapses)
    assert stored.biases == -(-13 * sum(n.bias_mantissa.size for n in graph.neurons) // 8)
    assert stored.gates == 0
    assert stored.total == stored.weights + stored.biases + stored.thresholds


def test_a_threshold_map_of_few_levels_is_a_table_and_numbers_of_entries() -> None:
    graph = random_graph(2, per_neuron_thresholds=True)
    first = next(n for n in graph.neurons if n.fires)
    flat = np.arange(first.size).reshape(first.shape)

    def bits(thresholds: np.ndarray) -> int:
        changed = tuple(
            replace(n, v_threshold=thresholds) if n is first else replace(n, fires=False) for n in graph.neurons
        )
        return integer_bytes(replace(graph, neurons=changed)).thresholds

    assert bits(100 + flat) == -(-17 * first.size // 8), "all differ: a word each"
    assert bits(100 + flat % 4) == -(-(4 * 17 + 2 * first.size) // 8)
    assert bits(100 + 0 * flat) == -(-17 // 8)
    assert bits(np.asarray(100)) == -(-17 // 8)


def test_gates_take_their_constants_and_a_static_form_its_thresholds() -> None:
    static, few, dynamic = (
        both(PixelGate(), attention=attention, levels=levels)
        for attention, levels in (("static", None), ("static", 2), ("dynamic", None))
    )
    assert static.bytes.gates == 0 < dynamic.bytes.gates
    assert dynamic.bytes.thresholds <= few.bytes.thresholds < static.bytes.thresholds
    assert few.steps["other spikes"] != static.steps["other spikes"]
    assert any("the static gate, rounding to integers, 2 thresholds a layer" in reason for reason in reasons(few))
    assert "of gates" not in " ".join(reasons(static))
