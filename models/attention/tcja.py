"""Temporal-channel joint attention (TCJA-SNN, Zhu et al.): a gate on spikes, one factor a step and channel.

For spikes S ``[T, B, C, H, W]`` and their rates x = mean_hw S ``[T, B, C]``
    p = conv over channels of x, the T time steps as its input and output channels, kernel k_t,
    q = conv over time of x, the C channels as its input and output channels, kernel k_c,
    ``TCJA(S) = S * sigmoid(p q)``.

Both convolutions have no bias and keep the length; an even kernel takes its extra zero on the right. What leaves the
module is no longer 0 or 1: the spikes become graded.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from spikefold.errors import InputError
from spikefold.models.attention.checks import check_clip, check_sizes
from spikefold.models.released import ReleasedNames

REPOSITORY = "ridgerchu/TCJA @ 5f21162"


class TCJA(nn.Module):
    """Scale spikes by one factor in (0, 1) for each step and channel of a sample.

    Parameters
    ----------
    time_steps : int
        T of the clips.
    channels : int
        C of the clips.
    kernel_t : int
        Channels that a step's factor is computed over, k_t.
    kernel_c : int
        Steps that a channel's factor is computed over, k_c.
    """

    released_names = ReleasedNames(REPOSITORY, rules=((r"^conv_c\.", "channel_conv."), (r"^conv\.", "time_conv.")))

    def __init__(self, time_steps: int, channels: int, kernel_t: int = 4, kernel_c: int = 4) -> None:
        super().__init__()
        check_sizes("TCJA", time_steps, 1)
        for field, value in (("channels", channels), ("kernel_t", kernel_t), ("kernel_c", kernel_c)):
            if value < 1:
                raise InputError(f"TCJA: {field} = {value}; must be at least 1")
        self.time_steps = time_steps
        self.channels = channels
        self.time_conv = nn.Conv1d(time_steps, time_steps, kernel_t, bias=False)
        self.channel_conv = nn.Conv1d(channels, channels, kernel_c, bias=False)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Return the gate ``[T, B, C, 1, 1]``, within (0, 1), of spikes ``[T, B, C, H, W]``."""
        check_clip("TCJA", x, self.time_steps)
        if x.shape[2] != self.channels:
            raise InputError(f"TCJA: input has C = {x.shape[2]} channels; its weights were made for {self.channels}")
        rates = x.mean((3, 4)).transpose(0, 1)  # [B, T, C]
        over_channels = _same_length(self.time_conv, rates)
        over_time = _same_length(self.channel_conv, rates.transpose(1, 2)).transpose(1, 2)
        joint = torch.sigmoid(over_channels * over_time)  # [B, T, C]
        return joint.transpose(0, 1)[:, :, :, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the gated spikes, of x's shape ``[T, B, C, H, W]``."""
        return x * self.gate(x)


def _same_length(conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
    zeros = conv.kernel_size[0] - 1
    return functional.conv1d(functional.pad(x, (zeros // 2, zeros - zeros // 2)), conv.weight)
