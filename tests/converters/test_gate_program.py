from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from gate_networks import T
from generated_gates import GATES, make_gate
from networks import captured, clips
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.gate_float import run_float
from spikefold.converters.gate_program import (
    FLOAT_OPS,
    INTEGER_OPS,
    SHARED_OPS,
    GateProgram,
    Step,
    broadcast_shape,
    conv2d_integer,
)
from spikefold.errors import FileFormatError

ONE = np.array(1)


def integer_program(kind: str) -> tuple[GateProgram, np.ndarray[Any, np.dtype[np.int64]]]:
    rng = np.random.default_rng(7)
    current = rng.integers(-5000, 5000, (5, 3, 4, 6, 6))
    return make_gate(rng, kind, current, 7), current


def through_text(program: GateProgram, allowed: frozenset[str]) -> GateProgram:
    plain, arrays = program.to_plain()
    return GateProgram.from_plain(json.loads(json.dumps(plain)), arrays, allowed)


@pytest.mark.parametrize("kind", GATES)
def test_an_integer_program_survives_text_bit_for_bit(kind: str) -> None:
    program, current = integer_program(kind)
    again = through_text(program, INTEGER_OPS)
    assert (again.input_shape, again.time_steps) == (program.input_shape, program.time_steps)
    assert [(s.op, s.inputs, dict(s.attributes)) for s in again.steps] == [
        (s.op, s.inputs, dict(s.attributes)) for s in program.steps
    ]
    np.testing.assert_array_equal(again.run_integer(current), program.run_integer(current))


@pytest.mark.parametrize("name", ["ASA", "FSTA", "channels then pixels"])
def test_a_float_program_survives_text_bit_for_bit(name: str) -> None:
    program = next(p.gate for p in read_float_graph(captured(name)[1]).populations if p.gate is not None)
    x = clips((T, 2, 4, 8, 8))
    assert torch.equal(run_float(through_text(program, FLOAT_OPS), x), run_float(program, x))


def test_infinite_limits_of_a_clip_survive_text() -> None:
    step = Step("clip", (0,), {"low": -float("inf"), "high": 0.5})
    again = through_text(GateProgram((2, -1, 3), (step,), 2), FLOAT_OPS)
    assert dict(again.steps[0].attributes) == {"low": -float("inf"), "high": 0.5}


def test_the_dialects_share_all_but_what_scales_mean() -> None:
    assert {"scale", "offset", "function", "divide"} == FLOAT_OPS - SHARED_OPS
    assert {"rescale", "look_up", "shift_divide", "square_root"} == INTEGER_OPS - SHARED_OPS


@pytest.mark.parametrize(
    ("step", "allowed", "message"),
    [
        ({"op": "explode", "inputs": [0], "attributes": {}}, FLOAT_OPS, "step 0: unknown operation 'explode'"),
        ({"op": "rescale", "inputs": [0], "attributes": {}}, FLOAT_OPS, "step 0: unknown operation 'rescale'"),
        ({"op": "function", "inputs": [0], "attributes": {}}, INTEGER_OPS, "step 0: unknown operation 'function'"),
        ({"op": "add", "inputs": [0, 1], "attributes": {}}, INTEGER_OPS, "do not come before it"),
        ({"op": "add", "inputs": [0, -1], "attributes": {}}, INTEGER_OPS, r"inputs is \[0, -1\]"),
        ({"op": "relu", "inputs": [], "attributes": {}}, INTEGER_OPS, "do not come before it"),
        ({"op": "matmul", "inputs": [0], "attributes": {}, "constant": 0}, INTEGER_OPS, "constant 0 is not in"),
        ({"op": "matmul", "inputs": [0], "attributes": {}, "constant": -1}, INTEGER_OPS, "constant is -1"),
    ],
)  # fmt: skip
def test_a_damaged_or_newer_program_is_refused_by_step(
    step: dict[str, Any], allowed: frozenset[str], message: str
) -> None:
    plain = {"input_shape": [2, -1, 3], "time_steps": 2, "steps": [step]}
    with pytest.raises(FileFormatError, match=message):
        GateProgram.from_plain(plain, [], allowed)


