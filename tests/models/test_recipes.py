from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from spikefold.errors import InputError
from spikefold.models import ENTRIES, EventData, TrainingData, build, train
from spikefold.models.augment import Augmentation
from spikefold.models.losses import LOSSES, LossName
from spikefold.models.recipes import RECIPES, Schedule, recipe_named


@pytest.fixture(scope="module")
def tiny():
    """Clips of two classes, as small as five poolings and as short as attention over time allow."""
    random = np.random.default_rng(0)
    frames = (random.random((12, 8, 2, 32, 32)) < 0.2).astype(np.uint8)
    labels = np.arange(12) % 2
    return TrainingData(EventData(frames[:8], labels[:8]), EventData(frames[8:], labels[8:]))


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_fits_the_network_it_names(name):
    recipe = RECIPES[name]
    options = ENTRIES[recipe.network].options()
    assert {option: type(value) for option, value in recipe.build.items()} == {
        option: type(options[option]) for option in recipe.build
    }
    with torch.device("meta"):
        assert recipe.build.items() <= build(recipe.network, **recipe.build).built_as.arguments.items()


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_trains_its_network(name, tiny):
    recipe = RECIPES[name]
    if recipe.optimiser == "lamb":
        pytest.importorskip("pytorch_optimizer")
    options = {"width": 8} if "width" in ENTRIES[recipe.network].options() else {}
    two_steps = replace(recipe, batch_size=4)
    result = train(recipe.network, tiny, epochs=1, seed=0, progress=False, options=options, recipe=two_steps)
    torch.manual_seed(0)
    start = build(recipe.network, 2, 8, 2, 32, **options)
    trained = dict(result.model.named_parameters())
    assert all(bool(torch.isfinite(value).all()) for value in trained.values())
    assert np.isfinite(result.losses).all()
    kernels = {
        key: value for key, value in start.named_parameters() if key.endswith(".module.weight") and value.dim() == 4
    }
    assert [key for key, value in kernels.items() if torch.equal(value, trained[key])] == []


def test_every_loss_has_a_name_and_every_name_a_loss():
    assert set(LOSSES) == set(get_args(LossName))
    assert {recipe.loss for recipe in RECIPES.values()} == set(LOSSES)


def test_recipes_options_give_way_to_the_users(tiny):
    recipe = replace(RECIPES["sma-dvs128"], batch_size=4)
    options = {"width": 4, "azo": False}
    result = train("sma-vgg8", tiny, 1, 0, progress=False, options=options, recipe=recipe)
    arguments = result.model.built_as.arguments
    assert (arguments["azo"], arguments["time_ratio"], arguments["channel_ratio"]) == (False, 4, 10)


def test_recipe_of_an_attention_network_trains_the_plain_one(tiny):
    recipe = replace(RECIPES["sma-dvs128"], batch_size=4)
    result = train("plain-vgg8", tiny, 1, 0, progress=False, options={"width": 4}, recipe=recipe)
    assert "azo" not in result.model.built_as.arguments


def test_cropped_clips_are_what_the_network_is_made_for(tiny):
    recipe = replace(RECIPES["spikefold"], augmentation=Augmentation(time_crop=3))
    result = train("asa", tiny, 1, 0, progress=False, recipe=recipe)
    assert result.model.built_as.arguments["time_steps"] == 3
    longer = replace(recipe, augmentation=Augmentation(time_crop=20))
    assert train("asa", tiny, 1, 0, progress=False, recipe=longer).model.built_as.arguments["time_steps"] == 8


def test_epochs_are_the_recipes_unless_given(tiny):
    recipe = replace(RECIPES["spikefold"], epochs=2)
    assert len(train("plain", tiny, progress=False, recipe=recipe).losses) == 2
    assert len(train("plain", tiny, 1, progress=False, recipe=recipe).losses) == 1


def test_impossible_recipes_are_refused():
    recipe = RECIPES["spikefold"]
    for field, value in {"optimiser": "adagrad", "loss": "hinge", "epochs": 0, "batch_size": 0}.items():
        with pytest.raises(InputError, match=f"{field} = {value!r}"):
            replace(recipe, **{field: value})
    for field in ("learning_rate", "weight_decay", "momentum", "label_smoothing"):
        with pytest.raises(InputError, match=f"{field} = -1"):
            replace(recipe, **{field: -1.0})
    with pytest.raises(InputError, match="schedule = 'step'"):
        Schedule("step")
    with pytest.raises(InputError, match="warm_up = -1"):
        Schedule("cosine", warm_up=-1)
    with pytest.raises(InputError, match=r"recipe 'nothing'.*fsta-gesture"):
        recipe_named("nothing")
