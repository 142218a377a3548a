import pytest
import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models import LIF
from spikefold.models.backbones.voting import VotingNet

SMALL = {"in_channels": 2, "num_classes": 3, "input_size": 13, "channels": (2, 3), "hidden": 5}


def passing(_):
    return {"neuron": nn.Identity()}


def firing(_):
    return {"neuron": LIF.from_tau(2.0, 0.2)}


def test_ten_neighbouring_outputs_vote_for_a_class():
    net = VotingNet([passing] * 2, passing, **SMALL).eval()
    last = net.classifier[1].linear.module
    last.weight.data.zero_()
    last.bias.data = torch.arange(30.0)
    torch.testing.assert_close(net(torch.rand(4, 2, 2, 13, 13)), torch.tensor([[4.5, 14.5, 24.5]]).expand(2, -1))


def test_scores_are_the_mean_over_time():
    torch.manual_seed(0)
    net = VotingNet([passing] * 2, passing, **SMALL).double().eval()
    x = torch.rand(4, 2, 2, 13, 13, dtype=torch.float64)
    torch.testing.assert_close(net(x), torch.stack([net(x[t : t + 1]) for t in range(4)]).mean(0))


@pytest.mark.parametrize(("pool", "kept"), [(nn.MaxPool2d, 1.0), (nn.AvgPool2d, 0.25)])
def test_spikes_are_pooled_after_the_neuron(pool, kept):
    class Corner(nn.Module):
        """One spike in each 2 x 2 window."""

        def forward(self, x):
            spikes = torch.zeros_like(x)
            spikes[..., ::2, ::2] = 1.0
            return spikes

    net = VotingNet([lambda _: {"neuron": Corner()}] * 2, passing, **SMALL, pool=pool)
    out = net.blocks(torch.rand(4, 2, 2, 13, 13))
    assert out.shape == (4, 2, 3, 3, 3)
    assert torch.equal(out, torch.full_like(out, kept))


def test_each_block_has_a_spiking_layer_of_its_own():
    net = VotingNet([passing, firing], passing, **SMALL)
    assert [type(block.neuron) for block in net.blocks] == [nn.Identity, LIF]
    assert [name for name, _ in net.blocks[1].named_children()] == ["conv", "norm", "neuron", "pool"]
    assert [name for name, _ in net.classifier[0].named_children()] == ["dropout", "linear", "neuron"]


def test_spiking_layers_are_made_for_what_they_get():
    asked = []

    def ask(count):
        asked.append(count)
        return {"neuron": nn.Identity()}

    VotingNet([ask, ask], ask, **SMALL)
    assert asked == [2, 3, 5, 30]


@pytest.mark.parametrize("fc_bias", [True, False])
def test_bias_of_linear_layers_is_an_option(fc_bias):
    state = VotingNet([firing] * 2, firing, **SMALL, fc_bias=fc_bias).state_dict()
    assert [name for name in state if "linear" in name and "bias" in name] == [
        f"classifier.{i}.linear.module.bias" for i in range(2) if fc_bias
    ]
    assert not [name for name in state if "conv" in name and "bias" in name]


def test_dropout_of_a_half_stands_before_the_linear_layers():
    torch.manual_seed(0)
    net = VotingNet([passing] * 2, passing, **SMALL)
    seen = []
    for layer in net.classifier:
        layer.dropout.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    net(torch.rand(4, 2, 2, 13, 13))
    for before, after in seen:
        dropped = after == 0
        assert 0.2 < dropped.float().mean() < 0.8
        torch.testing.assert_close(after[~dropped], 2 * before[~dropped])
    assert len(seen) == 2


def test_vote_is_no_parameter_and_in_no_checkpoint():
    net = VotingNet([firing] * 2, firing, **SMALL)
    assert not [name for name in net.state_dict() if "ballot" in name]
    assert not [name for name, _ in net.named_parameters() if "ballot" in name]


def test_frames_that_pooling_uses_up_are_refused():
    with pytest.raises(InputError, match="input_size = 3: 2 blocks halve the frame; take at least 4"):
        VotingNet([firing] * 2, firing, **{**SMALL, "input_size": 3})


def test_a_block_without_channels_is_refused():
    with pytest.raises(InputError, match=r"channels = \(0, 3\)"):
        VotingNet([firing] * 2, firing, **{**SMALL, "channels": (0, 3)})
