from functools import cache
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from spikefold.errors import InputError
from spikefold.models import ENTRIES, LIF, build, load_released
from spikefold.models.attention.ma import MA
from spikefold.models.systems.dvsnets import ma_neuron

NAMES = Path(__file__).parents[1] / "released_names"
KINDS = ("TA", "CA", "SA", "TCA", "CSA", "TSA", "TCSA")
SMALL = {"width": 8, "time_steps": 6, "num_classes": 3, "input_size": 8, "c_ratio": 4, "t_ratio": 2}


@cache
def released(name):
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for line in (NAMES / f"{name}.txt").read_text().splitlines():
        key, shape = line.split()
        sizes = [] if shape == "-" else [int(n) for n in shape.split(",")]
        tensors[key] = torch.randn(sizes, generator=generator) if sizes else torch.tensor(3)
    return tensors


def count(name, **arguments):
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, **arguments).parameters())


def clip(batch=3, time_steps=6, size=8):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(time_steps, batch, 2, size, size, generator=generator, dtype=torch.float64)


def made(**settings):
    """A small network whose norms fit its currents and whose neurons are neither silent nor saturated."""
    torch.manual_seed(0)
    net = build("tcsa-a", **{**SMALL, **settings}).double()
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
            torch.nn.init.uniform_(module.weight, 1.0, 4.0)
            torch.nn.init.uniform_(module.bias, 0.0, 1.0)
    net(clip())
    return net.eval()


def run(net, x):
    """Scores, and the spikes of every layer."""
    spikes = []
    hooks = [m.register_forward_hook(lambda *a: spikes.append(a[2])) for m in net.modules() if isinstance(m, LIF)]
    with torch.no_grad():
        scores = net(x)
    for hook in hooks:
        hook.remove()
    return scores, spikes


def gated(p, prefix, kind, rectify, cur):
    """MA of one sample's currents, a list of T tensors."""
    if "T" in kind:
        w1, w2 = p[f"{prefix}.gates.temporal.reduce.weight"], p[f"{prefix}.gates.temporal.expand.weight"]
        pooled = [torch.stack([f(c) for c in cur]) for f in (torch.mean, torch.max)]
        factors = torch.sigmoid(sum(w2 @ (w1 @ v).clamp(min=0) for v in pooled))
        cur = [factor * c for factor, c in zip(factors, cur, strict=True)]
    if "C" in kind:
        w1, w2 = p[f"{prefix}.gates.channel.reduce.weight"], p[f"{prefix}.gates.channel.expand.weight"]
        rows = torch.cat([c.flatten(1) for c in cur], 1)
        factors = torch.sigmoid(sum(w2 @ (w1 @ v).clamp(min=0) for v in (rows.mean(1), rows.max(1).values)))
        cur = [factors[:, None, None] * c for c in cur]
    if "S" in kind:
        maps = torch.cat(cur)
        pooled = torch.stack([maps.mean(0), maps.max(0).values])
        factors = torch.sigmoid(functional.conv2d(pooled[None], p[f"{prefix}.gates.spatial.conv.weight"], padding=1)[0])
        cur = [factors * c for c in cur]
    return [c.clamp(min=0) for c in cur] if rectify else cur


def fire(cur):
    """Neurons of one sample: h = 0.3 (s 0.3 + (1 - s) u), u = h + I, s = [u >= 0.3]."""
    h, spikes = torch.zeros_like(cur[0]), []
    for current in cur:
        u = h + current
        s = (u >= 0.3).to(u.dtype)
        h = 0.3 * (s * 0.3 + (1 - s) * u)
        spikes.append(s)
    return spikes


def normed(p, prefix, v):
    scale = p[f"{prefix}.weight"] / (p[f"{prefix}.running_var"] + 1e-5).sqrt()
    shape = [-1] + [1] * (v.dim() - 1)
    return (v - p[f"{prefix}.running_mean"].view(shape)) * scale.view(shape) + p[f"{prefix}.bias"].view(shape)


