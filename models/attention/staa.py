"""Spatial-temporal attention aggregator (STAA-SNN, CVPR 2025), a reconstruction.

Its code is not public. What is built here follows descriptions of the paper and the global context block of GCNet
(Cao et al., ICCVW 2019); every choice they leave open is an argument, and no released parameter names exist.

For a current X ``[T, B, C, H, W]`` of one layer, per step t with weights shared over the steps,
    X' = X + P                                          position encoding,
    p = softmax_hw(w_k X'),   ctx = sum_hw p X',   v = W_2 ReLU(LN(W_1 ctx))            global context, [T, B, C],
    Y = X' sigmoid(v)    or    Y = X' + v               fusion "mul" or "add",
then an adaptive neuron (`spikefold.models.learned_lif.AdaptiveLIF`), and over all steps of the clip
    q = mean_chw(Z),   g = sigmoid(W_b ReLU(W_a q)),    Z g                             step attention,
with Z the neuron's spikes ("post") or its current Y ("pre").

Time-step random dropout: in training each layer and step skips all three parts with a small probability.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models.attention.checks import check_clip, check_sizes

Position = Literal["channel", "pixel", "sinusoid"]
Fusion = Literal["mul", "add"]
StepPlace = Literal["post", "pre"]


class PositionEncoding(nn.Module):
    """Add P to a current: one number a step and channel, or a step and pixel.

    Parameters
    ----------
    time_steps, channels : int
        T and C of the currents.
    kind : {"channel", "pixel", "sinusoid"}
        ``channel``: learned P ``[T, C]``, which tells the steps apart at any resolution. ``pixel``: learned P
        ``[T, H, W]``. ``sinusoid``: fixed P ``[T, C]``, sin(t w_i) in channel 2i and cos(t w_i) in channel 2i + 1 with
        w_i = 10000^(-2i/C). Learned ones start at 0, so that an untrained encoding changes nothing.
    size : tuple of int, optional
        H and W of the currents; needed for ``pixel``.
    """

    encoding: torch.Tensor

    def __init__(
        self, time_steps: int, channels: int, kind: Position = "channel", size: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        check_sizes("STAA", time_steps, 1)
        _check_choice("position", kind, get_args(Position))
        self.kind: Position = kind
        if kind == "sinusoid":
            self.register_buffer("encoding", sinusoid(time_steps, channels), persistent=False)
        elif kind == "channel":
            self.encoding = nn.Parameter(torch.zeros(time_steps, channels))
        elif size is None:
            raise InputError("STAA: position = 'pixel' needs the height and width of the currents: give size=(H, W)")
        else:
            self.encoding = nn.Parameter(torch.zeros(time_steps, *size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x + P``, of x's shape ``[T, B, C, H, W]``."""
        if self.kind == "pixel":
            if x.shape[3:] != self.encoding.shape[1:]:
                raise InputError(
                    f"STAA: current of {tuple(x.shape[3:])} pixels; the position encoding was made for "
                    f"{tuple(self.encoding.shape[1:])}"
                )
            return x + self.encoding[:, None, None]
        return x + self.encoding[:, None, :, None, None]


def sinusoid(time_steps: int, channels: int) -> torch.Tensor:
    """Return the fixed encoding ``[time_steps, channels]`` in torch's default dtype; see `PositionEncoding`."""
    rows = [
        [math.sin(t * w) if c % 2 == 0 else math.cos(t * w) for c in range(channels) for w in [_frequency(c, channels)]]
        for t in range(time_steps)
    ]
    return torch.tensor(rows, dtype=torch.get_default_dtype())


