from functools import cache
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from spikefold.errors import InputError
from spikefold.models import ENTRIES, LIF, build, load_released
from spikefold.models.attention.dta import DTA

NAMES = Path(__file__).parents[1] / "released_names" / "dta18_cifar10dvs.txt"
SMALL = {"width": 8, "time_steps": 4, "num_classes": 3, "input_size": 10}


@cache
def released():
    """Random weights by the authors' names, and what each second name stands for."""
    generator = torch.Generator().manual_seed(0)
    tensors, aliases = {}, {}
    for line in NAMES.read_text().splitlines():
        entry, _, canonical = line.partition(" = ")
        key, shape = entry.split()
        if canonical:
            tensors[key], aliases[key] = tensors[canonical], canonical
        else:
            sizes = [] if shape == "-" else [int(n) for n in shape.split(",")]
            counts = key.endswith("num_batches_tracked")
            tensors[key] = torch.tensor(3) if counts else torch.randn(sizes, generator=generator)
    return tensors, aliases


def clip(batch=2, time_steps=4, size=10):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(time_steps, batch, 2, size, size, generator=generator, dtype=torch.float64)


def made(name):
    """A small network whose norms fit its currents."""
    torch.manual_seed(0)
    net = build(name, **SMALL).double()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.6)
    net(clip())
    return net.eval()


def run(net, x):
    """Scores, and the spikes of every layer in the order they are made."""
    spikes = []
    hooks = [m.register_forward_hook(lambda *a: spikes.append(a[2])) for m in net.modules() if isinstance(m, LIF)]
    with torch.no_grad():
        scores = net(x)
    for hook in hooks:
        hook.remove()
    return scores, spikes


def fire(cur):
    """m = m / 2 + I, s = [m > 1], m = 0 where s."""
    m, spikes = torch.zeros_like(cur[0]), []
    for current in cur:
        m = 0.5 * m + current
        spikes.append((m > 1.0).to(m.dtype))
        m = torch.where(m > 1.0, 0.0, m)
    return torch.stack(spikes)


def conv_norm(p, conv, norm, x, stride=1):
    weight = p[f"{conv}.module.weight"]
    out = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    scale = p[f"{norm}.module.weight"] / (p[f"{norm}.module.running_var"] + 1e-5).sqrt()
    shift = p[f"{norm}.module.bias"] - p[f"{norm}.module.running_mean"] * scale
    return out * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)


def encoded(p, cur):
    """sigmoid(TNA * TXA) of one sample's current [T, C, H, W]."""
    T, C, H, W = cur.shape
    q = {key.removeprefix("encoding.attention."): value for key, value in p.items()}
    pooled = cur.mean((2, 3))
    a_t = torch.sigmoid(functional.conv1d(functional.pad(pooled, (1, 1))[None], q["txa.conv_t.weight"])[0])
    a_c = torch.sigmoid(functional.conv1d(functional.pad(pooled.T, (2, 3))[None], q["txa.conv_c.weight"])[0]).T
    txa = (cur + q["txa.scale_t"] * a_t.view(T, C, 1, 1)) * (cur + q["txa.scale_c"] * a_c.view(T, C, 1, 1))

    def conv(name, v, **options):
        return functional.conv2d(v, q[f"{name}.weight"], q[f"{name}.bias"], **options)

    D = T * C
    u = functional.gelu(conv("tna.encode", cur.view(1, D, H, W)))
    local = conv("tna.local.depthwise", u, padding=2, groups=D)
    local = conv("tna.local.mix", conv("tna.local.scale", local, groups=D))
    overall = q["tna.expand.weight"] @ (q["tna.reduce.weight"] @ u[0].mean((1, 2))).clamp(min=0)
    tna = conv("tna.decode", u * local * overall.view(1, D, 1, 1)).view(T, C, H, W) + cur
    return torch.sigmoid(tna * txa)


def by_hand(net, x, attention):
    p = net.state_dict()
    scores, layers = [], []
    for b in range(x.shape[1]):
        made_here = []

        def spikes(cur, made_here=made_here):
            made_here.append(fire(cur))
            return made_here[-1]

        current = conv_norm(p, "stem.conv", "stem.norm", x[:, b])
        if attention:
            current = spikes(current) * encoded(p, current)
        for stage, blocks in enumerate((3, 3, 2)):
            for number in range(blocks):
                block, stride = f"stages.{stage}.{number}", 2 if stage > 0 and number == 0 else 1
                out = conv_norm(p, f"{block}.conv1", f"{block}.norm1", spikes(current), stride)
                out = conv_norm(p, f"{block}.conv2", f"{block}.norm2", spikes(out))
                if number == 0:
                    current = conv_norm(p, f"{block}.shortcut.conv", f"{block}.shortcut.norm", current, stride)
                current = out + current
        features = spikes(current).mean((2, 3))
        each = [p["readout.module.weight"] @ f + p["readout.module.bias"] for f in features]
        scores.append(torch.stack(each).mean(0))
        layers.append(made_here)
    return torch.stack(scores), [torch.stack(layer, 1) for layer in zip(*layers, strict=True)]


@pytest.mark.parametrize(("name", "layers"), [("dta-msresnet18", 18), ("plain-dta18", 17)])
def test_network_equals_its_equations_spike_for_spike(name, layers):
    net = made(name)
    scores, spikes = run(net, clip())
    expected_scores, expected_spikes = by_hand(net, clip(), attention=name == "dta-msresnet18")
    assert len(spikes) == len(expected_spikes) == layers
    for layer, expected in zip(spikes, expected_spikes, strict=True):
        assert 0.01 < expected.mean() < 0.9
        assert torch.equal(layer, expected)
    torch.testing.assert_close(scores, expected_scores, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("arguments", "total"), [({}, 13_795_512), ({"time_steps": 6, "in_channels": 3}, 12_993_336)])
