"""Find what a user names on the command line: a network, its weights, and event data."""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spikefold.converters.capture.forms import as_clip_net
from spikefold.converters.dialects import DIALECTS, ImportedNet, import_nir, open_graph
from spikefold.errors import CaptureError, FileFormatError, InputError, SpikefoldWarning
from spikefold.models import EventData, load_npz, load_state_dict_file, saccade_mnist
from spikefold.models.checkpoints import SHIPPED, load
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
    if _is_builder(net):
        module = _build(net, time_steps)
        if checkpoint is not None:
            _load_weights(module, checkpoint)
        else:
            _warn_of_chance(net, module, time_steps)
        return NamedNet(_name(net), as_clip_net(module.eval()))
    if Path(net).suffix in (".pt", ".pth", ".ckpt") or _is_python(net):
        python = _as_module(net) if _is_python(net) else "my_nets"
        raise InputError(
            f"net {net}: for a network of your own name the function that builds it, such as {python}:build, and give "
            "its weights as --checkpoint w.pt"
        )
    if checkpoint is not None:
        raise InputError(f"--checkpoint {checkpoint}: {net} brings its own weights; use it with package.module:builder")
    return NamedNet(Path(net).stem, load(net))


def _name(reference: str) -> str:
    """The module's name, with the builder's where it has another than build: one file may hold several nets."""
    module, _, attribute = reference.partition(":")
    short = module.rpartition(".")[2]
    return short if attribute == "build" else f"{short}-{attribute}"


def _is_python(net: str) -> bool:
    """Whether it is a file of Python, or the name that one here is imported by."""
    return net not in SHIPPED and os.path.isfile(f"{_as_module(net).replace('.', os.sep)}.py")


def _as_module(file: str) -> str:
    return file.removeprefix("./").removesuffix(".py").replace(os.sep, ".")


def find_nets(nets: Sequence[str], checkpoints: Sequence[str], time_steps: int | None = None) -> list[NamedNet]:
    """Load networks, each builder among them with the next of the checkpoints (or all without); see `find_net`.

    Raises
    ------
    InputError
        There are not as many checkpoints as builders, or two nets go by one name.
    """
    builders = [net for net in nets if _is_builder(net)]
    if checkpoints and len(checkpoints) != len(builders):
        raise InputError(
            f"{len(checkpoints)} --checkpoint for {len(builders)} package.module:builder among the nets: give each its "
            "own, in the same order"
        )
    weights = iter(checkpoints)
    named = [find_net(net, next(weights, None) if _is_builder(net) else None, time_steps) for net in nets]
    for name, times in Counter(net.name for net in named).items():
        if times > 1:
            raise InputError(f"nets {', '.join(nets)}: {times} go by the name {name}; give their files other names")
    return named


def _is_builder(net: str) -> bool:
    return ":" in net and ".nir@" not in net and not os.path.exists(net)


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
    if module_name.endswith(".py"):
        raise InputError(f"net {reference!r}: write it as Python imports it, {_as_module(module_name)}:{attribute}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        imported = importlib.import_module(module_name)
    except (ImportError, AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise InputError(
            f"net {reference!r}: {module_name} cannot be imported from {os.getcwd()} ({error}); give the command in "
            "the folder where it lies"
        ) from error
    try:
        builder: Any = functools.reduce(getattr, attribute.split("."), imported)
    except AttributeError as error:
        own = [n for n, v in vars(imported).items() if callable(v) and getattr(v, "__module__", "") == module_name]
        raise InputError(
            f"net {reference!r}: {error}; name a function of it that returns an nn.Module, among {', '.join(own)}"
        ) from error
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
            f"net {reference!r}: calling it failed ({error}); name a function that takes nothing, or time_steps alone"
        ) from error
    if not isinstance(built, nn.Module):
        raise InputError(f"net {reference!r}: returned a {type(built).__name__}; it must return an nn.Module")
    return built


def _warn_of_chance(reference: str, module: nn.Module, time_steps: int | None) -> None:
    """Warn where building once more gives other weights: they are random, not trained."""
    built, again = module.state_dict(), _build(reference, time_steps).state_dict()
    if any(k not in again or not torch.equal(v, again[k]) for k, v in built.items()):
        warnings.warn(
            f"net {reference}: has other weights each time it is built, so it is not trained; give its weights as "
            "--checkpoint w.pt",
            SpikefoldWarning,
            stacklevel=3,
        )


def _load_weights(module: nn.Module, checkpoint: str) -> None:
    wanted = module.state_dict()
    found = _without_wrapper(load_state_dict_file(checkpoint), wanted)
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
        raise FileFormatError(
            f"{checkpoint}: is of another architecture: {'; '.join(problems[:3])}{more}; name the builder that it was "
            "trained with"
        )
    module.load_state_dict(found)


def _without_wrapper(found: dict[str, torch.Tensor], wanted: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The same without what a wrapper (DataParallel's ``module.``) put before all names, if they fit then."""
    wrapper = next(iter(found)).partition(".")[0] + "."
    bare = {name.removeprefix(wrapper): tensor for name, tensor in found.items()}
    return bare if set(bare) == set(wanted) else found


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


def check_fit(net: NamedNet, clips: NDArray[Any], data: str) -> None:
    """Run one clip of ``data`` through the module, so that a shape that does not fit is said in one clear line."""
    try:
        with torch.no_grad():
            net.module(torch.from_numpy(clips[:, :1]).float())
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CaptureError(
            f"net {net.name!r} cannot run on clips of {data}, [T, B, C, H, W] = {clips[:, :1].shape}: {first}; give "
            "such as it was trained on as --data, with its T and size"
        ) from error
