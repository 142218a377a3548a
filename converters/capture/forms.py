"""How a module takes its clips: whole, in a loop over steps of its own, or step by step from outside.

Neurons of other frameworks mostly compute one step a call. Which of the ways a module is written in is found by running
it: in each of them its neurons are called so many times on so many samples.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from spikefold.converters.capture.foreign import ForeignNeuron, is_lift, recognise
from spikefold.errors import CaptureError

Kind = Literal["clip", "loop", "step"]
Calls: TypeAlias = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Form:
    """How a module is called.

    ``clip``: its neurons take whole clips. ``loop``: it takes a clip and calls its neurons once a step. ``step``: it
    takes one step ``[B, ...]``. ``batch_first``: its clips are ``[B, T, ...]``.
    """

    kind: Kind
    batch_first: bool = False

    def __str__(self) -> str:
        """How the module is called, in words."""
        shape = "[B, T, ...]" if self.batch_first else "[T, B, ...]"
        return "one step [B, ...]" if self.kind == "step" else f"clips {shape}"


def foreign_neurons(module: nn.Module) -> dict[str, ForeignNeuron]:
    """Neurons of other frameworks in ``module``, by path; CaptureError names one that cannot be said exactly."""
    found: dict[str, ForeignNeuron] = {}
    for path, child in module.named_modules(remove_duplicate=False):
        if hasattr(child, "neuron_spec") or any(path.startswith(f"{outer}.") for outer in found):
            continue
        neuron = recognise(child, path)
        if neuron is not None:
            found[path] = neuron
    return found


def without_state(module: nn.Module) -> nn.Module:
    """A copy of ``module`` whose neurons forgot what they saw; ``module`` itself is left as it is.

    States that hang in an autograd graph, which `copy.deepcopy` refuses, are copied by value.
    """
    held: dict[int, Any] = {}
    for child in module.modules():
        for holder in (child.__dict__, child._buffers, child.__dict__.get("_memories", {})):
            for value in holder.values():
                if isinstance(value, Tensor) and not value.is_leaf:
                    held[id(value)] = value.detach().clone()
    twin = copy.deepcopy(module, held)
    _forget(twin)
    return twin


@dataclass(frozen=True)
class Recorded:
    """What a population is, got and sent: currents and spikes 0/1, ``[T, B, ...]``."""

    neuron: ForeignNeuron
    currents: Tensor
    spikes: Tensor


def _forget(module: nn.Module) -> None:
    for path in foreign_neurons(module):
        neuron: Any = module.get_submodule(path)
        forget: Callable[[], object] | None = getattr(neuron, "reset_mem", getattr(neuron, "reset", None))
        if forget is not None:
            forget()


class ClipNet(nn.Module):
    """A net with neurons of another framework, called as one of ours: on clips ``[T, B, ...]``, without a memory.

    It answers with one tensor: output spikes or logits of all steps ``[T, B, ...]``, or what ``net`` made of them.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.forms: dict[tuple[int, ...], Form] = {}

    def forward(self, clips: Tensor) -> Tensor:
        """Run ``net`` on clips in the way it is written for."""
        return self.recorded(clips)[0]

    def recorded(self, clips: Tensor) -> tuple[Tensor, dict[str, Recorded]]:
        """The answer, and what the neurons of each population got and sent, ``[T, B, ...]``, by its name."""
        shape = (clips.shape[0], *clips.shape[2:])
        neurons = foreign_neurons(self.net)
        if shape not in self.forms:
            self.forms[shape] = find_form(self.net, neurons, tuple(clips.shape))
        form = self.forms[shape]
        _forget(self.net)
        with watched(self.net, neurons) as calls:
            answer = run_form(self.net, form, clips)
        swapped = form.batch_first and answer.shape[:2] == clips.shape[1::-1]
        return answer.transpose(0, 1) if swapped else answer, by_population(neurons, calls, len(clips))


def as_clip_net(module: nn.Module) -> nn.Module:
    """``module`` itself, or in a `ClipNet` where it has neurons of another framework."""
    return ClipNet(module).train(module.training) if foreign_neurons(module) else module