WHOLE_CONV = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
RESCALE = {"multiplier": -(2**63), "shift": 0, "limit": 2**63 - 1}


@pytest.mark.parametrize(
    ("op", "good", "bad"),
    [
        ("reshape", {"shape": [-1, 3]}, [{"shape": [-2, 3]}, {"shape": 3}]),
        ("permute", {"axes": [0, -9]}, [{"axes": [0, -11]}, {"axes": ["a"]}]),
        ("broadcast", {"shape": [-1]}, [{"shape": [-2]}]),
        ("slice", {"axis": 0, "start": None, "stop": 3}, [{"axis": None}, {"start": 0.5}, {"stop": "a"}]),
        ("sum", {"axes": [2], "keepdim": True}, [{"keepdim": 1}, {"axes": [-10]}]),
        ("clip", {"low": -3, "high": 2}, [{"low": 0.5}, {"high": 2**63}]),
        ("conv2d", WHOLE_CONV, [{"stride": [0, 1]}, {"stride": [1]}, {"padding": [0, -1]}, {"padding": [0, 0, 0]}]),
        ("conv2d", WHOLE_CONV, [{"dilation": [1, 0]}, {"groups": 0}]),
        ("topk_mask", {"k": 1, "axis": -1}, [{"k": 0}, {"axis": "a"}]),
        ("rescale", RESCALE, [{"multiplier": -(2**63) - 1}, {"limit": 2**63}, {"shift": 1.5}]),
        ("look_up", {"offset": -4}, [{"offset": None}]),
    ],
)  # fmt: skip
def test_attributes_at_their_limits_are_read_and_beyond_them_refused(
    op: str, good: dict[str, Any], bad: list[dict[str, Any]]
) -> None:
    def read(attributes: dict[str, Any], allowed: frozenset[str] = INTEGER_OPS) -> GateProgram:
        step = {"op": op, "inputs": [0], "attributes": attributes, "constant": 0}
        return GateProgram.from_plain({"input_shape": [2, -1, 3], "time_steps": 2, "steps": [step]}, [ONE], allowed)

    assert {k: list(v) if isinstance(v, tuple) else v for k, v in read(good).steps[0].attributes.items()} == good
    for wrong in bad:
        with pytest.raises(FileFormatError, match=f"gate step 0 .{op}.*{next(iter(wrong))}"):
            read({**good, **wrong})


@pytest.mark.parametrize(("op", "name"), [("clip", "low"), ("scale", "factor"), ("offset", "value")])
def test_float_attributes_are_numbers(op: str, name: str) -> None:
    for value in (0.5, -3, float("inf"), True, "a", float("nan")):
        step = {"op": op, "inputs": [0], "attributes": {"high": 1, name: value}}
        plain = {"input_shape": [2, -1, 3], "time_steps": 2, "steps": [step]}
        if type(value) in (int, float) and value == value:
            assert GateProgram.from_plain(plain, [], FLOAT_OPS).steps[0].attributes[name] == value
        else:
            with pytest.raises(FileFormatError, match=f"{name}.*a number is needed"):
                GateProgram.from_plain(plain, [], FLOAT_OPS)


def test_a_program_without_steps_or_of_no_time_is_refused() -> None:
    plain: dict[str, Any] = {"input_shape": [2, -1, 3], "time_steps": 2, "steps": []}
    with pytest.raises(FileFormatError, match="one or more"):
        GateProgram.from_plain(plain, [], INTEGER_OPS)
    relu = {"op": "relu", "inputs": [0], "attributes": {}}
    for wrong in ({"time_steps": 0}, {"input_shape": [-2, 3]}):
        with pytest.raises(FileFormatError, match=next(iter(wrong))):
            GateProgram.from_plain({**plain, "steps": [relu], **wrong}, [], INTEGER_OPS)


