"""How far rounding may carry a folded net from the module it was made of.

Both run in float64, on the same spikes. They differ because folding rounds every weight, bias and gate constant to
float32 once, and because they round in float64 at other places. All bounds here are proved, neuron by neuron and step
by step, by running error analysis (N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., SIAM 2002,
sections 3.1 and 3.3) with ``gamma_n = n u / (1 - n u)``. Three things are taken on trust, none of which can let a wrong
net pass:

- the module's own float64 rounding is bounded with the folded weights, though its layers may cancel before they are
  folded: the true bound is larger there, so the check is stricter than it need be (float64 rounds 5e8 times finer);
- an elementwise function of torch errs by at most ``FUNCTION_ULPS`` roundings of its value and argument;
- weights are not so small that float32 underflows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spikefold.converters.float_graph import FloatPopulation
from spikefold.converters.gate_float import run_float
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.errors import InputError

U32 = 2.0**-24
U64 = 2.0**-53
FUNCTION_ULPS = 16
EXTRA_OPERATIONS = 16
"""Operations on a current besides its weighted sum: biases, batch norms, the divisor of a pooling, the input gain."""

SLOPES: Mapping[str, float] = {
    "sigmoid": 0.25, "tanh": 1.0, "gelu": 1.13, "silu": 1.1, "softplus": 1.0, "hardsigmoid": 1 / 6, "hardtanh": 1.0,
    "leaky_relu": 1.0, "elu": 1.0, "abs": 1.0,
}  # fmt: skip
"""Largest slope of each elementwise function, by calculus (gelu: at sqrt 2, silu: at 2.40); the others have a rule."""


@dataclass(frozen=True)
class Bounded:
    """Values of the folded net and a bound on how far the module's are from them."""

    value: Tensor
    error: Tensor
    undecided: int = 0
    """Entries of selections by rank, here or in relays before, that rounding might change; the bound allows for both
    outcomes."""


def gamma(n: int, u: float = U64) -> float:
    """Higham's gamma_n: the largest relative error of ``n`` roundings in a row."""
    return n * u / (1 - n * u)


def bounded_current(population: FloatPopulation, sent: Mapping[str, Bounded]) -> Bounded:
    """Current before the gate, ``[T, B, *shape]``, from what each source sends.

    It is off by at most ``sum |w| dx + (gamma_1(u32) + 2 gamma_n) (sum |w| (|x| + dx) + |b|)``; spikes that are the
    module's own have dx = 0, messages of relays have not.
    """
    schedule, sources = population.bias_schedule, {s.source for s in population.synapses}
    absolute = replace(
        population,
        synapses=tuple(replace(s, weight=np.abs(s.weight), bias=np.abs(s.bias)) for s in population.synapses),
        bias_schedule=None if schedule is None else np.abs(schedule),
    )
    terms = sum(int(s.weight[0].size) + 1 for s in population.synapses) + EXTRA_OPERATIONS
    value = population.current({name: sent[name].value for name in sources})
    largest = absolute.current({name: sent[name].value.abs() + sent[name].error for name in sources})
    error = largest * (gamma(1, U32) + 2 * gamma(terms))
    if any(bool(sent[name].error.any()) for name in sources):
        spread = replace(
            absolute,
            synapses=tuple(replace(s, bias=np.zeros_like(s.bias)) for s in absolute.synapses),
            bias_schedule=None,
        )
        error = error + spread.current({name: sent[name].error for name in sources}) * (1 + 2 * gamma(terms))
    return Bounded(value, error, sum(sent[name].undecided for name in sources))


def bounded_gated(gate: GateProgram | None, current: Bounded) -> Bounded:
    """Current after the gate: ``|I| dG + |G| dI + dI dG`` and the rounding of the product."""
    if gate is None:
        return current
    factor = bounded_gate(gate, current)
    value = current.value * factor.value
    error = current.value.abs() * factor.error + factor.value.abs() * current.error + current.error * factor.error
    return Bounded(value, error + 2 * gamma(EXTRA_OPERATIONS) * value.abs(), factor.undecided)


def exactly(value: Tensor) -> Bounded:
    """Values that both nets share."""
    return Bounded(value, torch.zeros_like(value))


def bounded_message(population: FloatPopulation, gated: Bounded) -> Bounded:
    """What a relay sends for its gated current; cutting off negative numbers brings none farther apart."""
    return replace(gated, value=gated.value.clamp(min=0)) if population.rectifies else gated


def bounded_gate(program: GateProgram, current: Bounded) -> Bounded:
    """Run a float gate program on a current and carry the bound along, step by step."""
    values = [current]
    for step in program.steps:
        values.append(_step(step, [values[i] for i in step.inputs]))
    return replace(values[-1], undecided=sum(v.undecided for v in values))


