import pytest
import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models import LIF
from spikefold.models.backbones.dta_resnet import DTABlock, DTAResNet


def layer(channels):
    return {"neuron": LIF(0.5, 1.0)}


def test_factories_are_asked_for_the_channels_of_each_current():
    asked = {"encoding": [], "layer": []}

    def record(kind):
        def make(channels):
            asked[kind].append(channels)
            return {"neuron": nn.Identity()}

        return make

    with torch.device("meta"):
        DTAResNet(record("encoding"), record("layer"), 2, 10)
    assert asked["encoding"] == [64]
    first, second, third = [64, 128, 128, 128, 128, 128], [128, 256, 256, 256, 256, 256], [256, 512, 512, 512]
    assert asked["layer"] == [*first, *second, *third, 512]


def test_width_scales_every_stage():
    with torch.device("meta"):
        net = DTAResNet(None, layer, 2, 10, width=32)
    assert net.stem.conv.module.out_channels == 16
    assert [stage[-1].conv2.module.out_channels for stage in net.stages] == [32, 64, 128]
    assert net.readout.module.in_features == 128


def test_second_and_third_stage_halve_the_map():
    net = DTAResNet(None, layer, 2, 10, width=4)
    x = torch.zeros(3, 2, 2, 9, 12)
    sizes = []
    for stage in net.stages:
        stage.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[3:])))
    assert net(x).shape == (2, 10)
    assert sizes == [(9, 12), (5, 6), (3, 3)]


def test_encoding_stands_between_stem_and_first_block():
    class Silence(nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    torch.manual_seed(0)
    net = DTAResNet(lambda _: {"silence": Silence()}, layer, 2, 10, width=4).eval()
    one, other = torch.rand(3, 1, 2, 8, 8), torch.rand(3, 1, 2, 8, 8)
    with torch.no_grad():
        assert torch.equal(net(one), net(other))
        net.encoding = nn.Identity()
        assert not torch.equal(net.stages(net.encoding(net.stem(one))), net.stages(net.encoding(net.stem(other))))


def test_only_blocks_that_change_channels_or_size_have_a_convolution_beside_them():
    with torch.device("meta"):
        net = DTAResNet(None, layer, 2, 10)
    beside = [[not isinstance(block.shortcut, nn.Identity) for block in stage] for stage in net.stages]
    assert beside == [[True, False, False], [True, False, False], [True, False]]
    assert not isinstance(DTABlock(layer, 4, 4, 2).shortcut, nn.Identity)


def test_block_adds_its_input_current_behind_both_norms():
    torch.manual_seed(0)
    block = DTABlock(layer, 4, 4, 1).eval()
    nn.init.zeros_(block.norm2.module.weight)
    x = torch.randn(3, 2, 4, 5, 5)
    assert torch.equal(block(x), x)  # the current itself, not its spikes


def test_a_width_without_room_for_the_stem_is_refused():
    with pytest.raises(InputError, match="width = 1: must be at least 2"):
        DTAResNet(None, layer, 2, 10, width=1)
