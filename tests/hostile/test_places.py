"""Places that cannot be written to: every command that writes ends with a line that names the place."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from generated_graphs import random_graph
from small_event_nets import write_user_project
from spikefold.converters.nir_file import save_nir
from spikefold.deploy import cli
from spikefold.deploy.cache import Cache
from spikefold.errors import InputError
from spikefold.files import atomic_path, made_folder

NOBODY = 65534
NET = ["places_net:build", "--checkpoint", "w.pt"]
COMPARE = ["compare", *NET, "--data", "test.npz", "--calibration", "train.npz", "--lava-samples", "0",
           "--attention", "static"]  # fmt: skip
COMMANDS: dict[str, list[str]] = {
    "export": ["export", *NET, "--data", "train.npz", "--out", "file/net"],
    "export for other readers": ["export", *NET, "--data", "train.npz", "--nir-dialect", "portable", "--approximate",
                                 "--out", "file/net"],
    "finetune": ["finetune", *NET, "--data", "train.npz", "--epochs", "1", "--out", "file/net.nir"],
    "train": ["train", "plain", "--epochs", "1", "--out", "file/net.safetensors"],
    "verify": ["verify", *NET, "--data", "train.npz", "--lava-samples", "0", "--out", "file/folder"],
    "compare": [*COMPARE, "--out", "file/folder"],
    "compare, report": [*COMPARE, "--report", "file/folder/page.html"],
    "compare, figures": [*COMPARE, "--figures", "file/folder"],
    "sweep": ["sweep", *NET, "--data", "test.npz", "--calibration", "train.npz", "--jobs", "1", "--no-cache",
              "--out", "file/folder"],
    "demo": ["demo", "--quick", "--out", "file/folder"],
    "map": ["map", "net.nir", "--out", "file/folder"],
}  # fmt: skip
"""Each would have to make a folder where a file stands."""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_cannot_be_made_is_an_error_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_user_project(tmp_path, "places_net")
    save_nir(random_graph(1), "net.nir")
    Path("file").write_text("old")
    monkeypatch.setattr(sys, "argv", ["spikefold", *COMMANDS[name]])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "file" in line
    assert Path("file").read_text() == "old"


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder that may be read but not written, to one who is not root.

    Not in pytest's own folder, which only its owner may enter, and to which every other pytest sees.
    """
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made, "locked")
        (folder / "run").mkdir(parents=True)
        (folder / "run" / f"{'ab' * 32}.npz").write_text("kept")
        (folder / "secret").mkdir(mode=0o700 if user == 0 else 0o000)
        for path in (folder / "run", folder):
            path.chmod(0o555)
        Path(made).chmod(0o755)
        if user == 0:
            os.seteuid(NOBODY)
        yield folder
        os.seteuid(user)
        for path in (folder, folder / "run", folder / "secret"):
            path.chmod(0o755)


def test_a_missing_right_is_said(locked: Path) -> None:
    with pytest.raises(InputError, match=r"folder .*locked/new.*Permission denied"):
        made_folder(locked / "new" / "folder")
    with pytest.raises(InputError, match=r"net\.nir: Permission denied"), atomic_path(locked / "net.nir") as path:
        path.write_text("")
    with pytest.raises(InputError, match=r"net\.nir: Permission denied"), atomic_path(locked / "secret" / "net.nir"):
        raise AssertionError("nothing can be written here")
    with pytest.raises(InputError, match=r"abab\.npz: cannot be removed \(Permission denied\)"):
        Cache(locked).clear()
    with pytest.raises(InputError, match=r"locked: cannot be written .*Permission denied.*SPIKEFOLD_CACHE"):
        Cache(locked).put("run", "cd" * 32, ("text", []))
    deeper = Cache(locked / "secret" / "cache")
    for look in (deeper.held, deeper.clear):
        with pytest.raises(InputError, match=r"secret.*: cannot be read \(Permission denied\); set SPIKEFOLD_CACHE"):
            look()
    assert [p.name for p in (locked / "run").iterdir()] == [f"{'ab' * 32}.npz"]


@pytest.mark.parametrize("place", ["x" * 300, "x" * 300 + "/net.nir", "loop/net.nir", "/proc/none/net.nir"])
def test_a_name_that_the_system_takes_for_none_is_refused(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(InputError, match="cannot make the folder"):
        made_folder(place)
    with pytest.raises(InputError, match="cannot write"), atomic_path(place) as path:
        path.write_text("")
    assert [p.name for p in tmp_path.iterdir()] == ["loop"]
