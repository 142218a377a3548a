"""The leaky integrate-and-fire neuron with hard reset, run over all time steps of a clip.

    v_t = decay * m_{t-1} + input_gain * x_t        membrane before the reset
    s_t = [v_t > v_threshold]   or   [v_t >= v_threshold]
    m_t = v_t * (1 - s_t) + v_reset * s_t           m_{-1} = 0

FSTA-SNN (AAAI 2025) uses decay 0.25, an effective threshold of 0.5 and the strict comparison; ASA-SNN (ICCV 2023) uses
0.3, 0.3 and ``>=``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from spikefold.errors import InputError

Surrogate = Literal["tanh", "rectangular"]


@dataclass(frozen=True)
class NeuronSpec:
    """What a neuron module says of itself: all that is needed to run it elsewhere.

    Attributes
    ----------
    decay : float
        Factor on the membrane from step to step, in [0, 1].
    v_threshold : float
        Firing threshold, greater than 0, in the unit of the currents.
    strict : bool
        True: fires when v > threshold; False: when v >= threshold.
    v_reset : float
        Membrane after a spike.
    input_gain : float
        Factor on the current before it is added.
    """

    decay: float
    v_threshold: float
    strict: bool
    v_reset: float = 0.0
    input_gain: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values no neuron can have."""
        for name in ("decay", "v_threshold", "v_reset", "input_gain"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise InputError(f"{name} = {value}: must be a finite number")
        if not 0.0 <= self.decay <= 1.0:
            raise InputError(f"decay = {self.decay}: must lie in [0, 1]")
        if self.v_threshold <= 0.0:
            raise InputError(f"v_threshold = {self.v_threshold}: must be greater than 0")
        if self.v_reset >= self.v_threshold:
            raise InputError(f"v_reset = {self.v_reset}: must be below v_threshold = {self.v_threshold}")


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons with hard reset; state is zero at the start of every call.

    Parameters
    ----------
    decay, v_threshold, v_reset, strict, input_gain
        See `NeuronSpec`.
    surrogate : {"tanh", "rectangular"}
        Derivative used for ds/dv in training. ``tanh``: (1 - tanh^2(v - th)) / (2 tanh(1/2)) where |v - th| < 0.5,
        else 0 (FSTA-SNN); ``rectangular``: 2 where |v - th| < 0.25, else 0 (ASA-SNN). The reset is not detached.
    """

    def __init__(
        self,
        decay: float = 0.25,
        v_threshold: float = 0.5,
        v_reset: float = 0.0,
        strict: bool = True,
        input_gain: float = 1.0,
        surrogate: Surrogate = "tanh",
    ) -> None:
        super().__init__()
        self._spec = NeuronSpec(decay, v_threshold, strict, v_reset, input_gain)
        if surrogate not in get_args(Surrogate):
            raise InputError(f"surrogate = {surrogate!r}: must be one of {', '.join(get_args(Surrogate))}")
        self.surrogate: Surrogate = surrogate

    @classmethod
    def from_tau(
        cls,
        tau: float = 2.0,
        v_threshold: float = 1.0,
        *,
        strict: bool = False,
        decay_input: bool = True,
        surrogate: Surrogate = "tanh",
    ) -> LIF:
        """Make a neuron from a time constant in steps: decay = 1 - 1/tau; ``decay_input`` sets the gain to 1/tau."""
        if not tau >= 1.0:
            raise InputError(f"tau = {tau}: must be at least 1 time step")
        return cls(1.0 - 1.0 / tau, v_threshold, 0.0, strict, 1.0 / tau if decay_input else 1.0, surrogate)

    def neuron_spec(self) -> NeuronSpec:
        """Return what this neuron computes, as data."""
        return self._spec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn currents ``[T, B, ...]`` (float) into spikes 0/1 of the same shape and dtype."""
        if torch.is_grad_enabled() and x.requires_grad:
            spikes: torch.Tensor = _SurrogateLIF.apply(x, self._spec, self.surrogate)  # type: ignore[no-untyped-call]
            return spikes
        return self.run(x)[0]

    def run(self, x: torch.Tensor, teacher: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Integrate currents and also return the membrane of every step, without gradient shaping.

        Parameters
        ----------
        x : torch.Tensor
            Currents ``[T, B, ...]``, T >= 1.
        teacher : torch.Tensor, optional
            Spikes 0/1 of x's shape. When given, the resets follow them instead of the neuron's own spikes, so that
            each step can be compared with another implementation without errors adding up.

        Returns
        -------
        tuple of torch.Tensor
            Spikes and membranes before the reset, both of x's shape and dtype.
        """
        _check_time_axis(x)
        if teacher is not None and teacher.shape != x.shape:
            raise InputError(
                f"teacher: shape {tuple(teacher.shape)} differs from the currents' {tuple(x.shape)}; give its spikes"
            )
        spec = self._spec
        spikes: list[torch.Tensor] = []
        membranes: list[torch.Tensor] = []
        v = spec.input_gain * x[0]
        for step in range(x.shape[0]):
            if step > 0:
                resets = spikes[-1] if teacher is None else teacher[step - 1].to(x.dtype)
                kept = v * (1.0 - resets) + spec.v_reset * resets
                v = spec.decay * kept + spec.input_gain * x[step]
            membranes.append(v)
            spikes.append(_fire(v, spec).to(x.dtype))
        return torch.stack(spikes), torch.stack(membranes)

    def extra_repr(self) -> str:
        """Show the neuron's numbers in ``print(net)``."""
        s = self._spec
        return f"decay={s.decay:g}, v_threshold={s.v_threshold:g}, strict={s.strict}, input_gain={s.input_gain:g}"


def _check_time_axis(x: torch.Tensor) -> None:
    if x.dim() < 2 or x.shape[0] == 0:
        raise InputError(f"currents: shape {tuple(x.shape)}; expected [T, B, ...] with T of at least 1")


def _fire(v: torch.Tensor, spec: NeuronSpec) -> torch.Tensor:
    return v > spec.v_threshold if spec.strict else v >= spec.v_threshold


def _derivative(v: torch.Tensor, spec: NeuronSpec, surrogate: Surrogate) -> torch.Tensor:
    distance = v - spec.v_threshold
    if surrogate == "rectangular":
        return (distance.abs() < 0.25).to(v.dtype) * 2.0
    inside = (distance.abs() < 0.5).to(v.dtype) / (2.0 * math.tanh(0.5))
    return inside * (1.0 - torch.tanh(distance).square_())


class _SurrogateLIF(torch.autograd.Function):
    """The loop of `LIF` with back-propagation through time written out: one saved tensor instead of six a step."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, spec: NeuronSpec, surrogate: Surrogate) -> torch.Tensor:
        _check_time_axis(x)
        membranes, spikes = torch.empty_like(x), torch.empty_like(x)
        kept = torch.zeros_like(x[0])
        for step in range(x.shape[0]):
            v = torch.add(spec.decay * kept, x[step], alpha=spec.input_gain)
            fired = _fire(v, spec)
            membranes[step], spikes[step] = v, fired
            kept = v.masked_fill(fired, spec.v_reset)
        ctx.save_for_backward(membranes, spikes)
        ctx.spec, ctx.surrogate = spec, surrogate
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grad_spikes,) = grads
        membranes, spikes = ctx.saved_tensors
        spec: NeuronSpec = ctx.spec
        grad_x = torch.empty_like(membranes)
        later = torch.zeros_like(membranes[0])  # gradient arriving at m_t from step t + 1
        for step in reversed(range(membranes.shape[0])):
            v, s = membranes[step], spikes[step]
            through_spike = grad_spikes[step] + later * (spec.v_reset - v)
            grad_v = through_spike * _derivative(v, spec, ctx.surrogate) + later * (1.0 - s)
            grad_x[step] = grad_v * spec.input_gain
            later = grad_v * spec.decay
        return grad_x, None, None
