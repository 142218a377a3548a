import pytest
import torch

from spikefold.errors import InputError
from spikefold.models import LIF, AdaptiveLIF, build, load_released
from spikefold.models.attention.staa import STAALayer
from spikefold.models.backbones.spiking_resnet import SpikingResNet

RESNETS = ["staa-resnet20", "staa-resnet19"]


def small(name="staa-resnet20", **options):
    torch.manual_seed(0)
    return build(name, **{"time_steps": 2, "in_channels": 2, "num_classes": 3, "input_size": 16, "width": 8, **options})


def clip(time_steps=2, samples=2):
    return torch.rand(time_steps, samples, 2, 16, 16, generator=torch.Generator().manual_seed(1))


def layers(network):
    return [module for module in network.modules() if isinstance(module, STAALayer)]


@pytest.mark.parametrize(
    ("name", "channels", "time_steps"),
    [("staa-resnet20", [64] * 7 + [128] * 4 + [256] * 4 + [512] * 4, 10),
     ("staa-resnet19", [128] * 7 + [256] * 6 + [512] * 4, 4), ("staa-dvsnet", [16, 32, 32], 10)],
)  # fmt: skip
def test_every_neuron_is_adaptive_and_sits_in_a_layer_with_attention(name, channels, time_steps):
    with torch.device("meta"):
        network = build(name)
    found = layers(network)
    assert [layer.channels for layer in found] == channels
    assert {layer.time_steps for layer in found} == {time_steps}
    assert [layer.neuron for layer in found] == [module for module in network.modules() if isinstance(module, LIF)]
    assert all(type(layer.neuron) is AdaptiveLIF and layer.neuron.gain.dim() == 0 for layer in found)
    assert {(layer.fusion, layer.skip_probability) for layer in found} == {("mul", 0.1)}
    assert {layer.context.reduce.out_features / layer.channels for layer in found} == {0.25}


