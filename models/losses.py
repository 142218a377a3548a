"""Losses of the networks: what training lowers.

Targets are labels, int64 ``[B]``, or probabilities, ``[B, classes]``, where clips are mixed (mixup). With label
smoothing e, the target of K classes is  y = (1 - e) * y + e / K.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from spikefold.errors import InputError

LossName = Literal["cross-entropy", "mse", "bce", "tet"]


def probabilities(targets: torch.Tensor, classes: int, smoothing: float = 0.0) -> torch.Tensor:
    """Return targets as float32 probabilities ``[B, classes]``, smoothed."""
    hard = functional.one_hot(targets, classes).to(torch.float32) if targets.dim() == 1 else targets
    return hard * (1.0 - smoothing) + smoothing / classes


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of ``[B, classes]``, the logits averaged over time: mean_b -sum_k y_k log softmax_k."""
    return functional.cross_entropy(logits, targets, label_smoothing=smoothing)


def mse(scores: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Mean squared error of scores ``[B, classes]``, outputs averaged over time, against one-hot targets."""
    return functional.mse_loss(scores, probabilities(targets, scores.shape[1], smoothing))


def bce(logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Binary cross-entropy of the sigmoid of every logit ``[B, classes]``, averaged over samples and classes."""
    return functional.binary_cross_entropy_with_logits(logits, probabilities(targets, logits.shape[1], smoothing))


def tet(step_logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of every step's logits ``[T, B, classes]``, averaged over time (TET, Deng et al., ICLR 2022).

    Without that paper's second term, a pull of all logits to one constant, which SMA and TCJA do not use.
    """
    repeated = targets.repeat(step_logits.shape[0], *[1] * (targets.dim() - 1))
    return functional.cross_entropy(step_logits.flatten(0, 1), repeated, label_smoothing=smoothing)


LOSSES: Mapping[LossName, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "cross-entropy": cross_entropy,
    "mse": mse,
    "bce": bce,
    "tet": tet,
}
PER_STEP = frozenset({"tet"})
"""Losses that take the logits of every step, ``[T, B, classes]``."""


def step_logits(model: nn.Module, clip: torch.Tensor) -> torch.Tensor:
    """Run a network and return, instead of its result, that of which the result is the mean over time.

    Parameters
    ----------
    model : nn.Module
        Maps ``[T, B, C, H, W]`` to ``[B, classes]``.
    clip : torch.Tensor
        ``[T, B, C, H, W]``.

    Returns
    -------
    torch.Tensor
        ``[T, B, classes]``.

    Raises
    ------
    InputError
        The network does not end in a mean over time, as where spikes are averaged before the last layer.
    """
    means = _LastMean()
    with means:
        result: torch.Tensor = model(clip)
    averaged = means.averaged
    if averaged is None or means.mean is not result or averaged.shape != (len(clip), *result.shape):
        raise InputError(
            f"loss 'tet': {type(model).__name__} does not end in a mean over time, so no step has logits of its own; "
            "choose a recipe with another loss"
        )
    return averaged


class _LastMean(TorchFunctionMode):
    """Remembers the last mean that was taken, and of what."""

    def __init__(self) -> None:
        super().__init__()
        self.averaged: torch.Tensor | None = None
        self.mean: torch.Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.mean, torch.Tensor.mean) and args:
            self.averaged, self.mean = args[0], out
        return out
