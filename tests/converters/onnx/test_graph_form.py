"""What the written ONNX models look like: names, functions, metadata, bytes, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest

from generated_graphs import random_clips, random_graph
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.gate_program import Step
from spikefold.converters.onnx import has_step_form, save_onnx, to_onnx_clip, to_onnx_step
from spikefold.converters.reference import run_reference
from spikefold.deploy.onnx_runner import run_onnx
from spikefold.errors import InputError, LoweringError


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def test_functions_are_visible_by_name() -> None:
    graph = random_graph(0, gated=True)
    model = to_onnx_clip(graph)
    onnx.checker.check_model(model, full_check=True)
    names = {(f.domain, f.name) for f in model.functions}
    assert {("spikefold", "LIF"), ("spikefold", "Gate_conv1"), ("spikefold", "Gate_fc1")} <= names
    assert len([n for n in model.graph.node if n.domain == "spikefold" and n.op_type.startswith("Gate_")]) == 3
    scans = [n for n in model.graph.node if n.op_type == "Scan"]
    bodies = [[inner.op_type for inner in a.g.node] for n in scans for a in n.attribute if a.name == "body"]
    assert bodies == [["LIF"], ["LIF"], ["LIF"], ["Integrator"]]


def test_other_resets_and_relays_are_functions_of_their_own_where_they_occur() -> None:
    everywhere = ["LIF", "Integrator", "Wrap24", "GatedCurrent"]
    resets = random_graph(0, resets=("value", "soft", "zero"))
    relays = random_graph(0, relays=True)
    for graph, more in (
        (random_graph(0), []), (resets, ["LIFWithReset", "LIFWithSoftReset"]), (relays, ["Relay"])
    ):  # fmt: skip
        for model in (to_onnx_clip(graph), to_onnx_step(graph)):
            assert [f.name for f in model.functions] == everywhere + more
    called = [n.op_type for n in to_onnx_step(resets).graph.node if n.domain == "spikefold" and n.op_type != "Wrap24"]
    assert called == ["LIFWithReset", "LIFWithSoftReset", "LIF", "Integrator"]
    assert [n.op_type for n in to_onnx_clip(relays).graph.node].count("Relay") == 2


def test_memory_delays_and_loops_are_states_of_the_step_graph() -> None:
    graph = random_graph(3, memory=True, loops=True)
    model = to_onnx_step(graph)
    inputs = {i.name: dims(i) for i in model.graph.input}
    names = [n.name for n in graph.neurons]
    assert {k for k in inputs if k.startswith("u/")} == {f"u/{name}" for name in names}
    longest = {s.source: s.longest_delay for s in graph.synapses if s.longest_delay}
    assert longest.keys() == {"conv2", "fc1", "back"}
    held = {f"held/{k}": [steps, "B", *graph.source_shape(k)] for k, steps in longest.items()}
    assert {k: v for k, v in inputs.items() if k.startswith("held/")} == held
    states = json.loads({p.key: p.value for p in model.metadata_props}["spikefold_states"])
    assert states["u/fc1"] == "u_next/fc1"
    assert states["held/back"] == "held_next/back"
    assert "SynapticCurrent" in {n.op_type for n in model.graph.node}
    decays = to_onnx_step(random_graph(3, decays=True))
    assert [n.op_type for n in decays.graph.node].count("Decay") == 3


def test_a_loop_is_one_scan_and_everything_around_it_stays_whole() -> None:
    model = to_onnx_clip(random_graph(3, loops=True))
    bodies = [[n.op_type for n in a.g.node] for s in model.graph.node for a in s.attribute if a.name == "body"]
    assert [body.count("LIF") for body in bodies] == [1, 1, 2, 0]
    assert [n.op_type for n in model.graph.node].count("Conv") == 2  # into the loop from outside, for all steps at once


def test_messages_of_relays_are_int32_and_spikes_uint8() -> None:
    graph = random_graph(0, relays=True)
    for model in (to_onnx_clip(graph, trace=True), to_onnx_step(graph)):
        types = {o.name: o.type.tensor_type.elem_type for o in model.graph.output}
        for n in graph.neurons:
            wanted = onnx.TensorProto.UINT8 if n.relay is None else onnx.TensorProto.INT32
            assert types[f"train/{n.name}"] == wanted


def test_a_relay_has_no_state_in_the_step_graph() -> None:
    graph = random_graph(0, relays=True)
    model = to_onnx_step(graph)
    states = json.loads({p.key: p.value for p in model.metadata_props}["spikefold_states"])
    assert set(states) == {f"v/{n.name}" for n in graph.neurons if n.relay is None}
    assert {i.name for i in model.graph.input} == {"events", *states}
    assert {"membrane/relay1", "membrane/rectifier"} <= {o.name for o in model.graph.output}


def test_a_relay_behind_a_table_has_a_step_form_and_behind_a_computed_gate_none() -> None:
    assert has_step_form(random_graph(0, relays=True, gated=True, gates=("table", "none")))
    computed = random_graph(0, relays=True, gated=True, gates=("none", "running"))
    assert not has_step_form(computed)
    with pytest.raises(LoweringError, match=r"relay1.*computed from more than one step"):
        to_onnx_step(computed)


def test_inlined_functions_leave_standard_operators_only() -> None:
    graph = random_graph(3, gated=True, relays=True, resets=("value", "soft"))
    model = onnx.inliner.inline_local_functions(to_onnx_clip(graph))
    assert {n.domain for n in model.graph.node} == {""}


def test_time_is_free_without_gates_and_fixed_with_them() -> None:
    plain, gated = random_graph(0), random_graph(0, gated=True)
    assert dims(to_onnx_clip(plain).graph.input[0]) == ["T", "B", 2, 7, 6]
    assert dims(to_onnx_clip(gated).graph.input[0]) == [5, "B", 2, 7, 6]
    with pytest.raises(InputError, match="T = 4"):
        run_onnx(gated, random_clips(plain, 0, time_steps=4))


def test_output_names() -> None:
    graph = random_graph(0)
    names = [o.name for o in to_onnx_clip(graph, trace=True).graph.output]
    assert names[0] == "logits"
    for n in graph.neurons:
        assert {f"spikes/{n.name}", f"train/{n.name}", f"membrane/{n.name}"} <= set(names)
    assert {f"synops/{s.name}" for s in graph.synapses} <= set(names)
    assert not any(o.name.startswith("train/") for o in to_onnx_clip(graph).graph.output)


def test_metadata() -> None:
    model = to_onnx_clip(random_graph(0, gated=True))
    props = {p.key: p.value for p in model.metadata_props}
    assert props["spikefold_format"] == "1"
    assert props["spikefold_form"] == "clip"
    assert props["spikefold_name"] == "random0"
    assert props["spikefold_attention"] == "dynamic"
    assert props["spikefold_time_steps"] == "5"
    step = {p.key: p.value for p in to_onnx_step(random_graph(0)).metadata_props}
    assert step["spikefold_time_steps"] == "free"
    assert json.loads(step["spikefold_states"])["v/conv1"] == "v_next/conv1"
    assert step["spikefold_reset"] == "0"


@pytest.mark.parametrize("gated", [False, True])
def test_two_exports_have_the_same_bytes(gated: bool, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        save_onnx(to_onnx_clip(random_graph(4, gated=gated), trace=True), tmp_path / name)
    content = (tmp_path / "a.onnx").read_bytes()
    assert content == (tmp_path / "b.onnx").read_bytes()
    assert str(tmp_path).encode() not in content
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.onnx", "b.onnx"]


def test_there_is_no_step_form_of_a_dynamic_gate() -> None:
    with pytest.raises(LoweringError, match=r"conv1.*computed from more than one step"):
        to_onnx_step(random_graph(0, gated=True))


def test_large_inputs_are_int32() -> None:
    graph = dataclasses.replace(random_graph(0), input=InputPort((2, 7, 6), 256))
    assert to_onnx_clip(graph).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT32
    graph = dataclasses.replace(random_graph(0), input=InputPort((2, 7, 6), 2**31))
    with pytest.raises(LoweringError, match="max_value 2147483648"):
        to_onnx_clip(graph)


def test_names_that_torch_modules_have() -> None:
    graph = random_graph(1, gated=True)
    long = {n.name: f"features.0/block {n.name}" for n in graph.neurons} | {"input": "input"}
    renamed = dataclasses.replace(
        graph,
        neurons=tuple(dataclasses.replace(n, name=long[n.name]) for n in graph.neurons),
        synapses=tuple(dataclasses.replace(s, source=long[s.source], target=long[s.target]) for s in graph.synapses),
    )
    clips = random_clips(graph, 3)
    np.testing.assert_array_equal(run_onnx(renamed, clips).logits, run_reference(graph, clips).logits)


def test_names_used_twice_or_empty_are_refused() -> None:
    graph = random_graph(0)
    same = tuple(dataclasses.replace(s, name="w") for s in graph.synapses)
    with pytest.raises(LoweringError, match=r"'w'.*used twice"):
        to_onnx_clip(dataclasses.replace(graph, synapses=same))
    with pytest.raises(LoweringError, match="empty name"):
        to_onnx_clip(dataclasses.replace(graph, name=""))


def wide_graph(weight: np.ndarray, exponent: int, kind: str = "dense", max_value: int = 1) -> FixedPointGraph:
    zero = np.array(0)
    neurons = (Neurons("a", (1,) if kind == "dense" else (1, 1, 1), 0, zero, zero, 0, 1.0, fires=False),)
    source = (weight.shape[1],) if kind == "dense" else (weight.shape[1], *weight.shape[2:])
    synapse = Synapse("w", "input", "a", kind, weight, exponent)  # type: ignore[arg-type]
    return FixedPointGraph(InputPort(source, max_value), neurons, (synapse,), "none", None)


def test_sums_that_leave_64_bits_are_refused() -> None:
    with pytest.raises(LoweringError, match=r"'a'.*outside 64 bits"):
        to_onnx_clip(wide_graph(np.full((1, 4), 254), 16, max_value=2**40))


def test_a_convolution_without_an_exact_form_is_refused() -> None:
    weight = np.full((1, 264, 16, 16), -256)
    with pytest.raises(LoweringError, match=r"synapse 'w'.*no exact ONNX kernel"):
        to_onnx_clip(wide_graph(weight, 0, "conv"))


def test_a_gate_shift_beyond_exact_products_is_refused() -> None:
    graph = random_graph(0, gated=True)
    n = graph.neurons[0]
    assert n.gate is not None
    large = Step("multiply_const", (len(n.gate.steps),), {}, np.array(2**30))
    gate = dataclasses.replace(n.gate, steps=(*n.gate.steps, large))
    neurons = (dataclasses.replace(n, gate=gate, gate_shift=37), *graph.neurons[1:])
    with pytest.raises(LoweringError, match=r"'conv1': gate_shift 37.*53 bits"):
        to_onnx_clip(dataclasses.replace(graph, neurons=neurons))


@pytest.mark.parametrize(("events", "states"), [(3, 1), (1, 3), (3, 2)])
def test_the_step_graph_itself_refuses_states_of_another_batch(events: int, states: int) -> None:
    graph = random_graph(3)
    session = onnxruntime.InferenceSession(to_onnx_step(graph).SerializeToString())
    feed = {"events": random_clips(graph, 3, time_steps=1, batch=events)[0].astype(np.uint8)}
    for held in session.get_inputs()[1:]:
        feed[held.name] = np.zeros((states, *held.shape[1:]), np.int32)
    with pytest.raises(Exception, match="reshape"):
        session.run(None, feed)
