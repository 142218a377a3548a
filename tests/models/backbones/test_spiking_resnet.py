import math

import pytest
import torch
from torch.nn import functional

from spikefold.errors import InputError
from spikefold.models import LIF
from spikefold.models.backbones.spiking_resnet import STRUCTURES, ResidualBlock, ResNetStructure, SpikingResNet


def plain(channels):
    return {"neuron": LIF()}


def made(structure, width=4, seed=0, **more):
    """A narrow network whose batch norms let spikes through."""
    torch.manual_seed(seed)
    net = SpikingResNet(structure, plain, 3, 5, width, **more).double().eval()
    return lively(net)


def lively(net):
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.02, 0.2)
    return net


def clip(side=32, time_steps=3, batch=2):
    return torch.rand(time_steps, batch, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def spikes_of_neurons(net, x):
    found = []
    for module in net.modules():
        if isinstance(module, LIF):
            module.register_forward_hook(lambda _, __, out: found.append(out))
    net(x)
    return found


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        # channels and side of the spikes, layer by layer, for frames of 32 x 32 and width 4
        ("resnet20", [(4, 32)] * 3 + [(4, 16)] * 4 + [(8, 8)] * 4 + [(16, 4)] * 4 + [(32, 2)] * 4),
        ("resnet19", [(4, 32)] * 7 + [(8, 16)] * 6 + [(16, 8)] * 4),
        ("resnet18", [(4, 16)] + [(4, 8)] * 4 + [(8, 4)] * 4 + [(16, 2)] * 4 + [(32, 1)] * 4),
        ("resnet34", [(4, 16)] + [(4, 8)] * 6 + [(8, 4)] * 8 + [(16, 2)] * 12 + [(32, 1)] * 6),
    ],
)
def test_spiking_layers_have_the_channels_and_sizes_of_the_paper(name, sizes):
    found = spikes_of_neurons(made(name), clip())
    assert [(tuple(s.shape[2:])) for s in found] == [(c, side, side) for c, side in sizes]
    assert all(torch.equal(s, s.square()) for s in found)
    assert 0.01 < found[0].mean() < 0.99


@pytest.mark.parametrize(("name", "width", "scaled"), [("resnet20", 6, (6, 12, 24, 48)), ("resnet19", 6, (6, 12, 24))])
def test_width_scales_all_stages(name, width, scaled):
    stages = SpikingResNet(name, plain, 2, 3, width).stages
    assert tuple(stage[-1].conv2.module.out_channels for stage in stages) == scaled


def test_authors_width_is_the_default():
    net = SpikingResNet("resnet19", plain, 3, 100)
    assert [stage[-1].conv2.module.out_channels for stage in net.stages] == [128, 256, 512]


def test_stem_can_have_spiking_layers_of_its_own():
    thresholds = spike_thresholds(made("resnet20", stem_spiking=lambda channels: {"neuron": LIF(v_threshold=0.25)}))
    assert thresholds == [0.25] * 3 + [0.5] * 16


def spike_thresholds(net):
    return [module.neuron_spec().v_threshold for module in net.modules() if isinstance(module, LIF)]


