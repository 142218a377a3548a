"""Fine-tuning from a module to a file: what is written, what it says of itself, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import spikefold
from small_event_nets import seeded_net
from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.lower import ATTENTIONS, Attention, lower
from spikefold.converters.nir_file import load_nir, save_nir
from spikefold.converters.reference import run_reference
from spikefold.deploy import finetune as finetune_module
from spikefold.deploy.cli import app
from spikefold.deploy.equality import run_steps
from spikefold.deploy.finetune import finetune, finetune_net
from spikefold.deploy.onnx_runner import StepRunner, run_onnx
from spikefold.deploy.sources import NamedNet
from spikefold.errors import InputError, LoweringError
from spikefold.models import LIF, EventData, OverTime, TrainingData
from spikefold.models.training import evaluate

NET = NamedNet("small", seeded_net(0))


def halves(count: int, seed: int) -> EventData:
    """Clips ``[4, 2, 8, 8]`` with events on the left, on the right or above."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    frames = (random.random((count, 4, 2, 8, 8)) < 0.5).astype(np.uint8)
    for clip, label in zip(frames, labels, strict=True):
        side = (..., slice(4, None)), (..., slice(4)), (..., slice(4, None), slice(None))
        clip[side[label]] = 0
    return EventData(frames, labels.astype(np.int64))