def find_form(module: nn.Module, neurons: Mapping[str, ForeignNeuron], shape: tuple[int, ...]) -> Form:
    """Find how ``module`` takes clips of ``shape`` ``[T, B, *features]`` by running it on blank ones.

    Raises
    ------
    CaptureError
        Neurons of both kinds are mixed, or the module runs in none of the ways.
    """
    lifted = [path for path, child in module.named_modules() if is_lift(child)]
    stepped = [p for p, n in neurons.items() if n.per_step and not any(p.startswith(f"{o}.") for o in lifted)]
    whole = [path for path, child in module.named_modules() if hasattr(child, "neuron_spec")]
    whole += [path for path, neuron in neurons.items() if not neuron.per_step]
    if stepped and whole:
        raise CaptureError(f"{stepped[0]} takes one step a call and {whole[0]} whole clips: use one kind throughout")
    kinds: tuple[Kind, ...] = ("loop", "step") if stepped else ("clip",)
    steps, batch = shape[0], 2 if shape[0] != 2 else 3
    clip = torch.zeros(steps, batch, *shape[2:], dtype=float_type(module))
    troubles = []
    for form in (Form(k, first) for k in kinds for first in ((False,) if k == "step" else (False, True))):
        twin = without_state(module)
        with watched(twin, neurons) as calls:
            try:
                run_form(twin, form, clip)
            except Exception as error:
                troubles.append(f"on {form}: {(str(error).strip() or type(error).__name__).splitlines()[0]}")
                continue
        if all(_as_meant(neurons[path], calls[path], steps, batch) for path in neurons):
            return form
        troubles.append(f"on {form}: its neurons saw other steps and samples than those")
    raise CaptureError(
        f"{type(module).__name__} runs on clips of shape {tuple(clip.shape)} [T, B, *features] in none of the ways a "
        f"net is written in; {'; '.join(troubles)}"
    )


def float_type(module: nn.Module) -> torch.dtype:
    """The dtype of the weights of ``module``, and of the clips it takes."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def unwrapped(module: nn.Module) -> nn.Module:
    """The net in a `ClipNet`, or ``module`` itself."""
    return module.net if isinstance(module, ClipNet) else module


def _as_meant(neuron: ForeignNeuron, calls: Calls, steps: int, batch: int) -> bool:
    """Whether neurons were called once a step (or several times, in several places), or on the whole clip."""
    if not neuron.per_step:
        return all(tuple(c.shape[:2]) == (steps, batch) for c, _ in calls)
    return len(calls) % steps == 0 and all(c.shape[0] == batch for c, _ in calls)


def by_population(neurons: Mapping[str, ForeignNeuron], calls: Mapping[str, Calls], steps: int) -> dict[str, Recorded]:
    """The calls of neuron modules by population: each place in a step where a module is called is one."""
    found: dict[str, Recorded] = {}
    for path, neuron in neurons.items():
        each = len(calls[path]) // steps if neuron.per_step else len(calls[path])
        for place in range(each):
            made = calls[path][place::each]
            got, sent = (torch.stack(part) if neuron.per_step else part[0] for part in zip(*made, strict=True))
            found[path.replace(".", "_") + (f"_{place + 1}" if place else "")] = Recorded(neuron, got, sent)
    return found


@contextmanager
def watched(module: nn.Module, neurons: Mapping[str, ForeignNeuron]) -> Iterator[dict[str, Calls]]:
    """The currents that each of ``neurons`` gets and the spikes 0/1 it sends, call by call, while the block runs.

    They are passed on in the dtype of the current: snnTorch sends float32 whatever it gets.
    """
    calls: dict[str, Calls] = {path: [] for path in neurons}

    def keep(path: str) -> Callable[..., Any]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], out: Any) -> Any:
            sent = (out[0] if isinstance(out, tuple) else out).to(inputs[0].dtype)
            calls[path].append((inputs[0], sent / neurons[path].height))
            return (sent, *out[1:]) if isinstance(out, tuple) else sent

        return hook

    handles = [module.get_submodule(path).register_forward_hook(keep(path)) for path in neurons]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def run_form(module: nn.Module, form: Form, clip: Tensor) -> Tensor:
    """What ``module`` answers to ``clip`` ``[T, B, ...]``; one that takes steps, all its answers ``[T, B, ...]``."""
    with torch.no_grad():
        if form.kind != "step":
            return first_tensor(module(clip.transpose(0, 1) if form.batch_first else clip))
        takes = len(inspect.signature(module.forward).parameters) - 1
        states: tuple[Any, ...] = ()
        answers = []
        for step in clip:
            out = module(step, *states)
            answers.append(first_tensor(out))
            if isinstance(out, tuple) and len(out) - 1 <= takes:
                states = out[1:]
        return torch.stack(answers)


def first_tensor(out: Any) -> Tensor:
    """The answer among what a module returns: a tensor, or the first of a tuple, the others being states."""
    while isinstance(out, (tuple, list)) and len(out) > 0:
        out = out[0]
    if not isinstance(out, Tensor):
        raise CaptureError(f"the module returns a {type(out).__name__}: return the logits or the output spikes")
    return out
