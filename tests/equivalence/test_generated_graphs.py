"""Hundreds of nets that nobody chose, everywhere but in Lava: every spike, message, membrane and logit is the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from equivalence_nets import assert_equal
from generated_graphs import any_graph, random_clips
from spikefold.converters import arithmetic
from spikefold.converters.engine import run_engine
from spikefold.converters.fast import run_fast
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.nir_file import load_nir, save_nir
from spikefold.converters.onnx import has_step_form, to_onnx_step
from spikefold.converters.reference import (
    Trace,
    arriving,
    run_reference,
    sum_currents,
    synapse_current,
    synaptic_currents,
)
from spikefold.deploy.equality import run_steps
from spikefold.deploy.onnx_runner import ClipRunner, StepRunner

EXAMPLES = 170
EVERYWHERE = {
    "wrapped", "clipped", "relay", "negative message", "saturated message", "rectified", "relay into relay",
    "relay into conv", "relay into dense", "relay one to one", "relay behind a table", "reset to a value",
    "reset below 0", "reset above 0", "soft reset", "no decay", "full decay", "some decay", "low shift",
    "bias schedule", "graded input", "shortcut", "pool", "stride", "dilation", "groups", "padding", "spiking output",
    "gate table", "thresholds", "current memory", "wrapped current memory", "delay", "delays of neurons", "loop",
    "loop of several", "decays of neurons", "remembered current of neurons", "memory of a readout",
}  # fmt: skip
"""What must occur in graphs of both kinds, several times each."""
COMPUTED = {f"{of} {kind}" for of in ("gate", "relay behind a") for kind in ("clip gate", "running gate")}


@pytest.mark.full
@pytest.mark.parametrize("gated", [False, True], ids=["streaming", "with computed gates"])
def test_any_net_is_the_same_net_everywhere(gated: bool, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(
        seed=st.integers(0, 2**32 - 1),
        layers=st.integers(1, 5),
        time_steps=st.integers(1, 6),
        batch=st.integers(1, 4),
    )
    def check(seed: int, layers: int, time_steps: int, batch: int) -> None:
        graph = any_graph(seed, layers, time_steps=time_steps, gated=gated, temporal=True)
        clips = random_clips(graph, seed, time_steps, batch)
        wanted = run_everywhere(graph, clips, tmp_path)
        seen.update(["graphs", *set(occurrences(graph, clips, wanted))])
        seen["streamed"] += has_step_form(graph)

    check()
    assert seen["graphs"] >= EXAMPLES
    assert seen["streamed"] == seen["graphs"] if not gated else 0 < seen["streamed"] < seen["graphs"]
    rare = {what: seen[what] for what in EVERYWHERE | (COMPUTED if gated else set()) if seen[what] < 4}
    assert not rare, (rare, seen)


@pytest.mark.parametrize("seed", range(10))
def test_a_few_of_them(seed: int, tmp_path: Path) -> None:
    graph = any_graph(seed, 1 + seed % 5, time_steps=3, temporal=seed % 2 == 0)
    run_everywhere(graph, random_clips(graph, seed, 3), tmp_path)


def test_currents_that_are_remembered_wrap_alike_everywhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    populations = tuple(
        Neurons(f"n{du}", (20,), 7, np.array(60000), np.array(99), 1, 1.0, du=du) for du in (0, 40, 700, 2047)
    )
    synapses = tuple(
        Synapse(f"to {n.name}", "input", n.name, "dense", 2 * rng.integers(-128, 128, (20, 3)), 8) for n in populations
    )
    graph = FixedPointGraph(InputPort((3,)), populations, synapses, "none", None)
    clips = random_clips(graph, 0, 12)
    trace = run_everywhere(graph, clips, tmp_path)
    seen = Counter(occurrences(graph, clips, trace))
    assert seen["wrapped current memory"] == len(populations)


def run_everywhere(graph: FixedPointGraph, clips: NDArray[np.int64], folder: Path) -> Trace:
    """Compare all executors and a file in ``folder`` with the reference; gives the reference's run."""
    wanted = run_reference(graph, clips)
    assert_equal(run_engine(graph, clips), wanted)
    assert_equal(run_fast(graph, clips), wanted)
    run = ClipRunner(graph, trace=True).run(clips, batch_size=3)
    assert_equal(run.trace, wanted)
    for name, sent in wanted.spikes.items():
        counted = np.count_nonzero(sent, axis=(0, *range(2, sent.ndim)))
        np.testing.assert_array_equal(run.spike_counts[name], counted, f"spike count of {name}")
    if has_step_form(graph):
        assert_equal(run_steps(StepRunner(to_onnx_step(graph)), graph, clips), wanted)
    again = load_nir(save_nir(graph, folder / "net.nir"))
    assert_same_integers(again, graph)
    assert_equal(run_engine(again, clips), wanted)
    return wanted


