import numpy as np
import pytest
import torch

from sma_step_by_step import ByHand, as_arrays, differing, random_weights, released_shapes, spikes_of
from spikefold.errors import InputError
from spikefold.models import LIF, load_released
from spikefold.models.attention.sma import AZO, KERNELS, SMA

RELEASED = released_shapes("sma_module")  # 8 channels, 4 steps, reductions 4 and 2


def clip(batch=3, size=6, seed=0, time_steps=4):
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randn(time_steps, batch, 8, size, size, generator=generator, dtype=torch.float64)


def made(form="spikes", azo=None, seed=0):
    """A module with random weights and the same weights as arrays."""
    weights = random_weights(RELEASED, seed)
    module = SMA(8, 4, 4, 2, form, azo)
    load_released(module, weights)
    return module.double().eval(), as_arrays(weights)


def test_event_form_equals_the_equations_spike_for_spike():
    module, arrays = made()
    by_hand = ByHand(arrays)
    expected = by_hand.sma(clip().numpy())
    out, spikes = spikes_of(module, LIF, clip())
    assert differing(spikes, by_hand.spikes) == 0
    np.testing.assert_allclose(out, expected, atol=1e-9, rtol=0)


def test_relu_form_equals_the_equations():
    module, arrays = made("relu")
    out, spikes = spikes_of(module, LIF, clip())
    assert not spikes
    np.testing.assert_allclose(out, ByHand(arrays).sma(clip().numpy(), form="relu"), atol=1e-9, rtol=0)


