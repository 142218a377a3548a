"""A `FixedPointGraph` as a torch module whose integers are trained: what is trained is, bit for bit, what is deployed.

Every weight, bias and threshold has a latent real value; the forward pass uses the integers that the latents round to
and computes exactly what `spikefold.converters.reference` does. The backward pass takes roundings as identities
(straight-through, Bengio et al., 2013) and the spike's derivative from a surrogate; a relay's message is that of its
current where neither end cuts it off. Neurons that share a threshold keep sharing it, what a spike leaves of a membrane
keeps its ratio to the threshold (the neuron is positively homogeneous), and a gate stays the fixed program it is: it is
computed in integers and counts as a constant in gradients. Decays and delays stay as they are too.

All latents of a population are in units of one power of two, 256 of its coarsest mantissas: about its largest weight.
So a learning rate means the same in every layer, however the net is scaled, and the latents' float32 is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from spikefold.converters import arithmetic
from spikefold.converters.engine import arriving, run_gate
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Relay, Synapse, Whole
from spikefold.converters.ranges import gated_range
from spikefold.errors import LoweringError
from spikefold.models.surrogate import derivative

LOWEST_WEIGHT, HIGHEST_WEIGHT = -256, 254
FULL_SCALE = 256
_SHRINK = 0.999
"""How far below the limit a population's rows are brought that would leave it."""

Watch = Callable[[str, Tensor, Tensor], None]


class TrainableNet(nn.Module):
    """The integers of a net as parameters; maps clips ``[T, B, *shape]`` to logits ``[B, classes]`` (float64).

    Rows of weights whose worst case would leave 24 bits after an optimiser step are used (and deployed) slightly
    smaller, so that the range that quantisation proved holds at every moment.

    Parameters
    ----------
    graph : FixedPointGraph
        Where training starts; it is not changed.
    time_steps : int
        T of the clips: ranges of membranes that never leak are proved for it.

    Raises
    ------
    LoweringError
        Membranes of the graph may leave 24 bits within ``time_steps``, or populations are in a loop.
    """

    def __init__(self, graph: FixedPointGraph, time_steps: int) -> None:
        super().__init__()
        for block in graph.blocks:
            if graph.is_loop(block):
                raise LoweringError(
                    f"neurons {block[0].name!r}: integers of populations in a loop cannot be trained: train the module "
                    "that the net was made of"
                )
        self.graph = graph
        self.time_steps = time_steps
        self._ordered = [_Population(graph, n, time_steps) for n in graph.neurons]
        self.populations = nn.ModuleList(self._ordered)

    def forward(self, clips: Tensor, watch: Watch | None = None) -> Tensor:
        """Run clips of integers (any real dtype).

        ``watch(name, messages, membranes)`` sees each population: spikes (or what a relay sends) and membranes after
        the reset (a relay's clipped current), as in `Trace`, whole numbers in float32, ``[T, B, *shape]``.
        """
        messages = {self.graph.input.name: clips.float()}
        for population in self._ordered:
            name = population.neurons.name
            messages[name], membranes = population(messages)
            if watch is not None:
                watch(name, messages[name].detach(), membranes.detach())
        output = self.graph.output
        if output.fires:
            return messages[output.name].double().sum(0).flatten(1) / len(clips)
        step = output.unit / 2**arithmetic.STATE_FRACTION_BITS / len(clips)
        logits: Tensor = membranes[-1].double().flatten(1) * step
        return logits

    def to_graph(self) -> FixedPointGraph:
        """The net with its integers of now; `run_reference` of it gives the same bits as this module.

        Raises
        ------
        LoweringError
            The latents are no longer finite, or the range of a gate can no longer be proved.
        """
        tuned = [population.to_graph() for population in self._ordered]
        synapses = {s.name: s for _, incoming in tuned for s in incoming}
        graph = replace(
            self.graph,
            neurons=tuple(neurons for neurons, _ in tuned),
            synapses=tuple(synapses[s.name] for s in self.graph.synapses),
        )
        for neurons in graph.neurons:
            gated_range(graph, neurons)
        return graph


