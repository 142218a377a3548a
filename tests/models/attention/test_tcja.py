import numpy as np
import pytest
import torch

from spikefold.errors import InputError
from spikefold.models import load_released
from spikefold.models.attention.tcja import TCJA


def spikes(batch=3, time_steps=5, channels=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(time_steps, batch, channels, 4, 3, generator=generator) < 0.4).double()


def made(time_steps=5, channels=6, **settings):
    torch.manual_seed(0)
    return TCJA(time_steps, channels, **settings).double()


def convolve_same(weight, x):
    """Slide ``weight`` ``[out, in, k]`` along ``x`` ``[in, length]``, (k - 1) // 2 zeros on its left."""
    outputs, _, k = weight.shape
    length = x.shape[1]
    y = np.zeros((outputs, length))
    for i in range(length):
        for tap in range(k):
            source = i + tap - (k - 1) // 2
            if 0 <= source < length:
                y[:, i] += weight[:, :, tap] @ x[:, source]
    return y


def step_by_step(module, x):
    out = np.empty(x.shape)
    over_channels, over_time = (c.weight.detach().numpy() for c in (module.time_conv, module.channel_conv))
    for b in range(x.shape[1]):
        rates = np.array([[x[t, b, c].numpy().mean() for c in range(x.shape[2])] for t in range(x.shape[0])])
        joint = convolve_same(over_channels, rates) * convolve_same(over_time, rates.T).T
        for t in range(x.shape[0]):
            for c in range(x.shape[2]):
                out[t, b, c] = x[t, b, c].numpy() / (1 + np.exp(-joint[t, c]))
    return torch.from_numpy(out)


@pytest.mark.parametrize("kernels", [{}, {"kernel_t": 2}, {"kernel_c": 3}, {"kernel_t": 6, "kernel_c": 1}])
def test_module_equals_the_step_by_step_form(kernels):
    module, x = made(**kernels), spikes()
    torch.testing.assert_close(module(x), step_by_step(module, x), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("tap", "offset"), [(0, -1), (1, 0), (2, 1), (3, 2)])
def test_kernel_of_four_looks_one_step_back_and_two_ahead(tap, offset):
    module, x = made(channels=1, time_steps=7), torch.zeros(7, 1, 1, 1, 1, dtype=torch.float64)
    module.time_conv.weight.data.zero_()
    module.time_conv.weight.data[:, 3, 1] = 1.0  # every step of the one channel sees the rate of step 3
    module.channel_conv.weight.data.zero_()
    module.channel_conv.weight.data[0, 0, tap] = 1.0
    x[3] = 1.0
    moved = [t for t in range(7) if module.gate(x)[t] != 0.5]
    assert moved == [3 - offset]


def test_spikes_become_graded_and_silence_stays():
    module, x = made(), spikes()
    out = module(x)
    assert torch.equal(out == 0, x == 0)
    assert ((out[x == 1] > 0) & (out[x == 1] < 1)).all()


def test_one_factor_a_step_and_channel():
    assert made().gate(spikes()).shape == (5, 3, 6, 1, 1)


def test_all_parameters_learn():
    module = made()
    module(spikes()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_result_of_a_sample_does_not_depend_on_its_batch():
    module, x = made(), spikes()
    torch.testing.assert_close(module(x)[:, 1:2], module(x[:, 1:2]), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("time_steps", "channels", "total"), [(20, 128, 67_136), (10, 512, 1_048_976)])
def test_parameters_are_the_authors(time_steps, channels, total):
    with torch.device("meta"):
        assert sum(p.numel() for p in TCJA(time_steps, channels).parameters()) == total


def test_module_can_be_exported():
    module, x = made().eval(), spikes()
    torch.testing.assert_close(torch.export.export(module, (x,)).module()(x), module(x))


@pytest.mark.parametrize(
    ("arguments", "shapes"),
    [
        ((4, 8, 4, 4), {"conv.weight": (4, 4, 4), "conv_c.weight": (8, 8, 4)}),
        ((5, 8, 2, 4), {"conv.weight": (5, 5, 2), "conv_c.weight": (8, 8, 4)}),
    ],
)
def test_released_weights_of_the_bare_module_are_read(arguments, shapes):
    released = {name: torch.randn(shape) for name, shape in shapes.items()}
    module = TCJA(*arguments)
    report = load_released(module, released)
    assert report.loaded == {"conv.weight": "time_conv.weight", "conv_c.weight": "channel_conv.weight"}
    assert torch.equal(module.time_conv.weight, released["conv.weight"])
    assert torch.equal(module.channel_conv.weight, released["conv_c.weight"])
    with pytest.raises(InputError, match=r"channel_conv\.weight: missing"):
        load_released(module, {"conv.weight": released["conv.weight"]})
    with pytest.raises(InputError, match=r"conv\.bias: unknown"):
        load_released(module, {**released, "conv.bias": torch.zeros(4)})
    with pytest.raises(InputError, match=r"conv_c\.weight is \(8, 8, 5\)"):
        load_released(module, {**released, "conv_c.weight": torch.zeros(8, 8, 5)})


def test_another_number_of_steps_or_channels_is_refused():
    with pytest.raises(InputError, match=r"TCJA: input has T = 4 .* made for 5"):
        made()(spikes(time_steps=4))
    with pytest.raises(InputError, match=r"TCJA: input has C = 5 .* made for 6"):
        made()(spikes(channels=5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"time_steps": 0}, "time_steps = 0"), ({"channels": 0}, "channels = 0"), ({"kernel_t": 0}, "kernel_t = 0"),
     ({"kernel_c": -1}, "kernel_c = -1")],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        made(**settings)