def assert_same_integers(one: FixedPointGraph, other: FixedPointGraph) -> None:
    (text, arrays), (wanted_text, wanted) = one.to_plain(), other.to_plain()
    assert text == wanted_text
    for array, same in zip(arrays, wanted, strict=True):
        np.testing.assert_array_equal(array, same)
        assert (array.dtype, array.shape) == (same.dtype, same.shape)


def occurrences(graph: FixedPointGraph, clips: NDArray[np.int64], trace: Trace) -> Iterator[str]:
    """What the nets of this test are meant to show, and what really came up in this run."""
    sent = {graph.input.name: clips, **trace.spikes}
    relays = {n.name for n in graph.neurons if n.relay is not None}
    for n in graph.neurons:
        incoming = graph.incoming(n.name)
        arrived = [arriving(sent[s.source], s.delay, 0, len(clips)) for s in incoming]
        total = sum_currents(n, [synapse_current(s, a) for s, a in zip(incoming, arrived, strict=True)])
        yield from _of_current(n, total)
        yield from ["clipped"] if (np.abs(trace.membranes[n.name]) == arithmetic.STATE_LIMIT).any() else []
        yield from _of_neurons(n, trace)
        for s in incoming:
            yield from _of_synapse(s)
            if s.source in relays and sent[s.source].any():
                one_to_one = s.kind == "conv" and s.weight.shape[1:] == (1, 1, 1)
                yield "relay one to one" if one_to_one else f"relay into {s.kind}"
                yield from ["relay into relay"] if n.relay is not None else []
            yield from ["delay"] if s.longest_delay and sent[s.source][: -s.longest_delay].any() else []
            yield from ["delays of neurons"] if len(np.unique(s.delay)) > 1 else []
        yield from ["shortcut"] if len(incoming) > 1 else []
    for block in graph.blocks:
        active = all(trace.spikes[n.name][:-1].any() for n in block)
        yield from ["loop"] if graph.is_loop(block) and active else []
        yield from ["loop of several"] if len(block) > 1 and active else []
    yield from ["graded input"] if clips.max() > 1 else []
    yield from ["spiking output"] if graph.output.fires and trace.logits.any() else []


def _of_current(n: Neurons, weighted: NDArray[np.int64]) -> Iterator[str]:
    shifted, u = weighted << n.current_shift, synaptic_currents(n, weighted)
    before = np.concatenate([np.zeros_like(u[:1]), u[:-1]])
    left = arithmetic.decay(before, np.asarray(n.du) + 1)
    wraps = (left + shifted != u).any()
    yield from ["wrapped"] if wraps else []
    if n.remembers_current and left.any():
        yield "current memory"
        yield from ["wrapped current memory"] if wraps else []
        yield from ["remembered current of neurons"] if np.size(n.du) > 1 else []
        yield from ["memory of a readout"] if n.is_readout else []


def _of_neurons(n: Neurons, trace: Trace) -> Iterator[str]:
    spikes, v = trace.spikes[n.name], trace.membranes[n.name]
    yield from ["low shift"] if n.current_shift < arithmetic.STATE_FRACTION_BITS else []
    yield from ["bias schedule"] if n.has_bias_schedule else []
    if n.gate is not None:
        ops = [step.op for step in n.gate.steps]
        kind = "table" if ops == ["table"] else "running gate" if any("running" in op for op in ops) else "clip gate"
        yield f"gate {kind}"
        yield from [f"relay behind a {kind}"] if n.relay is not None and spikes.any() else []
    if n.relay is not None:
        shifted = arithmetic.shift_toward_zero(v, n.relay.shift)
        yield "relay"
        yield from ["negative message"] if spikes.min() < 0 else []
        yield from ["rectified"] if n.relay.low == 0 and shifted.min() < 0 else []
        yield from ["saturated message"] if (shifted > n.relay.high).any() or shifted.min() < n.relay.low < 0 else []
        return
    yield (
        "decays of neurons"
        if np.size(n.dv) > 1
        else {0: "no decay", 4095: "full decay"}.get(int(np.max(n.dv)), "some decay")
    )
    if not spikes[:-1].any():  # a reset shows in the steps after it
        return
    yield from ["soft reset"] if n.soft_reset else []
    yield from ["thresholds"] if n.threshold_levels > 1 else []
    if n.v_reset is not None:
        left = v[spikes == 1]
        yield "reset to a value"
        yield from ["reset below 0"] if left.min() < 0 else []
        yield from ["reset above 0"] if left.max() > 0 else []


def _of_synapse(s: Synapse) -> Iterator[str]:
    if s.kind == "conv":
        yield from ["stride"] if max(s.stride) > 1 else []
        yield from ["padding"] if max(s.padding) > 0 else []
        yield from ["dilation"] if max(s.dilation) > 1 else []
        yield from ["groups"] if s.groups > 1 else []
        yield from ["pool"] if s.weight[0, 0].size > 1 and len(np.unique(s.weight)) == 1 else []
