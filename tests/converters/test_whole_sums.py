"""Sums that other devices compute: the same whole numbers as convolutions and products of the CPU."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from spikefold.converters import whole_sums


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("most", [1, 10_000, 2**27])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_windows_and_a_product_are_a_convolution(
    groups: int, most: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_sums, "MOST_AT_ONCE", most)
    random = torch.Generator().manual_seed(0)
    x = torch.randint(-50, 50, (5, 6, 11, 8), generator=random)
    weight = torch.randint(-200, 200, (9, 6 // groups, 3, 2), generator=random)
    attributes = {"stride": (2, 1), "padding": (1, 3), "dilation": (2, 3), "groups": groups}
    expected = functional.conv2d(x.double(), weight.double(), None, **attributes)
    assert expected.abs().max() < 2**24
    assert torch.equal(whole_sums.convolve(x.to(dtype), weight.to(dtype), attributes).double(), expected)


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_windows_take_the_memory_they_may_and_no_more(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.ones(7, 3, 6, 10), torch.ones(2, 3, 3, 2)
    attributes = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 1), "groups": 1}
    of_one_frame = 3 * (3 * 2) * (3 * 9)
    taken, unfold = [], functional.unfold

    def watched(part: torch.Tensor, *how: object) -> torch.Tensor:
        windows = unfold(part, *how)  # type: ignore[arg-type]
        taken.append(windows.numel())
        return windows

    monkeypatch.setattr(whole_sums, "MOST_AT_ONCE", (frames + 1) * of_one_frame - 1)
    monkeypatch.setattr(functional, "unfold", watched)
    whole_sums.convolve(x, weight, attributes)
    assert taken == [of_one_frame * n for n in ([frames] * (7 // frames) + [7 % frames]) if n]


def test_windows_take_a_gigabyte_of_floats_at_most_and_are_not_cut_into_crumbs() -> None:
    assert 2**20 <= whole_sums.MOST_AT_ONCE <= 2**30 // torch.float64.itemsize


@pytest.mark.parametrize("shape", [(7, 4), (3, 7, 4)])
def test_products_and_their_sum_are_a_matrix_product_beyond_what_floats_hold(shape: tuple[int, ...]) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randint(-(2**29), 2**29, (2, 3, 5, 7), generator=random)
    weight = torch.randint(-(2**29), 2**29, shape, generator=random)
    expected = x @ weight
    assert expected.abs().max() > 2**53
    assert torch.equal(whole_sums.sum_of_products(x, weight), expected)


def test_precision_is_lent_not_taken() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with whole_sums.full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