@pytest.mark.parametrize(
    ("name", "arguments", "total"),
    [("staa-resnet20", {}, 12_005_099), ("staa-resnet20", {"time_steps": 4, "in_channels": 3}, 11_978_291),
     ("staa-resnet19", {}, 13_378_301)],
)  # fmt: skip
def test_parameters_are_the_backbones_and_what_each_layer_adds(name, arguments, total):
    with torch.device("meta"):
        network = build(name, **arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == total
    added = 0
    for layer in layers(network):
        c, t = layer.channels, layer.time_steps
        added += t * c + (c + 1) + (2 * c * c // 4 + c // 4 + c) + 2 * c // 4 + 2 * t * t + 2
    with torch.device("meta"):
        plain = SpikingResNet(name.removeprefix("staa-"), lambda _: {"neuron": LIF()}, network.in_channels, 10)
    assert total - added == sum(parameter.numel() for parameter in plain.parameters())


@pytest.mark.parametrize("name", RESNETS)
def test_fully_skipped_attention_leaves_the_backbone_with_adaptive_neurons(name):
    network = small(name, skip_probability=1.0).double().train()
    plain = SpikingResNet(name.removeprefix("staa-"), lambda _: {"neuron": AdaptiveLIF()}, 2, 3, width=8).double()
    own = {key.replace(".staa.neuron.", ".neuron."): value for key, value in network.state_dict().items()}
    plain.load_state_dict({key: value for key, value in own.items() if ".staa." not in key})
    spikes = []
    plain.stages.register_forward_hook(lambda _, __, out: spikes.append(out))
    torch.testing.assert_close(network(clip().double()), plain(clip().double()), rtol=0, atol=1e-9)
    assert 0.01 < spikes[0].mean() < 0.99


@pytest.mark.parametrize("name", RESNETS)
def test_attention_acts_when_it_is_not_skipped(name):
    skipped, active = small(name, skip_probability=1.0).train(), small(name, skip_probability=0.0).train()
    assert (skipped(clip()) - active(clip())).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("option", "read"),
    [({"fusion": "add"}, lambda layer: layer.fusion), ({"step": "pre"}, lambda layer: layer.step),
     ({"position": "sinusoid"}, lambda layer: layer.position.kind),
     ({"position": "pixel"}, lambda layer: layer.position.kind),
     ({"reduction": 2}, lambda layer: layer.channels // layer.context.reduce.out_features),
     ({"step_reduction": 2}, lambda layer: layer.time_steps // layer.step_attention.reduce.out_features),
     ({"step_per_channel": True}, lambda layer: layer.step_attention.per_channel),
     ({"neuron_per_channel": True}, lambda layer: layer.neuron.gain.shape == (layer.channels, 1, 1)),
     ({"skip_probability": 0.3}, lambda layer: layer.skip_probability)],
)  # fmt: skip
def test_option_reaches_every_layer(option, read):
    (value,) = option.values()
    network = small(**option)
    assert [read(layer) for layer in layers(network)] == [value] * 19
    assert value != read(layers(small())[0])
    assert network(clip()).shape == (2, 3)


def test_pixel_encodings_have_the_size_of_each_layers_current():
    shapes = [tuple(layer.position.encoding.shape) for layer in layers(small(position="pixel"))]
    assert shapes == [(2, 16, 16)] * 3 + [(2, 8, 8)] * 4 + [(2, 4, 4)] * 4 + [(2, 2, 2)] * 4 + [(2, 1, 1)] * 4


def test_pixel_encodings_change_neither_the_weights_nor_the_result_before_training():
    channel, pixel = small(skip_probability=0.0), small(position="pixel", skip_probability=0.0)
    for name, value in channel.state_dict().items():
        if "position" not in name:
            assert torch.equal(value, pixel.state_dict()[name])
    logits = channel(clip())
    assert logits.abs().max() > 0.0
    assert torch.equal(logits, pixel(clip()))


@pytest.mark.parametrize("name", RESNETS)
def test_one_step_and_one_sample_are_enough(name):
    assert small(name, time_steps=1).eval()(clip(1, 1)).shape == (1, 3)


@pytest.mark.parametrize("name", [*RESNETS, "staa-dvsnet"])
def test_only_step_attention_before_the_neuron_sends_binary_spikes(name):
    network = build("staa-dvsnet", time_steps=2, input_size=16) if name == "staa-dvsnet" else small(name)
    sent = []
    for layer in layers(network.train()):
        layer.register_forward_hook(lambda _, __, out: sent.append(set(out.unique().tolist())))
    torch.manual_seed(1)
    network(clip())
    assert len(set().union(*sent)) > 1
    assert all(values <= {0.0, 1.0} for values in sent) == (name == "staa-dvsnet")


@pytest.mark.slow
@pytest.mark.parametrize("name", RESNETS)
def test_network_in_evaluation_can_be_exported(name):
    network, x = small(name, skip_probability=0.0).double().train(), clip().double()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # running statistics at once, or the deep layers stay silent
    with torch.no_grad():
        network(x)
        logits = network.eval()(x)
        assert logits.abs().max() > 0.0
        torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), logits)


def test_a_few_steps_of_training_lower_the_loss():
    torch.manual_seed(0)
    network = build("staa-dvsnet", time_steps=3, num_classes=2, input_size=8).train()
    x, labels = torch.rand(3, 8, 2, 8, 8), torch.arange(8) % 2
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(network(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"fusion": "sum"}, "fusion = 'sum'"), ({"position": "row"}, "position = 'row'"),
     ({"step": "both"}, "step = 'both'"), ({"width": 4}, "reduction = 4 leaves 1 hidden channels of 4"),
     ({"skip_probability": 2.0}, "skip_probability = 2.0"), ({"input_size": 20}, "input_size = 20")],
)  # fmt: skip
def test_impossible_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        small(**options)


def test_there_are_no_released_names():
    with pytest.raises(InputError, match="staa-resnet20: no checkpoint of its authors"):
        load_released(small(), {})
