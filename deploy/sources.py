"""Find what a user names on the command line: a network, its weights, and event data."""

from __future__ import annotations

import importlib
import inspect
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spikefold.converters.capture.forms import as_clip_net
from spikefold.converters.dialects import DIALECTS, ImportedNet, import_nir, open_graph
from spikefold.errors import CaptureError, FileFormatError, InputError
from spikefold.models import EventData, load_npz, load_state_dict_file, saccade_mnist
from spikefold.models.checkpoints import load
from spikefold.models.data import tonic_events
from spikefold.models.weights import misfit

SACCADE_MNIST = "saccade-mnist"
Split = Literal["train", "val", "test"]
MAX_RANDOM_VALUES = 2**28


@dataclass(frozen=True)
class NamedNet:
    """A network in evaluation mode and the name it goes by in tables and files."""

    name: str
    module: nn.Module


def find_net(net: str, checkpoint: str | None = None, time_steps: int | None = None) -> NamedNet:
    """Load a network.

    Parameters
    ----------
    net : str
        A shipped net (``plain``, ``asa``, ``fsta``), a ``.safetensors`` checkpoint that `spikefold train` wrote, or
        ``package.module:builder``, a function or class of the user's that returns an ``nn.Module``, or
        ``FILE.nir@DIALECT``, a NIR file of another program and whose meaning its nodes have
        (`spikefold.converters.dialects`), with its step as ``FILE.nir@DIALECT,dt=SECONDS`` where that is not the usual.
    checkpoint : str, optional
        Weights for a user's builder: a state dict as ``.pt`` or ``.safetensors``.
    time_steps : int, optional
        Handed to a builder that takes ``time_steps``.

    Raises
    ------
    InputError
        Nothing goes by that name.
    FileFormatError
        The checkpoint does not fit, is damaged, or holds numbers that are not finite.
    """
    file, _, dialect = net.rpartition("@") if ".nir@" in net else (net, "", "")
    if file.endswith(".nir"):
        if checkpoint is not None:
            raise InputError(f"--checkpoint {checkpoint}: {file} brings its own weights")
        return NamedNet(Path(file).stem, _import(file, dialect))
    if net.endswith(".net"):
        raise InputError(f"net {net}: is of integers already; export, simulate, energy, map, sweep and info take it")
    if ":" in net and not os.path.exists(net):
        module = _build(net, time_steps)
        if checkpoint is not None:
            _load_weights(module, checkpoint)
        return NamedNet(net.rpartition(":")[0].rpartition(".")[2], as_clip_net(module.eval()))
    if checkpoint is not None:
        raise InputError(f"--checkpoint {checkpoint}: {net} brings its own weights; use it with package.module:builder")
    return NamedNet(Path(net).stem, load(net))


def _import(file: str, said: str) -> nn.Module:
    dialect, _, step = said.partition(",dt=")
    graph = open_graph(file)
    if "spikefold" in graph.metadata:
        raise InputError(f"net {file}: is what spikefold deployed of a net; simulate, energy and map take such files")
    if not dialect:
        raise InputError(
            f"net {file}: was written by another program, and the same file means different things to each; name one "
            f"with --from DIALECT (or {file}@DIALECT): {', '.join(DIALECTS)}"
        )
    try:
        dt = float(step) if step else None
    except ValueError as error:
        raise InputError(f"net {file}@{said}: dt is {step!r}, which is no number of seconds") from error
    return ImportedNet(import_nir(file, dialect, dt)).eval()


