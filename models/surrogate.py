"""What stands for the derivative of the spike in training, and the neuron's loop with its backward pass written out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from spikefold.models.lif import NeuronSpec

Surrogate = Literal["tanh", "rectangular", "window", "atan", "triangular"]


def derivative(distance: torch.Tensor, surrogate: Surrogate) -> torch.Tensor:
    """Return ds/dv at ``distance`` = v - v_threshold, in its shape.

    ``tanh``: (1 - tanh^2 d) / (2 tanh 1/2) where abs(d) < 1/2 (FSTA-SNN). ``rectangular``: 2 where abs(d) < 1/4
    (ASA-SNN, MA-SNN). ``window``: 1 where abs(d) < 1/2 (MS-ResNet, STAA-SNN). ``atan``: 1 / (1 + (pi d)^2)
    (SpikingJelly). ``triangular``: 1 - abs(d) where that is positive (DTA-SNN).
    """
    if surrogate == "rectangular":
        return (distance.abs() < 0.25).to(distance.dtype) * 2.0
    if surrogate == "window":
        return (distance.abs() < 0.5).to(distance.dtype)
    if surrogate == "atan":
        return 1.0 / (1.0 + (math.pi * distance).square())
    if surrogate == "triangular":
        return (1.0 - distance.abs()).clamp_min(0.0)
    inside = (distance.abs() < 0.5).to(distance.dtype) / (2.0 * math.tanh(0.5))
    return inside * (1.0 - torch.tanh(distance).square_())


def fire(v: torch.Tensor, spec: NeuronSpec) -> torch.Tensor:
    """Compare membranes with the threshold, strictly or not."""
    return v > spec.v_threshold if spec.strict else v >= spec.v_threshold


def after_reset(v: torch.Tensor, spikes: torch.Tensor, spec: NeuronSpec) -> torch.Tensor:
    """Membranes that spikes (0 or 1, of their dtype) leave."""
    if spec.soft_reset:
        return v - (spec.v_threshold - spec.v_reset) * spikes
    return v * (1.0 - spikes) + spec.v_reset * spikes


class SurrogateLIF(torch.autograd.Function):
    """Back-propagation through time of `LIF`: one saved pair of tensors instead of six a step.

    ``apply(current, decay, spec, surrogate, detach_reset)``: ``current`` already carries the input gain; ``decay`` is
    a number, or a tensor that broadcasts to one step and gets a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, decay: float | torch.Tensor, spec: NeuronSpec, surrogate: Surrogate, detach: bool
    ) -> torch.Tensor:
        """Run the loop and keep what the backward pass needs."""
        membranes, spikes = torch.empty_like(x), torch.empty_like(x)
        kept = torch.zeros_like(x[0])
        for step in range(x.shape[0]):
            v = decay * kept + x[step]
            fired = fire(v, spec)
            membranes[step], spikes[step] = v, fired
            kept = after_reset(v, spikes[step], spec) if spec.soft_reset else v.masked_fill(fired, spec.v_reset)
        learned = (decay,) if isinstance(decay, torch.Tensor) else ()
        ctx.save_for_backward(membranes, spikes, *learned)
        ctx.decay = None if learned else decay
        ctx.spec, ctx.surrogate, ctx.detach = spec, surrogate, detach
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Walk back through the steps; gradients of the current and, where it is learned, of the decay."""
        (grad_spikes,) = grads
        membranes, spikes, *learned = ctx.saved_tensors
        decay = learned[0] if learned else ctx.decay
        spec: NeuronSpec = ctx.spec
        grad_x = torch.empty_like(membranes)
        grad_decay = torch.zeros_like(membranes[0]) if learned else None
        later = torch.zeros_like(membranes[0])  # gradient arriving at the kept membrane from step t + 1
        for step in reversed(range(membranes.shape[0])):
            v, s = membranes[step], spikes[step]
            if grad_decay is not None and step + 1 < membranes.shape[0]:
                grad_decay += grad_x[step + 1] * after_reset(v, s, spec)
            through_spike = grad_spikes[step]
            if not ctx.detach:
                through_spike = through_spike + later * (spec.v_reset - (spec.v_threshold if spec.soft_reset else v))
            passed_on = later if spec.soft_reset else later * (1.0 - s)
            grad_v = through_spike * derivative(v - spec.v_threshold, ctx.surrogate) + passed_on
            grad_x[step] = grad_v
            later = grad_v * decay
        total = None if grad_decay is None else grad_decay.sum_to_size(decay.shape)
        return grad_x, total, None, None, None
