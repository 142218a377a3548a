import pytest
import torch

from spikefold.errors import InputError
from spikefold.models import ASA


def clip(batch=3, time_steps=6, channels=8, seed=0):
    return torch.randn(time_steps, batch, channels, 5, 7, generator=torch.Generator().manual_seed(seed))


def made(time_steps=6, **settings):
    torch.manual_seed(0)
    return ASA(time_steps, **settings)


def step_by_step(module, x):
    """One sample at a time, one selected entry at a time."""
    T, B, C, _, _ = x.shape
    out = torch.empty_like(x)
    for b in range(B):
        average, maximum = x[:, b].mean((2, 3)), x[:, b].amax((2, 3))  # [T, C]
        importance = module.fc((0.5 * (average + maximum) + module.alpha * average + module.beta * maximum).T).T
        by_channel, by_step = torch.zeros(T, C), torch.zeros(T, C)
        for t in range(T):
            by_channel[t, importance[t].argsort(descending=True)[: int(C * module.lam)]] = 1
        for c in range(C):
            by_step[importance[:, c].argsort(descending=True)[: int(T * module.lam)], c] = 1
        mask = ((by_channel + by_step) == 1).float()[:, :, None, None]
        parts = []
        for conv, group, share in (
            (module.conv1, mask, module.lam),
            (module.conv2, 1 - mask, 1 - module.lam),
        ):
            entries = (group * x[:, b]).reshape(T * C, *x.shape[3:])
            pooled = torch.stack([entries.mean(0) / share, entries.amax(0)])
            parts.append(torch.sigmoid(conv(pooled[None]))[0] * group * x[:, b])
        out[:, b] = parts[0] + parts[1]
    return out


@pytest.mark.parametrize("settings", [{}, {"reduction": 2}, {"lam": 0.25}])
def test_module_equals_the_step_by_step_form(settings):
    module = made(**settings)
    if "reduction" in settings:  # a hidden layer that ReLU silences would make ties, which any order may break
        module.fc[0].weight.data.abs_()
    torch.testing.assert_close(module(clip()), step_by_step(module, clip()))


def test_batch_union_is_another_mask_for_different_samples():
    assert not torch.equal(made().mask(clip()), made(mask_mode="batch_union").mask(clip()))


def test_batch_union_marks_every_sample_with_all_selections():
    union = made(mask_mode="batch_union").mask(clip())
    assert union.shape == (6, 3, 8)
    assert torch.equal(union[:, 0], union[:, 2])


def test_batch_union_is_the_same_for_identical_samples():
    x = clip(1).expand(-1, 4, -1, -1, -1)
    torch.testing.assert_close(made()(x), made(mask_mode="batch_union")(x))


@pytest.mark.parametrize("mode", ["per_sample", "batch_union"])
def test_batch_of_one_works(mode):
    x = clip(1)
    assert made(mask_mode=mode)(x).shape == x.shape


def test_result_of_a_sample_does_not_depend_on_its_batch():
    module, x = made(), clip()
    torch.testing.assert_close(module(x)[:, 1:2], module(x[:, 1:2]))


def test_gate_lies_between_zero_and_one():
    gate = made().gate(clip())
    assert gate.min() > 0
    assert gate.max() < 1


def test_importance_receives_no_gradient_and_the_maps_do():
    module = made()
    module(clip()).square().sum().backward()
    assert module.alpha.grad is None
    assert module.beta.grad is None
    assert module.fc.weight.grad is None
    assert module.conv1.weight.grad.abs().sum() > 0
    assert module.conv2.weight.grad.abs().sum() > 0


def test_another_number_of_steps_is_refused():
    with pytest.raises(InputError, match=r"ASA: input has T = 5 .* made for 6"):
        made()(clip(time_steps=5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"lam": 1.0}, r"lam = 1\.0"), ({"mask_mode": "mean"}, "mask_mode = 'mean'"), ({"reduction": 7}, "reduction = 7"),
     ({"time_steps": 0}, "time_steps = 0")],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        made(**settings)
