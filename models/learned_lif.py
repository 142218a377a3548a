"""Neurons whose leak is learned."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models.lif import LIF, NeuronSpec
from spikefold.models.surrogate import Surrogate


class ParametricLIF(LIF):
    """One learned time constant a layer: 1/tau = sigmoid(w), decay 1 - 1/tau, input gain 1/tau.

    The neuron of Fang et al. (ICCV 2021), as SpikingJelly builds it with decaying input and as ASA-SNN's architecture B
    uses it: v_threshold 1, ``>=``, hard reset to 0.

    Parameters
    ----------
    init_tau : float
        Time constant at the start, in steps; greater than 1.
    v_threshold, strict, surrogate, detach_reset
        See `LIF`.
    """

    def __init__(
        self,
        init_tau: float = 2.0,
        v_threshold: float = 1.0,
        strict: bool = False,
        surrogate: Surrogate = "atan",
        detach_reset: bool = False,
    ) -> None:
        if not init_tau > 1.0:
            raise InputError(f"init_tau = {init_tau}: must be greater than 1 time step")
        gain = 1.0 / init_tau
        super().__init__(1.0 - gain, v_threshold, 0.0, strict, gain, surrogate, detach_reset)
        self.w = nn.Parameter(torch.tensor(-math.log(init_tau - 1.0)))

    def dynamics(self) -> tuple[float | torch.Tensor, float | torch.Tensor]:
        """Return decay and input gain, tensors of no axes."""
        gain = torch.sigmoid(self.w)
        return 1.0 - gain, gain

    def neuron_spec(self) -> NeuronSpec:
        """Return what this neuron computes now."""
        gain = float(torch.sigmoid(self.w.detach()))
        return replace(self._spec, decay=1.0 - gain, input_gain=gain)


class AdaptiveLIF(LIF):
    """Learned decay a and input gain b: v_t = a m_{t-1} + b x_t, with a = sigmoid(decay_logit).

    The adaptive neuron of STAA-SNN (CVPR 2025) as reconstructed from descriptions, its code not being public: learned
    coefficients in place of the fixed leak and input factor.

    Parameters
    ----------
    channels : int, optional
        None: one pair a layer. Otherwise one pair a channel, for currents ``[T, B, channels, H, W]``.
    decay : float
        a at the start, between 0 and 1; b starts at 1.
    v_threshold, strict, surrogate
        See `LIF`.
    """

    def __init__(
        self,
        channels: int | None = None,
        decay: float = 0.25,
        v_threshold: float = 0.5,
        strict: bool = True,
        surrogate: Surrogate = "window",
    ) -> None:
        super().__init__(decay, v_threshold, 0.0, strict, 1.0, surrogate)
        if not 0.0 < decay < 1.0:
            raise InputError(f"decay = {decay}: must lie between 0 and 1")
        shape = () if channels is None else (channels, 1, 1)
        self.decay_logit = nn.Parameter(torch.full(shape, math.log(decay / (1.0 - decay))))
        self.gain = nn.Parameter(torch.ones(shape))

    def dynamics(self) -> tuple[float | torch.Tensor, float | torch.Tensor]:
        """Return decay and input gain, tensors that broadcast to one step."""
        return torch.sigmoid(self.decay_logit), self.gain

    def neuron_spec(self) -> NeuronSpec:
        """Return what this neuron computes now; InputError where each channel has numbers of its own."""
        if self.gain.dim() > 0:
            raise InputError(
                f"AdaptiveLIF: {len(self.gain)} channels with a decay and a gain of their own; "
                "a NeuronSpec holds one of each: build it with channels=None to lower it"
            )
        decay = float(torch.sigmoid(self.decay_logit.detach()))
        return replace(self._spec, decay=decay, input_gain=float(self.gain.detach()))

    def extra_repr(self) -> str:
        """Show the neuron's numbers in ``print(net)``."""
        if self.gain.dim() > 0:
            return f"channels={len(self.gain)}, v_threshold={self._spec.v_threshold:g}, strict={self._spec.strict}"
        return super().extra_repr()
