"""Spiking multiscale attention and attention zone-out (SMA and AZO, Shan et al., AAAI 2025, arXiv 2405.13672).

The input X ``[T, B, C, H, W]`` is the bare output of a convolution. Four branches look at it at four scales,
    S_n = LIF(BN(conv_k(X))),   k = 1, 3, 5, 7      (spikes; ReLU in place of LIF in the authors' ImageNet network),
and their common rate f[t, b, c] = mean_hw sum_n S_n chooses between the scales, once a channel and once a step,
    Wc[n, t, b, c] = softmax_n(W_n ReLU(W_0 f)),   Wt[n, t, b] = softmax_n(V_n ReLU(V_0 mean_c f)),
W acting on the channels of a step and V on the steps of a sample. The output is the weighted sum
    Y = sum_n Wt[n] Wc[n] S_n,
so the weights of an output value never add up to more than 1.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models.attention.checks import check_clip
from spikefold.models.lif import LIF
from spikefold.models.over_time import OverTime
from spikefold.models.released import ReleasedNames

BranchForm = Literal["spikes", "relu"]
KERNELS = (1, 3, 5, 7)
"""Side of the convolution of each branch."""

REPOSITORY = "Ym-Shan/Spiking_Multiscale_Attention_Arxiv@816c034"
MODULE_RULES = (
    (r"S_Convs\.(\d)\.conv\.", r"branches.\1.conv.module."),
    (r"S_Convs\.(\d)\.bn\.(bn\.)?", r"branches.\1.norm.module."),
    (r"C_before_attention_conv\.", "channel_squeeze."),
    (r"C_after_attention_convs\.", "channel_logits."),
    (r"T_before_attention_conv\.", "time_squeeze."),
    (r"T_after_attention_convs\.", "time_logits."),
)
"""The authors' names inside an SMA module, in ours."""


def sma_neuron() -> LIF:
    """Make the neuron of the event networks: tau 2, decaying input, threshold 1 (``>=``), detached hard reset, ATan."""
    return LIF.from_tau(2.0, 1.0, surrogate="atan", detach_reset=True)


