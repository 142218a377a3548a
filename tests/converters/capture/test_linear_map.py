from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from spikefold.converters.capture import linear_map as lm

EXACT = 1e-9
SETTINGS = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much]
)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def convolutions(draw: Any, channels: int | None = None, size: tuple[int, int] | None = None) -> lm.ConvMap:
    """Any convolution, depthwise ones and poolings among them, that leaves at least one pixel."""
    c = channels or draw(st.integers(1, 2)) * draw(st.integers(1, 2))
    h, w = size or (draw(st.integers(3, 9)), draw(st.integers(3, 9)))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    stride = draw(st.sampled_from([(1, 1), (2, 2), (1, 2), kernel]))
    padding = draw(st.sampled_from([(0, 0), (0, 0), (1, 1), (0, 2)]))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 2)]))
    groups = draw(st.sampled_from([g for g in (1, 2, c) if c % g == 0]))
    out = groups * (1 if draw(st.booleans()) else draw(st.integers(1, 2)))
    seed = draw(st.integers(0, 10**6))
    bias = random(out, seed=seed + 1) * draw(st.sampled_from([0.0, 1.0]))
    made = lm.ConvMap(
        random(out, c // groups, *kernel, seed=seed), bias, (c, h, w), stride, padding, dilation, groups, macs=seed
    )
    assume(min(made.out_shape[1:]) >= 1)
    return made


@st.composite
def pairs(draw: Any) -> tuple[lm.ConvMap, lm.ConvMap]:
    first = draw(convolutions())
    c, h, w = first.out_shape
    return first, draw(convolutions(c, (h, w)))


def composes(first: lm.ConvMap, second: lm.ConvMap) -> bool:
    """The reasons of `linear_map`: without padding always; with it only where zeros around the picture stay zeros."""
    if first.is_identity or second.is_identity or not any(second.padding):
        return True
    pool_like = tuple(first.weight.shape[2:]) == first.stride and not any(first.padding) and first.dilation == (1, 1)
    divides = all(n % s == 0 for n, s in zip(first.in_shape[1:], first.stride, strict=True))
    return pool_like and divides and not bool(first.bias.any())


@SETTINGS
@given(pairs())
def test_two_convolutions_in_one_equal_both_to_the_border_or_are_refused_for_a_documented_reason(
    maps: tuple[lm.ConvMap, lm.ConvMap],
) -> None:
    first, second = maps
    if not composes(first, second):
        with pytest.raises(lm.NotExactError, match=r"bias|pads|does not divide"):
            lm.compose(second, first)
        return
    joined = lm.compose(second, first)
    assert isinstance(joined, lm.ConvMap)
    x = random(2, *first.in_shape, seed=5)
    wanted = second.apply(first.apply(x))
    assert joined.out_shape == second.out_shape == tuple(wanted.shape[1:])
    torch.testing.assert_close(joined.apply(x), wanted, rtol=EXACT, atol=EXACT)
    assert joined.macs == first.macs + second.macs


@SETTINGS
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.integers(1, 4), st.integers(1, 2))
def test_pooling_before_a_padded_convolution_is_exact_to_the_border_where_it_divides(
    pool: int, kernel: int, padding: int, stride: int, tiles: int, dilation: int
) -> None:
    first = lm.average_pool((2, pool * tiles, pool * (tiles + 1)), (pool, pool), (pool, pool), (0, 0))
    weight = random(3, 2, kernel, kernel, seed=kernel)
    second = lm.ConvMap(weight, random(3, seed=1), first.out_shape, (stride,) * 2, (padding,) * 2, (dilation,) * 2)
    assume(min(second.out_shape[1:]) >= 1)
    x = random(2, *first.in_shape, seed=6)
    torch.testing.assert_close(lm.compose(second, first).apply(x), second.apply(first.apply(x)), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bias": torch.ones(2).double()}, "has a bias"),
        ({"stride": (1, 1)}, "pads the first one's result"),
        ({"padding": (1, 1)}, "pads the first one's result"),
        ({"in_shape": (2, 7, 8)}, r"pooling \(2, 2\) does not divide the size \(7, 8\)"),
    ],
)
def test_a_padded_convolution_is_refused_with_the_reason_where_the_border_would_differ(
    change: dict[str, Any], reason: str
) -> None:
    pool = lm.average_pool((2, 8, 8), (2, 2), (2, 2), (0, 0))
    first = lm.ConvMap(**{**vars(pool), **change})
    second = lm.ConvMap(random(2, 2, 3, 3, seed=1), torch.zeros(2).double(), first.out_shape, padding=(1, 1))
    with pytest.raises(lm.NotExactError, match=reason):
        lm.compose(second, first)


