"""Dual temporal-channel-wise attention (DTA-SNN, Kim et al.): a dense gate on the first spikes of a network.

For the current I ``[T, B, C, H, W]`` of the first neurons,
    S = LIF(I),   Y = S * sigmoid(TNA(I) * TXA(I)),
so Y is graded: 0 where there is no spike, otherwise within [0, 1].

TXA looks at steps and channels apart, from x = mean_hw I ``[T, B, C]``:
    a_t = sigmoid(conv1d(x): T -> T, sliding over channels, kernel 3),
    a_c = sigmoid(conv1d(x): C -> C, sliding over time, kernel 6),
    TXA = (I + s_t a_t) * (I + s_c a_c),
with scalars s_t and s_c that start at 1. TNA looks at them jointly, as D = T C channels (time outermost) of one image:
    u = GELU(conv1x1(I)),
    TNA = I + conv1x1(u * conv1x1(depthwise1x1(depthwise5x5(u))) * W_2 ReLU(W_1 mean_hw u)).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from spikefold.errors import InputError
from spikefold.models.attention.checks import check_clip, check_sizes
from spikefold.models.released import ReleasedNames

TIME_KERNEL = 6
"""Steps that a_c looks at; being even, it reaches two steps back and three ahead."""

REPOSITORY = "MnJnKIM/DTA-SNN@ed74e95"
MODULE_RULES = (
    (r"T_NA\.encoding\.0\.", "tna.encode."),
    (r"T_NA\.tca\.LTCA\.0\.", "tna.local.depthwise."),
    (r"T_NA\.tca\.LTCA\.1\.", "tna.local.scale."),
    (r"T_NA\.tca\.LTCA\.2\.", "tna.local.mix."),
    (r"T_NA\.tca\.MLP_block\.0\.", "tna.reduce."),
    (r"T_NA\.tca\.MLP_block\.2\.", "tna.expand."),
    (r"T_NA\.decoding\.", "tna.decode."),
    (r"T_XA\.", "txa."),
)
"""The authors' names inside a DTA module, in ours."""


class DTA(nn.Module):
    """Turn a current into spikes and weigh each of them by a gate of its own.

    The gate saturates: where TNA * TXA exceeds about 17 it is exactly 1 in float32, and a neuron behind it whose
    threshold is 1 (strict) then sits on that threshold, where the last bit of a number decides.

    Parameters
    ----------
    time_steps, channels : int
        T of the clips and C of the current; the authors' C is 64.
    neuron : nn.Module
        Makes spikes from the current.
    """

    released_names: ClassVar[ReleasedNames] = ReleasedNames(REPOSITORY, MODULE_RULES)

    def __init__(self, time_steps: int, channels: int, neuron: nn.Module) -> None:
        super().__init__()
        check_sizes("DTA", time_steps, 1)
        if channels < 1:
            raise InputError(f"DTA: channels = {channels}; must be at least 1")
        self.time_steps = time_steps
        self.channels = channels
        self.tna = TNA(time_steps * channels)
        self.txa = TXA(time_steps, channels)
        self.neuron = neuron

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Return the gate of a current ``[T, B, C, H, W]``, in its shape, within [0, 1]."""
        check_clip("DTA", x, self.time_steps)
        if x.shape[2] != self.channels:
            raise InputError(f"DTA: input has {x.shape[2]} channels but its weights were made for {self.channels}")
        return torch.sigmoid(self.tna(x) * self.txa(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return graded spikes of a current ``[T, B, C, H, W]`` (float), in its shape and dtype.

        Raises
        ------
        InputError
            The current has another number of axes, another T or another C.
        """
        gate = self.gate(x)
        spikes: torch.Tensor = self.neuron(x)
        return spikes * gate


class TXA(nn.Module):
    """The product of a current shifted by a step-wise and by a channel-wise attention."""

    def __init__(self, time_steps: int, channels: int) -> None:
        super().__init__()
        self.conv_t = nn.Conv1d(time_steps, time_steps, 3, padding=1, bias=False)
        self.conv_c = nn.Conv1d(channels, channels, TIME_KERNEL, bias=False)
        self.scale_t = nn.Parameter(torch.ones(()))
        self.scale_c = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map a current ``[T, B, C, H, W]`` to a tensor of its shape."""
        pooled = x.mean((3, 4))
        by_step = self.conv_t(pooled.transpose(0, 1)).transpose(0, 1)
        before = (TIME_KERNEL - 1) // 2
        padded = functional.pad(pooled.permute(1, 2, 0), (before, TIME_KERNEL - 1 - before))
        by_channel = self.conv_c(padded).permute(2, 0, 1)
        shift_t = self.scale_t * torch.sigmoid(by_step)[..., None, None]
        shift_c = self.scale_c * torch.sigmoid(by_channel)[..., None, None]
        return (x + shift_t) * (x + shift_c)


class TNA(nn.Module):
    """Attention over all step-channels of a sample jointly, with the current added."""

    def __init__(self, features: int) -> None:
        super().__init__()
        hidden = features // max(features // 16, 4)
        if hidden == 0:
            raise InputError(f"DTA: time_steps * channels = {features}; must be at least 4")
        self.encode = nn.Conv2d(features, features, 1)
        self.local = nn.Sequential(
            OrderedDict(
                depthwise=nn.Conv2d(features, features, 5, padding=2, groups=features),
                scale=nn.Conv2d(features, features, 1, groups=features),
                mix=nn.Conv2d(features, features, 1),
            )
        )
        self.reduce = nn.Linear(features, hidden, bias=False)
        self.expand = nn.Linear(hidden, features, bias=False)
        self.decode = nn.Conv2d(features, features, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map a current ``[T, B, C, H, W]`` to a tensor of its shape."""
        merged = x.transpose(0, 1).flatten(1, 2)  # [B, T C, H, W]
        u = functional.gelu(self.encode(merged))
        overall = self.expand(torch.relu(self.reduce(u.mean((2, 3)))))[:, :, None, None]
        out: torch.Tensor = self.decode(u * self.local(u) * overall) + merged
        return out.reshape(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)