class _Population(nn.Module):
    """One population and the synapses into it."""

    def __init__(self, graph: FixedPointGraph, neurons: Neurons, time_steps: int) -> None:
        super().__init__()
        self.neurons, self.synapses = neurons, graph.incoming(neurons.name)
        self._messages = [graph.message_range(s.source) for s in self.synapses]
        self._scale = float(FULL_SCALE << max(s.exponent for s in self.synapses))
        self.weights = nn.ParameterList(_latent(s.effective_weight / self._scale) for s in self.synapses)
        self.bias = _latent(neurons.bias / self._scale / 2**arithmetic.STATE_FRACTION_BITS)
        levels, index = np.unique(neurons.v_threshold, return_inverse=True)
        self._level = torch.from_numpy(index.reshape(neurons.v_threshold.shape))
        self.thresholds = _latent(levels / self._scale) if neurons.fires else None
        gain = _gain(neurons.dv, time_steps) * _gain(np.asarray(neurons.du) + 1, time_steps)
        limit = arithmetic.STATE_LIMIT
        if neurons.relay is not None:
            gain = np.ones(())
        elif neurons.is_readout:
            limit = arithmetic.MAX_THRESHOLD << arithmetic.STATE_FRACTION_BITS
        elif neurons.v_reset is not None:  # what a spike leaves below 0 adds to what currents bring there
            limit += min(0, int(neurons.v_reset.min())) << arithmetic.STATE_FRACTION_BITS
        self._current_limit = torch.as_tensor(limit / gain)
        with torch.no_grad():
            worst = self._worst_current(*self._rounded(self._whole()))
        if (worst > self._current_limit).any():
            reached = float((worst * torch.as_tensor(gain)).max())
            raise LoweringError(
                f"neurons {neurons.name!r}: membranes may reach {reached:.4g} in T = {time_steps}, beyond 24 "
                f"bits; lower the net with calibration clips of T = {time_steps}"
            )

    def forward(self, messages: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Messages and membranes after the reset, ``[T, B, *shape]``, from what each source sends."""
        weights, bias = self._integers()
        total = torch.zeros(())
        for synapse, weight in zip(self.synapses, weights, strict=True):
            arrived = arriving(messages[synapse.source], synapse.delay, 0, len(messages[synapse.source]))
            total = total + self._weighted(synapse, weight * 2**synapse.exponent, arrived)
        # Exact in float32: ranges of messages hold 0, so that the proved range of the current, 24 bits, holds for every
        # sum on the way to it, and all the more before the sums are shifted left.
        shifted = total * 2**self.neurons.current_shift
        if self.neurons.remembers_current:
            shifted = _Remember.apply(shifted, _share(np.asarray(self.neurons.du) + 1))  # type: ignore[no-untyped-call]
        current = shifted + bias * 2**self.neurons.bias_exponent
        current = _gated(self.neurons, current)
        if self.neurons.relay is not None:
            return _relayed(self.neurons.relay, current)
        mantissas = self._threshold_levels()
        threshold: Tensor = torch.tensor(torch.inf)  # a readout is a neuron that no membrane makes fire
        after = torch.zeros(())
        if mantissas is not None:
            threshold = mantissas[self._level] * 2**arithmetic.STATE_FRACTION_BITS
            after = self._v_reset(threshold)
        soft = self.neurons.soft_reset
        spikes, membranes = _Fire.apply(current, threshold, after, soft, _share(self.neurons.dv))  # type: ignore[no-untyped-call]
        return spikes, membranes

    def to_graph(self) -> tuple[Neurons, list[Synapse]]:
        """The population and its synapses with the integers of now."""
        with torch.no_grad():
            weights, bias = self._integers()
            levels = self._threshold_levels()
        latents = [*self.weights, self.bias, *([] if self.thresholds is None else [self.thresholds])]
        if not all(bool(latent.isfinite().all()) for latent in latents):
            raise LoweringError(f"neurons {self.neurons.name!r}: training diverged; use a smaller learning rate")
        synapses = [replace(s, weight=_int64(w)) for s, w in zip(self.synapses, weights, strict=True)]
        tuned = replace(self.neurons, bias_mantissa=_int64(bias))
        if levels is not None:
            tuned = replace(tuned, v_threshold=_int64(levels[self._level]))
        if tuned.v_reset is not None:
            tuned = replace(tuned, v_reset=_scaled_reset(self.neurons, tuned.v_reset, tuned.v_threshold))
        if tuned.static_threshold is not None:
            ratio = tuned.v_threshold / np.maximum(self.neurons.v_threshold, 1)
            static = np.round(tuned.static_threshold * ratio).astype(np.int64)
            tuned = replace(tuned, static_threshold=np.minimum(static, arithmetic.MAX_THRESHOLD))
        return tuned, synapses

    def _weighted(self, synapse: Synapse, weight: Tensor, messages: Tensor) -> Tensor:
        if synapse.kind == "dense":
            out = messages.flatten(2) @ weight.T
        else:
            out = functional.conv2d(messages.flatten(0, 1), weight, None, **synapse.conv_attributes)
        return out.reshape(*messages.shape[:2], *self.neurons.shape)

    def _threshold_levels(self) -> Tensor | None:
        if self.thresholds is None:
            return None
        return _round(self.thresholds * self._scale, 0, arithmetic.MAX_THRESHOLD)

    def _v_reset(self, threshold: Tensor) -> Tensor:
        """What a spike leaves of the membrane, in its unit, with the gradient of a fixed share of the threshold."""
        given = self.neurons.v_reset
        if given is None:
            return torch.zeros(())
        mantissas = _scaled_reset(self.neurons, given, _int64(threshold.detach()) >> arithmetic.STATE_FRACTION_BITS)
        exact = torch.as_tensor(mantissas << arithmetic.STATE_FRACTION_BITS, dtype=torch.float32)
        share = np.asarray(given / np.maximum(self.neurons.v_threshold, 1), dtype=np.float32)
        return _straight_through(exact, threshold * torch.from_numpy(share))

    def _integers(self) -> tuple[list[Tensor], Tensor]:
        """Mantissas of weights and bias, straight-through, their worst case within the proved limit."""
        shrink = self._whole()
        while True:
            weights, bias = self._rounded(shrink)
            with torch.no_grad():
                worst = self._worst_current(weights, bias)
            over = worst > self._current_limit
            if not over.any():
                return weights, bias
            shrink = torch.where(over, shrink * (_SHRINK * self._current_limit / worst), shrink).float()

    def _rounded(self, shrink: Tensor) -> tuple[list[Tensor], Tensor]:
        """Mantissas of the latents times ``shrink``, which broadcasts to the population's shape."""
        weights = []
        for synapse, latent in zip(self.synapses, self.weights, strict=True):
            rows = self._rows(synapse)
            factor = _common(shrink, rows).unsqueeze(-1) * (self._scale / 2**synapse.exponent)
            weight = _round(
                (latent.reshape(*rows, -1) * factor).reshape(latent.shape), LOWEST_WEIGHT, HIGHEST_WEIGHT, 2
            )
            weights.append(weight)
        fraction = self._scale * 2.0 ** (arithmetic.STATE_FRACTION_BITS - self.neurons.bias_exponent)
        factor = _common(shrink, self.bias.shape[-len(self.neurons.shape) :]) * fraction
        return weights, _round(self.bias * factor, -arithmetic.MAX_BIAS_MANTISSA, arithmetic.MAX_BIAS_MANTISSA)

    def _worst_current(self, weights: Sequence[Tensor], bias: Tensor) -> Tensor:
        """Largest magnitude of the current of every neuron over all inputs, broadcastable to the population's shape."""
        full = bias.double() * 2**self.neurons.bias_exponent
        highest, lowest = full.clamp_min(0), (-full).clamp_min(0)
        if self.neurons.has_bias_schedule:
            highest, lowest = highest.amax((0, 1)), lowest.amax((0, 1))
        for synapse, weight, (least, most) in zip(self.synapses, weights, self._messages, strict=True):
            rows = (
                weight.double().reshape(*self._rows(synapse), -1) * 2**synapse.exponent * 2**self.neurons.current_shift
            )
            positive, negative = rows.clamp_min(0).sum(-1), (-rows).clamp_min(0).sum(-1)
            highest = highest + positive * most - negative * least
            lowest = lowest + negative * most - positive * least
        return torch.maximum(highest, lowest)

    def _whole(self) -> Tensor:
        return torch.ones([1] * len(self.neurons.shape))

    def _rows(self, synapse: Synapse) -> tuple[int, ...]:
        """Shape over which the rows of a weight broadcast to the population's."""
        shape = self.neurons.shape
        return shape if synapse.kind == "dense" else (shape[0], *[1] * (len(shape) - 1))


def _latent(values: NDArray[np.float64]) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.asarray(values, dtype=np.float32)))


