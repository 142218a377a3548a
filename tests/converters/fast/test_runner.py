"""The fast engine against the numpy reference: 0 differences, on any threads, in any chunks, run after run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from generated_graphs import random_clips, random_graph
from spikefold.converters import arithmetic
from spikefold.converters.fast import FastEngine, FastRun, connection, runner
from spikefold.converters.fast.connection import eight_bits_exact
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.ranges import can_wrap, synapse_bound
from spikefold.converters.reference import run_reference
from spikefold.deploy.count import counts_from_trace
from spikefold.errors import InputError, LoweringError

GRAPHS: dict[str, dict[str, Any]] = {
    "plain": {},
    "residual, graded": {"residual": True, "graded_input": True},
    "a threshold per neuron": {"per_neuron_thresholds": True, "depthwise": True, "spiking_output": True},
    "resets": {"resets": ("value", "soft", "zero")},
    "relays, shifts": {"relays": True, "graded_input": True, "current_shifts": True},
    "gated": {"gated": True, "residual": True},
    "gated relays that wrap and clip": {"relays": True, "gated": True, "stress": True, "resets": ("value", "soft")},
    "bias schedule": {"bias_schedule": True},
    "memory, decays, delays": {"memory": True, "decays": True, "delays": 3},
    "loops": {"loops": True, "decays": True},
    "loops with memory": {"loops": True, "memory": True, "resets": ("soft",)},
}


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def assert_same(run: FastRun, graph: FixedPointGraph, x: np.ndarray) -> None:
    """Everything that a run gives is what the reference's spikes say."""
    wanted = run_reference(graph, x)
    np.testing.assert_array_equal(run.logits, wanted.logits)
    if run.trace is not None:
        assert run.trace.spikes.keys() == wanted.spikes.keys() == run.trace.membranes.keys()
        for name in wanted.spikes:
            np.testing.assert_array_equal(run.trace.spikes[name], wanted.spikes[name], f"spikes of {name}")
            np.testing.assert_array_equal(run.trace.membranes[name], wanted.membranes[name], f"membranes of {name}")
    spikes, synops = counts_from_trace(graph, x, wanted)
    np.testing.assert_array_equal(run.input_counts, np.count_nonzero(x, axis=(0, *range(2, x.ndim))))
    for counted, expected in ((run.spike_counts, spikes), (run.synops, synops)):
        assert counted.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(counted[name], expected[name], name)
    for name, sent in run.sent.items():
        train = x if name == graph.input.name else wanted.spikes[name]
        np.testing.assert_array_equal(sent, np.count_nonzero(train, axis=1), f"sent by {name}")


@pytest.mark.parametrize("eight_bits", [True, False], ids=["eight bits", "floats"])
@pytest.mark.parametrize("kind", GRAPHS)
def test_generated_nets_run_bit_for_bit_as_the_reference(
    kind: str, eight_bits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "eight_bits_exact", lambda: eight_bits)
    for seed in range(3):
        graph = random_graph(seed, **GRAPHS[kind])
        x = random_clips(graph, seed + 100, batch=5)
        run = FastEngine(graph).run(x, trace=True, sent=True)
        assert_same(run, graph, x)
        assert any(counts.any() for counts in run.spike_counts.values())


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("kind", ["residual, graded", "gated", "loops with memory"])
def test_chunks_and_threads_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = random_graph(4, **GRAPHS[kind])
    engine, x = FastEngine(graph), random_clips(graph, 4, batch=11)
    for samples in (1, 2, 4, 11):  # 2 and 4 leave a smaller chunk at the end
        largest = 4 * len(x) * max(n.size for n in graph.neurons)
        monkeypatch.setattr(runner, "CHUNK_BYTES", samples * largest)
        assert_same(engine.run(x, trace=True, sent=True), graph, x)
    assert torch.get_num_threads() == 3