def affine(norm, x):
    bn = norm.module
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    return (x - bn.running_mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + bn.bias.view(-1, 1, 1)


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize(("out_channels", "stride"), [(4, 1), (6, 1), (8, 2)])
def test_block_adds_currents_before_the_second_neuron(pooled, out_channels, stride):
    torch.manual_seed(0)
    block = lively(ResidualBlock(plain, 4, out_channels, stride, pooled).double().eval())
    x = (torch.rand(1, 3, 4, 8, 8, dtype=torch.float64) > 0.5).double()
    hidden = affine(block.norm1, functional.conv2d(x[0], block.conv1.module.weight, stride=stride, padding=1)) > 0.5
    branch = affine(block.norm2, functional.conv2d(hidden.double(), block.conv2.module.weight, padding=1))
    if stride == 1 and out_channels == 4:
        shortcut = x[0]
    else:
        source = x[0]
        if pooled and stride == 2:
            source = sum(x[0][:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
        elif stride == 2:
            source = x[0][:, :, ::2, ::2]
        shortcut = affine(
            block.shortcut.norm, torch.einsum("oc,bchw->bohw", block.shortcut.conv.module.weight[:, :, 0, 0], source)
        )
    assert torch.equal(block(x)[0], (branch + shortcut > 0.5).double())
    assert 0.05 < block(x).mean() < 0.95


def test_logits_are_means_over_time_and_frame():
    net = made("resnet20")
    spikes = spikes_of_neurons(net, clip())[-1]  # [T, B, C, h, w]
    rates = torch.stack([spikes[:, b].flatten(2).mean(2).mean(0) for b in range(2)])
    assert rates.max() > 0
    logits = rates @ net.readout.module.weight.T + net.readout.module.bias
    torch.testing.assert_close(net(clip()), logits, atol=1e-12, rtol=0)


def test_weights_start_as_the_authors_do():
    torch.manual_seed(0)
    net = SpikingResNet("resnet20", plain, 2, 500, 32)
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 3 + 16 + 3
    for conv in convolutions:
        expected = math.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
        assert conv.weight.std().item() == pytest.approx(expected, rel=8 / math.sqrt(2 * conv.weight.numel()))
        assert conv.bias is None
    readout = net.readout.module
    assert readout.weight.std().item() == pytest.approx(1 / 256, rel=0.02)
    assert not readout.bias.any()


@pytest.mark.parametrize(("height", "width"), [(32, 40), (24, 32), (33, 33)])
def test_frames_that_pooled_shortcuts_cannot_halve_are_refused(height, width):
    with pytest.raises(InputError, match=f"= {height}, {width}: must be a multiple of 16"):
        made("resnet20")(torch.zeros(3, 2, 3, height, width, dtype=torch.float64))


def test_frame_size_is_refused_when_the_network_is_made():
    with pytest.raises(InputError, match="input_size = 40: must be a multiple of 16"):
        SpikingResNet("resnet20", plain, 3, 5, 4, input_size=40)
    SpikingResNet("resnet20", plain, 3, 5, 4, input_size=48)


@pytest.mark.parametrize("name", ["resnet19", "resnet18", "resnet34"])
def test_strided_shortcuts_take_any_frame(name):
    assert made(name, 2, input_size=27)(clip(27)).shape == (2, 5)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (3, 2, 4, 32, 32)])
def test_clip_of_another_shape_is_refused(shape):
    with pytest.raises(InputError, match=r"clip: shape .* expected \[T, B, C, H, W\] with C = 3"):
        made("resnet20")(torch.zeros(shape, dtype=torch.float64))


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match=r"structure = 'resnet50'.*resnet20, resnet19, resnet18, resnet34"):
        SpikingResNet("resnet50", plain, 3, 5)
    with pytest.raises(InputError, match="width = 0"):
        SpikingResNet("resnet20", plain, 3, 5, 0)
    with pytest.raises(InputError, match=r"channels = \(4, 8\), blocks = \(1,\)"):
        ResNetStructure((4, 8), (1,))


def test_structure_of_ones_own():
    net = made(ResNetStructure((4, 8), (1, 1), stem_pool=(2, 2, 0), pooled_shortcut=True))
    assert net.structure.side_multiple == 4
    assert net(clip(12)).shape == (2, 5)


@pytest.mark.parametrize("name", STRUCTURES)
def test_sample_alone_gives_what_it_gives_in_a_batch(name):
    net = made(name)
    together = net(clip(16))
    assert (together != 0).any(1).all()
    torch.testing.assert_close(together[1:], net(clip(16)[:, 1:]), atol=1e-12, rtol=0)


def test_network_can_be_exported():
    structure = ResNetStructure((4, 8), (1, 2), 2, 7, 2, stem_pool=(3, 2, 1), pooled_shortcut=True)
    net, x = made(structure), clip(16)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x), atol=1e-12, rtol=0)
