"""The leaky integrate-and-fire neuron, run over all time steps of a clip.

    v_t = decay * m_{t-1} + input_gain * x_t        membrane before the reset
    s_t = [v_t > v_threshold]   or   [v_t >= v_threshold]
    m_t = v_t * (1 - s_t) + v_reset * s_t           m_{-1} = 0      (hard reset)
    m_t = v_t - (v_threshold - v_reset) * s_t                       (soft reset)

The systems differ in these numbers: FSTA-SNN (AAAI 2025) has decay 0.25, an effective threshold of 0.5 and the strict
comparison; ASA-SNN (ICCV 2023) 0.3, 0.3 and ``>=``; MA-SNN (TPAMI 2023) also resets to the threshold, which then
decays (``v_reset = v_threshold``); SMA and TCJA have SpikingJelly's ``tau`` = 2 with decaying input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models.surrogate import Surrogate, SurrogateLIF, after_reset, fire


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
        Membrane after a spike; at most v_threshold.
    input_gain : float
        Factor on the current before it is added.
    soft_reset : bool
        True: a spike takes v_threshold - v_reset off the membrane, in place of setting it to v_reset.
    current_decay : float
        Factor on a current memory u from step to step, in [0, 1]: u_t = current_decay * u_{t-1} + input_gain * x_t is
        what the membrane adds. 0: no memory, the plain LIF. Only neurons of other frameworks have one (`LIF` does not).
    """

    decay: float
    v_threshold: float
    strict: bool
    v_reset: float = 0.0
    input_gain: float = 1.0
    soft_reset: bool = False
    current_decay: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values no neuron can have."""
        for name in ("decay", "v_threshold", "v_reset", "input_gain", "current_decay"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise InputError(f"{name} = {value}: must be a finite number")
        for name in ("decay", "current_decay"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name} = {getattr(self, name)}: must lie in [0, 1]")
        if self.v_threshold <= 0.0:
            raise InputError(f"v_threshold = {self.v_threshold}: must be greater than 0")
        if self.v_reset > self.v_threshold:
            raise InputError(f"v_reset = {self.v_reset}: must be at most v_threshold = {self.v_threshold}")


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons; state is zero at the start of every call.

    Parameters
    ----------
    decay, v_threshold, v_reset, strict, input_gain, soft_reset
        See `NeuronSpec`.
    surrogate : {"tanh", "rectangular", "window", "atan", "triangular"}
        Derivative used for ds/dv in training; see `spikefold.models.surrogate.derivative`.
    detach_reset : bool
        True: no gradient flows through the reset (SpikingJelly's option, MS-ResNet). False: it does (FSTA, ASA, DTA).
    """

    def __init__(
        self,
        decay: float = 0.25,
        v_threshold: float = 0.5,
        v_reset: float = 0.0,
        strict: bool = True,
        input_gain: float = 1.0,
        surrogate: Surrogate = "tanh",
        detach_reset: bool = False,
        soft_reset: bool = False,
    ) -> None:
        super().__init__()
        self._spec = NeuronSpec(decay, v_threshold, strict, v_reset, input_gain, soft_reset)
        if surrogate not in get_args(Surrogate):
            raise InputError(f"surrogate = {surrogate!r}: must be one of {', '.join(get_args(Surrogate))}")
        self.surrogate: Surrogate = surrogate
        self.detach_reset = detach_reset

    @classmethod
    def from_tau(
        cls,
        tau: float = 2.0,
        v_threshold: float = 1.0,
        *,
        strict: bool = False,
        decay_input: bool = True,
        surrogate: Surrogate = "tanh",
        detach_reset: bool = False,
    ) -> LIF:
        """Make a neuron from a time constant in steps: decay = 1 - 1/tau; ``decay_input`` sets the gain to 1/tau."""
        if not tau >= 1.0:
            raise InputError(f"tau = {tau}: must be at least 1 time step")
        gain = 1.0 / tau if decay_input else 1.0
        return LIF(1.0 - 1.0 / tau, v_threshold, 0.0, strict, gain, surrogate, detach_reset)

    def neuron_spec(self) -> NeuronSpec:
        """Return what this neuron computes, as data."""
        return self._spec

    def dynamics(self) -> tuple[float | torch.Tensor, float | torch.Tensor]:
        """Return decay and input gain; a tensor where it is learned."""
        return self._spec.decay, self._spec.input_gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Turn currents ``[T, B, ...]`` (float) into spikes 0/1 of the same shape and dtype."""
        learned = any(parameter.requires_grad for parameter in self.parameters(recurse=False))
        if not torch.is_grad_enabled() or not (x.requires_grad or learned):
            return self.run(x)[0]
        _check_time_axis(x)
        decay, gain = self.dynamics()
        current = x if isinstance(gain, float) and gain == 1.0 else gain * x
        spikes: torch.Tensor = SurrogateLIF.apply(  # type: ignore[no-untyped-call]
            current, decay, self._spec, self.surrogate, self.detach_reset
        )
        return spikes

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
        decay, gain = self.dynamics()
        spikes: list[torch.Tensor] = []
        membranes: list[torch.Tensor] = []
        v = gain * x[0]
        for step in range(x.shape[0]):
            if step > 0:
                resets = spikes[-1] if teacher is None else teacher[step - 1].to(x.dtype)
                v = decay * after_reset(v, resets, spec) + gain * x[step]
            membranes.append(v)
            spikes.append(fire(v, spec).to(x.dtype))
        return torch.stack(spikes), torch.stack(membranes)

    def extra_repr(self) -> str:
        """Show the neuron's numbers in ``print(net)``."""
        s = self.neuron_spec()
        reset = f"v_reset={s.v_reset:g}" + (", soft_reset=True" if s.soft_reset else "")
        return (
            f"decay={s.decay:g}, v_threshold={s.v_threshold:g}, {reset}, strict={s.strict}, input_gain={s.input_gain:g}"
        )


def _check_time_axis(x: torch.Tensor) -> None:
    if x.dim() < 2 or x.shape[0] == 0:
        raise InputError(f"currents: shape {tuple(x.shape)}; expected [T, B, ...] with T of at least 1")
