"""A float net: populations in execution order and the connections into them, run in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spikefold.converters.capture.build import Decay, decay_metadata, relay_metadata, schedule_to_metadata
from spikefold.converters.execution_order import execution_blocks
from spikefold.converters.gate_float import run_float
from spikefold.converters.gate_program import GateProgram
from spikefold.converters.show import Shown
from spikefold.errors import InputError

Array = NDArray[np.float32]


@dataclass(frozen=True, repr=False)
class FloatSynapse(Shown):
    """A ``Conv2d`` (``conv`` holds stride, padding, dilation, groups) or an ``Affine`` node with its source.

    What the source sends arrives ``delay`` steps later, one whole number or one for each of its neurons; nothing
    arrives of what was before the clip. The bias belongs to the target and is there from the start.
    """

    name: str
    source: str
    weight: Array
    bias: Array
    conv: Mapping[str, Any] | None
    torch_macs: int
    delay: int | NDArray[np.int64] = 0

    @property
    def is_late(self) -> bool:
        """Whether no message arrives in the step it is sent in."""
        return bool(np.min(self.delay) > 0)

    def current(self, spikes: Tensor) -> Tensor:
        """Current ``[T, B, ...]`` for source spikes ``[T, B, *source]``, bias included."""
        return self.weighted(delayed(spikes, self.delay))

    def current_at(self, step: int, spikes: Tensor) -> Tensor:
        """Current ``[1, B, ...]`` of one step, for source spikes that are known up to there."""
        first = max(0, step - int(np.max(self.delay)))
        return self.weighted(delayed(spikes[first : step + 1], self.delay)[-1:])

    def weighted(self, spikes: Tensor) -> Tensor:
        """The same for spikes that have arrived."""
        weight, bias = (torch.as_tensor(a, dtype=spikes.dtype) for a in (self.weight, self.bias))
        steps, batch = spikes.shape[:2]
        if self.conv is None:
            return functional.linear(spikes.flatten(2), weight, bias)
        out = functional.conv2d(spikes.flatten(0, 1), weight, bias, **self.conv)
        return out.reshape(steps, batch, *out.shape[1:])


@dataclass(frozen=True, repr=False)
class FloatPopulation(Shown):
    """Neurons (or, where ``fires`` is False, the readout that sums over time) and what leads to them.

    ``u_t = current_decay * u_{t-1} + I_t`` and ``v_t = decay * v_{t-1} + u_t``, decays being one number or one each.
    ``logic`` marks neurons that stand for a max pooling or a product of spikes: weights and biases are 1, 0 or -1, and
    nothing in them is rounded. ``bias_schedule`` ``[T, 1, *shape or 1]`` is added to the current, besides the biases of
    the synapses. After a spike the membrane is ``v_reset`` (of ``shape``; None: 0) or, with ``soft_reset``, less by
    ``v_threshold - v_reset``. What ``relays`` sends its gated current on as a number (its "spikes"), negative ones as 0
    where it ``rectifies``; where it ``selects``, its gate is a maximum of the module, no attention, and stays in every
    mode.
    """

    name: str
    shape: tuple[int, ...]
    decay: Decay
    v_threshold: Array
    strict: bool
    fires: bool
    synapses: tuple[FloatSynapse, ...]
    gate: GateProgram | None
    logic: bool = False
    bias_schedule: Array | None = None
    v_reset: Array | None = None
    soft_reset: bool = False
    relays: bool = False
    rectifies: bool = False
    selects: bool = False
    current_decay: Decay = 0.0

    @property
    def is_readout(self) -> bool:
        """Whether the sum of its currents over time is the answer."""
        return not self.fires and not self.relays

    @property
    def links(self) -> list[tuple[str, bool]]:
        """What leads to it, as `execution_blocks` takes it."""
        return [(s.source, s.is_late) for s in self.synapses]

    @property
    def has_attention(self) -> bool:
        """Whether it has a gate that lowering may replace."""
        return self.gate is not None and not self.selects

    @property
    def metadata(self) -> dict[str, Any]:
        """What NIR has no field for, gates left out, as metadata of the neurons' node."""
        if self.relays:
            return relay_metadata(self.rectifies, self.selects) | schedule_to_metadata(self.bias_schedule)
        soft = {"soft_reset": True} if self.soft_reset else {}
        decays = decay_metadata(self.decay, self.current_decay)
        return {"strict": self.strict, **decays, **soft, **schedule_to_metadata(self.bias_schedule)}

    def current(self, spikes: Mapping[str, Tensor]) -> Tensor:
        """Total current ``[T, B, *shape]`` before the gate."""
        total = torch.stack([s.current(spikes[s.source]) for s in self.synapses]).sum(0)
        total = total.reshape(*total.shape[:2], *self.shape)
        return total if self.bias_schedule is None else total + torch.as_tensor(self.bias_schedule, dtype=total.dtype)

    def current_at(self, step: int, spikes: Mapping[str, Tensor]) -> Tensor:
        """The same, ``[1, B, *shape]``, in one step of trains that are known up to there."""
        total = torch.stack([s.current_at(step, spikes[s.source]) for s in self.synapses]).sum(0)
        total = total.reshape(1, -1, *self.shape)
        if self.bias_schedule is None:
            return total
        return total + torch.as_tensor(self.bias_schedule[step : step + 1], dtype=total.dtype)

    def fire(self, current: Tensor, teacher: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Spikes and membranes before the reset, ``[T, B, *shape]``, for the gated current.

        Where ``teacher`` is given, spikes 0/1 of that shape, the resets follow it instead of the spikes found here, so
        that every step can be compared with another implementation without errors adding up.
        """
        run = MembraneRun(self, current)
        steps = [run.step(step, None if teacher is None else teacher[t]) for t, step in enumerate(current)]
        return torch.stack([s for s, _ in steps]), torch.stack([v for _, v in steps])

    def answer(self, gated: Tensor) -> Tensor:
        """What a readout says ``[B, *shape]`` of its currents: its last membrane over T, the mean where none leaks."""
        if np.all(np.asarray(self.decay) == 1.0) and not np.any(self.current_decay):
            return gated.mean(0)
        return self.fire(gated, torch.zeros_like(gated))[1][-1] / len(gated)


class MembraneRun:
    """Membranes and currents of a population that runs step by step, all 0 at first."""

    def __init__(self, population: FloatPopulation, like: Tensor) -> None:
        p = population
        self.population = p
        self.v, self.u = torch.zeros_like(like[0]), torch.zeros_like(like[0])
        self.threshold = torch.as_tensor(p.v_threshold, dtype=like.dtype)
        self.reset = torch.as_tensor(0.0 if p.v_reset is None else p.v_reset, dtype=like.dtype)
        self.decay, self.current_decay = (_factor(d, like.dtype) for d in (p.decay, p.current_decay))
        self.remembers = bool(np.any(p.current_decay))

    def step(self, current: Tensor, teacher: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Spikes and membranes before the reset, ``[B, *shape]``; resets follow ``teacher`` where it is given."""
        self.u = self.current_decay * self.u + current if self.remembers else current
        v = self.decay * self.v + self.u
        spikes = ((v > self.threshold) if self.population.strict else (v >= self.threshold)).to(v.dtype)
        sent = spikes if teacher is None else teacher
        if self.population.soft_reset:
            self.v = v - (self.threshold - self.reset) * sent
        else:
            self.v = v * (1 - sent) + self.reset * sent
        return spikes, v


def _factor(decay: Decay, dtype: torch.dtype) -> float | Tensor:
    return decay if isinstance(decay, float) else torch.as_tensor(decay, dtype=dtype)


def remembered(current: Tensor, current_decay: Decay) -> Tensor:
    """``u_t = current_decay * u_{t-1} + I_t`` of currents ``[T, ...]``."""
    if not np.any(current_decay):
        return current
    decay = _factor(current_decay, current.dtype)
    u, found = torch.zeros_like(current[0] * decay), []
    for step in current:
        u = decay * u + step
        found.append(u)
    return torch.stack(found)


def delayed(train: Tensor, delay: int | NDArray[np.int64]) -> Tensor:
    """A train ``[T, B, *source]`` as it arrives, each neuron's ``delay`` steps later."""
    if not np.any(delay):
        return train
    late = torch.zeros_like(train)
    steps = np.broadcast_to(delay, train.shape[2:])
    for d in (int(n) for n in np.unique(steps) if n < len(train)):
        late[d:] += train[: len(train) - d] * torch.as_tensor(steps == d, dtype=train.dtype)
    return late


@dataclass(frozen=True, repr=False)
class FloatNet(Shown):
    """Populations in execution order; the last one is the answer.

    What a population sends in a step, those after it see in that step, and over a connection with a delay any may see
    it in a later one. Populations that see each other so, or themselves, make a block that runs step by step.
    """

    input_shape: tuple[int, ...]
    populations: tuple[FloatPopulation, ...]
    time_steps: int | None

    @cached_property
    def blocks(self) -> tuple[tuple[FloatPopulation, ...], ...]:
        """Populations in execution order, those together that need each other's earlier steps."""
        held = {p.name: p for p in self.populations}
        blocks = execution_blocks({p.name: p.links for p in self.populations}, last=self.populations[-1].name)
        return tuple(tuple(held[n] for n in block) for block in blocks)

    @property
    def schedule_steps(self) -> int:
        """T of the bias schedules; 0 where no bias changes with the step."""
        return max((len(p.bias_schedule) for p in self.populations if p.bias_schedule is not None), default=0)

    def run(
        self, clips: Tensor, watch: Callable[[FloatPopulation, Tensor, Tensor], None] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run clips ``[T, B, *input_shape]``.

        Parameters
        ----------
        clips : Tensor
            Floating point; its dtype is the dtype of the run.
        watch : callable, optional
            Called as ``watch(population, current_before_gate, spikes)``.

        Returns
        -------
        logits, spikes : Tensor ``[B, classes]`` and a dict of ``[T, B, *shape]`` per firing population
        """
        if tuple(clips.shape[2:]) != self.input_shape or 0 in clips.shape:
            raise InputError(f"input has shape {tuple(clips.shape)}; this net takes [T, B, {self.input_shape}]")
        if self.time_steps is not None and clips.shape[0] != self.time_steps:
            raise InputError(
                f"input has T = {clips.shape[0]}; the gates or biases of this net were trained for {self.time_steps}"
            )
        spikes: dict[str, Tensor] = {"input": clips}
        for block in self.blocks:
            if is_loop(block):
                currents = _run_loop(block, spikes, len(clips))
            else:
                (population,) = block
                current = population.current(spikes)
                gated = current if population.gate is None else current * run_float(population.gate, current)
                if population.fires:
                    spikes[population.name] = population.fire(gated)[0]
                else:
                    spikes[population.name] = gated.clamp(min=0) if population.rectifies else gated
                currents = {population.name: current}
            if watch is not None:
                for population in block:
                    watch(population, currents[population.name], spikes[population.name])
        del spikes["input"]
        last = self.populations[-1]
        sent = spikes[last.name]
        logits = (sent.mean(0) if last.fires else last.answer(sent)).flatten(1)
        return logits, spikes


def is_loop(block: tuple[FloatPopulation, ...]) -> bool:
    """Whether a block has to run step by step."""
    names = {p.name for p in block}
    return any(s.source in names for p in block for s in p.synapses)


def _run_loop(block: tuple[FloatPopulation, ...], spikes: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
    """Run a block step by step; adds its trains to ``spikes`` and gives its currents ``[T, B, *shape]``."""
    like = next(iter(spikes.values()))
    currents = {p.name: like.new_zeros(steps, like.shape[1], *p.shape) for p in block}
    for p in block:
        spikes[p.name] = torch.zeros_like(currents[p.name])
    runs = {p.name: MembraneRun(p, currents[p.name]) for p in block}
    for t in range(steps):
        for p in block:
            currents[p.name][t] = current = p.current_at(t, spikes)[0]
            if p.fires:
                spikes[p.name][t] = runs[p.name].step(current)[0]
            else:
                spikes[p.name][t] = current.clamp(min=0) if p.rectifies else current
    return currents
