"""What somebody names: their own builder and its weights. Each usual slip ends in one line with the next step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from spikefold.deploy.run import are_right
from spikefold.deploy.sources import check_fit, find_net, find_nets
from spikefold.errors import CaptureError, InputError, SpikefoldError, SpikefoldWarning

SOURCE = """
from torch import nn
from spikefold.models import LIF


class Net(nn.Module):
    def __init__(self, wide=6):
        super().__init__()
        self.first, self.neuron, self.head = nn.Linear(4, wide), LIF(), nn.Linear(wide, 3)

    def forward(self, x):
        return self.head(self.neuron(self.first(x))).mean(0)


def build():
    return Net()


def plain():
    return Net(5)


def seeded():
    import torch
    torch.manual_seed(0)
    return Net()


WIDTH = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with own_nets.py in it and the weights of both of its nets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own_nets.py").write_text(SOURCE)
    sys.modules.pop("own_nets", None)
    yield tmp_path
    sys.modules.pop("own_nets", None)


def weights(name: str, wide: int = 6, prefix: str = "") -> dict[str, torch.Tensor]:
    """Weights of the net, as a file ``name`` too."""
    torch.manual_seed(wide)
    shapes = {"first.weight": (wide, 4), "first.bias": (wide,), "head.weight": (3, wide), "head.bias": (3,)}
    state = {prefix + k: torch.randn(shape) for k, shape in shapes.items()}
    torch.save(state, name)
    return state


@pytest.mark.parametrize(
    ("net", "said"),
    [
        ("own_nets", r"own_nets:build, and give its weights as --checkpoint w\.pt$"),
        ("own_nets.py", "own_nets:build, and give"),
        ("own_nets.py:build", "write it as Python imports it, own_nets:build$"),
        ("w.pt", "name the function that builds it"),
        ("missing_nets:build", "give the command in the folder where it lies$"),
        ("own_nets:biuld", "name a function of it that returns an nn.Module, among .*Net, build, plain, seeded$"),
        ("own_nets:WIDTH", "is a int; name a function that returns an nn.Module$"),
        ("nothing", "one of your own goes as package.module:builder"),
    ],
)
def test_a_net_named_amiss_ends_with_the_way_to_name_it(net: str, said: str) -> None:
    with pytest.raises(SpikefoldError, match=said):
        find_net(net)


def test_weights_saved_through_a_wrapper_are_those_without_it() -> None:
    saved = weights("wrapped.pt", prefix="module.")
    built = find_net("own_nets:build", "wrapped.pt").module.state_dict()
    assert len(saved) == 4
    for name, tensor in saved.items():
        assert torch.equal(built[name.removeprefix("module.")], tensor)


def test_names_that_only_begin_alike_are_not_taken_for_wrapped_ones() -> None:
    torch.save({"first.weight": torch.zeros(6, 4), "first.bias": torch.zeros(6)}, "half.pt")
    with pytest.raises(SpikefoldError, match=r"half\.pt: is of another architecture: head\.weight is missing"):
        find_net("own_nets:build", "half.pt")


def test_random_weights_are_said_and_seeded_ones_are_not() -> None:
    with pytest.warns(SpikefoldWarning, match="own_nets:build: has other weights each time it is built"):
        find_net("own_nets:build")
    find_net("own_nets:seeded")  # a warning would be an error here


def test_each_builder_has_its_own_checkpoint_and_name() -> None:
    own, plain = weights("own.pt"), weights("plain.pt", 5)
    first, second = find_nets(["own_nets:plain", "own_nets:build"], ["plain.pt", "own.pt"])
    assert (first.name, second.name) == ("own_nets-plain", "own_nets")
    assert torch.equal(first.module.state_dict()["first.bias"], plain["first.bias"])
    assert torch.equal(second.module.state_dict()["first.bias"], own["first.bias"])
    with pytest.raises(InputError, match=r"1 --checkpoint for 2 package\.module:builder"):
        find_nets(["own_nets:plain", "own_nets:build"], ["own.pt"])


def test_two_nets_of_one_name_would_be_taken_for_forms_of_one_net() -> None:
    with pytest.raises(InputError, match="2 go by the name plain"):
        find_nets(["plain", "plain"], [])


def test_clips_that_do_not_fit_are_named_with_their_data() -> None:
    net = find_net("own_nets:seeded")
    check_fit(net, np.zeros((2, 3, 4)), "mine.npz")
    with pytest.raises(CaptureError, match=r"clips of mine\.npz, .*\(2, 1, 5\).*--data"):
        check_fit(net, np.zeros((2, 3, 5)), "mine.npz")


def test_labels_of_classes_that_the_net_lacks_are_refused() -> None:
    logits = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert are_right(logits, np.array([1, 1])).tolist() == [True, False]
    with pytest.raises(InputError, match="labels: value 2; the net tells 2 classes"):
        are_right(logits, np.array([1, 2]))
