"""Running and counting: what a user reads off a `Run` is what the spikes say."""

import dataclasses

import numpy as np
import pytest
import torch

from generated_graphs import random_clips, random_graph
from spikefold.converters.fixed_point_graph import Neurons, Relay
from spikefold.converters.gate_program import GateProgram, Step
from spikefold.converters.nir_file import save_nir
from spikefold.converters.reference import run_reference
from spikefold.deploy.activity import GateActivity
from spikefold.deploy.count import gate_activity, payload_bits
from spikefold.deploy.run import BACKENDS, differences, run
from spikefold.errors import BackendError, FileFormatError, InputError

FAST = [b for b in BACKENDS if b != "lava"]


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("how", [{}, {"gated": True}, {"relays": True, "current_shifts": True}], ids=str)
def test_every_backend_counts_the_same_spikes_and_synops(backend: str, how: dict[str, bool]) -> None:
    graph = random_graph(5, **how)
    clips = random_clips(graph, 5)
    reference, other = run(graph, clips, "reference"), run(graph, clips, backend)
    np.testing.assert_array_equal(reference.logits, other.logits)
    assert reference.activity == other.activity


@pytest.mark.parametrize("how", [{}, {"gated": True}, {"relays": True, "current_shifts": True}], ids=str)
def test_the_torch_backend_computes_the_same_on_another_device(how: dict[str, bool]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    graph = random_graph(5, **how)
    clips = random_clips(graph, 5)
    here, there = run(graph, clips, "reference", trace=True), run(graph, clips, "torch", device="cuda")
    assert here.trace is not None
    assert there.trace is not None
    assert differences(here.trace, there.trace) == (0, 0)
    np.testing.assert_array_equal(here.logits, there.logits)


def test_a_device_that_is_missing_or_not_torchs_is_named() -> None:
    graph = random_graph(5)
    clips = random_clips(graph, 5)
    with pytest.raises(BackendError, match="device 'zork'"):
        run(graph, clips, "torch", device="zork")
    with pytest.raises(InputError, match="'fast' computes on the CPU"):
        run(graph, clips, "fast", device="cuda")
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="device 'cuda'"):
            run(graph, clips, "torch", device="cuda")


def test_synops_equal_a_count_connection_by_connection() -> None:
    graph = random_graph(7, gated=False)
    clips = random_clips(graph, 7, time_steps=3, batch=2)
    result = run(graph, clips)
    trace = run_reference(graph, clips)
    messages = {graph.input.name: clips, **trace.spikes}
    for synapse in graph.synapses:
        sent = messages[synapse.source] != 0
        source, target = graph.source_shape(synapse.source), graph.source_shape(synapse.target)
        if synapse.kind == "dense":
            expected = sent.reshape(*sent.shape[:2], -1).sum((0, 2)) * synapse.weight.shape[0]
        else:
            expected = np.zeros(sent.shape[1], dtype=np.int64)
            for y in range(target[1]):
                for x in range(target[2]):
                    for a in range(synapse.weight.shape[2]):
                        for b in range(synapse.weight.shape[3]):
                            row = y * synapse.stride[0] + a * synapse.dilation[0] - synapse.padding[0]
                            column = x * synapse.stride[1] + b * synapse.dilation[1] - synapse.padding[1]
                            if 0 <= row < source[1] and 0 <= column < source[2]:
                                outputs = synapse.weight.shape[0] // synapse.groups
                                expected += sent[:, :, :, row, column].sum((0, 2)) * outputs
        np.testing.assert_array_equal(result.synops[synapse.name], expected)


def test_the_firing_rate_leaves_the_readout_out() -> None:
    graph = random_graph(3, gated=False)
    clips = random_clips(graph, 3)
    trace = run_reference(graph, clips)
    firing = [n.name for n in graph.neurons if n.fires]
    spikes = sum(trace.spikes[n].sum() for n in firing)
    slots = sum(trace.spikes[n].size for n in firing)
    assert run(graph, clips).activity.firing_rate == pytest.approx(spikes / slots)


