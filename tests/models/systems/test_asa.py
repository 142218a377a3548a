"""Architectures A to D of ASA-SNN: sizes, the authors' parameter names, and the forward pass told step by step."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from spikefold.errors import InputError
from spikefold.models import ASA, ENTRIES, LIF, ParametricLIF, build, load_released
from spikefold.models.unused import Unused, count_unused

RELEASED = Path(__file__).parents[1] / "released_names"
CHECKPOINTS = {"asa_netA_gesture": "asa-a", "asa_netA_gait_day": "asa-a", "asa_netB_gesture_sj": "asa-b",
               "asa_netD_gait_night": "asa-d"}  # fmt: skip
SMALL = {
    "a": {"width": 4, "time_steps": 8, "num_classes": 5, "input_size": 8},
    "b": {"width": 4, "time_steps": 6, "num_classes": 5, "input_size": 32},
    "c": {"width": 4, "time_steps": 6, "num_classes": 5, "input_size": 32},
    "d": {"width": 4, "time_steps": 16, "num_classes": 5, "input_size": 8},
}


def checkpoint(name):
    """Random tensors of a released checkpoint's names and shapes, and the names that are dead."""
    generator = torch.Generator().manual_seed(0)
    tensors, dead = {}, []
    for line in (RELEASED / f"{name}.txt").read_text().splitlines():
        key, shape, *mark = line.split()
        tensors[key] = torch.randn([int(n) for n in shape.split(",") if n != "-"], generator=generator)
        if key.endswith("num_batches_tracked"):  # a count, as in the release
            tensors[key] = torch.tensor(len(tensors))
        dead += [key] if mark else []
    return tensors, dead


def parameters(name, **arguments):
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, **arguments).parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "total"),
    [
        ("asa-a", {}, 2_329_162),
        ("asa-a", {"num_classes": 20}, 2_331_475),
        ("asa-a", {"dead_parameters": False}, 2_323_531 + 5_514),
        ("asa-b", {}, 1_701_123),
        ("asa-d", {}, 551_731),
        ("plain-a", {}, 2_323_531),
        ("plain-b", {}, 1_698_933),
        ("plain-d", {}, 548_980),
    ],
)
def test_parameters_are_the_authors_to_the_last_one(name, arguments, total):
    assert parameters(name, **arguments) == total


def test_architecture_c_differs_from_b_by_its_first_channels_and_its_neuron():
    first_two = (128 - 64) * (2 * 9 + 128 * 9 + 2)
    assert parameters("plain-c") == parameters("plain-b") - first_two - 7
    assert parameters("asa-c") - parameters("plain-c") == parameters("asa-b") - parameters("plain-b") == 2_190


@pytest.mark.parametrize("name", ["asa-a", "asa-d"])
def test_unused_parameters_can_be_left_out(name):
    with torch.device("meta"):
        assert count_unused(build(name)) == 117
        lean = build(name, dead_parameters=False)
    assert not any(isinstance(module, Unused) for module in lean.modules())


@pytest.mark.parametrize(
    ("checkpoint_name", "arguments"),
    [
        ("asa_netA_gesture", {"num_classes": 11, "time_steps": 60, "width": 64, "reduction": 4, "input_size": 32}),
        ("asa_netA_gait_day", {"num_classes": 20, "time_steps": 60, "width": 64, "reduction": 4, "input_size": 32}),
        ("asa_netB_gesture_sj", {"num_classes": 11, "time_steps": 20, "width": 128, "input_size": 128}),
        ("asa_netD_gait_night", {"num_classes": 20, "time_steps": 60, "width": 32, "reduction": 8, "input_size": 32}),
    ],
)
def test_build_arguments_are_read_from_the_shapes(checkpoint_name, arguments):
    name = CHECKPOINTS[checkpoint_name]
    dead = {} if name == "asa-b" else {"dead_parameters": True}
    read = ENTRIES[name].build_arguments(checkpoint(checkpoint_name)[0])
    assert read == {"in_channels": 2, **arguments, **dead}


def test_build_arguments_of_a_without_reduction_and_dead_attention():
    released = {key: tensor for key, tensor in checkpoint("asa_netA_gesture")[0].items() if ".spike." not in key}
    released["ConvAttLIFs.0.attn.fc.weight"] = torch.zeros(12, 12)
    read = ENTRIES["asa-a"].build_arguments(released)
    assert (read["time_steps"], read["reduction"], read["dead_parameters"]) == (12, 1, False)


