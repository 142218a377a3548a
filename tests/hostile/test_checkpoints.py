"""Checkpoints that somebody broke or built: pickles with code, sizes that lie, headers and tensors of anything."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from hostile import CANARY, refused
from spikefold.deploy.import_checkpoint import import_checkpoint
from spikefold.deploy.sources import find_net
from spikefold.models import CheckpointMeta, build, load_checkpoint, load_state_dict_file, save_checkpoint

SIZES = {"in_channels": 2, "time_steps": 3, "num_classes": 4, "input_size": 8}
META = CheckpointMeta("plain-dvsnet", SIZES, "saccade-mnist", 7, 2, 1, {"val": 0.5}, "spikefold train", {"torch": "2"})
HEADER = {"spikefold_format": 1, **vars(META)}


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build("plain", **SIZES).state_dict()


def header(**changes: Any) -> Callable[[dict[str, torch.Tensor]], bytes]:
    """A checkpoint with some entries of its header changed."""
    return lambda tensors: save(tensors, metadata={"spikefold": json.dumps(HEADER | changes)})


def text(content: str) -> Callable[[dict[str, torch.Tensor]], bytes]:
    return lambda tensors: save(tensors, metadata={"spikefold": content})


def tensor(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], bytes]:
    """A checkpoint with the bias of its readout changed."""

    def make(tensors: dict[str, torch.Tensor]) -> bytes:
        changed = {**tensors, BIAS: change(tensors[BIAS].clone())}
        return save(changed, metadata={"spikefold": json.dumps(HEADER)})

    return make


BIAS = "readout.module.bias"


def raw(header_length: int, header: bytes, data: bytes = b"") -> Callable[[dict[str, torch.Tensor]], bytes]:
    return lambda _: struct.pack("<Q", header_length) + header + data


def entry(**fields: Any) -> Callable[[dict[str, torch.Tensor]], bytes]:
    """A file of one tensor that says of itself what it likes."""
    said = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields}).encode()
    return raw(len(said), said, bytes(8))


def cut(share: float) -> Callable[[dict[str, torch.Tensor]], bytes]:
    def make(tensors: dict[str, torch.Tensor]) -> bytes:
        whole = header()(tensors)
        return whole[: int(len(whole) * share)]

    return make


SAFETENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], bytes], str]] = {
    **{
        f"cut at {share}": (cut(share), "damaged or not a safetensors file")
        for share in (0, 0.0001, 0.001, 0.1, 0.5, 0.9999)
    },
    "header of 10 GB": (raw(10**10, b"{}"), "damaged or not a safetensors file"),
    "header of 2**63 bytes": (raw(2**63, b"{}"), "damaged or not a safetensors file"),
    "header of 99 MB that is not there": (raw(99_000_000, b"{}"), "damaged or not a safetensors file"),
    "header that is no JSON": (raw(8, b"{nonsens"), "damaged or not a safetensors file"),
    "header nested without end": (raw(200_000, b"[" * 200_000), "damaged or not a safetensors file"),
    "shape of more than the data": (entry(shape=[10**9, 10**9]), "damaged or not a safetensors file"),
    "shape that overflows": (entry(shape=[2**62, 4]), "damaged or not a safetensors file"),
    "offsets past the end": (entry(data_offsets=[0, 10**12]), "damaged or not a safetensors file"),
    "offsets backwards": (entry(data_offsets=[8, 0]), "damaged or not a safetensors file"),
    "unknown dtype": (entry(dtype="F1024"), "damaged or not a safetensors file"),
    "dtype without a torch form": (entry(dtype="F4", shape=[16]), "safetensors"),
    "negative shape": (entry(shape=[-2]), "damaged or not a safetensors file"),
    "a pickle by another name": (lambda _: pickle.dumps({"w": [1.0]}), "damaged or not a safetensors file"),
    "no header of ours": (lambda tensors: save(tensors), "no 'spikefold' entry"),
    "our header is no JSON": (text("{"), "'spikefold' is not JSON"),
    "our header is nested without end": (text("[" * 200_000), "'spikefold' is not JSON"),
    "our header has a number of 10,000 digits": (text('{"spikefold_format": ' + "9" * 10_000 + "}"), "is not JSON"),
    "our header is a list": (text("[1]"), "spikefold_format = None"),
    "format 2": (header(spikefold_format=2), "spikefold_format = 2"),
    "format as text": (header(spikefold_format="1"), "spikefold_format = '1'"),
    "format below 1": (header(spikefold_format=-1), "spikefold_format = -1"),
    "unknown network": (header(model="vgg16"), "model 'vgg16'"),
    "network that imports": (header(model="os:system"), "model 'os:system'"),
    "network as number": (header(model=3), "model = 3"),
    "seed as text": (header(seed="x"), "seed = 'x'"),
    "accuracy as list": (header(accuracy=[1]), "accuracy = [1]"),
    "build as list": (header(build=[1]), "build = [1]"),
    "build with a name": (header(build={"name": "asa"}), "multiple values for argument 'name'"),
    "build with an unknown option": (header(build={"depth": 3}), "no option 'depth'"),
    "a billion steps": (header(build=SIZES | {"time_steps": 10**9}), "time_steps = 1000000000"),
    "sizes as text": (header(build=SIZES | {"in_channels": "2"}), "in_channels = '2'"),
    "sizes as flag": (header(build=SIZES | {"in_channels": True}), "in_channels = True"),
    "NaN classes": (header(build=SIZES | {"num_classes": float("nan")}), "num_classes = nan"),
    "width of a million": (header(model="fsta-resnet20", build={"width": 10**6}), "width = 1000000"),
    "width that takes 300 GB": (header(model="sma-msresnet104", build={"width": 4096}), "another network"),
    "width below 0": (header(model="fsta-resnet20", build={"width": -8}), "width = -8"),
    "width of 0": (header(model="fsta-resnet20", build={"width": 0}), "width = 0"),
    "share that is no number": (header(model="asa-a", build={"lam": float("nan")}), "lam = nan"),
    "weights of another network": (header(model="asa-dvsnet"), "another network"),
    "NaN": (tensor(lambda t: t.fill_(float("nan"))), f"{BIAS} holds NaN"),
    "one infinite value": (tensor(lambda t: t.index_fill_(0, torch.tensor([0]), float("-inf"))), f"{BIAS} holds NaN"),
    "half precision": (tensor(lambda t: t.half()), f"{BIAS} is torch.float16"),
    "double precision": (tensor(lambda t: t.double()), f"{BIAS} is torch.float64"),
    "eight-bit floats": (tensor(lambda t: t.to(torch.float8_e4m3fn)), f"{BIAS} is torch.float8_e4m3fn"),
    "integers": (tensor(lambda t: t.long()), f"{BIAS} is torch.int64"),
    "complex numbers": (tensor(lambda t: t.to(torch.complex64)), f"{BIAS} is torch.complex64"),
    "no values": (tensor(lambda t: t[:0].clone()), f"{BIAS} is torch.float32 (0,)"),
    "one axis more": (tensor(lambda t: t[None].clone()), f"{BIAS} is torch.float32 (1, 4)"),
    "surplus tensor": (
        lambda t: save({**t, "w" * 5000: torch.ones(1)}, metadata={"spikefold": json.dumps(HEADER)}),
        "unknown: w",
    ),
    "missing tensors": (
        lambda t: save({BIAS: t[BIAS].clone()}, metadata={"spikefold": json.dumps(HEADER)}),
        "missing: ",
    ),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_hostile_checkpoint_is_refused(name: str, tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    make, said = SAFETENSORS[name]
    path = tmp_path / "net.safetensors"
    path.write_bytes(make(tensors))
    refused(tmp_path, lambda: load_checkpoint(path), "net.safetensors", said)


def test_a_sparse_file_of_a_gigabyte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(struct.pack("<Q", 99_000_000))
    with path.open("r+b") as file:
        file.truncate(1 << 30)
    refused(tmp_path, lambda: load_checkpoint(path), "net.safetensors")


class Touch:
    """Unpickled by a loader that runs code, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def torch_zip(pickled: bytes, records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive as torch.save writes it, of a pickle and the data of its tensors."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for name, content in records.items():
            archive.writestr(f"archive/data/{name}", content)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


class _Stored:
    """What a pickle says of a tensor's data."""

    def __init__(self, numel: int, key: str = "0") -> None:
        self.id = ("storage", torch.FloatStorage, key, "cpu", numel)


class _Tensor:
    def __init__(
        self, numel: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, key: str = "0"
    ) -> None:
        self.arguments = (_Stored(numel, key), offset, size, stride, False, {})

    def __reduce__(self) -> tuple[Any, ...]:
        return (torch._utils._rebuild_tensor_v2, self.arguments)


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.id if isinstance(obj, _Stored) else None


def pickled(content: Any) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol=2).dump(content)
    return file.getvalue()


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def legacy(content: Any) -> bytes:
    return saved(content, _use_new_zipfile_serialization=False)


