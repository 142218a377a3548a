"""The DVS128 network of TCJA-SNN: sizes, the authors' parameter names, and the forward pass told step by step."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from spikefold.errors import InputError
from spikefold.models import ENTRIES, LIF, build, load_released
from spikefold.models.attention.tcja import TCJA

CHECKPOINT = Path(__file__).parents[1] / "released_names" / "tcja_dvs128.txt"
NARROW = {128: 4, 512: 16, 2048: 4, 110: 30, 20: 6}
CONVOLUTIONS = (0, 3, 6, 9, 13)
ATTENTION = {3: 11, 4: 15}


def checkpoint(sizes=None):
    """Random tensors of the released checkpoint's names and shapes, the lengths of axes replaced by ``sizes``."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for line in CHECKPOINT.read_text().splitlines():
        key, shape = line.split()
        lengths = [int(n) for n in shape.split(",") if n != "-"]
        tensors[key] = torch.randn([(sizes or {}).get(n, n) for n in lengths], generator=generator)
        if key.endswith("num_batches_tracked"):  # a count, as in the release
            tensors[key] = torch.tensor(len(tensors))
    return tensors


def our_name(released):
    """Where a released tensor belongs, spelled out."""
    part, number, *rest = released.split(".")
    if part == "fc":
        return f"classifier.{(2, 5).index(int(number))}.linear.module.weight"
    if int(number) in CONVOLUTIONS:
        return f"blocks.{CONVOLUTIONS.index(int(number))}.{('conv', 'norm')[int(rest[0])]}.module.{rest[1]}"
    block = {module: block for block, module in ATTENTION.items()}[int(number)]
    return f"blocks.{block}.attention.{'time_conv' if rest[0] == 'conv' else 'channel_conv'}.weight"


@pytest.mark.parametrize(("name", "total"), [("tcja-dvs128", 1_832_576), ("plain-dvs128", 1_832_576 - 2 * 67_136)])
def test_parameters_are_the_authors_to_the_last_one(name, total):
    with torch.device("meta"):
        assert sum(p.numel() for p in build(name).parameters()) == total


def test_attention_follows_the_neuron_of_the_last_two_blocks():
    with torch.device("meta"):
        net = build("tcja-dvs128")
    found = [path for path, module in net.named_modules() if isinstance(module, TCJA)]
    assert found == ["blocks.3.attention", "blocks.4.attention"]
    assert [name for name, _ in net.blocks[4].named_children()] == ["conv", "norm", "neuron", "attention", "pool"]


def test_neurons_are_the_authors():
    with torch.device("meta"):
        neurons = [module for module in build("tcja-dvs128").modules() if isinstance(module, LIF)]
    assert len(neurons) == 7
    for neuron in neurons:
        spec = neuron.neuron_spec()
        assert (spec.decay, spec.input_gain, spec.v_threshold, spec.v_reset, spec.strict) == (0.5, 0.5, 1.0, 0.0, False)
        assert (neuron.surrogate, neuron.detach_reset) == ("atan", True)


@pytest.mark.parametrize(
    ("sizes", "arguments"),
    [
        (None, {"time_steps": 20, "num_classes": 11, "input_size": 128, "width": 128}),
        (NARROW, {"time_steps": 6, "num_classes": 3, "input_size": 32, "width": 4}),
    ],
)
def test_build_arguments_are_read_from_the_shapes(sizes, arguments):
    assert ENTRIES["tcja-dvs128"].build_arguments(checkpoint(sizes)) == {"in_channels": 2, **arguments}


def test_released_weights_arrive_where_they_belong():
    released = checkpoint()
    net = build("tcja-dvs128", **ENTRIES["tcja-dvs128"].build_arguments(released))
    report = load_released(net, released)
    state = net.state_dict()
    assert report.loaded == {key: our_name(key) for key in released}
    assert set(report.loaded.values()) == set(state)
    assert (report.dead, report.aliases) == ((), ())
    for key, tensor in released.items():
        assert torch.equal(state[our_name(key)], tensor.to(state[our_name(key)].dtype)), key


def test_checkpoints_that_do_not_fit_are_refused_by_name():
    released = checkpoint(NARROW)
    net = build("tcja-dvs128", **ENTRIES["tcja-dvs128"].build_arguments(released))
    with pytest.raises(InputError, match=r"blocks\.4\.attention\.time_conv\.weight: missing"):
        load_released(net, {key: tensor for key, tensor in released.items() if key != "conv.15.conv.weight"})
    with pytest.raises(InputError, match=r"conv\.7\.conv\.weight: unknown"):
        load_released(net, {**released, "conv.7.conv.weight": torch.zeros(1)})
    with pytest.raises(InputError, match=r"fc\.5\.0\.weight is \(20, 16\); expected \(30, 16\)"):
        load_released(net, {**released, "fc.5.0.weight": torch.zeros(20, 16)})