def by_hand(net, x, kind, rectify):
    """The network sample by sample and step by step."""
    p = net.state_dict()
    scores, layers = [], [[] for _ in range(5)]
    for b in range(x.shape[1]):
        steps = [x[t, b] for t in range(x.shape[0])]
        for i in range(3):
            weight, bias = p[f"blocks.{i}.conv.module.weight"], p[f"blocks.{i}.conv.module.bias"]
            cur = [functional.conv2d(s[None], weight, bias, padding=1)[0] for s in steps]
            cur = [normed(p, f"blocks.{i}.norm.module", c) for c in cur]
            if i > 0:
                cur = [functional.avg_pool2d(c, 2) for c in cur]
            steps = fire(gated(p, f"blocks.{i}.attention", kind, rectify, cur))
            layers[i].append(torch.stack(steps))
        steps = [s.flatten() for s in steps]
        for i in range(2):
            weight, bias = p[f"classifier.{i}.linear.module.weight"], p[f"classifier.{i}.linear.module.bias"]
            cur = [normed(p, f"classifier.{i}.norm.module", weight @ s + bias) for s in steps]
            if "T" in kind:
                cur = gated(p, f"classifier.{i}.attention", "T", rectify, cur)
            steps = fire(cur)
            layers[3 + i].append(torch.stack(steps))
        scores.append(torch.stack(steps).mean(0))
    return torch.stack(scores), [torch.stack(layer, 1) for layer in layers]


@pytest.mark.parametrize(("kind", "rectify"), [("TCSA", True), ("TCSA", False), ("CSA", True), ("TA", True)])
def test_network_equals_its_equations_spike_for_spike(kind, rectify):
    net = made(kind=kind, rectify=rectify)
    scores, spikes = run(net, clip())
    expected_scores, expected_spikes = by_hand(net, clip(), kind, rectify)
    assert len(spikes) == 5
    for layer, expected in zip(spikes, expected_spikes, strict=True):
        assert 0.02 < expected.mean() < 0.98
        assert torch.equal(layer, expected)
    torch.testing.assert_close(scores, expected_scores, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "total"),
    [({}, 2_340_535), ({"kind": "CSA"}, 2_333_335), ({"kind": "CA"}, 2_333_335 - 3 * 18),
     ({"kind": "TA"}, 2_340_535 - 3 * 18 - 1_024 - 2 * 4_096)],
)  # fmt: skip
def test_parameters_are_as_many_as_the_authors(arguments, total):
    assert count("tcsa-a", **arguments) == total


def test_attention_costs_as_much_as_published():
    with torch.device("meta"):
        net = build("tcsa-a")
    costs = [sum(p.numel() for p in module.parameters()) for module in net.modules() if isinstance(module, MA)]
    assert costs == [2_482, 5_554, 5_554, 1_440, 1_440]
    assert count("plain-ma-a") == 2_340_535 - sum(costs)


@pytest.mark.parametrize("kind", KINDS)
def test_fully_connected_layers_have_a_temporal_gate_where_the_kind_has_one(kind):
    net = build("tcsa-a", kind=kind, **{k: v for k, v in SMALL.items() if k != "kind"})
    kinds = [module.kind for module in net.modules() if isinstance(module, MA)]
    assert kinds == [kind] * 3 + (["TA"] * 2 if "T" in kind else [])


@pytest.mark.parametrize(("name", "layers"), [("tcsa-a", 5), ("plain-ma-a", 5), ("tcsa-dvsnet", 3)])
def test_neurons_reset_to_their_threshold(name, layers):
    with torch.device("meta"):
        neurons = [m for m in build(name).modules() if isinstance(m, LIF)]
    assert len(neurons) == layers
    for neuron in neurons:
        spec = neuron.neuron_spec()
        assert (spec.decay, spec.v_threshold, spec.v_reset, spec.strict, spec.input_gain) == (0.3, 0.3, 0.3, False, 1.0)
        assert neuron.surrogate == "rectangular"
        assert not neuron.detach_reset


def test_a_spike_leaves_the_decayed_threshold_behind():
    spikes, membranes = ma_neuron().run(torch.tensor([[1.0], [0.0], [0.22], [0.0]], dtype=torch.float64))
    assert spikes.flatten().tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(
        membranes.flatten(), torch.tensor([1.0, 0.09, 0.247, 0.0741], dtype=torch.float64), atol=1e-12, rtol=0
    )


def test_fixed_gate_moves_into_threshold_and_reset():
    generator = torch.Generator().manual_seed(2)
    current = torch.randn(40, 2, 30, generator=generator, dtype=torch.float64)
    for gate in (0.5, 0.25):  # powers of two, so that both sides round alike
        folded = LIF(decay=0.3, v_threshold=0.3 / gate, v_reset=0.3 / gate, strict=False)
        spikes = ma_neuron()(gate * current)
        assert spikes.sum() > 10
        assert torch.equal(folded(current), spikes)


