"""The integers of one population, by hand: rates, reset values, exponents, and where the proof refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spikefold.converters.float_net import FloatPopulation, FloatSynapse
from spikefold.converters.number_format import (
    NumberFormat,
    Sender,
    current_rate,
    decay_rate,
    kept,
    logic_format,
    number_format,
)
from spikefold.errors import LoweringError

SPIKES = {"input": Sender(0, 1, 1.0)}
STEPS = 4


def population(weight: list[list[float]], bias: float = 0.0, threshold: float = 1.0, **more: object) -> FloatPopulation:
    array = np.array(weight, dtype=np.float32)
    synapse = FloatSynapse("s", "input", array, np.full(len(array), bias, dtype=np.float32), None, array.size)
    thresholds = np.full(len(array), threshold, dtype=np.float32)
    plain = FloatPopulation("n", (len(array),), 1.0, thresholds, True, True, (synapse,), None)
    return replace(plain, **more)  # type: ignore[arg-type]


def formatted(what: FloatPopulation, senders: dict[str, Sender] = SPIKES, steps: int = STEPS) -> NumberFormat:
    return number_format(what, 1.0, senders, steps)


def test_a_current_forgets_one_4096th_more_than_its_rate_says() -> None:
    assert [current_rate(decay) for decay in (0.0, 0.25, 0.5, 1 - 1 / 4096)] == [4095, 3071, 2047, 0]
    assert [current_rate(1 - (rate + 1) / 4096) for rate in range(4096)] == list(range(4096))


def test_what_a_rate_keeps_has_that_rate_for_one_and_for_each_neuron() -> None:
    assert (kept(0), kept(1024), kept(4095)) == (1.0, 0.75, 1 / 4096)
    rates = np.arange(0, 4096, 7)
    assert np.array_equal(decay_rate(kept(rates)), rates)
    assert isinstance(decay_rate(0.5), int)
    assert isinstance(kept(2048), float)


def test_a_reset_value_is_rounded_in_the_unit_of_the_weights_and_left_out_where_it_is_0() -> None:
    weight = [[0.5, -1.0], [0.25, 1.0]]
    got = formatted(population(weight, v_reset=np.array([-0.5, 0.25], dtype=np.float32)))
    assert got.v_reset is not None
    np.testing.assert_allclose(got.v_reset * got.unit, [-0.5, 0.25], atol=got.unit / 2)
    same = formatted(population(weight, v_reset=np.array([-0.5, -0.5], dtype=np.float32)))
    assert same.v_reset is not None
    assert same.v_reset.shape == ()
    assert formatted(population(weight, v_reset=np.zeros(2, dtype=np.float32))).v_reset is None
    assert formatted(population(weight)).v_reset is None


def test_sums_of_numbers_may_be_shifted_left_less_and_sums_of_spikes_may_not() -> None:
    """700 weights of 254, shifted left by 6 bits, need more than 24 bits; so do 200 that hear numbers of up to 4."""
    with pytest.raises(LoweringError, match=r"membranes may reach 1.138e\+07, beyond 24 bits"):
        formatted(population([[1.0] * 700], decay=0.0))
    got = formatted(population([[1.0] * 200], decay=0.0), {"input": Sender(-4, 4, 0.25)})
    assert (got.current_shift, got.exponents) == (5, (0,))
    assert got.mantissas[0].tolist() == [[254] * 200]
    np.testing.assert_allclose(254 * got.unit / 2, 0.25)


def test_a_remembered_current_that_leaves_24_bits_is_refused_though_the_membrane_forgets_it() -> None:
    """400 weights of 254 fit; a current that keeps them for 20 steps does not."""
    heavy = population([[1.0] * 400], threshold=100.0, decay=0.0)
    assert formatted(heavy, steps=20).mantissas[0].max() == 254
    with pytest.raises(LoweringError, match=r"currents may reach .* beyond 24 bits"):
        formatted(replace(heavy, current_decay=1 - 1 / 4096), steps=20)


def test_logic_has_even_weights_odd_thresholds_and_biases_of_whole_units() -> None:
    got = logic_format(population([[1.0, -1.0, 0.0]], bias=-1.0, threshold=0.5, logic=True))
    assert (got.unit, got.exponents, got.mantissas[0].tolist()) == (0.5, (0,), [[2, -2, 0]])
    assert (int(got.v_threshold), (got.bias_mantissa << got.bias_exponent).tolist()) == (1, [-128])
