"""Training of the named networks."""

from __future__ import annotations

import copy
import importlib.metadata
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from spikefold.errors import InputError
from spikefold.files import check_place
from spikefold.models.augment import mixup
from spikefold.models.checkpoint import CheckpointMeta, save_checkpoint
from spikefold.models.data import saccade_mnist, tonic_events
from spikefold.models.data.events import EventData
from spikefold.models.losses import LOSSES, PER_STEP, probabilities, step_logits
from spikefold.models.optimisers import LearningRate, make_optimiser
from spikefold.models.recipes import RECIPES, Recipe, recipe_named
from spikefold.models.registry import ENTRIES, SHORT_NAMES, build, full_name
from spikefold.models.systems.entry import Option

DEFAULT_RECIPE = "spikefold"
_EVALUATION_BATCH = 25
_SACCADE_MNIST = "saccade-mnist"


@dataclass(frozen=True)
class TrainingData:
    """What a network learns from.

    Attributes
    ----------
    train, val : EventData
        Labelled clips; ``val`` chooses the epoch.
    augment : callable, optional
        ``augment(positions, generator)`` returns new frames ``[n, T, C, H, W]`` for those training clips; used by
        recipes that ask for it (``refilm``).
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


def training_data(name: str) -> TrainingData:
    """Return training and validation clips of a named data set.

    Parameters
    ----------
    name : str
        ``saccade-mnist``, whose digits can be warped and filmed anew, or recordings on disk such as
        ``nmnist:FOLDER`` (`spikefold.models.data.tonic_events.parse`).
    """
    film = partial(_film, saccade_mnist.load_digits("train").images) if name == _SACCADE_MNIST else None
    return TrainingData(_clips(name, "train"), _clips(name, "val"), film)


def _clips(name: str, split: saccade_mnist.Split) -> EventData:
    if name == _SACCADE_MNIST:
        return saccade_mnist.load(split)
    recordings = tonic_events.parse(name)
    if recordings is None:
        on_disk = ", ".join(f"{known}:FOLDER" for known in tonic_events.NAMES)
        raise InputError(f"data {name!r}: no such data set; choose one of {_SACCADE_MNIST}, {on_disk}")
    return recordings.load(split)


def _film(digits: NDArray[np.uint8], positions: NDArray[np.int64], generator: torch.Generator) -> NDArray[np.uint8]:
    """Warp some digits of saccade-mnist and film them."""
    return saccade_mnist.encode(saccade_mnist.warp(digits[positions], generator))


def train(
    model_name: str,
    data: TrainingData,
    epochs: int | None = None,
    seed: int = 0,
    progress: bool = True,
    options: Mapping[str, Option] | None = None,
    recipe: Recipe = RECIPES[DEFAULT_RECIPE],
) -> TrainResult:
    """Train a named network by a recipe; the epoch with the best validation accuracy, the last of equals, is kept.

    Parameters
    ----------
    model_name : str
        See `spikefold.models.build`.
    data : TrainingData
        Labelled clips with labels 0..classes-1.
    epochs : int, optional
        Passes over the training clips; without it, the recipe's.
    seed : int
        Of weights, order, augmentation and dropout. The same seed gives the same weights on the same machine.
    progress : bool
        Show a progress bar and one line an epoch.
    options : mapping, optional
        Options of the network, such as ``width``; see `spikefold.models.build`. They go before the recipe's.
    recipe : Recipe
        Optimiser, schedule, loss and augmentation.
    """
    epochs = recipe.epochs if epochs is None else epochs
    if epochs < 1:
        raise InputError(f"epochs = {epochs}: must be at least 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _train(model_name, data, epochs, seed, progress, options, recipe)


def _train(
    model_name: str,
    data: TrainingData,
    epochs: int,
    seed: int,
    progress: bool,
    options: Mapping[str, Option] | None,
    recipe: Recipe,
) -> TrainResult:
    arguments = _arguments(model_name, data.train, options, recipe)
    model = build(model_name, **arguments)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on CPUs
    shown = full_name(model_name) if progress else None
    cut = replace(data, val=first_steps(data.val, arguments["time_steps"]))
    return fit(model, cut, recipe, epochs, seed, arguments["num_classes"], shown)


def fit(
    model: nn.Module, data: TrainingData, recipe: Recipe, epochs: int, seed: int, classes: int, shown: str | None
) -> TrainResult:
    """Train the parameters of ``model``; the epoch is chosen as in `train`.

    ``classes`` is the number of labels, ``shown`` the name on the progress bar; None shows nothing.
    """
    batches = _Batches(data, recipe, classes, seed)
    optimiser = make_optimiser(recipe, model.parameters())
    rate = LearningRate(recipe, optimiser, epochs, batches.steps)
    best, best_epoch = copy.deepcopy(model.state_dict()), 0
    losses: list[float] = []
    accuracies: list[float] = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, disable=shown is None) as bar:
        task = bar.add_task(shown or "", total=epochs * batches.steps)
        for epoch in range(1, epochs + 1):
            model.train()
            total = 0.0
            for clip, targets in batches.epoch():
                loss = loss_of(recipe, model, clip, targets)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                rate.after_step()
                total += loss.item() * len(targets)
                bar.advance(task)
            losses.append(total / len(data.train))
            rate.after_epoch(losses[-1])
            accuracies.append(evaluate(model, data.val))
            if accuracies[-1] == max(accuracies):
                best, best_epoch = copy.deepcopy(model.state_dict()), epoch
            if shown is not None:
                bar.console.print(f"epoch {epoch}: loss {losses[-1]:.4f}, validation accuracy {accuracies[-1]:.4f}")
    model.load_state_dict(best)
    return TrainResult(model.eval(), best_epoch, max(accuracies), tuple(losses), tuple(accuracies))


def loss_of(recipe: Recipe, model: nn.Module, clip: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return a recipe's loss of a network on clips ``[T, B, C, H, W]``, given labels or probabilities."""
    outputs = step_logits(model, clip) if recipe.loss in PER_STEP else model(clip)
    return LOSSES[recipe.loss](outputs, targets, recipe.label_smoothing)


