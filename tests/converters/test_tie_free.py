"""Thresholds in gaps: checked against every membrane that short histories of small currents can reach, in fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest

from spikefold.converters.tie_free import ROUNDINGS, Lattice, tie_free_threshold


def reachable(dv: int, lattice: Lattice, steps: int, reach: int) -> set[Fraction]:
    """Membranes after 1 to ``steps`` steps of every train of currents ``bias + step * (-reach .. reach)``."""
    beta = Fraction(4096 - dv, 4096)
    found, last = set(), {Fraction(0)}
    for _ in range(steps):
        last = {beta * v + lattice.bias + lattice.step * z for v, z in product(last, range(-reach, reach + 1))}
        found |= last
    return found


@pytest.mark.parametrize("dv", [1024, 2048, 3072, 2867, 4095])
@pytest.mark.parametrize(("step", "bias"), [(2, 0), (2, 3), (16, -5), (128, 77), (7, 0)])
def test_no_short_history_comes_near_the_threshold(dv: int, step: int, bias: int) -> None:
    lattice = Lattice(step, bias)
    theta = 5 * step + bias
    found = tie_free_threshold(theta, dv, [lattice])
    assert theta < found.value < theta + 1
    assert found.steps is not None
    assert found.steps >= 1
    steps = min(found.steps, 3)
    nearest = min(abs(v - Fraction(found.value)) for v in reachable(dv, lattice, steps, 9))
    assert nearest >= ROUNDINGS * 2.0**-24 * max(theta, 1)


def test_neurons_of_different_bias_share_a_gap() -> None:
    lattices = [Lattice(4, bias) for bias in (0, 1, 2, 3)]
    found = tie_free_threshold(40, 2048, lattices)
    for lattice in lattices:
        nearest = min(abs(v - Fraction(found.value)) for v in reachable(2048, lattice, 3, 12))
        assert nearest >= ROUNDINGS * 2.0**-24 * 40


def test_half_a_step_is_not_taken_where_a_membrane_can_reach_it() -> None:
    assert Fraction(20.5) in reachable(2048, Lattice(1, 0), 2, 40)
    assert tie_free_threshold(20, 2048, [Lattice(1, 0)]).value != 20.5


def test_without_a_decay_all_histories_are_whole() -> None:
    found = tie_free_threshold(1000, 0, [Lattice(2, 3), Lattice(6, 1)])
    assert (found.value, found.steps) == (1000.5, None)


def test_a_decay_of_few_digits_is_free_of_ties_for_longer() -> None:
    few, many = (tie_free_threshold(6400, dv, [Lattice(128, 0)]).steps for dv in (2048, 2867))
    assert few is not None
    assert many is not None
    assert few >= 10 > many


def test_a_row_of_no_weights_holds_its_bias_only() -> None:
    found = tie_free_threshold(100, 2048, [Lattice(0, 67)])  # reaches 67, 100.5, 117.25
    assert abs(found.value - 100.5) > 0.1