@dataclass(frozen=True)
class AZO:
    """Attention zone-out: in training, what a scale weighs least is replaced by what it was a step before.

    For each scale n, T_min are the T // time_ratio steps with the smallest Wt[n], summed over the batch, and C_min the
    C // channel_ratio channels with the smallest Wc[n], summed over the batch and over T_min. For t in T_min except
    step 0 and c in C_min, the weighted output Wt Wc S of step t is replaced by that of step t - 1, as it was before any
    replacement. The choice is the same for the whole batch and takes no random number.

    Where T_min is {0} alone, or empty, nothing is replaced; the authors' code raises an error there.

    Attributes
    ----------
    time_ratio, channel_ratio : int
        RTR and RCR; at least 1.
    """

    time_ratio: int
    channel_ratio: int

    def __post_init__(self) -> None:
        """Refuse ratios that choose more than there is."""
        for field in ("time_ratio", "channel_ratio"):
            if getattr(self, field) < 1:
                raise InputError(f"AZO: {field} = {getattr(self, field)}; must be at least 1")

    def replaced(self, time_weights: torch.Tensor, channel_weights: torch.Tensor) -> torch.Tensor:
        """Return which entries one scale replaces.

        Parameters
        ----------
        time_weights : torch.Tensor
            Wt of the scale, ``[T, B]``.
        channel_weights : torch.Tensor
            Wc of the scale, ``[T, B, C]``.

        Returns
        -------
        torch.Tensor
            Boolean, ``[T, C]``.
        """
        time_steps, channels = channel_weights.shape[0], channel_weights.shape[2]
        steps = time_weights.sum(1).topk(time_steps // self.time_ratio, largest=False).indices
        chosen_channels = channel_weights.sum(1)[steps].sum(0).topk(channels // self.channel_ratio, largest=False)
        in_steps = torch.zeros(time_steps, dtype=torch.bool, device=steps.device).index_fill(0, steps, True)
        in_steps[0] = False
        in_channels = torch.zeros(channels, dtype=torch.bool, device=steps.device)
        return in_steps[:, None] & in_channels.index_fill(0, chosen_channels.indices, True)


class SMA(nn.Module):
    """Replace a convolution's output by a weighted sum of the spikes of four scales; goes in front of a batch norm.

    Parameters
    ----------
    channels : int
        C of the clips; the branches keep it.
    time_steps : int
        T of the clips.
    c_reduction : int
        The channel weights come from C // c_reduction hidden units, one at least.
    t_reduction : float
        The time weights come from T // t_reduction hidden units, one at least; 1.5 makes 4 of 6, as in the ImageNet
        network.
    form : {"spikes", "relu"}
        What ends a branch: `sma_neuron`, or, as in the authors' ImageNet network, a ReLU, which makes the branches real
        valued. The latter's norms start with weight 0.5, as all norms of that network.
    azo : AZO, optional
        Zone-out; active in training mode only.
    """

    released_names = ReleasedNames(REPOSITORY, MODULE_RULES)

    def __init__(
        self,
        channels: int,
        time_steps: int,
        c_reduction: int = 4,
        t_reduction: float = 4,
        form: BranchForm = "spikes",
        azo: AZO | None = None,
    ) -> None:
        super().__init__()
        for field, size, name, reduction in (
            ("channels", channels, "c_reduction", c_reduction),
            ("time_steps", time_steps, "t_reduction", t_reduction),
        ):
            if size < 1:
                raise InputError(f"SMA: {field} = {size}; must be at least 1")
            if not reduction >= 1:
                raise InputError(f"SMA: {name} = {reduction}; must be at least 1")
        if form not in get_args(BranchForm):
            raise InputError(f"SMA: form = {form!r}; must be one of {', '.join(get_args(BranchForm))}")
        self.channels = channels
        self.time_steps = time_steps
        self.azo = azo
        self.branches = nn.ModuleList(_branch(channels, kernel, form) for kernel in KERNELS)
        hidden = max(1, channels // c_reduction)
        self.channel_squeeze = nn.Linear(channels, hidden)
        self.channel_logits = nn.ModuleList(nn.Linear(hidden, channels) for _ in KERNELS)
        hidden = max(1, int(time_steps // t_reduction))
        self.time_squeeze = nn.Linear(time_steps, hidden)
        self.time_logits = nn.ModuleList(nn.Linear(hidden, time_steps) for _ in KERNELS)

    def weights(self, rate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return Wt ``[4, T, B]`` and Wc ``[4, T, B, C]``, each summing to 1 over the scales.

        Parameters
        ----------
        rate : torch.Tensor
            f, the spatial mean of the summed branches, ``[T, B, C]``.
        """
        hidden = torch.relu(self.channel_squeeze(rate))
        channel_weights = torch.stack([logits(hidden) for logits in self.channel_logits]).softmax(0)
        hidden = torch.relu(self.time_squeeze(rate.mean(2).transpose(0, 1)))  # [B, T // t_reduction]
        time_weights = torch.stack([logits(hidden) for logits in self.time_logits]).softmax(0)
        return time_weights.transpose(1, 2), channel_weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of the scales, of x's shape ``[T, B, C, H, W]``."""
        check_clip("SMA", x, self.time_steps)
        if x.shape[2] != self.channels:
            raise InputError(f"SMA: input has {x.shape[2]} channels; the module was made for {self.channels}")
        outputs = [branch(x) for branch in self.branches]
        rate = (outputs[0] + outputs[1] + outputs[2] + outputs[3]).mean((3, 4))
        time_weights, channel_weights = self.weights(rate)
        weighted: list[torch.Tensor] = []
        for n, output in enumerate(outputs):
            term = output * (time_weights[n, :, :, None] * channel_weights[n])[:, :, :, None, None]
            if self.azo is not None and self.training:
                before = torch.cat([term[:1], term[:-1]])
                replaced = self.azo.replaced(time_weights[n], channel_weights[n])
                term = torch.where(replaced[:, None, :, None, None], before, term)
            weighted.append(term)
        return weighted[0] + weighted[1] + weighted[2] + weighted[3]


def _branch(channels: int, kernel: int, form: BranchForm) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = OverTime(nn.Conv2d(channels, channels, kernel, padding=kernel // 2))
    norm = nn.BatchNorm2d(channels)
    layers["norm"] = OverTime(norm)
    if form == "spikes":
        layers["neuron"] = sma_neuron()
    else:
        nn.init.constant_(norm.weight, 0.5)
        layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)
