import math
from pathlib import Path

import numpy as np
import pytest
import torch

from spikefold.errors import InputError
from spikefold.models import LIF, load_released
from spikefold.models.attention.dta import DTA

RELEASED = Path(__file__).parents[1] / "released_names" / "dta_module.txt"
T, C = 4, 3


def clip(batch=2, time_steps=T, channels=C, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(time_steps, batch, channels, 6, 5, generator=generator, dtype=torch.float64).to(dtype)


def neuron():
    return LIF(decay=0.5, v_threshold=1.0, strict=True, surrogate="triangular")


def made():
    torch.manual_seed(0)
    module = DTA(T, C, neuron()).double()
    torch.nn.init.constant_(module.txa.scale_t, 0.7)
    torch.nn.init.constant_(module.txa.scale_c, -0.4)
    return module


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def slide(weight, rows, before, after):
    """Conv1d of ``rows`` [in, length] with ``weight`` [out, in, k], zeros around."""
    padded = np.pad(rows, ((0, 0), (before, after)))
    size = weight.shape[2]
    return np.array([[(w * padded[:, i : i + size]).sum() for i in range(rows.shape[1])] for w in weight])


def cross_attention(p, x):
    """TXA of one sample [T, C, H, W]."""
    pooled = x.mean((2, 3))
    a_t = sigmoid(slide(p["txa.conv_t.weight"], pooled, 1, 1))  # over channels
    a_c = sigmoid(slide(p["txa.conv_c.weight"], pooled.T, 2, 3)).T  # over time
    out = np.empty_like(x)
    for t in range(x.shape[0]):
        for c in range(x.shape[1]):
            out[t, c] = (x[t, c] + p["txa.scale_t"] * a_t[t, c]) * (x[t, c] + p["txa.scale_c"] * a_c[t, c])
    return out


def mix(p, name, maps):
    weight = p[f"{name}.weight"][:, :, 0, 0]
    return np.einsum("oi,ihw->ohw", weight, maps) + p[f"{name}.bias"][:, None, None]


def joint_attention(p, x):
    """TNA of one sample [T, C, H, W]."""
    merged = np.concatenate(list(x))  # steps outermost
    u = np.vectorize(lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))))(mix(p, "tna.encode", merged))
    padded = np.pad(u, ((0, 0), (2, 2), (2, 2)))
    local = np.empty_like(u)
    for d in range(len(u)):
        for h in range(u.shape[1]):
            for w in range(u.shape[2]):
                local[d, h, w] = (p["tna.local.depthwise.weight"][d, 0] * padded[d, h : h + 5, w : w + 5]).sum()
        local[d] += p["tna.local.depthwise.bias"][d]
        local[d] = local[d] * p["tna.local.scale.weight"][d, 0, 0, 0] + p["tna.local.scale.bias"][d]
    local = mix(p, "tna.local.mix", local)
    hidden = np.maximum(p["tna.reduce.weight"] @ u.mean((1, 2)), 0)
    overall = p["tna.expand.weight"] @ hidden
    out = mix(p, "tna.decode", u * local * overall[:, None, None]) + merged
    return out.reshape(x.shape)


def fire(x):
    """Neurons of one sample [T, C, H, W]: decay 1/2, threshold 1 strict, reset to 0."""
    m, spikes = np.zeros(x.shape[1:]), []
    for current in x:
        m = 0.5 * m + current
        s = (m > 1).astype(float)
        m = m * (1 - s)
        spikes.append(s)
    return np.stack(spikes)


def by_hand(module, x):
    p = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    samples = [x[:, b].numpy() for b in range(x.shape[1])]
    out = [fire(s) * sigmoid(joint_attention(p, s) * cross_attention(p, s)) for s in samples]
    return torch.from_numpy(np.stack(out, 1))


def test_module_equals_its_equations():
    module, x = made(), clip()
    y, expected = module(x).detach(), by_hand(module, x)
    assert 0.05 < (expected > 0).double().mean() < 0.5
    assert torch.equal(y > 0, expected > 0)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)


def test_gate_weighs_every_spike_by_itself():
    module, x = made(), clip()
    gate = module.gate(x)
    assert gate.shape == x.shape
    assert 0 < gate.min() < gate.max() < 1
    torch.testing.assert_close(module(x), neuron()(x) * gate)


def test_saturated_gate_leaves_the_next_neuron_on_its_threshold():
    module = DTA(T, C, neuron())
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)  # TNA = I, TXA = I squared
    x = torch.full((T, 1, C, 2, 2), 3.0)
    y = module(x)
    assert torch.equal(y, torch.ones_like(y))
    assert neuron()(y)[0].sum() == 0


def test_result_of_a_sample_does_not_depend_on_its_batch():
    module, x = made(), clip()
    torch.testing.assert_close(module(x)[:, 1:2], module(x[:, 1:2]), atol=1e-12, rtol=0)


def test_all_parameters_learn():
    module = made()
    module(clip()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_module_can_be_exported():
    module, x = made().eval(), clip()
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(module, (x,)).module()(x), module(x))


def test_weights_of_the_released_module_arrive_at_their_layers():
    released = {}
    for line in RELEASED.read_text().splitlines():
        name, shape = line.split()
        released[name] = torch.randn([] if shape == "-" else [int(n) for n in shape.split(",")])
    module = DTA(4, 64, neuron())
    assert sum(p.numel() for p in module.parameters()) == 237_362
    report = load_released(module, released)
    assert set(report.loaded) == set(released)
    arrived = {
        "T_NA.encoding.0": module.tna.encode, "T_NA.tca.LTCA.0": module.tna.local.depthwise,
        "T_NA.tca.LTCA.1": module.tna.local.scale, "T_NA.tca.LTCA.2": module.tna.local.mix,
        "T_NA.tca.MLP_block.0": module.tna.reduce, "T_NA.tca.MLP_block.2": module.tna.expand,
        "T_NA.decoding": module.tna.decode, "T_XA.conv_t": module.txa.conv_t, "T_XA.conv_c": module.txa.conv_c,
    }  # fmt: skip
    for name, layer in arrived.items():
        assert torch.equal(layer.weight, released[f"{name}.weight"]), name
        assert layer.bias is None or torch.equal(layer.bias, released[f"{name}.bias"]), name
    assert torch.equal(module.txa.scale_t, released["T_XA.scale_t"])
    assert torch.equal(module.txa.scale_c, released["T_XA.scale_c"])


@pytest.mark.parametrize(("time_steps", "channels", "hidden"), [(4, 64, 16), (10, 64, 16), (6, 64, 16), (2, 4, 2)])
def test_hidden_size_follows_the_merged_channels(time_steps, channels, hidden):
    with torch.device("meta"):
        module = DTA(time_steps, channels, neuron())
    assert module.tna.reduce.out_features == hidden


def test_another_number_of_steps_is_refused():
    with pytest.raises(InputError, match=r"DTA: input has T = 5 .* made for 4"):
        made()(clip(time_steps=5))


def test_another_number_of_channels_is_refused():
    with pytest.raises(InputError, match=r"DTA: input has 5 channels .* made for 3"):
        made()(clip(channels=5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 4), "time_steps = 0"), ((4, 0), "channels = 0"), ((1, 3), r"time_steps \* channels = 3; must be at least 4")],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        DTA(*arguments, neuron())
