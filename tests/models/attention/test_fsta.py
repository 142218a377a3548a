import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from spikefold.errors import InputError
from spikefold.models import FSTA, load_released
from spikefold.models.attention.fsta import dct_bank

NAMES = Path(__file__).parents[1] / "released_names"
DEAD = {"dct.x", "dct.t_scale", "dct.s_scale"}


def clip(time_steps=5, channels=4, height=9, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(time_steps, 3, channels, height, width, generator=generator, dtype=torch.float64)


def made(reduction=1, dct="exact"):
    torch.manual_seed(0)
    return FSTA(5, dct, reduction).double()


def released_weights(name, seed=0):
    """A random state dict with a release's names and shapes."""
    generator = torch.Generator().manual_seed(seed)
    lines = [line.split() for line in (NAMES / f"{name}.txt").read_text().splitlines()]
    assert {words[0] for words in lines if words[2:] == ["dead"]} == DEAD
    return {words[0]: torch.randn([int(n) for n in words[1].split(",")], generator=generator) for words in lines}


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
    maps = functional.conv2d(spectrum, module.freq_conv.weight, padding=3)
    if module.freq_out is not None:
        maps = functional.conv2d(maps.clamp(min=0), module.freq_out.weight, padding=3)
    a_s = torch.sigmoid(maps)
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


def test_printed_atoms_are_orthonormal_but_for_their_digits():
    bank = dct_bank("printed").reshape(49, 49)
    constant_atom = 49 * 0.1429**2 - 1  # 6.0009e-4, the largest deviation
    torch.testing.assert_close(bank @ bank.T, torch.eye(49, dtype=torch.float64), atol=constant_atom + 1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_changed_table_is_the_one_made_with(dtype):
    changed, printed = made(dct="exact").to(dtype), made(dct="printed").to(dtype)
    changed.use_table("printed")
    assert changed.dct == "printed"
    assert changed.dct_filters.dtype == dtype
    assert torch.equal(changed.dct_filters, printed.dct_filters)
    assert torch.equal(changed(clip().to(dtype)), printed(clip().to(dtype)))
    changed.use_table("exact")
    assert torch.equal(changed.dct_filters, made().to(dtype).dct_filters)


def test_unknown_table_is_refused_and_leaves_the_old_one():
    module = made()
    with pytest.raises(InputError, match="dct = 'rounded'"):
        module.use_table("rounded")
    assert module.dct == "exact"


def test_parameter_names_of_shipped_checkpoints_stay():
    assert set(FSTA(4).state_dict()) == {"alpha", "beta", "t", "s", "fc_t.weight", "freq_conv.weight"}


@pytest.mark.parametrize(("reduction", "total"), [(1, 16 + 2401 + 7), (16, 7373)])
def test_parameters_with_dead_ones_are_the_releases(reduction, total):
    module = FSTA(4, reduction=reduction, dead_parameters=True)
    assert sum(p.numel() for p in module.parameters()) == total
    assert sum(p.numel() for p in FSTA(4, reduction=reduction).parameters()) == total - 3


def test_dead_parameters_change_nothing_and_learn_nothing():
    torch.manual_seed(0)
    module = FSTA(5, dead_parameters=True).double()
    out = module(clip())
    assert torch.equal(out, made()(clip()))
    out.sum().backward()
    assert all(p.grad is None for p in module.unused.parameters())


@pytest.mark.parametrize(
    ("name", "time_steps", "reduction"), [("fsta_lif", 4, 1), ("fsta_lif_r16", 4, 16), ("fsta_lif_4x4", 3, 1)]
)
@pytest.mark.parametrize("dead_parameters", [False, True])
def test_released_module_is_read_by_its_own_names(name, time_steps, reduction, dead_parameters):
    module, weights = FSTA(time_steps, reduction=reduction, dead_parameters=dead_parameters), released_weights(name)
    report = load_released(module, weights)
    assert set(report.dead) == DEAD
    expected = {
        "alpha": weights["dct.alpha"],
        "beta": weights["dct.beta"],
        "t": weights["dct.t"],
        "s": weights["dct.s"],
        "fc_t.weight": weights["dct.fc_t.weight"],
        "freq_conv.weight": weights["dct.freq_attention.freq_attention.0.weight"],
    }
    if reduction > 1:
        expected["freq_out.weight"] = weights["dct.freq_attention.freq_attention.2.weight"]
    if dead_parameters:
        expected |= {f"unused.{key}": weights[f"dct.{key}"] for key in ("x", "t_scale", "s_scale")}
    found = module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_released_weights_bring_the_printed_table():
    module = FSTA(4)
    load_released(module, released_weights("fsta_lif"))
    assert torch.equal(module.dct_filters, FSTA(4, "printed").dct_filters)


def test_released_module_of_another_form_is_refused_by_name():
    module = FSTA(4)
    with pytest.raises(InputError, match=r"freq_attention\.2\.weight: unknown"):
        load_released(module, released_weights("fsta_lif_r16"))
    assert module.dct == "exact"


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