def test_parameters_are_as_many_as_the_authors(arguments, total):
    with torch.device("meta"):
        net = build("dta-msresnet18", **arguments)
        plain = build("plain-dta18", **arguments)
    assert sum(p.numel() for p in net.parameters()) == total
    attention = next(m for m in net.modules() if isinstance(m, DTA))
    without = total - sum(p.numel() for p in attention.parameters())
    assert sum(p.numel() for p in plain.parameters()) == without


@pytest.mark.parametrize(("name", "layers"), [("dta-msresnet18", 18), ("plain-dta18", 17)])
def test_network_has_its_papers_neuron(name, layers):
    with torch.device("meta"):
        neurons = [m for m in build(name).modules() if isinstance(m, LIF)]
    assert len(neurons) == layers
    for neuron in neurons:
        spec = neuron.neuron_spec()
        assert (spec.decay, spec.v_threshold, spec.v_reset, spec.strict, spec.input_gain) == (0.5, 1.0, 0.0, True, 1.0)
        assert neuron.surrogate == "triangular"
        assert not neuron.detach_reset


def test_released_weights_arrive_where_they_belong():
    weights, aliases = released()
    assert (len(weights), len(aliases)) == (414, 276)
    net = build("dta-msresnet18", **ENTRIES["dta-msresnet18"].build_arguments(weights))
    report = load_released(net, {f"module.{key}": tensor for key, tensor in weights.items()})
    assert set(report.aliases) == set(aliases)
    assert set(report.loaded) == set(weights) - set(aliases)
    assert report.dead == ()
    own = net.state_dict()
    assert len(own) == len(report.loaded)
    for theirs, mine in {
        "input_conv.layer.module.weight": "stem.conv.module.weight",
        "input_conv.bn.bn.running_var": "stem.norm.module.running_var",
        "layer1.0.conv1.weight": "stages.0.0.conv1.module.weight",
        "layer1.0.downsample.layer.module.weight": "stages.0.0.shortcut.conv.module.weight",
        "layer2.0.downsample.bn.bn.bias": "stages.1.0.shortcut.norm.module.bias",
        "layer2.2.bn2.bn.num_batches_tracked": "stages.1.2.norm2.module.num_batches_tracked",
        "layer3.1.bn1.bn.running_mean": "stages.2.1.norm1.module.running_mean",
        "fc.layer.module.bias": "readout.module.bias",
        "encoding.T_NA.tca.LTCA.2.bias": "encoding.attention.tna.local.mix.bias",
        "encoding.T_XA.scale_c": "encoding.attention.txa.scale_c",
    }.items():
        assert report.loaded[theirs] == mine
        assert torch.equal(own[mine], weights[theirs]), theirs


def test_second_names_alone_are_enough():
    weights, aliases = released()
    kept = {key: tensor for key, tensor in weights.items() if ".seqbn." in key or key not in aliases.values()}
    assert len(kept) < len(weights)
    net = build("dta-msresnet18")
    load_released(net, kept)
    canonical = weights["layer3.1.bn2.bn.running_mean"]
    assert torch.equal(net.state_dict()["stages.2.1.norm2.module.running_mean"], canonical)


def test_build_arguments_are_read_from_the_shapes():
    read = ENTRIES["dta-msresnet18"].build_arguments
    assert read(released()[0]) == {"in_channels": 2, "time_steps": 10, "num_classes": 10, "width": 128}
    static = {"input_conv.layer.module.weight": torch.zeros(64, 3, 3, 3), "fc.layer.module.bias": torch.zeros(100),
              "encoding.T_XA.conv_t.weight": torch.zeros(6, 6, 3)}  # fmt: skip
    arguments = read({**released()[0], **static})
    assert arguments == {"in_channels": 3, "time_steps": 6, "num_classes": 100, "width": 128}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"fc.layer.module.bias": None}, r"readout\.module\.bias: missing"),
     ({"layer4.0.conv1.weight": torch.zeros(3)}, r"layer4\.0\.conv1\.weight: unknown"),
     ({"layer3.1.bn2.bn.weight": torch.zeros(3)}, r"layer3\.1\.bn2\.bn\.weight is \(3,\); expected \(512,\)"),
     ({"layer1.0.conv1_s.bn.bn.bias": torch.zeros(128)}, r"layer1\.0\.conv1_s\.bn\.bn\.bias .* holds other values")],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused_by_name(change, message):
    weights = {k: v for k, v in {**released()[0], **change}.items() if v is not None}
    with torch.device("meta"):
        net = build("dta-msresnet18")
    with pytest.raises(InputError, match=message):
        load_released(net, weights)


def test_network_can_be_exported_for_a_batch_of_one():
    torch.manual_seed(0)
    net, x = build("dta-msresnet18", **{**SMALL, "time_steps": 2}).eval(), clip(1, time_steps=2).float()
    with torch.no_grad():
        scores = net(x)
        assert scores.shape == (1, 3)
        torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), scores)


def test_plain_network_runs_on_any_number_of_steps_and_the_other_does_not():
    x = clip(time_steps=5).float()
    assert build("plain-dta18", **SMALL)(x).shape == (2, 3)
    with pytest.raises(InputError, match=r"DTA: input has T = 5 .* made for 4"):
        build("dta-msresnet18", **SMALL)(x)
