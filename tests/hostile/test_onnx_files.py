"""ONNX files that somebody broke or built: tensors in other files, other models, metadata of anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from generated_graphs import random_graph
from hostile import refused
from spikefold.converters.onnx import to_onnx_clip, to_onnx_step
from spikefold.deploy.info import describe
from spikefold.deploy.onnx_runner import ClipRunner, StepRunner

NET = random_graph(3)
CLIP, STEP = to_onnx_clip(NET).SerializeToString(), to_onnx_step(NET).SerializeToString()
Change = Callable[[ModelProto], object]


def said(key: str, value: str | None) -> Change:
    """Change an entry of the metadata."""

    def change(model: ModelProto) -> None:
        kept = {p.key: p.value for p in model.metadata_props} | {key: value}
        del model.metadata_props[:]
        helper.set_model_props(model, {k: v for k, v in kept.items() if v is not None})

    return change


def port(**fields: Any) -> Change:
    return said("spikefold_input", json.dumps({"name": "input", "shape": [2, 7, 6], "max_value": 1} | fields))


def outside(location: str) -> Change:
    """Keep the first constant in another file."""

    def change(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", "64")):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return change


def constant(**fields: Any) -> Change:
    def change(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        for name, value in fields.items():
            if name == "dims":
                del tensor.dims[:]
                tensor.dims.extend(value)
            else:
                setattr(tensor, name, value)

    return change


def opset(version: int) -> Change:
    def change(model: ModelProto) -> None:
        model.opset_import[0].version = version

    return change


def feeds_itself(model: ModelProto) -> None:
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


def calls_itself(model: ModelProto) -> None:
    function = model.functions[0]
    call = helper.make_node(function.name, list(function.input), list(function.output), domain=function.domain)
    del function.node[:]
    function.node.append(call)


EITHER: dict[str, tuple[Change, str]] = {
    "a tensor in /etc/passwd": (outside("/etc/passwd"), "location /etc/passwd"),
    "a tensor above the folder": (outside("../../secret"), "location ../../secret"),
    "a tensor in a device": (outside("/dev/zero"), "location /dev/zero"),
    "a tensor beside the file": (outside("weights.bin"), "location weights.bin"),
    "a tensor nowhere": (outside(""), "lies in another file"),
    "no metadata": (lambda m: m.ClearField("metadata_props"), "no spikefold_format in its metadata"),
    "no format": (said("spikefold_format", None), "no spikefold_format in its metadata"),
    "a newer format": (said("spikefold_format", "2"), "spikefold_format is 2"),
    "a format in words": (said("spikefold_format", "one"), "spikefold_format is one"),
    "no form": (said("spikefold_form", None), "the None form"),
    "an unknown form": (said("spikefold_form", "x"), "the 'x' form"),
    "an unknown opset": (opset(9999), "ONNX Runtime cannot load it"),
    "an opset below 0": (opset(-1), "ONNX Runtime cannot load it"),
    "a newer ONNX": (lambda m: setattr(m, "ir_version", 9999), "ONNX Runtime cannot load it"),
    "no nodes": (lambda m: m.graph.ClearField("node"), "ONNX Runtime cannot load it"),
    "no constants": (lambda m: m.graph.ClearField("initializer"), "ONNX Runtime cannot load it"),
    "no functions": (lambda m: m.ClearField("functions"), "ONNX Runtime cannot load it"),
    "no graph": (lambda m: m.ClearField("graph"), "ONNX Runtime cannot load it"),
    "an unknown operation": (lambda m: setattr(m.graph.node[0], "op_type", "System"), "ONNX Runtime cannot load it"),
    "an operation of others": (lambda m: setattr(m.graph.node[0], "domain", "evil"), "ONNX Runtime cannot load it"),
    "a circle": (feeds_itself, "ONNX Runtime cannot load it"),
    "a constant of a trillion values": (constant(dims=[10**12]), "ONNX Runtime cannot load it"),
    "a constant of sizes that overflow": (constant(dims=[2**62, 8]), "ONNX Runtime cannot load it"),
    "a constant of sizes below 0": (constant(dims=[-1, 4]), "ONNX Runtime cannot load it"),
    "a constant of an unknown type": (constant(data_type=77), "ONNX Runtime cannot load it"),
    "a constant without data": (constant(raw_data=b""), "ONNX Runtime cannot load it"),
    "no input metadata": (said("spikefold_input", None), "metadata on its input is damaged"),
    "input metadata that is no JSON": (said("spikefold_input", "{"), "metadata on its input is damaged"),
    "input metadata as list": (said("spikefold_input", "[1]"), "spikefold_input: is [1]"),
    "input metadata nested without end": (said("spikefold_input", "[" * 200_000), "metadata on its input is damaged"),
    "input of 10**18 pixels": (port(shape=[1, 10**9, 10**9]), "shape is [1, 1000000000"),
    "input of halves": (port(shape=[0.5]), "shape is [0.5]"),
    "input in text": (port(shape="276"), "shape is '276'"),
    "infinite input values": (port(max_value=float("inf")), "max_value is inf"),
    "input values below 0": (port(max_value=-1), "max_value is -1"),
    "input named by a number": (port(name=3), "name is 3"),
}
CLIPS: dict[str, tuple[Change, str]] = {
    "no steps": (said("spikefold_time_steps", None), "metadata on its input is damaged"),
    "steps in words": (said("spikefold_time_steps", "ten"), "spikefold_time_steps is 'ten'"),
    "steps below 0": (said("spikefold_time_steps", "-1"), "spikefold_time_steps is '-1'"),
    "steps of 10,000 digits": (said("spikefold_time_steps", "9" * 10_000), "spikefold_time_steps is '999"),
}
STEPS: dict[str, tuple[Change, str]] = {
    "no states": (said("spikefold_states", None), "metadata on states is damaged"),
    "states that are no JSON": (said("spikefold_states", "{"), "metadata on states is damaged"),
    "states as list": (said("spikefold_states", "[1]"), "spikefold_states: is [1]"),
    "states as numbers": (said("spikefold_states", '{"v/a": 3}'), "v/a is 3"),
    "states that are not there": (said("spikefold_states", '{"v/a": "x"}'), "names outputs that are not there"),
    "states nested without end": (said("spikefold_states", "[" * 200_000), "metadata on states is damaged"),
    "no reset": (said("spikefold_reset", None), "metadata on states is damaged"),
    "reset in words": (said("spikefold_reset", "x"), "metadata on states is damaged"),
    "reset of 10,000 digits": (said("spikefold_reset", "9" * 10_000), "metadata on states is damaged"),
}


def written(folder: Path, content: bytes, change: Change) -> Path:
    model = ModelProto.FromString(content)
    change(model)
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("name", EITHER)
def test_a_hostile_model_is_refused(name: str, tmp_path: Path) -> None:
    change, words = EITHER[name]
    for content, runner in ((CLIP, ClipRunner), (STEP, StepRunner)):
        path = written(tmp_path, content, change)
        refused(tmp_path, lambda p=path, r=runner: r(p), "net.onnx", words)
        path.unlink()


@pytest.mark.parametrize("name", CLIPS)
def test_hostile_metadata_of_clips_are_refused(name: str, tmp_path: Path) -> None:
    change, words = CLIPS[name]
    path = written(tmp_path, CLIP, change)
    refused(tmp_path, lambda: ClipRunner(path), "net.onnx", words)


@pytest.mark.parametrize("name", STEPS)
def test_hostile_metadata_of_steps_are_refused(name: str, tmp_path: Path) -> None:
    change, words = STEPS[name]
    path = written(tmp_path, STEP, change)
    refused(tmp_path, lambda: StepRunner(path), "net.onnx", words)


@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_model_is_refused(share: float, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(CLIP[: int(len(CLIP) * share)])
    refused(tmp_path, lambda: ClipRunner(path), "net.onnx")
    refused(tmp_path, lambda: StepRunner(path), "net.onnx")


def test_the_other_form_another_model_and_no_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(STEP)
    refused(tmp_path, lambda: ClipRunner(path), "net.onnx", "holds the 'step' form")
    path.write_bytes(CLIP)
    refused(tmp_path, lambda: StepRunner(path), "net.onnx", "holds the 'clip' form")
    add = helper.make_node("Add", ["x", "x"], ["y"])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
    onnx.save(helper.make_model(helper.make_graph([add], "other", ends[:1], ends[1:])), path)
    refused(tmp_path, lambda: ClipRunner(path), "net.onnx", "not written by spikefold")
    for content in (b"\x00" * 5000, b"\xff" * 5000, b"\x89HDF\r\n\x1a\n", np.random.default_rng(1).bytes(5000)):
        path.write_bytes(content)
        refused(tmp_path, lambda: ClipRunner(path), "net.onnx")
        refused(tmp_path, lambda: describe(str(path)), "net.onnx")
    refused(tmp_path, lambda: ClipRunner(tmp_path), str(tmp_path), "cannot be read")
    refused(tmp_path, lambda: ClipRunner(tmp_path / "none.onnx"), "none.onnx", "cannot be read")


def test_describing_a_model_opens_no_other_file(tmp_path: Path) -> None:
    """Where ``onnx.load`` would read what the model points at."""
    path = written(tmp_path, CLIP, outside("secret"))
    (tmp_path / "secret").symlink_to("/dev/zero")
    assert describe(str(path))["spikefold_form"] == "clip"


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, CLIP, calls_itself)
    refused(tmp_path, lambda: ClipRunner(path), "net.onnx")


def test_the_models_that_were_broken_were_good(tmp_path: Path) -> None:
    ClipRunner(written(tmp_path, CLIP, lambda m: None))
    StepRunner(written(tmp_path, STEP, lambda m: None))
