"""Products of spike trains become neurons that compute them exactly: AND, IAND and NOR, beside the sum (ADD)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compared_networks import assert_same_but_for_rounding
from equivalence_nets import assert_equal, events, layer, settled
from spikefold.converters.capture import capture
from spikefold.converters.engine import run_engine
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.lower import lower
from spikefold.converters.onnx import to_onnx_step
from spikefold.converters.reference import run_reference
from spikefold.deploy.equality import run_steps
from spikefold.deploy.onnx_runner import ClipRunner, StepRunner
from spikefold.deploy.teacher_forcing import check_folding
from spikefold.models import LIF, OverTime

Join = Callable[[Tensor, Tensor], Tensor]
PRODUCTS: dict[str, Join] = {
    "and": lambda a, b: a * b,
    "iand": lambda a, b: (1 - a) * b,
    "iand, shortcut inverted": lambda a, b: a * (1 - b),
    "nor": lambda a, b: (1 - a) * (-b + 1.0),
    "or": lambda a, b: 1 - (1 - a) * (1 - b),
    "xor": lambda a, b: (1 - a) * b + (1 - b) * a,
    "and of a double inverse": lambda a, b: (1 - (1 - a)) * b,
    "and of three": lambda a, b: a * b * (1 - (1 - a) * (1 - b)),
    "in place": lambda a, b: a.clone().mul_(b),
}
JOINS: dict[str, Join] = {"add": lambda a, b: a + b, **PRODUCTS}


class SEWBlock(nn.Module):
    """Spike-element-wise block of Fang et al. (NeurIPS 2021): two spiking layers, joined with the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, join: Join) -> None:
        super().__init__()
        self.conv1, self.fire1 = layer(inputs, outputs, stride), LIF(0.5, 0.3)
        self.conv2, self.fire2 = layer(outputs, outputs), LIF(0.5, 0.3)
        self.down: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            self.down = nn.Sequential(OverTime(down), LIF(0.5, 0.3))
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.fire2(self.conv2(self.fire1(self.conv1(x)))), self.down(x))