def test_what_relays_send_is_counted_apart_from_spikes_and_updates() -> None:
    graph = random_graph(3, relays=True, gated=True, gates=("channel", "none"), resets=("zero", "value", "soft"))
    clips = random_clips(graph, 3)
    trace = run_reference(graph, clips)
    counted = run(graph, clips, "reference").activity
    sent = {name: np.count_nonzero(values) / clips.shape[1] for name, values in trace.spikes.items()}
    relays = {n.name for n in graph.neurons if n.relay is not None}
    assert relays == {layer.name for layer in counted.layers if layer.relay is not None} == {"relay1", "rectifier"}
    assert counted.relay_messages == pytest.approx(sum(sent[name] for name in relays)) != 0
    assert counted.relay_operations == 2 * sum(n.size * len(clips) for n in graph.neurons if n.relay)
    assert counted.spikes == pytest.approx(sum(n for name, n in sent.items() if name not in relays))
    assert counted.updates == sum(n.size for n in graph.neurons if n.relay is None) * len(clips)
    firing = [n for n in graph.neurons if n.fires]
    assert counted.firing_rate == pytest.approx(
        sum(trace.spikes[n.name].sum() for n in firing) / sum(trace.spikes[n.name].size for n in firing)
    )
    for n, layer in zip(graph.neurons, counted.layers, strict=True):
        assert layer.resets_to_zero is (n.v_reset is None and not n.soft_reset)
        assert (layer.gate is None) is (n.gate is None)


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(0, 1, 0), (0, 2, 2), (0, 255, 8), (0, 256, 9), (-1, 1, 2), (-128, 127, 8), (-129, 127, 9), (-1, 300, 10)],
)
def test_payloads_have_the_bits_of_their_range(low: int, high: int, bits: int) -> None:
    graph = random_graph(3, relays=True)
    neurons = [dataclasses.replace(n, relay=n.relay and Relay(2, low, high)) for n in graph.neurons]
    assert payload_bits(dataclasses.replace(graph, neurons=tuple(neurons)), "relay1") == bits
    assert payload_bits(graph, "conv1") == payload_bits(graph, "input") == 0
    assert payload_bits(random_graph(3, graded_input=True), "input") == 4


@pytest.mark.parametrize("options", [{"relays": True}, {"graded_input": True}, {"gated": True}], ids=str)
def test_where_and_when_messages_were_sent_is_the_same_on_every_backend(options: dict[str, bool]) -> None:
    graph = random_graph(3, **options)
    clips = random_clips(graph, 3, time_steps=graph.time_steps or 5, batch=19)  # more than a batch of ONNX Runtime
    runs = [run(graph, clips, backend) for backend in ("fast", "onnx", "reference", "torch")]
    for name, sent in runs[0].sent.items():
        for other in runs[1:]:
            np.testing.assert_array_equal(sent, other.sent[name])
        shape = graph.source_shape(name)
        assert sent.shape == (len(clips), *shape)
        counts = runs[0].input_counts if name == graph.input.name else runs[0].spike_counts[name]
        assert sent.sum() == counts.sum()
    assert set(runs[0].sent) == {graph.input.name, *(n.name for n in graph.neurons)}
    np.testing.assert_array_equal(runs[0].sent[graph.input.name], (clips != 0).sum(axis=1))


def test_a_file_runs_like_the_net_it_was_written_from(tmp_path: object) -> None:
    graph = random_graph(11, gated=True)
    clips = random_clips(graph, 11)
    path = save_nir(graph, f"{tmp_path}/net.nir")
    np.testing.assert_array_equal(run(path, clips).logits, run(graph, clips).logits)


def test_a_bias_schedule_is_looked_up_once_an_entry_with_and_without_a_gate() -> None:
    gated = random_graph(5, gated=True, bias_schedule=True, gates=("channel",)).neurons[0]
    without = gate_activity(dataclasses.replace(gated, bias_mantissa=gated.bias_mantissa[0, 0]), 5)
    assert gate_activity(gated, 5) == dataclasses.replace(without, lookups=without.lookups + 5 * gated.size)
    graph = random_graph(5, bias_schedule=True)
    layers = run(graph, random_clips(graph, 5)).activity.layers
    assert [layer.gate for layer in layers] == [GateActivity(lookups=5.0 * n.size) for n in graph.neurons]


def test_gate_operations_hold_at_least_one_multiply_for_every_gated_current() -> None:
    graph = random_graph(5, gated=True, gates=("channel", "spatial", "temporal"))
    gated = [n for n in graph.neurons if n.gate is not None]
    for population in gated:
        counted = gate_activity(population, population.gate.time_steps)
        assert counted.multiplies >= population.size * population.gate.time_steps
        assert counted.buffer_words == population.size * population.gate.time_steps
        assert counted.accesses_per_word == 2
    assert gated


def test_a_gate_that_streams_is_counted_by_what_it_keeps_and_does_step_by_step() -> None:
    """Per channel: a running sum, then a triangle over 4 steps, a rank among the steps so far, and a table."""
    steps, size = 4, 3 * 2
    program = GateProgram(
        (steps, -1, 3, 2),
        (
            Step("sum", (0,), {"axes": (3,), "keepdim": False}),
            Step("running_sum", (1,)),
            Step("running_max", (1,)),
            Step("running_topk_mask", (1,), {"k": 2}),
            Step("permute", (2,), {"axes": (1, 2, 0)}),
            Step("matmul", (5,), {}, np.triu(np.ones((4, 4), dtype=np.int64))),
            Step("table", (0,), {}, np.ones((4, 1, 3, 1), dtype=np.int64)),
        ),
        steps,
    )
    population = Neurons("n", (3, 2), 0, np.array(5), np.array(0), 0, 1.0, gate=program)
    counted = gate_activity(population, steps)
    assert counted.multiplies == size * steps + 3 * 10
    assert counted.additions == size * steps + 3 * steps + 3 * 3 + 3 * 6 + 3 * 10
    assert counted.comparisons == 3 * 3 + 3 * 10
    assert counted.lookups == 3 * steps
    assert counted.buffer_words == 3 + 3 + 3 * steps + 3 * steps
    assert counted.accesses_per_word * counted.buffer_words == 2 * 3 * 2 * steps + 2 * 3 * 10