class _Batches:
    """The batches of every epoch: shuffled, made anew and changed as the recipe says."""

    def __init__(self, data: TrainingData, recipe: Recipe, classes: int, seed: int) -> None:
        self.steps = -(-len(data.train) // recipe.batch_size)
        self._data = data
        self._labels = _labels(data.train)
        self._augmentation = recipe.augmentation
        self._classes = classes
        self._generator = torch.Generator().manual_seed(seed)
        self._random = np.random.default_rng(seed)

    def epoch(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield clips ``[T, B, C, H, W]`` with labels ``[B]``, or with probabilities where clips are mixed."""
        order = torch.randperm(len(self._labels), generator=self._generator).numpy()
        for positions in np.array_split(order, self.steps):
            frames = self._augmentation.change(self._frames(positions), self._random)
            clip, targets = EventData(frames).clip(), torch.from_numpy(self._labels[positions])
            if self._augmentation.mixup:
                mixed = probabilities(targets, self._classes)
                clip, targets = mixup(clip, mixed, self._augmentation.mixup, self._random)
            yield clip, targets

    def _frames(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        if self._augmentation.refilm and self._data.augment is not None:
            return self._data.augment(positions, self._generator)
        return self._data.train.frames[positions]


def evaluate(model: nn.Module, data: EventData) -> float:
    """Return the share of labelled clips that a network, in evaluation mode, classifies rightly."""
    labels = _labels(data)
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(data), _EVALUATION_BATCH):
            guesses = model(data[start : start + _EVALUATION_BATCH].clip()).argmax(1).numpy()
            right += int((guesses == labels[start : start + _EVALUATION_BATCH]).sum())
    return right / len(data)


def train_checkpoint(
    name: str,
    data_name: str,
    epochs: int | None,
    seed: int,
    out: str | os.PathLike[str],
    progress: bool = True,
    options: Mapping[str, Option] | None = None,
    recipe: str = DEFAULT_RECIPE,
) -> CheckpointMeta:
    """Train a network, choose the epoch on validation clips, run the test clips once and write the checkpoint.

    This is what ``spikefold train`` does; the header of the file holds that command line. ``recipe`` is a name of
    `spikefold.models.recipes.RECIPES`; the rest as for `train`.
    """
    check_place(out)
    chosen = recipe_named(recipe)
    epochs = chosen.epochs if epochs is None else epochs
    data = training_data(data_name)
    result = train(name, data, epochs, seed, progress, options, chosen)
    arguments = _arguments(name, data.train, options, chosen)
    model_name = full_name(name)
    short = next((short for short, registered in SHORT_NAMES.items() if registered == model_name), model_name)
    source = data_name if data_name == _SACCADE_MNIST else f"{data_name.partition(':')[0]}:FOLDER"  # no one's paths
    words = ["spikefold", "train", short, "--data", source, "--epochs", str(epochs), "--seed", str(seed)]
    if recipe != DEFAULT_RECIPE:
        words += ["--recipe", recipe]
    for option, value in (options or {}).items():
        words += ["--option", f"{option}={value}"]
    words += ["--out", f"{short}.safetensors"]
    test = first_steps(_clips(data_name, "test"), arguments["time_steps"])
    meta = CheckpointMeta(
        model=model_name,
        build=arguments,
        data=source,
        seed=seed,
        epochs=epochs,
        best_epoch=result.best_epoch,
        accuracy={"val": result.val_accuracy, "test": evaluate(result.model, test)},
        command=shlex.join(words),
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


def first_steps(data: EventData, time_steps: int) -> EventData:
    """Return clips cut after their first ``time_steps`` frames."""
    return EventData(data.frames[:, :time_steps], data.labels)


def _arguments(
    model_name: str, data: EventData, options: Mapping[str, Option] | None, recipe: Recipe
) -> dict[str, Any]:
    """Return the arguments of `build`: from the data, the recipe and the user, each going before the former."""
    arguments: dict[str, Any] = dict(build_arguments(data))
    if recipe.augmentation.time_crop:
        arguments["time_steps"] = min(arguments["time_steps"], recipe.augmentation.time_crop)
    given = dict(options or {})
    for size, value in arguments.items():
        wanted = given.get(size, value)
        if wanted != value and not (size == "num_classes" and wanted > value):
            raise InputError(f"{size} = {wanted}: the clips have {value}; leave it out")
    known = ENTRIES[full_name(model_name)].options()
    arguments |= {option: value for option, value in recipe.build.items() if option in known}
    return arguments | given


def _labels(data: EventData) -> NDArray[np.int64]:
    if data.labels is None:
        raise InputError("labels: none; training and accuracy need labelled clips")
    return data.labels