def _build(reference: str, time_steps: int | None) -> nn.Module:
    module_name, _, attribute = reference.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        builder: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            builder = getattr(builder, part)
    except (ImportError, AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(f"net {reference!r}: cannot be imported from {os.getcwd()} ({error})") from error
    if isinstance(builder, nn.Module):
        return builder
    if not callable(builder):
        raise InputError(f"net {reference!r}: is a {type(builder).__name__}; name a function that returns an nn.Module")
    takes_time = "time_steps" in inspect.signature(builder).parameters
    arguments: Mapping[str, int] = {"time_steps": time_steps} if takes_time and time_steps is not None else {}
    try:
        built = builder(**arguments)
    except TypeError as error:
        raise InputError(
            f"net {reference!r}: calling it failed ({error}); it may take time_steps and nothing else"
        ) from error
    if not isinstance(built, nn.Module):
        raise InputError(f"net {reference!r}: returned a {type(built).__name__}; it must return an nn.Module")
    return built


def _load_weights(module: nn.Module, checkpoint: str) -> None:
    found = load_state_dict_file(checkpoint)
    wanted = module.state_dict()
    problems = [f"{k} is missing" for k in wanted if k not in found] + [
        f"{k} is not in the net" for k in found if k not in wanted
    ]
    problems += [
        f"{k} has shape {tuple(found[k].shape)}, the net has {tuple(wanted[k].shape)}"
        for k in wanted
        if k in found and found[k].shape != wanted[k].shape
    ]
    problems = problems or [f"{k} {said}" for k in wanted if (said := misfit(found[k], wanted[k])) is not None]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise FileFormatError(f"{checkpoint}: is of another architecture: {'; '.join(problems[:3])}{more}")
    module.load_state_dict(found)


def find_data(data: str, split: Split, limit: int | None = None, time_steps: int | None = None) -> EventData:
    """Load clips, at most ``limit`` of them.

    ``saccade-mnist`` and recordings on disk, such as ``nmnist:FOLDER`` (`spikefold.models.data.tonic_events.parse`),
    have splits; a user's ``.npz`` is read whole.

    Raises
    ------
    InputError
        There is no such data set, T differs from ``time_steps``, or ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"samples is {limit}: at least 1 is needed")
    if time_steps is not None and time_steps < 1:
        raise InputError(f"T = {time_steps}: a clip needs at least 1 time step")
    if data == SACCADE_MNIST:
        digits = saccade_mnist.load_digits(split)
        steps = time_steps or saccade_mnist.TIME_STEPS
        frames = saccade_mnist.encode(digits.images[:limit], time_steps=steps)
        return EventData(frames, digits.labels[:limit])
    recordings = tonic_events.parse(data)
    if recordings is not None:
        return (recordings if time_steps is None else replace(recordings, time_steps=time_steps)).load(split, limit)
    if not data.endswith(".npz"):
        on_disk = ", ".join(f"{name}:FOLDER" for name in tonic_events.NAMES)
        raise InputError(
            f"data {data!r}: give {SACCADE_MNIST}, {on_disk}, or an .npz file with 'frames' [N, T, C, H, W] and "
            "'labels' [N]"
        )
    loaded = load_npz(data)[slice(limit)]
    if time_steps is not None and loaded.frames.shape[1] != time_steps:
        raise InputError(f"{data}: clips have T = {loaded.frames.shape[1]}, but --time-steps is {time_steps}")
    return loaded


def random_events(sample: str, count: int, time_steps: int | None) -> EventData:
    """Random events, one pixel in ten at a step, in clips of a shape such as ``2x34x34``; they have no labels.

    Raises
    ------
    InputError
        The shape is none, or T is not given.
    """
    if re.fullmatch(r"[1-9][0-9]{0,8}(x[1-9][0-9]{0,8}){0,3}", sample) is None:
        raise InputError(f"--sample {sample!r}: give the shape of one step, such as 2x34x34 or 700")
    if time_steps is None:
        raise InputError(f"--sample {sample}: is the shape of one step; give T as --time-steps")
    if count < 1 or time_steps < 1:
        raise InputError(f"{count} samples of T = {time_steps}: at least 1 of each is needed")
    shape = (count, time_steps, *(int(n) for n in sample.split("x")))
    if math.prod(shape) > MAX_RANDOM_VALUES:
        raise InputError(
            f"--sample {sample}: {count} samples of T = {time_steps} are {math.prod(shape)} values; at most "
            f"{MAX_RANDOM_VALUES} are made: ask for fewer samples"
        )
    return EventData((np.random.default_rng(0).random(shape) < 0.1).astype(np.uint8), None)


def has_splits(data: str) -> bool:
    """Whether a named data set keeps training, validation and test samples apart."""
    return data == SACCADE_MNIST or tonic_events.parse(data) is not None


def check_fit(net: NamedNet, clips: NDArray[Any]) -> None:
    """Run one clip through the module, so that a shape that does not fit is said in one clear line."""
    try:
        with torch.no_grad():
            net.module(torch.from_numpy(clips[:, :1]).float())
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CaptureError(
            f"net {net.name!r} cannot run on clips of shape {clips[:, :1].shape} [T, B, C, H, W]: {first}"
        ) from error