def our_name(name, released):
    """Where a released tensor belongs, spelled out."""
    part, number, *rest = released.split(".")
    if name == "asa-b":
        rest = rest[1:]
    tail = ".".join(rest)
    if part == "FCs":
        return f"classifier.{number}." + ("neuron.w" if tail == "spike.0.w" else f"linear.module.{rest[-1]}")
    if tail == "spike.0.w":
        return f"blocks.{number}.neuron.w"
    if tail.startswith("spike"):
        return f"blocks.{number}.neuron.unused.{rest[3]}"
    if tail.startswith("attn"):
        return f"blocks.{number}.attention.{'.'.join(rest[1:])}"
    return f"blocks.{number}.{'conv' if rest[0] == 'conv' else 'norm'}.module.{rest[-1]}"


@pytest.mark.parametrize("checkpoint_name", CHECKPOINTS)
def test_released_weights_arrive_where_they_belong(checkpoint_name):
    name = CHECKPOINTS[checkpoint_name]
    released, dead = checkpoint(checkpoint_name)
    net = build(name, **ENTRIES[name].build_arguments(released))
    report = load_released(net, {f"module.{key}": tensor for key, tensor in released.items()})
    state = net.state_dict()
    assert report.loaded == {key: our_name(name, key) for key in released}
    assert set(report.loaded.values()) == set(state)
    assert report.dead == tuple(dead)
    assert len(dead) == (0 if name == "asa-b" else 15)
    for key, tensor in released.items():
        ours = state[our_name(name, key)]
        assert torch.equal(ours, tensor.reshape(ours.shape).to(ours.dtype)), key


def test_released_weights_fit_without_the_unused_parameters():
    released, dead = checkpoint("asa_netD_gait_night")
    net = build("asa-d", dead_parameters=False)
    report = load_released(net, released)
    assert report.dead == tuple(dead)
    assert not set(dead) & set(report.loaded)


@pytest.mark.parametrize("checkpoint_name", ["asa_netB_gesture_sj", "asa_netD_gait_night"])
def test_checkpoints_that_do_not_fit_are_refused_by_name(checkpoint_name):
    name = CHECKPOINTS[checkpoint_name]
    released, _ = checkpoint(checkpoint_name)
    with torch.device("meta"):
        net = build(name)
    conv = next(key for key in released if key.startswith("ConvAttLIFs.1.") and key.endswith("attn.conv2.weight"))
    with pytest.raises(InputError, match=r"blocks\.1\.attention\.conv2\.weight: missing"):
        load_released(net, {key: tensor for key, tensor in released.items() if key != conv})
    with pytest.raises(InputError, match=r"ConvAttLIFs\.9\.0\.extra: unknown"):
        load_released(net, {**released, "ConvAttLIFs.9.0.extra": torch.zeros(1)})
    with pytest.raises(InputError, match=rf"{conv} is \(1, 2, 5, 5\); expected \(1, 2, 3, 3\)"):
        load_released(net, {**released, conv: torch.zeros(1, 2, 5, 5)})


def fired(name, seed=0, **options):
    """A small network whose every layer fires sometimes, and a clip."""
    torch.manual_seed(seed)
    net = build(name, **SMALL[name[-1]], **options).double().eval()
    for key, tensor in net.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.05, 0.2)
        elif ".norm.module.bias" in key:
            tensor.normal_(0.2 if name[-1] in "ad" else 1.0, 0.5)
        elif key.endswith("running_mean"):
            tensor.normal_(0.0, 0.2)
        elif ".linear.module.weight" in key:
            tensor.mul_(4.0 if name[-1] in "ad" else 12.0)
        elif ".linear.module.bias" in key:
            tensor.uniform_(0.0, 0.4)
        elif ".attention.conv" in key:
            tensor.abs_()  # maps near 1 let a gated layer fire
        elif ".attention.fc.0" in key:
            tensor[1] = -tensor[0]  # were both hidden features silent, ties would follow, which any order may break
        elif key.endswith("neuron.w"):
            tensor.uniform_(-1.0, 1.0)
    arguments = net.built_as.arguments
    size = arguments["input_size"]
    return net, torch.rand(arguments["time_steps"], 3, 2, size, size, dtype=torch.float64)


def spikes_of(net, x):
    recorded = []
    hooks = [m.register_forward_hook(lambda *a: recorded.append(a[2])) for m in net.modules() if isinstance(m, LIF)]
    with torch.no_grad():
        out = net(x)
    for hook in hooks:
        hook.remove()
    return out, recorded


def run_neuron(current, kind, weight):
    """One population's spikes from a list of currents, one a step."""
    u, spikes = torch.zeros_like(current[0]), []
    for x in current:
        if kind == "asa":
            u = 0.3 * u + x
            s = (u >= 0.3).double()
        else:
            leak = 0.5 if kind == "lif" else torch.sigmoid(weight)
            u = u + (x - u) * leak
            s = (u >= 1.0).double()
        u = u * (1 - s)
        spikes.append(s)
    return spikes