class SEWNet(nn.Module):
    """A stem, a block that keeps the size and one that halves it, and a readout of mean spikes."""

    def __init__(self, join: Join) -> None:
        super().__init__()
        self.stem, self.fire = layer(2, 4), LIF(0.5, 0.3)
        self.keep, self.halve = SEWBlock(4, 4, 1, join), SEWBlock(4, 6, 2, join)
        self.head = OverTime(nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.halve(self.keep(self.fire(self.stem(x))))
        logits: Tensor = self.head(x.mean((3, 4))).mean(0)
        return logits


def made(join: Join) -> nn.Module:
    torch.manual_seed(7)
    net = SEWNet(join)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    return settled(net, events(16, 1))


@pytest.mark.parametrize("name", JOINS)
def test_a_net_of_sew_blocks_fires_as_its_module_does(name: str) -> None:
    net, x = made(JOINS[name]), events(4, 2)
    graph = read_float_graph(capture(net, torch.from_numpy(x).float()))
    folding = check_folding(net, graph, x)
    assert folding.within_bound
    assert folding.float32_flips <= 2
    assert any(p.logic for p in graph.populations) == (name != "add")
    assert not any(p.relays for p in graph.populations)  # 1 - s in front of a padded convolution is a spike as well
    assert len(folding.layers) == 7  # six neurons of the module and the readout; logic is none of its neurons


@pytest.mark.parametrize("name", JOINS)
def test_a_net_of_sew_blocks_is_the_same_integers_on_every_backend(name: str) -> None:
    net, clips = made(JOINS[name]), events(4, 2)
    fixed = lower(capture(net, torch.from_numpy(clips).float()), events(16, 1))
    trace = run_reference(fixed, clips)
    assert_equal(run_engine(fixed, clips), trace)
    assert_equal(ClipRunner(fixed, trace=True).run(clips, batch_size=3).trace, trace)
    assert_equal(run_steps(StepRunner(to_onnx_step(fixed)), fixed, clips), trace)
    assert all(0.02 < trace.spikes[n.name].mean() < 0.98 for n in fixed.neurons if n.fires and "fire" in n.name)


@pytest.mark.parametrize("name", PRODUCTS)
def test_integer_logic_fires_exactly_where_the_product_is_one(name: str) -> None:
    """On every pair of bits, each after each, so that no step may remember the one before."""
    torch.manual_seed(0)
    net = Pair(PRODUCTS[name]).eval()
    bits = torch.tensor([[p & 1, p >> 1, q & 1, q >> 1] for p in range(4) for q in range(4)]).float()
    clips = bits.reshape(16, 2, 2).transpose(0, 1).contiguous()
    fixed = lower(capture(net, clips), clips.numpy().astype(np.uint8))
    logic = [n for n in fixed.neurons if "mul" in n.name]
    assert logic
    assert {(n.unit, int(n.v_threshold)) for n in logic} == {(0.5, 3)}
    trace = run_reference(fixed, clips.numpy().astype(np.uint8))
    np.testing.assert_array_equal(trace.spikes["last"][..., 0], PRODUCTS[name](clips[..., 0], clips[..., 1]))


class Pair(nn.Module):
    """Two neurons that copy one input bit each, joined, and one that copies the result."""

    def __init__(self, join: Join) -> None:
        super().__init__()
        self.one, self.other, self.through = nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(1, 1)
        self.fire_one, self.fire_other, self.last = (LIF(0.0, 0.5) for _ in range(3))
        self.join = join
        with torch.no_grad():
            self.one.weight.copy_(torch.tensor([[1.0, 0.0]]))
            self.other.weight.copy_(torch.tensor([[0.0, 1.0]]))
            self.through.weight.fill_(1.0)
            for linear in (self.one, self.other, self.through):
                linear.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        joined = self.join(self.fire_one(self.one(x)), self.fire_other(self.other(x)))
        spikes: Tensor = self.last(self.through(joined))
        return spikes


def test_a_product_can_be_the_answer_and_the_input_of_a_gate() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.fire1 = layer(2, 4), LIF(0.5, 0.3)
            self.conv2, self.fire2 = layer(2, 4), LIF(0.5, 0.3)
            self.conv3, self.fire3 = layer(4, 4), LIF(0.5, 0.2)

        def forward(self, x: Tensor) -> Tensor:
            both = self.fire1(self.conv1(x)) * self.fire2(self.conv2(x))
            current = self.conv3(both)
            current = current * (1 + torch.sigmoid(current.mean((3, 4), keepdim=True)))
            return self.fire3(current) * (1 - both)

    torch.manual_seed(3)
    net, x = settled(Gated(), events(16, 1)), events(4, 2)
    graph = capture(net, torch.from_numpy(x).float())
    assert read_float_graph(graph).populations[-1].logic
    assert_same_but_for_rounding(graph, net, torch.from_numpy(x).double())


def test_logic_survives_layouts() -> None:
    """Merged, swapped and flattened factors are multiplied as they stand."""

    class Layouts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.fire1 = layer(2, 4), LIF(0.5, 0.3)
            self.conv2, self.fire2 = layer(2, 4), LIF(0.5, 0.3)
            self.head = nn.Linear(400, 3)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.fire1(self.conv1(x)), self.fire2(self.conv2(x))
            merged = (1 - a.flatten(0, 1)) * b.flatten(0, 1)
            swapped = merged.unflatten(0, x.shape[:2]).transpose(0, 1) * (1 - (a * b)).transpose(0, 1)
            flat = swapped.transpose(0, 1).flatten(2) * b.flatten(2)
            logits: Tensor = self.head(flat).mean(0)
            return logits

    torch.manual_seed(4)
    net, x = settled(Layouts(), events(16, 1)), events(4, 2)
    graph = capture(net, torch.from_numpy(x).float())
    assert [p.logic for p in read_float_graph(graph).populations] == [False, False, True, True, True, True, False]
    assert_same_but_for_rounding(graph, net, torch.from_numpy(x).double())


def test_a_gate_computed_from_the_spikes_it_multiplies_is_no_logic() -> None:
    class GatedCurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fire1, self.fire2 = layer(2, 4), LIF(0.5, 0.3), LIF(0.5, 0.3)

        def forward(self, x: Tensor) -> Tensor:
            spikes = self.fire1(self.conv(x))
            return self.fire2(spikes * torch.sigmoid(spikes.mean((3, 4), keepdim=True)))

    torch.manual_seed(5)
    net = settled(GatedCurrent(), events(16, 1))
    last = read_float_graph(capture(net, torch.from_numpy(events(1, 2)).float())).populations[-1]
    assert last.gate is not None
    assert not last.logic


def test_a_product_with_the_input_is_no_logic() -> None:
    """An input may hold counts, whose product with spikes is no spike."""

    class WithInput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fire1, self.fire2 = layer(2, 2), LIF(0.5, 0.3), LIF(0.5, 0.3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fire2(x * self.fire1(self.conv(x)))

    torch.manual_seed(5)
    net = settled(WithInput(), events(16, 1))
    graph = capture(net, torch.from_numpy(events(1, 2)).float())
    assert not any(getattr(node, "metadata", {}).get("logic", False) for node in graph.nodes.values())


def test_a_wrong_product_would_be_seen() -> None:
    """What the comparison with the module shows where a product fires too easily."""
    net, x = made(JOINS["and"]), events(4, 2)
    graph = read_float_graph(capture(net, torch.from_numpy(x).float()))
    loose = tuple(replace(p, v_threshold=p.v_threshold - 1) if p.logic else p for p in graph.populations)
    assert check_folding(net, graph, x).within_bound
    assert not check_folding(net, replace(graph, populations=loose), x).within_bound