@pytest.mark.parametrize("name", ["ma_gesture_tcsa", "ma_gesture_csa"])
def test_released_weights_arrive_where_they_belong(name):
    weights = released(name)
    arguments = ENTRIES["tcsa-a"].build_arguments(weights)
    net = build("tcsa-a", **arguments)
    report = load_released(net, {f"module.{key}": tensor for key, tensor in weights.items()})
    assert set(report.loaded) == set(weights)
    assert report.dead == report.aliases == ()
    own = net.state_dict()
    ours = {
        "convAttLIF0.conv2d.bias": "blocks.0.conv.module.bias",
        "convAttLIF2.conv2d.weight": "blocks.2.conv.module.weight",
        "convAttLIF1.BNLayer.running_var": "blocks.1.norm.module.running_var",
        "convAttLIF1.BNLayer.num_batches_tracked": "blocks.1.norm.module.num_batches_tracked",
        "convAttLIF1.attention.ca.sharedMLP.0.weight": "blocks.1.attention.gates.channel.reduce.weight",
        "convAttLIF1.attention.ca.sharedMLP.2.weight": "blocks.1.attention.gates.channel.expand.weight",
        "convAttLIF2.attention.sa.conv.weight": "blocks.2.attention.gates.spatial.conv.weight",
        "FC0.linear.weight": "classifier.0.linear.module.weight",
        "FC1.BNLayer.weight": "classifier.1.norm.module.weight",
    }
    if name == "ma_gesture_tcsa":
        ours |= {
            "convAttLIF0.attention.ta.sharedMLP.0.weight": "blocks.0.attention.gates.temporal.reduce.weight",
            "FC0.attention.ta.sharedMLP.0.weight": "classifier.0.attention.gates.temporal.reduce.weight",
            "FC1.attention.ta.sharedMLP.2.weight": "classifier.1.attention.gates.temporal.expand.weight",
        }
    for theirs, mine in ours.items():
        assert report.loaded[theirs] == mine
        assert torch.equal(own[mine].flatten(), weights[theirs].flatten()), theirs


def test_build_arguments_are_read_from_the_shapes():
    read = ENTRIES["tcsa-a"].build_arguments
    csa = {"in_channels": 2, "num_classes": 11, "input_size": 32, "width": 64, "kind": "CSA", "c_ratio": 8}
    assert read(released("ma_gesture_csa")) == csa
    assert read(released("ma_gesture_tcsa")) == {**csa, "kind": "TCSA", "time_steps": 60, "t_ratio": 5}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"FC1.linear.bias": None}, r"classifier\.1\.linear\.module\.bias: missing"),
     ({"FC2.linear.bias": torch.zeros(3)}, r"FC2\.linear\.bias: unknown"),
     ({"convAttLIF0.conv2d.bias": torch.zeros(3)}, r"convAttLIF0\.conv2d\.bias is \(3,\); expected \(64,\)")],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused_by_name(change, message):
    weights = {k: v for k, v in {**released("ma_gesture_csa"), **change}.items() if v is not None}
    with torch.device("meta"):
        net = build("tcsa-a", kind="CSA")
    with pytest.raises(InputError, match=message):
        load_released(net, weights)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("tcsa-a", {**SMALL, "time_steps": 3}), ("tcsa-dvsnet", {"time_steps": 3, "input_size": 8, "num_classes": 3})],
)
def test_network_can_be_exported_for_a_batch_of_one(name, arguments):
    torch.manual_seed(0)
    net, x = build(name, **arguments).eval(), clip(1, time_steps=3).float()
    with torch.no_grad():
        scores = net(x)
        assert scores.shape == (1, 3)
        torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), scores)


def test_small_network_rectifies_unless_told_otherwise():
    for rectify, arguments in ((True, {}), (False, {"rectify": False})):
        gates = [m for m in build("tcsa-dvsnet", **arguments).modules() if isinstance(m, MA)]
        assert [(m.kind, m.rectify) for m in gates] == [("TCSA", rectify)] * 3


def test_unknown_kind_is_refused():
    with pytest.raises(InputError, match="kind = 'SCT'"):
        build("tcsa-a", kind="SCT")
