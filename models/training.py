"""Training of the named networks."""

from __future__ import annotations

import copy
import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.nn import functional

from spikefold.errors import InputError
from spikefold.models.checkpoint import CheckpointMeta, save_checkpoint
from spikefold.models.data import saccade_mnist
from spikefold.models.data.events import EventData
from spikefold.models.registry import SHORT_NAMES, build, full_name

DATA_NAMES = ("saccade-mnist",)
_BATCH = 25
_WEIGHT_DECAY = 1e-3


@dataclass(frozen=True)
class TrainingData:
    """What a network learns from.

    Attributes
    ----------
    train, val : EventData
        Labelled clips; ``val`` chooses the epoch.
    augment : callable, optional
        ``augment(positions, generator)`` returns new frames ``[n, T, C, H, W]`` for those training clips.
    """

    train: EventData
    val: EventData
    augment: Callable[[NDArray[np.int64], torch.Generator], NDArray[np.uint8]] | None = None


@dataclass(frozen=True)
class TrainResult:
    """A trained network: weights of the best epoch (counted from 1), in evaluation mode."""

    model: nn.Module
    best_epoch: int
    val_accuracy: float
    losses: tuple[float, ...]
    val_accuracies: tuple[float, ...]


def training_data(name: str, size: int = 32, time_steps: int = saccade_mnist.TIME_STEPS) -> TrainingData:
    """Return a named data set; its digits are warped and filmed anew in every epoch."""
    if name not in DATA_NAMES:
        raise InputError(f"data {name!r}: no such data set; choose one of {', '.join(DATA_NAMES)}")
    digits = saccade_mnist.load_digits("train").images

    def augment(positions: NDArray[np.int64], generator: torch.Generator) -> NDArray[np.uint8]:
        return saccade_mnist.encode(saccade_mnist.warp(digits[positions], generator), size, time_steps)

    train, val = (saccade_mnist.load(split, size, time_steps) for split in ("train", "val"))
    return TrainingData(train, val, augment)


def train(
    model_name: str, data: TrainingData, epochs: int, seed: int, learning_rate: float = 3e-3, progress: bool = True
) -> TrainResult:
    """Train a named network: AdamW, one-cycle learning rate, cross-entropy of the time-averaged logits.

    Parameters
    ----------
    model_name : str
        See `spikefold.models.build`.
    data : TrainingData
        Labelled clips with labels 0..classes-1.
    epochs, seed : int
        Passes over the training clips, and the seed of weights, order and augmentation.
    learning_rate : float
        Peak of the schedule.
    progress : bool
        Show a progress bar and one line an epoch.
    """
    if epochs < 1:
        raise InputError(f"epochs = {epochs}: must be at least 1")
    labels = _labels(data.train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(model_name, **build_arguments(data.train))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on CPUs
    generator = torch.Generator().manual_seed(seed)
    steps = -(-len(labels) // _BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, epochs * steps, pct_start=0.2)
    best, best_epoch = copy.deepcopy(model.state_dict()), 0
    losses: list[float] = []
    accuracies: list[float] = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task(full_name(model_name), total=epochs * steps)
        for epoch in range(1, epochs + 1):
            model.train()
            total = 0.0
            order = torch.randperm(len(labels), generator=generator).numpy()
            for positions in np.array_split(order, steps):
                frames = data.augment(positions, generator) if data.augment else data.train.frames[positions]
                logits = model(EventData(frames).clip())
                loss = functional.cross_entropy(logits, torch.from_numpy(labels[positions]))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                total += loss.item() * len(positions)
                bar.advance(task)
            losses.append(total / len(labels))
            accuracies.append(evaluate(model, data.val))
            if accuracies[-1] == max(accuracies):
                best, best_epoch = copy.deepcopy(model.state_dict()), epoch
            bar.console.print(f"epoch {epoch}: loss {losses[-1]:.4f}, validation accuracy {accuracies[-1]:.4f}")
    model.load_state_dict(best)
    return TrainResult(model.eval(), best_epoch, max(accuracies), tuple(losses), tuple(accuracies))


def evaluate(model: nn.Module, data: EventData) -> float:
    """Return the share of labelled clips that a network, in evaluation mode, classifies rightly."""
    labels = _labels(data)
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(data), _BATCH):
            guesses = model(data[start : start + _BATCH].clip()).argmax(1).numpy()
            right += int((guesses == labels[start : start + _BATCH]).sum())
    return right / len(data)


def train_checkpoint(
    name: str, data_name: str, epochs: int, seed: int, out: str | os.PathLike[str], progress: bool = True
) -> CheckpointMeta:
    """Train a network, choose the epoch on validation clips, run the test clips once and write the checkpoint.

    This is what ``spikefold train`` does; the header of the file holds that command line.
    """
    data = training_data(data_name)
    result = train(name, data, epochs, seed, progress=progress)
    model_name = full_name(name)
    short = next(short for short, registered in SHORT_NAMES.items() if registered == model_name)
    meta = CheckpointMeta(
        model=model_name,
        build=build_arguments(data.train),
        data=data_name,
        seed=seed,
        epochs=epochs,
        best_epoch=result.best_epoch,
        accuracy={"val": result.val_accuracy, "test": evaluate(result.model, saccade_mnist.load("test"))},
        command=f"spikefold train {short} --data {data_name} --epochs {epochs} --seed {seed} --out {short}.safetensors",
        versions={package: importlib.metadata.version(package) for package in ("spikefold", "torch", "numpy")},
    )
    save_checkpoint(out, result.model, meta)
    return meta


def build_arguments(data: EventData) -> dict[str, int]:
    """Return the arguments of `spikefold.models.build` that fit labelled clips."""
    _, time_steps, channels, height, width = data.frames.shape
    if height != width:
        raise InputError(f"frames: {height} x {width} pixels; the networks take square frames")
    classes = int(_labels(data).max()) + 1
    return {"in_channels": channels, "time_steps": time_steps, "num_classes": classes, "input_size": height}


def _labels(data: EventData) -> NDArray[np.int64]:
    if data.labels is None:
        raise InputError("labels: none; training and accuracy need labelled clips")
    return data.labels
