"""NIR graphs of other programs that cannot be: circles, shapes that fit nowhere, numbers that are none."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

from hostile import refused
from spikefold.converters.dialects import DIALECTS, import_nir
from spikefold.deploy.sources import find_net

Change = Callable[[h5py.File], None]
F = np.float32


def graph() -> nir.NIRGraph:
    """A convolution, a pooling and a dense layer, each before neurons."""
    ones = np.ones((4, 6, 6), F)
    nodes = {
        "input": nir.Input({"input": np.array([2, 6, 6])}),
        "conv": nir.Conv2d((6, 6), np.ones((4, 2, 3, 3), F), 1, 1, 1, 1, np.zeros(4, F)),
        "lif": nir.LIF(ones * F(1e-3), ones * 10, ones * 0, ones, v_reset=ones * 0),
        "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "delay": nir.Delay(np.full((4, 3, 3), 1e-4, F)),
        "flatten": nir.Flatten({"input": np.array([4, 3, 3])}, 0, -1),
        "fc": nir.Affine(np.ones((5, 36), F), np.zeros(5, F)),
        "out": nir.LIF(*(np.full(5, v, F) for v in (1e-3, 10, 0, 1)), v_reset=np.zeros(5, F)),
        "output": nir.Output({"output": np.array([5])}),
    }
    names = list(nodes)
    return nir.NIRGraph(nodes, list(pairwise(names)), type_check=False)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("nets") / "net.nir"
    nir.write(path, graph())
    return path.read_bytes()


def field(node: str, name: str, value: Any) -> Change:
    def change(file: h5py.File) -> None:
        where = f"node/nodes/{node}/{name}"
        if where in file:
            del file[where]
        file[where] = value

    return change


def without(where: str) -> Change:
    def change(file: h5py.File) -> None:
        del file[f"node/{where}"]

    return change


def edges(change: Callable[[list[tuple[str, str]]], object]) -> Change:
    def apply(file: h5py.File) -> None:
        held = [tuple(part.decode() for part in edge) for edge in file["node/edges"][()]]
        change(held)
        del file["node/edges"]
        file["node/edges"] = np.array(held, dtype="S40")

    return apply


def both(*changes: Change) -> Change:
    def apply(file: h5py.File) -> None:
        for change in changes:
            change(file)

    return apply


def whole(value: float) -> np.ndarray:
    return np.full((4, 6, 6), value, F)


REFUSED: dict[str, tuple[Change, str]] = {
    "a node where the graph should be": (
        lambda f: (
            f.pop("node"),
            f.create_group("node").create_dataset("type", data="Flatten"),
            f["node"].create_dataset("start_dim", data=0),
            f["node"].create_dataset("end_dim", data=-1),
            f["node"].create_dataset("input_type", data=np.array([3])),
        ),
        "net.nir",
    ),
    "groups that do not divide the outputs": (
        both(
            field("conv", "groups", 2),
            field("conv", "weight", np.ones((5, 1, 3, 3), F)),
            field("conv", "bias", np.zeros(5, F)),
        ),
        "groups 2 do not divide weight",
    ),
    "a padding by a word with a stride": (
        both(field("conv", "padding", "same"), field("conv", "stride", np.array([2, 2]))),
        "padding 'same' needs odd",
    ),
    "a pool of a row": (
        both(
            edges(
                lambda e: (
                    e.clear(),
                    e.extend(
                        [
                            ("input", "conv"),
                            ("conv", "lif"),
                            ("lif", "flatten"),
                            ("flatten", "pool"),
                            ("pool", "fc"),
                            ("fc", "out"),
                            ("out", "output"),
                        ]
                    ),
                )
            ),
            without("nodes/delay"),
        ),
        "node 'pool' (SumPool2d): gets a signal of",
    ),
    "an edge to nowhere": (edges(lambda e: e.append(("fc", "x"))), "there is no node 'x'"),
    "an edge from nowhere": (edges(lambda e: e.append(("x", "fc"))), "there is no node 'x'"),
    "an edge twice": (edges(lambda e: e.append(e[0])), "edge input -> conv is there twice"),
    "a circle without neurons": (edges(lambda e: e.append(("fc", "flatten"))), "form a cycle without neurons"),
    "a layer that feeds itself": (edges(lambda e: e.append(("pool", "pool"))), "form a cycle without neurons"),
    "a delay that feeds itself": (edges(lambda e: e.append(("delay", "delay"))), "form a cycle without neurons"),
    "an output that feeds the input": (
        edges(lambda e: e.append(("output", "input"))),
        "node 'input' (Input): an edge leads to it",
    ),
    "no edges": (lambda f: (f.pop("node/edges"), f["node"].create_dataset("edges", (0, 2), "S1")), "no edge leads"),
    "a node that nothing reads": (edges(lambda e: e.remove(("fc", "out"))), "no edge leads from it"),
    "two inputs": (lambda f: f.copy("node/nodes/input", "node/nodes/input2"), "has 2 Input nodes"),
    "no input": (both(without("nodes/input"), edges(lambda e: e.pop(0))), "0 Input nodes"),
    "no output": (both(without("nodes/output"), edges(lambda e: e.pop())), "0 Output nodes"),
    "no nodes": (lambda f: (f.pop("node/nodes"), f["node"].create_group("nodes")), "net.nir"),
    "no neurons": (
        both(
            without("nodes/out"),
            without("nodes/lif"),
            edges(
                lambda e: (
                    e.clear(),
                    e.extend(
                        [
                            ("input", "conv"),
                            ("conv", "pool"),
                            ("pool", "delay"),
                            ("delay", "flatten"),
                            ("flatten", "fc"),
                            ("fc", "output"),
                        ]
                    ),
                )
            ),
        ),
        "no neuron lies between",
    ),
    "a missing node": (without("nodes/fc"), "there is no node 'fc'"),
    "a missing field": (without("nodes/lif/tau"), "not a readable NIR file"),
    "a node without type": (without("nodes/lif/type"), "not a readable NIR file"),
    "a surplus field": (field("lif", "code", "x"), "not a readable NIR file"),
    "input of a trillion pixels": (
        field("input", "shape", np.array([2, 10**6, 10**6])),
        "node 'input' (Input): shape is [2, 1000000, 1000000]",
    ),
    "input of no pixels": (field("input", "shape", np.array([2, 0, 6])), "shape is [2, 0, 6]"),
    "input below 0": (field("input", "shape", np.array([2, -6, 6])), "shape is [2, -6, 6]"),
    "input of halves": (field("input", "shape", np.array([2, 6.5, 6])), "shape is [2.0, 6.5, 6.0]"),
    "input without axes": (field("input", "shape", np.zeros(0, int)), "shape is []"),
    "input in text": (field("input", "shape", "2x6x6"), "shape is ['2x6x6']"),
    "input of five axes": (field("input", "shape", np.array([1, 1, 2, 6, 6])), "conv"),
    "input of NaN": (field("input", "shape", np.array([2, np.nan, 6])), "shape is [2.0, nan, 6.0]"),
    "weights NaN": (
        field("conv", "weight", np.full((4, 2, 3, 3), np.nan, F)),
        "node 'conv' (Conv2d): weight holds nan",
    ),
    "weights infinite": (field("fc", "weight", np.full((5, 36), np.inf, F)), "node 'fc' (Affine): weight holds inf"),
    "weights as text": (field("fc", "weight", "x"), "node 'fc' (Affine)"),
    "weights as bytes": (field("fc", "weight", np.full((5, 36), b"x")), "node 'fc' (Affine): weight holds |S1"),
    "weights of one axis": (field("fc", "weight", np.ones(36, F)), "node 'fc' (Affine)"),
    "weights of no axis": (field("fc", "weight", F(1)), "node 'fc' (Affine)"),
    "weights of no rows": (field("fc", "weight", np.ones((0, 36), F)), "node 'fc' (Affine)"),
    "weights of another width": (field("fc", "weight", np.ones((5, 35), F)), "node 'fc' (Affine)"),
    "a bias of another size": (field("fc", "bias", np.ones(4, F)), "node 'fc' (Affine)"),
    "a kernel of three axes": (field("conv", "weight", np.ones((4, 2, 3), F)), "node 'conv' (Conv2d)"),
    "a kernel of five axes": (field("conv", "weight", np.ones((4, 2, 3, 3, 3), F)), "node 'conv' (Conv2d)"),
    "a kernel larger than the signal": (field("conv", "weight", np.ones((4, 2, 30, 30), F)), "node 'conv' (Conv2d)"),
    "a kernel of other channels": (field("conv", "weight", np.ones((4, 3, 3, 3), F)), "node 'conv' (Conv2d)"),
    "a kernel without taps": (field("conv", "weight", np.ones((4, 2, 0, 3), F)), "node 'conv' (Conv2d)"),
    "stride 0": (field("conv", "stride", np.array([0, 0])), "conv"),
    "stride below 0": (field("conv", "stride", np.array([-1, 1])), "node 'conv' (Conv2d): stride is [-1, 1]"),
    "stride of halves": (field("conv", "stride", np.array([0.5, 1])), "node 'conv' (Conv2d): stride is [0.5, 1.0]"),
    "stride of three": (field("conv", "stride", np.array([1, 1, 1])), "node 'conv' (Conv2d): stride is [1, 1, 1]"),
    "stride as text": (field("conv", "stride", "one"), "conv"),
    "padding below 0": (field("conv", "padding", np.array([-1, 1])), "node 'conv' (Conv2d): padding is [-1, 1]"),
    "padding of a billion": (
        field("conv", "padding", np.array([10**9, 10**9])),
        "what arrives has (4, 2000000004, 2000000004)",
    ),
    "padding in words": (field("conv", "padding", "some"), "padding"),
    "dilation 0": (field("conv", "dilation", np.array([0, 0])), "dilation (0, 0)"),
    "dilation of a billion": (field("conv", "dilation", np.array([10**9, 1])), "node 'conv' (Conv2d)"),
    "no groups": (field("conv", "groups", 0), "node 'conv' (Conv2d)"),
    "groups below 0": (field("conv", "groups", -1), "node 'conv' (Conv2d)"),
    "groups that do not divide": (field("conv", "groups", 3), "node 'conv' (Conv2d)"),
    "groups of halves": (field("conv", "groups", 0.5), "node 'conv' (Conv2d)"),
    "pooling of 0": (field("pool", "kernel_size", np.array([0, 0])), "node 'pool' (SumPool2d): kernel (0, 0)"),
    "pooling below 0": (
        field("pool", "kernel_size", np.array([-2, 2])),
        "node 'pool' (SumPool2d): kernel_size is [-2, 2]",
    ),
    "pooling of a billion": (field("pool", "kernel_size", np.array([10**9, 1])), "node 'pool' (SumPool2d)"),
    "pooling stride 0": (field("pool", "stride", np.array([0, 2])), "node 'pool' (SumPool2d)"),
    "flatten of axes that are not there": (field("flatten", "end_dim", 9), "node 'flatten' (Flatten)"),
    "flatten of the batch": (field("flatten", "start_dim", -9), "node 'flatten' (Flatten)"),
    "flatten of text": (field("flatten", "start_dim", "x"), "flatten"),
    "threshold 0": (field("lif", "v_threshold", whole(0)), "node 'lif' (LIF): v_threshold 0"),
    "threshold below 0": (field("lif", "v_threshold", whole(-1)), "node 'lif' (LIF): v_threshold -1"),
    "threshold NaN": (field("lif", "v_threshold", whole(np.nan)), "node 'lif' (LIF): v_threshold holds nan"),
    "threshold in text": (field("lif", "v_threshold", "one"), "node 'lif' (LIF)"),
    "thresholds of another shape": (
        field("lif", "v_threshold", np.ones((4, 5, 6), F) * np.arange(1, 7, dtype=F)),
        "node 'lif' (LIF)",
    ),
    "reset above the threshold": (field("lif", "v_reset", whole(2)), "node 'lif' (LIF): v_threshold 1, v_reset 2"),
    "time constant 0": (field("lif", "tau", whole(0)), "node 'lif' (LIF): tau is 0"),
    "time constant below 0": (field("lif", "tau", whole(-1)), "node 'lif' (LIF): tau is -1"),
    "time constant below the step": (field("lif", "tau", whole(1e-9)), "node 'lif' (LIF): tau is 1e-09"),
    "resistance 0": (field("lif", "r", whole(0)), "node 'lif' (LIF): its input is scaled by 0"),
    "resistance below 0": (field("lif", "r", whole(-1)), "node 'lif' (LIF): its input is scaled by -"),
    "delay below 0": (field("delay", "delay", np.full((4, 3, 3), -1e-4, F)), "node 'delay' (Delay): delay -0.0001"),
    "delay of half a step": (field("delay", "delay", np.full((4, 3, 3), 5e-5, F)), "node 'delay' (Delay): delay 5e-05"),
    "delay without end": (field("delay", "delay", np.full((4, 3, 3), 1e30, F)), "node 'delay' (Delay)"),
    "delay NaN": (field("delay", "delay", np.full((4, 3, 3), np.nan, F)), "node 'delay' (Delay): delay holds nan"),
    "delays of another shape": (field("delay", "delay", np.arange(1, 5, dtype=F) * 1e-4), "node 'delay' (Delay)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_graph_is_refused_by_node_and_field(name: str, good: bytes, tmp_path: Path) -> None:
    change, said = REFUSED[name]
    path = tmp_path / "net.nir"
    path.write_bytes(good)
    with h5py.File(path, "r+") as file:
        change(file)
    refused(tmp_path, lambda: import_nir(path, "nir"), "net.nir", said)
    refused(tmp_path, lambda: find_net(f"{path}@nir"), "net.nir", said)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_numbers_that_are_none_are_refused_in_every_dialect(dialect: str, good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    for name, value in (("tau", np.nan), ("r", np.inf), ("v_leak", -np.inf), ("v_threshold", np.nan)):
        path.write_bytes(good)
        with h5py.File(path, "r+") as file:
            field("lif", name, whole(value))(file)
        refused(tmp_path, lambda: import_nir(path, dialect), "net.nir", f"node 'lif' (LIF): {name} holds")


@pytest.mark.parametrize("said", ["@", "@x", "@nir,dt=0", "@nir,dt=-1", "@nir,dt=nan", "@nir,dt=inf", "@nir,dt=x",
                                  "@nir,dt=" + "9" * 9000, "@snntorch,dt=1", "@nir,step=1", ""])  # fmt: skip
def test_a_dialect_or_step_that_is_none_is_refused(said: str, good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    path.write_bytes(good)
    refused(tmp_path, lambda: find_net(f"{path}{said}"))


def test_a_chain_of_thousands_of_nodes_is_refused_or_read(tmp_path: Path) -> None:
    """Not followed until Python's stack ends."""
    scales = {f"s{i}": nir.Scale(np.ones(2, F)) for i in range(1500)}
    lif = nir.LIF(*(np.full(2, v, F) for v in (1e-3, 10, 0, 1)), v_reset=np.zeros(2, F))
    ends = {"input": nir.Input({"input": np.array([2])}), "lif": lif, "output": nir.Output({"output": np.array([2])})}
    order = ["input", *scales, "lif", "output"]
    made = nir.NIRGraph({**ends, **scales}, list(pairwise(order)), type_check=False)
    refused(tmp_path, lambda: import_nir(made, "nir"), "more nodes in a row")


def test_graphs_inside_graphs_without_end_are_refused(tmp_path: Path) -> None:
    ends = {"input": nir.Input({"input": np.array([2])}), "output": nir.Output({"output": np.array([2])})}
    made = nir.NIRGraph(dict(ends), [("input", "output")], type_check=False)
    for _ in range(1500):
        made = nir.NIRGraph({**ends, "g": made}, [("input", "g"), ("g", "output")], type_check=False)
    refused(tmp_path, lambda: import_nir(made, "nir"), "the graph: more nodes", "inside each other")


def test_the_graph_that_was_broken_was_good(good: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.nir").write_bytes(good)
    assert "lif" in import_nir(tmp_path / "net.nir", "nir").nodes
