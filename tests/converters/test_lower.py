from __future__ import annotations

import numpy as np
import pytest

from gate_networks import T
from networks import SHAPE, captured, clips
from spikefold.converters.calibrate import calibrate
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.lower import ATTENTIONS, lower, lower_float
from spikefold.converters.reference import run_reference
from spikefold.errors import LoweringError

SAMPLES = clips((T, 16, *SHAPE[2:]), seed=41).numpy().astype(np.uint8)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("name", ["FSTA", "ASA", "squeeze per step, batch first"])
def test_the_integer_net_follows_its_float_net_in_the_same_mode(name: str, attention: str) -> None:
    _, graph = captured(name)
    fixed = lower(graph, SAMPLES, attention)  # type: ignore[arg-type]
    lowered, _ = lower_float(graph, SAMPLES, attention)  # type: ignore[arg-type]
    assert fixed.attention == attention
    assert (fixed.time_steps, fixed.neurons[0].gate is None) == ((None, True) if attention == "static" else (T, False))
    fresh = clips((T, 16, *SHAPE[2:]), seed=42)
    _, spikes = read_float_graph(lowered).run(fresh.float())
    got = run_reference(fixed, fresh.numpy()).spikes["neuron"]
    assert 0.02 < got.mean() < 0.98
    assert (got != spikes["neuron"].numpy()).mean() < 0.03


def test_a_net_without_gates_is_the_same_in_every_mode() -> None:
    _, graph = captured("residual")
    one, *others = (lower(graph, SAMPLES, mode) for mode in ATTENTIONS)
    for other in others:
        assert one.attention == other.attention == "none"
        for a, b in zip(one.to_plain()[1], other.to_plain()[1], strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_calibration_may_be_used_again() -> None:
    _, graph = captured("formula")
    calibration = calibrate(graph, SAMPLES)
    one, two = lower(graph, calibration), lower(graph, SAMPLES)
    assert one.to_plain()[0] == two.to_plain()[0]
    events = [int(np.count_nonzero(SAMPLES[:, i])) for i in range(16)]
    made = {"bits": 8, "calibration_samples": 16, "calibration_events": [min(events), max(events)]}
    assert one.provenance == made


def test_an_unknown_mode_is_refused_with_the_choices() -> None:
    _, graph = captured("residual")
    with pytest.raises(LoweringError, match=r"'frozen'; choose one of 'static', 'scheduled', 'causal', 'dynamic'"):
        lower(graph, SAMPLES, "frozen")  # type: ignore[arg-type]