def _int64(values: Tensor) -> NDArray[np.int64]:
    return np.asarray(values.numpy(), dtype=np.int64)


def _straight_through(exact: Tensor, value: Tensor) -> Tensor:
    """``exact``, with the gradient of ``value``; the difference added is exactly 0."""
    return exact + (value - value.detach())


def _round(value: Tensor, low: int, high: int, step: int = 1) -> Tensor:
    """Multiples of ``step`` in ``low`` to ``high``; straight-through outside as well, so that latents can come back."""
    return _straight_through(((value.detach() / step).round() * step).clamp(low, high), value)


def _common(factor: Tensor, shape: Sequence[int]) -> Tensor:
    """Factors in ``shape``: where one entry of it meets several factors (broadcasting), the smallest."""
    full = (*[1] * (factor.dim() - len(shape)), *shape)
    met = tuple(axis for axis, size in enumerate(full) if size == 1)
    return (factor.amin(met, keepdim=True) if met else factor).broadcast_to(full).reshape(tuple(shape))


def _gated(neurons: Neurons, current: Tensor) -> Tensor:
    """The current, gated (then float64 whole numbers) where there is a gate, which is a constant for gradients."""
    if neurons.gate is None:
        return current
    with torch.no_grad():
        whole = current.to(torch.int64)
        gate = run_gate(neurons.gate, whole)
        exact = torch.div(whole * gate, 2**neurons.gate_shift, rounding_mode="trunc").double()
    return _straight_through(exact, current.double() * (gate / 2**neurons.gate_shift))


