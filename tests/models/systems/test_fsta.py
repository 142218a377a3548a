import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from spikefold.errors import InputError
from spikefold.models import ENTRIES, FSTA, LIF, build, load_released
from spikefold.models.unused import count_unused

NAMES = Path(__file__).parents[1] / "released_names"
STRUCTURES = ("resnet20", "resnet19", "resnet18", "resnet34")
LAYERS = {"resnet20": 19, "resnet19": 17, "resnet18": 17, "resnet34": 33}
SMALL = {"resnet20": 4, "resnet19": 8, "resnet18": 4, "resnet34": 4}
"""Widths of the networks that run here."""

RELEASES = {
    "fsta_resnet20_cifar10": ("resnet20", {"in_channels": 3, "time_steps": 2, "num_classes": 10}, 11_293_774),
    "fsta_resnet20_cifar10dvs": ("resnet20", {"in_channels": 2, "time_steps": 10, "num_classes": 10}, 11_295_022),
    "fsta_resnet20_gesture": ("resnet20", {"in_channels": 2, "time_steps": 16, "num_classes": 11}, 11_298_499),
    "fsta_resnet19_cifar100": ("resnet19", {"in_channels": 3, "time_steps": 2, "num_classes": 100}, 12_735_584),
    "fsta_resnet18_imagenet": ("resnet18", {"in_channels": 3, "time_steps": 4, "num_classes": 1000}, 11_730_720),
    "fsta_resnet34_imagenet": ("resnet34", {"in_channels": 3, "time_steps": 4, "num_classes": 1000}, 21_877_664),
}
ONE_EACH = ("fsta_resnet20_cifar10dvs", "fsta_resnet19_cifar100", "fsta_resnet18_imagenet", "fsta_resnet34_imagenet")


