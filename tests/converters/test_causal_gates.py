from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch

from gate_networks import GATES, T
from networks import SHAPE, captured, clips
from spikefold.converters.calibrate import calibrate
from spikefold.converters.capture.build import gate_to_metadata
from spikefold.converters.causal_gates import make_causal
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.gate_float import run_float
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.converters.gate_quantise import GATE_FRACTION_BITS, quantise_gate
from spikefold.converters.lower import lower, lower_float
from spikefold.converters.time_axis import causal_program, running_state
from spikefold.errors import LoweringError

SAMPLES = clips((T, 16, *SHAPE[2:]), seed=41).numpy().astype(np.uint8)


@cache
def lowered(name: str) -> FixedPointGraph:
    return lower(captured(name)[1], SAMPLES, "causal")


def gated(name: str) -> tuple[Neurons, GateProgram]:
    n = next(n for n in lowered(name).neurons if n.gate is not None)
    assert n.gate is not None
    return n, n.gate


@pytest.mark.parametrize("name", GATES)
def test_in_integers_a_later_current_changes_no_earlier_gate(name: str) -> None:
    neurons, gate = gated(name)
    rng = np.random.default_rng(8)
    current = rng.integers(-(2**17), 2**17, (T, 3, *neurons.shape))
    whole = gate.run_integer(current)
    assert whole.shape[0] == T
    assert running_state(gate) is not None
    for t in range(T - 1):
        other = current.copy()
        other[t + 1 :] = rng.integers(-(2**19), 2**19, other[t + 1 :].shape)
        np.testing.assert_array_equal(gate.run_integer(other)[: t + 1], whole[: t + 1])


@pytest.mark.parametrize("name", ["FSTA", "squeeze over the clip", "formula", "channels then pixels, batch first"])
def test_the_integer_gate_is_the_causal_float_gate_at_every_step(name: str) -> None:
    """Within 1/64, which eight-bit weights leave open."""
    population = next(p for p in read_float_graph(make_causal(captured(name)[1])).populations if p.gate is not None)
    neurons, gate = gated(name)
    assert population.gate is not None
    scale = neurons.unit / 64
    real = population.current({"input": clips((T, 12, *SHAPE[2:]), seed=12)})
    got = gate.run_integer((real / scale).round().to(torch.int64).numpy()) / 2**neurons.gate_shift
    wanted = run_float(population.gate, real).numpy()
    assert np.abs(got - wanted).max() < 1 / 64
    assert np.ptp(wanted) > 1 / 16


def test_a_running_mean_is_finer_than_eight_bits_at_every_step() -> None:
    """``T / (t + 1)`` of 4 steps, in eight bits, would be 1 % off at the last."""
    steps = (Step("sum", (0,), {"axes": (0, 3), "keepdim": True}), Step("scale", (1,), {"factor": 1 / (4 * 8)}))
    gate = causal_program(GateProgram((4, -1, 3, 8), steps, 4))
    real = torch.rand((4, 5, 3, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seen = [(0.0, 1.0)]
    wanted = run_float(gate, real, lambda _, v: seen.append((float(v.min()), float(v.max())))).numpy()
    integer = quantise_gate(gate, 2.0**-20, seen)
    got = integer.run_integer((real * 2**20).round().to(torch.int64).numpy()) / 2**GATE_FRACTION_BITS
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-3)


def test_ranges_are_measured_on_the_causal_gate() -> None:
    graph = captured("FSTA")[1]
    calibration = calibrate(graph, SAMPLES)
    causal, measured = lower_float(graph, calibration, "causal")
    again = calibrate(make_causal(graph), SAMPLES)
    program = read_float_graph(causal).populations[0].gate
    assert program is not None
    assert len(measured.gates["neuron"].ranges) == len(program.steps) + 1
    assert measured.gates["neuron"].ranges == again.gates["neuron"].ranges
    assert measured.gates["neuron"].ranges != calibration.gates["neuron"].ranges


def test_the_last_step_of_a_causal_squeeze_is_the_dynamic_gate() -> None:
    graph = captured("squeeze over the clip")[1]
    dynamic, causal = (read_float_graph(g).populations[0] for g in (graph, make_causal(graph)))
    assert dynamic.gate is not None
    assert causal.gate is not None
    current = dynamic.current({"input": clips((T, 3, *SHAPE[2:]), seed=3)})
    torch.testing.assert_close(run_float(causal.gate, current)[-1], run_float(dynamic.gate, current)[0])


def test_two_matrices_over_time_become_running_sums_and_one_row_a_step() -> None:
    rng = np.random.default_rng(2)
    narrow, wide, shift = rng.normal(size=(T, 2)), rng.normal(size=(2, T)), rng.normal(size=2)
    steps = (
        Step("sum", (0,), {"axes": (3, 4), "keepdim": False}), Step("permute", (1,), {"axes": (1, 2, 0)}),
        Step("matmul", (2,), {}, narrow), Step("add_const", (3,), {}, shift), Step("relu", (4,)),
        Step("matmul", (5,), {}, wide), Step("permute", (6,), {"axes": (2, 0, 1)}),
        Step("reshape", (7,), {"shape": (T, -1, 3, 1, 1)}),
    )  # fmt: skip
    gate = GateProgram((T, -1, 3, 2, 2), steps, T)
    current = torch.from_numpy(rng.normal(size=(T, 5, 3, 2, 2)))
    found = run_float(causal_program(gate), current)
    sums = current.sum((3, 4)).numpy()
    for t in range(T):
        hidden = np.maximum(np.einsum("tbc,tr->bcr", sums[: t + 1], narrow[: t + 1]) + shift, 0)
        np.testing.assert_allclose(found[t, :, :, 0, 0].numpy(), hidden @ wide[:, t])
    torch.testing.assert_close(found[-1], run_float(gate, current)[-1])


def test_a_gate_without_causal_form_is_refused_with_its_neurons_and_step() -> None:
    program = GateProgram((T, -1, *SHAPE[2:]), (Step("slice", (0,), {"axis": 0, "start": 1, "stop": 2}),), T)
    graph = copy.deepcopy(captured("squeeze over the clip")[1])
    graph.nodes["neuron"].metadata |= gate_to_metadata(program)
    with pytest.raises(LoweringError, match=r"neurons 'neuron': gate step 0 \(slice\): it cuts the axis T"):
        make_causal(graph)