def _scaled_reset(neurons: Neurons, v_reset: NDArray[np.int64], v_threshold: NDArray[np.int64]) -> NDArray[np.int64]:
    """``v_reset`` of ``neurons`` as it follows thresholds that were trained, never lower than the lowest given."""
    scaled = v_reset * v_threshold // np.maximum(neurons.v_threshold, 1)
    followed = np.where(neurons.v_threshold > 0, scaled, v_reset)
    return np.asarray(np.maximum(followed, min(0, int(v_reset.min()))))


def _relayed(relay: Relay, current: Tensor) -> tuple[Tensor, Tensor]:
    """What a relay sends, exact, with the gradient of its clipped current where neither end cuts it off; and that."""
    membranes = current.clamp(-arithmetic.STATE_LIMIT, arithmetic.STATE_LIMIT)
    real = membranes / 2**relay.shift
    messages = _straight_through(real.detach().trunc().clamp(relay.low, relay.high), real.clamp(relay.low, relay.high))
    return messages.float(), membranes


def _share(rate: Whole) -> Tensor:
    """What a decay rate leaves of a state, float64."""
    return torch.as_tensor(1 - np.asarray(rate, dtype=np.float64) / 2**arithmetic.DECAY_BITS)


def _gain(rate: Whole, time_steps: int) -> NDArray[np.float64]:
    """How many times as large as what is added to it in each step a state that decays at this rate can become."""
    lost = np.asarray(rate, dtype=np.float64) / 2**arithmetic.DECAY_BITS
    return np.asarray(np.minimum(time_steps, 1 / np.maximum(lost, 1 / time_steps)))


