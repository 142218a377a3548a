"""What a shell offers is what there is, and offering it imports nothing that takes time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spikefold.converters.dialects import DIALECTS
from spikefold.converters.lower import ATTENTIONS
from spikefold.deploy import completion
from spikefold.deploy.hardware import shipped_hardware
from spikefold.deploy.tuned import TUNED
from spikefold.models.checkpoints import SHIPPED
from spikefold.models.data.tonic_events import NAMES
from spikefold.models.recipes import RECIPES
from spikefold.models.registry import MODEL_NAMES, SHORT_NAMES

MAIN = "from spikefold.deploy.cli import main; main()"


def test_the_names_that_are_said_twice_are_the_same() -> None:
    assert completion.SHIPPED == SHIPPED
    assert completion.NETWORKS == MODEL_NAMES
    assert tuple(RECIPES) == completion.RECIPES
    assert tuple(DIALECTS) == completion.DIALECTS
    assert completion.MODES == ATTENTIONS
    assert ("saccade-mnist", *(f"{name}:" for name in NAMES)) == completion.DATA


def test_names_begin_with_what_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert completion.hardware("") == sorted(shipped_hardware())
    assert completion.networks("tcs") == ["tcsa", "tcsa-a", "tcsa-dvsnet"]
    assert set(completion.networks("")) == {*MODEL_NAMES, *SHORT_NAMES}
    assert completion.integer_nets("") == sorted(TUNED)
    assert completion.dialects("rock") == ["rockpool", "rockpool-single-spike"]


def test_files_of_the_right_kind_and_folders_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("asa.nir", "a.txt", ".a.nir", "sub/inner.nir", "chip.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert completion.nets("as") == ["asa", "asa.nir"]
    assert completion.integer_nets("s") == ["staa-static-tuned", "sub/"]
    assert completion.integer_nets("sub/") == ["sub/inner.nir"]
    assert completion.hardware("c") == ["cmos45", "chip.yaml"]
    assert completion.nets("nowhere/") == []


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("spikefold export fsta-re", "fsta-resnet20-small"),
        ("spikefold train fsta-resnet3", "fsta-resnet34"),
        ("spikefold energy x.nir --hardware loihi1-", "loihi1-sanafe"),
        ("spikefold export asa --attention sch", "scheduled"),
        ("spikefold compare asa --attention caus", "causal"),
        ("spikefold export x.nir --from spik", "spikingjelly"),
        ("spikefold models plain-dvs1", "plain-dvs128"),
        ("spikefold map fsta-sch", "fsta-scheduled-tuned"),
    ],
)
def test_a_shell_is_answered(tmp_path: Path, line: str, offered: str) -> None:
    words = line.split()
    asked = {"_PROGRAM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    code = f"import sys; sys.argv[0] = 'program'\n{MAIN}"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.split() == [offered], done.stderr


def test_answering_imports_nothing_that_takes_time() -> None:
    code = (
        "import sys; from spikefold.deploy import cli, completion; completion.hardware(''); completion.integer_nets('')"
        "; print([m for m in ('torch', 'numpy', 'onnx', 'pydantic', 'numba', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