def released_shapes(release, width=None):
    """Names and shapes of a release, and which names are dead; with ``width``, of the network made narrow."""
    structure = RELEASES[release][0]
    base = 128 if structure == "resnet19" else 64
    shapes, dead = {}, set()
    for line in (NAMES / f"{release}.txt").read_text().splitlines():
        name, text, *flags = line.split()
        shape = () if text == "-" else tuple(int(n) for n in text.split(","))
        if width is not None and ".dct." not in name:
            classes = name.startswith("fc.")
            shape = tuple(n * width // base if n >= 64 and not (classes and i == 0) else n for i, n in enumerate(shape))
        shapes[name] = shape
        if flags == ["dead"]:
            dead.add(name)
    assert len(dead) == 3 * LAYERS[structure]
    return shapes, dead


def random_weights(shapes, seed=0):
    """Weights with which every layer of a network fires at some rate between never and always."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        last = name.rpartition(".")[2]
        if last == "num_batches_tracked":
            weights[name] = torch.tensor(3)
        elif last == "running_var":
            weights[name] = 0.1 + 0.1 * noise.abs()
        elif ".bn." in name:
            weights[name] = {"weight": 1.0, "bias": 0.3, "running_mean": 0.0}[last] + 0.1 * noise
        elif len(shape) > 1:
            weights[name] = noise / math.sqrt(math.prod(shape[1:]))
        elif ".dct." in name:
            weights[name] = 0.5 + 0.1 * noise
        else:
            weights[name] = 0.1 * noise
    return weights


def read(release, weights, **changes):
    structure = RELEASES[release][0]
    arguments = ENTRIES[f"fsta-{structure}"].build_arguments(weights)
    net = build(f"fsta-{structure}", **{**arguments, "input_size": 32, **changes})
    return net, load_released(net, weights)


def clip(release, seed=1):
    sizes = RELEASES[release][1]
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(sizes["time_steps"], 2, sizes["in_channels"], 32, 32, generator=generator).double()


def run_recording_spikes(net, x):
    spikes = []
    for module in net.modules():
        if isinstance(module, LIF):
            module.register_forward_hook(lambda _, __, out: spikes.append(out))
    with torch.no_grad():
        return net(x), spikes


# The paper's equations step by step, on weights under the authors' names.


def printed_table():
    """Numbers as the authors printed them: [49, 7, 7], index 7 v + u."""
    i, k = np.meshgrid(np.arange(7), np.arange(7))
    basis = np.sqrt(np.where(k == 0, 1, 2) / 7) * np.cos(np.pi * (2 * i + 1) * k / 14)
    table = np.empty((49, 7, 7))
    for f in range(49):
        v, u = divmod(f, 7)
        exact = np.outer(basis[u], basis[v])
        if u % 2 or v % 2:
            table[f] = [[float(np.format_float_scientific(a, precision=4, unique=False)) for a in row] for row in exact]
        else:
            table[f] = np.round(exact, 4)
    return torch.tensor(table).float().double()


class Reference:
    def __init__(self, weights, structure):
        self.w = {name: tensor.double() for name, tensor in weights.items()}
        self.structure = structure
        self.table = printed_table()
        self.spikes = []

    def conv(self, name, x, stride=1):
        kernel = self.w[f"{name}.pool.weight"]
        return torch.stack([functional.conv2d(step, kernel, None, stride, kernel.shape[-1] // 2) for step in x])

    def norm(self, name, x):
        w, b, mean, var = (
            self.w[f"{name}.bn.{key}"][:, None, None] for key in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * w + b

    def attention(self, name, x):
        p = {key.removeprefix(f"{name}.dct."): t for key, t in self.w.items() if key.startswith(f"{name}.dct.")}
        T, B, C, _, _ = x.shape
        z = p["alpha"] * x.mean((3, 4)) + p["beta"] * x.flatten(3).max(3).values
        y = torch.zeros_like(z)
        for row in range(T):
            for column in range(T):
                y[row] += p["fc_t.weight"][row, column] * z[column]
        x1 = x * (1 + torch.sigmoid(y.mean(2)))[:, :, None, None, None]
        out = torch.empty_like(x)
        for b in range(B):
            middle = x1[:, b].mean(0)
            spectrum = functional.conv2d(middle[None], self.table[:, None].repeat(1, C, 1, 1), padding=3)
            maps = functional.conv2d(spectrum, p["freq_attention.freq_attention.0.weight"], padding=3)
            if "freq_attention.freq_attention.2.weight" in p:
                maps = functional.conv2d(maps.relu(), p["freq_attention.freq_attention.2.weight"], padding=3)
            x2 = x1[:, b] * (1 + torch.sigmoid(maps[0]))
            out[:, b] = (p["t"] * x1[:, b] + p["s"] * x2) / 2
        return out

    def fire(self, name, x):
        x = self.attention(name, x)
        membrane, spikes = torch.zeros_like(x[0]), []
        for current in x:
            membrane = 0.25 * membrane + current
            spikes.append((membrane / 1.0 > 0.5).double())
            membrane = membrane * (1 - spikes[-1])
        self.spikes.append(torch.stack(spikes))
        return self.spikes[-1]

    def pool(self, x, *settings):
        return torch.stack([functional.avg_pool2d(step, *settings) for step in x])

    def block(self, name, s, stride):
        u = self.fire(f"{name}.relu1", self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", s, stride)))
        current = self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", u))
        if f"{name}.downsample.1.pool.weight" in self.w:
            pooled = self.conv(f"{name}.downsample.1", self.pool(s, stride))
            current = current + self.norm(f"{name}.downsample.2", pooled)
        elif f"{name}.downsample.0.pool.weight" in self.w:
            current = current + self.norm(f"{name}.downsample.1", self.conv(f"{name}.downsample.0", s, stride))
        else:
            current = current + s
        return self.fire(f"{name}.relu2", current)

    def __call__(self, x):
        if self.structure == "resnet20":
            for conv, norm, relu in ((0, 1, 2), (3, 4, 5), (6, 7, 8)):
                x = self.fire(f"conv1.{relu}", self.norm(f"conv1.{norm}", self.conv(f"conv1.{conv}", x)))
            x = self.pool(x, 2)
        elif self.structure == "resnet19":
            x = self.fire("relu", self.norm("bn1", self.conv("conv1", x)))
        else:
            x = self.pool(self.fire("relu", self.norm("bn1", self.conv("conv1", x, 2))), 3, 2, 1)
        for stage in range(1, 5):
            for block in range(6):
                if f"layer{stage}.{block}.conv1.pool.weight" in self.w:
                    x = self.block(f"layer{stage}.{block}", x, 2 if stage > 1 and block == 0 else 1)
        rates = x.mean((3, 4))
        return sum(rate @ self.w["fc.conv.weight"].T + self.w["fc.conv.bias"] for rate in rates) / len(rates)


@pytest.mark.parametrize("release", ONE_EACH)
def test_network_computes_the_papers_equations(release):
    structure = RELEASES[release][0]
    weights = random_weights(released_shapes(release, SMALL[structure])[0])
    reference = Reference(weights, structure)
    expected = reference(clip(release))
    logits, spikes = run_recording_spikes(read(release, weights)[0].double().eval(), clip(release))
    assert len(spikes) == len(reference.spikes) == LAYERS[structure]
    assert all(0.02 < s.mean() < 0.98 for s in spikes)
    assert [int((a != b).sum()) for a, b in zip(spikes, reference.spikes, strict=True)] == [0] * len(spikes)
    torch.testing.assert_close(logits, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("release", RELEASES)
def test_parameters_are_the_releases_to_the_last_one(release):
    structure, sizes, total = RELEASES[release]
    with torch.device("meta"):
        net = build(f"fsta-{structure}", **sizes)
        plain = build(f"plain-{structure}", **sizes)
        alive = build(f"fsta-{structure}", dead_parameters=False, **sizes)
    assert sum(p.numel() for p in net.parameters()) == total
    assert count_unused(net) == 3 * LAYERS[structure]
    assert sum(p.numel() for p in alive.parameters()) == total - count_unused(net)
    quirk = (LAYERS[structure] - 1) * (7350 - 2401) if structure == "resnet19" else 0
    attention = LAYERS[structure] * (sizes["time_steps"] ** 2 + 2401 + 7) + quirk
    assert sum(p.numel() for p in plain.parameters()) == total - attention


@pytest.mark.parametrize("release", RELEASES)
def test_released_names_and_shapes_are_read_at_full_size(release):
    structure, sizes, _ = RELEASES[release]
    shapes, dead = released_shapes(release)
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in shapes.items()}
        arguments = ENTRIES[f"fsta-{structure}"].build_arguments(weights)
        report = load_released(build(f"fsta-{structure}", **arguments), weights)
    width = 128 if structure == "resnet19" else 64
    expected = {**sizes, "width": width, "reduction": 1, "dct": "printed", "dead_parameters": True}
    if structure == "resnet19":
        expected["forward_reduction"] = False
    assert arguments == expected
    assert set(report.dead) == dead
    assert report.aliases == ()
    assert report.loaded.keys() == shapes.keys()
    assert len(set(report.loaded.values())) == len(shapes)


@pytest.mark.parametrize("release", ONE_EACH)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_released_tensor_arrives(release, prefix):
    weights = random_weights(released_shapes(release, SMALL[RELEASES[release][0]])[0])
    net, report = read(release, weights)
    load_released(net, {prefix + name: tensor + 1 for name, tensor in weights.items()})
    own = net.state_dict()
    assert own.keys() == set(report.loaded.values())
    assert all(torch.equal(own[ours], weights[theirs] + 1) for theirs, ours in report.loaded.items())


def test_released_tensors_arrive_under_readable_names():
    release = "fsta_resnet20_cifar10"
    _, report = read(release, random_weights(released_shapes(release, 4)[0]))
    for theirs, ours in {
        "conv1.3.pool.weight": "stem.1.conv.module.weight",
        "conv1.7.bn.running_var": "stem.2.norm.module.running_var",
        "conv1.2.dct.fc_t.weight": "stem.0.attention.fc_t.weight",
        "layer1.0.relu1.dct.freq_attention.freq_attention.0.weight": "stages.0.0.spiking1.attention.freq_conv.weight",
        "layer4.1.relu2.dct.t_scale": "stages.3.1.spiking2.attention.unused.t_scale",
        "layer2.1.conv2.pool.weight": "stages.1.1.conv2.module.weight",
        "layer3.0.downsample.1.pool.weight": "stages.2.0.shortcut.conv.module.weight",
        "layer3.0.downsample.2.bn.bias": "stages.2.0.shortcut.norm.module.bias",
        "fc.conv.bias": "readout.module.bias",
    }.items():
        assert report.loaded[theirs] == ours


@pytest.mark.parametrize("release", ONE_EACH)
def test_dead_names_are_reported_where_the_network_has_no_place_for_them(release):
    shapes, dead = released_shapes(release, SMALL[RELEASES[release][0]])
    net, report = read(release, random_weights(shapes), dead_parameters=False)
    assert count_unused(net) == 0
    assert set(report.dead) == dead
    assert report.loaded.keys() == shapes.keys() - dead


def test_release_without_its_dead_tensors_is_read_too():
    release = "fsta_resnet20_cifar10"
    shapes, dead = released_shapes(release, 4)
    net, report = read(release, random_weights({name: s for name, s in shapes.items() if name not in dead}))
    assert count_unused(net) == 0
    assert report.dead == ()


@pytest.mark.parametrize(
    ("release", "change", "message"),
    [
        ("fsta_resnet20_cifar10", {"layer2.0.bn1.bn.weight": None}, r"stages\.1\.0\.norm1\.module\.weight: missing"),
        (
            "fsta_resnet20_cifar10",
            {"layer2.0.relu1.dct.x": None},
            r"stages\.1\.0\.spiking1\.attention\.unused\.x: miss",
        ),
        (
            "fsta_resnet20_cifar10",
            {"layer5.0.conv1.pool.weight": (4, 4, 3, 3)},
            r"layer5\.0\.conv1\.pool\.weight: unkn",
        ),
        ("fsta_resnet20_cifar10", {"conv1.9.pool.weight": (4, 4, 3, 3)}, r"conv1\.9\.pool\.weight: unknown"),
        # the other networks' place of a shortcut
        (
            "fsta_resnet20_cifar10",
            {"layer2.0.downsample.0.pool.weight": (8, 4, 1, 1)},
            r"downsample\.0\.pool.* unknown",
        ),
        ("fsta_resnet18_imagenet", {"layer2.0.downsample.2.bn.weight": (8,)}, r"downsample\.2\.bn\.weight: unknown"),
        ("fsta_resnet20_cifar10", {"layer1.1.relu2.dct.fc_t.weight": (3, 3)}, r"relu2\.dct\.fc_t\.weight is \(3, 3\)"),
        ("fsta_resnet19_cifar100", {"fc.conv.bias": (99,)}, r"fc\.conv\.bias is \(99,\)"),
    ],
)
def test_names_and_shapes_that_do_not_fit_are_refused(release, change, message):
    weights = random_weights(released_shapes(release, SMALL[RELEASES[release][0]])[0])
    for name, shape in change.items():
        if shape is None:
            del weights[name]
        else:
            weights[name] = torch.zeros(shape)
    with pytest.raises(InputError, match=message):
        read(release, weights, dead_parameters=True)


def test_released_weights_bring_the_printed_table_and_it_matters():
    release = "fsta_resnet20_cifar10"
    weights = random_weights(released_shapes(release, 4)[0])
    net, _ = read(release, weights, dct="exact")
    assert {module.dct for module in net.modules() if isinstance(module, FSTA)} == {"printed"}
    assert net.built_as.arguments["dct"] == "printed"
    again = build("fsta-resnet20", **net.built_as.arguments)
    again.load_state_dict(net.state_dict())
    exact = build("fsta-resnet20", **{**net.built_as.arguments, "dct": "exact"})
    exact.load_state_dict(net.state_dict())
    current = torch.randn(2, 2, 4, 32, 32)
    gated = net.stem[0].attention(current)
    assert torch.equal(again.stem[0].attention(current), gated)
    assert not torch.equal(exact.stem[0].attention(current), gated)


def reductions(net):
    """Hidden maps of each attention, stem first; 0 where there is one convolution."""
    gates = [module for module in net.modules() if isinstance(module, FSTA)]
    return [0 if gate.freq_out is None else gate.freq_out.in_channels for gate in gates]


@pytest.mark.parametrize(
    ("options", "stem", "blocks"),
    [
        ({}, 0, 3),
        ({"reduction": 4}, 12, 3),
        ({"forward_reduction": True}, 0, 0),
        ({"reduction": 4, "forward_reduction": True}, 12, 12),
    ],
)
def test_blocks_of_resnet19_keep_reduction_16_unless_it_is_forwarded(options, stem, blocks):
    with torch.device("meta"):
        assert reductions(build("fsta-resnet19", width=4, **options)) == [stem] + [blocks] * 16


@pytest.mark.parametrize("structure", ["resnet20", "resnet18", "resnet34"])
def test_reduction_reaches_every_layer_of_the_other_networks(structure):
    with torch.device("meta"):
        assert reductions(build(f"fsta-{structure}", width=4, reduction=16)) == [3] * LAYERS[structure]


def released_name(ours):
    """Our name of a ResNet-20 or -19 attention tensor as the authors' code writes it."""
    return ours.replace("freq_conv", "freq_attention.freq_attention.0").replace(
        "freq_out", "freq_attention.freq_attention.2"
    )


@pytest.mark.parametrize(("reduction", "forward"), [(1, True), (16, True), (4, False), (4, True), (30, True)])
def test_reductions_are_read_from_the_shapes(reduction, forward):
    release = "fsta_resnet19_cifar100"
    shapes, _ = released_shapes(release, 8)
    with torch.device("meta"):
        gates = {"relu": FSTA(2, reduction=reduction), "block": FSTA(2, reduction=reduction if forward else 16)}
    prefixes = {name.partition(".dct.")[0] for name in shapes if ".dct." in name}
    shapes = {name: shape for name, shape in shapes.items() if "freq_attention" not in name}
    for prefix in prefixes:
        for ours, tensor in gates["relu" if prefix == "relu" else "block"].state_dict().items():
            shapes[f"{prefix}.dct.{released_name(ours)}"] = tuple(tensor.shape)
    net, _ = read(release, random_weights(shapes))
    hidden = 0 if reduction == 1 else 49 // reduction
    assert reductions(net) == [hidden] + [hidden if forward else 3] * 16


@pytest.mark.parametrize("name", [f"{kind}-{structure}" for kind in ("fsta", "plain") for structure in STRUCTURES])
def test_every_neuron_is_the_papers(name):
    with torch.device("meta"):
        neurons = [module for module in build(name, width=4).modules() if isinstance(module, LIF)]
    assert len(neurons) == LAYERS[name.partition("-")[2]]
    for neuron in neurons:
        spec = neuron.neuron_spec()
        assert (spec.decay, spec.v_threshold, spec.strict, spec.v_reset, spec.input_gain) == (0.25, 0.5, True, 0.0, 1.0)
        assert (neuron.surrogate, neuron.detach_reset) == ("tanh", False)


def test_neuron_fires_above_one_half_and_forgets():
    neuron = next(module for module in build("plain-resnet20", width=1).modules() if isinstance(module, LIF))
    currents = torch.tensor([[0.5, 0.500001], [0.0, 0.0]], dtype=torch.float64)
    spikes, membranes = neuron.run(currents)
    assert spikes.tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert membranes[1].tolist() == [0.125, 0.0]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_plain_network_has_no_attention_and_takes_any_number_of_steps(structure):
    assert ENTRIES[f"plain-{structure}"].coupling == "none"
    net = build(f"plain-{structure}", in_channels=2, num_classes=3, input_size=16, width=4).eval()
    assert not any(isinstance(module, FSTA) for module in net.modules())
    with torch.no_grad():
        assert net(torch.rand(1, 1, 2, 16, 16)).shape == net(torch.rand(3, 1, 2, 16, 16)).shape == (1, 3)


@pytest.mark.parametrize("kind", ["fsta", "plain"])
def test_frames_that_resnet20_cannot_halve_are_refused_at_build(kind):
    with pytest.raises(InputError, match="input_size = 40: must be a multiple of 16"):
        build(f"{kind}-resnet20", width=4, input_size=40)


@pytest.mark.parametrize("structure", ["resnet20", "resnet19"])
def test_everything_but_the_dead_parameters_learns(structure):
    torch.manual_seed(0)
    net = build(f"fsta-{structure}", in_channels=2, time_steps=2, num_classes=3, input_size=16, width=4).double()
    net(2 * torch.rand(2, 4, 2, 16, 16, dtype=torch.float64))[:, 0].sum().backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad is None) == (".unused." in name), name


@pytest.mark.slow
def test_network_can_be_exported():
    torch.manual_seed(0)
    net = build("fsta-resnet19", time_steps=2, num_classes=3, input_size=8, width=2).double().eval()
    x = torch.rand(2, 1, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x), atol=1e-12, rtol=0)
