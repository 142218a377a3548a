"""The integers are the same everywhere: every spike, every membrane value and every logit, on every net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from equivalence_nets import CASES, SAMPLES, USERS, assert_equal, expected, lowered, net
from generated_graphs import random_clips, random_graph
from spikefold.converters.engine import run_engine
from spikefold.converters.fast import run_fast
from spikefold.converters.lower import Attention
from spikefold.converters.nir_file import load_nir, save_nir
from spikefold.converters.onnx import save_onnx, to_onnx_clip, to_onnx_step
from spikefold.converters.reference import run_reference
from spikefold.deploy.equality import read_back, run_steps
from spikefold.deploy.lava.runner import run_lava
from spikefold.deploy.onnx_runner import ClipRunner, StepRunner


def cases(slow: set[tuple[str, str]]) -> pytest.MarkDecorator:
    """Every net in every mode, some of them marked as slow."""
    marked = [pytest.param(*case, marks=[pytest.mark.slow] if case in slow else []) for case in CASES]
    return pytest.mark.parametrize(("name", "attention"), marked)


every_net = cases({("fsta", "causal")})
STREAMING = [(name, attention) for name, attention in CASES if attention in ("static", "scheduled")]
HEAVY = {("asa", "causal"), ("fsta", "scheduled"), ("fsta", "causal"), ("staa", "dynamic"), ("staa", "causal")}
"""What takes Lava's CPU model longest."""
STANDARD_NODES = (nir.Input, nir.Output, nir.Conv2d, nir.Affine, nir.Flatten, nir.LIF, nir.IF, nir.I)

GENERATED: dict[str, dict[str, Any]] = {
    "plain": {},
    "graded": {"graded_input": True},
    "firing output": {"spiking_output": True, "residual": True},
    "thresholds": {"per_neuron_thresholds": True},
    "depthwise": {"depthwise": True, "residual": True},
    "stress": {"stress": True},
    "gated": {"gated": True},
    "gated residual": {"gated": True, "residual": True, "graded_input": True},
    "gated thresholds": {"gated": True, "per_neuron_thresholds": True},
    "gated depthwise": {"gated": True, "depthwise": True, "spiking_output": True},
    "bias schedule": {"bias_schedule": True},
    "gated bias schedule": {"bias_schedule": True, "gated": True},
}
every_generated = pytest.mark.parametrize(("seed", "kind"), list(enumerate(GENERATED, start=100)))


@every_net
def test_the_reference_shows_something_to_compare(name: str, attention: Attention) -> None:
    """Layers that sleep, or fire always, would be equal for no reason."""
    trace = expected(name, attention)
    rates = {n.name: float(trace.spikes[n.name].mean()) for n in lowered(name, attention).neurons if n.fires}
    low, high = (0.05, 0.7 if name == "votes" else 0.4) if name in USERS else (0.01, 0.9)  # max pooling adds spikes
    assert all(low <= rate <= high for rate in rates.values()), rates
    assert len(np.unique(trace.logits)) > 1


@every_net
def test_fast(name: str, attention: Attention) -> None:
    assert_equal(run_fast(lowered(name, attention), net(name).clips), expected(name, attention))


@every_net
def test_torch(name: str, attention: Attention) -> None:
    assert_equal(run_engine(lowered(name, attention), net(name).clips), expected(name, attention))


@every_net
def test_onnx_whole_clips(name: str, attention: Attention, tmp_path: Path) -> None:
    save_onnx(to_onnx_clip(lowered(name, attention), trace=True), tmp_path / "net.onnx")
    run = ClipRunner(tmp_path / "net.onnx", trace=True).run(net(name).clips, batch_size=3)
    assert_equal(run.trace, expected(name, attention))
    np.testing.assert_array_equal(run.logits, expected(name, attention).logits)


@pytest.mark.parametrize(("name", "attention"), STREAMING)
def test_onnx_step_by_step(name: str, attention: Attention, tmp_path: Path) -> None:
    graph = lowered(name, attention)
    save_onnx(to_onnx_step(graph), tmp_path / "step.onnx")
    assert_equal(run_steps(StepRunner(tmp_path / "step.onnx"), graph, net(name).clips), expected(name, attention))


@every_net
def test_read_back_from_a_nir_file(name: str, attention: Attention, tmp_path: Path) -> None:
    graph = lowered(name, attention)
    again = load_nir(save_nir(graph, tmp_path / "net.nir"))
    (text, arrays), (same_text, same_arrays) = graph.to_plain(), again.to_plain()
    assert same_text == text
    for array, same in zip(arrays, same_arrays, strict=True):
        np.testing.assert_array_equal(same, array)
        assert (same.dtype, same.shape) == (array.dtype, array.shape)
    assert_equal(run_engine(again, net(name).clips), expected(name, attention))


@every_net
def test_the_nir_file_is_standard_for_other_readers(name: str, attention: Attention, tmp_path: Path) -> None:
    graph = lowered(name, attention)
    read = nir.read(str(save_nir(graph, tmp_path / "net.nir")))
    assert {type(node).__name__ for node in read.nodes.values() if not isinstance(node, STANDARD_NODES)} == set()
    firing = {n.name: n.shape for n in graph.neurons if n.fires}
    assert {k: v.v_threshold.shape for k, v in read.nodes.items() if isinstance(v, (nir.LIF, nir.IF))} == firing


@pytest.mark.lava
@cases(HEAVY)
def test_lava(name: str, attention: Attention) -> None:
    """All samples in one run, one after another: states are reset between them, or the later ones would differ."""
    samples = 2 if (name, attention) in HEAVY else SAMPLES
    graph, clips = lowered(name, attention), net(name).clips[:, :samples]
    assert_equal(run_lava(graph, clips, 300.0), run_reference(graph, clips))


@every_generated
def test_generated_nets(seed: int, kind: str) -> None:
    graph = random_graph(seed, **GENERATED[kind])
    clips = random_clips(graph, seed)
    wanted = run_reference(graph, clips)
    assert_equal(run_engine(graph, clips), wanted)
    assert_equal(run_fast(graph, clips), wanted)
    assert_equal(ClipRunner(graph, trace=True).run(clips, batch_size=2).trace, wanted)
    assert_equal(run_reference(read_back(graph), clips), wanted)
    if graph.attention == "none":
        assert_equal(run_steps(StepRunner(to_onnx_step(graph)), graph, clips), wanted)


@pytest.mark.lava
@every_generated
def test_generated_nets_in_lava(seed: int, kind: str) -> None:
    graph = random_graph(seed, **GENERATED[kind])
    clips = random_clips(graph, seed)
    assert_equal(run_lava(graph, clips, 300.0), run_reference(graph, clips))
