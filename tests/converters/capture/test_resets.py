"""Neurons that reset to another value than 0, or by subtraction: the same net from the module to the integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compared_networks import assert_same_but_for_rounding
from equivalence_nets import assert_equal
from gate_networks import ClipSqueeze, T
from networks import SHAPE, clips, prepared
from spikefold.converters import arithmetic, quantise
from spikefold.converters.calibrate import Calibration, GateStatistics
from spikefold.converters.capture import capture
from spikefold.converters.causal_gates import make_causal
from spikefold.converters.engine import run_engine
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.float_graph import FloatPopulation, read_float_graph
from spikefold.converters.lower import ATTENTIONS, Attention, lower
from spikefold.converters.onnx import to_onnx_step
from spikefold.converters.palette import palettise
from spikefold.converters.ranges import magnitude, membrane_range
from spikefold.converters.reference import run_reference, sum_currents, synapse_current
from spikefold.converters.static_gates import fold_static_gates
from spikefold.deploy.equality import read_back, run_steps
from spikefold.deploy.onnx_runner import ClipRunner, StepRunner
from spikefold.deploy.states import membranes_before_reset
from spikefold.deploy.teacher_forcing import check_folding
from spikefold.errors import LoweringError
from spikefold.models import LIF

RESETS: dict[str, Callable[[], LIF]] = {
    "below zero": lambda: LIF(0.6, 0.7, v_reset=-0.3),
    "to the threshold": lambda: LIF(0.3, 0.4, v_reset=0.4, strict=False),
    "above zero, no decay": lambda: LIF(1.0, 0.7, v_reset=0.2),
    "soft": lambda: LIF(0.6, 0.7, soft_reset=True),
    "soft, no decay": lambda: LIF(1.0, 1.3, soft_reset=True),
    "soft, by more than the threshold": lambda: LIF(0.6, 0.7, v_reset=-0.4, soft_reset=True),
}
every_reset = pytest.mark.parametrize("kind", RESETS)


class Net(nn.Module):
    """Two convolutions, the second gated if asked, neurons of one kind and a readout."""

    def __init__(self, make: Callable[[], LIF], gated: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2)
        self.gate = ClipSqueeze() if gated else nn.Identity()
        self.neurons = nn.ModuleList([make(), make()])
        self.head = nn.Linear(4 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[:2]
        x = self.neurons[0](self.first(x.flatten(0, 1)).unflatten(0, size))
        x = self.neurons[1](self.gate(self.second(x.flatten(0, 1)).unflatten(0, size)))
        logits: Tensor = self.head(x.flatten(2)).mean(0)
        return logits


def made(kind: str, gated: bool = False) -> tuple[nn.Module, nir.NIRGraph]:
    net = prepared(Net(RESETS[kind], gated))
    return net, capture(net, torch.zeros(SHAPE))


def without_reset(population: FloatPopulation) -> FloatPopulation:
    return replace(population, v_reset=None, soft_reset=False)


@every_reset
@pytest.mark.parametrize("gated", [False, True])
def test_the_captured_net_fires_as_the_module_does(kind: str, gated: bool) -> None:
    net, graph = made(kind, gated)
    x = clips((T, 6, *SHAPE[2:]))
    assert_same_but_for_rounding(graph, net, x)
    last = read_float_graph(graph).populations[1]
    current = torch.rand(12, 2, *last.shape, dtype=torch.float64)
    assert not torch.equal(last.fire(current)[0], without_reset(last).fire(current)[0])


@every_reset
def test_nir_holds_the_reset_and_a_file_gives_it_back(kind: str, tmp_path: Path) -> None:
    _, graph = made(kind)
    spec = RESETS[kind]().neuron_spec()
    nir.write(str(tmp_path / "net.nir"), graph)
    read = nir.read(str(tmp_path / "net.nir"))
    np.testing.assert_array_equal(read.nodes["neurons_0"].v_reset, np.float32(spec.v_reset))
    x = clips((T, 2, *SHAPE[2:])).float()
    for population, wanted in zip(read_float_graph(read).populations, read_float_graph(graph).populations, strict=True):
        assert population.soft_reset == wanted.soft_reset == (spec.soft_reset and wanted.fires)
    assert torch.equal(read_float_graph(read).run(x)[0], read_float_graph(graph).run(x)[0])


@every_reset
def test_teacher_spikes_reset_as_own_spikes_do(kind: str) -> None:
    _, graph = made(kind)
    population = read_float_graph(graph).populations[0]
    current = torch.randn(9, 2, *population.shape, generator=torch.Generator().manual_seed(1))
    spikes, membranes = population.fire(current)
    again, same = population.fire(current, spikes)
    assert torch.equal(again, spikes)
    assert torch.equal(same, membranes)
    assert not torch.equal(population.fire(current, torch.zeros_like(spikes))[1], membranes)


@every_reset
def test_rounding_explains_all_that_folding_changes(kind: str) -> None:
    net, graph = made(kind)
    x = clips((T, 4, *SHAPE[2:])).numpy()
    folding = check_folding(net, read_float_graph(graph), x)
    assert folding.within_bound
    wrong = read_float_graph(graph)
    wrong = replace(wrong, populations=tuple(without_reset(p) for p in wrong.populations))
    assert not check_folding(net, wrong, x).within_bound


@every_reset
def test_rounding_of_the_reset_itself_is_allowed_for(kind: str) -> None:
    """After the first step nothing comes in, so that the membrane is what the reset left and nothing else."""

    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.neuron, self.head = nn.Linear(4, 3, bias=False), RESETS[kind](), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.neuron(self.layer(x))).mean(0)
            return logits

    net = Silent().eval()
    with torch.no_grad():
        net.layer.weight.fill_(0.5)
    x = np.zeros((3, 1, 4), dtype=np.uint8)
    x[0] = 1
    folding = check_folding(net, read_float_graph(capture(net, torch.from_numpy(x).float())), x)
    assert folding.within_bound
    assert folding.layers[0].largest_difference > 0


@every_reset
@pytest.mark.parametrize("gate_shape", [(4, 1, 1), (4, 3, 3), (1, 1, 1)])
def test_a_folded_gate_scales_the_reset_with_the_threshold(kind: str, gate_shape: tuple[int, ...]) -> None:
    _, graph = made(kind, gated=True)
    samples = clips((T, 4, *SHAPE[2:]))
    gate = np.random.default_rng(2).uniform(0.3, 1.8, gate_shape)
    folded = read_float_graph(fold_static_gates(graph, constant(samples, gate))).populations[1]
    population = read_float_graph(graph).populations[1]
    _, spikes = read_float_graph(graph).run(samples)
    current, own = population.current(spikes), folded.current(spikes)
    wanted, _ = population.fire(current * torch.from_numpy(gate))
    assert 0.02 < float(wanted.mean()) < 0.98
    assert int((folded.fire(own)[0] != wanted).sum()) <= 1
    assert int((without_reset(folded).fire(own)[0] != wanted).sum()) > 1


def constant(samples: Tensor, gate: np.ndarray) -> Calibration:
    """A calibration that says the gate of the second layer is always ``gate``."""
    return Calibration(samples.numpy(), {"neurons_1": GateStatistics(gate[None], 0.0, float(gate.min()), ())})


@every_reset
def test_a_causal_gate_leaves_the_neuron_as_it_was(kind: str) -> None:
    _, graph = made(kind, gated=True)
    was, now = (read_float_graph(g).populations[1] for g in (graph, make_causal(graph)))
    assert now.gate != was.gate
    np.testing.assert_array_equal(*(0 if p.v_reset is None else p.v_reset for p in (was, now)))
    assert (now.soft_reset, now.strict, now.decay) == (was.soft_reset, was.strict, was.decay)


@every_reset
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_integers_fire_nearly_as_the_float_net_does(kind: str, attention: Attention) -> None:
    _, graph = made(kind, gated=True)
    samples = clips((T, 24, *SHAPE[2:]), seed=3).numpy().astype(np.uint8)
    fixed = lower(graph, samples, attention)
    trace = run_reference(fixed, samples)
    _, spikes = read_float_graph(graph).run(torch.from_numpy(samples).float())
    differ = np.mean(trace.spikes["neurons_0"] != spikes["neurons_0"].numpy())
    plain = replace(fixed, neurons=tuple(replace(n, v_reset=None, soft_reset=False) for n in fixed.neurons))
    wrong = np.mean(run_reference(plain, samples).spikes["neurons_0"] != spikes["neurons_0"].numpy())
    assert differ < 0.01 < wrong


def lowered(net: nn.Module, samples: int = 8) -> FixedPointGraph:
    x = clips((T, samples, *SHAPE[2:]), seed=4).numpy().astype(np.uint8)
    return lower(capture(net, torch.zeros(SHAPE)), x)


@every_reset
def test_the_integers_are_the_same_on_every_backend(kind: str) -> None:
    fixed = lowered(prepared(Net(RESETS[kind])))
    samples = clips((T, 4, *SHAPE[2:]), seed=3).numpy().astype(np.uint8)
    trace = run_reference(fixed, samples)
    assert_equal(run_engine(fixed, samples), trace)
    assert_equal(ClipRunner(fixed, trace=True).run(samples, batch_size=3).trace, trace)
    assert_equal(run_steps(StepRunner(to_onnx_step(fixed)), fixed, samples), trace)
    assert_equal(run_engine(read_back(fixed), samples), trace)


@pytest.mark.parametrize("reset", [{"v_reset": -0.3}, {"soft_reset": True}], ids=["below zero", "soft"])
def test_the_search_for_a_unit_resets_as_the_integers_do(
    reset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = prepared(Net(lambda: LIF(0.9, 0.4, **reset)))
    with torch.no_grad():  # a few large weights, so that the best unit is not simply the largest
        weight = net.first.weight
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(8)) ** 3 * 0.12 + 0.03)
    samples = clips((T, 16, *SHAPE[2:]), seed=8).numpy().astype(np.uint8)
    graph = capture(net, torch.zeros(SHAPE))
    wanted = read_float_graph(graph).run(torch.from_numpy(samples).float())[1]["neurons_0"].numpy()
    first = quantise.CLIPPING
    differing = []
    for candidates in (first, *((c,) for c in first)):
        monkeypatch.setattr(quantise, "CLIPPING", candidates)
        differing.append(int((run_reference(lower(graph, samples), samples).spikes["neurons_0"] != wanted).sum()))
    assert differing[0] <= min(differing) + 2  # float32 may round otherwise
    assert len(set(differing)) > 2


@every_reset
def test_reset_mantissas_stand_for_the_module_s_values(kind: str) -> None:
    spec = RESETS[kind]().neuron_spec()
    for n in lowered(prepared(Net(RESETS[kind]))).neurons[:-1]:
        assert n.soft_reset == spec.soft_reset
        if spec.v_reset == 0:
            assert n.v_reset is None
            continue
        assert n.v_reset is not None
        assert abs(int(n.v_reset) * n.unit - spec.v_reset) <= n.unit * 0.501
        assert (int(n.v_reset) == int(n.v_threshold)) == (spec.v_reset == spec.v_threshold)


def test_a_reset_to_the_threshold_stays_at_or_below_it_where_a_gate_is_folded_for_every_pixel() -> None:
    _, graph = made("to the threshold", gated=True)
    samples = clips((T, 8, *SHAPE[2:]))
    gate = np.random.default_rng(5).uniform(0.3, 1.8, (4, 3, 3))
    folded = fold_static_gates(graph, constant(samples, gate))
    gated = lower(folded, samples.numpy().astype(np.uint8)).neurons[1]
    assert gated.threshold_levels > 16
    np.testing.assert_array_equal(gated.v_reset, gated.v_threshold)


def test_fewer_threshold_levels_take_the_reset_along() -> None:
    _, graph = made("to the threshold", gated=True)
    samples = clips((T, 8, *SHAPE[2:]))
    gate = np.random.default_rng(5).uniform(0.3, 1.8, (4, 3, 3))
    whole = samples.numpy().astype(np.uint8)
    fixed = lower(fold_static_gates(graph, constant(samples, gate)), whole)
    for levels in (1, 3):
        reduced = palettise(fixed, whole, levels).graph.neurons[1]
        assert reduced.threshold_levels == levels
        np.testing.assert_array_equal(reduced.v_reset, np.broadcast_to(reduced.v_threshold, np.shape(reduced.v_reset)))


def test_a_reset_far_below_zero_is_proved_to_fit_and_one_beyond_the_format_refused() -> None:
    for v_reset in (-10.0, -40.0, -400.0):
        far = lowered(prepared(Net(lambda v_reset=v_reset: LIF(1.0, 0.5, v_reset=v_reset))))
        assert all(magnitude(membrane_range(far, n, T)) <= arithmetic.STATE_LIMIT for n in far.neurons[:-1])
    with pytest.raises(LoweringError, match=r"neurons_0.*v_threshold 0\.5 is below half a step"):
        lowered(prepared(Net(lambda: LIF(0.9, 0.5, v_reset=-1e6))))


@every_reset
def test_membranes_before_the_reset_follow_the_population_s_own_spikes(kind: str) -> None:
    net = prepared(Net(RESETS[kind]))
    fixed = lowered(net)
    samples = clips((T, 2, *SHAPE[2:]), seed=6).numpy().astype(np.int64)
    trace, n = run_reference(fixed, samples), fixed.neurons[0]
    weighted = sum_of(fixed, samples)
    spikes, after = trace.spikes[n.name], trace.membranes[n.name]
    before = membranes_before_reset(n, weighted, spikes)
    np.testing.assert_array_equal(before > n.v_threshold << arithmetic.STATE_FRACTION_BITS, spikes == 1)
    np.testing.assert_array_equal(before[spikes == 0], after[spikes == 0])


def sum_of(fixed: FixedPointGraph, samples: np.ndarray) -> np.ndarray:
    return sum_currents(fixed.neurons[0], [synapse_current(s, samples) for s in fixed.incoming("neurons_0")])
