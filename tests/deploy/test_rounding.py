"""Bounds on rounding: no value moves farther than its bound, through every step of a gate and through relays."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from equivalence_nets import STEPS
from relayed_net import GATED, POOLED, relayed_net
from spikefold.converters.float_graph import FloatPopulation
from spikefold.converters.gate_float import FUNCTIONS, run_float
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.deploy.rounding import (
    SLOPES,
    Bounded,
    bounded_current,
    bounded_gate,
    bounded_gated,
    bounded_message,
    exactly,
    membrane_error,
)


def test_every_elementwise_function_has_a_rounding_rule() -> None:
    assert set(FUNCTIONS) == SLOPES.keys() | {"exp", "square", "sqrt"}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_stay_within_their_bound(name: str) -> None:
    """A dense grid of arguments, moved both ways by errors small and large."""
    program = GateProgram((-1,), (Step("function", (0,), {"name": name}),), 1)
    v = torch.linspace(0 if name == "sqrt" else -6, 6, 4001, dtype=torch.float64)
    for size in (1e-9, 1e-3, 0.3):
        error = torch.full_like(v, size)
        bounded = bounded_gate(program, Bounded(v, error))
        for moved in (v + error, v - error):
            if name == "sqrt":
                moved = moved.clamp(min=0)
            difference = (FUNCTIONS[name](moved) - bounded.value).abs()
            assert (difference <= bounded.error * (1 + 1e-12)).all()  # the comparison rounds too


def test_bounds_carry_through_relays() -> None:
    """Sources moved as far as their bounds allow move what a layer gets within its bound, beyond one without them."""
    net_behind = relayed_net().float_net
    pooled = next(p for p in net_behind.populations if p.name == POOLED)
    gated = next(p for p in net_behind.populations if p.name == GATED)
    rectified = dataclasses.replace(gated, rectifies=True)
    random = torch.Generator().manual_seed(0)
    spikes = (torch.rand((STEPS, 2, 6, 10, 10), generator=random) < 0.3).double()
    for relay in (gated, rectified):
        current = bounded_current(relay, {"fire1": exactly(spikes)})
        wide = Bounded(current.value - 0.1, current.error + 0.01)
        sent = bounded_message(relay, bounded_gated(relay.gate, wide))
        behind = bounded_current(pooled, {GATED: sent})
        reached = torch.zeros_like(behind.value)
        up = torch.ones_like(wide.value)
        for signs in (up, -up, *(torch.randint(0, 2, up.shape, generator=random) * 2.0 - 1 for _ in range(8))):
            moved = wide.value + signs * wide.error
            message = moved * run_float(relay.gate, moved)
            message = message.clamp(min=0) if relay.rectifies else message
            assert ((message - sent.value).abs() <= sent.error).all()
            reached = torch.maximum(reached, (pooled.current({GATED: message}) - behind.value).abs())
        assert (reached <= behind.error).all()
        assert (reached > bounded_current(pooled, {GATED: exactly(sent.value)}).error).double().mean() > 0.5


def test_selections_are_undecided_only_where_ranks_can_change() -> None:
    program = GateProgram((1, -1, 5), (Step("topk_mask", (0,), {"k": 2, "axis": 2}),), 1)
    values = torch.tensor([[[5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 3.0, 3.0, 2.0, 1.0]]], dtype=torch.float64)
    for size, undecided in ((0.0, [0, 2]), (0.4, [0, 2]), (0.5, [2, 3]), (9.0, [5, 5])):
        bounded = bounded_gate(program, Bounded(values, torch.full_like(values, size)))
        assert bounded.error.sum((0, 2)).tolist() == undecided
        assert bounded.undecided == sum(undecided)


def test_bounds_hold_through_every_kind_of_step() -> None:
    """Move the current at random within its error: no value of the gate leaves its bound."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 3, 3, 3, generator=generator, dtype=torch.float64).numpy()
    matrix = torch.randn(4, 4, generator=generator, dtype=torch.float64).numpy()
    conv = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    program = GateProgram(
        (4, -1, 3, 5, 5),
        (
            Step("sum", (0,), {"axes": (0,), "keepdim": False}),
            Step("conv2d", (1,), conv, weight),
            Step("max", (2,), {"axes": (2, 3), "keepdim": False}),
            Step("sum", (2,), {"axes": (2, 3), "keepdim": False}),
            Step("concat", (3, 4), {"axis": 1}),
            Step("matmul", (5,), {}, matrix),
            Step("add_const", (6,), {}, matrix[0]),
            Step("relu", (7,)),
            Step("multiply_const", (8,), {}, matrix[1]),
            Step("subtract", (9, 5)),
            Step("scale", (10,), {"factor": -0.3}),
            Step("offset", (11,), {"value": 0.7}),
            Step("function", (12,), {"name": "tanh"}),
            Step("multiply", (13, 5)),
            Step("add", (14, 13)),
            Step("clip", (15,), {"low": -1.0, "high": 1.5}),
            Step("slice", (16,), {"axis": 1, "start": 0, "stop": 3}),
            Step("permute", (17,), {"axes": (1, 0)}),
            Step("permute", (18,), {"axes": (1, 0)}),
            Step("reshape", (19,), {"shape": (1, -1, 3, 1, 1)}),
            Step("broadcast", (20,), {"shape": (4, -1, 3, 1, 1)}),
        ),
        4,
    )
    v = torch.randn(4, 2, 3, 5, 5, generator=generator, dtype=torch.float64)
    for size in (1e-8, 1e-4, 1e-2):
        bounded = bounded_gate(program, Bounded(v, torch.full_like(v, size)))
        for _ in range(20):
            sign = torch.randint(0, 2, v.shape, generator=generator) * 2 - 1
            moved = bounded_gate(program, Bounded(v + size * sign, torch.zeros_like(v)))
            assert ((moved.value - bounded.value).abs() <= bounded.error).all()
        assert bool(bounded.error.isfinite().all())


