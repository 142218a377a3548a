from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from generated_graphs import random_graph
from spikefold.converters.fixed_point_graph import MAX_EXPONENT, FixedPointGraph, InputPort, Neurons, Synapse
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
    "how", [{}, {"gated": True, "residual": True}, {"per_neuron_thresholds": True}, {"bias_schedule": True}]
)
def test_a_graph_survives_its_plain_form_bit_for_bit(how: dict[str, bool]) -> None:
    made = random_graph(5, **how)  # type: ignore[arg-type]
    threshold = np.arange(made.neurons[0].size).reshape(made.neurons[0].shape)
    first = dataclasses.replace(made.neurons[0], static_threshold=threshold, unit=0.1 + 0.2)
    made = dataclasses.replace(made, neurons=(first, *made.neurons[1:]), provenance={"bits": 8})
    text, arrays = made.to_plain()
    again = FixedPointGraph.from_plain(text, arrays)
    assert again.to_plain()[0] == text
    assert again.neurons[0].unit.hex() == first.unit.hex()
    assert again.input == made.input
    for a, b in zip(again.to_plain()[1], arrays, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("field", ["neurons", "synapses", "input", "attention", "time_steps", "spikefold_format"])
def test_a_missing_field_is_a_damaged_file(field: str) -> None:
    text, arrays = random_graph(5).to_plain()
    plain = json.loads(text)
    del plain[field]
    with pytest.raises(FileFormatError, match=f"damaged: KeyError '{field}'"):
        FixedPointGraph.from_plain(json.dumps(plain), arrays)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"spikefold_format": 1}'])
def test_text_that_is_no_graph_is_a_damaged_file(text: str) -> None:
    with pytest.raises(FileFormatError, match="fixed-point metadata is damaged"):
        FixedPointGraph.from_plain(text, [])


def test_too_few_arrays_are_a_damaged_file() -> None:
    text, arrays = random_graph(5).to_plain()
    with pytest.raises(FileFormatError, match="damaged: IndexError"):
        FixedPointGraph.from_plain(text, arrays[:-1])
