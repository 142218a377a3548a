"""The float step graph: float32 spikes of the float net, one step at a time, on ONNX Runtime."""

from __future__ import annotations

import json
from typing import Any

import nir
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from networks import GATES, NETS, SHAPE, clips, prepared
from spikefold.converters.capture import capture
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