def test_an_engine_that_is_kept_remembers_nothing_of_other_clips() -> None:
    graph = random_graph(1, memory=True, delays=2, residual=True)
    engine = FastEngine(graph)
    for batch, steps in ((4, 5), (4, 5), (2, 5), (4, 3), (1, 9), (4, 5)):
        x = random_clips(graph, batch + 10 * steps, steps, batch)
        first = engine.run(x, trace=True, sent=True)
        engine.run(np.zeros_like(x))
        assert_same(first, graph, x)  # what was given is not overwritten by the run after it


def test_threads_may_share_an_engine() -> None:
    graph = random_graph(2)
    engine, clips = FastEngine(graph), [random_clips(graph, seed, batch=3) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for x, run in zip(clips, pool.map(lambda x: engine.run(x, sent=True), clips), strict=True):
            assert_same(run, graph, x)


@pytest.mark.parametrize("largest", [1, 127, 128, 255, 256, 2**20, 2**25])
def test_messages_of_any_size_are_added_exactly(largest: int) -> None:
    """Eight-bit, float32 and float64 sums, one after another."""
    random = np.random.default_rng(largest)
    weight = np.concatenate(
        [np.full((1, 6, 3, 3), -256), np.full((1, 6, 3, 3), 254), 2 * random.integers(-128, 128, (3, 6, 3, 3))]
    )
    size, none = (5, 4, 5), np.zeros((5, 1, 1), dtype=np.int64)
    synapses = (
        Synapse("in", "input", "neuron", "conv", weight, 0, padding=(1, 1)),
        Synapse("out", "neuron", "output", "dense", 2 * random.integers(-128, 128, (3, 100))),
    )
    neurons = (
        Neurons("neuron", size, 1000, np.array(min(2**17 - 1, 300 * largest)), none, 0, 0.01, current_shift=0),
        Neurons("output", (3,), 0, np.array(0), np.zeros(3, dtype=np.int64), 0, 0.01, fires=False),
    )
    graph = FixedPointGraph(InputPort((6, 4, 5), largest), neurons, synapses, "none", None)
    x = random.integers(0, largest + 1, (4, 3, 6, 4, 5))
    x[0] = largest
    assert_same(FastEngine(graph).run(x, trace=True, sent=True), graph, x)


def test_sums_whose_parts_float32_does_not_hold_are_still_exact() -> None:
    random = np.random.default_rng(2)
    weight, order = 2 * random.integers(100, 128, (8, 1600)), random.permutation(1600)
    cancelling = np.concatenate([weight, -weight[:, order]], axis=1)
    neurons = Neurons("output", (8,), 0, np.array(0), np.zeros(8, dtype=np.int64), 0, 0.01, fires=False)
    synapse = Synapse("in", "input", "output", "dense", cancelling)
    graph = FixedPointGraph(InputPort((3200,), 2**11), (neurons,), (synapse,), "none", None)
    assert 2**29 < synapse_bound(synapse, (0, 2**11)) // 2 < 2**30
    half = random.integers(2**10, 2**11, (3, 5, 1600))
    x = np.concatenate([half, half[..., order] + random.integers(0, 2, half.shape)], axis=2)
    assert_same(FastEngine(graph).run(x, trace=True), graph, x)


def test_a_soft_reset_to_below_zero_takes_more_than_the_threshold_off() -> None:
    graph = random_graph(6, resets=("soft",), per_neuron_thresholds=True)
    lower = [dataclasses.replace(n, v_reset=-(n.v_threshold // 3)) for n in graph.neurons[:-1]]
    graph = dataclasses.replace(graph, neurons=(*lower, graph.output))
    x = random_clips(graph, 6, time_steps=9)
    assert_same(FastEngine(graph).run(x, trace=True), graph, x)


@pytest.mark.parametrize("exponent", [5, 7])
def test_sums_that_wrap_and_membranes_that_clip_are_those_of_the_reference(exponent: int) -> None:
    graph = random_graph(exponent, stress=True, graded_input=True, resets=("soft", "value"))
    assert any(can_wrap(graph, n) for n in graph.neurons)
    x = random_clips(graph, exponent, batch=4)
    run = FastEngine(graph).run(x, trace=True)
    assert_same(run, graph, x)
    assert run.trace is not None
    assert max(np.abs(v).max() for v in run.trace.membranes.values()) == arithmetic.STATE_LIMIT


def membranes_net(dv: int, each: bool) -> FixedPointGraph:
    """One neuron an input, whose membrane walks over all of its range."""
    one = np.full((64, 1, 1, 1), 2)
    size = (64, 1, 1)
    threshold = np.full(size if each else (), 2**17 - 1)
    neurons = (Neurons("neuron", size, dv, threshold, np.full((64, 1, 1), -4095), 7, 0.01),)
    return FixedPointGraph(
        InputPort(size, 2**13), neurons, (Synapse("in", "input", "neuron", "conv", one, groups=64),), "none", None
    )


@pytest.mark.parametrize("each", [False, True], ids=["one threshold", "a threshold per neuron"])
@pytest.mark.parametrize("dv", [0, 1, 7, 409, 2048, 4094, 4095])
def test_membranes_decay_as_in_the_reference_over_their_whole_range(dv: int, each: bool) -> None:
    graph = membranes_net(dv, each)
    x = np.random.default_rng(dv).integers(0, 2**13 + 1, (40, 6, 64, 1, 1))
    x[:, 3:] //= 100  # only down
    x[:, 5] = 2**13  # and only up
    run = FastEngine(graph).run(x, trace=True)
    assert_same(run, graph, x)


def test_long_clips_are_counted_to_the_end() -> None:
    """Also neurons that fire in every step, more often than a byte can count."""
    graph = random_graph(0)
    awake = [
        dataclasses.replace(n, v_threshold=np.array(0), bias_mantissa=np.array(4095), bias_exponent=7)
        for n in graph.neurons
    ]
    graph = dataclasses.replace(graph, neurons=(*awake[:-1], graph.output))
    x = random_clips(graph, 0, time_steps=700, batch=2)
    run = FastEngine(graph).run(x, sent=True)
    assert max(counts.max() / graph.neurons[i].size for i, counts in enumerate(run.spike_counts.values())) > 600
    assert_same(run, graph, x)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.int32, np.float32])
def test_clips_may_have_any_type_and_order_in_memory(dtype: Any) -> None:
    graph = random_graph(3)
    x = random_clips(graph, 3, batch=4)
    for clips in (x.astype(dtype), np.asfortranarray(x.astype(dtype)), x.astype(dtype)[:, ::2]):
        assert_same(FastEngine(graph).run(clips), graph, clips.astype(np.int64))


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [
        ((5, 2, 2, 7, 5), 0, "this net takes"),
        ((0, 2, 2, 7, 6), 0, "must be at least 1"),
        ((4, 2, 2, 7, 6), 0, "T = 4; the gates or biases of this net were trained for T = 5"),
        ((5, 2, 2, 7, 6), 2, r"values 2\.\.2; this net was exported for 0\.\.1"),
    ],
)
def test_clips_that_do_not_fit_the_port_are_refused(
    shape: tuple[int, ...], value: int, message: str, dtype: Any
) -> None:
    with pytest.raises(InputError, match=message):
        FastEngine(random_graph(0, gated=True)).run(np.full(shape, value, dtype=dtype))


def test_sums_that_no_float_can_hold_are_refused_by_name() -> None:
    neurons = Neurons("output", (1,), 0, np.array(0), np.zeros(1, dtype=np.int64), 0, 0.01, fires=False)
    synapse = Synapse("in", "input", "output", "dense", np.full((1, 2), -256), 7)
    graph = FixedPointGraph(InputPort((2,), 2**31 + 1), (neurons,), (synapse,), "none", None)
    with pytest.raises(LoweringError, match="neurons 'output': weighted sums could reach 9007199258935296, outside"):
        FastEngine(graph)


def test_a_processor_whose_eight_bit_sums_saturate_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    original = connection._EightBits.__call__

    def saturating(self: Any, messages: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        return original(self, messages, shape).clamp(-(2**15), 2**15)

    eight_bits_exact.cache_clear()
    monkeypatch.setattr(connection._EightBits, "__call__", saturating)
    assert not eight_bits_exact()
    eight_bits_exact.cache_clear()
