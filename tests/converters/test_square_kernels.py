"""The same convolution in one group with a square kernel, against torch on the original."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from spikefold.converters.fixed_point_graph import Synapse
from spikefold.converters.square_kernels import squared, ungrouped
from spikefold.errors import LoweringError


def synapse(kernel: tuple[int, int], groups: int, **conv: tuple[int, int]) -> Synapse:
    weight = np.random.default_rng(0).integers(-9, 9, (4, 4 // groups, *kernel)) * 2
    return Synapse("conv", "input", "one", "conv", weight, groups=groups, **conv)  # type: ignore[arg-type]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    ("kernel", "conv"),
    [
        ((3, 1), {}), ((1, 5), {"padding": (0, 2), "dilation": (1, 2)}), ((3, 3), {"stride": (2, 1)}),
        ((2, 1), {"stride": (2, 2)}), ((3, 4), {"stride": (3, 3), "padding": (1, 0)}),
        ((1, 4), {"stride": (4, 4), "dilation": (1, 1)}),
    ],
)  # fmt: skip
def test_a_square_kernel_gives_the_same_numbers(
    kernel: tuple[int, int], conv: dict[str, tuple[int, int]], groups: int
) -> None:
    s = synapse(kernel, groups, **conv)
    x = torch.from_numpy(np.random.default_rng(1).integers(0, 5, (2, 4, 12, 11))).double()
    wanted = functional.conv2d(x, torch.from_numpy(s.weight).double(), **s.conv_attributes)
    weight, padding = squared(s, ungrouped(s.weight.astype(np.float32), groups), (4, 12, 11))
    assert weight.shape[2] == weight.shape[3]
    assert weight.shape[1] == 4
    found = functional.conv2d(x, torch.from_numpy(weight).double(), None, s.stride, padding, s.dilation)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_a_kernel_with_no_square_form_is_refused_by_name() -> None:
    s = synapse((2, 1), 1)
    with pytest.raises(LoweringError, match=r"synapse 'conv': kernel 2 x 1 has no square form"):
        squared(s, s.weight.astype(np.float32), (4, 12, 11))