def test_quotients_and_roots_are_counted_digit_by_digit() -> None:
    steps = (Step("clip", (0,), {"low": 1, "high": 9}), Step("shift_divide", (0, 1), {"shift": 4}))
    for more, digits in ((), 32), ((Step("square_root", (1,)),), 32 + 26):
        program = GateProgram((2, -1, 3), steps + more, 2)
        counted = gate_activity(Neurons("n", (3,), 0, np.array(5), np.array(0), 0, 1.0, gate=program), 2)
        assert counted.additions == 6 + 6 * digits
        assert counted.comparisons == 6 + 6 * digits
        assert counted.multiplies == 6


CONV = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
DENSE = np.array([[1, 2], [3, 4], [5, 6]])
UPPER = np.triu(np.ones((3, 3), dtype=np.int64))


@pytest.mark.parametrize(
    ("steps", "multiplies", "additions", "comparisons", "lookups"),
    [
        ([Step("sum", (0,), {"axes": (2, 4), "keepdim": True})], 0, 36 - 6, 0, 0),
        ([Step("max", (0,), {"axes": (2, 4), "keepdim": True})], 0, 0, 36 - 6, 0),
        ([Step("add", (0, 0)), Step("subtract", (1, 0)), Step("add_const", (2,), {}, np.array(1))], 0, 3 * 36, 0, 0),
        ([Step("multiply", (0, 0)), Step("multiply_const", (1,), {}, np.array(2))], 2 * 36, 0, 0, 0),
        ([Step("rescale", (0,), {"multiplier": 3, "shift": 1, "limit": 9})], 36, 0, 0, 0),
        ([Step("relu", (0,)), Step("clip", (1,), {"low": 0, "high": 5})], 0, 0, 2 * 36, 0),
        ([Step("matmul", (0,), {}, DENSE)], 24 * 3, 24 * 3, 0, 0),
        ([Step("matmul", (0,), {}, UPPER)], 36 * 2, 36 * 2, 0, 0),
        ([Step("matmul", (0,), {}, UPPER.T)], 36 * 3, 36 * 3, 0, 0),
        (
            [Step("reshape", (0,), {"shape": (-1, 2, 3, 3)}), Step("conv2d", (1,), CONV, np.ones((5, 2, 2, 3), int))],
            2 * 5 * 2 * 12, 2 * 5 * 2 * 12, 0, 0,
        ),
        ([Step("look_up", (0,), {"offset": 0}, np.arange(4))], 0, 0, 0, 36),
        ([Step("topk_mask", (0,), {"k": 1, "axis": 4})], 0, 0, 36 * 2, 0),
        ([Step("permute", (0,), {"axes": (0, 1, 2, 4, 3)}), Step("topk_mask", (1,), {"k": 1, "axis": 2})], 0, 0, 36, 0),
    ],
    ids=lambda steps: "+".join(s.op for s in steps) if isinstance(steps, list) else None,
)  # fmt: skip
def test_every_step_of_a_gate_is_counted_by_hand(
    steps: list[Step], multiplies: int, additions: int, comparisons: int, lookups: int
) -> None:
    """On a current of 2 steps of 2 x 3 x 3 values, each of which is multiplied and gets a bias besides."""
    program = GateProgram((2, -1, 2, 3, 3), tuple(steps), 2)
    counted = gate_activity(Neurons("n", (2, 3, 3), 0, np.array(5), np.array(0), 0, 1.0, gate=program), 2)
    assert (counted.multiplies, counted.additions) == (36 + multiplies, 36 + additions)
    assert (counted.comparisons, counted.lookups) == (comparisons, lookups)


def test_rates_are_messages_a_source_and_step() -> None:
    graph = random_graph(3, graded_input=True)
    clips = random_clips(graph, 3, time_steps=4, batch=2)
    trace, counted = run_reference(graph, clips), run(graph, clips, "reference").activity
    sent = {graph.input.name: clips, **trace.spikes}
    assert counted.input_spikes == np.count_nonzero(clips) / 2
    for synapse in counted.synapses:
        assert synapse.source_rate == pytest.approx(np.count_nonzero(sent[synapse.source]) / sent[synapse.source].size)


def test_differences_are_seen_where_there_is_one() -> None:
    graph = random_graph(2, gated=False)
    clips = random_clips(graph, 2)
    one, other = run_reference(graph, clips), run_reference(graph, clips)
    assert differences(one, other) == (0, 0)
    name = graph.neurons[0].name
    other.spikes[name].flat[0] ^= 1
    other.membranes[name].flat[3] += 1
    assert differences(one, other) == (1, 1)


def test_an_unknown_backend_is_refused_by_name() -> None:
    graph = random_graph(2, gated=False)
    with pytest.raises(InputError, match="'loihi'"):
        run(graph, random_clips(graph, 2), "loihi")


def test_a_missing_file_is_refused_by_name() -> None:
    with pytest.raises(FileFormatError, match=r"no_such\.nir"):
        run("no_such.nir", np.zeros((1, 1, 1, 1, 1)))