@pytest.mark.parametrize("ratios", [(2, 2), (1, 1), (4, 8), (2, 3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_zone_out_equals_replacement_entry_by_entry(ratios, seed):
    module, arrays = made(azo=AZO(*ratios), seed=seed)
    by_hand = ByHand(arrays)
    expected = by_hand.sma(clip(seed=seed).numpy(), ratios=ratios, training=True)
    out, spikes = spikes_of(module.train(), LIF, clip(seed=seed))
    assert differing(spikes, by_hand.spikes) == 0
    np.testing.assert_allclose(out, expected, atol=1e-9, rtol=0)


def test_weights_of_the_scales_add_up_to_one():
    module, _ = made()
    time_weights, channel_weights = module.weights(4.0 * torch.rand(4, 3, 8, dtype=torch.float64))
    assert time_weights.shape == (4, 4, 3)
    assert channel_weights.shape == (4, 4, 3, 8)
    torch.testing.assert_close(time_weights.sum(0), torch.ones(4, 3, dtype=torch.float64))
    torch.testing.assert_close(channel_weights.sum(0), torch.ones(4, 3, 8, dtype=torch.float64))


def test_equal_branches_are_scaled_by_the_summed_weights():
    module, _ = made()
    first = module.branches[0]
    for kernel, branch in zip(KERNELS, module.branches, strict=True):
        branch.load_state_dict({**first.state_dict(), "conv.module.weight": branch.conv.module.weight.detach()})
        weight = torch.zeros_like(branch.conv.module.weight)
        weight[:, :, kernel // 2, kernel // 2] = first.conv.module.weight.detach()[:, :, 0, 0]
        branch.conv.module.weight.data = weight
    with torch.no_grad():
        spikes = first(clip())
        time_weights, channel_weights = module.weights(4.0 * spikes.mean((3, 4)))
        out = module(clip())
    assert spikes.mean() > 0.01
    summed = (time_weights[..., None] * channel_weights).sum(0)
    torch.testing.assert_close(out, spikes * summed[..., None, None])
    assert (out <= spikes).all()


def test_zone_out_acts_in_training_alone():
    with_azo, _ = made(azo=AZO(2, 2))
    without, _ = made()
    assert torch.equal(with_azo(clip()), without(clip()))
    assert not torch.equal(with_azo.train()(clip()), without.train()(clip()))


def test_zone_out_takes_no_random_number():
    module, _ = made(azo=AZO(2, 2))
    module.train()
    first = module(clip())
    torch.manual_seed(99)
    assert torch.equal(module(clip()), first)


def test_zone_out_changes_chosen_steps_and_channels_only():
    with_azo, _ = made(azo=AZO(2, 4))
    without, _ = made()
    chosen = []
    azo = with_azo.azo

    class Kept:
        def replaced(self, *weights):
            chosen.append(azo.replaced(*weights))
            return chosen[-1]

    with_azo.azo = Kept()
    changed = (with_azo.train()(clip()) != without.train()(clip())).any(4).any(3).any(1)
    anywhere = torch.stack(chosen).any(0)
    assert changed.any()
    assert not (changed & ~anywhere).any()
    assert not changed[0].any()


def test_steps_and_channels_are_chosen_by_sums_over_the_batch():
    time_weights = torch.tensor([[0.9, 0.1], [0.2, 0.3], [0.4, 0.7], [0.1, 0.3]])  # steps 3 and 1 are least
    channel_weights = torch.full((4, 2, 3), 0.5)
    channel_weights[0] = torch.tensor([0.0, 0.9, 0.9])  # of a step that is not chosen
    channel_weights[1] = torch.tensor([[0.9, 0.1, 0.5], [0.9, 0.8, 0.5]])
    channel_weights[3, 1, 2] = 0.3
    replaced = AZO(2, 3).replaced(time_weights, channel_weights)  # channel 2: 0.5 + 0.5 + 0.5 + 0.3 = 1.8
    expected = torch.zeros(4, 3, dtype=torch.bool)
    expected[[1, 3], 2] = True
    assert torch.equal(replaced, expected)


def test_step_zero_helps_to_choose_channels_but_is_not_replaced():
    time_weights = torch.tensor([[0.1], [0.2], [0.9]])
    channel_weights = torch.tensor([[[0.1, 0.9]], [[0.5, 0.4]], [[0.5, 0.5]]])
    assert AZO(1, 2).replaced(time_weights, channel_weights).tolist() == [[False] * 2, [True, False], [True, False]]


@pytest.mark.parametrize("time_ratio", [3, 4])
def test_step_zero_alone_or_no_step_replaces_nothing(time_ratio):
    time_weights = torch.tensor([[0.1], [0.2], [0.9]])
    assert not AZO(time_ratio, 1).replaced(time_weights, torch.rand(3, 1, 4)).any()


def test_a_clip_of_one_step_trains_with_zone_out():
    torch.manual_seed(0)
    module = SMA(8, 1, azo=AZO(1, 1))
    x = clip(time_steps=1).float()
    module(x).sum().backward()
    assert torch.isfinite(module.channel_squeeze.weight.grad).all()


@pytest.mark.parametrize("form", ["spikes", "relu"])
def test_all_parameters_learn(form):
    module, _ = made(form, AZO(2, 2))
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(clip().shape, generator=generator, dtype=torch.float64)
    (module.train()(clip()) * weight).sum().backward()
    silent = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


def test_a_batch_of_one_is_its_sample_of_a_larger_batch():
    module, _ = made()
    torch.testing.assert_close(module(clip()[:, 1:2]), module(clip())[:, 1:2])


def test_parameters_are_as_many_as_released():
    assert sum(p.numel() for p in SMA(8, 4, 4, 2).parameters()) == 5644


@pytest.mark.parametrize(
    ("time_steps", "reduction", "hidden"), [(6, 1.5, 4), (16, 4, 4), (10, 4, 2), (14, 4, 3), (3, 4, 1)]
)
def test_hidden_units_over_time(time_steps, reduction, hidden):
    assert SMA(4, time_steps, 4, reduction).time_squeeze.out_features == hidden


def test_norms_of_the_relu_form_start_at_a_half():
    for form, start in (("relu", 0.5), ("spikes", 1.0)):
        for branch in SMA(4, 4, form=form).branches:
            assert branch.norm.module.weight.tolist() == [start] * 4


def test_module_can_be_exported():
    module, _ = made(azo=AZO(2, 2))
    exported = torch.export.export(module, (clip(),))
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(clip()), module(clip()))


def test_released_weights_arrive_where_they_belong():
    weights = random_weights(RELEASED)
    module = SMA(8, 4, 4, 2)
    report = load_released(module, weights)
    assert set(report.loaded) == set(weights)
    assert set(report.loaded.values()) == set(module.state_dict())
    assert (report.dead, report.aliases) == ((), ())
    assert torch.equal(module.branches[2].conv.module.weight, weights["S_Convs.2.conv.weight"])
    assert torch.equal(module.branches[3].norm.module.running_var, weights["S_Convs.3.bn.running_var"])
    assert torch.equal(module.channel_logits[1].weight, weights["C_after_attention_convs.1.weight"][:, :, 0, 0])
    assert torch.equal(module.time_squeeze.weight, weights["T_before_attention_conv.weight"][:, :, 0, 0, 0])


def test_missing_surplus_and_wrongly_shaped_weights_are_named():
    weights = random_weights(RELEASED)
    del weights["T_after_attention_convs.2.bias"]
    weights["S_Convs.4.conv.bias"] = torch.zeros(8)
    weights["C_before_attention_conv.bias"] = torch.zeros(3)
    module = SMA(8, 4, 4, 2)
    before = module.channel_squeeze.weight.clone()
    with pytest.raises(InputError) as error:
        load_released(module, weights)
    for part in (
        "S_Convs.4.conv.bias: unknown",
        "C_before_attention_conv.bias is (3,); expected (2,)",
        "time_logits.2.bias: missing",
    ):
        assert part in str(error.value)
    assert torch.equal(module.channel_squeeze.weight, before)


def test_another_number_of_steps_or_channels_is_refused():
    module, _ = made()
    with pytest.raises(InputError, match=r"SMA: input has T = 3 .* made for 4"):
        module(clip()[:3])
    with pytest.raises(InputError, match=r"SMA: input has 7 channels; .* made for 8"):
        module(clip()[:, :, :7])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 4), "channels = 0"), ((4, 0), "time_steps = 0"), ((4, 4, 0), "c_reduction = 0"),
     ((4, 4, 4, 0.5), "t_reduction = 0.5"), ((4, 4, 4, float("nan")), "t_reduction = nan"),
     ((4, 4, 4, 4, "graded"), "form = 'graded'")],
)  # fmt: skip
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        SMA(*arguments)


@pytest.mark.parametrize(("ratios", "message"), [((0, 1), "time_ratio = 0"), ((1, -1), "channel_ratio = -1")])
def test_impossible_ratios_are_refused(ratios, message):
    with pytest.raises(InputError, match=message):
        AZO(*ratios)
