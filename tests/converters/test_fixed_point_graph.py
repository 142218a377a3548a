from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from generated_graphs import random_graph
from spikefold.converters.fixed_point_graph import MAX_EXPONENT, FixedPointGraph, InputPort, Neurons, Relay, Synapse
from spikefold.errors import FileFormatError, LoweringError


def neurons(name: str = "a", **changes: Any) -> Neurons:
    fields: dict[str, Any] = {
        "shape": (2, 3, 3), "dv": 100, "v_threshold": np.array(50), "bias_exponent": 0, "unit": 0.01,
        "bias_mantissa": np.zeros((2, 1, 1), dtype=np.int64),
    }  # fmt: skip
    return Neurons(name, **{**fields, **changes})


def synapse(**changes: Any) -> Synapse:
    fields: dict[str, Any] = {
        "name": "s", "source": "input", "target": "a", "kind": "conv", "weight": np.full((2, 1, 3, 3), 4),
    }  # fmt: skip
    return Synapse(**{**fields, **changes})


def relay(shift: int = 3, low: int = -5, high: int = 7, **changes: Any) -> Neurons:
    return neurons(**{"dv": 0, "fires": False, "relay": Relay(shift, low, high), **changes})


def graph(*populations: Neurons, synapses: tuple[Synapse, ...] = ()) -> FixedPointGraph:
    return FixedPointGraph(InputPort((1, 5, 5)), populations or (neurons(),), synapses or (synapse(),), "none", None)


def test_parts_that_fit_are_accepted() -> None:
    made = graph()
    assert made.output.name == "a"
    assert made.source_shape("input") == (1, 5, 5)
    assert [s.name for s in made.incoming("a")] == ["s"]


