"""docs/file_formats.md names what is in the files that are really written, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import h5py
import nir
import numpy as np
import onnx
import pytest

from generated_graphs import random_graph
from spikefold.converters.dialects import import_nir
from spikefold.converters.fixed_point_graph import FORMAT, FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.lava_dl import save_lava_dl
from spikefold.converters.nir_file import save_nir
from spikefold.converters.onnx import save_onnx, to_onnx_clip, to_onnx_float_step, to_onnx_step

PAGE = (Path(__file__).parents[1] / "docs" / "file_formats.md").read_text(encoding="utf-8")
NIR, ONNX, NET = (re.split(r"^## ", PAGE, flags=re.MULTILINE)[n] for n in (1, 2, 3))
BUSY = random_graph(1, memory=True, delays=3, loops=True, relays=True, bias_schedule=True)


def named(text: str) -> set[str]:
    """What stands between backquotes."""
    return set(re.findall(r"`([^`]+)`", text))


def rows(text: str, head: str) -> list[list[str]]:
    """Cells of the table that begins with ``head``, without its head."""
    (table,) = (t for t in text.split("\n\n") if t.startswith(f"| {head} |"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def general(names: Iterable[str]) -> set[str]:
    """Names of inputs and outputs without those of a net's own parts."""
    ours = (
        "spikes",
        "synops",
        "v",
        "v_next",
        "u",
        "u_next",
        "held",
        "held_next",
        "train",
        "membrane",
        "last/next",
        "last",
    )
    of = {"synops": "SYNAPSE", "held": "SOURCE", "held_next": "SOURCE", "last": "SOURCE", "last/next": "SOURCE"}
    found = set()
    for name in names:
        kind = next((k for k in ours if name.startswith(f"{k}/")), None)
        found.add(name if kind is None else f"{kind}/{of.get(kind, 'POPULATION')}")
    return found


def border(path: Path) -> tuple[set[str], set[str], dict[str, str]]:
    """General names of inputs and outputs, and the metadata."""
    model = onnx.load(str(path))
    held = {p.key: p.value for p in model.metadata_props}
    return general(i.name for i in model.graph.input), general(o.name for o in model.graph.output), held


def on_page(head: str) -> tuple[set[str], set[str]]:
    """Inputs and outputs that a table lists."""
    cells = [part for first, *_ in rows(ONNX, head) for part in re.findall(r"(in|out): ((?:`[^`]+`(?:, )?)+)", first)]
    return tuple(set().union(*(named(names) for side, names in cells if side == s)) for s in ("in", "out"))  # type: ignore[return-value]


def test_the_metadata_of_a_nir_file_are_those_on_the_page(tmp_path: Path) -> None:
    with h5py.File(save_nir(BUSY, tmp_path / "n.nir")) as file:
        held = file["node/metadata"]
        keys = {k for k in held if k != "spikefold"} | {f"spikefold/{k}" for k in held["spikefold"]}
        assert held["spikefold_format"][()] == FORMAT == 1
        assert {held[f"spikefold/array_{i}"].dtype for i in range(2)} == {np.dtype("int64")}
        own = {key for node in file["node/nodes"].values() for key in node.get("metadata", ())}
    said = set().union(*(named(first) for first, _ in rows(NIR, "metadata of the graph")))
    assert {re.sub(r"array_\d+", "array_0", key) for key in keys} == said - {"spikefold/array_1"}
    assert own <= named(NIR)


@pytest.mark.parametrize("graph", [BUSY, random_graph(1, depthwise=True)], ids=["busy", "depthwise"])
def test_nir_itself_opens_such_a_file_and_finds_the_nodes_that_the_page_says(
    graph: FixedPointGraph, tmp_path: Path
) -> None:
    nodes = nir.read(str(save_nir(graph, tmp_path / "n.nir"))).nodes.values()
    assert {type(n).__name__ for n in nodes} <= {"Input", "Output"} | named(NIR)
    for node in nodes:
        if isinstance(node, nir.Conv2d):
            assert node.groups == 1
            assert node.weight.shape[2] == node.weight.shape[3]


