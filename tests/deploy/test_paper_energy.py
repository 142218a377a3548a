"""The papers' formula by hand, and operations of attention against scalars that count themselves."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import spikefold as sf
from spikefold.converters.calibrate import calibrate
from spikefold.deploy.count import gate_activity
from spikefold.deploy.hardware import load_hardware
from spikefold.deploy.paper_energy import break_even, paper_counts, paper_price
from spikefold.deploy.price import price
from spikefold.deploy.run import run
from spikefold.errors import InputError
from spikefold.models import LIF, build
from spikefold.models.attention.asa import ASA
from spikefold.models.attention.fsta import FSTA
from spikefold.models.attention.staa import STAALayer
from spikefold.models.over_time import OverTime
from spikefold.models.registry import ENTRIES

T = 3
ADD, MULTIPLY, LOOKUP = 0.9e-12, 3.7e-12, 10e-12  # Horowitz, ISSCC 2014 [J]
FIRST, SECOND = T * 64 * 4 * 18, T * 256 * 10


class Squeeze(nn.Module):
    """Multiply a current by the sigmoid of its mean over pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x.mean((3, 4), keepdim=True))


class TwoLayers(nn.Module):
    """2 channels of 8 x 8 -conv 3 x 3-> 4 channels (attention, neuron) -linear-> 10."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.conv = OverTime(nn.Conv2d(2, 4, 3, padding=1))
        self.norm = OverTime(nn.BatchNorm2d(4))
        self.attention, self.neuron, self.head = attention, LIF(), nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.neuron(self.attention(self.norm(self.conv(x))))
        logits: torch.Tensor = self.head(spikes.flatten(2))
        return logits.mean(0)


PLAIN, GATED = TwoLayers(nn.Identity()), TwoLayers(Squeeze())
CLIP = torch.zeros(T, 1, 2, 8, 8)


def test_two_layers_by_hand():
    counts = paper_counts(PLAIN, CLIP, (Squeeze,))
    assert dict(counts.macs) == {"conv.module": FIRST, "head": SECOND}
    assert (counts.first_macs, counts.spiking_macs, counts.attention) == (FIRST, SECOND, None)
    priced = paper_price(counts, 0.2)
    assert priced.total.value == pytest.approx((MULTIPLY + ADD) * FIRST + ADD * 0.2 * SECOND, rel=1e-12)
    assert priced.total_without_attention == priced.total
    assert break_even(counts) == 0.0


def test_attention_by_hand():
    counts = paper_counts(GATED, CLIP, (Squeeze,))
    own, currents, means = counts.attention, T * 4 * 64, T * 4
    assert own is not None
    assert (own.multiplies, own.additions) == (currents + means, currents - means)
    assert (own.comparisons, own.lookups) == (0, means)
    energy = MULTIPLY * own.multiplies + ADD * own.additions + LOOKUP * means
    priced = paper_price(counts, 0.2)
    assert priced.total_without_attention is not None
    assert priced.total_without_attention.value == paper_price(paper_counts(PLAIN, CLIP, (Squeeze,)), 0.2).total.value
    assert priced.total.value - priced.total_without_attention.value == pytest.approx(energy, rel=1e-9)
    assert break_even(counts) == pytest.approx(energy / (ADD * SECOND), rel=1e-12)


def test_at_the_break_even_attention_costs_as_much_as_it_saves():
    gated = TwoLayers(Squeeze())
    gated.head = nn.Linear(256, 4000)  # large enough for attention to pay at all
    counts = paper_counts(gated, CLIP, (Squeeze,))
    plain = replace(counts, attention=None)
    assert 0 < break_even(counts) < 0.5
    with_attention = paper_price(counts, 0.5 - break_even(counts))
    assert with_attention.total.value == pytest.approx(paper_price(plain, 0.5).total.value, rel=1e-12)


def test_the_formula_is_the_one_that_runs_are_priced_by():
    torch.manual_seed(0)
    net = build("plain-dvsnet").eval()
    clips = (np.random.default_rng(0).random((10, 2, 2, 32, 32)) < 0.1).astype(np.uint8)
    graph = sf.capture(net, torch.from_numpy(clips[:, :1]).float())
    activity = run(sf.lower(graph, calibrate(graph, clips), "static"), clips).activity
    first = activity.synapses[0].source
    synapses = tuple(replace(s, source_rate=0.3, payload_bits=8 if s.source == first else 0) for s in activity.synapses)
    wanted = price(replace(activity, synapses=synapses), load_hardware("cmos45"))
    got = paper_price(paper_counts(net, torch.zeros(10, 1, 2, 32, 32), ()), 0.3)
    assert got.total.value == pytest.approx(wanted.total.value, rel=1e-12)


class Number:
    """A number that counts what is done with it."""

    done: ClassVar[Counter[str]] = Counter()

    def __init__(self, value: float) -> None:
        self.value = float(value)

    def __add__(self, other: Number) -> Number:
        Number.done["additions"] += 1
        return Number(self.value + other.value)

    def __sub__(self, other: Number) -> Number:
        Number.done["additions"] += 1
        return Number(self.value - other.value)

    def __mul__(self, other: Number) -> Number:
        Number.done["multiplies"] += 1
        return Number(self.value * other.value)

    def sigmoid(self) -> Number:
        Number.done["lookups"] += 1
        return Number(1 / (1 + math.exp(-self.value)))


def total(numbers: list[Number]) -> Number:
    out = numbers[0]
    for number in numbers[1:]:
        out = out + number
    return out


def largest(numbers: list[Number]) -> Number:
    Number.done["comparisons"] += len(numbers) - 1
    return max(numbers, key=lambda number: number.value)


def mean(numbers: list[Number]) -> Number:
    return total(numbers) * Number(1 / len(numbers))


def best(values: list[Number], k: int) -> list[int]:
    """Rank by n * ceil(log2 n) comparisons, as the product counts a sort."""
    Number.done["comparisons"] += len(values) * math.ceil(math.log2(len(values)))
    order = sorted(range(len(values)), key=lambda i: -values[i].value)
    return [1 if i in order[:k] else 0 for i in range(len(values))]


def multiply_add(pairs: list[tuple[Number, Number]]) -> Number:
    """Accumulate from 0, one multiply and one addition a pair."""
    out = Number(0)
    for a, b in pairs:
        out = out + a * b
    return out


def convolve(maps: dict[tuple[int, int, int], Number], weight: torch.Tensor, side: int, channels: int):
    """One output map of a padded convolution, its padding multiplied like every other number."""
    kernel = weight.shape[-1]
    return {
        (y, x): multiply_add(
            [
                (maps.get((c, y + i - kernel // 2, x + j - kernel // 2), Number(0)), Number(weight[c, i, j]))
                for c in range(channels)
                for i in range(kernel)
                for j in range(kernel)
            ]
        )
        for y in range(side)
        for x in range(side)
    }


def cells(x: torch.Tensor) -> dict[tuple[int, ...], Number]:
    return {index: Number(x[index]) for index in np.ndindex(*x.shape)}


def asa_of_scalars(module: ASA, x: torch.Tensor) -> torch.Tensor:
    """ASA on one clip ``[T, C, H, H]``, term by term of its docstring's equations."""
    steps, channels, side, _ = x.shape
    pixels, places = [(y, z) for y in range(side) for z in range(side)], list(np.ndindex(steps, channels))
    current = cells(x)
    pooled = {}
    for t, c in places:
        values = [current[t, c, y, z] for y, z in pixels]
        average, maximum = mean(values), largest(values)
        half = Number(0.5) * (average + maximum)
        pooled[t, c] = half + Number(module.alpha) * average + Number(module.beta) * maximum
    mixing = module.fc.weight
    importance = {(t, c): multiply_add([(pooled[u, c], Number(mixing[t, u])) for u in range(steps)]) for t, c in places}
    by_step = [best([importance[t, c] for c in range(channels)], channels // 2) for t in range(steps)]
    by_channel = [best([importance[t, c] for t in range(steps)], steps // 2) for c in range(channels)]
    mask = {}
    for t, c in places:
        in_step, in_channel = Number(by_step[t][c]), Number(by_channel[c][t])
        both = in_step * in_channel
        mask[t, c] = in_step + in_channel - Number(2) * both
    chosen = {i: mask[i[0], i[1]] * current[i] for i in current}
    other = {i: current[i] - chosen[i] for i in current}
    maps = []
    for group, conv in ((chosen, module.conv1), (other, module.conv2)):
        pools = {}
        for y, z in pixels:
            values = [group[t, c, y, z] for t, c in places]
            pools[0, y, z], pools[1, y, z] = mean(values) * Number(2), largest(values)
        maps.append({p: v.sigmoid() for p, v in convolve(pools, conv.weight[0], side, 2).items()})
    difference = {p: maps[0][p] - maps[1][p] for p in pixels}
    out = torch.empty_like(x)
    for t, c, y, z in current:
        gate = maps[1][y, z] + mask[t, c] * difference[y, z]
        out[t, c, y, z] = (current[t, c, y, z] * gate).value
    return out


def fsta_of_scalars(module: FSTA, x: torch.Tensor) -> torch.Tensor:
    """FSTA on one clip ``[T, C, H, H]``: channels summed first, as its docstring says."""
    steps, channels, side, _ = x.shape
    pixels = [(y, z) for y in range(side) for z in range(side)]
    current = cells(x)
    summed = {(t, *p): total([current[t, c, *p] for c in range(channels)]) for t in range(steps) for p in pixels}
    pooled = []
    for t in range(steps):
        average = mean([summed[t, *p] for p in pixels]) * Number(1 / channels)
        peak = mean([largest([current[t, c, *p] for p in pixels]) for c in range(channels)])
        pooled.append(Number(module.alpha) * average + Number(module.beta) * peak)
    one = Number(1)
    temporal = []
    for t in range(steps):
        mixed = multiply_add([(pooled[u], Number(module.fc_t.weight[t, u])) for u in range(steps)])
        temporal.append(one + mixed.sigmoid())
    average_map = {(0, *p): mean([summed[t, *p] * temporal[t] for t in range(steps)]) for p in pixels}
    spectrum = {}
    for f, atom in enumerate(module.dct_filters):
        spectrum.update({(f, *p): v for p, v in convolve(average_map, atom, side, 1).items()})
    logits = convolve(spectrum, module.freq_conv.weight[0], side, 49)
    spatial = {}
    for p in pixels:
        inside = Number(module.t) + Number(module.s) * (one + logits[p].sigmoid())
        spatial[p] = Number(0.5) * inside
    out = torch.empty_like(x)
    for t in range(steps):
        for p in pixels:
            gate = temporal[t] * spatial[p]
            for c in range(channels):
                out[t, c, *p] = (current[t, c, *p] * gate).value
    return out


@pytest.mark.parametrize(("kind", "scalars"), [(ASA, asa_of_scalars), (FSTA, fsta_of_scalars)])
def test_operations_of_attention_are_those_of_scalars(kind, scalars):
    torch.manual_seed(1)
    steps, channels, side = 4, 3, 3
    module = kind(steps).double().eval()
    net = nn.Sequential(OverTime(nn.Conv2d(2, channels, 1)), module).double()
    own = paper_counts(net, torch.zeros(steps, 1, 2, side, side, dtype=torch.float64), (kind,)).attention
    x = torch.randn(steps, channels, side, side, dtype=torch.float64)
    with torch.no_grad():
        Number.done.clear()
        torch.testing.assert_close(scalars(module, x), module(x[:, None])[:, 0])
    assert own is not None
    assert {name: getattr(own, name) for name in Number.done} == dict(Number.done)


@pytest.mark.parametrize("name", ["asa-dvsnet", "fsta-dvsnet"])
def test_integers_of_a_dynamic_gate_compare_and_multiply_as_the_module_does(name):
    torch.manual_seed(0)
    net = build(name).eval()
    clips = (np.random.default_rng(0).random((10, 2, 2, 32, 32)) < 0.1).astype(np.uint8)
    graph = sf.capture(net, torch.from_numpy(clips[:, :1]).float())
    lowered = sf.lower(graph, calibrate(graph, clips), "dynamic")
    gates = [gate_activity(p, 10) for p in lowered.neurons if p.gate is not None]
    own = paper_counts(net, torch.zeros(10, 1, 2, 32, 32), (ASA, FSTA)).attention
    assert own is not None
    assert sum(gate.comparisons for gate in gates) == own.comparisons
    assert sum(gate.lookups for gate in gates) == own.lookups
    biases = 10 * sum(p.size for p in lowered.neurons if p.gate is not None)  # added in the gate stage, see `count`
    assert sum(gate.additions for gate in gates) == own.additions + biases
    rescaled = sum(gate.multiplies for gate in gates) - own.multiplies  # from one fixed-point scale to the next
    assert 0 <= rescaled < 0.02 * own.multiplies


def test_neurons_inside_attention_are_left_out():
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.squeeze, self.neuron = Squeeze(), LIF()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            spikes: torch.Tensor = self.neuron(self.squeeze(x))
            return spikes

    wrapped = paper_counts(TwoLayers(Wrapped()), CLIP, (Wrapped,))
    assert wrapped == paper_counts(GATED, CLIP, (Squeeze,))


def test_softmax_and_layer_norm_by_hand():
    steps, channels, pixels, hidden = 2, 4, 9, 2
    layer = STAALayer(LIF(), steps, channels, reduction=2, step="post")
    layer.step_attention = nn.Identity()
    net = nn.Sequential(OverTime(nn.Conv2d(2, channels, 1)), layer)
    own = paper_counts(net, torch.zeros(steps, 1, 2, 3, 3), (STAALayer,)).attention
    values, rows, norm = steps * channels * pixels, steps * pixels, steps * hidden
    matrices = rows * channels + steps * channels * hidden * 2
    biases = rows + norm + steps * channels
    assert own is not None
    assert own.comparisons == (rows - steps) + norm  # maxima, ReLU
    assert own.lookups == (rows + steps) + steps + steps * channels  # exponentials, 1 / sum, 1 / root, sigmoid
    assert own.multiplies == matrices + rows + values + (3 * norm + 2 * steps) + values
    assert own.additions == (
        values  # position
        + matrices
        + biases
        + (rows + rows - steps)  # softmax: minus the maximum, sum
        + (values - steps * channels)  # context
        + (2 * (norm - steps) + 2 * norm + steps)  # layer norm
    )


WEIGHTS = torch.ones(64, 5)


class Each(nn.Module):
    """An attention that does one thing to its input, of which nothing but the shape goes on."""

    def __init__(self, does):
        super().__init__()
        self.does = does

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.does(x.reshape(T, 4, 64))
        return x


@pytest.mark.parametrize(
    ("does", "multiplies", "additions", "comparisons"),
    [
        (lambda x: torch.bmm(x, WEIGHTS.expand(T, 64, 5)), T * 4 * 64 * 5, T * 4 * 64 * 5, 0),
        (lambda x: torch.mm(x[0], WEIGHTS), 4 * 64 * 5, 4 * 64 * 5, 0),
        (lambda x: torch.addmm(WEIGHTS[0], x[0], WEIGHTS), 4 * 64 * 5, 4 * 65 * 5, 0),
        (lambda x: torch.ops.spikefold.topk_mask(x, 2, 2), 0, 0, T * 4 * 64 * 6),
        (lambda x: torch.ops.spikefold.topk_mask(x[:2], 1, 0), 0, 0, 2 * 4 * 64),
    ],
    ids=["batches of products", "products", "products and biases", "ranks of 64", "ranks of 2"],
)
def test_products_and_ranks_by_hand(does, multiplies, additions, comparisons):
    own = paper_counts(TwoLayers(Each(does)), CLIP, (Each,)).attention
    assert own is not None
    assert (own.multiplies, own.additions, own.comparisons, own.lookups) == (multiplies, additions, comparisons, 0)


def test_shapes_are_enough():
    with torch.device("meta"):
        counts = paper_counts(TwoLayers(Squeeze()), torch.zeros(T, 1, 2, 8, 8), (Squeeze,))
    assert counts == paper_counts(GATED, CLIP, (Squeeze,))


def test_an_operation_without_a_count_is_refused_and_the_net_left_as_it_was():
    class Sine(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.sin(x)

    net = TwoLayers(Sine()).train()
    with pytest.raises(InputError, match=r"attention: aten\.sin"):
        paper_counts(net, CLIP, (Sine,))
    assert net.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_what_the_formula_cannot_take_is_refused():
    counts = paper_counts(PLAIN, CLIP, ())
    with pytest.raises(InputError, match=r"rate = 1\.5"):
        paper_price(counts, 1.5)
    with pytest.raises(InputError, match="loihi1: is of family 'chip'"):
        paper_price(counts, 0.1, "loihi1")
    with pytest.raises(InputError, match="one clip"):
        paper_counts(PLAIN, torch.zeros(T, 2, 2, 8, 8), ())
    with pytest.raises(InputError, match="no convolution"):
        paper_counts(Squeeze(), CLIP, (Squeeze,))


@pytest.mark.parametrize("name", ["asa-a", "fsta-resnet20"])
def test_the_page_shows_what_is_counted(name):
    sizes = ENTRIES[name].sizes
    with torch.device("meta"):
        clip = torch.zeros(sizes.time_steps, 1, sizes.in_channels, sizes.input_size, sizes.input_size)
        counts = paper_counts(build(name), clip, (ASA, FSTA))
    page = (Path(__file__).parents[2] / "docs" / "attention_costs.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| {name} | {sizes.time_steps} |"))
    assert row.endswith(f"| {break_even(counts):.4f} |")