def firing_checkpoint():
    """Narrow weights, in float64, with which every layer fires sometimes."""
    torch.manual_seed(0)
    released = {key: tensor.double() for key, tensor in checkpoint(NARROW).items()}
    for key, tensor in released.items():
        if key.endswith("running_var"):
            tensor.uniform_(5.0, 20.0)
        elif key.endswith("1.bias"):
            tensor.add_(1.0)
    return released


def run_neuron(currents):
    v, spikes = torch.zeros_like(currents[0]), []
    for x in currents:
        v = v + (x - v) / 2.0
        spikes.append((v >= 1.0).double())
        v = v * (1.0 - spikes[-1])
    return spikes


def attend(spikes, over_channels, over_time):
    """TCJA on a list of spikes ``[B, C, H, W]``, one a step."""
    T, (B, C) = len(spikes), spikes[0].shape[:2]
    out = [torch.empty_like(s) for s in spikes]
    for b in range(B):
        rates = torch.stack([s[b].mean((1, 2)) for s in spikes])
        for t in range(T):
            for c in range(C):
                p = sum(over_channels[t, :, k] @ rates[:, c + k - 1] for k in range(4) if 0 <= c + k - 1 < C)
                q = sum(over_time[c, :, k] @ rates[t + k - 1] for k in range(4) if 0 <= t + k - 1 < T)
                out[t][b, c] = spikes[t][b, c] * torch.sigmoid(p * q)
    return out


def step_by_step(weights, x, gated=True):
    """The network as the paper has it, from weights of the authors' names: the spikes of every layer, the scores."""
    signal, recorded = list(x), []
    for block, number in enumerate(CONVOLUTIONS):
        mean, var, gain, shift = (
            weights[f"conv.{number}.1.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        currents = [functional.conv2d(s, weights[f"conv.{number}.0.weight"], padding=1) for s in signal]
        signal = run_neuron([(y - mean) / (var + 1e-5).sqrt() * gain + shift for y in currents])
        recorded.append(torch.stack(signal))
        if gated and block in ATTENTION:
            at = f"conv.{ATTENTION[block]}"
            signal = attend(signal, weights[f"{at}.conv.weight"], weights[f"{at}.conv_c.weight"])
        signal = [functional.max_pool2d(s, 2) for s in signal]
    signal = [s.flatten(1) for s in signal]
    for number in (2, 5):
        signal = run_neuron([s @ weights[f"fc.{number}.0.weight"].T for s in signal])
        recorded.append(torch.stack(signal))
    rates = sum(signal) / len(signal)
    return torch.stack([rates[:, 10 * k : 10 * k + 10].mean(1) for k in range(3)], 1), recorded


@pytest.mark.parametrize("name", ["tcja-dvs128", "plain-dvs128"])
def test_network_equals_the_step_by_step_form(name):
    released = firing_checkpoint()
    net = build(name, **ENTRIES["tcja-dvs128"].build_arguments(released)).double().eval()
    net.load_state_dict({our_name(key): tensor for key, tensor in released.items()}, strict=name == "tcja-dvs128")
    spikes = []
    for module in net.modules():
        if isinstance(module, LIF):
            module.register_forward_hook(lambda _, inputs, output: spikes.append(output))
    x = torch.rand(6, 3, 2, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        scores = net(x)
    expected, expected_spikes = step_by_step(released, x, gated=name == "tcja-dvs128")
    for layer, expected_layer in zip(spikes, expected_spikes, strict=True):
        assert 0 < expected_layer.mean() < 1
        assert int((layer != expected_layer).sum()) == 0
    torch.testing.assert_close(scores, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(net(x[:, 1:2]), scores[1:2], atol=1e-9, rtol=0)


def test_network_can_be_exported():
    torch.manual_seed(0)
    net = build("tcja-dvs128", width=2, time_steps=3, input_size=32).eval()
    x = torch.rand(3, 2, 2, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


def test_no_width_is_refused():
    with pytest.raises(InputError, match=r"channels = \(0, 0, 0, 0, 0\)"):
        build("tcja-dvs128", width=0)
