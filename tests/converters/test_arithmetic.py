"""The reference itself against Python's whole numbers, exhaustively or at every limit."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikefold.converters import arithmetic

EDGES = sorted({s * (2**k + d) for s in (-1, 1) for k in range(40) for d in (-1, 0, 1)})
SETTINGS = settings(max_examples=300, deadline=None, derandomize=True)


def ints(*values: int) -> arithmetic.Int:
    return np.array(values, dtype=np.int64)


def toward_zero(value: int, bits: int) -> int:
    quotient = abs(value) // 2**bits
    return -quotient if value < 0 else quotient


@pytest.mark.parametrize("bits", [0, 1, 6, 12, 31, 62])
def test_a_shift_rounds_toward_zero_for_both_signs(bits: int) -> None:
    got = arithmetic.shift_toward_zero(ints(*EDGES), bits)
    assert got.tolist() == [toward_zero(v, bits) for v in EDGES]


def test_a_shift_of_every_small_number_rounds_toward_zero() -> None:
    values = range(-5000, 5001)
    got = arithmetic.shift_toward_zero(ints(*values), 12)
    assert got.tolist() == [int(v / 4096) for v in values]


def test_wrapping_takes_one_turn_off_beyond_the_24_bit_range_and_keeps_its_upper_end() -> None:
    half = 2**23
    expected = {
        0: 0, half - 1: half - 1, half: half, half + 1: -half + 1, 2 * half: 0, 3 * half: half,
        1 - half: 1 - half, -half: half, -half - 1: half - 1, -2 * half: 0, -3 * half: -half,
    }  # fmt: skip
    assert arithmetic.wrap24(ints(*expected)).tolist() == list(expected.values())


def test_clipping_is_symmetric_at_24_bits() -> None:
    top = 2**23 - 1
    expected = {0: 0, top: top, top + 1: top, 2**40: top, -top: -top, -top - 1: -top, -(2**40): -top}
    assert arithmetic.clip24(ints(*expected)).tolist() == list(expected.values())


@pytest.mark.parametrize("rate", [0, 1, 2047, 2048, 2867, 3072, 4094, 4095])
def test_decay_is_the_product_over_4096_rounded_toward_zero(rate: int) -> None:
    states = [*range(-9000, 9001, 7), *(v for v in EDGES if abs(v) <= arithmetic.STATE_LIMIT)]
    got = arithmetic.decay(ints(*states), rate)
    assert got.tolist() == [toward_zero(v * (4096 - rate), 12) for v in states]


def test_every_decay_rate_keeps_its_share_of_the_largest_state() -> None:
    for state in (arithmetic.STATE_LIMIT, -arithmetic.STATE_LIMIT):
        got = [int(arithmetic.decay(ints(state), rate)[0]) for rate in range(4096)]
        assert got == [toward_zero(state * (4096 - rate), 12) for rate in range(4096)]


@pytest.mark.parametrize(("gate", "shift"), [(0, 10), (1, 10), (1024, 10), (65535, 10), (100, 7), (-300, 10)])
def test_a_gated_current_is_the_product_shifted_toward_zero(gate: int, shift: int) -> None:
    currents = [v for v in EDGES if abs(v) <= 2**25]
    got = arithmetic.gated_current(ints(*currents), ints(gate), shift)
    assert got.tolist() == [toward_zero(c * gate, shift) for c in currents]


def test_a_neuron_step_at_every_limit() -> None:
    limit = 2**23 - 1
    states = [0, 1, -1, 63, 64, 4095, 4096, -4096, limit, -limit]
    currents = [0, 1, -1, 64, -64, 6400, limit, -limit, 2**25, -(2**25)]
    for dv, threshold in itertools.product([0, 1, 2048, 4095], [0, 1, 100, arithmetic.MAX_THRESHOLD]):
        pairs = list(itertools.product(states, currents))
        v, c = (ints(*column) for column in zip(*pairs, strict=True))
        spikes, after = arithmetic.neuron_step(v, c, dv, ints(threshold))
        for i, (state, current) in enumerate(pairs):
            before = max(-limit, min(limit, toward_zero(state * (4096 - dv), 12) + current))
            fires = before > threshold * 64
            assert (int(spikes[i]), int(after[i])) == (int(fires), 0 if fires else before), (state, current)


@pytest.mark.parametrize("how", ["to a value", "soft"])
def test_other_resets_at_every_limit(how: str) -> None:
    limit, top = 2**23 - 1, arithmetic.MAX_THRESHOLD
    states = [0, 1, -1, 63, 64, 4096, -4096, limit, -limit, -top * 64]
    currents = [0, 1, -1, 64, -64, 6400, 6401, limit, -limit, 2**25, -(2**25)]
    for dv, threshold in itertools.product([0, 1, 2048, 4095], [0, 1, 100, top]):
        for reset in [-top, -1, 0, threshold]:
            pairs = list(itertools.product(states, currents))
            v, c = (ints(*column) for column in zip(*pairs, strict=True))
            given = None if reset == 0 else ints(reset)
            spikes, after = arithmetic.neuron_step(v, c, dv, ints(threshold), given, soft_reset=how == "soft")
            for i, (state, current) in enumerate(pairs):
                before = max(-limit, min(limit, toward_zero(state * (4096 - dv), 12) + current))
                fires = before > threshold * 64
                left = before - (threshold - reset) * 64 if how == "soft" else reset * 64
                assert (int(spikes[i]), int(after[i])) == (int(fires), left if fires else before), (state, current)


def test_a_soft_reset_leaves_what_was_above_the_threshold_for_the_next_step() -> None:
    v, fired = ints(0), []
    for _ in range(6):
        spikes, v = arithmetic.neuron_step(v, ints(500), 0, ints(10), soft_reset=True)
        fired.append((int(spikes[0]), int(v[0])))
    assert fired == [(0, 500), (1, 360), (1, 220), (1, 80), (0, 580), (1, 440)]


def test_each_neuron_resets_to_its_own_value() -> None:
    v = np.full((2, 3), 1000)
    spikes, after = arithmetic.neuron_step(v, v, 0, ints(10), np.array([[-3, 0, 4]]))
    assert spikes.tolist() == [[1, 1, 1]] * 2
    assert after.tolist() == [[-192, 0, 256]] * 2


@SETTINGS
@given(
    st.integers(-(2**23) + 1, 2**23 - 1) | st.sampled_from([v for v in EDGES if abs(v) < 2**23]),
    st.integers(0, 23), st.integers(-(2**23) + 1, 0), st.integers(1, 2**23 - 1),
)  # fmt: skip
def test_a_relay_divides_toward_zero_and_saturates_at_its_own_ends(v: int, shift: int, low: int, high: int) -> None:
    wanted = min(high, max(low, toward_zero(v, shift)))
    assert arithmetic.relay_message(ints(v), shift, low, high).tolist() == [wanted]


def test_a_relay_of_small_numbers_sends_as_many_zeros_below_0_as_above() -> None:
    sent = arithmetic.relay_message(ints(*range(-9, 10)), 2, -2, 1).tolist()
    assert sent == [-2, -2, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert arithmetic.relay_message(ints(-9, -4, -1, 3, 4), 2, 0, 5).tolist() == [0, 0, 0, 0, 1]


def test_a_neuron_at_its_threshold_is_silent_and_fires_one_sixty_fourth_of_a_weight_above() -> None:
    spikes, v = arithmetic.neuron_step(ints(0, 0), ints(640, 641), 0, ints(10))
    assert (spikes.tolist(), v.tolist()) == ([0, 1], [640, 0])


def test_a_readout_never_fires_and_saturates() -> None:
    spikes, v = arithmetic.neuron_step(ints(2**23 - 1), ints(5), 0, None)
    assert (spikes.tolist(), v.tolist()) == ([0], [2**23 - 1])


def test_the_widths_are_those_of_loihi() -> None:
    """Davies et al. (2018): 24-bit states, 12-bit decays, 17-bit thresholds, biases of 13 bits, signed, and 3 more."""
    assert (arithmetic.STATE_LIMIT, arithmetic.WRAP) == (8_388_607, 16_777_216)
    assert (arithmetic.DECAY_BITS, arithmetic.NO_CURRENT_MEMORY, arithmetic.MAX_THRESHOLD) == (12, 4095, 131_071)
    assert (arithmetic.MAX_BIAS_MANTISSA, arithmetic.MAX_BIAS_EXPONENT) == (4095, 7)
    # The largest weight, 8 bits wide, shifted the most that a weight may be shifted, has 24 bits at most.
    assert 128 << arithmetic.MAX_WEIGHT_EXPONENT <= arithmetic.WRAP // 2 < 128 << arithmetic.MAX_WEIGHT_EXPONENT + 1


def test_the_largest_threshold_lies_63_below_the_largest_state() -> None:
    assert arithmetic.STATE_LIMIT - (arithmetic.MAX_THRESHOLD << arithmetic.STATE_FRACTION_BITS) == 63


@SETTINGS
@given(st.integers(-(2**45), 2**45), st.integers(-(2**15), 2**15), st.integers(0, 62), st.integers(1, 2**40))
def test_rescaling_multiplies_shifts_toward_zero_and_saturates(value: int, by: int, shift: int, limit: int) -> None:
    wanted = max(-limit, min(limit, toward_zero(value * by, shift)))
    assert arithmetic.rescale(ints(value), by, shift, limit).tolist() == [wanted]


def test_a_table_is_read_at_the_offset_and_saturates_at_both_ends() -> None:
    table = ints(10, 20, 30, 40, 50)
    got = arithmetic.look_up(ints(-(2**40), -3, -2, -1, 0, 1, 2, 3, 2**40), table, 2)
    assert got.tolist() == [10, 10, 10, 20, 30, 40, 50, 50, 50]


def slow_mask(row: list[int], k: int) -> list[int]:
    best = sorted(range(len(row)), key=lambda i: (-row[i], i))[: max(k, 0)]
    return [int(i in best) for i in range(len(row))]


def test_the_k_largest_of_every_short_row_are_marked_and_the_first_of_equals_wins() -> None:
    for n in (1, 2, 3, 4):
        rows = np.array(list(itertools.product([-2, 0, 1], repeat=n)), dtype=np.int64)
        for k in range(-1, n + 2):
            got = arithmetic.top_k_mask(rows, k, 1)
            assert got.tolist() == [slow_mask(row, k) for row in rows.tolist()]


@SETTINGS
@given(st.lists(st.integers(-(2**20), 2**20) | st.integers(-1, 1), min_size=1, max_size=40), st.integers(0, 41))
def test_the_k_largest_of_a_long_row_are_marked(row: list[int], k: int) -> None:
    assert arithmetic.top_k_mask(ints(*row), k, 0).tolist() == slow_mask(row, k)


@pytest.mark.parametrize("shape", [(1,), (5,), (5, 3), (4, 2, 3)])
def test_a_step_is_marked_where_it_is_among_its_share_of_the_largest_so_far(shape: tuple[int, ...]) -> None:
    """Of k steps in T, the first ``t + 1`` are given ``k * (t + 1) / T``, rounded up."""
    values = np.random.default_rng(2).integers(-2, 3, shape)
    steps = len(values)
    for k in range(steps + 2):
        shares = [math.ceil(k * (t + 1) / steps) for t in range(steps)]
        assert arithmetic.running_k(k, steps).tolist() == shares
        got = arithmetic.running_top_k_mask(values, k)
        assert got.shape == shape
        for t, *at in np.ndindex(*shape):
            ahead = sum(int(values[(past, *at)] >= values[(t, *at)]) for past in range(t))
            assert got[(t, *at)] == int(ahead < shares[t])


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_ranks_are_taken_along_the_axis_alone(axis: int) -> None:
    values = np.random.default_rng(4).integers(-3, 4, (3, 4, 5))
    got = np.moveaxis(arithmetic.top_k_mask(values, 2, axis), axis, -1).reshape(-1, values.shape[axis])
    rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    assert got.tolist() == [slow_mask(row, 2) for row in rows.tolist()]


def test_a_quotient_rounds_toward_zero_for_both_signs() -> None:
    numerators, denominators = ints(*[v for v in EDGES if abs(v) < 2**31], 0), ints(*[v for v in EDGES if v > 0])
    for shift in (0, 1, 17, 31):
        got = arithmetic.divide(numerators[:, None], denominators[None], shift)
        for row, n in zip(got.tolist(), numerators.tolist(), strict=True):
            whole = [(abs(n) << shift) // d for d in denominators.tolist()]
            assert row == [-q if n < 0 else q for q in whole]


def test_a_square_root_is_the_largest_whole_number_whose_square_fits() -> None:
    small = np.arange(70_000, dtype=np.int64)
    assert arithmetic.square_root(small).tolist() == [math.isqrt(n) for n in small.tolist()]
    roots = np.concatenate([np.arange(1, 2**26, 9973), 2**26 - np.arange(1, 5000)]).astype(np.int64)
    for beside in (-1, 0, 1):
        around = roots * roots + beside
        assert arithmetic.square_root(around).tolist() == [math.isqrt(n) for n in around.tolist()]
    assert arithmetic.square_root(ints(2**arithmetic.MAX_SQUARE_BITS - 1)).tolist() == [2**26 - 1]
