"""Readers as functions of bytes, for fuzzing: each takes what it is given, or refuses it with a `SpikefoldError`.

Most targets do not read the bytes as a file, which nearly always is no file at all, but let them choose what is changed
in a good one: so they reach what lies behind the first check. Anything else than a `SpikefoldError` is a find.
"""

from __future__ import annotations

import copy
import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
import yaml

from generated_graphs import random_graph
from spikefold.converters.dialects import DIALECTS, import_nir
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.nir_file import KEY, from_nir, integers_as_metadata
from spikefold.converters.reference import run_reference
from spikefold.deploy.certificate import Agreement, Certificate, read_certificate
from spikefold.deploy.hardware import load_hardware, shipped_hardware
from spikefold.deploy.onnx_runner import _read_metadata
from spikefold.deploy.sources import find_data, random_events
from spikefold.errors import FileFormatError, SpikefoldError
from spikefold.models import load_npz, load_state_dict_file
from spikefold.models.registry import parse_options

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 64, 4095, 4096, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.5, 1e308, float("nan"),
    float("inf"), "", "x", "0", "input", "output", "conv", "dense", "nan", "0x1p-3", "\0", "\ud800", [], [0], [1, 1],
    [-1, -1], [0, 0], [10**9, 10**9], [1, 2, 3], ["a"], [[]], {}, {"array": 0}, {"array": -1}, {"array": 10**6},
)  # fmt: skip
"""What takes the place of something in a good file."""
MAX_CHANGES = 4
RUN_LIMIT = 200_000
"""Neurons and weights up to which a net that was taken is run as well."""


class Choices:
    """Choices that bytes make; zeros where they end."""

    def __init__(self, data: bytes) -> None:
        self._left = io.BytesIO(data)

    def below(self, count: int) -> int:
        """A number from 0 to ``count - 1``."""
        return int.from_bytes(self._left.read(2), "little") % count

    def of(self, values: Any) -> Any:
        """One of some values."""
        return values[self.below(len(values))]


def changed(plain: Any, choices: Choices) -> Any:
    """A copy of what JSON holds, with up to `MAX_CHANGES` values replaced, removed, doubled or exchanged."""
    plain = json.loads(json.dumps(plain))
    for _ in range(1 + choices.below(MAX_CHANGES)):
        places = list(_places(plain))
        if not places:
            return plain
        holder, key = choices.of(places)
        match choices.below(5):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case 2:
                other, name = choices.of(places)
                if name in other if isinstance(other, dict) else name < len(other):
                    holder[key] = copy.deepcopy(other[name])
            case _:
                holder[key] = copy.deepcopy(choices.of(VALUES))
    return plain


def _places(plain: Any) -> Any:
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in list(items):
        yield plain, key
        yield from _places(value)


def cut(content: bytes, choices: Choices) -> bytes:
    """Bytes with some of them changed, taken out or doubled."""
    held = bytearray(content)
    for _ in range(1 + choices.below(8)):
        at, length = choices.below(len(held) + 1), choices.below(64)
        match choices.below(4):
            case 0:
                del held[at:]
            case 1:
                held[at : at + length] = b""
            case 2:
                held[at:at] = held[at : at + length]
            case _:
                held[at : at + 4] = choices.below(2**16).to_bytes(2, "little") * choices.below(3)
    return bytes(held)


NETS = tuple(random_graph(3, gated=gated, relays=gated, delays=int(gated), memory=not gated) for gated in (False, True))


def integers(data: bytes) -> None:
    """The integer net in a NIR file; one that is taken and small runs, too."""
    choices = Choices(data)
    held = integers_as_metadata(choices.of(NETS))
    held[KEY]["graph"] = json.dumps(changed(json.loads(held[KEY]["graph"]), choices))
    if choices.below(4) == 0:
        name = f"array_{choices.below(len(held[KEY]))}"
        held[KEY][name] = np.asarray(choices.of((0, 1.5, "x", [], [1, 2], [[2**62]], [-300], b"\xff")))
    graph = nir.NIRGraph({}, [], type_check=False)
    graph.metadata = held
    net = from_nir(graph)
    net.to_plain()
    if sum(n.size for n in net.neurons) + sum(s.weight.size for s in net.synapses) < RUN_LIMIT:
        steps = net.time_steps or 3
        if steps * int(np.prod(net.input.shape)) < RUN_LIMIT and steps < 100:
            run_reference(net, np.zeros((steps, 1, *net.input.shape), dtype=np.int64))


def text(data: bytes) -> None:
    """The text of the integer net, as it is."""
    FixedPointGraph.from_plain(data.decode("utf-8", "replace"), [])


_FOREIGN: dict[str, dict[str, Any]] = {
    "input": {"type": "Input", "shape": [2, 6, 6]},
    "conv": {"type": "Conv2d", "input_shape": [6, 6], "weight": [[[[0.5] * 3] * 3] * 2] * 3, "stride": [1, 1],
             "padding": [1, 1], "dilation": [1, 1], "groups": 1, "bias": [0.0] * 3},
    "lif": {"type": "LIF", "tau": [[[1e-3] * 6] * 6] * 3, "r": [[[10.0] * 6] * 6] * 3, "v_leak": [[[0.0] * 6] * 6] * 3,
            "v_reset": [[[0.0] * 6] * 6] * 3, "v_threshold": [[[1.0] * 6] * 6] * 3},
    "pool": {"type": "SumPool2d", "kernel_size": [2, 2], "stride": [2, 2], "padding": [0, 0]},
    "delay": {"type": "Delay", "delay": [[[1e-4] * 3] * 3] * 3},
    "flatten": {"type": "Flatten", "start_dim": 0, "end_dim": -1, "input_type": [3, 3, 3]},
    "fc": {"type": "Affine", "weight": [[0.5] * 27] * 2, "bias": [0.0] * 2},
    "scale": {"type": "Scale", "scale": [1.0] * 2},
    "out": {"type": "CubaLIF", "tau_mem": [1e-3] * 2, "tau_syn": [1e-3] * 2, "r": [10.0] * 2, "v_leak": [0.0] * 2,
            "v_reset": [0.0] * 2, "v_threshold": [1.0] * 2, "w_in": [10.0] * 2},
    "output": {"type": "Output", "shape": [2]},
}  # fmt: skip
_EDGES = [[a, b] for a, b in zip(_FOREIGN, list(_FOREIGN)[1:], strict=False)]


