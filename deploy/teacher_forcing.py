"""Folded float net against the trained module, each layer and step on its own.

The module runs in float64 and its neurons are recorded. Each captured population then gets the module's own spikes from
its sources and resets where the module resets, so that no difference is carried on. Relays are no neurons of the module
and are compared with nothing: what they send is bounded, and the bound goes on to the layers behind. A float net can
flip a spike by rounding alone; what is asked is that every membrane lies as near as rounding explains
(`spikefold.deploy.rounding`), and that every flipped spike belongs to a membrane that near to its threshold.

The bounds are proved; the differences and distances are measured.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikefold.converters.calibrate import batches
from spikefold.converters.capture.forms import ClipNet
from spikefold.converters.capture.network import INPUT, OUTPUT, READOUT
from spikefold.converters.capture.values import NeuronArrays
from spikefold.converters.float_graph import FloatNet, FloatPopulation
from spikefold.deploy.rounding import (
    U32,
    Bounded,
    bounded_current,
    bounded_gated,
    bounded_message,
    exactly,
    gamma,
    membrane_error,
)
from spikefold.errors import InputError
from spikefold.models.lif import NeuronSpec

BATCH = 8


@dataclass(frozen=True)
class Recording:
    """What the neurons of a module got and sent, by population name, and what the module returned."""

    specs: dict[str, NeuronSpec | NeuronArrays]
    currents: dict[str, Tensor]
    spikes: dict[str, Tensor]
    output: Tensor


@dataclass(frozen=True)
class LayerFolding:
    """One population against its module; for a readout, the logits instead of membranes.

    Attributes
    ----------
    neuron_steps : int
        Membranes (or logits) compared.
    flips, flips_outside : int
        Spikes that differ, and those of them whose membrane is farther from the threshold than rounding explains.
    flip_distance, flip_bound : float
        Largest ``|v - theta|`` among the flips, and the bound at that place.
    largest_difference, largest_bound, mean_bound : float
        Of the membranes, over all neurons and steps.
    largest_share : float
        Largest difference in units of its own bound: at most 1 where the folding is right.
    outside : int
        Membranes that differ by more than their bound.
    undecided : int
        Entries of selections by rank, in gates of this layer and of relays before it, that rounding might change;
        bounds behind them are wide.
    """

    name: str
    fires: bool
    gated: bool
    neuron_steps: int
    flips: int
    flips_outside: int
    flip_distance: float
    flip_bound: float
    largest_difference: float
    largest_bound: float
    mean_bound: float
    largest_share: float
    outside: int
    undecided: int

    @property
    def within_bound(self) -> bool:
        """Whether rounding explains every difference."""
        return self.outside == 0 and self.flips_outside == 0


@dataclass(frozen=True)
class Folding:
    """All layers of a folded net against its module, and, as information, both in float32.

    ``float32_flips`` of ``float32_spikes`` differ where the two run freely in float32, differences carried on;
    ``float32_predictions`` of ``samples`` predictions change.
    """

    layers: tuple[LayerFolding, ...]
    samples: int
    float32_flips: int
    float32_spikes: int
    float32_predictions: int

    @property
    def within_bound(self) -> bool:
        """Whether rounding explains every difference of every layer."""
        return all(layer.within_bound for layer in self.layers)

    @property
    def flips(self) -> int:
        """Spikes that differ in float64."""
        return sum(layer.flips for layer in self.layers)

    @property
    def neuron_steps(self) -> int:
        """Spikes compared in float64."""
        return sum(layer.neuron_steps for layer in self.layers if layer.fires)


def check_folding(module: nn.Module, net: FloatNet, clips: NDArray[np.generic]) -> Folding:
    """Compare ``net``, captured from ``module``, with it on clips ``[T, B, *input_shape]``.

    Raises
    ------
    InputError
        The module cannot run in float64, or its neurons are not those of the net.
    """
    if hasattr(module, "nir_graph"):  # it is the float net itself: nothing was folded
        return Folding((), int(clips.shape[1]), 0, 0, 0)
    fine, coarse = (copy.deepcopy(module).to("cpu", dtype) for dtype in (torch.float64, torch.float32))
    found: dict[str, LayerFolding] = {}
    flips = spikes = predictions = 0
    with torch.no_grad():
        for batch in batches(clips, BATCH):
            real = torch.from_numpy(np.ascontiguousarray(batch))
            for layer in _teacher_forced(net, record(fine, real.double()), real.double()):
                found[layer.name] = _join(found[layer.name], layer) if layer.name in found else layer
            recording = record(coarse, real.float())
            logits, trains = net.run(real.float())
            for name, train in recording.spikes.items():
                flips += int((train.reshape(trains[name].shape) != trains[name]).sum())
                spikes += train.numel()
            predictions += int((logits.argmax(1) != module_logits(recording, logits).argmax(1)).sum())
    return Folding(tuple(found.values()), int(clips.shape[1]), flips, spikes, predictions)


def record(module: nn.Module, clips: Tensor) -> Recording:
    """Run ``module`` on clips ``[T, B, *input_shape]`` and keep what each neuron module got and sent.

    Populations are named as `spikefold.converters.capture` names them: the path of the module, dots as underscores.
    """
    if isinstance(module, ClipNet):
        output, found = module.recorded(clips)
        specs = {name: r.neuron.spec for name, r in found.items()}
        currents, sent = ({n: getattr(r, field) for n, r in found.items()} for field in ("currents", "spikes"))
        return Recording(specs, currents, sent, output)
    result = Recording({}, {}, {}, clips)

    def hook(path: str, spec: NeuronSpec) -> Callable[[nn.Module, tuple[Any, ...], Any], Tensor]:
        def keep(_: nn.Module, arguments: tuple[Any, ...], sent: Any) -> Tensor:
            base = path.replace(".", "_")
            taken = {INPUT, OUTPUT, READOUT, *result.specs}
            name = next(
                n for n in itertools.chain([base], (f"{base}_{i}" for i in itertools.count(2))) if n not in taken
            )
            got = arguments[0] if arguments else None
            if not isinstance(got, Tensor) or not isinstance(sent, Tensor) or got.dtype != clips.dtype:
                kind = got.dtype if isinstance(got, Tensor) else type(got).__name__
                raise InputError(
                    f"neurons {path!r} get {kind} and send {type(sent).__name__}; comparing needs one tensor each, "
                    f"{clips.dtype} where the module runs in it: leave dtypes in forward to torch"
                )
            result.specs[name], result.currents[name] = spec, got
            result.spikes[name] = sent.to(clips.dtype)
            return result.spikes[name]

        return keep

    handles = []
    outer: list[str] = []
    for path, child in module.named_modules():
        spec = getattr(child, "neuron_spec", None)
        if spec is None or any(path.startswith(f"{o}.") for o in outer):
            continue
        outer.append(path)
        handles.append(child.register_forward_hook(hook(path, spec())))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a user's module may warn; the run that matters to them is not this one
            output = module(clips)
    except RuntimeError as error:
        raise InputError(
            f"{type(module).__name__} cannot run on clips {tuple(clips.shape)} in {clips.dtype}: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    output = output[0] if isinstance(output, (tuple, list)) else output
    return replace(result, output=output)


def module_logits(recording: Recording, like: Tensor) -> Tensor:
    """What the module returned, as logits of the shape ``[B, classes]`` of ``like``; output spikes are averaged."""
    output = recording.output
    return (output if output.numel() == like.numel() else output.mean(0)).reshape(like.shape)


def _teacher_forced(net: FloatNet, recording: Recording, clips: Tensor) -> Iterable[LayerFolding]:
    steps, batch = clips.shape[:2]
    firing = [p for p in net.populations if p.fires]
    missing = {p.name for p in firing if not p.logic} ^ set(recording.spikes)
    if missing:
        raise InputError(
            f"neurons {', '.join(sorted(missing))} are in the module or in the captured net but not in both: capture "
            "this very module, and give each place in it a neuron module of its own"
        )
    sent = {INPUT: exactly(clips)}
    for population in net.populations:
        gated = bounded_gated(population.gate, bounded_current(population, sent))
        if population.logic:  # on spikes, no neuron of the module: whole numbers decide it, without rounding
            sent[population.name] = exactly(population.fire(gated.value)[0])
            continue
        if population.relays:
            sent[population.name] = bounded_message(population, gated)
            continue
        if population.is_readout:
            yield _compare_readout(population, gated, recording)
            continue
        teacher = recording.spikes[population.name].reshape(steps, batch, *population.shape)
        sent[population.name], spec = exactly(teacher), recording.specs[population.name]
        spikes, membranes = population.fire(gated.value, teacher)
        own = _unrounded(population, spec)
        _, wanted = own.fire(spec.input_gain * recording.currents[population.name].reshape(teacher.shape), teacher)
        error = membrane_error(own, gated, membranes, teacher)
        flipped = spikes != teacher
        distance = (membranes - torch.as_tensor(population.v_threshold, dtype=torch.float64)).abs()[flipped]
        limit = (error + U32 * torch.as_tensor(own.v_threshold))[flipped]
        worst = int(distance.argmax()) if len(distance) else -1
        yield replace(
            _compare(population, (membranes - wanted).abs(), error, gated.undecided),
            flips=int(flipped.sum()),
            flips_outside=int((distance > limit).sum()),
            flip_distance=float(distance[worst]) if worst >= 0 else 0.0,
            flip_bound=float(limit[worst]) if worst >= 0 else 0.0,
        )


def _unrounded(population: FloatPopulation, spec: NeuronSpec | NeuronArrays) -> FloatPopulation:
    """The neurons with the module's own constants, which folding rounds to float32."""
    exact: dict[str, Any] = {"decay": spec.decay, "current_decay": spec.current_decay}
    threshold = np.full(population.shape, spec.v_threshold)
    reset = np.full(population.shape, spec.v_reset) if np.any(spec.v_reset) else None
    return replace(population, **exact, v_threshold=threshold, v_reset=reset)


