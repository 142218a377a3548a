"""The reference against a net written out in Python's whole numbers, neuron by neuron."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from generated_graphs import random_clips, random_graph
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse
from spikefold.converters.reference import arriving as arriving_messages
from spikefold.converters.reference import check_input, run_reference
from spikefold.errors import InputError

HALF = 2**23


def toward_zero(value: int, bits: int) -> int:
    return -(-value >> bits) if value < 0 else value >> bits


def arriving(synapse: Synapse, message: np.ndarray, at: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Weighted sum at one neuron for one message ``[*source]``."""
    if synapse.kind == "dense":
        row = synapse.weight.reshape(-1, message.size)[np.ravel_multi_index(at, shape)]
        return sum(int(w) * int(m) for w, m in zip(row, message.reshape(-1), strict=True)) << synapse.exponent
    out, y, x = at
    channels, kh, kw = synapse.weight.shape[1:]
    first = out // (synapse.weight.shape[0] // synapse.groups) * channels
    total = 0
    for c in range(channels):
        for i in range(kh):
            for j in range(kw):
                row = y * synapse.stride[0] - synapse.padding[0] + i * synapse.dilation[0]
                column = x * synapse.stride[1] - synapse.padding[1] + j * synapse.dilation[1]
                if 0 <= row < message.shape[1] and 0 <= column < message.shape[2]:
                    total += int(synapse.weight[out, c, i, j]) * int(message[first + c, row, column])
    return total << synapse.exponent


def slow(graph: FixedPointGraph, clip: np.ndarray, last: int) -> dict[str, np.ndarray]:
    """Spikes or messages ``[T, *shape]`` of the first ``last`` populations for one clip ``[T, *shape]``."""
    trains = {"input": clip}
    for n in graph.neurons[:last]:
        train = np.zeros((len(clip), *n.shape), dtype=np.int64)
        thresholds, bias = np.broadcast_to(n.v_threshold, n.shape), np.broadcast_to(n.bias, n.shape)
        resets = np.broadcast_to(0 if n.v_reset is None else n.v_reset, n.shape)
        for at in np.ndindex(*n.shape):
            v = 0
            for t in range(len(clip)):
                u = (
                    sum(arriving(s, trains[s.source][t], at, n.shape) for s in graph.incoming(n.name))
                    * 2**n.current_shift
                )
                u = u - 2 * HALF if u > HALF else u + 2 * HALF if u <= -HALF else u
                v = (0 if n.relay else toward_zero(v * (4096 - n.dv), 12)) + u + int(bias[at])
                v = max(1 - HALF, min(HALF - 1, v))
                if n.relay:
                    train[(t, *at)] = max(n.relay.low, min(n.relay.high, toward_zero(v, n.relay.shift)))
                if n.fires and v > int(thresholds[at]) * 64:
                    train[(t, *at)], v = 1, int(resets[at]) * 64 + (v - int(thresholds[at]) * 64 if n.soft_reset else 0)
        trains[n.name] = train
    return trains


@pytest.mark.parametrize(
    "how",
    [
        {"residual": True, "graded_input": True}, {"depthwise": True, "per_neuron_thresholds": True},
        {"relays": True, "resets": ("soft", "value"), "current_shifts": True, "per_neuron_thresholds": True},
        {"relays": True, "resets": ("value", "soft"), "graded_input": True, "stress": True},
    ],
    ids=["residual, graded", "grouped, a threshold per neuron", "relays, resets, shifts", "relays, wraps and clips"],
)  # fmt: skip
def test_a_net_runs_as_its_neurons_one_by_one(how: dict[str, Any]) -> None:
    graph = random_graph(2, **how)
    last = 5 if "relays" in how else 3
    x = random_clips(graph, 7, time_steps=4, batch=2)
    wanted, trace = slow(graph, x[:, 1], last), run_reference(graph, x)
    for n in graph.neurons[:last]:
        np.testing.assert_array_equal(trace.spikes[n.name][:, 1], wanted[n.name], err_msg=n.name)
        assert len(np.unique(wanted[n.name])) > 1
    if "relays" in how:
        assert wanted["relay1"].min() < 0 == wanted["rectifier"].min()


