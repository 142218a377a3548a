"""Multi-dimensional attention (MA-SNN, Yao et al., TPAMI 2023): gates over time, channels and space, one after another.

For a current X ``[T, B, C, H, W]``, each gate reading what the one before it has left,
    X1 = X * sigmoid(MLP_t(avg_chw X) + MLP_t(max_chw X))         one factor a step,       [T, B, 1, 1, 1]
    X2 = X1 * sigmoid(MLP_c(avg_thw X1) + MLP_c(max_thw X1))      one factor a channel,    [1, B, C, 1, 1]
    X3 = X2 * sigmoid(conv3x3([avg_tc X2, max_tc X2]))            one factor a pixel,      [1, B, 1, H, W]
    MA(X) = ReLU(X3),
with MLP = W_2 ReLU(W_1 .), no biases. TCSA has all three gates; TA, CA, SA, TCA, CSA and TSA leave some out.
"""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models.attention.checks import check_clip, check_sizes
from spikefold.models.released import ReleasedNames

MAKind = Literal["TA", "CA", "SA", "TCA", "CSA", "TSA", "TCSA"]

REPOSITORY = "BICLab/Attention-SNN@ad80e7b"
MODULE_RULES = (
    (r"\bta\.sharedMLP\.0\.", "gates.temporal.reduce."),
    (r"\bta\.sharedMLP\.2\.", "gates.temporal.expand."),
    (r"\bca\.sharedMLP\.0\.", "gates.channel.reduce."),
    (r"\bca\.sharedMLP\.2\.", "gates.channel.expand."),
    (r"\bsa\.conv\.", "gates.spatial.conv."),
)
"""The authors' names inside an attention module, in ours; their 1x1x1 convolutions are matrices here."""


class MA(nn.Module):
    """Gate a current by one factor a step, one a channel and one a pixel, as many of them as ``kind`` names; rectify.

    Parameters
    ----------
    time_steps, channels : int
        T of the clips and C of the current. Without a temporal gate any T fits, without a channel gate any C.
    kind : {"TA", "CA", "SA", "TCA", "CSA", "TSA", "TCSA"}
        Which gates there are: T temporal, C channel, S spatial. They act in this order.
    c_ratio, t_ratio : int
        The hidden layers have ``channels // c_ratio`` and ``time_steps // t_ratio`` units.
    rectify : bool
        True, as the authors released it: a ReLU on the gated current, so that no inhibition ever reaches the neuron.
        No neuromorphic chip rectifies the sum of its synapses in front of a neuron, so this ReLU is what keeps the
        gates from being folded into weights and thresholds; train with False where the network is to be folded.
    """

    released_names: ClassVar[ReleasedNames] = ReleasedNames(REPOSITORY, MODULE_RULES)

    def __init__(
        self,
        time_steps: int,
        channels: int,
        kind: MAKind = "TCSA",
        c_ratio: int = 8,
        t_ratio: int = 5,
        rectify: bool = True,
    ) -> None:
        super().__init__()
        if kind not in get_args(MAKind):
            raise InputError(f"MA: kind = {kind!r}; must be one of {', '.join(get_args(MAKind))}")
        check_sizes("MA", time_steps, 1)
        if channels < 1:
            raise InputError(f"MA: channels = {channels}; must be at least 1")
        self.time_steps = time_steps
        self.channels = channels
        self.kind: MAKind = kind
        self.rectify = rectify
        self.gates = nn.ModuleDict()
        if "T" in kind:
            self.gates["temporal"] = TemporalGate(time_steps, _hidden("time_steps", time_steps, "t_ratio", t_ratio))
        if "C" in kind:
            self.gates["channel"] = ChannelGate(channels, _hidden("channels", channels, "c_ratio", c_ratio))
        if "S" in kind:
            self.gates["spatial"] = SpatialGate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate a current ``[T, B, C, H, W]`` (float); the result has its shape and dtype.

        With ``kind="TA"`` also one of fully connected neurons, ``[T, B, F]``.

        Raises
        ------
        InputError
            Another number of axes, or a T or C that the gates were not made for.
        """
        self._check(x)
        for gate in self.gates.values():
            x = x * gate(x)
        return torch.relu(x) if self.rectify else x

    def extra_repr(self) -> str:
        """Show kind and rectifier in ``print(net)``."""
        return f"kind={self.kind}, rectify={self.rectify}"

    def _check(self, x: torch.Tensor) -> None:
        if self.kind == "TA" and x.dim() == 3:
            x = x[..., None, None]
        check_clip("MA", x, self.time_steps if "T" in self.kind else x.shape[0])
        if "C" in self.kind and x.shape[2] != self.channels:
            raise InputError(f"MA: input has {x.shape[2]} channels but its weights were made for {self.channels}")


class PooledGate(nn.Module):
    """Squeeze means and maxima through one MLP: ``sigmoid(MLP(mean) + MLP(maximum))``."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(features, hidden, bias=False)
        self.expand = nn.Linear(hidden, features, bias=False)

    def score(self, mean: torch.Tensor, maximum: torch.Tensor) -> torch.Tensor:
        """Return the gate of pooled currents ``[B, features]``, in their shape."""
        return torch.sigmoid(self.expand(torch.relu(self.reduce(mean))) + self.expand(torch.relu(self.reduce(maximum))))


class TemporalGate(PooledGate):
    """One factor a step: pools everything but time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the gate ``[T, B, 1, ...]`` of a current ``[T, B, ...]``."""
        rest = tuple(range(2, x.dim()))
        gate = self.score(x.mean(rest).transpose(0, 1), x.amax(rest).transpose(0, 1))
        return gate.transpose(0, 1).reshape(x.shape[0], x.shape[1], *[1] * len(rest))


class ChannelGate(PooledGate):
    """One factor a channel, the same for all steps: pools time and space."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the gate ``[B, C, 1, 1]`` of a current ``[T, B, C, H, W]``."""
        return self.score(x.mean((0, 3, 4)), x.amax((0, 3, 4)))[:, :, None, None]


class SpatialGate(nn.Module):
    """One factor a pixel, the same for all steps and channels: ``sigmoid(conv3x3([mean, maximum]))``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the gate ``[B, 1, H, W]`` of a current ``[T, B, C, H, W]``."""
        pooled = torch.stack([x.mean((0, 2)), x.amax((0, 2))], 1)
        return torch.sigmoid(self.conv(pooled))


def _hidden(what: str, size: int, field: str, ratio: int) -> int:
    if not 1 <= ratio <= size:
        raise InputError(f"MA: {field} = {ratio}; must be from 1 to {what} = {size}, so that a hidden unit is left")
    return size // ratio