def attend(current, state, at, lam, union, rule):
    """ASA on a list of currents ``[B, C, H, W]``, one a step, with sets of selected (step, channel)."""
    T, (B, C) = len(current), current[0].shape[:2]
    best_channels, best_steps = [set() for _ in range(B)], [set() for _ in range(B)]
    for b in range(B):
        pooled = torch.empty(C, T, dtype=torch.float64)
        for t in range(T):
            for c in range(C):
                average, maximum = current[t][b, c].mean(), current[t][b, c].max()
                pooled[c, t] = (
                    0.5 * (average + maximum) + state[f"{at}.alpha"] * average + state[f"{at}.beta"] * maximum
                )
        if f"{at}.fc.weight" in state:
            R = pooled @ state[f"{at}.fc.weight"].T
        else:
            R = torch.relu(pooled @ state[f"{at}.fc.0.weight"].T) @ state[f"{at}.fc.2.weight"].T
        for t in range(T):
            ranked = sorted(range(C), key=lambda c: -R[c, t])
            best_channels[b] |= {(t, c) for c in ranked[: int(C * lam)]}
        for c in range(C):
            ranked = sorted(range(T), key=lambda t: -R[c, t])
            best_steps[b] |= {(t, c) for t in ranked[: int(T * lam)]}
    if union:
        best_channels, best_steps = [set().union(*best_channels)] * B, [set().union(*best_steps)] * B
    gated = [torch.empty_like(x) for x in current]
    for b in range(B):
        one, two = best_channels[b], best_steps[b]
        important = {"xor": one ^ two, "and": one & two, "or": one | two}[rule]
        maps = []
        for inside, share, conv in ((True, lam, "conv1"), (False, 1 - lam, "conv2")):
            kept = [current[t][b, c] * (((t, c) in important) == inside) for t in range(T) for c in range(C)]
            pair = torch.stack([sum(kept) / (T * C) / share, torch.stack(kept).max(0).values])
            maps.append(torch.sigmoid(functional.conv2d(pair[None], state[f"{at}.{conv}.weight"], padding=1))[0, 0])
        for t in range(T):
            for c in range(C):
                gated[t][b, c] = current[t][b, c] * maps[0 if (t, c) in important else 1]
    return gated


