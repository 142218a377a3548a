from __future__ import annotations

import numpy as np
import pytest
import torch

from gate_networks import T
from networks import SHAPE, Chain, captured, clips, prepared
from spikefold.converters.calibrate import BATCH, batches, calibrate, run_batches
from spikefold.converters.capture import capture
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.gate_float import run_float
from spikefold.errors import InputError


@pytest.mark.parametrize("name", ["squeeze over the clip", "FSTA", "formula", "channels then pixels"])
def test_the_statistics_of_a_gate_are_those_of_its_values(name: str) -> None:
    _, graph = captured(name)
    x = clips((T, BATCH + 7, *SHAPE[2:]))
    statistics = calibrate(graph, x.numpy()).gates["neuron"]
    population = read_float_graph(graph).populations[0]
    assert population.gate is not None
    current = population.current({"input": x})
    seen = [current]
    gate = run_float(population.gate, current, lambda _, value: seen.append(value))
    np.testing.assert_allclose(statistics.mean, gate.mean(1).numpy(), rtol=1e-5)
    assert statistics.smallest == pytest.approx(float(gate.min()), rel=1e-5)
    assert statistics.variation == pytest.approx(float((gate.std(1, correction=0) / gate.mean(1)).mean()), rel=1e-3)
    assert len(statistics.ranges) == len(population.gate.steps) + 1
    for (low, high), value in zip(statistics.ranges, seen, strict=True):
        assert (low, high) == pytest.approx((float(value.min()), float(value.max())), rel=1e-4, abs=1e-5)


def test_a_plain_net_has_no_gates_to_measure() -> None:
    calibration = calibrate(captured("residual")[1], np.zeros(SHAPE, dtype=np.uint8))
    assert calibration.gates == {}
    assert calibration.time_steps == T


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((T, 0, *SHAPE[2:])), r"none of them 0"),
        (np.zeros((T, 2)), r"\[T, N, \*features\]"),
        (np.full(SHAPE, np.nan), "not finite"),
        (np.full(SHAPE, np.inf), "not finite"),
        (np.zeros((T, 2, 2, 8, 9)), r"this net takes \[T, B, \(2, 8, 8\)\]"),
        (np.zeros((T + 1, *SHAPE[1:])), f"T = {T + 1}; the gates or biases of this net were trained for {T}"),
    ],
)
def test_clips_that_do_not_fit_are_refused(bad: np.ndarray, message: str) -> None:
    _, graph = captured("formula")
    with pytest.raises(InputError, match=message):
        calibrate(graph, bad)


def test_batches_together_are_the_clips() -> None:
    x = np.arange(2 * 7 * 3).reshape(2, 7, 3)
    parts = list(batches(x, 3))
    assert [p.shape[1] for p in parts] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), x)


def test_logits_batch_by_batch_are_the_logits_at_once() -> None:
    net = read_float_graph(capture(prepared(Chain(), dyadic=True), torch.zeros(SHAPE)))
    x = clips((T, BATCH + 3, *SHAPE[2:])).numpy().astype(np.uint8)
    whole, _ = net.run(torch.from_numpy(x).float())
    np.testing.assert_array_equal(run_batches(net, x), whole.double().numpy())


def test_calibration_clips_of_any_number_type_count_the_same() -> None:
    _, graph = captured("formula")
    x = clips((T, 6, *SHAPE[2:])).numpy()
    means = [
        calibrate(graph, x.astype(kind)).gates["neuron"].mean for kind in (np.uint8, np.bool_, np.float32, np.int64)
    ]
    for mean in means[1:]:
        np.testing.assert_array_equal(mean, means[0])


def test_clips_that_do_not_fit_a_net_without_gates_are_refused_as_well() -> None:
    _, graph = captured("residual")
    with pytest.raises(InputError, match=r"input has shape \(4, 1, 1, 9, 9\)"):
        calibrate(graph, np.zeros((4, 3, 1, 9, 9), dtype=np.uint8))
