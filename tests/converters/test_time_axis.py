from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gate_networks import GATES, ClipSqueeze, T
from generated_gates import make_gate
from networks import captured
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.gate_float import run_float
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.converters.time_axis import RunningState, causal_program, running_state
from spikefold.errors import LoweringError

CAUSAL = list(GATES)
PER_STEP = [
    "squeeze per step", "squeeze per step, batch first", "squeeze by convolutions", "channels then pixels",
    "channels then pixels, batch first", "in place",
]  # fmt: skip


@cache
def gate_of(name: str) -> GateProgram:
    return next(p.gate for p in read_float_graph(captured(name)[1]).populations if p.gate is not None)


def current_for(gate: GateProgram, seed: int = 4, batch: int = 3) -> Tensor:
    shape = [batch if n == -1 else n for n in gate.input_shape]
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def program(*steps: Step, shape: tuple[int, ...] = (4, -1, 3, 2)) -> GateProgram:
    return GateProgram(shape, steps, shape[0])


def step(op: str, *inputs: int, constant: Any = None, **attributes: Any) -> Step:
    return Step(op, inputs or (0,), attributes, None if constant is None else np.asarray(constant))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_later_current_changes_no_earlier_gate(name: str) -> None:
    gate = causal_program(gate_of(name))
    current = current_for(gate)
    whole = run_float(gate, current)
    assert whole.shape[0] == T
    for t in range(T - 1):
        other = torch.cat([current[: t + 1], 3 * current_for(gate, seed=5)[t + 1 :]])
        again = run_float(gate, other)
        assert torch.equal(again[: t + 1], whole[: t + 1])
        assert not torch.equal(again[t + 1 :], whole[t + 1 :])


def test_a_squeeze_over_the_clip_becomes_the_squeeze_over_what_was_seen() -> None:
    module, _ = captured("squeeze over the clip")
    squeeze = module.gate
    assert isinstance(squeeze, ClipSqueeze)
    gate = causal_program(gate_of("squeeze over the clip"))
    current = current_for(gate)
    with torch.no_grad():
        wanted = torch.stack([squeeze.double().fc(current[: t + 1].mean((0, 3, 4))) for t in range(T)])
    torch.testing.assert_close(run_float(gate, current)[..., 0, 0], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PER_STEP)
def test_a_gate_of_single_steps_is_kept_and_streams_as_it_is(name: str) -> None:
    gate = gate_of(name)
    current = current_for(gate)
    torch.testing.assert_close(run_float(causal_program(gate), current), run_float(gate, current), rtol=0, atol=1e-12)
    assert running_state(gate) == RunningState(0, 0)


@pytest.mark.parametrize("name", [n for n in GATES if n not in PER_STEP])
def test_a_gate_that_reads_its_clip_does_not_stream_until_it_is_causal(name: str) -> None:
    assert running_state(gate_of(name)) is None
    if name in CAUSAL:
        state = running_state(causal_program(gate_of(name)))
        assert state is not None
        assert state.words > 0


@pytest.mark.parametrize("name", CAUSAL)
def test_the_causal_form_of_a_causal_program_is_itself(name: str) -> None:
    gate = causal_program(gate_of(name))
    current = current_for(gate)
    assert torch.equal(run_float(causal_program(gate), current), run_float(gate, current))


