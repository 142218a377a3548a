import pytest
import torch
from torch import nn
from torch.nn import functional

from spikefold.errors import InputError
from spikefold.models import LIF
from spikefold.models.attention.sma import KERNELS, SMA
from spikefold.models.backbones.vgg8 import VGG8

WIDTHS = (8, 16, 32, 64, 64)


class Kept(nn.Module):
    """Stands for a neuron or an attention module and lets its input pass."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels
        self.seen = None

    def forward(self, x):
        self.seen = x.shape
        return x


def made(before_norm=None, width=8, size=32):
    torch.manual_seed(0)
    layer = lambda channels: {"neuron": Kept(channels)}  # noqa: E731
    return VGG8(layer, layer, 2, 5, size, width, before_norm).eval()


def test_blocks_halve_the_frame_and_their_widths_scale():
    net = made(size=64)
    assert net(torch.rand(3, 2, 2, 64, 64)).shape == (2, 5)
    for block, channels, size in zip(net.blocks, WIDTHS, (64, 32, 16, 8, 4), strict=True):
        assert block.neuron.channels == channels
        assert block.neuron.seen == (3, 2, channels, size, size)
    assert [layer.neuron.seen for layer in net.hidden] == [(3, 2, 256), (3, 2, 128)]
    assert net.readout.module.out_features == 5


def test_layers_of_a_block_stand_in_the_published_order():
    net = made(Kept)
    assert list(dict(net.blocks[1].named_children())) == ["conv", "before_norm", "norm", "neuron", "pool"]
    assert isinstance(net.blocks[1].pool.module, nn.MaxPool2d)
    assert all(isinstance(block.conv.module.bias, nn.Parameter) for block in net.blocks)


def test_second_and_third_block_alone_take_a_module_before_their_norm():
    net = made(Kept)
    assert [hasattr(block, "before_norm") for block in net.blocks] == [False, True, True, False, False]
    assert [net.blocks[n].before_norm.channels for n in (1, 2)] == [16, 32]


def test_convolutional_and_linear_layers_get_the_layer_of_their_own():
    net = VGG8(lambda _: {"neuron": LIF()}, lambda n: {"fc_neuron": Kept(n)}, 2, 5, 32, 8)
    assert all(hasattr(block, "neuron") for block in net.blocks)
    assert [layer.fc_neuron.channels for layer in net.hidden] == [256, 128]


def test_scores_are_the_mean_over_steps():
    net, x = made(), torch.rand(3, 2, 2, 32, 32)
    alone = torch.stack([net(x[t : t + 1]) for t in range(3)])
    torch.testing.assert_close(net(x), alone.mean(0))


def test_dropout_of_a_half_follows_both_hidden_layers_in_training_alone():
    net, x = made(), torch.rand(1, 2, 2, 32, 32)
    assert [layer.dropout.p for layer in net.hidden] == [0.5, 0.5]
    assert torch.equal(net(x), net(x))
    net.hidden.train()
    assert not torch.equal(net(x), net(x))


def test_convolution_and_a_branch_are_one_larger_convolution_away_from_the_border():
    torch.manual_seed(0)
    net = made(lambda channels: SMA(channels, 2)).double()
    block = net.blocks[1]
    x = torch.randn(2, 1, 8, 13, 13, dtype=torch.float64)
    first = block.conv.module
    for kernel, branch in zip(KERNELS, block.before_norm.branches, strict=True):
        second = branch.conv.module
        chained = branch.conv(block.conv(x)).flatten(0, 1)
        grown = functional.pad(first.weight.transpose(0, 1), [kernel - 1] * 4)
        weight = functional.conv2d(grown, second.weight.flip(2, 3)).transpose(0, 1)
        assert weight.shape[2:] == (kernel + 2, kernel + 2)
        bias = second.bias + second.weight.sum((2, 3)) @ first.bias
        at_once = functional.conv2d(x.flatten(0, 1), weight, bias, padding=kernel // 2 + 1)
        edge = kernel // 2
        inside = slice(edge, 13 - edge)
        torch.testing.assert_close(at_once[..., inside, inside], chained[..., inside, inside], atol=1e-12, rtol=0)
        assert torch.allclose(at_once, chained) == (edge == 0)


@pytest.mark.parametrize(("arguments", "message"), [({"size": 31}, "input_size = 31"), ({"width": 0}, "width = 0")])
def test_impossible_sizes_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        made(**arguments)
