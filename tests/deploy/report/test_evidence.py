"""What is collected for a report, against the runs that it comes from."""

from __future__ import annotations

import numpy as np
import pytest

from report_evidence import made
from spikefold.deploy.certificate import recheck
from spikefold.deploy.comparison import Made
from spikefold.deploy.report.evidence import (
    CHECKED_SAMPLES,
    RASTER_NEURONS,
    RASTER_SAMPLES,
    FormEvidence,
    thinned,
)
from spikefold.deploy.run import run

EACH = pytest.mark.parametrize("i", range(3), ids=["none", "static", "dynamic"])


def pair(i: int) -> tuple[FormEvidence, Made]:
    evidence, seen = made()
    return evidence.forms[i], seen[i]


@EACH
def test_rates_are_messages_over_neurons_steps_and_samples(i: int) -> None:
    form, one = pair(i)
    for layer in form.row.activity.layers:
        if layer.fires:
            assert form.rates[layer.name].mean() == pytest.approx(layer.spikes / layer.updates)
    assert form.rates["input"] == pytest.approx(one.clips.reshape(4, -1).mean(axis=1))
    assert "head" not in form.rates
    assert next(iter(form.rates)) == "input"


@EACH
def test_rasters_show_the_spikes_of_the_named_neurons_and_no_more_than_promised(i: int) -> None:
    form, one = pair(i)
    trace = run(form.row.fixed, one.clips[:, :RASTER_SAMPLES], "reference").trace
    for raster in form.rasters:
        train = one.clips[:, :RASTER_SAMPLES] if raster.layer == "input" else trace.spikes[raster.layer]
        flat = train.reshape(4, RASTER_SAMPLES, -1)
        assert raster.neurons == flat.shape[2]
        assert len(raster.shown) <= RASTER_NEURONS
        assert np.array_equal(raster.sent, flat[..., raster.shown])


def test_gates_stand_beside_their_calibrated_mean() -> None:
    assert pair(0)[0].gates == ()
    for form, one in (pair(1), pair(2)):
        (gate,) = form.gates
        mean = one.calibration.gates[gate.layer].mean
        assert gate.space_mean == pytest.approx(mean.mean(axis=(0, 1)))
        assert gate.variation == one.calibration.gates[gate.layer].variation
        assert gate.space_deviation.max() > 0
        assert gate.time_low is None or np.all(gate.time_low <= gate.time_high)


def test_folding_leaves_thresholds_and_computing_the_gate_none() -> None:
    static, dynamic = (pair(i)[0].gates[0] for i in (1, 2))
    assert dynamic.thresholds is None
    deployed = next(n for n in pair(1)[0].row.fixed.neurons if n.name == static.layer)
    assert static.thresholds == pytest.approx(deployed.v_threshold.mean(axis=0) * deployed.unit)
    assert np.corrcoef(static.thresholds.ravel(), 1 / static.space_mean.ravel())[0, 1] > 0.99


@EACH
def test_certificates_can_be_checked_again(i: int) -> None:
    form, one = pair(i)
    assert form.certificate is not None
    assert form.certificate.samples == form.verification.samples == CHECKED_SAMPLES
    assert recheck(form.certificate, form.row.fixed, one.clips[:, :CHECKED_SAMPLES]) == []


@pytest.mark.parametrize(("length", "most", "expected"), [(5, 10, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (1, 3, [0])])
def test_thinning_keeps_both_ends(length: int, most: int, expected: list[int]) -> None:
    assert thinned(length, most).tolist() == expected
