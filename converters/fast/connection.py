"""Weighted sums of a whole clip, exact: eight-bit integers where they fit, else floats that hold every sum."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spikefold.converters.fast.layout import flat, frames, per_neuron
from spikefold.converters.fixed_point_graph import FixedPointGraph, Synapse
from spikefold.converters.ranges import absolute_sum, magnitude

EXACT_FLOAT32 = 2**24
EIGHT_BITS_MAX = 127
"""Largest message of the eight-bit convolution: on processors without VNNI two products are added in 16 bits, and
``2 * 127 * 128`` still fits."""


class Connection:
    """One synapse, ready to run.

    Parameters
    ----------
    graph : FixedPointGraph
        The net.
    synapse : Synapse
        Convolution or dense map.
    unit : int
        Sums come in units of ``2**unit`` weights, at most its own ``exponent + 1`` (mantissas are even).
    """

    def __init__(self, graph: FixedPointGraph, synapse: Synapse, unit: int) -> None:
        self.source, self.synapse = synapse.source, synapse
        self._source_shape, self._target_shape = (graph.source_shape(n) for n in (synapse.source, synapse.target))
        messages, scale = graph.message_range(synapse.source), 1 << (synapse.exponent + 1 - unit)
        self.bound = absolute_sum(synapse.weight) // 2 * magnitude(messages) * scale
        late = np.asarray(synapse.delay)
        self._delay = per_neuron(late, self._source_shape) if late.size > 1 else late.reshape(1)
        small = messages[0] >= 0 and messages[1] <= EIGHT_BITS_MAX and self.bound < EXACT_FLOAT32
        small = small and _has_usual_form(synapse, self._source_shape)
        self.dtype = torch.float32 if self.bound < EXACT_FLOAT32 else torch.float64
        mantissa = torch.from_numpy(_ordered(synapse.weight // 2, synapse, self._source_shape, self._target_shape))
        self._eight_bits = _EightBits(mantissa, synapse, scale) if small and eight_bits_exact() else None
        self._weight = (mantissa * scale).to(self.dtype)

    def arriving(self, messages: NDArray[Any], first: int, steps: int) -> NDArray[Any]:
        """What of all ``messages`` ``[T, B, N]`` arrives in ``steps`` steps from ``first`` on."""
        if not self._delay.any():
            return messages[first : first + steps]
        arrived = np.zeros((steps, *messages.shape[1:]), dtype=messages.dtype)
        for late in np.unique(self._delay).tolist():
            start = max(first, late)
            if start < first + steps:
                arrived[start - first :] += messages[start - late : first + steps - late] * (self._delay == late)
        return arrived

    def weighted(self, messages: NDArray[Any]) -> Tensor:
        """Sums ``[T, B, N]`` of messages ``[T, B, N]``, whole float32 or float64 numbers in the connection's units."""
        steps, batch = messages.shape[:2]
        sent = torch.from_numpy(messages)
        if self._eight_bits is not None and sent.dtype == torch.uint8:
            out = self._eight_bits(sent, self._source_shape)
        elif self.synapse.kind == "dense":
            out = functional.linear(sent.reshape(steps * batch, -1).to(self.dtype), self._weight)
        else:
            x = frames(sent, self._source_shape).to(self.dtype)  # type: ignore[arg-type]
            out = functional.conv2d(x, self._weight, None, **self.synapse.conv_attributes).permute(0, 2, 3, 1)
        return out.reshape(steps, batch, -1).contiguous()


def _has_usual_form(synapse: Synapse, source: tuple[int, ...]) -> bool:
    """Whether the eight-bit convolution may be asked: unusual forms come out wrong in torch 2.13, or end the process.

    In this form it equalled float64 in 45,000 random cases; a connection of any other form is added up in floats.
    """
    if min(synapse.weight.shape[:2]) < 2 or synapse.groups > 1:
        return False
    if synapse.kind == "dense":
        return True
    height, width = synapse.weight.shape[2:]
    return (
        height == width
        and height <= 5
        and synapse.stride in ((1, 1), (2, 2))
        and synapse.padding[0] == synapse.padding[1] <= height // 2
        and synapse.dilation == (1, 1)
        and min(source[1:]) >= max(3, height)
    )


class _EightBits:
    """A convolution of unsigned messages with eight-bit mantissas, added in 32 bits (oneDNN, through torch)."""

    def __init__(self, mantissa: Tensor, synapse: Synapse, scale: int) -> None:
        self._dense = mantissa.ndim == 2
        weight = mantissa.reshape(*mantissa.shape, 1, 1) if self._dense else mantissa
        s = synapse
        where = ((1, 1), (0, 0), (1, 1), 1) if self._dense else (s.stride, s.padding, s.dilation, s.groups)
        self._where = [list(w) if isinstance(w, tuple) else w for w in where]
        self._scale = torch.full((len(weight),), float(scale))
        self._zero = torch.zeros(len(weight), dtype=torch.int64)
        self._weight = torch.ops.onednn.qconv_prepack(
            weight.to(torch.int8).contiguous(), self._scale, 1.0, 0, *self._where, None
        )

    def __call__(self, messages: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Sums ``[..., O]`` of uint8 messages ``[T, B, N]``; a dense map sees frames side by side, as pixels."""
        if self._dense:
            x = messages.reshape(1, -1, 1, messages.shape[-1]).permute(0, 3, 1, 2)
        else:
            x = frames(messages, shape)  # type: ignore[arg-type]
        out: Tensor = torch.ops.onednn.qconv2d_pointwise(
            x, 1.0, 0, self._weight, self._scale, self._zero, None, *self._where, 1.0, 0, torch.float32, "none", [], ""
        )
        return out.permute(0, 2, 3, 1)


@lru_cache(maxsize=1)
def eight_bits_exact() -> bool:
    """Whether this build of torch has the eight-bit convolution and this processor adds it without saturating."""
    random = torch.Generator().manual_seed(0)
    x = torch.randint(0, EIGHT_BITS_MAX + 1, (2, 1, 36 * 8), generator=random, dtype=torch.uint8)
    weight = torch.randint(-128, 128, (16, 8, 3, 3), generator=random)
    x[0], weight[0], weight[1] = EIGHT_BITS_MAX, -128, 127
    synapse = Synapse("check", "input", "output", "conv", weight.numpy(), padding=(1, 1))
    expected = functional.conv2d(frames(x, (8, 6, 6)).double(), weight.double(), padding=1)
    try:
        with torch.no_grad():
            out = _EightBits(weight, synapse, 1)(x, (8, 6, 6))
    except (AttributeError, RuntimeError, NotImplementedError, TypeError):  # other builds, other processors
        return False
    return torch.equal(out.permute(0, 3, 1, 2).double(), expected)


def _ordered(
    weight: NDArray[np.int64], synapse: Synapse, source: tuple[int, ...], target: tuple[int, ...]
) -> NDArray[np.int64]:
    """Weights whose ends have the order of `layout`; those of a convolution stay ``[O, I/groups, kh, kw]``."""
    if synapse.kind == "conv":
        return weight
    columns = flat(weight.reshape(-1, *source), source)
    return np.ascontiguousarray(flat(columns.T.reshape(-1, *target), target).T)
