"""What cannot be captured is refused, and the message names it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from networks import SHAPE, BatchFirst, Chain, neuron, prepared
from spikefold.converters.capture import capture
from spikefold.errors import CaptureError
from spikefold.models import LIF, OverTime


class Between(nn.Module):
    """Two convolutions with their neurons; ``work`` says what happens in ``forward``."""

    def __init__(self, work: Callable[[Any, Tensor], Any], **extra: nn.Module) -> None:
        super().__init__()
        self.one, self.two = OverTime(nn.Conv2d(2, 4, 3, padding=1)), OverTime(nn.Conv2d(4, 4, 3, padding=1))
        self.neuron_one, self.neuron_two = neuron(), neuron()
        self.head = nn.Linear(4 * 64, 3)
        for name, module in extra.items():
            setattr(self, name, module)
        self.work = work

    def forward(self, x: Tensor) -> Any:
        return self.work(self, x)


def tail(net: Any, y: Tensor) -> Any:
    return net.head(net.neuron_two(y).flatten(2)).mean(0)


def pooled(y: Tensor) -> Tensor:
    return torch.sigmoid(y.mean((3, 4), keepdim=True))


def written_into_a_part(net: Any, x: Tensor) -> Any:
    y = net.one(x)
    y[:, :, 0].mul_(2.0)
    return tail(net, y)


def written_into_the_input(net: Any, x: Tensor) -> Any:
    x.mul_(2.0)
    return tail(net, net.one(x))


def gate(function: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Any]:
    def work(net: Any, x: Tensor) -> Any:
        y = net.one(x)
        return tail(net, y * function(y))

    return work


def per_step(function: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Any]:
    """A gate from the values ``[T, B, C]`` that pooling leaves."""
    return gate(lambda y: torch.sigmoid(function(y.mean((3, 4))))[..., None, None])


def current(function: Callable[[Tensor], Tensor]) -> Callable[[Any, Tensor], Any]:
    return lambda net, x: tail(net, function(net.one(x)))


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], dict[str, nn.Module], str]] = {
    "padded maximum pooling of numbers": (
        lambda n, x: tail(n, n.pool(n.one(x))), {"pool": OverTime(nn.MaxPool2d(3, 1, 1))},
        r"pool\.module \(MaxPool2d\).*without padding",
    ),
    "average pooling with ceil_mode": (
        lambda n, x: tail(n, n.pool(n.one(x))), {"pool": OverTime(nn.AvgPool2d(3, 1, 1, ceil_mode=True))},
        r"pool\.module \(AvgPool2d\).*ceil_mode",
    ),
    "average pooling that leaves out the padding": (
        lambda n, x: tail(n, n.pool(n.one(x))),
        {"pool": OverTime(nn.AvgPool2d(3, 1, 1, count_include_pad=False))}, r"pool\.module.*count_include_pad",
    ),
    "adaptive pooling by unlike windows": (
        lambda n, x: n.neuron_one(n.pool(n.one(x))), {"pool": OverTime(nn.AdaptiveAvgPool2d(3))},
        r"pool\.module \(AdaptiveAvgPool2d\).*output 3 makes unlike windows of the size 8",
    ),
    "batch norm without statistics": (
        lambda n, x: tail(n, n.norm(n.one(x))), {"norm": OverTime(nn.BatchNorm2d(4, track_running_stats=False))},
        r"norm\.module \(BatchNorm2d\).*running statistics",
    ),
    "padding by name": (
        lambda n, x: tail(n, n.same(x)), {"same": OverTime(nn.Conv2d(2, 4, 3, padding="same"))},
        r"same\.module \(Conv2d\).*padding='same'",
    ),
    "convolution of what a linear layer sends": (
        lambda n, x: tail(n, n.two(n.neuron_one(n.fc(x.flatten(2)).unflatten(2, (4, 8, 8))))),
        {"fc": nn.Linear(128, 256)}, r"two\.module \(Conv2d\).*linear layer",
    ),
    "dropout that is always on": (
        current(lambda y: functional.dropout(y, 0.5, True)), {}, r"operation aten\.dropout\.default"
    ),
    "rounding division": (
        current(lambda y: torch.div(y, 0.1, rounding_mode="floor")), {}, r"operation aten\.div\.Tensor_mode"
    ),
    "cast to whole numbers": (current(lambda y: y.to(torch.int32).float()), {}, r"operation aten\.to\.dtype"),
    "scrambling reshape": (
        current(lambda y: y.reshape(y.shape[1], y.shape[0], *y.shape[2:]).transpose(0, 1)), {},
        r"operation aten\.(reshape|view)\.default",
    ),
    "features that change places": (current(lambda y: y.transpose(3, 4)), {}, r"operation aten\.transpose\.int"),
    "loop over time": (
        lambda n, x: tail(n, torch.stack([n.one.module(step) for step in x])), {}, r"operation aten\.stack"
    ),
    "shifted time": (current(lambda y: torch.roll(y, 1, 0)), {}, r"operation aten\.roll"),
    "mean over time after a shift per step": (
        lambda n, x: (n.neuron_one(n.one(x)) + torch.arange(SHAPE[0]).reshape(-1, 1, 1, 1, 1)).mean(0), {},
        r"averages over time what was added step by step",
    ),
    "shift per step of [B, T]": (
        current(lambda y: (y.transpose(0, 1) + torch.arange(SHAPE[0]).reshape(-1, 1, 1, 1)).transpose(0, 1)), {},
        r"adds a constant of shape \(4, 1, 1, 1\) to currents of .*a bias of each step",
    ),
    "shift per pixel": (
        current(lambda y: y + torch.linspace(0, 1, 8)), {}, r"adds a constant of shape \(8,\).*one number a channel"
    ),
    "scale per pixel": (current(lambda y: y * torch.linspace(0, 1, 8)), {}, r"operation aten\.mul\.Tensor"),
    "write into a part of a tensor": (written_into_a_part, {}, r"operation aten\.(select|copy|slice)"),
    "write into the input": (written_into_the_input, {}, r"Between changes 'x' in place"),
    "neuron on [B, T]": (
        lambda n, x: tail(n, n.one(x).transpose(0, 1)), {}, r"neuron_two: the neuron gets .* \[B, 4, 4, 8, 8\]"
    ),
    "neuron on the mean over time": (
        lambda n, x: n.neuron_two(n.one(x).mean(0)), {}, r"neuron_two: the neuron gets"
    ),
    "gate from the input": (
        lambda n, x: tail(n, n.one(x) * torch.sigmoid(x.mean((2, 3, 4), keepdim=True))), {},
        r"gate of neuron_two: the factor comes from 'x'",
    ),
    "gate with a mean over the batch": (
        gate(lambda y: torch.sigmoid(y.mean((1, 3, 4), keepdim=True))), {},
        r"gate of neuron_two.*aten\.mean\.dim reduces over the batch",
    ),
    "gate with a mean over everything": (
        gate(lambda y: torch.sigmoid(y.mean())), {}, r"gate of neuron_two.*aten\.mean\.default reduces over the batch"
    ),
    "gate with a mean over merged steps": (
        gate(lambda y: torch.sigmoid(y.flatten(0, 1).mean((0, 2, 3)))[:, None, None]), {},
        r"gate of neuron_two.*reduces over the batch",
    ),
    "gate of one sample for all": (
        gate(lambda y: torch.sigmoid(y[:, 0].mean((2, 3)))[:, None, :, None, None]), {},
        r"gate of neuron_two.*aten\.select\.int takes apart the batch",
    ),
    "gate with a sine": (per_step(lambda v: v.sin()), {}, r"gate of neuron_two.*aten\.sin\.default"),
    "gate with a median": (per_step(lambda v: v.median(2, keepdim=True)[0]), {}, r"gate of neuron_two.*aten\.median"),
    "gate with a product of matrices": (
        per_step(lambda v: v @ v.transpose(1, 2) @ v), {}, r"gate of neuron_two.*aten\.matmul\.default multiplies two"
    ),
    "gate with a function that has parameters": (
        per_step(lambda v: functional.leaky_relu(v, 0.5)), {},
        r"aten\.leaky_relu\.default is called with {'negative_slope': 0\.5}",
    ),
    "gate with another form of a function": (
        per_step(lambda v: functional.gelu(v, approximate="tanh")), {}, r"aten\.gelu\.default is called with .*tanh"
    ),
    "gate with limits that are tensors": (
        per_step(lambda v: v.clamp(torch.zeros(4), torch.ones(4))), {}, r"aten\.clamp\.Tensor.*limits must be numbers"
    ),
    "gate with a rounding division": (
        per_step(lambda v: torch.div(v, 0.1, rounding_mode="trunc")), {}, r"aten\.div\.Tensor_mode.*rounding_mode"
    ),
    "gate with a cast to whole numbers": (per_step(lambda v: v.int().float()), {}, r"aten\.to\.dtype casts to torch"),
    "gate with dropout that is always on": (
        per_step(lambda v: functional.dropout(v, 0.5, True)), {}, r"gate of neuron_two.*drops at random"
    ),
    "gate with a third power": (per_step(lambda v: v**3), {}, r"only the power 2"),
    "gate with a strided slice": (per_step(lambda v: torch.cat([v[:, :, ::2], v[:, :, 1::2]], 2)), {}, r"a step of 2"),
    "gate with partial maximum pooling": (
        gate(lambda y: torch.sigmoid(functional.max_pool2d(y.flatten(0, 1), 3, 1, 1)).unflatten(0, y.shape[:2])), {},
        r"gate of neuron_two.*max_pool2d",
    ),
    "constant answer": (lambda n, x: 3.0, {}, r"does not return a tensor"),
    "no answer": (lambda n, x: None, {}, r"does not return a tensor"),
    "two answers": (lambda n, x: (n.neuron_one(n.one(x)), n.one(x).mean(0)), {}, r"returns 2 tensors"),
    "answer without neurons": (lambda n, x: n.one(x).mean(0), {}, r"no neuron lies between the input and the output"),
    "answer per step": (
        lambda n, x: n.head(n.neuron_one(n.one(x)).flatten(2)), {},
        r"head \(Linear\).*returns \[4, B, 3\] without a mean over time",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_deployed_is_refused_by_name(name: str) -> None:
    work, extra, message = REFUSED[name]
    net = Between(work, **extra).eval()
    with pytest.raises(CaptureError, match=message):
        capture(net, torch.zeros(SHAPE))


@pytest.mark.parametrize("gain", [0.0, -1.0])
def test_a_gain_that_is_not_positive_is_refused_by_name(gain: float) -> None:
    net = prepared(BatchFirst())
    net.neuron = LIF(0.5, 0.5, input_gain=gain).eval()
    with pytest.raises(CaptureError, match=re.escape(f"neuron: decay 0.5, v_threshold 0.5, input_gain {gain}")):
        capture(net, torch.zeros(SHAPE))


def test_a_convolution_over_one_axis_is_refused_by_name() -> None:
    net = nn.Sequential(OverTime(nn.Conv1d(2, 4, 3)), neuron()).eval()
    with pytest.raises(CaptureError, match=r"0\.module \(Conv1d\)"):
        capture(net, torch.zeros(4, 2, 2, 9))


def test_a_linear_layer_of_the_wrong_size_is_a_capture_error_with_torchs_words() -> None:
    with pytest.raises(CaptureError, match=r"could not trace Chain on input \(4, 2, 2, 12, 12\): .*\[64, 3\]"):
        capture(prepared(Chain(size=8)), torch.zeros(4, 2, 2, 12, 12))