def tarred(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


GOOD = {"w": torch.arange(300.0)}


def start_of(write: Callable[[Any], bytes], length: int) -> Callable[[Path], bytes]:
    return lambda folder: write(GOOD)[:length]


LOOP: dict[str, Any] = {}
LOOP["state_dict"] = LOOP

PICKLES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "code in a plain pickle": (lambda f: pickle.dumps(Touch(f / CANARY)), "damaged, or holds more than tensors"),
    "code beside the weights": (lambda f: saved({**GOOD, "x": Touch(f / CANARY)}), "holds more than tensors"),
    "code in place of the weights": (lambda f: saved(Touch(f / CANARY)), "holds more than tensors"),
    "code as a key": (lambda f: torch_zip(pickled({(1, Touch(f / CANARY)): 1}), {}), "holds more than tensors"),
    "code in the old form": (lambda f: legacy({**GOOD, "x": Touch(f / CANARY)}), "holds more than tensors"),
    "code behind state_dict": (lambda f: saved({"state_dict": GOOD, "hook": Touch(f / CANARY)}), "more than tensors"),
    "code in a tar": (lambda f: tarred("pickle", pickle.dumps(Touch(f / CANARY))), "net.pt"),
    "code in protocol 0": (lambda f: pickle.dumps(Touch(f / CANARY), 0), "net.pt"),
    "code in protocol 5": (lambda f: pickle.dumps(Touch(f / CANARY), 5), "net.pt"),
    "os.system by name": (lambda f: b"cos\nsystem\n(S'touch " + bytes(f / CANARY) + b"'\ntR.", "net.pt"),
    "builtins.eval in the archive": (lambda f: torch_zip(b"c__builtin__\neval\n(S'1'\ntR.", {}), "more than tensors"),
    "getattr chain": (lambda f: torch_zip(b"ctorch\nhub.load\n(S'x'\ntR.", {}), "more than tensors"),
    "a whole module": (lambda f: saved(torch.nn.Linear(2, 2)), "torch.save(net.state_dict(), path)"),
    "a script": (lambda f: torch_zip(pickled({}), {}) and _scripted(), "net.pt"),
    **{f"cut at {n}": (start_of(saved, n), "net.pt") for n in (0, 1, 3, 4, 30, 100, 500, 1000, 1500)},
    **{f"old form cut at {n}": (start_of(legacy, n), "net.pt") for n in (20, 100, 200, 400, 900)},
    "noise": (lambda f: np.random.default_rng(0).bytes(5000), "net.pt"),
    "text": (lambda f: b"hello", "net.pt"),
    "storage larger than its data": (
        lambda f: torch_zip(pickled({"w": _Tensor(10**6, (10**6,), (1,))}), {"0": bytes(32)}),
        "net.pt",
    ),
    "storage of 4 TB": (
        lambda f: torch_zip(pickled({"w": _Tensor(10**12, (10**12,), (1,))}), {"0": bytes(32)}),
        "net.pt",
    ),
    "storage below 0": (lambda f: torch_zip(pickled({"w": _Tensor(-8, (8,), (1,))}), {"0": bytes(32)}), "net.pt"),
    "storage that is not there": (
        lambda f: torch_zip(pickled({"w": _Tensor(8, (8,), (1,), key="7")}), {"0": bytes(32)}),
        "net.pt",
    ),
    "storage by a path": (
        lambda f: torch_zip(pickled({"w": _Tensor(8, (8,), (1,), key="../../etc/passwd")}), {"0": bytes(32)}),
        "net.pt",
    ),
    "offset past the end": (
        lambda f: torch_zip(pickled({"w": _Tensor(8, (8,), (1,), 10**9)}), {"0": bytes(32)}),
        "net.pt",
    ),
    "stride past the end": (
        lambda f: torch_zip(pickled({"w": _Tensor(8, (8,), (10**6,))}), {"0": bytes(32)}),
        "net.pt",
    ),
    "negative stride": (lambda f: torch_zip(pickled({"w": _Tensor(8, (8,), (-1,))}), {"0": bytes(32)}), "net.pt"),
    "one value stretched over a trillion": (
        lambda f: torch_zip(pickled({"w": _Tensor(8, (10**6, 10**6), (0, 0))}), {"0": bytes(32)}),
        "w is (1000000, 1000000) stretched over 8 values",
    ),
    "packed zeros": (
        lambda f: torch_zip(pickled({"w": _Tensor(2**22, (2**22,), (1,))}), {"0": bytes(2**24)}, zipfile.ZIP_DEFLATED),
        "archive/data.pkl is packed",
    ),
    "a list": (lambda f: saved([1, 2]), "holds a list"),
    "a tensor": (lambda f: saved(torch.ones(3)), "holds a Tensor"),
    "a number": (lambda f: saved(3), "holds a int"),
    "nothing": (lambda f: saved({}), "holds a dict"),
    "a number among the tensors": (lambda f: saved({**GOOD, "epoch": 3}), "entry 'epoch' is a int"),
    "itself": (lambda f: saved(LOOP), "entry 'state_dict' is a dict"),
    "lists nested without end": (
        lambda f: torch_zip(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", {}),
        "net.pt",
    ),
    "a text of 4 GB that is not there": (lambda f: torch_zip(b"\x80\x02X\xff\xff\xff\xff.", {}), "net.pt"),
    "sparse tensor": (lambda f: saved({"w": torch.eye(3).to_sparse()}), "w is torch.sparse_coo"),
    "NaN": (lambda f: saved({"w": torch.tensor([1.0, float("nan")])}), "w holds NaN"),
    "infinite": (lambda f: saved({"w": torch.tensor([float("inf")]).half()}), "w holds NaN or infinite"),
    "meta tensor": (lambda f: saved({"w": torch.empty(3, device="meta")}), "net.pt"),
}


def _scripted() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), file)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PICKLES)
def test_a_hostile_state_dict_is_refused_and_runs_nothing(name: str, tmp_path: Path) -> None:
    make, said = PICKLES[name]
    path = tmp_path / "net.pt"
    path.write_bytes(make(tmp_path))
    assert not (tmp_path / CANARY).exists()
    refused(tmp_path, lambda: load_state_dict_file(path), "net.pt", said)


