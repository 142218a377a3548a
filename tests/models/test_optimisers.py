import math
import sys
from dataclasses import replace

import pytest
import torch

from spikefold.errors import InputError
from spikefold.models.optimisers import LearningRate, cosine_rate, make_optimiser
from spikefold.models.recipes import RECIPES, Schedule

BASE = replace(RECIPES["spikefold"], weight_decay=0.0, learning_rate=0.1)


def parameter():
    return torch.nn.Parameter(torch.tensor([3.0, -4.0], dtype=torch.float64))


def step(recipe, values, gradient):
    values.grad = torch.tensor(gradient, dtype=torch.float64)
    make_optimiser(recipe, [values]).step()
    return values.detach().tolist()


def rates(recipe, epochs, steps, losses=None):
    """Learning rate of every optimiser step."""
    values = parameter()
    optimiser = make_optimiser(recipe, [values])
    schedule = LearningRate(recipe, optimiser, epochs, steps)
    found = []
    for epoch in range(epochs):
        for _ in range(steps):
            found.append(optimiser.param_groups[0]["lr"])
            values.grad = torch.zeros_like(values)
            optimiser.step()
            schedule.after_step()
        schedule.after_epoch(1.0 if losses is None else losses[epoch])
    return found


def test_warm_up_rises_to_the_peak_and_the_cosine_falls_to_its_end():
    schedule = Schedule("cosine", warm_up=2, eta_min=0.01)
    found = [cosine_rate(schedule, 0.1, epoch, 6) for epoch in range(6)]
    assert found == pytest.approx(
        [0.05, 0.1, 0.1, 0.01 + 0.045 * (1 + math.sqrt(0.5)), 0.055, 0.01 + 0.045 * (1 - math.sqrt(0.5))]
    )
    assert cosine_rate(schedule, 0.1, 6, 6) == pytest.approx(0.01)


def test_cosine_is_stepped_once_an_epoch():
    recipe = replace(BASE, optimiser="sgd", schedule=Schedule("cosine", warm_up=1))
    assert rates(recipe, epochs=3, steps=2) == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.05, 0.05])


def test_training_shorter_than_its_warm_up_stays_in_it():
    recipe = replace(BASE, optimiser="sgd", schedule=Schedule("cosine", warm_up=10))
    assert rates(recipe, epochs=2, steps=1) == pytest.approx([0.01, 0.02])


def test_one_cycle_peaks_after_a_fifth_of_the_steps():
    found = rates(BASE, epochs=5, steps=20)
    assert found[0] == pytest.approx(0.1 / 25)
    assert found.index(max(found)) == 19
    assert max(found) == pytest.approx(0.1)
    assert found[-1] < 1e-6


def test_plateau_divides_by_ten_after_more_than_five_epochs_without_a_lower_loss():
    recipe = replace(BASE, optimiser="sgd", schedule=Schedule("plateau"))
    losses = [1.0, 0.5, *[0.6] * 6, 0.7]
    assert rates(recipe, epochs=9, steps=1, losses=losses) == pytest.approx([*[0.1] * 8, 0.01])


def test_sgd_decays_weights_and_keeps_momentum():
    recipe = replace(BASE, optimiser="sgd", momentum=0.9, weight_decay=0.5)
    values = parameter()
    optimiser = make_optimiser(recipe, [values])
    expected, momentum = [3.0, -4.0], [0.0, 0.0]
    for _ in range(2):
        values.grad = torch.tensor([1.0, 2.0], dtype=torch.float64)
        optimiser.step()
        for k, gradient in enumerate([1.0, 2.0]):
            momentum[k] = 0.9 * momentum[k] + gradient + 0.5 * expected[k]
            expected[k] -= 0.1 * momentum[k]
    assert values.tolist() == pytest.approx(expected)


def test_adam_adds_weight_decay_to_the_gradient_and_adamw_takes_it_from_the_weights():
    # The first step of Adam has length lr, whatever the gradient; here decay turns its sign.
    adam = step(replace(BASE, optimiser="adam", weight_decay=1.0), parameter(), [-1.0, 1.0])
    assert adam == pytest.approx([3.0 - 0.1, -4.0 + 0.1])
    adamw = step(replace(BASE, optimiser="adamw", weight_decay=1.0), parameter(), [-1.0, 1.0])
    assert adamw == pytest.approx([3.0 * 0.9 + 0.1, -4.0 * 0.9 - 0.1])


def test_nadam_takes_the_recipes_momentum_decay():
    recipe = replace(BASE, optimiser="nadam", momentum_decay=1e-3)
    optimiser = make_optimiser(recipe, [parameter()])
    assert isinstance(optimiser, torch.optim.NAdam)
    assert optimiser.param_groups[0]["momentum_decay"] == 1e-3


def test_lamb_scales_the_decayed_update_by_the_ratio_of_norms():
    pytest.importorskip("pytorch_optimizer")
    found = step(replace(BASE, optimiser="lamb", weight_decay=0.5), parameter(), [1.0, -2.0])
    weights, gradients, eps = [3.0, -4.0], [1.0, -2.0], 1e-6
    update = []
    for weight, gradient in zip(weights, gradients, strict=True):
        mean, square = 0.1 * gradient, 0.001 * gradient**2
        update.append(mean / (math.sqrt(square) + eps) + 0.5 * weight)
    ratio = 5.0 / (math.hypot(*update) + eps)
    assert found == pytest.approx([w - 0.1 * ratio * u for w, u in zip(weights, update, strict=True)])


def test_lamb_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(InputError, match=r"'lamb'.*spikefold\[train\]"):
        make_optimiser(replace(BASE, optimiser="lamb"), [parameter()])
