"""What goes wrong while files are written: a full disk, an interrupt, two at once. Files are whole or not there."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from generated_graphs import random_graph
from spikefold.converters.nir_file import load_nir, save_nir
from spikefold.converters.onnx import save_onnx, to_onnx_clip
from spikefold.deploy.cache import Cache
from spikefold.deploy.certificate import Certificate, write_certificate
from spikefold.deploy.commands import write_net
from spikefold.deploy.compare import write_csv, write_json
from spikefold.errors import InputError
from spikefold.files import atomic_path
from spikefold.models import CheckpointMeta, build, save_checkpoint

NET = random_graph(3)
SIZES = {"in_channels": 2, "time_steps": 3, "num_classes": 4, "input_size": 8}
Write = Callable[[Path], object]
WRITERS: dict[str, Write] = {
    "net.nir": lambda path: save_nir(NET, path),
    "net.onnx": lambda path: save_onnx(to_onnx_clip(NET), path),
    "net.safetensors": lambda path: save_checkpoint(
        path, build("plain", **SIZES), CheckpointMeta("plain-dvsnet", SIZES)
    ),
    "certificate.json": lambda path: write_certificate(
        Certificate("n", "none", "0" * 64, "d", "0" * 64, 1, 1, "0" * 64, (), "0", {}), path
    ),
    "table.csv": lambda path: write_csv([], path),
    "table.json": lambda path: write_json([], path),
}


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_no_rest(
    name: str, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.write_text("old")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(InputError, match=rf"{name}.*No space left on device"):
        WRITERS[name](path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "old")]


def test_a_file_that_may_not_grow_is_said_and_gone(tmp_path: Path) -> None:
    """A real limit in a process of its own, as a quota or a full disk sets it."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from spikefold.errors import InputError\n"
        "from spikefold.files import atomic_path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
        "try:\n"
        "    with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "        temporary.write_bytes(bytes(5000))\n"
        "except InputError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / "net.nir"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=120, check=True)
    assert "net.nir: File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WRITERS)
def test_an_interrupt_before_the_rename_leaves_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        WRITERS[name](tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_between_two_files_leaves_the_first_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.replace, []

    def interrupt(source: str, target: str) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_net(NET, tmp_path / "net")
    assert [p.name for p in tmp_path.iterdir()] == ["net.nir"]
    assert load_nir(tmp_path / "net.nir").to_plain()[0] == NET.to_plain()[0]


def test_two_runs_in_one_folder_never_mix_their_files(tmp_path: Path) -> None:
    path, contents = tmp_path / "table.csv", ("a" * 200_000, "b" * 200_000)
    stop = threading.Event()

    def write(content: str) -> None:
        while not stop.is_set():
            with atomic_path(path) as temporary:
                temporary.write_text(content)

    path.write_text(contents[0])
    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    try:
        seen = {path.read_text() for _ in range(100)}
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert seen <= set(contents)
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_no_result_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, key = Cache(tmp_path), "ab" * 32
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"cannot be written .*No space left on device.* set SPIKEFOLD_CACHE"):
        cache.put("run", key, ("text", [np.arange(9)]))
    monkeypatch.undo()
    assert cache.get("run", key) is None


@pytest.mark.slow
def test_an_interrupted_export_leaves_whole_files(tmp_path: Path) -> None:
    """A second export in the same folder then does its work."""
    # also where the tests themselves were started in the background, without an interrupt to inherit
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from spikefold.deploy.cli import main; sys.argv[0] = 'spikefold'; main()"
    command = [sys.executable, "-c", code, "export", "plain", "--samples", "4", "--out", str(tmp_path / "net")]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    limit = time.monotonic() + 120
    while not list(tmp_path.glob(".net*")) and not list(tmp_path.glob("net*")) and time.monotonic() < limit:
        os.sched_yield()
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=120)
    assert running.returncode != 0
    assert not list(tmp_path.glob(".*")), "a temporary file is left"
    assert b"Traceback" not in errors
    for path in tmp_path.glob("*.nir"):
        load_nir(path)
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert {p.name for p in tmp_path.iterdir()} >= {"net.nir", "net.onnx", "net.step.onnx"}
