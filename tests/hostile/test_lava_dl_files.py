"""``.net`` files that somebody broke or built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hostile import refused
from spikefold.converters.lava_dl.reader import load_lava_dl

Change = Callable[[h5py.File], Any]


def good(path: Path) -> None:
    """A dense layer of CUBA neurons that read five inputs."""
    with h5py.File(path, "w") as file:
        layer = file.create_group("layer/0")
        layer["type"] = "dense"
        layer["shape"] = np.array([3])
        layer["weight"] = np.arange(15).reshape(3, 5) * 2
        neuron = layer.create_group("neuron")
        neuron["type"] = "CUBA"
        for name, value in {"iDecay": 4095, "vDecay": 100, "vThMant": 80, "refDelay": 1, "gradedSpike": 0}.items():
            neuron[name] = value


def put(where: str, value: Any) -> Change:
    def change(file: h5py.File) -> None:
        if where in file:
            del file[where]
        file[where] = value

    return change


def declared(file: h5py.File) -> None:
    del file["layer/0/weight"]
    file.create_dataset("layer/0/weight", (10**6, 10**6), "i8", chunks=(8, 8))


def elsewhere(file: h5py.File) -> None:
    del file["layer/0/weight"]
    file.create_dataset("layer/0/weight", (15,), "i8", external=[("/etc/passwd", 0, 120)])


REFUSED: dict[str, tuple[Change, str]] = {
    "a link to another file": (
        put("layer/1", h5py.ExternalLink("/dev/zero", "/x")),
        "/layer/1: a link to /x in file /dev",
    ),
    "a link to a place in it": (put("layer/1", h5py.SoftLink("/layer/0")), "/layer/1: a link to /layer/0"),
    "a layer twice": (lambda f: put("layer/1", f["layer/0"])(f), "is there under two names"),
    "a circle": (lambda f: put("layer/0/neuron/x", f["layer"])(f), "is there under two names"),
    "8 TB without data": (declared, "the arrays declare 8000000"),
    "data in /etc/passwd": (elsewhere, "its data lie in other files (/etc/passwd)"),
    "no layers": (lambda f: f.pop("layer"), "holds no layers"),
    "a layer left out": (lambda f: f.move("layer/0", "layer/7"), "holds no layers"),
    "a layer by a word": (put("layer/x", 1), "holds no layers"),
    "a layer that is a number": (put("layer/1", 3), "layer 1, type: is missing"),
    "no type": (lambda f: f.pop("layer/0/type"), "layer 0, type: is missing"),
    "an unknown type": (put("layer/0/type", "os.system"), "type: is os.system"),
    "an unknown neuron": (put("layer/0/neuron/type", "magic"), "magic"),
    "a surplus field": (put("layer/0/code", "import os"), "code: is there"),
    "no weights": (lambda f: f.pop("layer/0/weight"), "weight: is missing"),
    "weights in words": (put("layer/0/weight", "x"), "weight: is x"),
    "weights NaN": (put("layer/0/weight", np.full((3, 5), np.nan)), "weight: is not whole everywhere"),
    "weights of halves": (put("layer/0/weight", np.full((3, 5), 0.5)), "weight: is not whole everywhere"),
    "weights of no values": (put("layer/0/weight", np.zeros((0, 5))), "weight: is no array"),
    "weights of another shape": (put("layer/0/weight", np.ones((4, 5))), "net.net"),
    "a shape below 0": (put("layer/0/shape", np.array([-3])), "shape: is (-3,)"),
    "a shape without end": (put("layer/0/shape", np.array([10**12])), "shape: is (1000000000000,)"),
    "decay past 12 bits": (put("layer/0/neuron/vDecay", 5000), "net.net"),
    "decay below 0": (put("layer/0/neuron/vDecay", -1), "net.net"),
    "threshold in words": (put("layer/0/neuron/vThMant", "x"), "neuron/vThMant: is x"),
    "no threshold": (lambda f: f.pop("layer/0/neuron/vThMant"), "neuron/vThMant"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_file_is_refused(name: str, tmp_path: Path) -> None:
    change, said = REFUSED[name]
    path = tmp_path / "net.net"
    good(path)
    with h5py.File(path, "r+") as file:
        change(file)
    refused(tmp_path, lambda: load_lava_dl(path), "net.net", said)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    path = tmp_path / "net.net"
    good(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(tmp_path, lambda: load_lava_dl(path), "net.net", "not a readable HDF5 file")


def test_the_file_that_was_broken_was_good(tmp_path: Path) -> None:
    good(tmp_path / "net.net")
    assert load_lava_dl(tmp_path / "net.net").output.shape == (3,)
