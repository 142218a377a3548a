"""Our own processes, and stock synapses on negative messages, against the reference at the limits of the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from generated_gates import make_gate
from spikefold.converters.arithmetic import MAX_THRESHOLD, STATE_LIMIT
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Relay, Synapse
from spikefold.deploy.lava.plan import make_plan

if TYPE_CHECKING:
    from conftest import Check

pytestmark = pytest.mark.lava
ZERO = np.array(0)


def neurons(name: str, shape: tuple[int, ...], **fields: Any) -> Neurons:
    plain = {"dv": 0, "v_threshold": ZERO, "bias_mantissa": ZERO, "bias_exponent": 0, "unit": 1.0}
    return Neurons(name, shape, **{**plain, **fields})


def relay(name: str, shape: tuple[int, ...], how: Relay, **fields: Any) -> Neurons:
    return neurons(name, shape, fires=False, relay=how, **fields)


def readout(name: str, shape: tuple[int, ...], **fields: Any) -> Neurons:
    return neurons(name, shape, fires=False, **fields)


def test_relays_saturate_round_and_rectify(equal_in_lava: Check) -> None:
    """Currents of both signs on, around and beyond every limit, clipped at 24 bits by the bias."""
    rng = np.random.default_rng(0)
    kinds = {
        "fine": Relay(0, -STATE_LIMIT, STATE_LIMIT),
        "coarse": Relay(22, -1, 1),
        "lopsided": Relay(6, -3, 90000),
        "rectifier": Relay(3, 0, 2**17),
        "bit": Relay(20, 0, 1),
    }
    size = 60
    populations, synapses = [], []
    for number, (name, how) in enumerate(kinds.items()):
        bias = np.array((-1) ** number * 4095)
        populations.append(relay(name, (size,), how, bias_mantissa=bias, bias_exponent=7, current_shift=number))
        populations.append(readout(f"reads {name}", (3,)))
        weight = 2 * rng.integers(-128, 128, (size, 5))
        weight[:3, 0] = -256
        synapses.append(Synapse(f"to {name}", "input", name, "dense", weight, 15))
        synapses.append(Synapse(f"from {name}", name, f"reads {name}", "dense", 2 * rng.integers(-2, 3, (3, size))))
    graph = FixedPointGraph(InputPort((5,)), tuple(populations), tuple(synapses), "none", None)
    expected = equal_in_lava(graph, rng.integers(0, 2, (5, 2, 5)))
    for name, how in kinds.items():
        sent = expected.spikes[name]
        assert (sent.min(), sent.max()) == (how.low, how.high)


@pytest.mark.parametrize("kind", ["none", "temporal", "running", "table"])
def test_relays_behind_every_kind_of_gate(kind: str, equal_in_lava: Check) -> None:
    """A gate that waits for its clip, two that stream and none, each in an image of three layouts."""
    rng = np.random.default_rng(1)
    steps, shape = 4, (3, 4, 2)
    current = rng.integers(-(2**17), 2**17, (steps, 2, *shape))
    gate = None if kind == "none" else make_gate(rng, kind, current, 7)
    bias = rng.integers(-400, 400, (steps, 1, *shape))
    graph = FixedPointGraph(
        InputPort((7,), 3),
        (
            relay("signed", shape, Relay(7, -60, 90), gate=gate, gate_shift=7, bias_mantissa=bias, bias_exponent=3),
            neurons("spikes", (2, 4, 2), v_threshold=np.array(9000), v_reset=np.array(-500)),
            relay("sum", (5,), Relay(5, 0, 2000), current_shift=2),
            readout("answer", (4,), current_shift=1),
        ),
        (
            Synapse("in", "input", "signed", "dense", 2 * rng.integers(-128, 128, (24, 7)), 2),
            Synapse("conv", "signed", "spikes", "conv", 2 * rng.integers(-128, 128, (2, 3, 3, 3)), padding=(1, 1)),
            Synapse("flat", "signed", "sum", "dense", 2 * rng.integers(-128, 128, (5, 24))),
            Synapse("late", "spikes", "sum", "dense", 2 * rng.integers(-128, 128, (5, 16)), 4),
            Synapse("out", "sum", "answer", "dense", 2 * rng.integers(-128, 128, (4, 5))),
        ),
        "none" if gate is None else "dynamic",
        steps,
    )
    plan = make_plan(graph, steps, 3)
    assert plan.populations[0].gate == {"none": "none", "temporal": "clip"}.get(kind, "streaming")
    expected = equal_in_lava(graph, rng.integers(0, 4, (steps, 3, 7)))
    assert expected.spikes["signed"].min() < 0 < expected.spikes["signed"].max()
    assert 0 < expected.spikes["spikes"].mean() < 1


def test_neurons_of_every_shift_and_reset(equal_in_lava: Check) -> None:
    rng = np.random.default_rng(2)
    size = 40
    threshold = rng.integers(1000, 3000, size)
    resets: dict[str, dict[str, Any]] = {
        "zero": {},
        "below": {"v_reset": -rng.integers(0, 2000, size)},
        "lowest": {"v_reset": np.array(-MAX_THRESHOLD), "v_threshold": np.array(1)},
        "at threshold": {"v_reset": threshold},
        "soft": {"soft_reset": True},
        "soft at zero": {"soft_reset": True, "v_threshold": ZERO},
    }
    populations, synapses = [], []
    for number, (name, fields) in enumerate(resets.items()):
        dv = int(rng.choice([0, 300, 4095]))
        populations.append(neurons(name, (size,), **{"v_threshold": threshold, **fields}, dv=dv, current_shift=number))
        weight = 2 * rng.integers(-60, 128, (size, 6))
        synapses.append(Synapse(name, "input", name, "dense", weight, 9 - number))
    graph = FixedPointGraph(InputPort((6,)), tuple(populations), tuple(synapses), "none", None)
    expected = equal_in_lava(graph, rng.integers(0, 2, (8, 2, 6)))
    assert all(0 < expected.spikes[name].mean() < 1 for name in resets)
    assert expected.membranes["lowest"].min() <= -MAX_THRESHOLD << 6


def test_stock_synapses_up_to_the_last_sum_that_they_hold(equal_in_lava: Check) -> None:
    """Messages of both signs bring Conv to 2**23 - 2 and Dense to nearly 2**31, of both signs."""
    most = (2**23 - 2) // 254 // 2
    signs = np.array([1, -1]).reshape(2, 1, 1)
    weight = np.array([254, -254]).reshape(2, 1, 1, 1)
    full = Relay(0, -STATE_LIMIT, STATE_LIMIT)
    graph = FixedPointGraph(
        InputPort((1, 1, 2), 1),
        (
            relay("full", (2, 1, 2), full, bias_mantissa=4095 * signs, bias_exponent=7),
            relay("some", (2, 1, 2), Relay(0, -most, most)),
            readout("dense", (2,), current_shift=0),
            readout("conv", (2, 1, 2), current_shift=0),
        ),
        (
            Synapse("a", "input", "full", "conv", weight, 9),
            Synapse("b", "input", "some", "conv", weight, 9),
            Synapse("to dense", "full", "dense", "dense", np.array([[126, 0, -128, 0], [0, -128, 0, 126]])),
            Synapse("to conv", "some", "conv", "conv", np.array([[254, -254], [-254, 254]]).reshape(2, 2, 1, 1)),
        ),
        "none",
        None,
    )
    plan = make_plan(graph, 4, 1)
    assert not any(p.own_synapses for p in plan.populations)
    expected = equal_in_lava(graph, np.array([[1, 0], [0, 1], [1, 1], [0, 0]]).reshape(4, 1, 1, 1, 2))
    assert {-STATE_LIMIT, STATE_LIMIT} <= set(expected.spikes["full"].ravel().tolist())
    assert {-most, most} <= set(expected.spikes["some"].ravel().tolist())
    assert {508 * most, -508 * most} <= set(expected.membranes["conv"][0].ravel().tolist())


def test_own_synapses_where_stock_ones_would_wrap(equal_in_lava: Check) -> None:
    """One more, and Conv would wrap at 24 bits, Dense at 32; a stride that Conv cannot hold; all in one population."""
    rng = np.random.default_rng(3)
    weight = 2 * rng.integers(-128, 128, (3, 2, 2, 2))
    graph = FixedPointGraph(
        InputPort((2, 1, 140), 200),
        (
            relay("numbers", (2, 2, 3), Relay(2, -STATE_LIMIT, STATE_LIMIT)),
            neurons("spikes", (3, 3, 4), v_threshold=np.array(60000), dv=700, current_shift=0),
            readout("wide", (4,), current_shift=0),
            neurons("stock", (2, 1, 1), v_threshold=np.array(MAX_THRESHOLD)),
        ),
        (
            Synapse("in", "input", "numbers", "dense", 2 * rng.integers(-128, 128, (12, 280)), 7),
            Synapse("conv", "numbers", "spikes", "conv", weight, padding=(1, 1)),
            Synapse("dense", "numbers", "wide", "dense", 2 * rng.integers(-128, 128, (4, 12)), 4),
            Synapse(
                "stride", "input", "stock", "conv", np.array([[254, -256]] * 2)[..., None, None], 9, stride=(1, 140)
            ),
        ),
        "none",
        None,
    )
    plan = make_plan(graph, 5, 2)
    assert [p.own_synapses for p in plan.populations] == [set(), {"conv"}, {"dense"}, {"stride"}]
    assert [p.process for p in plan.populations] == ["own", "own", "own", "stock"]
    clips = rng.integers(0, 201, (5, 2, 2, 1, 140))
    expected = equal_in_lava(graph, clips)
    assert np.abs(expected.membranes["wide"]).max() > 2**22
    assert 0 < expected.spikes["spikes"].mean() < 1
