"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import lr_scheduler

from spikefold.errors import InputError
from spikefold.models.recipes import Recipe, Schedule

_ONE_CYCLE_RISE = 0.2
"""Share of the steps in which the one-cycle rate rises."""
_PLATEAU_FACTOR, _PLATEAU_PATIENCE = 0.1, 5


def make_optimiser(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimiser of a recipe for a network's parameters.

    LAMB (You et al., ICLR 2020) is not in torch; it comes from the package pytorch-optimizer, in the paper's form,

        u = m / (sqrt(v) + eps) + decay * w,   w <- w - rate * min(|w|, 10) / |u| * u    for each parameter tensor,

    with Adam's moments m and v, not corrected for their start at zero.

    Raises
    ------
    InputError
        The recipe asks for LAMB and pytorch-optimizer is not installed.
    """
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=recipe.momentum, weight_decay=decay)
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    if recipe.optimiser == "nadam":
        return torch.optim.NAdam(parameters, lr=rate, weight_decay=decay, momentum_decay=recipe.momentum_decay)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    try:
        from pytorch_optimizer import Lamb
    except ImportError as error:
        raise InputError(
            "optimiser 'lamb': needs the package pytorch-optimizer; pip install 'spikefold[train]'"
        ) from error
    # Without adam_debias, that package makes the first step ten times as long as the ratio of norms says.
    lamb: torch.optim.Optimizer = Lamb(parameters, lr=rate, weight_decay=decay, weight_decouple=False, adam_debias=True)
    return lamb


def cosine_rate(schedule: Schedule, peak: float, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch, counted from 0.

        warm-up, e < w:    peak * (e + 1) / w
        afterwards:        eta_min + (peak - eta_min) * (1 + cos(pi * (e - w) / (E - w))) / 2

    Parameters
    ----------
    schedule : Schedule
        Holds w (``warm_up``) and ``eta_min``.
    peak : float
        The recipe's learning rate.
    epoch, epochs : int
        e and E.
    """
    warm_up = schedule.warm_up
    if epoch < warm_up:
        return peak * (epoch + 1) / warm_up
    progress = (epoch - warm_up) / max(epochs - warm_up, 1)
    return schedule.eta_min + (peak - schedule.eta_min) * (1.0 + math.cos(math.pi * progress)) / 2.0


class LearningRate:
    """Sets an optimiser's learning rate as training goes on.

    Parameters
    ----------
    recipe : Recipe
        Holds the schedule and the peak rate.
    optimiser : torch.optim.Optimizer
        Its rate is set; one-cycle moves Adam's first beta too, against the rate.
    epochs, steps : int
        Length of the training, and optimiser steps an epoch.
    """

    def __init__(self, recipe: Recipe, optimiser: torch.optim.Optimizer, epochs: int, steps: int) -> None:
        schedule, peak = recipe.schedule, recipe.learning_rate
        self._each_step: lr_scheduler.LRScheduler | None = None
        self._each_epoch: lr_scheduler.LRScheduler | None = None
        self._plateau: lr_scheduler.ReduceLROnPlateau | None = None
        if schedule.kind == "one-cycle":
            self._each_step = lr_scheduler.OneCycleLR(optimiser, peak, epochs * steps, pct_start=_ONE_CYCLE_RISE)
        elif schedule.kind == "cosine":
            self._each_epoch = lr_scheduler.LambdaLR(
                optimiser, lambda epoch: cosine_rate(schedule, peak, epoch, epochs) / peak
            )
        else:
            self._plateau = lr_scheduler.ReduceLROnPlateau(
                optimiser, factor=_PLATEAU_FACTOR, patience=_PLATEAU_PATIENCE
            )

    def after_step(self) -> None:
        """Follow an optimiser step."""
        if self._each_step is not None:
            self._each_step.step()

    def after_epoch(self, loss: float) -> None:
        """Follow an epoch whose mean training loss was ``loss``."""
        if self._each_epoch is not None:
            self._each_epoch.step()
        if self._plateau is not None:
            self._plateau.step(loss)
