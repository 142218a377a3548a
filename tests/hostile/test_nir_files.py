"""NIR files that somebody broke or built: HDF5 that points elsewhere, integers that are none, nets that cannot run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

from generated_graphs import random_graph
from hostile import refused
from spikefold.converters.dialects import open_graph
from spikefold.converters.nir_file import load_nir, save_nir
from spikefold.deploy.info import describe

PLAIN, GATED = random_graph(3), random_graph(4, gated=True, relays=True, delays=1)
INTEGERS = "node/metadata/spikefold"
Change = Callable[[h5py.File], None]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, bytes]:
    folder = tmp_path_factory.mktemp("nets")
    return {gated: save_nir(g, folder / "net.nir").read_bytes() for gated, g in ((False, PLAIN), (True, GATED))}


def put(where: str, value: Any, **options: Any) -> Change:
    """Replace one data set."""

    def change(file: h5py.File) -> None:
        if where in file:
            del file[where]
        file.create_dataset(where, data=value, **options)

    return change


def drop(where: str) -> Change:
    def change(file: h5py.File) -> None:
        del file[where]

    return change


def text(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change the JSON text of the integer net."""

    def apply(file: h5py.File) -> None:
        plain = json.loads(file[f"{INTEGERS}/graph"][()])
        change(plain)
        put(f"{INTEGERS}/graph", json.dumps(plain))(file)

    return apply


def neurons(**fields: Any) -> Change:
    return text(lambda plain: plain["neurons"][0].update(fields))


def synapse(**fields: Any) -> Change:
    return text(lambda plain: plain["synapses"][0].update(fields))


def array(value: Any) -> Change:
    """Replace the weights of the first synapse."""

    def apply(file: h5py.File) -> None:
        position = json.loads(file[f"{INTEGERS}/graph"][()])["synapses"][0]["weight"]
        put(f"{INTEGERS}/array_{position}", value)(file)

    return apply


def weights(change: Callable[[Any], Any]) -> Change:
    def apply(file: h5py.File) -> None:
        position = json.loads(file[f"{INTEGERS}/graph"][()])["synapses"][0]["weight"]
        where = f"{INTEGERS}/array_{position}"
        put(where, change(file[where][()]))(file)

    return apply


def declared(where: str, shape: tuple[int, ...], **options: Any) -> Change:
    """A data set of a shape, without data."""

    def change(file: h5py.File) -> None:
        if where in file:
            del file[where]
        file.create_dataset(where, shape=shape, dtype="i8", **options)

    return change


def linked(link: Any) -> Change:
    def change(file: h5py.File) -> None:
        del file[f"{INTEGERS}/array_0"]
        file[f"{INTEGERS}/array_0"] = link(file) if callable(link) else link

    return change


