"""Frequency-based spatial-temporal attention (FSTA-SNN, Yu et al., AAAI 2025).

Temporal branch (per sample b and step t; c over channels):
    z[b, t] = mean_c(alpha * mean_hw X + beta * max_hw X),   a_t = sigmoid(W_t z)
Spatial branch, on the time mean of the re-weighted current:
    F = conv(mean_t X (1 + a_t), 49 DCT atoms),   a_s = sigmoid(conv7x7(F))
Both together:
    FSTA(X) = X * (1 + a_t) * (t + s * (1 + a_s)) / 2

Pooling over channels before W_t, and summing them before the DCT (its atoms are the same for every channel), changes
nothing but the order of sums and costs C times less.

The released code holds three more scalars (``x``, ``t_scale``, ``s_scale``) that it never reads.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from spikefold.errors import InputError
from spikefold.models.attention.checks import check_clip, check_sizes
from spikefold.models.released import ReleasedNames, Rule
from spikefold.models.unused import Unused

DctTable = Literal["exact", "printed"]
DCT_SIZE = 7
"""Side of the DCT atoms; their full spectrum has 49 of them."""

REPOSITORY = "yukairong/FSTA-SNN @ ec456f5d636cb085644ea07e8061086b5b00bc67"
DEAD = (r"(^|\.)dct\.(x|t_scale|s_scale)$",)
RULES: tuple[Rule, ...] = (
    (r"(^|\.)dct\.(x|t_scale|s_scale)$", r"\1dct.unused.\2"),
    (r"(^|\.)dct\.freq_attention\.freq_attention\.0\.", r"\1dct.freq_conv."),
    (r"(^|\.)dct\.freq_attention\.freq_attention\.2\.", r"\1dct.freq_out."),
)
"""Rename what follows ``dct``, as the release calls the attention wherever it sits."""


def dct_bank(table: DctTable = "exact") -> torch.Tensor:
    """Return the orthonormal 2-D DCT-II atoms, float64 ``[49, 7, 7]``.

    Atom ``7 * v + u`` has row frequency u (varying fastest) and column frequency v:
    ``atom[i, j] = B[u, i] * B[v, j]`` with ``B[k, i] = c_k cos(pi (2i + 1) k / 14)``, ``c_0 = sqrt(1/7)``,
    ``c_k = sqrt(2/7)``.

    Parameters
    ----------
    table : {"exact", "printed"}
        ``printed`` rounds as the authors' published table does (weights trained with it expect it): 5 significant
        digits where u or v is odd, 4 decimals where both are even.
    """
    if table not in get_args(DctTable):
        raise InputError(f"dct = {table!r}: must be one of {', '.join(get_args(DctTable))}")
    return torch.tensor(_dct_values(table), dtype=torch.float64).reshape(DCT_SIZE**2, DCT_SIZE, DCT_SIZE)


@cache
def _dct_values(table: DctTable) -> tuple[float, ...]:
    """List the bank's values once: a network has up to 33 of them."""
    n = DCT_SIZE
    basis = [
        [math.sqrt((1.0 if k == 0 else 2.0) / n) * math.cos(math.pi * (2 * i + 1) * k / (2 * n)) for i in range(n)]
        for k in range(n)
    ]
    values: list[float] = []
    for v in range(n):
        for u in range(n):
            atom = [basis[u][i] * basis[v][j] for i in range(n) for j in range(n)]
            values += atom if table == "exact" else [_as_printed(value, u, v) for value in atom]
    return tuple(values)


def _as_printed(value: float, u: int, v: int) -> float:
    if u % 2 == 0 and v % 2 == 0:
        return round(value, 4)
    return 0.0 if abs(value) < 1e-12 else float(f"{value:.5g}")


def use_printed_table(network: nn.Module) -> None:
    """Make every FSTA in a network, or the module itself, use the printed table that the authors trained with."""
    for module in network.modules():
        if isinstance(module, FSTA):
            module.use_table("printed")


class FSTA(nn.Module):
    """Gate a current by one factor a time step and one map a sample, the same for all channels.

    Parameters
    ----------
    time_steps : int
        T of the clips; W_t is T x T.
    dct : {"exact", "printed"}
        See `dct_bank`. Take ``printed`` for weights from the authors.
    reduction : int
        1: a single 7x7 convolution from 49 maps to 1. Above 1: 49 -> 49 // reduction, ReLU, -> 1.
    dead_parameters : bool
        Also hold the released module's three unused scalars, so that parameter counts agree with it.
    """

    released_names = ReleasedNames(REPOSITORY, (*RULES, (r"^dct\.", "")), DEAD, prepare=use_printed_table)
    dct_filters: torch.Tensor

    def __init__(
        self, time_steps: int, dct: DctTable = "exact", reduction: int = 1, *, dead_parameters: bool = False
    ) -> None:
        super().__init__()
        check_sizes("FSTA", time_steps, reduction)
        atoms, padding = DCT_SIZE**2, DCT_SIZE // 2
        if reduction > atoms:
            raise InputError(f"FSTA: reduction = {reduction}; must be at most {atoms}")
        self.time_steps = time_steps
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.beta = nn.Parameter(torch.full((1,), 0.5))
        self.t = nn.Parameter(torch.full((1,), 0.6))
        self.s = nn.Parameter(torch.full((1,), 0.5))
        self.fc_t = nn.Linear(time_steps, time_steps, bias=False)
        hidden = 1 if reduction == 1 else atoms // reduction
        self.freq_conv = nn.Conv2d(atoms, hidden, DCT_SIZE, padding=padding, bias=False)
        self.freq_out = None if reduction == 1 else nn.Conv2d(hidden, 1, DCT_SIZE, padding=padding, bias=False)
        if dead_parameters:
            self.unused = Unused(x=(1,), t_scale=(1,), s_scale=(1,))
        self.dct = dct
        bank = dct_bank(dct).to(torch.get_default_dtype()).unsqueeze(1)
        self.register_buffer("dct_filters", bank, persistent=False)

    def use_table(self, dct: DctTable) -> None:
        """Convolve with another table from now on, as if the module had been made with it; see `dct_bank`."""
        # By way of the default dtype, so that float64 copies hold the same numbers however they came about.
        bank = dct_bank(dct).to(torch.get_default_dtype()).unsqueeze(1)
        self.dct = dct
        self.dct_filters = bank.to(self.dct_filters)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """Return the gate ``[T, B, 1, H, W]`` of a current ``[T, B, C, H, W]``."""
        check_clip("FSTA", x, self.time_steps)
        total = x.sum(2)  # [T, B, H, W]
        average = total.mean((2, 3)) / x.shape[2]
        pooled = self.alpha * average + self.beta * x.amax((3, 4)).mean(2)  # [T, B]
        mixed = self.fc_t(pooled.transpose(0, 1)).transpose(0, 1)
        temporal = 1.0 + torch.sigmoid(mixed)[:, :, None, None]  # [T, B, 1, 1]
        mean_current = (total * temporal).mean(0).unsqueeze(1)  # [B, 1, H, W]
        spectrum = functional.conv2d(mean_current, self.dct_filters, padding=DCT_SIZE // 2)
        logits = self.freq_conv(spectrum)
        if self.freq_out is not None:
            logits = self.freq_out(torch.relu(logits))
        spatial = self.t + self.s * (1.0 + torch.sigmoid(logits))  # [B, 1, H, W]
        return temporal.unsqueeze(2) * (0.5 * spatial)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the gated current, of x's shape ``[T, B, C, H, W]``."""
        return x * self.gate(x)
