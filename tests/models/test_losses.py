import math

import pytest
import torch

from spikefold.errors import InputError
from spikefold.models import build
from spikefold.models.losses import LOSSES, probabilities, step_logits

T, B, K = 3, 4, 5


@pytest.fixture
def logits():
    return torch.randn(T, B, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


LABELS = torch.tensor([0, 4, 2, 2])
MIXED = torch.tensor([[0.3, 0.7, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0], [0, 0, 0.2, 0, 0.8]])


def target(sample, smoothing, mixed):
    """Row of target probabilities, written out."""
    hard = MIXED[sample].tolist() if mixed else [float(k == LABELS[sample]) for k in range(K)]
    return [(1 - smoothing) * y + smoothing / K for y in hard]


def literal_cross_entropy(row, y):
    total = sum(math.exp(z) for z in row)
    return -sum(y[k] * math.log(math.exp(row[k]) / total) for k in range(K))


def literal(name, steps, smoothing, mixed):
    means = [[sum(float(steps[t, b, k]) for t in range(T)) / T for k in range(K)] for b in range(B)]
    if name == "cross-entropy":
        return sum(literal_cross_entropy(means[b], target(b, smoothing, mixed)) for b in range(B)) / B
    if name == "tet":
        each = [
            literal_cross_entropy(steps[t, b].tolist(), target(b, smoothing, mixed)) for t in range(T) for b in range(B)
        ]
        return sum(each) / (T * B)
    total = 0.0
    for b in range(B):
        for z, y in zip(means[b], target(b, smoothing, mixed), strict=True):
            p = 1 / (1 + math.exp(-z))
            total += (z - y) ** 2 if name == "mse" else -(y * math.log(p) + (1 - y) * math.log(1 - p))
    return total / (B * K)


@pytest.mark.parametrize("mixed", [False, True], ids=["labels", "mixed"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_its_formula(name, smoothing, mixed, logits):
    outputs = logits if name == "tet" else logits.mean(0)
    found = LOSSES[name](outputs, MIXED.double() if mixed else LABELS, smoothing)
    assert float(found) == pytest.approx(literal(name, logits, smoothing, mixed), abs=1e-6)


def test_smoothed_targets_are_probabilities():
    smoothed = probabilities(LABELS, K, 0.1)
    assert torch.allclose(smoothed.sum(1), torch.ones(B))
    assert smoothed[1].tolist() == pytest.approx([0.02, 0.02, 0.02, 0.02, 0.92])


@pytest.mark.parametrize(
    ("name", "options"),
    [("asa", {}), ("sma-vgg8", {"width": 4}), ("tcja-dvs128", {"width": 4}), ("fsta-resnet20", {"width": 4})],
)
def test_logits_of_every_step_average_to_the_result(name, options):
    torch.manual_seed(0)
    model = build(name, 2, 3, 10, 32, **options).eval()
    clip = (torch.rand(3, 2, 2, 32, 32) < 0.3).float()
    with torch.no_grad():
        steps, result = step_logits(model, clip), model(clip)
    assert steps.shape == (3, 2, 10)
    assert torch.equal(steps.mean(0), result)


def test_logits_of_every_step_carry_gradients():
    model = build("plain", 2, 3, 10, 8)
    step_logits(model, torch.ones(3, 2, 2, 8, 8)).square().sum().backward()
    assert model.readout.module.weight.grad.abs().sum() > 0


def test_network_that_averages_before_its_last_layer_is_refused():
    model = build("plain-msresnet18", 2, 2, 10, 32, width=4).eval()
    with pytest.raises(InputError, match="MSResNet does not end in a mean over time"):
        step_logits(model, torch.zeros(2, 1, 2, 32, 32))


def test_mean_over_another_axis_than_time_is_refused():
    class Pooled(torch.nn.Module):
        def forward(self, x):
            return x.mean((0, 3, 4))

    with pytest.raises(InputError, match="Pooled"):
        step_logits(Pooled(), torch.zeros(3, 2, 2, 8, 8))