def step_by_step(net, x, architecture, lam=0.5, mask_mode="per_sample", mask_rule="xor"):
    """The network as the paper has it: one step after another, a layer's spikes at a time."""
    state = net.state_dict()
    small = architecture in "ad"
    kind = {"a": "asa", "b": "plif", "c": "lif", "d": "asa"}[architecture]
    signal, recorded = list(x), []
    for i in range(3 if small else 5):
        at, current = f"blocks.{i}", []
        for frame in signal:
            y = functional.conv2d(
                frame, state[f"{at}.conv.module.weight"], state.get(f"{at}.conv.module.bias"), padding=1
            )
            mean, var, gain, shift = (
                state[f"{at}.norm.module.{n}"][:, None, None] for n in ("running_mean", "running_var", "weight", "bias")
            )
            y = (y - mean) / (var + 1e-5).sqrt() * gain + shift
            current.append(functional.avg_pool2d(y, 2) if small and i > 0 else y)
        if f"{at}.attention.alpha" in state:
            current = attend(current, state, f"{at}.attention", lam, mask_mode == "batch_union", mask_rule)
        signal = run_neuron(current, kind, state.get(f"{at}.neuron.w"))
        recorded.append(torch.stack(signal))
        if not small:
            pool = functional.max_pool2d if architecture == "b" else functional.avg_pool2d
            signal = [pool(s, 2) for s in signal]
    signal = [s.flatten(1) for s in signal]
    for i in range(2):
        at = f"classifier.{i}"
        current = [s @ state[f"{at}.linear.module.weight"].T + state[f"{at}.linear.module.bias"] for s in signal]
        signal = run_neuron(current, kind, state.get(f"{at}.neuron.w"))
        recorded.append(torch.stack(signal))
    rates = sum(signal) / len(signal)
    if small:
        return rates, recorded
    return torch.stack([rates[:, 10 * k : 10 * k + 10].mean(1) for k in range(rates.shape[1] // 10)], 1), recorded


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[(f"plain-{architecture}", {}) for architecture in "abcd"],
        *[(f"asa-{architecture}", {}) for architecture in "abcd"],
        ("asa-a", {"mask_mode": "batch_union"}),
        ("asa-a", {"lam": 0.3, "mask_rule": "or"}),
        ("asa-b", {"mask_mode": "batch_union", "mask_rule": "and"}),
    ],
)
def test_network_equals_the_step_by_step_form(name, options):
    net, x = fired(name, **options)
    out, spikes = spikes_of(net, x)
    expected, expected_spikes = step_by_step(net, x, name[-1], **options)
    assert len(spikes) == len(expected_spikes)
    for layer, expected_layer in zip(spikes, expected_spikes, strict=True):
        assert 0 < expected_layer.mean() < 1
        assert int((layer != expected_layer).sum()) == 0
    torch.testing.assert_close(out, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["asa-a", "asa-b"])
def test_batch_of_one_gives_what_its_sample_gives_in_a_batch(name):
    net, x = fired(name)
    torch.testing.assert_close(net(x[:, 1:2]), net(x)[1:2], atol=1e-9, rtol=0)


def test_released_result_of_a_sample_depends_on_its_batch():
    net, x = fired("asa-a", mask_mode="batch_union")
    attention = net.blocks[0].attention
    current = torch.randn(8, 3, 4, 8, 8, dtype=torch.float64)
    assert not torch.equal(attention(current)[:, :1], attention(current[:, :1]))
    torch.testing.assert_close(net(x[:, :1].expand(-1, 2, -1, -1, -1))[:1], net(x[:, :1]), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("name", "blocks"), [("asa-a", 3), ("asa-b", 5), ("asa-c", 5), ("asa-d", 3), ("plain-a", 0)])
def test_attention_stands_in_convolutional_blocks_alone(name, blocks):
    with torch.device("meta"):
        net = build(name)
    found = [path for path, module in net.named_modules() if isinstance(module, ASA)]
    assert found == [f"blocks.{i}.attention" for i in range(blocks)]


@pytest.mark.parametrize(
    ("architecture", "kind", "decay", "threshold", "gain", "surrogate"),
    [
        ("a", LIF, 0.3, 0.3, 1.0, "rectangular"),
        ("b", ParametricLIF, 0.5, 1.0, 0.5, "atan"),
        ("c", LIF, 0.5, 1.0, 0.5, "atan"),
        ("d", LIF, 0.3, 0.3, 1.0, "rectangular"),
    ],
)
def test_neurons_are_the_authors(architecture, kind, decay, threshold, gain, surrogate):
    for name in (f"asa-{architecture}", f"plain-{architecture}"):
        neurons = [module for module in build(name, **SMALL[architecture]).modules() if isinstance(module, LIF)]
        assert len(neurons) == (5 if architecture in "ad" else 7)
        for neuron in neurons:
            spec = neuron.neuron_spec()
            assert type(neuron) is kind
            assert (spec.decay, spec.v_threshold, spec.input_gain) == (decay, threshold, gain)
            assert (spec.strict, spec.v_reset, neuron.surrogate) == (False, 0.0, surrogate)


def test_options_reach_the_attention():
    with torch.device("meta"):
        net = build("asa-a", lam=0.25, mask_mode="batch_union", mask_rule="and", reduction=3)
    for block in net.blocks:
        assert (block.attention.lam, block.attention.mask_mode, block.attention.mask_rule) == (
            0.25,
            "batch_union",
            "and",
        )
        assert block.attention.fc[0].out_features == 20


@pytest.mark.parametrize(("name", "dropout"), [("asa-a", 0.1), ("plain-a", 0.1), ("asa-d", 0.5), ("plain-d", 0.5)])
def test_dropout_stands_around_the_third_convolution_and_the_linear_layers(name, dropout):
    with torch.device("meta"):
        net = build(name)
    found = {path: m.p for path, m in net.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert found == {
        f"{layer}.{place}": dropout
        for layer in ("blocks.2", "classifier.0", "classifier.1")
        for place in ("dropout_in", "dropout_out")
    }


def test_a_gradient_reaches_everything_that_the_authors_train():
    torch.manual_seed(0)
    net = build("asa-a", **SMALL["a"])
    x = torch.rand(8, 2, 2, 8, 8)
    net(x).square().sum().backward()
    without = {name for name, p in net.named_parameters() if p.grad is None}
    random = ("alpha", "beta", "fc.0.weight", "fc.2.weight")
    assert without == {
        *(f"blocks.{i}.attention.{n}" for i in range(3) for n in random),
        *(f"blocks.{i}.neuron.unused.{n}" for i in range(3) for n in ("alpha", "beta", "fc", "conv1", "conv2")),
    }


@pytest.mark.parametrize("name", ["asa-a", "asa-b"])
def test_network_can_be_exported(name):
    net, x = fired(name)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("asa-a", {"width": 0}, r"channels = \(0, 0, 0\)"),
        ("asa-b", {"width": 0}, r"channels = \(0, 0, 0, 0, 0\)"),
        ("asa-c", {"input_size": 31}, "input_size = 31"),
        ("asa-d", {"mask_rule": "nand"}, "mask_rule = 'nand'"),
        ("asa-a", {"time_steps": 3}, "reduction = 4"),
        ("asa-b", {"reduction": 4}, "no option 'reduction'"),
    ],
)
def test_impossible_settings_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        build(name, **options)
