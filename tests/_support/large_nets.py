"""ResNet-19 and MS-ResNet-104 as integer nets, from their shapes: every weight is the same number."""

from __future__ import annotations

import numpy as np

from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse

Stages = tuple[tuple[int, int, int], ...]
"""Blocks, channels in multiples of the width, and stride of each stage."""


def resnet19(width: int = 128, size: int = 32) -> FixedPointGraph:
    """ResNet-19: stages of 3, 3 and 2 blocks; pooling over the map is part of the first dense layer."""
    return _residual("resnet19", (2, size, size), width, 1, ((3, 1, 1), (3, 2, 2), (2, 4, 2)), (256, 10))


def ms_resnet104() -> FixedPointGraph:
    """MS-ResNet-104 on ImageNet: 7 x 7 convolution, stages of 3, 8, 32 and 8 blocks."""
    return _residual("ms-resnet104", (3, 224, 224), 64, 2, ((3, 1, 2), (8, 2, 2), (32, 4, 2), (8, 8, 2)), (1000,))


def convolution(
    name: str, source: str, target: str, channels: tuple[int, int], kernel: int = 3, stride: int = 1, groups: int = 1
) -> Synapse:
    weight = np.broadcast_to(np.int64(2), (channels[1], channels[0] // groups, kernel, kernel))
    padding = (kernel // 2, kernel // 2)
    return Synapse(name, source, target, "conv", weight, stride=(stride, stride), padding=padding, groups=groups)


def neurons(name: str, shape: tuple[int, ...], fires: bool = True) -> Neurons:
    return Neurons(name, shape, 0, np.array(64), np.array(0), 0, 1.0, fires)


def _residual(
    name: str, shape: tuple[int, int, int], width: int, stem: int, stages: Stages, heads: tuple[int, ...]
) -> FixedPointGraph:
    size, source, channels = shape[1] // stem, "stem", width
    made = [neurons("stem", (width, size, size))]
    synapses = [convolution("to stem", "input", "stem", (shape[0], width), 3 if stem == 1 else 7, stem)]
    for number, (blocks, times, first_stride) in enumerate(stages):
        for block in range(blocks):
            stride, wide = (first_stride if block == 0 else 1), width * times
            a, b = f"stage{number}.{block}.a", f"stage{number}.{block}.b"
            size //= stride
            made += [neurons(a, (wide, size, size)), neurons(b, (wide, size, size))]
            one_to_one = channels == wide and stride == 1
            synapses += [
                convolution(f"to {a}", source, a, (channels, wide), 3, stride),
                convolution(f"to {b}", a, b, (wide, wide)),
                convolution(f"past {a}", source, b, (channels, wide), 1, stride, wide if one_to_one else 1),
            ]
            source, channels = b, wide
    inputs = channels * size * size
    for number, outputs in enumerate(heads):
        head = f"head{number}"
        made.append(neurons(head, (outputs,), fires=number + 1 < len(heads)))
        weight = np.broadcast_to(np.int64(2), (outputs, inputs))
        synapses.append(Synapse(f"to {head}", source, head, "dense", weight))
        source, inputs = head, outputs
    return FixedPointGraph(InputPort(shape), tuple(made), tuple(synapses), "none", None, name)