def test_the_canary_would_sing(tmp_path: Path) -> None:
    """What the pickles above hold does run where a loader lets it."""
    pickle.loads(pickle.dumps(Touch(tmp_path / CANARY)))  # noqa: S301
    assert (tmp_path / CANARY).exists()


def _linear() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(2, 3))


WEIGHTS: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "missing": ({"0.weight": torch.ones(3, 2)}, "0.bias is missing"),
    "surplus": ({"0.weight": torch.ones(3, 2), "0.bias": torch.ones(3), "x": torch.ones(1)}, "x is not in the net"),
    "shape": ({"0.weight": torch.ones(2, 3), "0.bias": torch.ones(3)}, "0.weight has shape (2, 3)"),
    "complex": (
        {"0.weight": torch.ones(3, 2).to(torch.complex64), "0.bias": torch.ones(3)},
        "0.weight is torch.complex64",
    ),
    "whole numbers": ({"0.weight": torch.ones(3, 2).long(), "0.bias": torch.ones(3)}, "0.weight is torch.int64"),
    "flags": ({"0.weight": torch.ones(3, 2), "0.bias": torch.ones(3).bool()}, "0.bias is torch.bool"),
    "past single precision": (
        {"0.weight": torch.full((3, 2), 1e300, dtype=torch.float64), "0.bias": torch.ones(3)},
        "0.weight is torch.float64",
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_a_users_net_would_garble_are_refused(name: str, tmp_path: Path) -> None:
    weights, said = WEIGHTS[name]
    path = tmp_path / "net.pt"
    torch.save(weights, path)
    module = f"{__name__}:_linear"
    refused(tmp_path, lambda: find_net(module, str(path)), "net.pt", said)


@pytest.mark.parametrize("name", ["one tensor", "complex", "wrong axes", "empty", "deep names"])
def test_what_is_no_release_is_not_imported(name: str, tmp_path: Path) -> None:
    weights = {
        "one tensor": {"conv1.weight": torch.ones(2, 2, 3, 3)},
        "complex": {"layer1.0.conv1.0.weight": torch.ones(2, 2, 3, 3).to(torch.complex64)},
        "wrong axes": {"fc.weight": torch.ones(()), "conv1.0.weight": torch.ones(3)},
        "empty": {"fc.weight": torch.ones(0, 0), "conv1.0.weight": torch.ones(0, 2, 3, 3)},
        "deep names": {"a" + ".b" * 5000: torch.ones(1)},
    }[name]
    path = tmp_path / "net.pt"
    torch.save(weights, path)
    for network in ("fsta-resnet20", "asa-a", "sma-msresnet18", "tcja-dvs128", "tcsa-a", "dta-msresnet18"):
        refused(tmp_path, lambda n=network: import_checkpoint(path, n, tmp_path / "out.safetensors", {}))
    assert not (tmp_path / "out.safetensors").exists()


def test_a_good_checkpoint_is_read(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Of what is broken above, so that nothing is refused for another reason."""
    (tmp_path / "net.safetensors").write_bytes(header()(tensors))
    assert load_checkpoint(tmp_path / "net.safetensors")[1] == META
    (tmp_path / "net.pt").write_bytes(
        torch_zip(pickled({"w": _Tensor(8, (8,), (1,))}), {"0": np.arange(8, dtype="<f4").tobytes()})
    )
    assert load_state_dict_file(tmp_path / "net.pt")["w"].tolist() == list(range(8))
    (tmp_path / "old.pt").write_bytes(legacy(GOOD))
    assert torch.equal(load_state_dict_file(tmp_path / "old.pt")["w"], GOOD["w"])
    save_checkpoint(tmp_path / "again.safetensors", build("plain", **SIZES), META)
