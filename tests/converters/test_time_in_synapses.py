"""Current memory, delays and loops: the reference against neurons run one by one, and the proved range of currents."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from generated_gates import make_gate
from spikefold.converters.arithmetic import WRAP, synaptic_current
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Relay, Synapse
from spikefold.converters.ranges import can_wrap, current_range, sum_bound, synaptic_range
from spikefold.converters.reference import run_reference
from spikefold.errors import LoweringError

ZERO = np.array(0)


def neurons(name: str, size: int, **fields: Any) -> Neurons:
    plain: dict[str, Any] = {
        "dv": 300, "v_threshold": np.array(60), "bias_mantissa": ZERO, "bias_exponent": 0, "unit": 1.0,
    }  # fmt: skip
    return Neurons(name, (size,), **{**plain, **fields})


def dense(source: str, target: str, weight: NDArray[np.int64], **fields: Any) -> Synapse:
    return Synapse(f"{source}->{target}", source, target, "dense", weight, **fields)


def everything(seed: int) -> FixedPointGraph:
    """Three populations, two of them in a loop, one of which feeds itself; every neuron has its own times."""
    rng = np.random.default_rng(seed)

    def weight(targets: int, sources: int) -> NDArray[np.int64]:
        return 2 * rng.integers(-60, 90, (targets, sources))

    populations = (
        neurons("a", 4, du=rng.integers(0, 4096, 4), dv=rng.integers(0, 4096, 4), bias_mantissa=np.array(90)),
        neurons("b", 3, du=700, v_reset=np.array(-9)),
        neurons("out", 2, du=2000, dv=50, fires=False),
    )
    synapses = (
        dense("input", "a", weight(4, 5), delay=rng.integers(0, 3, 5)),
        dense("a", "a", weight(4, 4), delay=rng.integers(1, 4, 4)),
        dense("a", "b", weight(3, 4)),
        dense("b", "a", weight(4, 3), delay=2),
        dense("b", "out", weight(2, 3), delay=1, exponent=1),
    )
    return FixedPointGraph(InputPort((5,), 3), populations, synapses, "none", None)


def one_by_one(graph: FixedPointGraph, clip: NDArray[np.int64]) -> dict[tuple[str, int, int], tuple[int, int]]:
    """Messages and membranes by population, step and neuron, in whole numbers of Python."""
    found: dict[tuple[str, int, int], tuple[int, int]] = {}
    us, vs = ({(n.name, i): 0 for n in graph.neurons for i in range(n.size)} for _ in range(2))

    def cut(value: int, keep: int) -> int:
        return (1 if value > 0 else -1) * (abs(value) * keep // 4096)

    for t, n in ((t, n) for t in range(len(clip)) for n in graph.neurons):
        du, dv, bias = (np.broadcast_to(x, n.shape).tolist() for x in (n.du, n.dv, n.bias))
        reset = 0 if n.v_reset is None else int(n.v_reset) * 64
        for i in range(n.size):
            total = 0
            for s in graph.incoming(n.name):
                late = np.broadcast_to(s.delay, graph.source_shape(s.source)).tolist()
                for j, d in enumerate(late):
                    if t >= d:
                        sent = clip[t - d, j] if s.source == "input" else found[s.source, t - d, j][0]
                        total += int(s.effective_weight[i, j]) * int(sent)
            u = cut(us[n.name, i], 4095 - du[i]) + total * 64
            us[n.name, i] = u - WRAP if u > WRAP // 2 else u + WRAP if u <= -WRAP // 2 else u
            v = cut(vs[n.name, i], 4096 - dv[i]) + us[n.name, i] + bias[i]
            v = min(2**23 - 1, max(1 - 2**23, v))
            fires = n.fires and v > int(n.v_threshold) * 64
            vs[n.name, i] = reset if fires else v
            found[n.name, t, i] = int(fires), vs[n.name, i]
    return found


@pytest.mark.parametrize("seed", [1, 2, 4, 5])
def test_memory_delays_and_loops_are_those_of_neurons_run_one_by_one(seed: int) -> None:
    graph = everything(seed)
    clips = np.random.default_rng(seed).integers(0, 4, (9, 2, 5))
    trace = run_reference(graph, clips)
    for sample in range(2):
        wanted = one_by_one(graph, clips[:, sample])
        for (name, t, i), (message, v) in wanted.items():
            assert (trace.spikes[name][t, sample, i], trace.membranes[name][t, sample, i]) == (message, v), (name, t, i)
    assert all(0 < trace.spikes[name].mean() < 1 for name in ("a", "b"))


def test_blocks_are_loops_and_what_lies_between_them() -> None:
    graph = everything(0)
    assert [[n.name for n in block] for block in graph.blocks] == [["a", "b"], ["out"]]
    assert [graph.is_loop(block) for block in graph.blocks] == [True, False]
    alone = replace(graph, synapses=tuple(s for s in graph.synapses if s.name != "b->a"))
    assert [[n.name for n in block] for block in alone.blocks] == [["a"], ["b"], ["out"]]
    assert [alone.is_loop(block) for block in alone.blocks] == [True, False, False]


def test_a_population_may_come_after_its_target_without_a_loop() -> None:
    """The order of the list then is not that of the blocks."""
    one = np.array([[2]])
    graph = FixedPointGraph(
        InputPort((1,)),
        (neurons("late", 1), neurons("early", 1, v_threshold=ZERO)),
        (dense("early", "late", one, delay=1), dense("input", "early", one)),
        "none",
        None,
    )
    assert [[n.name for n in block] for block in graph.blocks] == [["early"], ["late"]]
    assert run_reference(graph, np.ones((3, 1, 1), dtype=np.int64)).membranes["late"].ravel().tolist() == [0, 128, 246]


def test_nothing_arrives_from_before_the_clip_or_after_it() -> None:
    """A delay as long as the clip is silence, one step shorter brings the first step to the last."""
    for delay, wanted in ((4, [0, 0, 0, 0]), (3, [0, 0, 0, 640])):
        synapse = dense("input", "n", np.array([[10]]), delay=delay)
        graph = FixedPointGraph(InputPort((1,)), (neurons("n", 1, fires=False, dv=0),), (synapse,), "none", None)
        trace = run_reference(graph, np.array([1, 0, 0, 0]).reshape(4, 1, 1))
        assert trace.membranes["n"].ravel().tolist() == wanted


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"du": 4096}, r"neurons 'n': du is 4096, it must be 0\.\.4095"),
        ({"du": np.array([0, 0, -1])}, r"neurons 'n': du is -1\.\.0"),
        ({"du": np.zeros(2, dtype=np.int64)}, "neurons 'n': du of shape .2,. does not fit"),
        ({"dv": np.array([0, 4096, 1])}, r"neurons 'n': dv is 0\.\.4096"),
        ({"dv": np.zeros((1, 3), dtype=np.int64)}, "neurons 'n': dv of shape .1, 3. does not fit"),
        ({"dv": np.array([0.5, 1.0, 2.0])}, "neurons 'n': dv is"),
        (
            {"dv": 0, "du": 9, "fires": False, "relay": Relay(0, 0, 9)},
            "neurons 'n': a population with a gate or a",
        ),
    ],
)
def test_times_that_do_not_fit_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    synapses = (
        dense("input", "n", np.zeros((3, 2), dtype=np.int64)),
        dense("n", "out", np.zeros((1, 3), dtype=np.int64)),
    )
    with pytest.raises(LoweringError, match=message):
        FixedPointGraph(InputPort((2,)), (neurons("n", 3, **fields), neurons("out", 1)), synapses, "none", None)


@pytest.mark.parametrize(
    ("source", "delay", "message"),
    [
        ("n", 0, "source 'n' is not before its target; only where every delay is 1 step or more"),
        ("n", np.array([1, 0, 1]), "source 'n' is not before its target"),
        ("later", np.array([1, 0, 1]), "source 'later' is not before its target"),
        ("n", -1, "source 'n' is not before its target"),
        ("input", np.array([1, -1, 1]), r"delay is -1\.\.1; it is whole steps, 0 or more"),
        ("input", 1.5, "delay is 1.5..1.5; it is whole steps"),
        ("input", np.ones(2, dtype=np.int64), "delay of shape .2,. does not fit its source .3,."),
    ],
)
def test_delays_that_do_not_fit_are_refused_by_name(source: str, delay: Any, message: str) -> None:
    square = np.zeros((3, 3), dtype=np.int64)
    synapses = (Synapse("s", source, "n", "dense", square, delay=delay), dense("n", "later", square))
    with pytest.raises(LoweringError, match=f"synapse 's': {message}"):
        FixedPointGraph(InputPort((3,)), (neurons("n", 3), neurons("later", 3)), synapses, "none", None)


def test_a_gate_in_a_loop_must_be_a_table() -> None:
    rng = np.random.default_rng(0)
    current = rng.integers(-(2**14), 2**14, (4, 2, 3))
    square = 2 * rng.integers(-9, 30, (3, 3))
    synapses = (dense("input", "n", square), dense("n", "n", square, delay=1))

    def made(kind: str) -> FixedPointGraph:
        gated = neurons("n", 3, gate=make_gate(rng, kind, current, 7), gate_shift=7)
        return FixedPointGraph(InputPort((3,)), (gated,), synapses, "scheduled", 4)

    assert run_reference(made("table"), np.ones((4, 1, 3), dtype=np.int64)).spikes["n"].any()
    with pytest.raises(LoweringError, match="neurons 'n': its gate reads several steps of its current, which the loop"):
        made("temporal")


def test_files_keep_times_and_those_of_nets_without_are_as_before() -> None:
    graph = everything(1)
    text, arrays = graph.to_plain()
    again = FixedPointGraph.from_plain(text, arrays)
    assert again.to_plain()[0] == text
    clips = np.random.default_rng(0).integers(0, 4, (6, 1, 5))
    one, other = run_reference(graph, clips), run_reference(again, clips)
    assert all((one.membranes[k] == other.membranes[k]).all() for k in one.membranes)
    plain = replace(
        graph,
        neurons=tuple(replace(n, du=4095, dv=7) for n in graph.neurons),
        synapses=tuple(replace(s, delay=0) for s in graph.synapses if s.name not in ("a->a", "b->a")),
    )
    assert "delay" not in plain.to_plain()[0]
    assert '"du"' not in plain.to_plain()[0]


@pytest.mark.parametrize("du", [0, 40, 1000, 4094, 4095])
@pytest.mark.parametrize(("positive", "negative", "exponent"), [(254, -2, 0), (90, -200, 3), (254, -256, 9), (2, 0, 0)])
def test_no_input_leads_out_of_the_proved_range_of_currents(
    du: int, positive: int, negative: int, exponent: int
) -> None:
    weight = np.array([[positive, negative]])
    bias = np.array([-900])
    population = neurons("n", 1, du=du, bias_mantissa=bias)
    graph = FixedPointGraph(
        InputPort((2,)), (population,), (dense("input", "n", weight, exponent=exponent),), "none", None
    )
    (low, high), wraps = synaptic_range(graph, population), can_wrap(graph, population)
    rng, steps = np.random.default_rng(0), 2000
    patterns = [np.tile([1, 0], (steps, 1)), np.tile([0, 1], (steps, 1)), rng.integers(0, 2, (steps, 2))]
    events = np.stack([*patterns, np.repeat(rng.integers(0, 2, (steps // 20, 2)), 20, axis=0)], axis=1)
    u, reached, wrapped = np.zeros(4, dtype=np.int64), [0], False
    for total in (events @ weight[0]) << (exponent + 6):
        before, u = u, synaptic_current(u, total, du)
        reached += u.tolist()
        wrapped |= bool((np.abs(u - before) > WRAP // 2).any())
    assert low <= min(reached) <= max(reached) <= high
    assert wraps or not wrapped
    assert current_range(graph, population) == (low - 900, high)
    assert sum_bound(graph, population) >= max(abs(b) for b in reached)
    if not wraps:  # what a step adds for ever is the worst there is, but for what rounding takes
        assert (max(reached), min(reached)) == (high, low) or du < 1000


def test_a_current_that_wrapping_once_does_not_hold_is_refused() -> None:
    population = neurons("n", 1, du=0)
    graph = FixedPointGraph(
        InputPort((1,), 300), (population,), (dense("input", "n", np.array([[254]]), exponent=10),), "none", None
    )
    with pytest.raises(LoweringError, match=r"neurons 'n': the current that it remembers .* outside 32 bits"):
        synaptic_range(graph, population)


def test_a_remembered_current_halves_and_rounds_toward_zero() -> None:
    u, seen = np.array([1001]), []
    for _ in range(6):
        u = synaptic_current(u, np.zeros(1, dtype=np.int64), 2047)
        seen.append(int(u[0]))
    assert seen == [500, 250, 125, 62, 31, 15]
    assert all(later == before // 2 for before, later in pairwise([1001, *seen]))
