from pathlib import Path

import numpy as np
import pytest
import torch

from spikefold.errors import InputError
from spikefold.models import load_released
from spikefold.models.attention.ma import MA

KINDS = ("TA", "CA", "SA", "TCA", "CSA", "TSA", "TCSA")
RELEASED = Path(__file__).parents[1] / "released_names" / "ma_tcsa_module.txt"
T, C = 6, 8


def clip(batch=3, time_steps=T, channels=C, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(time_steps, batch, channels, 5, 7, generator=generator, dtype=torch.float64)


def made(kind="TCSA", **settings):
    torch.manual_seed(0)
    module = MA(T, C, kind, c_ratio=4, t_ratio=2, **settings).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)  # gates far enough from 1/2 that their order matters
    return module


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def squeeze(weights, prefix, mean, maximum):
    first, second = weights[f"{prefix}.reduce.weight"], weights[f"{prefix}.expand.weight"]
    return sigmoid(second @ np.maximum(first @ mean, 0) + second @ np.maximum(first @ maximum, 0))


def spatial_map(kernel, cur):
    maps = np.pad(np.stack([cur.mean((0, 1)), cur.max((0, 1))]), ((0, 0), (1, 1), (1, 1)))
    height, width = cur.shape[2:]
    out = np.empty((height, width))
    for h in range(height):
        for w in range(width):
            out[h, w] = (kernel[0] * maps[:, h : h + 3, w : w + 3]).sum()
    return sigmoid(out)


def one_gate_after_the_other(module, x, rectify=True):
    """Sample by sample, in numpy, each gate from the current that the one before it left."""
    weights = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    out = []
    for b in range(x.shape[1]):
        cur = x[:, b].numpy().copy()  # [T, C, H, W] or [T, F]
        if "T" in module.kind:
            gate = squeeze(
                weights, "gates.temporal", np.array([s.mean() for s in cur]), np.array([s.max() for s in cur])
            )
            for t in range(len(cur)):
                cur[t] *= gate[t]
        if "C" in module.kind:
            channels = [cur[:, c] for c in range(cur.shape[1])]
            gate = squeeze(
                weights, "gates.channel", np.array([s.mean() for s in channels]), np.array([s.max() for s in channels])
            )
            for c in range(cur.shape[1]):
                cur[:, c] *= gate[c]
        if "S" in module.kind:
            cur *= spatial_map(weights["gates.spatial.conv.weight"], cur)
        out.append(np.maximum(cur, 0) if rectify else cur)
    return torch.from_numpy(np.stack(out, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rectify", [True, False])
def test_gates_act_in_the_order_time_channels_space(kind, rectify):
    module = made(kind, rectify=rectify)
    expected = one_gate_after_the_other(module, clip(), rectify)
    torch.testing.assert_close(module(clip()).detach(), expected, atol=1e-12, rtol=0)


def test_temporal_gate_serves_fully_connected_currents():
    x = clip()[:, :, :, 0, 0]
    module = made("TA")
    torch.testing.assert_close(module(x).detach(), one_gate_after_the_other(module, x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_gate_only_attenuates(kind):
    ratio = made(kind, rectify=False)(clip()) / clip()
    assert ratio.min() > 0
    assert ratio.max() < 1


def test_released_form_lets_no_inhibition_through_and_the_switch_does():
    assert made()(clip()).min() == 0
    assert made(rectify=False)(clip()).min() < 0


@pytest.mark.parametrize("kind", KINDS)
def test_result_of_a_sample_does_not_depend_on_its_batch(kind):
    module, x = made(kind), clip()
    torch.testing.assert_close(module(x)[:, 1:2], module(x[:, 1:2]), atol=1e-12, rtol=0)


def test_all_parameters_learn():
    module = made()
    module(clip()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_module_can_be_exported():
    module, x = made().eval(), clip()
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(module, (x,)).module()(x), module(x))


def test_hidden_sizes_follow_the_ratios_rounding_down():
    module = MA(7, 9, c_ratio=4, t_ratio=3)
    assert module.gates["temporal"].reduce.weight.shape == (2, 7)
    assert module.gates["channel"].expand.weight.shape == (9, 2)


def test_weights_of_the_released_module_arrive_in_their_gates():
    released = {}
    for line in RELEASED.read_text().splitlines():
        name, shape = line.split()
        released[name] = torch.randn([int(n) for n in shape.split(",")])
    module = MA(4, 8, c_ratio=4, t_ratio=2)
    assert sum(p.numel() for p in module.parameters()) == 66
    report = load_released(module, released)
    assert set(report.loaded) == set(released)
    assert torch.equal(module.gates["temporal"].reduce.weight, released["ta.sharedMLP.0.weight"][:, :, 0, 0, 0])
    assert torch.equal(module.gates["temporal"].expand.weight, released["ta.sharedMLP.2.weight"][:, :, 0, 0, 0])
    assert torch.equal(module.gates["channel"].reduce.weight, released["ca.sharedMLP.0.weight"][:, :, 0, 0, 0])
    assert torch.equal(module.gates["channel"].expand.weight, released["ca.sharedMLP.2.weight"][:, :, 0, 0, 0])
    assert torch.equal(module.gates["spatial"].conv.weight, released["sa.conv.weight"])


def test_another_number_of_steps_is_refused_where_time_is_gated():
    with pytest.raises(InputError, match=r"MA: input has T = 4 .* made for 6"):
        made()(clip(time_steps=4))


def test_another_number_of_steps_fits_where_it_is_not():
    assert made("CSA")(clip(time_steps=4)).shape == (4, 3, C, 5, 7)


def test_another_number_of_channels_is_refused():
    with pytest.raises(InputError, match=r"MA: input has 5 channels .* made for 8"):
        made()(clip(channels=5))


@pytest.mark.parametrize(("kind", "rank"), [("TCSA", 3), ("CA", 3), ("TA", 4)])
def test_another_rank_is_refused(kind, rank):
    with pytest.raises(InputError, match=r"MA: input of shape .*; expected \[T, B, C, H, W\]"):
        made(kind)(torch.zeros([T, 2, C, 3][:rank], dtype=torch.float64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"kind": "STA"}, "kind = 'STA'"), ({"c_ratio": 9}, "c_ratio = 9.*channels = 8"), ({"c_ratio": 0}, "c_ratio = 0"),
     ({"t_ratio": 7}, "t_ratio = 7.*time_steps = 6"), ({"time_steps": 0}, "time_steps = 0"),
     ({"channels": 0}, "channels = 0")],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        MA(**{"time_steps": T, "channels": C, **settings})
