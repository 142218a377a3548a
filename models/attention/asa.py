"""Advanced spatial attention (ASA-SNN, Yao et al., ICCV 2023).

For a current X ``[T, B, C, H, W]`` the importance of a step and channel is a time-mixed pooling,
    R = W (0.5 (avg + max) + alpha avg + beta max),      avg, max over H and W, W mixing the time steps;
a step-channel is *important* (M = 1) when exactly one of two selections holds it: the best int(lambda C) channels of
its step, and the best int(lambda T) steps of its channel. Two maps follow, one for each group,
    map_i = sigmoid(conv3x3([mean_tc(M X) / lambda, max_tc(M X)])),
    map_s = sigmoid(conv3x3'([mean_tc((1 - M) X) / (1 - lambda), max_tc((1 - M) X)])),
where entries outside the group take part as zeros, and ``ASA(X) = X * (M map_i + (1 - M) map_s)``.

Dividing by lambda supposes that M holds a share lambda of all entries; its share is about 2 lambda (1 - lambda), the
same at 0.5 alone. The masks have no gradient, so alpha, beta and W stay as initialised, as in the authors' training.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models.attention.checks import check_clip, check_sizes
from spikefold.models.attention.selection import topk_mask
from spikefold.models.released import ReleasedNames

MaskMode = Literal["per_sample", "batch_union"]
MaskRule = Literal["xor", "and", "or"]
REPOSITORY = "BICLab/ASA-SNN @ c68b2d0"


class ASA(nn.Module):
    """Gate a current by one of two maps a sample, chosen for each step and channel.

    Parameters
    ----------
    time_steps : int
        T of the clips; the time mixing is T x T.
    reduction : int
        1: one linear map over time. Above 1: T -> T // reduction, ReLU, -> T. A hidden layer that ReLU silences for a
        channel makes all its steps equally important; `topk_mask` then says which are selected.
    lam : float
        Share of channels, and of steps, that a selection keeps; in (0, 1).
    mask_mode : {"per_sample", "batch_union"}
        ``per_sample`` selects for each sample alone. ``batch_union`` gives every sample the union of the whole
        batch's two selections before `mask_rule` joins them, as the authors' code does; results then depend on how
        samples are batched, and for a batch of one it is the same as ``per_sample``.
    mask_rule : {"xor", "and", "or"}
        Which step-channels are important: those in exactly one selection (ASA-SNN), in both, or in any.
    """

    released_names = ReleasedNames(REPOSITORY, rules=())

    def __init__(
        self,
        time_steps: int,
        reduction: int = 1,
        lam: float = 0.5,
        mask_mode: MaskMode = "per_sample",
        mask_rule: MaskRule = "xor",
    ) -> None:
        super().__init__()
        check_sizes("ASA", time_steps, reduction)
        if reduction > time_steps:
            raise InputError(f"ASA: reduction = {reduction}; must be at most time_steps = {time_steps}")
        if not 0.0 < lam < 1.0:
            raise InputError(f"ASA: lam = {lam}; must lie between 0 and 1")
        if mask_mode not in get_args(MaskMode):
            raise InputError(f"ASA: mask_mode = {mask_mode!r}; must be one of {', '.join(get_args(MaskMode))}")
        if mask_rule not in get_args(MaskRule):
            raise InputError(f"ASA: mask_rule = {mask_rule!r}; must be one of {', '.join(get_args(MaskRule))}")
        self.time_steps = time_steps
        self.lam = lam
        self.mask_mode: MaskMode = mask_mode
        self.mask_rule: MaskRule = mask_rule
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.beta = nn.Parameter(torch.full((1,), 0.5))
        self.fc: nn.Module
        if reduction == 1:
            self.fc = nn.Linear(time_steps, time_steps, bias=False)
        else:
            hidden = time_steps // reduction
            self.fc = nn.Sequential(
                nn.Linear(time_steps, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, time_steps, bias=False)
            )
        self.conv1 = nn.Conv2d(2, 1, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def mask(self, x: torch.Tensor) -> torch.Tensor:
        """Return the important step-channels of ``x`` ``[T, B, C, H, W]`` as 0/1, shape ``[T, B, C]``, x's dtype."""
        average, maximum = x.mean((3, 4)), x.amax((3, 4))  # [T, B, C]
        pooled = 0.5 * (average + maximum) + self.alpha * average + self.beta * maximum
        importance = self.fc(pooled.permute(1, 2, 0))  # [B, C, T]
        channels = topk_mask(importance, int(x.shape[2] * self.lam), 1)
        steps = topk_mask(importance, int(self.time_steps * self.lam), 2)
        if self.mask_mode == "batch_union":
            channels, steps = channels.amax(0, keepdim=True), steps.amax(0, keepdim=True)
        important = both = channels * steps
        if self.mask_rule == "xor":
            important = channels + steps - 2.0 * both
        elif self.mask_rule == "or":
            important = channels + steps - both
        return important.expand(x.shape[1], -1, -1).permute(2, 0, 1)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Return the gate ``[T, B, C, H, W]``, within (0, 1), of a current of that shape."""
        check_clip("ASA", x, self.time_steps)
        important = self.mask(x)[:, :, :, None, None]
        chosen = important * x
        map_important = _map(self.conv1, chosen, self.lam)
        map_other = _map(self.conv2, x - chosen, 1.0 - self.lam)
        return map_other + important * (map_important - map_other)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the gated current, of x's shape ``[T, B, C, H, W]``."""
        return x * self.gate(x)


def _map(conv: nn.Module, group: torch.Tensor, share: float) -> torch.Tensor:
    """Turn one group's current ``[T, B, C, H, W]`` into its map ``[B, 1, H, W]``."""
    mean = group.mean((0, 2)) / share
    maximum = group.amax((0, 2))
    return torch.sigmoid(conv(torch.cat([mean.unsqueeze(1), maximum.unsqueeze(1)], 1)))