def test_a_relay_sends_its_clipped_gated_current_and_keeps_nothing() -> None:
    graph = random_graph(1, gated=True, gates=("table",), relays=True)
    x = random_clips(graph, 3)
    trace = run_reference(graph, x)
    n = graph.neurons[1]
    assert (n.name, n.gate is not None) == ("relay1", True)
    relay = n.relay
    assert relay is not None
    (synapse,) = graph.incoming(n.name)
    for t, *at in np.ndindex(len(x), *n.shape):
        u = arriving(synapse, trace.spikes["conv1"][t, 0], tuple(at), n.shape) * 64
        gate = np.broadcast_to(n.gate.run_integer(np.zeros((5, 1, *n.shape), dtype=np.int64)), (5, 1, *n.shape))
        current = u + int(np.broadcast_to(n.bias, n.shape)[tuple(at)])
        v = toward_zero(current * int(gate[(t, 0, *at)]), n.gate_shift)
        assert trace.membranes["relay1"][(t, 0, *at)] == v
        assert trace.spikes["relay1"][(t, 0, *at)] == max(relay.low, min(relay.high, toward_zero(v, relay.shift)))


def test_the_gate_multiplies_the_current_with_its_bias() -> None:
    graph = random_graph(1, gated=True)
    x = random_clips(graph, 3)
    n = graph.neurons[0]
    assert isinstance(n, Neurons)
    assert n.gate is not None
    (synapse,) = graph.incoming(n.name)
    raw = np.zeros((len(x), x.shape[1], *n.shape), dtype=np.int64)
    for t, b, *at in np.ndindex(*raw.shape):
        raw[(t, b, *at)] = arriving(synapse, x[t, b], tuple(at), n.shape) * 64
    current = raw + n.bias
    product = current * np.broadcast_to(n.gate.run_integer(current), current.shape)
    v, spikes = np.zeros(n.shape, dtype=np.int64), run_reference(graph, x).spikes[n.name]
    for t in range(len(x)):
        for at in np.ndindex(*n.shape):
            state = toward_zero(int(v[at]) * (4096 - n.dv), 12) + toward_zero(int(product[(t, 0, *at)]), n.gate_shift)
            fires = state > int(np.broadcast_to(n.v_threshold, n.shape)[at]) * 64
            assert int(spikes[(t, 0, *at)]) == int(fires)
            v[at] = 0 if fires else state


def test_logits_are_the_mean_over_time_in_real_units() -> None:
    readout, counting = random_graph(3), random_graph(3, spiking_output=True)
    x = random_clips(readout, 1)
    trace = run_reference(readout, x)
    n = readout.output
    np.testing.assert_allclose(trace.logits, trace.membranes[n.name][-1] * n.unit / 64 / len(x), rtol=1e-12)
    trace = run_reference(counting, x)
    np.testing.assert_array_equal(trace.logits, trace.spikes[counting.output.name].sum(0) / len(x))


@pytest.mark.parametrize("delay", [0, 2, np.array([[0, 2, 1], [6, 2, 0]])], ids=["none", "one", "one a neuron"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_delayed_message_arrives_that_many_steps_later_wherever_the_clip_is_cut(delay: Any, steps: int) -> None:
    messages = np.random.default_rng(3).integers(1, 9, (5, 2, 2, 3))
    late = np.broadcast_to(delay, (2, 3))
    for first in range(0, 6 - steps):
        got = arriving_messages(messages, delay, first, steps)
        assert got.shape == (steps, 2, 2, 3)
        for t, b, *at in np.ndindex(*got.shape):
            sent = first + t - int(late[tuple(at)])
            assert got[(t, b, *at)] == (messages[(sent, b, *at)] if sent >= 0 else 0)


def test_what_the_input_port_does_not_admit_is_refused_and_its_ends_are_admitted() -> None:
    graph = random_graph(3, graded_input=True)
    most, (channels, height, width) = graph.input.max_value, graph.input.shape
    good = np.zeros((5, 1, channels, height, width))
    good[2, 0, 0, 0, 1] = most
    assert check_input(graph, good).dtype == np.int64
    assert check_input(graph, good).sum() == most > 1
    for value, complaint in [(-1, "values -1.."), (most + 1, f"{most + 1}; this net"), (0.5, "not integers")]:
        bad = good.copy()
        bad[4, 0, 0, 0, 0] = value
        with pytest.raises(InputError, match=complaint):
            check_input(graph, bad)
    for bad in (good[0], good[..., :-1], np.moveaxis(good, 2, 4), good[:0], good[:, :0]):
        with pytest.raises(InputError, match="input has shape"):
            check_input(graph, bad)
    gated = random_graph(3, gated=True)
    clips = random_clips(gated, 0, time_steps=gated.time_steps)
    assert np.array_equal(check_input(gated, clips), clips)
    with pytest.raises(InputError, match=f"trained for T = {gated.time_steps}"):
        check_input(gated, np.concatenate([clips, clips]))
