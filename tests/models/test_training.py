import numpy as np
import pytest
import torch

from spikefold.errors import InputError
from spikefold.models import EventData, TrainingData, build, evaluate, load_checkpoint, train, train_checkpoint
from spikefold.models import training as training_module
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


def test_named_data_is_filmed_anew_from_warped_digits():
    data = training_data("saccade-mnist")
    frames = data.augment(np.arange(5), torch.Generator().manual_seed(0))
    assert frames.shape == (5, 10, 2, 32, 32)
    assert not np.array_equal(frames, data.train.frames[:5])
    assert build_arguments(data.train) == {"in_channels": 2, "time_steps": 10, "num_classes": 10, "input_size": 32}


def test_impossible_requests_are_refused(tiny):
    with pytest.raises(InputError, match="epochs = 0"):
        train("plain", tiny, 0, 0)
    with pytest.raises(InputError, match=r"data 'cifar'.*saccade-mnist"):
        training_data("cifar")
    with pytest.raises(InputError, match="labels: none"):
        evaluate(build("plain"), EventData(tiny.val.frames))
    with pytest.raises(InputError, match="8 x 7 pixels"):
        train("plain", TrainingData(EventData(tiny.train.frames[..., :7], tiny.train.labels), tiny.val), 1, 0)
