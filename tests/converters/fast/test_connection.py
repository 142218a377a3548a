"""Convolutions of every form against the numpy reference: some that torch 2.13 is asked for it adds up wrongly."""

from __future__ import annotations

import numpy as np
import pytest

from spikefold.converters.fast import run_fast
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.reference import run_reference


def one_convolution(source: tuple[int, int, int], weight: np.ndarray, largest: int = 1, **form: int | tuple[int, int]):
    """A net of one convolution into neurons that keep what they get: their membranes are its sums, clipped."""
    synapse = Synapse("in", "input", "neuron", "conv", weight, **form)  # type: ignore[arg-type]
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, p, s, d in zip(
            source[1:], weight.shape[2:], synapse.padding, synapse.stride, synapse.dilation, strict=True
        )
    )
    none = np.zeros((len(weight), 1, 1), dtype=np.int64)
    neurons = Neurons("neuron", (len(weight), height, width), 0, np.array(2**17 - 1), none, 0, 0.01, current_shift=0)
    return FixedPointGraph(InputPort(source, largest), (neurons,), (synapse,), "none", None)


def equals_the_reference(graph: FixedPointGraph, random: np.random.Generator) -> bool:
    """Whether some sum is not 0: a convolution may read its padding alone."""
    clips = random.integers(0, graph.input.max_value + 1, (3, 2, *graph.input.shape))
    wanted = run_reference(graph, clips).membranes["neuron"]
    np.testing.assert_array_equal(run_fast(graph, clips).membranes["neuron"], wanted, str(graph.synapses[0]))
    return bool(wanted.any())


@pytest.mark.parametrize("kernel", [(1, 3), (3, 3)])
def test_strided_convolutions_of_one_channel(kernel: tuple[int, int]) -> None:
    """Torch's, given frames with the strides of [H, W, C], read the wrong pixels."""
    random = np.random.default_rng(0)
    weight = 2 * random.integers(-128, 128, (3, 1, *kernel))
    assert equals_the_reference(one_convolution((1, 6, 4), weight, stride=(1, 2)), random)


@pytest.mark.parametrize("seed", range(8))
def test_convolutions_of_any_form(seed: int) -> None:
    """The eight-bit one is asked for usual forms alone: others end the process."""
    random = np.random.default_rng(seed)
    done = added = 0
    while done < 25:
        groups = int(random.choice([1, 1, 2, 3]))
        inputs, outputs = (groups * int(random.integers(1, 5)) for _ in range(2))
        source, kernel = random.integers(1, 9, 2), random.integers(1, 5, 2)
        stride, padding, dilation = (tuple(random.integers(*ends, 2).tolist()) for ends in ((1, 4), (0, 3), (1, 3)))
        if np.any(np.array(dilation) * (kernel - 1) + 1 > source + 2 * np.array(padding)):
            continue
        weight = 2 * random.integers(1, 128, (outputs, inputs // groups, *kernel))
        size = (inputs, int(source[0]), int(source[1]))
        graph = one_convolution(
            size, weight, int(random.choice([1, 127])), stride=stride, padding=padding, dilation=dilation, groups=groups
        )
        if graph.neurons[0].size and np.prod(size) > 3:
            added += equals_the_reference(graph, random)
            done += 1
    assert added > 15


@pytest.mark.parametrize("channels", [2, 16, 64])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_in_eight_bits(channels: int, kernel: int, stride: int) -> None:
    random = np.random.default_rng(channels)
    weight = 2 * random.integers(-128, 128, (channels + 1, channels, kernel, kernel))
    for padding in range(kernel // 2 + 1):
        graph = one_convolution((channels, 5, 7), weight, 1, stride=(stride, stride), padding=(padding, padding))
        assert equals_the_reference(graph, random)