class _Remember(torch.autograd.Function):
    """Synaptic currents, exact in float64; ``apply(weighted, keep)``. The proved range leaves nothing to wrap."""

    @staticmethod
    def forward(ctx: Any, weighted: Tensor, keep: Tensor) -> Tensor:
        """Run all steps of the shifted weighted sums."""
        u, currents = torch.zeros(weighted.shape[1:], dtype=torch.float64), torch.empty_like(weighted)
        for t in range(len(weighted)):
            u = u.mul_(keep).trunc_().add_(weighted[t])
            currents[t] = u
        ctx.keep = keep.to(weighted.dtype)
        return currents

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Walk back through the steps."""
        grad = torch.empty_like(grads[0])
        later = torch.zeros_like(grad[0])
        for t in reversed(range(len(grad))):
            grad[t] = later = grads[0][t] + later * ctx.keep
        return grad, None


class _Fire(torch.autograd.Function):
    """The neurons' loop, exact in float64, and back-propagation through time with a surrogate.

    ``apply(current, threshold, after, soft, keep)`` returns spikes and membranes after the reset: to ``after``, or less
    by ``threshold - after`` where it is ``soft``. The surrogate is FSTA-SNN's, its window as wide as that net's, from 0
    to twice the threshold, wherever the threshold lies: the neuron is positively homogeneous, so a gate folded into the
    threshold must scale the surrogate too.
    """

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, threshold: Tensor, after: Tensor, soft: bool, keep: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run all steps; keep the membranes before the reset."""
        membranes, kept = (torch.empty(current.shape, dtype=torch.float32) for _ in range(2))
        v = torch.zeros(current.shape[1:], dtype=torch.float64)
        for t in range(len(current)):
            v = v.mul_(keep).trunc_().add_(current[t]).clamp_(-arithmetic.STATE_LIMIT, arithmetic.STATE_LIMIT)
            membranes[t] = v
            v = torch.where(v > threshold, v - (threshold - after) if soft else after.double(), v)
            kept[t] = v
        ctx.save_for_backward(membranes, threshold, after)
        ctx.soft, ctx.keep = soft, keep.float()
        ctx.set_materialize_grads(False)
        return (membranes > threshold).float(), kept

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Walk back through the steps; gradients of current, threshold and ``after``."""
        grad_spikes, grad_kept = grads
        membranes, threshold, after = ctx.saved_tensors
        half = 0.5 / threshold.clamp_min(2**arithmetic.STATE_FRACTION_BITS)
        grad_current = torch.empty_like(membranes)
        to_threshold, to_after = torch.zeros_like(membranes[0]), torch.zeros_like(membranes[0])
        later = torch.zeros_like(membranes[0])  # gradient arriving at the kept membrane
        for t in reversed(range(len(membranes))):
            v = membranes[t]
            fired = v > threshold
            if grad_kept is not None:
                later = later + grad_kept[t]
            to_spike = later * (after - (threshold if ctx.soft else v))  # the reset
            if grad_spikes is not None:
                to_spike = to_spike + grad_spikes[t]
            to_spike = to_spike * derivative(v * half - 0.5, "tanh") * half
            to_threshold -= to_spike
            to_after += later * fired
            if ctx.soft:
                to_threshold -= later * fired
            grad_v = later * (ctx.soft | ~fired) + to_spike
            grad_current[t] = grad_v * (v.abs() < arithmetic.STATE_LIMIT)
            later = grad_current[t] * ctx.keep
        needs = ctx.needs_input_grad
        grad_threshold = to_threshold.sum_to_size(threshold.shape) if needs[1] else None
        grad_after = to_after.sum_to_size(after.shape) if needs[2] else None
        return grad_current, grad_threshold, grad_after, None, None
