import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spikefold.deploy.cli import app
from spikefold.errors import InputError
from spikefold.models import EventData, TrainingData, build, evaluate, load_checkpoint, train, train_checkpoint
from spikefold.models import training as training_module
from spikefold.models.augment import Augmentation
from spikefold.models.recipes import RECIPES
from spikefold.models.training import build_arguments, training_data


def bars(count, seed):
    """Clips that show an upright or a lying bar: learnt within an epoch or two."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    frames = np.zeros((count, 3, 2, 8, 8), np.uint8)
    for clip, label in zip(frames, labels, strict=True):
        place = random.integers(1, 7)
        clip[:, :, :, place] = 1 - label
        clip[:, :, place, :] |= np.uint8(label)
    return EventData(frames, labels.astype(np.int64))


@pytest.fixture
def tiny():
    return TrainingData(bars(200, 0), bars(40, 1))


@pytest.mark.parametrize("name", ["plain", "asa", "fsta"])
def test_network_learns(tiny, name):
    result = train(name, tiny, epochs=6, seed=0, progress=False)
    assert result.losses[-1] < result.losses[0]
    assert result.val_accuracy > 0.9
    assert not result.model.training


def test_best_epoch_on_validation_clips_is_returned(tiny):
    result = train("plain", tiny, epochs=3, seed=0, progress=False)
    assert result.val_accuracies[result.best_epoch - 1] == max(result.val_accuracies) == result.val_accuracy
    assert evaluate(result.model, tiny.val) == result.val_accuracy


def test_seed_decides_the_weights_and_leaves_the_callers_random_numbers_alone(tiny):
    before = torch.random.get_rng_state()
    first, again, other = (train("asa", tiny, 1, seed, progress=False).model.state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["readout.module.weight"], other["readout.module.weight"])


def test_seed_decides_dropout_and_augmentation_too(tiny):
    changed = Augmentation(flip=True, shift=1, cutout=2, time_crop=2, mixup=0.5)
    recipe = replace(RECIPES["asa-gesture"], augmentation=changed)
    options = {"width": 4, "reduction": 1}
    runs = []
    for seed in (3, 3, 4):
        torch.rand(7)  # what else a program draws must not matter
        runs.append(train("asa-a", tiny, 1, seed, progress=False, options=options, recipe=recipe))
    first, again = (run.model.state_dict() for run in runs[:2])
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert runs[0].losses == runs[1].losses != runs[2].losses


def test_frames_of_a_recipe_without_filming_are_those_on_record(tiny):
    def refuse(positions, generator):
        raise RuntimeError("filmed anew")

    recipe = replace(RECIPES["spikefold"], augmentation=Augmentation())
    filmed = TrainingData(tiny.train, tiny.val, refuse)
    train("plain", filmed, 1, 0, progress=False, recipe=recipe)
    with pytest.raises(RuntimeError, match="filmed anew"):
        train("plain", filmed, 1, 0, progress=False)


def test_training_says_nothing_when_told_so(tiny, capsys):
    train("plain", tiny, 1, 0, progress=False)
    assert capsys.readouterr().out == ""
    train("plain", tiny, 1, 0, progress=True)
    assert "epoch 1: loss" in capsys.readouterr().out


def test_augmentation_replaces_the_frames(tiny):
    seen = []

    def augment(positions, generator):
        seen.extend(positions.tolist())
        return tiny.train.frames[positions]

    train("plain", TrainingData(tiny.train, tiny.val, augment), 1, 0, progress=False)
    assert sorted(seen) == list(range(200))


def test_accuracy_counts_right_answers():
    class First(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 0.0]]).expand(x.shape[1], 2)

    assert evaluate(First(), bars(60, 0)) == 0.5


def test_checkpoint_records_how_it_was_made(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(training_module, "training_data", lambda name: tiny)
    monkeypatch.setattr(training_module.saccade_mnist, "load", lambda split: bars(20, 2))
    meta = train_checkpoint("fsta", "saccade-mnist", 1, 5, tmp_path / "net.safetensors", progress=False)
    loaded, found = load_checkpoint(tmp_path / "net.safetensors")
    assert found == meta
    assert meta.command == "spikefold train fsta --data saccade-mnist --epochs 1 --seed 5 --out fsta.safetensors"
    assert meta.build == {"in_channels": 2, "time_steps": 3, "num_classes": 2, "input_size": 8}
    assert meta.accuracy["test"] == evaluate(loaded, bars(20, 2))


@pytest.fixture
def tiny_clips(tiny, monkeypatch):
    """The tiny clips under the name of a data set, and a third split of them."""
    splits = {"train": tiny.train, "val": tiny.val, "test": bars(20, 2)}
    monkeypatch.setattr(training_module, "_clips", lambda name, split: splits[split])


@pytest.mark.parametrize(
    "arguments",
    [
        ("plain",),
        ("asa-a", "--recipe", "asa-gesture", "--option", "width=4", "--option", "reduction=2"),
        ("asa-a", "--recipe", "asa-gesture", "--option", "width=4", "--option", "dead_parameters=false",
         "--option", "reduction=1", "--option", "lam=0.4", "--option", "mask_mode=batch_union"),
    ],
)  # fmt: skip
def test_command_in_the_header_makes_the_checkpoint_again(arguments, tiny_clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        *arguments,
        "--data",
        "nmnist:my files",
        "--epochs",
        "1",
        "--seed",
        "2",
        "--out",
        "first.safetensors",
    ]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    model, meta = load_checkpoint("first.safetensors")
    program, *words = shlex.split(meta.command)
    assert program == "spikefold"
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    again, meta_again = load_checkpoint(f"{arguments[0]}.safetensors")
    assert meta_again == meta
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_checkpoint_holds_what_the_recipe_and_the_user_built(tmp_path, monkeypatch):
    large = EventData(bars(8, 0).frames.repeat(4, 3).repeat(4, 4), bars(8, 0).labels)
    monkeypatch.setattr(training_module, "_clips", lambda name, split: large)
    out = tmp_path / "net.safetensors"
    options = {"width": 2, "azo": False}
    meta = train_checkpoint("sma-vgg8", "nmnist:files", 1, 0, out, False, options, "sma-dvs128")
    assert meta.build == {
        "in_channels": 2, "time_steps": 3, "num_classes": 2, "input_size": 32,
        "width": 2, "azo": False, "time_ratio": 4, "channel_ratio": 10,
    }  # fmt: skip
    assert load_checkpoint(out)[1] == meta


def test_epochs_of_a_command_are_the_recipes_unless_given(tiny_clips, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "spikefold", replace(RECIPES["spikefold"], epochs=2))
    meta = train_checkpoint("plain", "nmnist:files", None, 0, tmp_path / "net.safetensors", False)
    assert meta.epochs == 2
    assert "--epochs 2" in meta.command


def test_test_clips_are_cut_like_those_trained_on(tiny_clips, tmp_path, monkeypatch):
    recipe = replace(RECIPES["spikefold"], augmentation=Augmentation(time_crop=2))
    monkeypatch.setitem(RECIPES, "short", recipe)
    out = tmp_path / "net.safetensors"
    meta = train_checkpoint("fsta", "nmnist:files", 1, 0, out, False, recipe="short")
    assert meta.build["time_steps"] == 2
    test = bars(20, 2)
    assert meta.accuracy["test"] == evaluate(load_checkpoint(out)[0], EventData(test.frames[:, :2], test.labels))


def test_recordings_on_disk_are_split_by_their_reader(monkeypatch):
    asked = []

    class Recordings:
        def load(self, split):
            asked.append(split)
            return bars(4, 0)

    monkeypatch.setattr(training_module.tonic_events, "parse", lambda name: Recordings() if "FOLDER" in name else None)
    data = training_data("nmnist:FOLDER")
    assert sorted(asked) == ["train", "val"]
    assert data.augment is None


def test_named_data_is_filmed_anew_from_warped_digits():
    data = training_data("saccade-mnist")
    frames = data.augment(np.arange(5), torch.Generator().manual_seed(0))
    assert frames.shape == (5, 10, 2, 32, 32)
    assert not np.array_equal(frames, data.train.frames[:5])
    assert build_arguments(data.train) == {"in_channels": 2, "time_steps": 10, "num_classes": 10, "input_size": 32}


def test_sizes_are_those_of_the_clips_but_for_classes_to_spare(tiny):
    result = train("plain", tiny, 1, 0, progress=False, options={"num_classes": 4, "time_steps": 3})
    assert result.model.built_as.arguments["num_classes"] == 4
    for wrong in ({"time_steps": 4}, {"in_channels": 1}, {"input_size": 16}, {"num_classes": 1}):
        ((size, value),) = wrong.items()
        with pytest.raises(InputError, match=f"{size} = {value}: the clips have"):
            train("plain", tiny, 1, 0, options=wrong)


def test_impossible_requests_are_refused(tiny):
    with pytest.raises(InputError, match="epochs = 0"):
        train("plain", tiny, 0, 0)
    with pytest.raises(InputError, match=r"data 'cifar'.*saccade-mnist"):
        training_data("cifar")
    with pytest.raises(InputError, match="labels: none"):
        evaluate(build("plain"), EventData(tiny.val.frames))
    with pytest.raises(InputError, match="8 x 7 pixels"):
        train("plain", TrainingData(EventData(tiny.train.frames[..., :7], tiny.train.labels), tiny.val), 1, 0)
