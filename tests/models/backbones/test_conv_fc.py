import pytest
import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models import LIF
from spikefold.models.backbones.conv_fc import ConvFCNet

SMALL = {"in_channels": 2, "num_classes": 3, "input_size": 9, "channels": (2, 3, 4), "hidden": 5}


class Recorder(nn.Module):
    """Passes currents on and keeps their shape."""

    def __init__(self, made_for):
        super().__init__()
        self.made_for, self.shape = made_for, None

    def forward(self, x):
        self.shape = tuple(x.shape)
        return x


def passing(_):
    return {"neuron": nn.Identity()}


def firing(_):
    return {"neuron": LIF(0.3, 0.3, strict=False)}


def test_spiking_layers_are_made_for_what_they_get():
    recorders = []

    def record(count):
        recorders.append(Recorder(count))
        return {"neuron": recorders[-1]}

    net = ConvFCNet(record, record, **SMALL).eval()
    assert net(torch.rand(6, 2, 2, 9, 9)).shape == (2, 3)
    assert [r.made_for for r in recorders] == [2, 3, 4, 5, 3]
    conv_shapes = [(6, 2, 2, 9, 9), (6, 2, 3, 4, 4), (6, 2, 4, 2, 2)]
    assert [r.shape for r in recorders] == [*conv_shapes, (6, 2, 5), (6, 2, 3)]


def test_scores_are_firing_rates():
    torch.manual_seed(0)
    net = ConvFCNet(firing, firing, **SMALL).eval()
    for block in net.classifier:
        block.linear.module.bias.data.uniform_(0.05, 0.4)
    scores = 4 * net(torch.rand(4, 6, 2, 9, 9))
    assert torch.equal(scores, scores.round())
    assert len(scores.unique()) > 2


def test_pooling_comes_after_the_norm_and_before_the_spikes():
    names = [[name for name, _ in block.named_children()] for block in ConvFCNet(firing, firing, **SMALL).blocks]
    assert names[0] == ["conv", "norm", "neuron"]
    assert names[1] == ["conv", "norm", "pool", "neuron"]
    assert names[2] == ["dropout_in", "conv", "norm", "pool", "neuron", "dropout_out"]


def test_dropout_silences_input_and_spikes_of_a_block():
    torch.manual_seed(0)
    ones = {"neuron": nn.Hardtanh(1.0, 1.0 + 1e-9)}  # spikes everywhere
    net = ConvFCNet(lambda _: ones, passing, **SMALL, conv_dropout=(0.5, 0.0, 0.0), fc_dropout=(0.0, 0.0))
    block, x = net.blocks[0], torch.ones(6, 2, 2, 9, 9)
    seen = []
    block.conv.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    out = block(x)
    assert set(seen[0].unique().tolist()) == {0.0, 2.0}
    assert out.unique().tolist() == pytest.approx([0.0, 2.0])
    assert torch.equal(net.blocks[1](out), net.blocks[1](out))
    assert block.eval()(x).unique().tolist() == pytest.approx([1.0])


def test_norm_of_linear_layers_is_an_option():
    plain, normed = (ConvFCNet(firing, passing, **SMALL, fc_norm=norm) for norm in (False, True))
    count = [sum(p.numel() for p in net.parameters()) for net in (plain, normed)]
    assert count[1] - count[0] == 2 * (5 + 3)
    torch.manual_seed(0)
    out = normed.train()(torch.rand(4, 6, 2, 9, 9))  # statistics over steps and samples, before dropout and the mean
    assert out.shape == (6, 3)
    assert normed.classifier[1].norm.module.num_batches_tracked == 1


def test_a_block_without_channels_is_refused():
    with pytest.raises(InputError, match=r"channels = \(2, 0, 4\)"):
        ConvFCNet(firing, firing, **{**SMALL, "channels": (2, 0, 4)})
