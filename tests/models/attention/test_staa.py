import math

import numpy as np
import pytest
import torch
from torch import nn

from spikefold.errors import InputError
from spikefold.models import LIF, AdaptiveLIF
from spikefold.models.attention.staa import GlobalContext, PositionEncoding, STAALayer, sinusoid

STEPS, CHANNELS, HEIGHT, WIDTH = 5, 8, 4, 3


@pytest.fixture(autouse=True)
def _float64():
    """Make modules in float64, buffers included."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def clip(steps=STEPS, samples=2, channels=CHANNELS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randn(steps, samples, channels, HEIGHT, WIDTH, generator=generator)


def made(steps=STEPS, channels=CHANNELS, neuron_per_channel=False, **options):
    """A layer whose parameters are all random, those too that start at zero or one."""
    torch.manual_seed(1)
    neuron = AdaptiveLIF(channels if neuron_per_channel else None)
    layer = STAALayer(neuron, steps, channels, size=(HEIGHT, WIDTH), **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
        neuron.gain.abs_().add_(0.5)
    return layer.eval()


def logistic(x):
    return 1.0 / (1.0 + np.exp(-x))


def transcribed(layer, x):
    """The equations of the module's text, sample by sample and step by step: what the neuron gets, what comes out."""
    p = {name: tensor.detach().numpy() for name, tensor in (*layer.named_parameters(), *layer.named_buffers())}
    x = x.numpy()
    steps, samples, channels, height, width = x.shape
    current, out = np.empty_like(x), np.empty_like(x)
    for b in range(samples):
        for t in range(steps):
            encoding = p["position.encoding"][t]
            pixels = [
                [x[t, b, c, i, j] + (encoding[i, j] if encoding.ndim == 2 else encoding[c]) for c in range(channels)]
                for i in range(height)
                for j in range(width)
            ]
            scores = [math.exp(p["context.key.weight"][0, :, 0, 0] @ pixel) for pixel in pixels]
            context = sum(s * np.array(pixel) for s, pixel in zip(scores, pixels, strict=True)) / sum(scores)
            hidden = p["context.reduce.weight"] @ context + p["context.reduce.bias"]
            spread = math.sqrt(((hidden - hidden.mean()) ** 2).mean() + 1e-5)
            normed = (hidden - hidden.mean()) / spread * p["context.norm.weight"] + p["context.norm.bias"]
            value = p["context.expand.weight"] @ np.maximum(normed, 0.0) + p["context.expand.bias"]
            y = np.array(pixels).T.reshape(channels, height, width)
            by_channel = value[:, None, None]
            current[t, b] = y * logistic(by_channel) if layer.fusion == "mul" else y + by_channel
        if layer.step == "pre":
            current[:, b] = weighed(p, layer, current[:, b])
        membrane, spikes = np.zeros(x.shape[2:]), np.zeros(x.shape[2:])
        for t in range(steps):
            decay = logistic(p["neuron.decay_logit"])
            membrane = decay * membrane * (1.0 - spikes) + p["neuron.gain"] * current[t, b]
            spikes = (membrane > 0.5).astype(float)
            out[t, b] = spikes
        if layer.step == "post":
            out[:, b] = weighed(p, layer, out[:, b])
    return current, out


def weighed(p, layer, clip):
    """Step attention of one sample's ``[T, C, H, W]``."""
    gated = np.empty_like(clip)
    for c in range(clip.shape[1]):
        q = clip[:, c].mean((1, 2)) if layer.step_attention.per_channel else clip.mean((1, 2, 3))
        g = logistic(p["step_attention.expand.weight"] @ np.maximum(p["step_attention.reduce.weight"] @ q, 0.0))
        for t in range(len(clip)):
            gated[t, c] = clip[t, c] * g[t]
    return gated


SWITCHES = [
    {},
    {"step": "pre"},
    {"fusion": "add"},
    {"fusion": "add", "step": "pre"},
    {"position": "pixel"},
    {"position": "sinusoid"},
    {"step_per_channel": True},
    {"step_per_channel": True, "step": "pre"},
    {"step_reduction": 2, "reduction": 2},
    {"neuron_per_channel": True},
]


@pytest.mark.parametrize("switches", SWITCHES)
def test_layer_equals_the_equations_written_out(switches):
    layer, x = made(**switches), clip()
    with torch.no_grad():
        out = layer(x)
    current, expected = transcribed(layer, x)
    assert 0.05 < (expected > 0).mean() < 0.95
    np.testing.assert_array_equal(out.numpy() > 0, expected > 0)
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(layer.attend(x).detach().numpy(), current, rtol=0, atol=1e-9)