def test_the_batch_may_have_any_size() -> None:
    program, current = integer_program("top_k")
    whole = program.run_integer(current)
    for i in range(current.shape[1]):
        np.testing.assert_array_equal(program.run_integer(current[:, i : i + 1]), whole[:, i : i + 1])


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [
        ((1, 1), (0, 0), (1, 1), 1),
        ((2, 1), (1, 2), (1, 1), 1),
        ((1, 2), (2, 0), (2, 3), 2),
        ((3, 3), (1, 1), (1, 2), 4),
    ],
)
def test_an_integer_convolution_is_torchs(
    stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], groups: int
) -> None:
    rng = np.random.default_rng(3)
    x, weight = rng.integers(-99, 99, (2, 4, 9, 8)), rng.integers(-99, 99, (8, 4 // groups, 3, 2))
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    wanted = functional.conv2d(torch.from_numpy(x).double(), torch.from_numpy(weight).double(), None, **how)
    np.testing.assert_array_equal(conv2d_integer(x, weight, how), wanted.numpy())


def test_an_integer_convolution_is_exact_where_float64_is_not() -> None:
    x, weight = np.full((1, 1, 1, 2), 2**31 - 1), np.array([[[[2**31 - 1, 2**31 - 2]]]])
    how = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    assert conv2d_integer(x, weight, how).item() == (2**31 - 1) * (2**32 - 3)


def test_free_axes_are_filled_from_the_right() -> None:
    assert broadcast_shape((5, -1, 1, 4), (3, 1, 4)) == (5, 3, 1, 4)
    assert broadcast_shape((5, -1), (7,)) == (5, 7)


SHARED: dict[str, tuple[Step, ...]] = {
    "layout": (Step("permute", (0,), {"axes": (1, 0, 2)}), Step("reshape", (1,), {"shape": (-1, 6)})),
    "broadcast": (
        Step("sum", (0,), {"axes": (0, 2), "keepdim": True}), Step("broadcast", (1,), {"shape": (2, -1, 3)})
    ),
    "parts": (
        Step("slice", (0,), {"axis": 2, "start": 1, "stop": 3}), Step("max", (1,), {"axes": (2,), "keepdim": True}),
        Step("concat", (0, 2, 1), {"axis": 2}),
    ),
    "arithmetic": (
        Step("add_const", (0,), {}, np.array([1, -2, 3])), Step("multiply_const", (1,), {}, np.array([2, 0, -1])),
        Step("multiply", (0, 2)), Step("subtract", (3, 0)), Step("add", (4, 1)), Step("relu", (5,)),
        Step("clip", (6,), {"low": 2, "high": 40}),
    ),
    "matrix": (Step("matmul", (0,), {}, np.arange(6).reshape(3, 2) - 2),),
    "mask": (Step("topk_mask", (0,), {"k": 2, "axis": 2}),),
    "so far": (
        Step("running_sum", (0,)), Step("running_max", (1,)), Step("running_topk_mask", (0,), {"k": 1}),
        Step("multiply", (2, 3)),
    ),
    "table": (Step("table", (0,), {}, np.array([4, 7]).reshape(2, 1, 1)),),
    "picture": (
        Step("reshape", (0,), {"shape": (-1, 1, 2, 3)}),
        Step("conv2d", (1,), {"stride": (1, 2), "padding": (1, 0), "dilation": (1, 1), "groups": 1},
             np.arange(8).reshape(2, 1, 2, 2) - 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_step_means_the_same_in_both_dialects(name: str) -> None:
    current = np.random.default_rng(5).permutation(2 * 4 * 3).reshape(2, 4, 3) - 11
    program = GateProgram((2, -1, 3), SHARED[name], 2)
    got = program.run_integer(current)
    np.testing.assert_array_equal(run_float(program, torch.from_numpy(current).double()).numpy(), got)
    assert got.dtype == np.int64


def test_every_shared_step_is_compared() -> None:
    assert {step.op for steps in SHARED.values() for step in steps} == SHARED_OPS