def foreign(data: bytes) -> None:
    """A graph of another program, whole fields of which are changed."""
    choices = Choices(data)
    nodes = {name: dict(fields) for name, fields in _FOREIGN.items()}
    arrays = [np.ones(s) for s in ((), (1,), (2,), (3,), (2, 27), (3, 6, 6), (3, 3, 3), (1, 2, 3, 3), (0,), (6, 6))]
    for _ in range(choices.below(MAX_CHANGES)):
        fields = nodes[choices.of(sorted(nodes))]
        name = choices.of(sorted(fields))
        value = choices.of(VALUES) if choices.below(2) else choices.of(arrays) * choices.of((0, 1, -1, 2, 1e-4, 1e9))
        fields[name] = value
    edges = changed(_EDGES, choices) if choices.below(2) else _EDGES
    try:  # as nir makes nodes of a file, whose refusals `read_nir` wraps
        made = {
            name: nir.dict2NIRNode({k: v if isinstance(v, str | int) else np.asarray(v) for k, v in f.items()})
            for name, f in nodes.items()
        }
        graph = nir.NIRGraph(made, [(str(a), str(b)) for a, b in edges], type_check=False)
    except Exception as error:
        raise FileFormatError("nir makes no node of it") from error
    import_nir(graph, choices.of(sorted(DIALECTS)))


def _read(content: bytes, suffix: str, read: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"net{suffix}")
        path.write_bytes(content)
        try:
            read(path)
        finally:
            assert [p.name for p in Path(folder).iterdir()] == [path.name]


_CERTIFICATE = json.loads(
    json.dumps(
        Certificate(
            "n", "none", "0" * 64, "d", "0" * 64, 1, 1, "0" * 64, (Agreement("torch", 1, 1, 0, 0),), "0", {}
        ).to_dict()
    )
)
_HARDWARE = {name: yaml.safe_load((Path(__file__).parents[2] / f"hardware_configs/{name}.yaml").read_text())
             for name in shipped_hardware()}  # fmt: skip


def certificate(data: bytes) -> None:
    """A certificate, some values of which are changed."""
    content = json.dumps(changed(_CERTIFICATE, Choices(data))).encode()
    _read(content, ".json", lambda path: read_certificate(path).to_dict())


def hardware(data: bytes) -> None:
    """A hardware description, some values of which are changed."""
    choices = Choices(data)
    content = yaml.safe_dump(changed(_HARDWARE[choices.of(sorted(_HARDWARE))], choices), allow_unicode=True)
    _read(content.encode("utf-8", "replace"), ".yaml", load_hardware)


def yaml_text(data: bytes) -> None:
    """A hardware description, as it is."""
    _read(data, ".yaml", load_hardware)


def _archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, frames=np.zeros((2, 3, 2, 4, 4), np.uint8), labels=np.array([0, 1]))
    return file.getvalue()


def _weights(**options: Any) -> bytes:
    file = io.BytesIO()
    torch.save({"w": torch.arange(8.0), "b": torch.zeros(2, 2)}, file, **options)
    return file.getvalue()


def _pickle() -> bytes:
    with zipfile.ZipFile(io.BytesIO(_STATE_DICTS[0])) as archive:
        return archive.read("archive/data.pkl")


_ARCHIVE = _archive()
_STATE_DICTS = (_weights(), _weights(_use_new_zipfile_serialization=False))
_PICKLE = _pickle()


def clips(data: bytes) -> None:
    """An ``.npz``, some bytes of which are changed."""
    _read(cut(_ARCHIVE, Choices(data)), ".npz", load_npz)


def state_dict(data: bytes) -> None:
    """A ``.pt``, some bytes of which, or of the pickle in it, are changed."""
    choices = Choices(data)
    if choices.below(2):
        content = cut(choices.of(_STATE_DICTS), choices)
    else:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", cut(_PICKLE, choices))
            archive.writestr("archive/version", "3\n")
            archive.writestr("archive/byteorder", "little")
            archive.writestr("archive/data/0", bytes(32))
            archive.writestr("archive/data/1", bytes(16))
        content = file.getvalue()
    _read(content, ".pt", load_state_dict_file)


def onnx_metadata(data: bytes) -> None:
    """What is read of an ONNX file before ONNX Runtime is asked."""
    _read_metadata(data, "net.onnx")


def words(data: bytes) -> None:
    """Words of the command line."""
    word = data.decode("utf-8", "replace")
    for read in (lambda: find_data(f"nmnist,{word}", "test", 1), lambda: random_events(word, 1, 1),
                 lambda: parse_options("fsta-resnet20", [word])):  # fmt: skip
        try:
            read()
        except SpikefoldError:
            continue


TARGETS: dict[str, Callable[[bytes], None]] = {
    f.__name__: f
    for f in (integers, text, foreign, certificate, hardware, yaml_text, clips, state_dict, onnx_metadata, words)
}


def accepts_or_refuses(name: str, data: bytes) -> bool:
    """Run a target; gives whether it took the data. What is no `SpikefoldError` goes through: a find."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            TARGETS[name](data)
        except SpikefoldError:
            return False
    return True