@SETTINGS
@given(convolutions(), st.integers(1, 3))
def test_a_dense_map_after_a_convolution_equals_both(first: lm.ConvMap, outputs: int) -> None:
    size = first.out_shape[0] * first.out_shape[1] * first.out_shape[2]
    second = lm.DenseMap(random(outputs, size, seed=2), random(outputs, seed=3), (size,), macs=7)
    joined = lm.compose(second, first)
    assert isinstance(joined, lm.DenseMap)
    x = random(2, *first.in_shape, seed=4)
    wanted = first.apply(x).flatten(1) @ second.weight.T + second.bias
    got = x.flatten(1) @ joined.weight.T + joined.bias
    torch.testing.assert_close(got, wanted, rtol=EXACT, atol=EXACT)
    assert (joined.in_shape, joined.macs) == (first.in_shape, first.macs + 7)


def test_dense_maps_in_a_row_are_one_matrix() -> None:
    one, two = (
        lm.DenseMap(random(*s, seed=i), random(s[0], seed=i + 5), (s[1],)) for i, s in enumerate([(4, 3), (2, 4)])
    )
    joined = lm.compose(two, one)
    x = random(5, 3, seed=9)
    wanted = (x @ one.weight.T + one.bias) @ two.weight.T + two.bias
    torch.testing.assert_close(x @ joined.weight.T + joined.bias, wanted, rtol=EXACT, atol=EXACT)


def test_a_convolution_after_a_dense_map_is_refused() -> None:
    with pytest.raises(lm.NotExactError, match="unflatten"):
        lm.compose(lm.identity((2, 2, 2)), lm.identity((8,)))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_norm_after_a_grouped_convolution_keeps_the_groups(groups: int) -> None:
    first = lm.ConvMap(random(8, 4 // groups, 3, 3, seed=1), random(8, seed=2), (4, 5, 5), groups=groups)
    second = lm.channel_affine(first.out_shape, random(8, seed=3), random(8, seed=4))
    joined = lm.compose(second, first)
    assert isinstance(joined, lm.ConvMap)
    assert (joined.groups, joined.weight.shape) == (groups, first.weight.shape)
    x = random(2, 4, 5, 5, seed=5)
    assert isinstance(second, lm.ConvMap)
    torch.testing.assert_close(joined.apply(x), second.apply(first.apply(x)), rtol=EXACT, atol=EXACT)


def test_a_depthwise_chain_stays_depthwise() -> None:
    pool = lm.average_pool((3, 8, 8), (2, 2), (2, 2), (0, 0))
    joined = lm.compose(lm.average_pool((3, 4, 4), (2, 2), (2, 2), (0, 0)), pool)
    assert isinstance(joined, lm.ConvMap)
    assert (joined.groups, tuple(joined.weight.shape), joined.stride) == (3, (3, 1, 4, 4), (4, 4))


@pytest.mark.parametrize("shape", [(3, 4, 4), (6,), (3, 5)])
def test_a_factor_and_shift_per_channel_reach_every_value_of_the_channel(shape: tuple[int, ...]) -> None:
    channels = shape[0]
    scale, shift = random(channels, seed=1), random(channels, seed=2)
    made = lm.channel_affine(shape, scale, shift)
    x = random(2, *shape, seed=3)
    got = made.apply(x) if isinstance(made, lm.ConvMap) else x.flatten(1) @ made.weight.T + made.bias
    per_channel = (-1, *[1] * (len(shape) - 1))
    torch.testing.assert_close(got.reshape(x.shape), x * scale.reshape(per_channel) + shift.reshape(per_channel))


@pytest.mark.parametrize("shape", [(3, 4, 4), (6,)])
def test_only_the_map_that_changes_nothing_is_the_identity(shape: tuple[int, ...]) -> None:
    same = lm.identity(shape)
    n = shape[0]
    assert same.is_identity
    assert not lm.channel_affine(shape, torch.full((n,), 2.0), torch.zeros(n)).is_identity
    assert not lm.channel_affine(shape, torch.ones(n), torch.eye(n)[0]).is_identity
    strided = lm.average_pool((3, 4, 4), (1, 1), (2, 2), (0, 0))
    assert not strided.is_identity
