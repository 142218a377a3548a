import pytest
import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models import LIF
from spikefold.models.backbones.ms_resnet import BLOCKS, MSBlock, MSResNet


def spiking(_):
    return {"neuron": LIF(surrogate="window")}


def made(depth=18, size=32, width=4, shortcut="membrane", before_norm=None):
    torch.manual_seed(0)
    return MSResNet(spiking, 2, 5, size, depth, width, shortcut, before_norm).eval()


def convolutions(module):
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize("depth", [18, 34, 104])
def test_stem_and_every_stage_halve_the_frame_and_widths_scale(depth):
    with torch.device("meta"):
        net = made(depth, 64)
        stream = net.stem(torch.empty(2, 3, 2, 64, 64))
        assert stream.shape == (2, 3, 4, 32, 32)
        for stage, blocks, channels, size in zip(net.stages, BLOCKS[depth], (4, 8, 16, 32), (16, 8, 4, 2), strict=True):
            assert len(stage) == blocks
            stream = stage(stream)
            assert stream.shape == (2, 3, channels, size, size)
        assert net(torch.empty(2, 3, 2, 64, 64)).shape == (3, 5)


def test_stems_have_no_neuron_and_no_pooling():
    for depth, kernels in ((18, [7]), (34, [7]), (104, [3, 3, 3])):
        stem = made(depth).stem
        assert [conv.kernel_size[0] for conv in convolutions(stem)] == kernels
        assert [conv.stride[0] for conv in convolutions(stem)] == [2, 1, 1][: len(kernels)]
        kinds = {type(m) for m in stem.modules() if not list(m.children())}
        assert kinds == {nn.Conv2d, nn.BatchNorm2d}


def test_no_convolution_has_a_bias():
    assert all(conv.bias is None for conv in convolutions(made()))


@pytest.mark.parametrize("depth", [18, 34, 104])
def test_first_block_of_a_stage_alone_maps_its_shortcut(depth):
    net = made(depth)
    for stage in net.stages:
        assert [block.shortcut is not None for block in stage] == [True] + [False] * (len(stage) - 1)
        kinds = [type(layer.module) for layer in stage[0].shortcut]
        pooling = [nn.AvgPool2d] if depth == 104 else []
        assert kinds == [*pooling, nn.Conv2d, nn.BatchNorm2d]
        assert stage[0].shortcut.conv.module.stride == ((1, 1) if depth == 104 else (2, 2))


def test_norms_start_at_a_half_and_those_that_end_a_residual_function_at_zero():
    net = made()
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            start = 0.0 if "norm2" in name else 0.5
            assert module.weight.unique().tolist() == [start], name


def test_fresh_blocks_pass_the_stream_unchanged():
    net, x = made(), torch.randn(2, 1, 4, 6, 6)
    assert torch.equal(net.stages[0][1](x), x)


@pytest.mark.parametrize("shortcut", ["membrane", "spikes"])
def test_shortcut_sees_the_stream_or_the_spikes(shortcut):
    net, x = made(shortcut=shortcut), torch.randn(2, 1, 4, 6, 6)
    block = net.stages[0][0]
    seen = x if shortcut == "membrane" else block.spiking1(x)
    assert torch.equal(block(x), block.shortcut(seen))  # the residual function starts at 0


@pytest.mark.parametrize("depth", [18, 104])
def test_spike_shortcuts_leave_real_values_to_the_stem_alone(depth):
    net = made(depth, shortcut="spikes")
    graded = []

    def look(module, inputs):
        # A 2x2 mean of spikes is a multiple of 1/4, so its convolution is one of spikes with a larger kernel.
        if not bool(((4 * inputs[0]) % 1 == 0).all()):
            graded.append(module)

    for conv in convolutions(net):
        conv.register_forward_pre_hook(look)
    net(torch.rand(2, 1, 2, 32, 32) * 9)
    assert graded == convolutions(net.stem)


def test_module_before_the_norm_sits_in_every_residual_function():
    made_for = []

    def before_norm(channels):
        made_for.append(channels)
        return nn.Identity()

    net = made(before_norm=before_norm)
    assert made_for == [4, 4, 8, 8, 16, 16, 32, 32]
    order = ["conv1", "before_norm", "norm1", "spiking2", "conv2", "norm2"]
    blocks = [module for module in net.modules() if isinstance(module, MSBlock)]
    assert [list(dict(block.residual.named_children())) for block in blocks] == [order] * 8


def test_dropout_of_a_fifth_stands_before_the_readout():
    net, x = made(), torch.rand(2, 1, 2, 32, 32)
    net.spiking = nn.Identity()  # fresh weights let no spike get this far
    assert net.dropout.p == 0.2
    assert torch.equal(net(x), net(x))
    net.dropout.train()
    torch.manual_seed(1)
    assert not torch.equal(net(x), net(x))


def test_frames_that_do_not_halve_evenly_are_refused_where_shortcuts_pool():
    with pytest.raises(InputError, match=r"input_size = 48; depth 104 .* multiple of 32"):
        made(104, 48)
    assert made(18, 45)(torch.rand(1, 2, 2, 45, 45)).shape == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"depth": 50}, "depth = 50; must be one of 18, 34, 104"), ({"width": 0}, "width = 0"),
     ({"shortcut": "graded"}, "shortcut = 'graded'")],
)  # fmt: skip
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        made(**arguments)