def _frequency(channel: int, channels: int) -> float:
    return float(10000.0 ** (-2 * (channel // 2) / channels))


class GlobalContext(nn.Module):
    """Summarise each step of a current by a pooling that weighs pixels, then mix its channels (GCNet).

    Parameters
    ----------
    channels : int
        C of the currents.
    reduction : int
        The mixing runs over channels // reduction hidden channels, at least 2 (a layer norm over one is constant).
    start_at_zero : bool
        True: the last map starts at zero, as GCNet does where its result is added.

    Notes
    -----
    The bias of the pixel scores cancels in the softmax and never learns; it is there because GCNet has it.
    """

    def __init__(self, channels: int, reduction: int = 4, start_at_zero: bool = False) -> None:
        super().__init__()
        check_sizes("STAA", 1, reduction)
        hidden = channels // reduction
        if hidden < 2:
            raise InputError(
                f"STAA: reduction = {reduction} leaves {hidden} hidden channels of {channels}; at least 2 are needed, "
                f"so take a reduction of at most {channels // 2}"
            )
        self.key = nn.Conv2d(channels, 1, 1)
        self.reduce = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.expand = nn.Linear(hidden, channels)
        if start_at_zero:
            nn.init.zeros_(self.expand.weight)
            nn.init.zeros_(self.expand.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return v ``[T, B, C, 1, 1]`` of a current ``[T, B, C, H, W]``."""
        merged = x.flatten(0, 1)  # [TB, C, H, W]
        weights = torch.softmax(self.key(merged).flatten(2), 2)  # [TB, 1, HW]
        context = (merged.flatten(2) * weights).sum(2)  # [TB, C]
        value: torch.Tensor = self.expand(torch.relu(self.norm(self.reduce(context))))
        return value.reshape(x.shape[0], x.shape[1], x.shape[2], 1, 1)


class StepAttention(nn.Module):
    """Weigh the time steps of a clip by one number each.

    Parameters
    ----------
    time_steps : int
        T of the clips.
    reduction : int
        The mixing runs over max(time_steps // reduction, 1) hidden steps; the paper's value is unknown.
    per_channel : bool
        False: q is the mean over channels and pixels, and g one number a step. True: q is the mean over pixels, and g
        one number a step and channel, with the same maps for all channels.
    """

    def __init__(self, time_steps: int, reduction: int = 1, per_channel: bool = False) -> None:
        super().__init__()
        check_sizes("STAA", time_steps, reduction)
        hidden = max(time_steps // reduction, 1)
        self.per_channel = per_channel
        self.reduce = nn.Linear(time_steps, hidden, bias=False)
        self.expand = nn.Linear(hidden, time_steps, bias=False)

    def gate(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return g ``[T, B, C or 1, 1, 1]`` from means over pixels ``[T, B, C, 1, 1]``."""
        q = pooled if self.per_channel else pooled.mean(2, keepdim=True)
        mixed: torch.Tensor = self.expand(torch.relu(self.reduce(q.movedim(0, 4))))
        return torch.sigmoid(mixed).movedim(4, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x * g``, of x's shape ``[T, B, C, H, W]``."""
        return x * self.gate(x.mean((3, 4), keepdim=True))


class STAALayer(nn.Module):
    """A spiking layer of STAA-SNN: position encoding, global context, a neuron, and step attention.

    One module, because time-step random dropout decides once a layer and step whether *all* its parts are skipped,
    those before the neuron and those behind it.

    Parameters
    ----------
    neuron : nn.Module
        Turns currents ``[T, B, C, H, W]`` into spikes; an `AdaptiveLIF` in the paper.
    time_steps, channels : int
        T and C of the currents.
    reduction : int
        See `GlobalContext`; 4 is described as best.
    fusion : {"mul", "add"}
        ``mul`` gates the current by sigmoid(v), ``add`` adds v, as GCNet does.
    position : {"channel", "pixel", "sinusoid"}
        See `PositionEncoding`.
    size : tuple of int, optional
        H and W of the currents, for ``pixel``.
    step : {"post", "pre"}
        ``post``: step attention scales the spikes, in the order of the paper; what leaves the layer is then no longer
        0 or 1. ``pre``: it scales the current, so that spikes stay binary, as binary-spike chips need.
    step_reduction, step_per_channel
        See `StepAttention`.
    skip_probability : float
        Of time-step random dropout, in [0, 1]: in training, each step of the clip is left without attention with this
        probability, for the whole batch at once, drawn from torch's global generator. Nothing is rescaled: a skipped
        step enters the neuron as it came and leaves it as plain spikes. 0.1 is described as best.

    Raises
    ------
    InputError
        A size, a choice or the probability is not possible, or a current does not fit the sizes.
    """

    def __init__(
        self,
        neuron: nn.Module,
        time_steps: int,
        channels: int,
        reduction: int = 4,
        fusion: Fusion = "mul",
        position: Position = "channel",
        size: tuple[int, int] | None = None,
        step: StepPlace = "post",
        step_reduction: int = 1,
        step_per_channel: bool = False,
        skip_probability: float = 0.1,
    ) -> None:
        super().__init__()
        _check_choice("fusion", fusion, get_args(Fusion))
        _check_choice("step", step, get_args(StepPlace))
        if not 0.0 <= skip_probability <= 1.0:
            raise InputError(f"STAA: skip_probability = {skip_probability}; must lie between 0 and 1")
        self.time_steps = time_steps
        self.channels = channels
        self.fusion: Fusion = fusion
        self.step: StepPlace = step
        self.skip_probability = skip_probability
        self.position = PositionEncoding(time_steps, channels, position, size)
        self.context = GlobalContext(channels, reduction, start_at_zero=fusion == "add")
        self.neuron = neuron
        self.step_attention = StepAttention(time_steps, step_reduction, step_per_channel)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the neuron gets for a current of the same shape ``[T, B, C, H, W]``, nothing skipped."""
        x = self.position(x)
        value: torch.Tensor = self.context(x)
        if self.fusion == "add":
            x = x + value
            return self.step_attention(x) if self.step == "pre" else x
        gate = torch.sigmoid(value)
        if self.step == "pre":  # the mean of the gated current is the gated mean: one product of full size, not two
            gate = gate * self.step_attention.gate(gate * x.mean((3, 4), keepdim=True))
        return x * gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn currents into spikes, both ``[T, B, C, H, W]``; weighed by step with ``step="post"``."""
        check_clip("STAA", x, self.time_steps)
        if x.shape[2] != self.channels:
            raise InputError(f"STAA: current of {x.shape[2]} channels; the layer was made for {self.channels}")
        if not self.training:
            spikes: torch.Tensor = self.neuron(self.attend(x))
            return self.step_attention(spikes) if self.step == "post" else spikes
        skipped = (torch.rand(self.time_steps, device=x.device) < self.skip_probability)[:, None, None, None, None]
        spikes = self.neuron(torch.where(skipped, x, self.attend(x)))
        return torch.where(skipped, spikes, self.step_attention(spikes)) if self.step == "post" else spikes

    def extra_repr(self) -> str:
        """Show the choices in ``print(net)``."""
        return f"fusion={self.fusion}, step={self.step}, skip_probability={self.skip_probability:g}"


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"STAA: {field} = {value!r}; must be one of {', '.join(choices)}")
