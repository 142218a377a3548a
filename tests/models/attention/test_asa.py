import pytest
import torch

from spikefold.errors import InputError
from spikefold.models import ASA, load_released


def clip(batch=3, time_steps=6, channels=8, seed=0):
    return torch.randn(time_steps, batch, channels, 5, 7, generator=torch.Generator().manual_seed(seed))


def made(time_steps=6, **settings):
    torch.manual_seed(0)
    return ASA(time_steps, **settings)


def selections(module, x):
    """One set of selected (step, channel) a sample: best channels of each step, and best steps of each channel."""
    T, B, C, _, _ = x.shape
    by_channel, by_step = [], []
    for b in range(B):
        average, maximum = x[:, b].mean((2, 3)), x[:, b].amax((2, 3))  # [T, C]
        importance = module.fc((0.5 * (average + maximum) + module.alpha * average + module.beta * maximum).T).T
        keep_channels, keep_steps = int(C * module.lam), int(T * module.lam)
        by_channel.append(
            {(t, int(c)) for t in range(T) for c in importance[t].argsort(descending=True)[:keep_channels]}
        )
        by_step.append({(int(t), c) for c in range(C) for t in importance[:, c].argsort(descending=True)[:keep_steps]})
    return by_channel, by_step


def step_by_step(module, x):
    """One sample at a time, one selected entry at a time."""
    T, B, C, _, _ = x.shape
    out = torch.empty_like(x)
    by_channel, by_step = selections(module, x)
    if module.mask_mode == "batch_union":
        by_channel, by_step = [set.union(*by_channel)] * B, [set.union(*by_step)] * B
    for b in range(B):
        one, two = by_channel[b], by_step[b]
        important = {"xor": one ^ two, "and": one & two, "or": one | two}[module.mask_rule]
        mask = torch.zeros(T, C, 1, 1)
        for entry in important:
            mask[entry] = 1
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


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"reduction": 2},
        {"lam": 0.25},
        {"mask_rule": "and"},
        {"mask_rule": "or"},
        {"mask_mode": "batch_union"},
        {"mask_mode": "batch_union", "mask_rule": "or", "lam": 0.2},
        {"time_steps": 1},
        {"lam": 0.1},
    ],
)
def test_module_equals_the_step_by_step_form(settings):
    module = made(**settings)
    if "reduction" in settings:  # a hidden layer that ReLU silences would make ties, which any order may break
        module.fc[0].weight.data.abs_()
    x = clip(time_steps=module.time_steps)
    torch.testing.assert_close(module(x), step_by_step(module, x))


def test_a_single_step_selects_channels_alone():
    module, x = made(time_steps=1), clip(time_steps=1)
    by_channel, by_step = selections(module, x)
    assert by_step == [set()] * 3
    marked = [{(0, int(c)) for c in module.mask(x)[0, b].nonzero()[:, 0]} for b in range(3)]
    assert marked == by_channel
    assert all(len(entries) == 4 for entries in marked)


def test_rules_differ_in_what_is_important():
    xor, both, either = (made(mask_rule=rule).mask(clip()) for rule in ("xor", "and", "or"))
    assert torch.equal(xor + both, either)
    assert torch.equal(xor * both, torch.zeros_like(xor))
    assert both.sum() > 0


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
    [({"lam": 1.0}, r"lam = 1\.0"), ({"mask_mode": "mean"}, "mask_mode = 'mean'"),
     ({"mask_rule": "nor"}, "mask_rule = 'nor'"), ({"reduction": 7}, "reduction = 7"),
     ({"time_steps": 0}, "time_steps = 0")],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        made(**settings)


@pytest.mark.parametrize(
    ("reduction", "time_steps", "mixing"),
    [(1, 4, {"fc.weight": (4, 4)}), (2, 8, {"fc.0.weight": (4, 8), "fc.2.weight": (8, 4)})],
)
def test_released_weights_of_the_bare_module_are_read(reduction, time_steps, mixing):
    shapes = {"alpha": (1,), "beta": (1,), **mixing, "conv1.weight": (1, 2, 3, 3), "conv2.weight": (1, 2, 3, 3)}
    released = {name: torch.randn(shape) for name, shape in shapes.items()}
    module = ASA(time_steps, reduction)
    assert load_released(module, released).dead == ()
    assert all(torch.equal(tensor, released[name]) for name, tensor in module.state_dict().items())
    with pytest.raises(InputError, match=r"conv2\.weight: missing"):
        load_released(module, {name: tensor for name, tensor in released.items() if name != "conv2.weight"})
    with pytest.raises(InputError, match="gamma: unknown"):
        load_released(module, {**released, "gamma": torch.zeros(1)})
    with pytest.raises(InputError, match=r"alpha is \(3,\); expected \(1,\)"):
        load_released(module, {**released, "alpha": torch.zeros(3)})