def _compare_readout(population: FloatPopulation, gated: Bounded, recording: Recording) -> LayerFolding:
    logits = gated.value.mean(0).flatten(1)
    rounding = 2 * gamma(len(gated.value) + 1) * gated.value.abs().mean(0).flatten(1)
    error = gated.error.mean(0).flatten(1) + rounding
    return _compare(population, (logits - module_logits(recording, logits)).abs(), error, gated.undecided)


def _compare(population: FloatPopulation, difference: Tensor, error: Tensor, undecided: int) -> LayerFolding:
    outside = ~(difference <= error)  # NaN is outside
    share = torch.where(difference > 0, difference / error, 0.0)
    return LayerFolding(
        population.name, population.fires, population.gate is not None, difference.numel(), 0, 0, 0.0, 0.0,
        float(difference.max()), float(error.max()), float(error.mean()), float(share.max()), int(outside.sum()),
        undecided,
    )  # fmt: skip


def _join(one: LayerFolding, other: LayerFolding) -> LayerFolding:
    """Both batches as one: counts add up, the larger extremes stay."""
    worst = max(one, other, key=lambda x: x.flip_distance)
    total = one.neuron_steps + other.neuron_steps
    return replace(
        worst,
        neuron_steps=total,
        flips=one.flips + other.flips,
        flips_outside=one.flips_outside + other.flips_outside,
        largest_difference=max(one.largest_difference, other.largest_difference),
        largest_bound=max(one.largest_bound, other.largest_bound),
        mean_bound=(one.mean_bound * one.neuron_steps + other.mean_bound * other.neuron_steps) / total,
        largest_share=max(one.largest_share, other.largest_share),
        outside=one.outside + other.outside,
        undecided=one.undecided + other.undecided,
    )
