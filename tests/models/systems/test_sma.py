import re

import numpy as np
import pytest
import torch

from sma_step_by_step import ByHand, as_arrays, differing, random_weights, released_shapes, spikes_of
from spikefold.errors import InputError
from spikefold.models import ENTRIES, LIF, build, load_released
from spikefold.models.attention.sma import SMA

VGG8S = {  # release: its time steps, classes, parameters
    "sma_vgg8_dvs128": (16, 11, 22_452_531),
    "sma_vgg8_cifar10dvs": (10, 10, 22_451_014),
    "sma_vgg8_ncaltech101": (14, 101, 22_544_543),
}
NETWORK = {**dict.fromkeys(VGG8S, "sma-vgg8"), "sma_ms_resnet18_imagenet": "sma-msresnet18"}
NARROW_VGG8 = {32: 2, **{n: n // 16 for n in (64, 128, 256, 512, 1024, 2048, 4608)}}
NARROW_RESNET = {n: n // 8 for n in (16, 32, 64, 128, 256, 512)}


def narrow(release, sizes, seed=0):
    """Random weights of a release with fewer channels: each length in ``sizes`` becomes another."""
    shapes = released_shapes(release)
    return random_weights({key: tuple(sizes.get(n, n) for n in shape) for key, shape in shapes.items()}, seed)


def loaded(release, weights, **options):
    name = NETWORK[release]
    net = build(name, **ENTRIES[name].build_arguments(weights), **options)
    load_released(net, weights)
    return net.double().eval()


def frames(time_steps, channels, height, width):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 3, (time_steps, 2, channels, height, width), generator=generator).double()


@pytest.mark.parametrize(
    ("release", "steps", "frame"),
    [("sma_vgg8_dvs128", {16: 5, 4: 2}, (128, 128)), ("sma_vgg8_ncaltech101", {14: 4}, (64, 96))],
)
def test_vgg8_equals_the_step_by_step_network_spike_for_spike(release, steps, frame):
    weights = narrow(release, {**NARROW_VGG8, **steps})
    x = frames(max(steps.values()), 2, *frame)
    by_hand = ByHand(as_arrays(weights))
    expected = by_hand.vgg8(x.numpy())
    out, spikes = spikes_of(loaded(release, weights), LIF, x)
    assert len(spikes) == 7 + 2 * 4
    assert differing(spikes, by_hand.spikes) == 0
    np.testing.assert_allclose(out, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("shortcut", "form"), [("membrane", "relu"), ("spikes", "relu"), ("membrane", "spikes"), ("spikes", "spikes")]
)
def test_ms_resnet_equals_the_step_by_step_network_spike_for_spike(shortcut, form):
    weights = narrow("sma_ms_resnet18_imagenet", NARROW_RESNET)
    x = frames(6, 3, 32, 32)
    by_hand = ByHand(as_arrays(weights))
    expected = by_hand.ms_resnet18(x.numpy(), shortcut, form)
    out, spikes = spikes_of(loaded("sma_ms_resnet18_imagenet", weights, shortcut=shortcut, form=form), LIF, x)
    assert len(spikes) == 17 + (8 * 4 if form == "spikes" else 0)
    assert differing(spikes, by_hand.spikes) == 0
    np.testing.assert_allclose(out, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("release", VGG8S)
def test_vgg8_has_the_released_number_of_parameters(release):
    time_steps, classes, total = VGG8S[release]
    with torch.device("meta"):
        net = build("sma-vgg8", time_steps=time_steps, num_classes=classes)
    assert sum(p.numel() for p in net.parameters()) == total


@pytest.mark.parametrize(
    ("name", "total"),
    [("sma-msresnet18", 71_087_400), ("plain-vgg8", 15_461_835), ("plain-msresnet18", 11_693_736),
     ("plain-msresnet34", 21_801_896), ("plain-msresnet104", 77_350_312)],
)  # fmt: skip
def test_other_networks_have_their_number_of_parameters(name, total):
    with torch.device("meta"):
        assert sum(p.numel() for p in build(name).parameters()) == total


@pytest.mark.parametrize("release", NETWORK)
def test_released_shapes_at_full_size_fit_the_network_built_for_them(release):
    with torch.device("meta"):
        weights = {
            key: torch.empty(shape, dtype=torch.long if key.endswith("tracked") else torch.float32)
            for key, shape in released_shapes(release).items()
        }
        net = build(NETWORK[release], **ENTRIES[NETWORK[release]].build_arguments(weights))
    report = load_released(net, {f"module.{key}": value for key, value in weights.items()})
    assert set(report.loaded) == set(weights)
    assert set(report.loaded.values()) == set(net.state_dict())
    assert (report.dead, report.aliases) == ((), ())


@pytest.mark.parametrize("release", NETWORK)
def test_build_arguments_are_read_from_the_weights(release):
    with torch.device("meta"):
        weights = {key: torch.empty(shape) for key, shape in released_shapes(release).items()}
    arguments = ENTRIES[NETWORK[release]].build_arguments(weights)
    if release in VGG8S:
        time_steps, classes, _ = VGG8S[release]
        expected = {"in_channels": 2, "time_steps": time_steps, "num_classes": classes, "t_reduction": 4.0}
    else:
        expected = {"in_channels": 3, "time_steps": 6, "num_classes": 1000, "t_reduction": 1.5}
    assert arguments == {**expected, "width": 64, "c_reduction": 4}


@pytest.mark.parametrize(("time_steps", "hidden"), [(10, 3), (16, 5), (7, 7), (9, 8), (12, 1)])
def test_other_reductions_over_time_are_read_from_the_weights(time_steps, hidden):
    weights = narrow("sma_vgg8_dvs128", {**NARROW_VGG8, 16: time_steps, 4: hidden})
    net = build("sma-vgg8", **ENTRIES["sma-vgg8"].build_arguments(weights))
    assert net.blocks[1].before_norm.time_squeeze.weight.shape == (hidden, time_steps)


def test_vgg8_weights_arrive_where_they_belong():
    weights = narrow("sma_vgg8_dvs128", NARROW_VGG8)
    net = build("sma-vgg8", width=4)
    load_released(net, weights)
    pairs = {
        "block1.0.0.weight": net.blocks[0].conv.module.weight,
        "block1.1.0.bias": net.blocks[0].norm.module.bias,
        "block3.0.0.bias": net.blocks[2].conv.module.bias,
        "block3.1.S_Convs.3.bn.running_mean": net.blocks[2].before_norm.branches[3].norm.module.running_mean,
        "block2.1.T_after_attention_convs.1.bias": net.blocks[1].before_norm.time_logits[1].bias,
        "block3.2.0.weight": net.blocks[2].norm.module.weight,
        "block5.1.0.running_var": net.blocks[4].norm.module.running_var,
        "others.2.weight": net.hidden[0].linear.module.weight,
        "others.5.bias": net.hidden[1].linear.module.bias,
        "others.8.weight": net.readout.module.weight,
    }
    for key, tensor in pairs.items():
        assert torch.equal(weights[key], tensor), key


def test_ms_resnet_weights_arrive_where_they_belong():
    weights = narrow("sma_ms_resnet18_imagenet", NARROW_RESNET)
    net = build("sma-msresnet18", width=8)
    load_released(net, weights)
    block = net.stages[2][0]
    pairs = {
        "conv1.0.weight": net.stem.conv.module.weight,
        "conv1.1.bn.running_var": net.stem.norm.module.running_var,
        "conv4_x.0.residual_function.1.weight": block.residual.conv1.module.weight,
        "conv4_x.0.residual_function.2.S_Convs.1.bn.bn.bias": block.residual.before_norm.branches[1].norm.module.bias,
        "conv4_x.0.residual_function.2.C_before_attention_conv.bias": block.residual.before_norm.channel_squeeze.bias,
        "conv4_x.0.residual_function.3.bn.weight": block.residual.norm1.module.weight,
        "conv4_x.0.residual_function.5.weight": block.residual.conv2.module.weight,
        "conv4_x.0.residual_function.6.bn.bias": block.residual.norm2.module.bias,
        "conv4_x.0.shortcut.0.weight": block.shortcut.conv.module.weight,
        "conv4_x.0.shortcut.1.bn.running_mean": block.shortcut.norm.module.running_mean,
        "fc.bias": net.readout.bias,
    }
    for key, tensor in pairs.items():
        assert torch.equal(weights[key], tensor), key


def test_missing_surplus_and_wrongly_shaped_weights_are_named():
    weights = narrow("sma_vgg8_dvs128", NARROW_VGG8)
    del weights["block4.1.0.running_mean"]
    weights["block2.1.gate.weight"] = torch.zeros(2)
    weights["others.8.bias"] = torch.zeros(12)
    with pytest.raises(InputError) as error:
        load_released(build("sma-vgg8", width=4), weights)
    for part in (
        "block2.1.gate.weight: unknown",
        "others.8.bias is (12,); expected (11,) (readout.module.bias)",
        "blocks.3.norm.module.running_mean: missing",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["sma-vgg8", "plain-vgg8", "sma-msresnet18", "plain-msresnet34"])
def test_network_has_its_attention_and_its_neuron(name):
    net = build(name, width=8)
    attentions = {"sma-vgg8": 2, "sma-msresnet18": 8}.get(name, 0)
    assert sum(isinstance(module, SMA) for module in net.modules()) == attentions
    neurons = {module for module in net.modules() if isinstance(module, LIF)}
    specs = {neuron.neuron_spec() for neuron in neurons}
    assert len(specs) == 1
    spec = specs.pop()
    event = (0.5, 1.0, False, 0.0, 0.5, "atan", True)
    residual = (0.25, 0.5, True, 0.0, 1.0, "window", True)
    for neuron in neurons:
        numbers = (spec.decay, spec.v_threshold, spec.strict, spec.v_reset, spec.input_gain)
        assert (*numbers, neuron.surrogate, neuron.detach_reset) == (event if "vgg8" in name else residual)


def test_zone_out_is_on_for_events_and_off_for_imagenet_unless_asked():
    ratios = {
        (name, str(options)): {
            None if m.azo is None else (m.azo.time_ratio, m.azo.channel_ratio)
            for m in build(name, width=8, **options).modules()
            if isinstance(m, SMA)
        }
        for name, options in (
            ("sma-vgg8", {}),
            ("sma-vgg8", {"channel_ratio": 24, "time_ratio": 2}),
            ("sma-vgg8", {"azo": False}),
            ("sma-msresnet18", {}),
            ("sma-msresnet18", {"azo": True}),
        )
    }
    assert list(ratios.values()) == [{(4, 10)}, {(2, 24)}, {None}, {None}, {(4, 4)}]


def small(name):
    torch.manual_seed(0)
    net = build(name, time_steps=2, in_channels=2, num_classes=3, input_size=32, width=8)
    return net, torch.randint(0, 4, (2, 4, 2, 32, 32)).float()


@pytest.mark.parametrize("name", ["sma-vgg8", "sma-msresnet18", "sma-msresnet104"])
def test_every_parameter_is_reached_in_training(name):
    net, x = small(name)
    net(x).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    "name", ["sma-vgg8", "plain-vgg8", "plain-msresnet18", pytest.param("sma-msresnet18", marks=pytest.mark.slow)]
)
def test_network_can_be_exported(name):
    net, x = small(name)
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


def test_a_single_sample_gets_the_scores_it_gets_in_a_batch():
    weights = narrow("sma_ms_resnet18_imagenet", NARROW_RESNET)
    net, x = loaded("sma_ms_resnet18_imagenet", weights), frames(6, 3, 32, 32)
    torch.testing.assert_close(net(x[:, :1]), net(x)[:1])


def test_only_the_networks_that_were_released_take_released_weights():
    released = {name for name in ENTRIES if re.match(r"(sma|plain)-(vgg8|msresnet)", name) and ENTRIES[name].released}
    assert released == {"sma-vgg8", "sma-msresnet18"}
    with pytest.raises(InputError, match="sma-msresnet34: no checkpoint"):
        load_released(build("sma-msresnet34", width=8), {})


def test_small_network_has_its_attention_right_before_the_norm_of_the_later_blocks():
    first, *later = build("sma").blocks
    assert not hasattr(first, "before_norm")
    for block in later:
        order = list(dict(block.named_children()))
        assert order.index("conv") < order.index("before_norm") == order.index("norm") - 1
        assert block.before_norm.azo is not None