def membrane_error(population: FloatPopulation, gated: Bounded, membranes: Tensor, teacher: Tensor) -> Tensor:
    """Bound on the membranes before the reset, both nets resetting where ``teacher`` (the module) spikes.

    ``e_t = decay k_{t-1} + dI_t + 8 u (|v_t| + |I_t|)``, with the current memory and its error in place of I_t and dI_t
    where there is one. A hard reset leaves ``k_t = (1 - s_t) e_t + s_t dr``, with dr
    the rounding of ``v_reset`` to float32; a soft one ``k_t = e_t + s_t (dtheta + dr + 2 u (|v_t| + theta + |r|))``.
    """
    theta = torch.as_tensor(np.abs(population.v_threshold), dtype=membranes.dtype)
    reset = torch.as_tensor(np.abs(0.0 if population.v_reset is None else population.v_reset), dtype=membranes.dtype)
    errors = []
    decay, memory = (torch.as_tensor(d, dtype=membranes.dtype) for d in (population.decay, population.current_decay))
    error, held, size = (torch.zeros_like(gated.error[0]) for _ in range(3))
    for t in range(len(membranes)):
        held = memory * (held + 4 * U64 * size) + gated.error[t]
        size = memory * size + gated.value[t].abs()
        error = decay * error + held + 8 * U64 * (membranes[t].abs() + size)
        errors.append(error)
        if population.soft_reset:
            error = error + teacher[t] * (U32 * (theta + reset) + 2 * U64 * (membranes[t].abs() + theta + reset))
        else:
            error = error * (1 - teacher[t]) + teacher[t] * U32 * reset
    return torch.stack(errors)


def _step(step: Step, inputs: list[Bounded]) -> Bounded:
    x = inputs[0]
    v, e = x.value, x.error
    if step.op in ("reshape", "permute", "broadcast", "slice", "max"):
        return Bounded(_apply(step, v), _apply(step, e))
    if step.op == "concat":
        axis = step.attributes["axis"]
        return Bounded(torch.cat([i.value for i in inputs], axis), torch.cat([i.error for i in inputs], axis))
    if step.op == "sum":
        out = _apply(step, v)
        return Bounded(out, _apply(step, e) + 2 * gamma(v.numel() // out.numel()) * _apply(step, v.abs()))
    if step.op in ("add", "subtract"):
        other = inputs[1]
        out = v + other.value if step.op == "add" else v - other.value
        return Bounded(out, e + other.error + 2 * gamma(1) * out.abs())
    if step.op == "multiply":
        other = inputs[1]
        out = v * other.value
        error = v.abs() * other.error + other.value.abs() * e + e * other.error
        return Bounded(out, error + 2 * gamma(1) * out.abs())
    if step.op == "divide":
        other = inputs[1]
        out = v / other.value
        room = other.value.abs() - other.error  # what the denominator surely is, or less than nothing: no bound then
        error = torch.where(room > 0, (e + out.abs() * other.error) / room, math.inf)
        return Bounded(out, error + 2 * gamma(1) * out.abs())
    if step.op in ("matmul", "conv2d", "multiply_const"):
        constant = np.abs(np.asarray(step.constant))
        terms = 1 if step.op == "multiply_const" else constant[0].size if step.op == "conv2d" else len(constant)
        absolute = replace(step, constant=constant)
        rounding = gamma(1, U32) + 2 * gamma(terms + 1)
        return Bounded(_apply(step, v), _apply(absolute, e) + rounding * _apply(absolute, v.abs()))
    if step.op == "add_const":
        out, constant = _apply(step, v), torch.as_tensor(np.abs(np.asarray(step.constant)), dtype=v.dtype)
        return Bounded(out, e + gamma(1, U32) * constant + 2 * gamma(2) * (out.abs() + constant))
    if step.op in ("scale", "offset"):
        out = _apply(step, v)
        factor = abs(step.attributes["factor"]) if step.op == "scale" else 1.0
        return Bounded(out, e * factor + 2 * gamma(2) * out.abs())
    if step.op in ("relu", "clip"):
        return Bounded(_apply(step, v), e)
    if step.op == "topk_mask":
        undecided = _undecided(x, step.attributes["k"], step.attributes["axis"])
        return Bounded(_apply(step, v), undecided, int(undecided.sum()))
    if step.op == "function":
        out = _apply(step, v)
        return Bounded(out, _through(step.attributes["name"], x) + 2 * FUNCTION_ULPS * U64 * (out.abs() + v.abs()))
    raise InputError(f"gate step {step.op!r} has no rounding rule: the gate is not in the float dialect")


def _apply(step: Step, x: Tensor) -> Tensor:
    return run_float(GateProgram((), (replace(step, inputs=(0,)),), 0), x)


def _through(name: str, x: Bounded) -> Tensor:
    """How far an elementwise function carries the error of its argument."""
    v, e = x.value, x.error
    if name == "exp":
        return v.exp() * torch.expm1(e)
    if name == "square":
        return (2 * v.abs() + e) * e
    if name == "sqrt":
        return torch.minimum(e.sqrt(), e / v.clamp(min=math.ulp(0.0)).sqrt())
    return SLOPES[name] * e


def _undecided(x: Bounded, k: int, axis: int) -> Tensor:
    """1 where an entry may or may not be among the k largest, given the errors; 0 where that is certain."""
    low, high = (x.value - x.error).movedim(axis, -1), (x.value + x.error).movedim(axis, -1)
    surely_above = (low.unsqueeze(-2) > high.unsqueeze(-1)).sum(-1)
    perhaps_above = (high.unsqueeze(-2) >= low.unsqueeze(-1)).sum(-1) - 1
    return ((surely_above < k) & (perhaps_above >= k)).to(x.value.dtype).movedim(-1, axis)