class SmallRelayed(nn.Module):
    """A gate behind soft-reset neurons: what they send to the readout are numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.neuron = OverTime(nn.Conv2d(2, 4, 3, 2)), LIF(0.5, 0.5, soft_reset=True)
        self.excite, self.readout = nn.Linear(4, 4), OverTime(nn.Linear(4 * 3 * 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.neuron(3 * self.conv(x))
        x = x * torch.sigmoid(self.excite(x.mean((0, 3, 4))))[None, :, :, None, None]
        logits: torch.Tensor = self.readout(x.flatten(2)).mean(0)
        return logits


DATA = TrainingData(halves(240, 0), halves(60, 1))


def integers(graph: FixedPointGraph) -> tuple[dict[str, object], list[np.ndarray]]:
    text, arrays = replace(graph, provenance={}).to_plain()
    return json.loads(text), arrays


@pytest.mark.parametrize("mode", ATTENTIONS)
def test_tuning_wins_accuracy_and_the_file_holds_the_very_net(mode: Attention, tmp_path: Path) -> None:
    done = finetune(NET, DATA, halves(30, 2), mode, epochs=3, learning_rate=1e-2)
    accuracy = done.accuracy
    assert accuracy["tuned"]["val"] > accuracy["lowered"]["val"] + 0.2
    assert accuracy["original"]["val"] == evaluate(NET.module, DATA.val)
    assert done.graph.attention == mode
    for held, split in ((DATA.val, "val"), (halves(30, 2), "test")):
        right = run_reference(done.graph, held.clips()).logits.argmax(1) == held.labels
        assert accuracy["tuned"][split] == right.mean()
    again = load_nir(save_nir(done.graph, tmp_path / "tuned.nir"))
    for one, other in zip(integers(done.graph)[1], integers(again)[1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.provenance == json.loads(json.dumps(done.graph.provenance))
    assert again.provenance["finetune"]["accuracy"] == accuracy
    assert again.provenance["finetune"]["best_epoch"] == done.best_epoch >= 1


def test_a_net_with_relays_is_tuned_under_its_public_name_and_stays_a_net_with_relays() -> None:
    torch.manual_seed(0)
    done = spikefold.finetune(SmallRelayed().eval(), DATA, mode="dynamic", epochs=2, learning_rate=1e-2)
    assert done.graph.name == "net"
    assert any(n.relay is not None and n.gate is not None for n in done.graph.neurons)
    assert done.accuracy["tuned"]["val"] > max(done.accuracy["lowered"]["val"], 0.6)
    right = run_reference(done.graph, DATA.val.clips()).logits.argmax(1) == DATA.val.labels
    assert done.accuracy["tuned"]["val"] == right.mean()


def test_the_seed_decides_the_integers() -> None:
    first, again, other = (finetune(NET, DATA, epochs=1, seed=seed).graph for seed in (3, 3, 4))
    same = [np.array_equal(a, b) for a, b in zip(integers(first)[1], integers(again)[1], strict=True)]
    assert all(same)
    assert any((a.weight != b.weight).any() for a, b in zip(first.synapses, other.synapses, strict=True))


def test_where_no_epoch_is_better_the_lowered_net_is_kept() -> None:
    clips = DATA.train.clips(128)
    lowered = lower(capture(NET.module, torch.from_numpy(clips[:, :1])), clips, "static", name="small")
    said = run_reference(lowered, DATA.val.clips()).logits.argmax(1)
    assert len(set(said)) > 1
    done = finetune(NET, TrainingData(DATA.train, EventData(DATA.val.frames, said)), epochs=1, learning_rate=1.0)
    assert done.best_epoch == 0
    assert done.accuracy["lowered"] == done.accuracy["tuned"] == {"val": 1.0}
    assert integers(done.graph)[0] == integers(lowered)[0]
    for one, other in zip(integers(done.graph)[1], integers(lowered)[1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("train.npz", frames=DATA.train.frames, labels=DATA.train.labels)
    torch.save(seeded_net(0).state_dict(), "w.pt")
    return tmp_path


def test_command_writes_a_file_that_says_how_to_make_it_again(files: Path) -> None:
    words = ["finetune", "user_net:build", "--checkpoint", str(files / "w.pt"), "--data", str(files / "train.npz"),
             "--epochs", "1", "--seed", "5", "--samples", "32", "--learning-rate", "0.01"]  # fmt: skip
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "nir: user_net-static-tuned.nir" in result.output
    assert "attention static, epoch " in result.output
    described = json.loads(CliRunner().invoke(app, ["info", "user_net-static-tuned.nir", "--json"]).stdout)
    made = described["finetune"]
    assert made["command"] == (
        "spikefold finetune user_net:build --checkpoint w.pt --mode static --bits 8 --data train.npz --epochs 1 "
        "--seed 5 --samples 32 --learning-rate 0.01 --out user_net-static-tuned.nir"
    )
    assert described["calibration_samples"] == 32
    assert {form: list(splits) for form, splits in made["accuracy"].items()} == {
        "original": ["val"], "lowered": ["val"], "tuned": ["val"],
    }  # fmt: skip
    first = load_nir("user_net-static-tuned.nir")
    clips = DATA.val.clips()[:, :5]
    wanted = run_reference(first, clips)
    np.testing.assert_array_equal(run_onnx("user_net-static-tuned.onnx", clips).logits, wanted.logits)
    stepped = run_steps(StepRunner("user_net-static-tuned.step.onnx"), first, clips)
    np.testing.assert_array_equal(stepped.logits, wanted.logits)
    assert CliRunner().invoke(app, [*made["command"].split()[1:-1], "again.nir", "--json"]).exit_code == 0
    for one, other in zip(integers(first)[1], integers(load_nir("again.nir"))[1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_clips_that_choose_the_epoch_are_not_trained_on(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainingData] = []

    class Stop(Exception):  # noqa: N818
        pass

    def record(net: NamedNet, data: TrainingData, *_: object) -> None:
        seen.append(data)
        raise Stop

    monkeypatch.setattr(finetune_module, "finetune", record)
    with pytest.raises(Stop):
        finetune_net("user_net:build", None, "train.npz", "static", 8, 1, 0, 32, None, None, None)
    (data,) = seen
    train, val = ({clip.tobytes() for clip in part.frames} for part in (data.train, data.val))
    assert len(val) == 48
    assert train | val == {clip.tobytes() for clip in DATA.train.frames}
    assert not train & val
    assert set(data.val.labels) == {0, 1, 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs = 0: must be at least 1"),
        ({"learning_rate": 0.0}, r"learning_rate = 0\.0: must be greater than 0"),
        ({"bits": 4}, "bits is 4"),
        ({"mode": "off"}, "attention is 'off'"),
    ],
)
def test_refusals_name_the_value(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((InputError, LoweringError), match=message):
        finetune(NET, DATA, **arguments)  # type: ignore[arg-type]


def test_clips_without_labels_are_refused() -> None:
    with pytest.raises(InputError, match="labels: none"):
        finetune(NET, TrainingData(EventData(DATA.train.frames), DATA.val))
    with pytest.raises(InputError, match="labels: none"):
        finetune(NET, TrainingData(DATA.train, EventData(DATA.val.frames)))


def test_one_clip_is_not_enough(files: Path) -> None:
    np.savez("one.npz", frames=DATA.train.frames[:1], labels=DATA.train.labels[:1])
    with pytest.raises(InputError, match=r"one\.npz: holds 1 clip"):
        finetune_net("user_net:build", None, "one.npz", "static", 8, 1, 0, 32, 1e-3, None, None)