def test_what_each_reduction_over_time_becomes() -> None:
    """Against numpy, step by step: a mean, a maximum, a matrix, and a choice of steps."""
    weight = np.random.default_rng(2).normal(size=(4, 4))
    gate = program(
        step("sum", axes=(0, 3), keepdim=True), step("scale", 1, factor=1 / 8),
        step("max", axes=(0,), keepdim=False), step("reshape", 3, shape=(1, -1, 3, 2)), step("add", 2, 4),
        step("sum", axes=(3,), keepdim=False), step("permute", 6, axes=(1, 2, 0)), step("matmul", 7, constant=weight),
        step("topk_mask", 8, k=2, axis=2), step("permute", 8, axes=(2, 0, 1)), step("permute", 9, axes=(2, 0, 1)),
        step("multiply", 10, 11), step("reshape", 12, shape=(4, -1, 3, 1)), step("add", 5, 13),
    )  # fmt: skip
    current = current_for(gate).numpy()
    pooled = current.sum(3)
    for t in range(4):
        past = current[: t + 1]
        mixed = np.stack([np.einsum("sbc,s->bc", pooled[: u + 1], weight[: u + 1, u]) for u in range(t + 1)])
        chosen = (mixed >= mixed[t]).sum(0) <= -(-2 * (t + 1) // 4)
        wanted = past.mean((0, 3))[..., None] + past.max(0) + (mixed[t] * chosen)[..., None]
        got = run_float(causal_program(gate), torch.from_numpy(current)).numpy()[t]
        np.testing.assert_allclose(got, wanted, atol=1e-12)


def test_spreading_what_was_pooled_says_at_each_step_what_was_known() -> None:
    share = np.array([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1, 1)
    gate = program(
        step("max", axes=(0,), keepdim=True), step("broadcast", 1, shape=(4, -1, 3, 2)),
        step("max", axes=(0,), keepdim=True), step("multiply_const", 3, constant=share), step("add", 2, 4),
    )  # fmt: skip
    current = current_for(gate)
    wanted = current.cummax(0).values * (1 + torch.from_numpy(share))
    torch.testing.assert_close(run_float(causal_program(gate), current), wanted)


CUT = program(step("slice", axis=0, start=0, stop=1))
JOINED = program(step("concat", 0, 0, axis=0))
MERGED = program(
    step("permute", axes=(1, 0, 2, 3)), step("reshape", 1, shape=(-1, 12, 2)), step("sum", 2, axes=(1,), keepdim=True)
)
TWICE = program(
    step("permute", axes=(1, 2, 3, 0)), step("reshape", 1, shape=(-1, 1, 3, 2, 4)),
    step("reshape", 0, shape=(4, -1, 3, 2, 1)), step("add", 2, 3),
)  # fmt: skip
BATCH_FIRST = program(step("permute", axes=(1, 0, 2, 3)))
TWO_BATCHES = program(step("sum", axes=(0,), keepdim=True), step("permute", 1, axes=(1, 0, 2, 3)), step("add", 1, 2))
IMAGES_OF_TIME = program(
    step("permute", axes=(1, 0, 2, 3)),
    step("conv2d", 1, constant=np.ones((4, 4, 1, 1)), stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1),
)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (CUT, r"step 0 \(slice\): it cuts the axis T"),
        (JOINED, r"step 0 \(concat\): it joins axes"),
        (MERGED, r"step 1 \(reshape\): it turns axes \('T', 3\) into \(12,\), merging time"),
        (TWICE, r"step 3 \(add\): it puts axes"),
        (IMAGES_OF_TIME, r"step 1 \(conv2d\): it convolves axes \('B', 'T', 3, 2\), not images of one step"),
        (BATCH_FIRST, r"the gate ends with axes \('B', 'T', 3, 2\), not time, batch and features"),
        (TWO_BATCHES, r"step 2 \(add\): it puts time or batch on two axes \('B', 'B', 3, 2\)"),
        (program(step("sum", axes=(1,), keepdim=True)), r"step 0 \(sum\): it reduces the axis \['B'\]"),
        (program(*BATCH_FIRST.steps, step("running_sum", 1)), r"step 1 \(running_sum\): it goes along the axis B"),
        (program(step("topk_mask", k=1, axis=1)), r"step 0 \(topk_mask\): it ranks the axis B"),
        (program(step("matmul", constant=np.ones(2))), r"step 0 \(matmul\): a matrix \(2,\) reads the axis 2"),
        (program(step("add_const", constant=np.ones((3, 1, 1)))), r"step 0 \(add_const\): its constant differs .* B"),
        (program(step("reshape", shape=(4, -1, 3, 2, 7))), r"do not fit the shape \(4, -1, 3, 2, 7\)"),
        (program(step("explode")), r"step 0 \(explode\): it mixes values in a way of its own"),
    ],
)
def test_another_way_of_mixing_time_is_refused_by_step(gate: GateProgram, message: str) -> None:
    with pytest.raises(LoweringError, match=message + r".* no causal form: use another attention mode"):
        causal_program(gate)
    assert running_state(gate) is None


def test_a_streaming_gate_keeps_statistics_not_the_clip() -> None:
    """For 3 channels: a sum and a maximum, written and read in 4 steps; a matrix and a rank, over 1, 2, 3, 4 values."""
    pooled = program(step("sum", axes=(0, 3), keepdim=True), step("max", axes=(0, 3), keepdim=True), step("add", 1, 2))
    assert running_state(causal_program(pooled)) == RunningState(words=6, accesses=48)
    mixed = program(
        step("sum", axes=(3,), keepdim=False), step("permute", 1, axes=(1, 2, 0)),
        step("matmul", 2, constant=np.ones((4, 4))), step("topk_mask", 3, k=2, axis=2),
        step("permute", 4, axes=(2, 0, 1)), step("reshape", 5, shape=(4, -1, 3, 1)),
    )  # fmt: skip
    assert running_state(causal_program(mixed)) == RunningState(words=24, accesses=60)


def test_a_table_and_running_steps_stream_and_a_clip_of_one_step_always_does() -> None:
    table = program(step("table", constant=np.ones((4, 1, 3, 1))))
    assert running_state(table) == RunningState(0, 0)
    assert torch.equal(run_float(causal_program(table), current_for(table)), torch.ones(4, 1, 3, 1).double())
    rng = np.random.default_rng(7)
    running = make_gate(rng, "running", rng.integers(-5000, 5000, (5, 3, 4, 6, 6)), 7)
    assert running_state(running) == RunningState(words=4 + 4 + 5 * 4, accesses=2 * 2 * 4 * 5 + 4 * 15)
    one = program(step("max", axes=(0, 1), keepdim=True), shape=(1, -1, 3))
    assert causal_program(one) is one
    assert running_state(one) == RunningState(0, 0)


def test_features_that_change_places_do_so_in_the_causal_form() -> None:
    swapped = step("permute", axes=(0, 1, 3, 2))
    gate = program(swapped, step("max", 1, axes=(0, 2), keepdim=True), step("permute", 2, axes=(0, 1, 3, 2)))
    current = current_for(gate)
    wanted = torch.stack([current[: t + 1].amax((0, 3)) for t in range(4)])
    assert torch.equal(run_float(causal_program(gate), current)[..., 0], wanted)


def test_a_gate_that_is_its_current_is_causal() -> None:
    gate = program()
    current = current_for(gate)
    assert torch.equal(run_float(causal_program(gate), current), current)
