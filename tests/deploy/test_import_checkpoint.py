"""From an author's file to joules, and what is refused on the way."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from released_checkpoints import released_checkpoint
from spikefold.converters.capture import capture
from spikefold.converters.lower import lower
from spikefold.deploy.hardware import load_hardware
from spikefold.deploy.import_checkpoint import import_checkpoint
from spikefold.deploy.price import price
from spikefold.deploy.run import run
from spikefold.errors import FileFormatError, InputError
from spikefold.models import load_checkpoint


def saved(folder: Path, content: Any, name: str = "their.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def with_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("wrap", "file"),
    [
        (lambda t: t, "their.pth"),
        (lambda t: {"state_dict": with_prefix(t), "epoch": 3, "args": argparse.Namespace(lr=0.1)}, "best.pth.tar"),
        (lambda t: {"net": with_prefix(t), "acc": 0.9, "epoch": 3}, "their.pt"),
    ],
    ids=["bare", "as timm saves it", "as MA-SNN saves it"],
)
def test_sizes_are_read_from_the_file(tmp_path: Path, wrap: Any, file: str) -> None:
    tensors, dead = released_checkpoint("asa_netD_gait_night")
    result = import_checkpoint(saved(tmp_path, wrap(tensors), file), "asa-d", tmp_path / "ours.safetensors", {})
    assert {key: result["build"][key] for key in ("time_steps", "num_classes", "reduction")} == {
        "time_steps": 60, "num_classes": 20, "reduction": 8,
    }  # fmt: skip
    assert (result["tensors"], result["dead"]) == (len(tensors), dead)
    assert len(dead) == 15
    network, meta = load_checkpoint(tmp_path / "ours.safetensors")
    assert meta.model == "asa-d"
    assert "BICLab/ASA-SNN" in meta.data
    found = torch.cat([tensor.flatten().double() for tensor in network.state_dict().values()])
    given = torch.cat([tensor.flatten().double() for tensor in tensors.values()])
    assert torch.equal(found.sort().values, given.sort().values)


@pytest.mark.slow
def test_an_imported_checkpoint_is_folded_run_and_priced(tmp_path: Path) -> None:
    tensors, _ = released_checkpoint("asa_netD_gait_night")
    import_checkpoint(saved(tmp_path, tensors), "asa-d", tmp_path / "ours.safetensors", {})
    network, _ = load_checkpoint(tmp_path / "ours.safetensors")
    clips = (np.random.default_rng(0).random((60, 3, 2, 32, 32)) < 0.1).astype(np.uint8)
    fixed = lower(capture(network, torch.from_numpy(clips[:, :1])), clips, "static")
    priced = price(run(fixed, clips).activity, load_hardware("loihi1"))
    assert priced.total.low > 0
    assert run(fixed, clips).activity.synops > 0


def test_a_network_that_was_not_released_lists_those_that_were(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--as staa-resnet20: no checkpoint.*asa-a.*fsta-resnet20"):
        import_checkpoint(tmp_path / "x.pth", "staa-resnet20", tmp_path / "o.safetensors", {})


def test_a_checkpoint_of_another_network_is_refused_by_name(tmp_path: Path) -> None:
    tensors, _ = released_checkpoint("asa_netD_gait_night")
    file = saved(tmp_path, tensors)
    with pytest.raises(FileFormatError, match=r"no checkpoint of yukairong/FSTA-SNN.*'conv1"):
        import_checkpoint(file, "fsta-resnet20", tmp_path / "o.safetensors", {})
    assert not (tmp_path / "o.safetensors").exists()


def test_a_damaged_checkpoint_names_what_is_missing(tmp_path: Path) -> None:
    tensors, _ = released_checkpoint("asa_netD_gait_night")
    del tensors["ConvAttLIFs.1.bn.0.running_var"]
    with pytest.raises(InputError, match=r"running_var: missing"):
        import_checkpoint(saved(tmp_path, tensors), "asa-d", tmp_path / "o.safetensors", {})
    assert not (tmp_path / "o.safetensors").exists()


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (open, (str(tmp_path / "ran"), "w"))

    with pytest.raises(FileFormatError, match="more than tensors"):
        import_checkpoint(saved(tmp_path, {"state_dict": Trap()}), "asa-d", tmp_path / "o.safetensors", {})
    assert not (tmp_path / "ran").exists()
