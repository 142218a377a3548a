"""Words on the command line that name no net and no option."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile import CANARY, refused
from spikefold.deploy.info import describe
from spikefold.deploy.sources import find_net
from spikefold.models import build
from spikefold.models.registry import parse_options


@pytest.mark.parametrize("word", [
    "", "=", "width", "=8", "width=", "width=x", "width=1.5", "width=1e3", "width=0x10", "width=" + "9" * 5000,
    "evil=1", "__class__=1", "width =8", "dead_parameters=maybe", "dct=", "input_size=nan", "num_classes=",
])  # fmt: skip
def test_an_option_that_is_none_is_refused(word: str, tmp_path: Path) -> None:
    def read() -> None:
        build("fsta-resnet20", **parse_options("fsta-resnet20", [word]))

    refused(tmp_path, read)


@pytest.mark.parametrize("word", [
    "width=0", "width=-8", "width=1000000", "width=999999999999", "in_channels=0", "in_channels=65", "time_steps=-1",
    "time_steps=1025", "num_classes=10001", "input_size=3", "input_size=100000", "reduction=0", "reduction=-1",
    "reduction=1000000", "dct=magic",
])  # fmt: skip
def test_an_option_that_makes_no_network_is_refused(word: str, tmp_path: Path) -> None:
    def read() -> None:
        build("fsta-resnet20", **parse_options("fsta-resnet20", [word]))

    refused(tmp_path, read, word.partition("=")[0])


@pytest.mark.parametrize("word", ["lam=nan", "lam=inf", "lam=-inf", "lam=1e400"])
def test_a_float_that_is_no_number_is_refused(word: str, tmp_path: Path) -> None:
    refused(tmp_path, lambda: build("asa-a", **parse_options("asa-a", [word])), "lam")


@pytest.mark.parametrize("net", [
    "", ":", "::", "x", "x:", ":x", "os:", "nothing.here:net", "os.path:nothing", "os:getcwd", "math:pi", "..:x",
    ".a:b", "a b:c", "a/b:c", "/dev/zero", "../asa", "asa.pt", "net.safetensors", "net.nir", "net.nir@", "net.nir@nir",
    "x" * 5000, "a\0b.safetensors", "a\0b:c", "net.onnx", "🙂", "json:tool.nothing",
])  # fmt: skip
def test_a_name_that_is_no_net_is_refused(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, lambda: find_net(net))
    assert not (tmp_path / CANARY).exists()


@pytest.mark.parametrize(
    "file", ["", "x", "a\0b", "x" * 5000, "/dev/zero", ".", "x.nir", "x.onnx", "x.safetensors", "/"]
)
def test_a_name_that_is_no_file_is_refused(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, lambda: describe(file))
