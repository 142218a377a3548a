"""What parts need of a core, counted by walking over every single synapse: the oracle of the closed forms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from math import ceil

import numpy as np

from spikefold.converters.fixed_point_graph import FixedPointGraph, Synapse
from spikefold.deploy.hardware import ChipHardware
from spikefold.deploy.mapping.layout import Mapping, Part, Use

Neuron = tuple[int, ...]
Reach = defaultdict[tuple[str, Neuron], set[tuple[str, Part]]]


def neurons_of(part: Part) -> Iterator[Neuron]:
    return product(*(range(a, b) for a, b in zip(part.start, part.stop, strict=True)))


def synapses_of(graph: FixedPointGraph, s: Synapse, target: Neuron) -> Iterator[tuple[Neuron, tuple[int, ...]]]:
    """Every synapse into one neuron: source neuron, and where in the kernel its weight stands."""
    shape = graph.source_shape(s.source)
    if s.kind == "dense":
        for source in np.ndindex(*shape):
            yield source, ()
        return
    channel, y, x = target
    outputs, inputs, height, width = s.weight.shape
    group = channel // (outputs // s.groups)
    for i, ky, kx in np.ndindex(inputs, height, width):
        at = (y * s.stride[0] + ky * s.dilation[0] - s.padding[0], x * s.stride[1] + kx * s.dilation[1] - s.padding[1])
        if 0 <= at[0] < shape[1] and 0 <= at[1] < shape[2]:
            yield (group * inputs + i, *at), (ky, kx, channel)


def row_bits(synapses: int, width: int, chip: ChipHardware) -> int:
    storage, bits = chip.storage, 0
    while synapses > 0:
        block = min(synapses, storage.block_synapses.number)
        bits += storage.word.number * ceil((block * width + storage.block_header.number) / storage.word.number)
        synapses -= block
    return bits


def use_of(graph: FixedPointGraph, reached: Reach, part: Part, chip: ChipHardware) -> Use:
    population = next(n for n in graph.neurons if n.name == part.population)
    bits = in_axons = count = 0
    for s in graph.incoming(part.population):
        sources: set[Neuron] = set()
        kernel: dict[tuple[int, ...], set[tuple[int, ...]]] = defaultdict(set)
        for target in neurons_of(part):
            for source, weight in synapses_of(graph, s, target):
                count += 1
                sources.add(source)
                if weight:
                    phase = tuple((at + p) % d for at, p, d in zip(source[1:], s.padding, s.stride, strict=True))
                    kernel[source[0], *phase].add(weight)
        if s.kind == "dense":
            bits += len(sources) * row_bits(part.neurons, chip.limits.weight.number, chip)
            in_axons += len(sources)
            continue
        width = chip.limits.weight.number + chip.storage.index.number
        bits += sum(row_bits(len(row), width, chip) for row in kernel.values())
        shared = chip.limits.channels_per_axon
        at_place: dict[Neuron, int] = defaultdict(int)
        for source in sources:
            at_place[source[1:]] += 1
        in_axons += sum(ceil(n / (shared.number if shared else 1)) for n in at_place.values())
    thresholds = np.broadcast_to(population.v_threshold, population.shape)
    levels = {int(thresholds[n]) for n in neurons_of(part)} if population.fires else {0}
    return Use(
        part.neurons, bits, in_axons, sum(len(reached[part.population, n]) for n in neurons_of(part)),
        len(levels), len({s.exponent for s in graph.incoming(part.population)}), count,
    )  # fmt: skip


def reach(graph: FixedPointGraph, mapping: Mapping) -> Reach:
    """Parts that each neuron sends to, by connection."""
    reached: Reach = defaultdict(set)
    for part in (part for core in mapping.cores for part in core.parts):
        for s in graph.incoming(part.population):
            for target in neurons_of(part):
                for source, _ in synapses_of(graph, s, target):
                    reached[s.source, source].add((s.name, part))
    return reached