@pytest.mark.parametrize(
    ("populations", "synapses", "message"),
    [
        ((neurons(), neurons()), (), "neurons 'a': the name is used twice"),
        ((neurons("input"),), (synapse(target="input"),), "neurons 'input': the name is used twice"),
        ((neurons(), neurons("b")), (), "neurons 'b': no synapse leads to it"),
        ((), (synapse(source="b"),), "synapse 's': source 'b' is not before its target"),
        ((), (synapse(), synapse(name="t", target="z")), "synapse 't': target 'z' is not in the net"),
        ((), (synapse(weight=np.full((2, 1, 3, 3), 3)),), "synapse 's': weight 3..3: mantissas are even"),
        ((), (synapse(weight=np.full((2, 1, 3, 3), 256)),), "synapse 's': weight 256..256"),
        ((), (synapse(weight=np.full((2, 1, 3, 3), -258)),), "synapse 's': weight -258..-258"),
        ((), (synapse(exponent=MAX_EXPONENT + 1),), r"synapse 's': exponent is \d+, it must be 0\.\."),
        ((), (synapse(exponent=-1),), "synapse 's': exponent is -1"),
        ((), (synapse(stride=(2, 2)),), r"synapse 's': kernel \(2, 1, 3, 3\) on \(1, 5, 5\) gives \(2, 2, 2\)"),
        ((), (synapse(groups=2),), "synapse 's': kernel"),
        (
            (),
            (synapse(kind="dense", weight=np.zeros((18, 24), dtype=np.int64)),),
            r"shape \(18, 24\).*ask for \(18, 25\)",
        ),
        ((neurons(dv=4096),), (), r"neurons 'a': dv is 4096, it must be 0\.\.4095"),
        ((neurons(dv=-1),), (), "neurons 'a': dv is -1"),
        ((neurons(v_threshold=np.array(2**17)),), (), r"neurons 'a': v_threshold 131072\.\.131072 leaves 0\.\.131071"),
        ((neurons(v_threshold=np.array(-1)),), (), r"neurons 'a': v_threshold -1\.\.-1"),
        ((neurons(v_threshold=np.zeros((3, 3, 3), dtype=np.int64)),), (), "neurons 'a': v_threshold of shape"),
        ((neurons(bias_mantissa=np.full((2, 1, 1), 4096)),), (), "neurons 'a': bias mantissa 4096 is above 4095"),
        ((neurons(bias_mantissa=np.zeros(4, dtype=np.int64)),), (), "neurons 'a': bias_mantissa of shape"),
        (
            (neurons(bias_mantissa=np.zeros((4, 1, 2, 1, 1), dtype=np.int64)),),
            (),
            r"neurons 'a': bias_mantissa of shape \(4, 1, 2, 1, 1\) changes with the step.*\(None, 1\)",
        ),
        ((neurons(bias_exponent=8),), (), r"neurons 'a': bias exponent is 8, it must be 0\.\.7"),
        ((neurons(current_shift=7),), (), r"neurons 'a': current_shift is 7, it must be 0\.\.6"),
        ((neurons(current_shift=-1),), (), "neurons 'a': current_shift is -1"),
        (
            (neurons(v_reset=np.array(51)),),
            (),
            r"neurons 'a': v_reset 51\.\.51 must lie within -131071 and v_threshold",
        ),
        ((neurons(v_reset=np.array(-(2**17))),), (), r"neurons 'a': v_reset -131072\.\.-131072 must"),
        ((neurons(v_reset=np.array(0), fires=False),), (), "neurons 'a': v_reset .*belongs to neurons that fire"),
        ((neurons(v_reset=np.zeros(4, int)),), (), r"neurons 'a': v_reset of shape \(4,\) does not fit neurons"),
        ((relay(fires=True),), (), "neurons 'a': a relay neither fires nor remembers"),
        ((relay(dv=1),), (), "neurons 'a': a relay neither fires nor remembers"),
        ((relay(soft_reset=True),), (), "neurons 'a': a relay neither fires nor remembers"),
        ((relay(v_reset=np.array(0)),), (), "neurons 'a': v_reset"),
        ((relay(shift=24),), (), r"neurons 'a': relay Relay\(shift=24.*must be 0\.\.23"),
        ((relay(shift=-1),), (), "neurons 'a': relay"),
        ((relay(low=1),), (), "neurons 'a': relay .*low at most 0"),
        ((relay(high=0),), (), "neurons 'a': relay .*high above it"),
        ((relay(high=2**23),), (), "neurons 'a': relay .*within 8388607"),
        ((relay(low=-(2**23)),), (), "neurons 'a': relay .*within 8388607"),
        ((relay(),), (), "neurons 'a': a relay has no answer to give"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(
    populations: tuple[Neurons, ...], synapses: tuple[Synapse, ...], message: str
) -> None:
    with pytest.raises(LoweringError, match=message):
        graph(*populations, synapses=synapses)


@pytest.mark.parametrize("steps", [None, 3, 5])
def test_a_bias_schedule_has_the_steps_of_its_net(steps: int | None) -> None:
    made = random_graph(5, bias_schedule=True, time_steps=4)
    with pytest.raises(
        LoweringError, match=rf"neurons 'conv1': bias_mantissa .*must be those of the net, \({steps}, 1\)"
    ):
        dataclasses.replace(made, time_steps=steps)
    first = dataclasses.replace(made.neurons[0], bias_mantissa=np.zeros((4, 1, 3, 7, 6), dtype=np.int64))
    with pytest.raises(LoweringError, match="neurons 'conv1': bias_mantissa of shape"):
        dataclasses.replace(made, neurons=(first, *made.neurons[1:]))


@pytest.mark.parametrize(
    "how",
    [
        {}, {"gated": True, "residual": True}, {"per_neuron_thresholds": True}, {"bias_schedule": True},
        {"relays": True, "current_shifts": True, "gated": True},
        {"resets": ("value", "soft"), "per_neuron_thresholds": True}, {"relays": True, "resets": ("value",)},
    ],
)  # fmt: skip
def test_a_graph_survives_its_plain_form_bit_for_bit(how: dict[str, Any]) -> None:
    made = random_graph(5, **how)
    threshold = np.arange(made.neurons[0].size).reshape(made.neurons[0].shape)
    first = dataclasses.replace(made.neurons[0], static_threshold=threshold, unit=0.1 + 0.2)
    made = dataclasses.replace(made, neurons=(first, *made.neurons[1:]), provenance={"bits": 8})
    text, arrays = made.to_plain()
    again = FixedPointGraph.from_plain(text, arrays)
    assert again.to_plain()[0] == text
    assert again.neurons[0].unit.hex() == first.unit.hex()
    assert again.input == made.input
    for n, same in zip(made.neurons, again.neurons, strict=True):
        assert (n.relay, n.current_shift, n.soft_reset) == (same.relay, same.current_shift, same.soft_reset)
        assert (n.v_reset is None) == (same.v_reset is None)
        if n.v_reset is not None:
            np.testing.assert_array_equal(n.v_reset, same.v_reset)
    for a, b in zip(again.to_plain()[1], arrays, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("field", ["neurons", "synapses", "input", "attention", "time_steps", "spikefold_format"])
def test_a_missing_field_is_a_damaged_file(field: str) -> None:
    text, arrays = random_graph(5).to_plain()
    plain = json.loads(text)
    del plain[field]
    with pytest.raises(FileFormatError, match=f"{field} is missing"):
        FixedPointGraph.from_plain(json.dumps(plain), arrays)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"spikefold_format": 1}'])
def test_text_that_is_no_graph_is_a_damaged_file(text: str) -> None:
    with pytest.raises(FileFormatError, match="fixed-point metadata"):
        FixedPointGraph.from_plain(text, [])


def test_too_few_arrays_are_a_damaged_file() -> None:
    text, arrays = random_graph(5).to_plain()
    with pytest.raises(FileFormatError, match="weight refers to array"):
        FixedPointGraph.from_plain(text, arrays[:-1])


def test_a_net_without_the_newer_fields_is_written_as_before() -> None:
    text, _ = random_graph(5, gated=True).to_plain()
    assert not {"current_shift", "v_reset", "soft_reset", "relay"} & set(json.loads(text)["neurons"][0])


@pytest.mark.parametrize("change", [{"shift": None}, {"payload": 8}])
def test_a_damaged_relay_is_a_damaged_file(change: dict[str, Any]) -> None:
    text, arrays = random_graph(5, relays=True).to_plain()
    plain = json.loads(text)
    entry = next(e for e in plain["neurons"] if "relay" in e)
    entry["relay"] = {k: v for k, v in {**entry["relay"], **change}.items() if v is not None}
    with pytest.raises(FileFormatError, match=r"relay: .* damaged"):
        FixedPointGraph.from_plain(json.dumps(plain), arrays)


def test_what_each_population_sends() -> None:
    passed = relay(shift=8, low=-5, high=7, unit=0.25)
    made = graph(passed, neurons("b"), synapses=(synapse(), synapse(name="t", target="b")))
    assert [made.message_range(name) for name in ("input", "a", "b")] == [(0, 1), (-5, 7), (0, 1)]
    assert [made.is_graded(name) for name in ("input", "a", "b")] == [False, True, False]
    assert [n.is_readout for n in (passed, neurons(), neurons(fires=False))] == [False, False, True]
    assert (passed.message_unit, neurons().message_unit) == (0.25 * 2**8 / 2**6, 1.0)
    assert not graph(relay(low=0, high=1), neurons("b"), synapses=(synapse(), synapse(target="b"))).is_graded("a")