@pytest.mark.parametrize("switches", SWITCHES)
def test_one_step_and_one_sample_are_enough(switches):
    layer, x = made(steps=1, **switches), clip(steps=1, samples=1)
    np.testing.assert_allclose(layer(x).detach().numpy(), transcribed(layer, x)[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("switch", [{"fusion": "add"}, {"step": "pre"}, {"step_per_channel": True}])
def test_a_switch_changes_the_result_of_the_same_weights(switch):
    default, switched = made(), made(**switch)
    switched.load_state_dict(default.state_dict())
    assert (default(clip()) - switched(clip())).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["channel", "pixel", "sinusoid"])
def test_position_encoding_changes_the_result(kind):
    layer, x = made(position=kind), clip()
    before = layer(x)
    layer.position.encoding.data.zero_()
    assert (layer(x) - before).abs().max() > 1e-3


def test_learned_position_encodings_start_without_effect():
    for kind in ("channel", "pixel"):
        torch.testing.assert_close(PositionEncoding(STEPS, CHANNELS, kind, (HEIGHT, WIDTH))(clip()), clip())


def test_sinusoid_is_that_of_transformers_along_time():
    encoding = sinusoid(3, 5)
    torch.testing.assert_close(encoding[0], torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]))
    slow = 10000.0 ** (-2 / 5)
    expected = [math.sin(2), math.cos(2), math.sin(2 * slow), math.cos(2 * slow), math.sin(2 * slow**2)]
    torch.testing.assert_close(encoding[2], torch.tensor(expected))
    module = PositionEncoding(3, 5, "sinusoid")
    assert not list(module.parameters())
    assert not module.state_dict()


def test_gating_context_starts_near_one_half_and_adding_context_at_zero():
    torch.manual_seed(0)
    gating = torch.sigmoid(GlobalContext(CHANNELS)(clip()))
    assert gating.min() > 0.1
    assert gating.max() < 0.9
    assert GlobalContext(CHANNELS, start_at_zero=True)(clip()).abs().max() == 0.0
    added = STAALayer(AdaptiveLIF(), STEPS, CHANNELS, fusion="add").eval()
    torch.testing.assert_close(added.attend(clip()), clip())


def test_context_weighs_pixels_by_their_scores():
    module, x = GlobalContext(CHANNELS), clip()
    before = module(x)
    module.key.bias.data.fill_(3.0)
    torch.testing.assert_close(module(x), before)
    module.key.weight.data.zero_()
    context = x.mean((3, 4)).flatten(0, 1)
    uniform = module.expand(torch.relu(module.norm(module.reduce(context)))).reshape(before.shape)
    torch.testing.assert_close(module(x), uniform)
    assert (uniform - before).abs().max() > 1e-2


@pytest.mark.parametrize(("place", "coupled"), [("post", False), ("pre", True)])
def test_context_sees_one_step_and_step_attention_the_clip(place, coupled):
    layer, x = made(step=place), clip()
    later = x.clone()
    later[-1] += 1.0
    assert bool((layer.attend(x)[0] != layer.attend(later)[0]).any()) == coupled
    assert (layer.step_attention(x)[0] != layer.step_attention(later)[0]).any()


def test_spikes_stay_binary_only_with_step_attention_before_the_neuron():
    x = clip()
    assert set(made(step="pre")(x).unique().tolist()) == {0.0, 1.0}
    graded = made(step="post")(x)
    for t in range(STEPS):
        for b in range(2):
            assert len(graded[t, b].unique()) == 2
    assert 0.0 < graded.max() < 1.0


def test_a_sample_does_not_depend_on_its_batch():
    layer, x = made(), clip(samples=3)
    torch.testing.assert_close(layer(x)[:, 1:2], layer(x[:, 1:2].clone()))


@pytest.mark.parametrize("switches", SWITCHES)
def test_with_probability_one_training_leaves_the_neuron_alone(switches):
    layer, x = made(skip_probability=1.0, **switches), clip()
    assert (layer(x) != layer.neuron(x)).any()
    assert torch.equal(layer.train()(x), layer.neuron(x))


@pytest.mark.parametrize("switches", SWITCHES)
def test_with_probability_zero_training_equals_evaluation(switches):
    layer, x = made(skip_probability=0.0, **switches), clip()
    assert torch.equal(layer.train()(x), layer.eval()(x))


