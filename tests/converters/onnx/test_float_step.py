"""The float step graph: float32 spikes of the float net, one step at a time, on ONNX Runtime."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import nir
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import relay_networks
from networks import GATES, NETS, SHAPE, clips, prepared
from spikefold.converters.capture import capture
from spikefold.converters.dialects import import_nir
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.lower import lower_float
from spikefold.converters.onnx import has_float_step_form, to_onnx_float_step
from spikefold.errors import LoweringError
from spikefold.models import LIF


def stream(model: onnx.ModelProto, events: NDArray[np.float32]) -> list[dict[str, NDArray[Any]]]:
    """Outputs of every step of clips ``[T, B, ...]``, states handed on as the metadata says."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    states = json.loads(next(p.value for p in model.metadata_props if p.key == "spikefold_states"))
    feed = {
        i.name: np.zeros([n if isinstance(n, int) else events.shape[1] for n in i.shape],
                         np.float32 if i.type == "tensor(float)" else np.int64)
        for i in session.get_inputs()
    }  # fmt: skip
    found = []
    for step in events:
        feed["events"] = step
        found.append(dict(zip(names, session.run(names, feed), strict=True)))
        feed |= {state: found[-1][following] for state, following in states.items()}
    return found


def differing(graph: nir.NIRGraph, events: torch.Tensor) -> tuple[int, int]:
    """Spikes and messages that differ from the float net's, and how many there are; the answers must agree, too."""
    net = read_float_graph(graph)
    logits, trains = net.run(events.float())
    steps = stream(to_onnx_float_step(graph), events.float().numpy())
    last = net.populations[-1]
    total = np.stack([s["readout"] for s in steps]).sum(0) if last.fires else steps[-1]["readout"]
    np.testing.assert_allclose(total / len(steps), logits.numpy(), atol=1e-4)
    found = {n: np.stack([s[f"train/{n}"] for s in steps]) for n in trains if f"train/{n}" in steps[0]}
    assert found
    return sum(int((v != trains[n].numpy()).sum()) for n, v in found.items()), sum(v.size for v in found.values())


@pytest.mark.parametrize("name", sorted(NETS))
def test_every_spike_is_that_of_the_float_net(name: str) -> None:
    make, shape = NETS[name]
    # sums of multiples of 1/8 are exact in float32 whatever their order, up to the decay
    net = prepared(make(), dyadic=True)
    events = clips((shape[0], 3, *shape[2:]))
    differ, total = differing(capture(net, events), events)
    assert total > 0
    assert differ == 0


@pytest.mark.parametrize("mode", ["static", "scheduled"])
def test_a_gate_that_became_constant_or_a_table_streams(mode: Any) -> None:
    net = prepared(GATES["squeeze over the clip"]())
    events = clips((SHAPE[0], 4, *SHAPE[2:]))
    graph = capture(net, events)
    lowered, _ = lower_float(graph, events.long().numpy(), mode)
    assert has_float_step_form(lowered)
    assert not has_float_step_form(graph)
    assert differing(lowered, events)[0] == 0
    with pytest.raises(LoweringError, match="computed from more than one step"):
        to_onnx_float_step(graph)


@pytest.mark.parametrize("neuron", [{"strict": False}, {"v_reset": -0.5}, {"soft_reset": True}, {"decay": 1.0}])
def test_comparators_and_resets_are_those_of_the_neuron(neuron: dict[str, Any]) -> None:
    layer = nn.Linear(6, 5, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-3, 5, (5, 6), generator=torch.Generator().manual_seed(0)) / 4)
    net = nn.Sequential(layer, LIF(**{"decay": 0.5, "v_threshold": 0.5} | neuron)).eval()
    events = clips((6, 4, 6))
    graph = capture(net, events)
    assert differing(graph, events) == (0, 6 * 4 * 5)
    plain = read_float_graph(capture(nn.Sequential(layer, LIF(decay=0.5, v_threshold=0.5)).eval(), events))
    usual, here = (n.run(events)[1] for n in (plain, read_float_graph(graph)))
    assert any(bool((usual[name] != train).any()) for name, train in here.items())


def test_neurons_are_named_nodes() -> None:
    make, shape = NETS["dense"]
    model = to_onnx_float_step(capture(prepared(make()), torch.zeros(shape)), "dense net")
    assert model.graph.name == "dense net"
    assert any(n.domain == "spikefold" and n.op_type.startswith("FloatLIF") for n in model.graph.node)
    assert [p.value for p in model.metadata_props if p.key == "spikefold_form"] == ["float step"]


def recurrent(delay: list[int]) -> nir.NIRGraph:
    """Neurons with a memory of their current, their input ``delay`` steps late, and weights that lead back."""
    rng = np.random.default_rng(1)
    eighths = [(rng.integers(-3, 6, shape) / 8).astype(np.float32) for shape in ((6, 5), (6, 6))]
    one = np.ones(6)
    nodes = {
        "input": nir.Input({"input": np.array([5])}), "late": nir.Delay(np.array(delay) * 1e-4),
        "in": nir.Linear(eighths[0]), "back": nir.Linear(eighths[1]), "output": nir.Output({"output": np.array([6])}),
        "cuba": nir.CubaLIF(tau_syn=one * 2e-4, tau_mem=one * 2e-4, r=one * 2, v_leak=0 * one, v_threshold=one,
                            w_in=one * 2),
    }  # fmt: skip
    chains = (["input", "late", "in", "cuba", "output"], ["cuba", "back", "cuba"])
    return import_nir(nir.NIRGraph(nodes, [e for c in chains for e in pairwise(c)], type_check=False))


def test_memories_of_currents_and_what_comes_a_step_late_are_states() -> None:
    events = clips((8, 4, 5))
    graph = recurrent([1] * 5)
    assert has_float_step_form(graph)
    _, trains = read_float_graph(graph).run(events.float())
    assert 0.05 < float(trains["cuba"].mean()) < 0.9
    assert differing(graph, events) == (0, 8 * 4 * 6)


@pytest.mark.parametrize(
    ("delay", "message"), [([2] * 5, "a delay of 2 steps has no"), ([0, 1, 1, 0, 1], "delays differ from neuron")]
)
def test_other_delays_are_refused(delay: list[int], message: str) -> None:
    graph = recurrent(delay)
    assert not has_float_step_form(graph)
    with pytest.raises(LoweringError, match=message):
        to_onnx_float_step(graph)


def test_a_gate_of_each_step_streams_as_a_table() -> None:
    net = prepared(GATES["squeeze per step"]())
    events = clips((SHAPE[0], 4, *SHAPE[2:]))
    lowered, _ = lower_float(capture(net, events), events.long().numpy(), "scheduled")
    assert any(p.gate is not None for p in read_float_graph(lowered).populations)
    assert differing(lowered, events)[0] == 0


@pytest.mark.parametrize("name", ["a rectified current", "a layer after a shift per step"])
def test_relays_and_biases_of_each_step_stream(name: str) -> None:
    net, events = relay_networks.make(name)
    for parameter in net.parameters():  # sums of eighths are exact in float32
        parameter.data = (8 * parameter.data).round() / 8
    graph = capture(net, events)
    populations = read_float_graph(graph).populations
    assert any(p.relays for p in populations)
    assert any(p.bias_schedule is not None for p in populations) == ("per step" in name)
    assert differing(graph, events)[0] == 0
