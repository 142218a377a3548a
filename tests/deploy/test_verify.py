"""What verify promises: each kind of error by itself, and a wrong net found out."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import nn

from equivalence_nets import CALIBRATION_SAMPLES, SHAPE, STEPS, UsersNeuron, events, lowered, net
from relayed_net import GATED, POOLED, relayed_net
from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.nir_file import save_nir
from spikefold.converters.reference import Trace
from spikefold.deploy import equality
from spikefold.deploy import verify as verify_module
from spikefold.deploy.lava.interpreter import explain_missing, lava_python
from spikefold.deploy.teacher_forcing import check_folding
from spikefold.deploy.verify import Verification, verify
from spikefold.deploy.verify_report import summary_lines
from spikefold.errors import BackendError, CaptureError, FileFormatError, InputError
from spikefold.models import LIF

LABELS = np.array([0, 1, 2, 3])
NO_LAVA: tuple[Any, ...] = ("fast", "torch", "onnx")


def verified(name: str, attention: Any = "static", **how: Any) -> Verification:
    made = net(name)
    return verify(made.module, made.clips, attention, made.calibration, **{"backends": NO_LAVA} | how)


@pytest.fixture
def perturbed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[nir.NIRGraph], None]], None]:
    """Make verify capture a graph with something changed, as a wrong folding would."""

    def install(change: Callable[[nir.NIRGraph], None]) -> None:
        def wrong(module: nn.Module, sample: torch.Tensor) -> nir.NIRGraph:
            graph = capture(module, sample)
            change(graph)
            return graph

        monkeypatch.setattr(verify_module, "capture", wrong)

    return install


def test_a_gated_net_passes_and_every_part_is_filled() -> None:
    result = verified("squeeze", labels=LABELS)
    assert result.passed
    assert (result.samples, result.time_steps, result.mode) == (4, STEPS, "static")
    assert [(layer.name, layer.fires, layer.gated) for layer in result.folding.layers] == [
        ("fire1", True, True), ("fire2", True, True), ("readout", False, False),
    ]  # fmt: skip
    assert result.folding.neuron_steps == 4 * STEPS * (6 * 10 * 10 + 8 * 5 * 5)
    change = result.attention
    assert change is not None
    assert change.mode == "static"
    for layer, spikes in zip(change.layers, ("fire1", "fire2"), strict=True):
        assert layer.name == spikes
        assert layer.gate_variation is not None
        assert 0 < layer.gate_variation < 1
        assert layer.spikes_dynamic > 0
        assert layer.spikes_lowered > 0
        assert layer.neuron_steps > layer.cumulative >= layer.isolated > 0
    assert change.accuracy_dynamic is not None
    assert 0 <= change.accuracy_dynamic <= 1
    first, second, readout = result.quantisation.layers
    assert [layer.name for layer in (first, second, readout)] == ["fire1", "fire2", "readout"]
    assert first.isolated == first.cumulative
    assert 0 < second.isolated <= second.cumulative < second.neuron_steps / 10
    assert first.isolated_snr_db == first.cumulative_snr_db > 20
    assert second.isolated_snr_db > second.cumulative_snr_db > 10
    assert (readout.fires, readout.neuron_steps, readout.cumulative) == (False, 0, 0)
    assert readout.isolated_snr_db > readout.cumulative_snr_db > 10
    assert [(layer.name, layer.wrapped, layer.clipped) for layer in result.states] == [
        ("fire1", 0, 0), ("fire2", 0, 0), ("readout", 0, 0),
    ]  # fmt: skip
    assert [layer.fires_at_equality for layer in result.states] == [False, True, False]
    assert [b.backend for b in result.backends] == ["fast", "torch", "onnx", "onnx step", "nir file"]
    for backend in result.backends:
        assert backend.equal
        assert (backend.samples, backend.time_steps, backend.logits) == (4, STEPS, 16)
        assert backend.values == 4 * STEPS * (600 + 200 + 4)
        assert [(layer.name, layer.values) for layer in backend.layers] == [
            ("fire1", 4 * STEPS * 600), ("fire2", 4 * STEPS * 200), ("readout", 4 * STEPS * 4),
        ]  # fmt: skip


def test_dynamic_attention_changes_nothing_in_the_float_net_and_has_no_step_form() -> None:
    result = verified("squeeze", "dynamic")
    assert result.passed
    assert result.attention is not None
    assert result.attention.predictions_changed == 0
    assert all(layer.spikes_dynamic == layer.spikes_lowered for layer in result.attention.layers)
    assert all((layer.isolated, layer.cumulative) == (0, 0) for layer in result.attention.layers)
    assert result.attention.accuracy_dynamic is None
    assert [b.backend for b in result.backends] == ["fast", "torch", "onnx", "nir file"]


@pytest.mark.parametrize(("mode", "streams"), [("scheduled", ["onnx step"]), ("causal", [])])
def test_the_modes_between_static_and_dynamic_are_verified_like_them(mode: str, streams: list[str]) -> None:
    result = verified("squeeze", mode)
    assert (result.passed, result.mode) == (True, mode)
    assert [b.backend for b in result.backends] == ["fast", "torch", "onnx", *streams, "nir file"]


def test_a_net_without_gates_whose_output_fires() -> None:
    result = verified("residual")
    assert result.passed
    assert (result.mode, result.attention) == ("none", None)
    assert [layer.name for layer in result.folding.layers] == ["fire1", "fire2", "fire3", "fire4"]


@pytest.mark.parametrize("mode", ["dynamic", "static", "scheduled", "causal"])
def test_a_net_with_relays_and_other_resets_passes_in_every_mode(mode: Any) -> None:
    made = relayed_net()
    result = verify(made.module, made.clips, mode, made.calibration, backends=NO_LAVA)
    assert result.passed
    assert [layer.name for layer in result.folding.layers] == ["fire1", "fire2", "readout"]
    relays = [POOLED] if mode in ("static", "scheduled") else [GATED, POOLED]
    assert [layer.name for layer in result.quantisation.layers if layer.relays] == relays
    assert result.attention is not None
    for layer in (*result.quantisation.layers, *result.attention.layers):
        if layer.name in relays:
            assert layer.isolated_snr_db is not None
            assert layer.isolated_snr_db > 10
            assert (layer.neuron_steps, layer.isolated, layer.cumulative) == (0, 0, 0)
    text = "\n".join(summary_lines(result))
    assert f"  {POOLED}: messages " in text
    assert f"  {POOLED}: relay" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g.nodes[GATED].metadata["gate_0"].__imul__(np.float32(1.001)),
        lambda g: next(g.nodes[a] for a, b in g.edges if b == GATED).weight.__imul__(np.float32(1.0001)),
        lambda g: g.nodes["fire2"].metadata.__setitem__("soft_reset", False),
    ],
    ids=["gate", "weight", "reset"],
)
def test_a_wrong_relay_is_found_in_the_layer_behind_it(
    perturbed: Callable[[Callable[[nir.NIRGraph], None]], None], change: Callable[[nir.NIRGraph], None]
) -> None:
    perturbed(change)
    made = relayed_net()
    result = verify(made.module, made.clips, "dynamic", made.calibration, backends=("torch",))
    assert [layer.name for layer in result.folding.layers if not layer.within_bound] == ["fire2"]


def test_calibration_may_be_clips_and_the_graph_a_file(tmp_path: Path) -> None:
    made = net("squeeze")
    path = save_nir(lowered("squeeze", "dynamic"), tmp_path / "net.nir")
    for graph in (None, path, str(path), lowered("squeeze", "dynamic")):
        result = verify(made.module, made.clips, "dynamic", made.calibration.clips, graph=graph, backends=("torch",))
        assert result.passed
        assert result == verified("squeeze", "dynamic", backends=("torch",))


@pytest.mark.lava
def test_lava_runs_the_first_samples() -> None:
    if lava_python() is None:
        pytest.skip(explain_missing())
    result = verified("squeeze", backends=("lava",), lava_samples=2)
    assert result.passed
    assert [(b.backend, b.samples) for b in result.backends] == [("nir file", 4), ("lava", 2)]
    with pytest.raises(BackendError, match=r"time limit of 0\.1 s"):
        verified("squeeze", backends=("lava",), time_limit_s=0.1)


def test_no_lava_samples_leave_lava_out() -> None:
    assert [b.backend for b in verified("squeeze", backends=("lava",), lava_samples=0).backends] == ["nir file"]


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        (lambda g: g.nodes["conv1_module_0"].weight.__imul__(np.float32(1.00001)), "fire1"),
        (lambda g: g.nodes["conv2_module_0"].bias.__iadd__(np.float32(1e-4)), "fire2"),
        (lambda g: g.nodes["fire2"].metadata.__setitem__("decay", 0.6999), "fire2"),
        (lambda g: g.nodes["fire1"].metadata["gate_0"].__imul__(np.float32(1.01)), "fire1"),
        (lambda g: g.nodes["readout_module"].weight.__imul__(np.float32(1.001)), "readout"),
    ],
    ids=["weight", "bias", "decay", "gate", "readout"],
)
def test_a_wrong_folding_fails(
    perturbed: Callable[[Callable[[nir.NIRGraph], None]], None], change: Callable[[nir.NIRGraph], None], layer: str
) -> None:
    perturbed(change)
    result = verified("squeeze")
    assert not result.passed
    assert [x.name for x in result.folding.layers if not x.within_bound] == [layer]
    assert all(b.equal for b in result.backends)
    text = "\n".join(summary_lines(result))
    assert "NOT EXPLAINED BY ROUNDING" in text
    assert text.endswith("verified: NO")


@pytest.mark.parametrize(("factor", "strict"), [(1.2, None), (1.0, False)])
def test_a_wrong_neuron_flips_spikes_outside_the_bound(
    perturbed: Callable[[Callable[[nir.NIRGraph], None]], None], factor: float, strict: bool | None
) -> None:
    """A threshold of 1.2 times; and a comparator that fires at equality, where nothing is equal: no difference."""

    def change(graph: nir.NIRGraph) -> None:
        graph.nodes["fire1"].v_threshold = graph.nodes["fire1"].v_threshold * np.float32(factor)
        if strict is not None:
            graph.nodes["fire1"].metadata["strict"] = strict

    perturbed(change)
    layer = verified("squeeze").folding.layers[0]
    assert layer.outside == 0
    assert (layer.flips > 0) == (layer.flips_outside > 0) == (not layer.within_bound) == (factor != 1)
    assert layer.flip_distance >= layer.flip_bound


def test_a_backend_that_differs_fails_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    original = equality.run_engine

    def wrong(graph: FixedPointGraph, clips: Any) -> Trace:
        trace = original(graph, clips)
        trace.membranes["fire1"][0, 0, 0, 0, :3] += 1
        return dataclasses.replace(trace, logits=trace.logits + 1)

    monkeypatch.setattr(equality, "run_engine", wrong)
    result = verified("squeeze", backends=("torch", "onnx"))
    found = {b.backend: (b.spike_differences, b.membrane_differences, b.logit_differences) for b in result.backends}
    assert found == {"torch": (0, 3, 16), "onnx": (0, 0, 0), "onnx step": (0, 0, 0), "nir file": (0, 3, 16)}
    assert [layer.membrane_differences for layer in result.backends[0].layers] == [3, 0, 0]
    assert "spikes and membranes of fire1 0 and 3" in "\n".join(summary_lines(result))
    assert result.folding.within_bound
    assert not result.passed


class Knife(nn.Module):
    """One weight that lands exactly on the threshold once that is rounded to float32."""

    def __init__(self, v_threshold: float) -> None:
        super().__init__()
        self.linear, self.fire = nn.Linear(3, 2, bias=False), LIF(0.5, v_threshold, strict=False)
        nn.init.constant_(self.linear.weight, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fire(self.linear(x))
        return out


def test_flips_on_the_edge_are_counted_and_within_the_bound() -> None:
    clips = np.zeros((1, 5, 3))
    clips[:, :4, 0] = 1
    for above, flips in ((2.0**-27, 8), (0.0, 0)):
        module = Knife(0.5 * (1 + above)).eval()
        folding = check_folding(module, read_float_graph(capture(module, torch.zeros(1, 1, 3))), clips)
        (layer,) = folding.layers
        assert (layer.flips, layer.flips_outside, layer.flip_distance) == (flips, 0, 0.0)
        assert folding.within_bound
        assert (layer.flip_bound > 0) == (flips > 0)
        assert folding.flips == flips


def test_a_neuron_that_is_not_what_it_says_is_found_out() -> None:
    class Liar(UsersNeuron):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(0.9 * x)

    made = net("residual")
    module = copy.deepcopy(made.module)
    module.fire2 = Liar(2.0, 0.8).eval()
    folding = check_folding(module, made.float_net, made.clips)
    assert [layer.name for layer in folding.layers if not layer.within_bound] == ["fire2"]
    assert folding.layers[1].flips_outside > 0


def test_training_mode_is_refused() -> None:
    module = copy.deepcopy(net("squeeze").module).train()
    with pytest.raises(CaptureError, match="training mode"):
        verify(module, events(2, 0), "static", events(CALIBRATION_SAMPLES, 1))


@pytest.mark.parametrize(
    ("clips", "how", "message"),
    [
        (np.zeros((5, 10, 10)), {}, r"features \(10,\), the calibration clips \(2, 10, 10\)"),
        (np.zeros((5, 0, *SHAPE)), {}, r"shape \(5, 0, 2, 10, 10\)"),
        (np.zeros((5, 3)), {}, r"shape \(5, 3\)"),
        (np.zeros((5, 2, 2, 10, 9)), {}, r"\(2, 10, 9\)"),
        (np.zeros((4, 2, *SHAPE)), {}, "T = 5; the gates or biases of this net were trained for 4"),
        (np.full((5, 2, *SHAPE), 0.5), {}, "not integers"),
        (np.full((5, 2, *SHAPE), 3), {}, r"3\.\.3.*0\.\.1"),
        (events(2, 0), {"labels": np.zeros(3, dtype=int)}, r"labels have shape \(3,\); 2 clips"),
        (events(2, 0), {"backends": ("loihi",)}, "'loihi' is unknown; choose among fast, torch, onnx, lava"),
        (events(2, 0), {"lava_samples": -1}, "lava_samples is -1"),
    ],
)
def test_what_does_not_fit_is_named(clips: np.ndarray, how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        verify(net("squeeze").module, clips, "static", events(CALIBRATION_SAMPLES, 1), **{"backends": NO_LAVA} | how)


def test_a_graph_of_another_net_or_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="attention is 'dynamic', not 'static'"):
        verified("squeeze", "static", graph=lowered("squeeze", "dynamic"))
    with pytest.raises(InputError, match="made of another module"):
        verified("squeeze", "static", graph=lowered("residual", "static"))
    with pytest.raises(FileFormatError, match=r"none\.nir"):
        verified("squeeze", graph=tmp_path / "none.nir")


def test_a_module_that_cannot_be_compared_is_named() -> None:
    made = net("squeeze")
    with pytest.raises(InputError, match="neurons fire3, fire4 are in the module or"):
        check_folding(net("residual").module, made.float_net, made.clips)

    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = made.module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(x.to(torch.float32))
            return out

    with pytest.raises(InputError, match="cannot run on clips"):
        check_folding(Single().eval(), made.float_net, made.clips)