def test_the_whole_clip_has_the_inputs_and_outputs_on_the_page(tmp_path: Path) -> None:
    save_onnx(to_onnx_clip(BUSY), tmp_path / "n.onnx")
    inputs, outputs, metadata = border(tmp_path / "n.onnx")
    assert (inputs, outputs) == on_page("whole clip")
    assert metadata["spikefold_form"] == "clip"
    assert set(metadata) == {k for k in named(ONNX) if k.startswith("spikefold_")} - {
        "spikefold_states", "spikefold_reset"
    }  # fmt: skip


def test_the_step_has_the_inputs_and_outputs_on_the_page(tmp_path: Path) -> None:
    save_onnx(to_onnx_step(BUSY), tmp_path / "n.onnx")
    inputs, outputs, metadata = border(tmp_path / "n.onnx")
    assert (inputs, outputs) == on_page("step")
    assert metadata["spikefold_form"] == "step"
    assert set(metadata) == {k for k in named(ONNX) if k.startswith("spikefold_")} - {"spikefold_trace"}


def test_the_float_step_has_the_inputs_and_outputs_on_the_page(tmp_path: Path) -> None:
    one = np.ones(4)
    cuba = nir.CubaLIF(tau_syn=2e-4 * one, tau_mem=3e-4 * one, r=3 * one, w_in=2 * one, v_leak=0 * one, v_threshold=one)
    ends = {"input": nir.Input({"input": np.array([3])}), "output": nir.Output({"output": np.array([4])})}
    nodes = {"w": nir.Linear(np.ones((4, 3))), "cuba": cuba, "back": nir.Linear(np.eye(4))}
    edges = [("input", "w"), ("w", "cuba"), ("cuba", "back"), ("back", "cuba"), ("cuba", "output")]
    save_onnx(to_onnx_float_step(import_nir(nir.NIRGraph({**ends, **nodes}, edges))), tmp_path / "n.onnx")
    inputs, outputs, metadata = border(tmp_path / "n.onnx")
    assert {"u/POPULATION", "last/SOURCE"} < inputs
    assert inputs | outputs <= named(ONNX)
    assert metadata["spikefold_form"] == "float step"
    assert set(metadata) <= named(ONNX)


def test_a_written_net_file_has_the_fields_on_the_page(tmp_path: Path) -> None:
    drawn = random_graph(0, spiking_output=True)
    flat = tuple(Neurons(n.name, n.shape, 300, np.array(30), np.zeros((), np.int64), 0, 0.1) for n in drawn.neurons)
    save_lava_dl(FixedPointGraph(drawn.input, flat, drawn.synapses, "none", None), tmp_path / "conv.net")
    bias, weight = np.array([1, 2, 3]), 2 * np.ones((3, 3), dtype=np.int64)
    neurons = tuple(Neurons(name, (3,), 300, np.array(30), bias, 6, 0.1) for name in ("one", "two"))
    synapses = (
        Synapse("in", "input", "one", "dense", weight), Synapse("back", "one", "one", "dense", weight, delay=1),
        Synapse("on", "one", "two", "dense", weight, delay=np.array([0, 1, 2])),
    )  # fmt: skip
    save_lava_dl(FixedPointGraph(InputPort((3,)), neurons, synapses, "none", None), tmp_path / "loop.net")
    found: set[str] = set()
    for name in ("conv.net", "loop.net"):
        with h5py.File(tmp_path / name) as file:
            for layer in file["layer"].values():
                layer.visititems(lambda path, held: found.add(path) if isinstance(held, h5py.Dataset) else None)
    said = named(NET.split("Commands")[0]) - {".net", "lava.lib.dl.netx", "layer/0", "layer/1"}
    assert found == said