def test_evaluation_never_skips():
    assert torch.equal(made(skip_probability=1.0)(clip()), made(skip_probability=0.0)(clip()))


def test_one_draw_a_step_skips_before_and_behind_the_neuron_for_the_whole_batch():
    layer, x = made(steps=40, skip_probability=0.5).train(), clip(steps=40)
    entered = []
    layer.neuron.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    torch.manual_seed(0)
    out = layer(x)
    raw = (entered[0] == x).all(4).all(3).all(2)  # [T, B]
    plain = ((out == 0.0) | (out == 1.0)).all(4).all(3).all(2)
    fired = (out > 0).any(4).any(3).any(2)
    assert 10 < raw[:, 0].sum() < 30
    assert torch.equal(raw[:, 0], raw[:, 1])
    assert torch.equal(raw[fired], plain[fired])
    assert fired.float().mean() > 0.9
    torch.testing.assert_close(entered[0][~raw], layer.attend(x)[~raw])


def test_skips_follow_the_global_seed_and_come_anew_each_call():
    layer, x = made(steps=40, skip_probability=0.5).train(), clip(steps=40)
    torch.manual_seed(3)
    first, second = layer(x), layer(x)
    torch.manual_seed(3)
    assert torch.equal(first, layer(x))
    assert not torch.equal(first, second)


def test_steps_are_skipped_as_often_as_said():
    layer, x = made(steps=2000, skip_probability=0.1).train(), clip(2000, 1)
    entered = []
    layer.neuron.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    torch.manual_seed(0)
    layer(x)
    share = (entered[0] == x).flatten(1).all(1).double().mean()
    assert abs(share - 0.1) < 3 * math.sqrt(0.1 * 0.9 / 2000)


@pytest.mark.parametrize("switches", SWITCHES)
def test_all_parameters_learn_but_the_bias_of_the_scores(switches):
    layer = made(**switches).train()
    layer(clip()).square().sum().backward()
    gradients = {name: parameter.grad.abs().max().item() for name, parameter in layer.named_parameters()}
    assert gradients.pop("context.key.bias") < 1e-12
    assert min(gradients.values()) > 1e-9


@pytest.mark.parametrize("switches", SWITCHES)
def test_layer_in_evaluation_can_be_exported(switches):
    layer, x = made(**switches), clip()
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


@pytest.mark.parametrize("step_reduction", [1, 2])
def test_parameters_are_as_many_as_the_description_gives(step_reduction):
    c, t = 64, 4
    layer = STAALayer(AdaptiveLIF(), t, c, step_reduction=step_reduction)
    parts = [t * c, c + 1, 2 * c * c // 4 + c // 4 + c, 2 * c // 4, 2 * t * t // step_reduction, 2]
    assert sum(parameter.numel() for parameter in layer.parameters()) == sum(parts)


def test_layer_takes_any_neuron():
    layer = STAALayer(LIF(), STEPS, CHANNELS, step="pre").eval()
    assert torch.equal(layer(clip()), LIF()(layer.attend(clip())))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"reduction": 8}, "reduction = 8 leaves 1 hidden channels of 8.*at most 4"), ({"reduction": 0}, "reduction = 0"),
     ({"fusion": "sum"}, "fusion = 'sum'.*mul, add"), ({"position": "none"}, "position = 'none'.*channel, pixel"),
     ({"position": "pixel"}, "give size="), ({"step": "both"}, "step = 'both'.*post, pre"),
     ({"step_reduction": 0}, "reduction = 0"), ({"skip_probability": 1.5}, "skip_probability = 1.5"),
     ({"time_steps": 0}, "time_steps = 0")],
)  # fmt: skip
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        STAALayer(nn.Identity(), **{"time_steps": 4, "channels": 8, **options})


@pytest.mark.parametrize(
    ("shape", "message"),
    [((4, 1, 8, 4, 3), r"T = 4 .* made for 5"), ((5, 8, 4, 3), r"expected \[T, B, C, H, W\]"),
     ((5, 1, 4, 4, 3), "4 channels; the layer was made for 8"), ((5, 1, 8, 3, 4), r"\(3, 4\) pixels.*\(4, 3\)")],
)  # fmt: skip
def test_a_current_of_another_shape_is_refused(shape, message):
    with pytest.raises(InputError, match=message):
        made(position="pixel")(torch.zeros(shape))
