"""Fine-tune a lowered net: train the integers themselves, to win back what lowering and quantising lost."""

from __future__ import annotations

import importlib.metadata
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.lower import Attention, lower
from spikefold.converters.trainable import TrainableNet
from spikefold.deploy.commands import Report, write_net
from spikefold.deploy.run import run
from spikefold.deploy.sources import NamedNet, check_fit, find_data, find_net, has_splits
from spikefold.errors import InputError
from spikefold.files import check_place
from spikefold.models.data.events import EventData
from spikefold.models.recipes import RECIPES, Recipe
from spikefold.models.training import TrainingData, evaluate, fit, training_data

LEARNING_RATE = 2e-3
"""Chosen on validation clips of saccade-mnist (fsta, static, 3 epochs), where 1e-3 to 4e-3 differ by chance only."""
HELD_OUT = 5
"""One clip in so many, drawn by a fixed seed, is kept from training where the data have no validation clips."""

Accuracy = Mapping[str, float]


@dataclass(frozen=True)
class Finetuned:
    """A tuned net; its ``provenance["finetune"]`` says how it was made.

    ``accuracy`` holds, for "original" (the module), "lowered" (where training started) and "tuned", the accuracy on
    validation and, where there are any, test clips. ``best_epoch`` is 0 where no epoch was better than the start.
    """

    graph: FixedPointGraph
    best_epoch: int
    accuracy: Mapping[str, Accuracy]


def recipe(learning_rate: float) -> Recipe:
    """How integers are tuned: as the shipped networks are trained, with a smaller rate and no weight decay.

    The rate is relative to a layer's largest weight (`spikefold.converters.trainable`).
    """
    return replace(RECIPES["spikefold"], learning_rate=learning_rate, weight_decay=0.0)


def finetune(
    net: nn.Module | NamedNet,
    data: TrainingData,
    test: EventData | None = None,
    mode: Attention = "static",
    bits: int = 8,
    epochs: int = 3,
    seed: int = 0,
    samples: int = 128,
    learning_rate: float = LEARNING_RATE,
    report: Report | None = None,
) -> Finetuned:
    """Lower a net and train its integers.

    Parameters
    ----------
    net : nn.Module or NamedNet
        The trained module, in evaluation mode; without a name the result is called "net".
    data : TrainingData
        Labelled clips: the first ``samples`` training clips calibrate, all of them train, ``val`` chooses the epoch.
    test : EventData, optional
        Labelled clips that are run once, at the end.
    mode, bits
        See `spikefold.converters.lower.lower`. A gate that ``mode`` keeps stays as it was calibrated.
    epochs, seed, learning_rate
        Of the training; the seed decides order and augmentation.
    report : callable, optional
        Told what happens now; with it, training shows a progress bar.

    Raises
    ------
    InputError
        ``epochs`` is below 1, the rate not above 0, or clips have no labels.
    LoweringError
        The net has no such form, or training diverged.
    """
    if epochs < 1:
        raise InputError(f"epochs = {epochs}: must be at least 1")
    net = net if isinstance(net, NamedNet) else NamedNet("net", net)
    chosen = recipe(learning_rate)
    tell = report if report is not None else _silent
    time_steps, classes = data.train.frames.shape[1], 1 + int(_labels(data.train).max())
    clips = data.train.clips(samples)
    check_fit(net, clips, "the training data")
    tell(f"capturing, calibrating on {clips.shape[1]} training samples and quantising")
    graph = capture(net.module, torch.from_numpy(clips[:, :1]))
    lowered = lower(graph, clips, mode, cast(Literal[8], bits), net.name)  # other widths are refused there
    trained = TrainableNet(lowered, time_steps)
    original, before = evaluate(net.module, data.val), _accuracy(lowered, data.val)
    tell(f"validation accuracy {original:.1%} as trained, {before:.1%} lowered")
    result = fit(trained, data, chosen, epochs, seed, classes, net.name if report is not None else None)
    tuned, best_epoch = trained.to_graph(), result.best_epoch
    if result.val_accuracy < before:
        tuned, best_epoch = lowered, 0
    after = _accuracy(tuned, data.val)
    accuracy = {"original": {"val": original}, "lowered": {"val": before}, "tuned": {"val": after}}
    if test is not None:
        tell("running the test clips, once")
        accuracy["original"]["test"] = evaluate(net.module, test)
        accuracy["lowered"]["test"] = _accuracy(lowered, test)
        accuracy["tuned"]["test"] = _accuracy(tuned, test)
    making = {
        "epochs": epochs, "best_epoch": best_epoch, "seed": seed, "learning_rate": learning_rate,
        "accuracy": accuracy,
    }  # fmt: skip
    return Finetuned(replace(tuned, provenance={**lowered.provenance, "finetune": making}), best_epoch, accuracy)


def finetune_net(
    net: str, checkpoint: str | None, data: str, mode: Attention, bits: int, epochs: int, seed: int, samples: int,
    learning_rate: float | None, out: Path | None, report: Report | None,
) -> dict[str, Any]:  # fmt: skip
    """Find net and data by name, fine-tune and write what `spikefold export` writes, the ``.nir`` at ``out``.

    Its metadata say how to make it again.
    """
    if out is not None:
        out = out if out.suffix == ".nir" else out.with_name(f"{out.name}.nir")
        check_place(out)
    clips, test, source = _find_clips(data)
    named = find_net(net, checkpoint, clips.train.frames.shape[1])
    rate = LEARNING_RATE if learning_rate is None else learning_rate
    done = finetune(named, clips, test, mode, bits, epochs, seed, samples, rate, report)
    stem = named.name if done.graph.attention == "none" else f"{named.name}-{mode}"
    path = out if out is not None else Path(f"{stem}-tuned.nir")
    words = ["spikefold", "finetune", net if ":" in net else Path(net).name]
    if checkpoint is not None:
        words += ["--checkpoint", Path(checkpoint).name]
    words += ["--mode", mode, "--bits", str(bits), "--data", source, "--epochs", str(epochs), "--seed", str(seed)]
    words += ["--samples", str(samples), "--learning-rate", f"{rate:g}", "--out", path.name]
    versions = {package: importlib.metadata.version(package) for package in ("spikefold", "torch", "numpy")}
    making = {**done.graph.provenance["finetune"], "command": shlex.join(words), "versions": versions}
    graph = replace(done.graph, provenance={**done.graph.provenance, "finetune": making})
    files = {kind: str(file) for kind, file in write_net(graph, path.with_suffix("")).items()}
    return {"out": str(path), "files": files, "attention": graph.attention, **making}


def _find_clips(data: str) -> tuple[TrainingData, EventData | None, str]:
    """Training and validation clips, test clips if there are any, and the name of the data without anyone's paths."""
    if has_splits(data):
        name, colon, _ = data.partition(":")
        return training_data(data), find_data(data, "test"), f"{name}:FOLDER" if colon else name
    whole = find_data(data, "train")
    if len(whole) < 2:
        raise InputError(f"{data}: holds {len(whole)} clip; tuning needs some to train on and some to choose the epoch")
    order = np.random.default_rng(0).permutation(len(whole))
    held = -(-len(whole) // HELD_OUT)
    return TrainingData(whole[np.sort(order[held:])], whole[np.sort(order[:held])]), None, Path(data).name


def _accuracy(graph: FixedPointGraph, data: EventData) -> float:
    return run(graph, data.clips()).accuracy(_labels(data))


def _labels(data: EventData) -> NDArray[np.int64]:
    if data.labels is None:
        raise InputError("labels: none; tuning needs labelled clips")
    return data.labels


def _silent(line: str) -> None:
    return None
