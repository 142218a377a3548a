import math

import pytest
import torch
from torch.nn import functional

from spikefold.errors import InputError
from spikefold.models import FSTA
from spikefold.models.attention.fsta import dct_bank


def clip(time_steps=5, channels=4, height=9, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(time_steps, 3, channels, height, width, generator=generator, dtype=torch.float64)


def made(reduction=1, dct="exact"):
    torch.manual_seed(0)
    return FSTA(5, dct, reduction).double()


def step_by_step(module, x):
    """The module as the paper describes it: every channel through W_t and the DCT, then summed."""
    a_t = torch.empty(x.shape[0], x.shape[1], dtype=x.dtype)
    pooled = module.alpha * x.mean((3, 4)) + module.beta * x.amax((3, 4))  # [T, B, C]
    for b in range(x.shape[1]):
        mixed = torch.stack([module.fc_t.weight @ pooled[:, b, c] for c in range(x.shape[2])])
        a_t[:, b] = torch.sigmoid(mixed.mean(0))
    x1 = x * (1 + a_t[:, :, None, None, None])
    filters = dct_bank().unsqueeze(1).expand(-1, x.shape[2], -1, -1)
    spectrum = functional.conv2d(x1.mean(0), filters, padding=3)
    a_s = torch.sigmoid(module.freq_conv(spectrum))
    x2 = x1 * (1 + a_s)
    return (module.t * x1 + module.s * x2) / 2


@pytest.mark.parametrize("reduction", [1, 16])
def test_sum_first_form_equals_the_step_by_step_form(reduction):
    module, x = made(reduction), clip()
    torch.testing.assert_close(module(x), step_by_step(module, x), atol=1e-7, rtol=0)


def test_gate_lies_in_its_range_and_is_the_same_for_all_channels():
    gate = made().gate(clip())
    assert gate.shape == (5, 3, 1, 9, 8)
    assert gate.min() > 0.55
    assert gate.max() < 1.6


def test_dct_atoms_are_orthonormal():
    bank = dct_bank().reshape(49, 49)
    torch.testing.assert_close(bank @ bank.T, torch.eye(49, dtype=torch.float64))


def test_row_frequency_varies_fastest():
    bank = dct_bank()
    c0, c1 = math.sqrt(1 / 7), math.sqrt(2 / 7)
    for i in range(7):
        along_rows = c1 * math.cos(math.pi * (2 * i + 1) / 14) * c0
        torch.testing.assert_close(bank[1, i], torch.full((7,), along_rows, dtype=torch.float64))
        torch.testing.assert_close(bank[7, :, i], torch.full((7,), along_rows, dtype=torch.float64))


def test_printed_table_has_the_printed_digits():
    exact, printed = dct_bank(), dct_bank("printed")
    assert 1e-6 < (exact - printed).abs().max() <= 5.0001e-5
    assert printed[0, 0, 0].item() == 0.1429
    assert printed[1, 0, 0].item() == 0.19697
    assert printed[1, 3, 0].item() == 0.0
    assert printed[2, 0, 0].item() == round(exact[2, 0, 0].item(), 4)


def test_table_is_used_and_stays_out_of_the_state_dict():
    exact, printed = made(dct="exact"), made(dct="printed")
    assert "dct_filters" not in exact.state_dict()
    assert not torch.equal(exact(clip()), printed(clip()))


def test_all_parameters_learn():
    module = made()
    module(clip()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_another_number_of_steps_is_refused():
    with pytest.raises(InputError, match=r"FSTA: input has T = 4 .* made for 5"):
        made()(clip(4))


def test_another_rank_is_refused():
    with pytest.raises(InputError, match=r"expected \[T, B, C, H, W\]"):
        made()(clip()[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "time_steps = 0"), ((4, "rounded"), "dct = 'rounded'"), ((4, "exact", 0), "reduction = 0"),
     ((4, "exact", 50), "reduction = 50")],
)  # fmt: skip
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        FSTA(*arguments)