def test_the_bound_of_a_quotient_holds_and_ends_where_the_divisor_may_vanish() -> None:
    generator = torch.Generator().manual_seed(3)
    program = GateProgram((2, -1, 500), (Step("offset", (0,), {"value": 2.0}), Step("divide", (0, 1))), 2)
    v = 2 * torch.rand((2, 3, 500), generator=generator, dtype=torch.float64)
    for size in (1e-9, 1e-3, 0.5):
        bounded = bounded_gate(program, Bounded(v, torch.full_like(v, size)))
        for _ in range(5):
            moved = v + size * (2 * torch.rand(v.shape, generator=generator, dtype=torch.float64) - 1)
            assert ((moved / (moved + 2) - bounded.value).abs() <= bounded.error * (1 + 1e-12)).all()
    one = (Step("scale", (0,), {"factor": 0.0}), Step("offset", (1,), {"value": 1.0}), Step("divide", (2, 0)))
    inverse = bounded_gate(GateProgram((2, -1, 500), one, 2), Bounded(v + 0.5, torch.full_like(v, 0.1)))
    assert ((1 / (v + 0.4) - inverse.value).abs() <= inverse.error * (1 + 1e-12)).all()
    assert torch.isinf(bounded_gate(program, Bounded(v - 1.5, torch.full_like(v, 3.0))).error).any()


def test_an_error_of_the_current_stays_in_its_memory_as_long_as_the_current_does() -> None:
    """A current off by 1e-3 at the first step alone: what the membrane inherits, by hand."""
    population = FloatPopulation(
        "a", (1,), 0.5, np.ones(1, np.float32), True, True, (), None, current_decay=0.25
    )  # fmt: skip
    off = torch.zeros(4, 1, 1, dtype=torch.float64)
    off[0] = 1e-3
    silent = torch.zeros_like(off)
    error = membrane_error(population, Bounded(silent, off), silent, silent)
    torch.testing.assert_close(error.flatten(), 1e-3 * torch.tensor([1.0, 0.75, 0.4375, 0.234375], dtype=torch.float64))