def external(name: str) -> Change:
    def change(file: h5py.File) -> None:
        del file[f"{INTEGERS}/array_0"]
        file.create_dataset(f"{INTEGERS}/array_0", (8,), "i8", external=[(name, 0, 64)])

    return change


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((8,), "i8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "secret", (8,))
    del file[f"{INTEGERS}/array_0"]
    file.create_virtual_dataset(f"{INTEGERS}/array_0", layout)


def doubling(file: h5py.File) -> None:
    """Thirty groups, each with two names for the next: a billion paths."""
    group = file["node/metadata"].create_group("laughs")
    for _ in range(30):
        below = group.create_group("a")
        group["b"] = below
        group = below


def nested(file: h5py.File) -> None:
    file["node/metadata"].create_group("/".join("x" * 1500))


def loop_of_nodes(file: h5py.File) -> None:
    file["node/nodes/again"] = file["node"]


REFUSED: dict[str, tuple[Change, str]] = {
    # HDF5 itself
    "a link to another file": (
        linked(h5py.ExternalLink("/etc/passwd", "/x")),
        "array_0: a link to /x in file /etc/passwd",
    ),
    "a link to a device": (linked(h5py.ExternalLink("/dev/zero", "/x")), "array_0: a link to /x in file /dev/zero"),
    "a link to a place in the file": (linked(h5py.SoftLink("/node/type")), "array_0: a link to /node/type"),
    "a link to nowhere": (linked(h5py.SoftLink("/nowhere")), "array_0: a link to /nowhere"),
    "data in /etc/passwd": (external("/etc/passwd"), "array_0: its data lie in other files (/etc/passwd)"),
    "data in a device": (external("/dev/zero"), "array_0: its data lie in other files (/dev/zero)"),
    "data in files beside it": (external("../secret"), "array_0: its data lie in other files (../secret)"),
    "virtual data": (virtual, "array_0: its data lie in other files"),
    "a group inside itself": (linked(lambda f: f["node"]), "is there under two names"),
    "a graph inside itself": (loop_of_nodes, "is there under two names"),
    "a billion paths": (doubling, "is there under two names"),
    "groups in groups": (nested, "groups inside groups"),
    "8 TB without data": (declared(f"{INTEGERS}/array_0", (10**6, 10**6)), "arrays declare 8000000"),
    "8 TB in chunks": (declared(f"{INTEGERS}/array_0", (10**6, 10**6), chunks=(8, 8)), "arrays declare 8000000"),
    "one chunk of 3 GB": (
        declared(f"{INTEGERS}/array_0", (1,), maxshape=(None,), chunks=(400_000_000,)),
        "arrays declare 32",
    ),
    "a gigabyte of packed zeros": (
        put(f"{INTEGERS}/array_0", np.zeros(2**24), compression=1, chunks=(2**20,)),
        "array_0",
    ),
    "many arrays of 100 MB": (
        lambda f: [declared(f"{INTEGERS}/array_{i}", (2**23,), chunks=(64,))(f) for i in range(40)],
        "arrays declare",
    ),
    "no graph": (drop("node"), "not a readable NIR file"),
    "no type": (drop("node/type"), "not a readable NIR file"),
    "type as number": (put("node/type", 3), "not a readable NIR file"),
    "an unknown type": (put("node/type", "Script"), "not a readable NIR file"),
    "a node in place of a graph": (put("node/type", "Input"), "net.nir"),
    "an unknown node": (put("node/nodes/input/type", "os.system"), "not a readable NIR file"),
    "edges as numbers": (put("node/edges", np.arange(4).reshape(2, 2)), "not a readable NIR file"),
    "edges of three": (put("node/edges", np.array([["a", "b", "c"]], dtype="S1")), "not a readable NIR file"),
    "an edge to nowhere": (put("node/edges", np.array([["input", "x"]], dtype="S5")), "not a readable NIR file"),
    "no edges": (drop("node/edges"), "not a readable NIR file"),
    "a surplus field": (put("node/nodes/input/code", "import os"), "not a readable NIR file"),
    "structured data": (put(f"{INTEGERS}/array_0", np.zeros(3, [("a", "i8")])), "array_0: holds [('a', '<i8')]"),
    "complex data": (put(f"{INTEGERS}/array_0", np.zeros(3, complex)), "array_0: holds complex128"),
    "references": (put(f"{INTEGERS}/array_0", h5py.Reference(), dtype=h5py.ref_dtype), "array_0: holds object"),
    "an array of no shape": (put(f"{INTEGERS}/array_0", h5py.Empty("i8")), "array_0: an array without data"),
    "type_check of its own": (put("node/type_check", 0), "not a readable NIR file"),
    # metadata
    "format 2": (put("node/metadata/spikefold_format", 2), "spikefold_format is 2"),
    "format as text": (put("node/metadata/spikefold_format", "one"), "spikefold_format is 'one'"),
    "format as array": (put("node/metadata/spikefold_format", np.ones(3)), "spikefold_format is array([1., 1., 1.])"),
    "format NaN": (put("node/metadata/spikefold_format", np.nan), "spikefold_format is nan"),
    "no integers": (drop(INTEGERS), "holds no integer net"),
    "integers as a number": (put(INTEGERS, 3), "holds no integer net"),
    "no text": (drop(f"{INTEGERS}/graph"), "holds no integer net"),
    "text as numbers": (put(f"{INTEGERS}/graph", np.arange(3)), "spikefold/graph holds a ndarray"),
    "text in no encoding": (put(f"{INTEGERS}/graph", np.bytes_(b"\xff\xfe")), "net.nir"),
    "text that is no JSON": (put(f"{INTEGERS}/graph", "{"), "not readable as JSON"),
    "text nested without end": (put(f"{INTEGERS}/graph", "[" * 200_000), "not readable as JSON"),
    "text of a number of 10,000 digits": (put(f"{INTEGERS}/graph", "9" * 10_000), "not readable as JSON"),
    "text of a list": (put(f"{INTEGERS}/graph", "[1]"), "is [1], a JSON object is needed"),
    "a missing array": (drop(f"{INTEGERS}/array_0"), "array_0 is missing"),
    "scalars as text": (put("node/metadata/scalars", "x"), "scalars holds"),
    "scalars as floats": (put("node/metadata/scalars", np.array([0.5])), "scalars holds float64"),
    "scalars for arrays": (put("node/metadata/scalars", np.arange(20)), "it must be one number"),
    "float weights": (weights(lambda w: w.astype(float)), "float64"),
    "short weights": (weights(lambda w: w.astype("i2")), "int16"),
    "weights past int64": (weights(lambda w: w.astype("u8")), "uint64"),
    "text weights": (array(np.array([b"x"] * 3)), "|S1"),
    "no weights": (array(np.zeros((0,), "i8")), "of shape (0,)"),
    "odd weights": (weights(lambda w: w + 1), "mantissas are even"),
    "weights past eight bits": (weights(lambda w: w + 4096), "mantissas are even and within"),
    "transposed weights": (weights(lambda w: w.T), "kernel"),
    "flat weights": (weights(lambda w: w.reshape(-1)), "fixed-point metadata"),
    "newer integers": (text(lambda p: p.update(spikefold_format=7)), "spikefold_format is 7"),
    "integers without format": (text(lambda p: p.pop("spikefold_format")), "spikefold_format is missing"),
    "no neurons field": (text(lambda p: p.pop("neurons")), "neurons is missing"),
    "neurons as a number": (text(lambda p: p.update(neurons=3)), "neurons is 3"),
    "neurons as numbers": (text(lambda p: p.update(neurons=[3])), "neurons 0: is 3"),
    "no neurons": (text(lambda p: p.update(neurons=[])), "net.nir"),
    "no synapses": (text(lambda p: p.update(synapses=[])), "no synapse leads to it"),
    "a synapse twice": (text(lambda p: p["synapses"].append(p["synapses"][0])), "the name is used twice"),
    "a population twice": (text(lambda p: p["neurons"].append(p["neurons"][0])), "the name is used twice"),
    "an unknown mode": (text(lambda p: p.update(attention="magic")), "attention is 'magic'"),
    "steps below 1": (text(lambda p: p.update(time_steps=-5)), "time_steps is -5"),
    "steps as text": (text(lambda p: p.update(time_steps="5")), "time_steps is '5'"),
    "steps as a flag": (text(lambda p: p.update(time_steps=True)), "time_steps is True"),
    "a name as number": (text(lambda p: p.update(name=3)), "name is 3"),
    "provenance as list": (text(lambda p: p.update(provenance=[1])), "provenance is [1]"),
    "an input of 10**18 pixels": (
        text(lambda p: p["input"].update(shape=[1, 10**9, 10**9])),
        "shape is [1, 1000000000",
    ),
    "an input without axes": (text(lambda p: p["input"].update(shape=[])), "shape is []"),
    "an input of no pixels": (text(lambda p: p["input"].update(shape=[2, 0, 6])), "shape is [2, 0, 6]"),
    "an input below 0": (text(lambda p: p["input"].update(shape=[2, -7, 6])), "shape is [2, -7, 6]"),
    "an input of halves": (text(lambda p: p["input"].update(shape=[2, 7.5, 6])), "shape is [2, 7.5, 6]"),
    "an input in text": (text(lambda p: p["input"].update(shape="276")), "shape is '276'"),
    "input values below 0": (text(lambda p: p["input"].update(max_value=-1)), "max_value is -1"),
    "infinite input values": (text(lambda p: p["input"].update(max_value=float("inf"))), "max_value is inf"),
    "neurons of 10**18": (neurons(shape=[4, 10**9, 10**9]), "shape is [4, 1000000000"),
    "neurons of another shape": (neurons(shape=[5, 7, 6]), "its target has shape (5, 7, 6)"),
    "neurons without a name": (neurons(name=None), "name is None"),
    "neurons by a number": (neurons(name=5), "name is 5"),
    "decay as text": (neurons(dv="x"), "dv is 'x'"),
    "decay past 12 bits": (neurons(dv=4096), "dv is 4096"),
    "decay below 0": (neurons(dv=-1), "dv is -1"),
    "decay in an array that is not there": (neurons(dv={"array": 999}), "dv refers to array 999"),
    "decay in an array counted backwards": (neurons(dv={"array": -1}), "dv refers to array -1"),
    "decay in no array": (neurons(dv={}), "dv refers to array None"),
    "threshold by a text": (neurons(v_threshold="0"), "v_threshold refers to array '0'"),
    "threshold by a flag": (neurons(v_threshold=True), "v_threshold refers to array True"),
    "bias exponent below 0": (neurons(bias_exponent=-1), "bias exponent is -1"),
    "bias exponent as float": (neurons(bias_exponent=1.0), "bias_exponent is 1.0"),
    "unit NaN": (neurons(unit="nan"), "unit is 'nan'"),
    "unit infinite": (neurons(unit="0x1p+99999"), "unit is '0x1p+99999'"),
    "unit 0": (neurons(unit="0x0p+0"), "unit is '0x0p+0'"),
    "unit in words": (neurons(unit="one"), "unit is 'one'"),
    "fires as text": (neurons(fires="yes"), "fires is 'yes'"),
    "current shift below 0": (neurons(current_shift=-1), "current_shift is -1"),
    "current shift of a thousand": (neurons(current_shift=1000), "current_shift is 1000"),
    "gate shift of a thousand": (neurons(gate_shift=1000), "gate_shift is 1000"),
    "soft reset as number": (neurons(soft_reset=1), "soft_reset is 1"),
    "current decay past 12 bits": (neurons(du=5000), "du is 5000"),
    "relay as list": (neurons(relay=[1, 2]), "relay: is [1, 2]"),
    "relay without a limit": (neurons(relay={"shift": 1, "low": 0}), "high is missing"),
    "relay that fires": (neurons(relay={"shift": 1, "low": 0, "high": 9}), "a relay neither fires nor remembers"),
    "synapse of another kind": (synapse(kind="magic"), "kind is 'magic'"),
    "synapse from nowhere": (synapse(source="x"), "source 'x' is not before its target"),
    "synapse to nowhere": (
        text(lambda p: p["synapses"].append({**p["synapses"][0], "name": "s", "target": "x"})),
        "target 'x' is not in",
    ),
    "a circle without delay": (
        text(lambda p: p["synapses"][0].update(source=p["neurons"][-1]["name"])),
        "not before its target",
    ),
    "exponent below 0": (synapse(exponent=-3), "exponent is -3"),
    "exponent of a thousand": (synapse(exponent=1000), "exponent is 1000"),
    "stride 0": (synapse(stride=[0, 1]), "stride is [0, 1]"),
    "stride of three": (synapse(stride=[1, 1, 1]), "stride is [1, 1, 1]"),
    "stride as text": (synapse(stride="11"), "stride is '11'"),
    "padding below 0": (synapse(padding=[-1, 0]), "padding is [-1, 0]"),
    "padding of a billion": (synapse(padding=[10**9, 10**9]), "its target has shape"),
    "dilation 0": (synapse(dilation=[0, 1]), "dilation is [0, 1]"),
    "no groups": (synapse(groups=0), "groups is 0"),
    "delay below 0": (synapse(delay=-1), "delay is -1"),
    "delay without end": (synapse(delay=10**12), "delay is 1000000000000"),
    "weights that are not there": (synapse(weight=10**6), "weight refers to array 1000000"),
    "work below 0": (synapse(torch_macs=-1), "torch_macs is -1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_file_is_refused(name: str, good: dict[bool, bytes], tmp_path: Path) -> None:
    change, said = REFUSED[name]
    path = tmp_path / "net.nir"
    path.write_bytes(good[False])
    with h5py.File(path, "r+") as file:
        change(file)
    refused(tmp_path, lambda: load_nir(path), "net.nir", said)
    if said.startswith(("array_0:", "is there", "groups inside", "arrays declare")):  # of any NIR file
        refused(tmp_path, lambda: open_graph(path), "net.nir", said)


def gate(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change the first gate of the net."""
    return text(lambda plain: change(next(n for n in plain["neurons"] if "gate" in n)["gate"]))


def step(op: str, **fields: Any) -> Change:
    """Change the first step of one operation, in whatever gate it is."""

    def change(plain: dict[str, Any]) -> None:
        steps = [s for n in plain["neurons"] if "gate" in n for s in n["gate"]["steps"] if s["op"] == op]
        steps[0].update(fields)

    return text(change)


GATES: dict[str, tuple[Change, str]] = {
    "an unknown operation": (gate(lambda g: g["steps"][0].update(op="eval")), "unknown operation 'eval'"),
    "a float operation": (gate(lambda g: g["steps"][0].update(op="function")), "unknown operation 'function'"),
    "no steps": (gate(lambda g: g.update(steps=[])), "steps is []"),
    "steps as text": (gate(lambda g: g.update(steps="x")), "steps is 'x'"),
    "a step as number": (gate(lambda g: g.update(steps=[1])), "gate step 0: is 1"),
    "a step that reads itself": (gate(lambda g: g["steps"][0].update(inputs=[1])), "do not come before it"),
    "a step that reads nothing": (gate(lambda g: g["steps"][0].update(inputs=[])), "do not come before it"),
    "a step that reads text": (gate(lambda g: g["steps"][0].update(inputs=["0"])), "inputs is ['0']"),
    "attributes as list": (gate(lambda g: g["steps"][0].update(attributes=[])), "attributes is []"),
    "another T": (gate(lambda g: g.update(time_steps=4)), "time_steps 4"),
    "T of a billion": (gate(lambda g: g.update(time_steps=10**9)), "time_steps 1000000000"),
    "another shape": (gate(lambda g: g.update(input_shape=[5, -1, 10**6])), "are not those of currents"),
    "no attributes": (gate(lambda g: [s.update(attributes={}) for s in g["steps"]]), "is missing"),
    "no constants": (gate(lambda g: [s.pop("constant", 0) for s in g["steps"]]), "is not in the file"),
    "a constant that is not there": (
        gate(lambda g: [s.update(constant=99) for s in g["steps"] if "constant" in s]),
        "constant 99 is not in the file",
    ),
    "axes of something else": (step("sum", attributes={"axes": [9], "keepdim": True}), "net.nir"),
    "a gate of another shape": (
        gate(lambda g: g["steps"].append({"op": "sum", "inputs": [0], "attributes": {"axes": [1], "keepdim": False}})),
        "gate",
    ),
    "gate constants as text": (
        text(lambda p: next(n for n in p["neurons"] if "gate" in n).update(gate_constants=["x"])),
        "gate_constants refers to array 'x'",
    ),
    "axes twice": (step("sum", attributes={"axes": [2, 2], "keepdim": True}), "do not fit"),
    "a step that reads too much": (
        gate(lambda g: g["steps"].append({"op": "add", "inputs": [0, 0, 0], "attributes": {}})),
        "do not come before it",
    ),
    "a multiplier of halves": (
        step("rescale", attributes={"multiplier": 0.5, "shift": 1, "limit": 9}),
        "multiplier is 0.5",
    ),
    "an infinite limit": (
        step("rescale", attributes={"multiplier": 1, "shift": 1, "limit": float("inf")}),
        "limit is inf",
    ),
    "a gate as number": (text(lambda p: next(n for n in p["neurons"] if "gate" in n).update(gate=3)), "gate: is 3"),
}


@pytest.mark.parametrize("name", GATES)
def test_a_hostile_gate_is_refused(name: str, good: dict[bool, bytes], tmp_path: Path) -> None:
    change, said = GATES[name]
    path = tmp_path / "net.nir"
    path.write_bytes(good[True])
    with h5py.File(path, "r+") as file:
        change(file)
    refused(tmp_path, lambda: load_nir(path), "net.nir", said)


@pytest.mark.parametrize("share", [0, 0.001, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 0.999])
def test_a_truncated_file_is_refused(share: float, good: dict[bool, bytes], tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    path.write_bytes(good[False][: int(len(good[False]) * share)])
    refused(tmp_path, lambda: load_nir(path), "net.nir", "not a readable NIR file")
    refused(tmp_path, lambda: describe(str(path)), "net.nir", "not a readable NIR file")


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + b"\xff" * 4096, b"x" * 4096])
def test_what_is_no_hdf5_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    path.write_bytes(content)
    refused(tmp_path, lambda: load_nir(path), "net.nir", "not a readable NIR file")


def test_a_file_of_another_program_is_no_integer_net(tmp_path: Path) -> None:
    ends = {"input": nir.Input({"input": np.array([2])}), "output": nir.Output({"output": np.array([2])})}
    nir.write(str(tmp_path / "net.nir"), nir.NIRGraph(ends, [("input", "output")]))
    refused(tmp_path, lambda: load_nir(tmp_path / "net.nir"), "net.nir", "holds no integer net")


def test_a_folder_a_device_and_nothing_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero"), tmp_path / "nothing.nir"):
        refused(tmp_path, lambda p=path: load_nir(p), str(path), "there is no such file")


def test_the_files_that_were_broken_were_good(good: dict[bool, bytes], tmp_path: Path) -> None:
    for gated, content in good.items():
        path = tmp_path / "net.nir"
        path.write_bytes(content)
        assert load_nir(path).to_plain()[0] == (GATED if gated else PLAIN).to_plain()[0]
