"""Each dialect against a literal loop over what the framework computes, and what it refuses."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spikefold.converters.dialects import DIALECTS, import_nir
from spikefold.converters.float_graph import read_float_graph
from spikefold.errors import FileFormatError, InputError

T, B, N, M = 20, 3, 7, 6
RNG = np.random.default_rng(11)
WEIGHT = RNG.normal(0, 0.7, (M, N)).astype(np.float32)
BIAS = RNG.normal(0, 0.1, M).astype(np.float32)
CLIPS = (RNG.random((T, B, N)) < 0.4).astype(np.float32)
CURRENT = CLIPS.astype(np.float64) @ WEIGHT.T.astype(np.float64) + BIAS
ONE, ZERO = np.ones(M), np.zeros(M)
SLOW, FAST = np.linspace(2, 9, M), np.linspace(1.5, 4, M)[::-1].copy()


def graph_of(neuron: Any) -> nir.NIRGraph:
    return nir.NIRGraph.from_list(nir.Affine(WEIGHT, BIAS), neuron)


def imported(neuron: Any, dialect: str, dt: float | None = None) -> NDArray[np.float32]:
    net = read_float_graph(import_nir(graph_of(neuron), dialect, dt))
    spikes: NDArray[np.float32] = net.run(torch.from_numpy(CLIPS))[1][net.populations[-1].name].numpy()
    return spikes


def same(got: NDArray[Any], wanted: list[NDArray[Any]]) -> None:
    found = np.stack(wanted)
    assert 0.03 < found.mean() < 0.7
    np.testing.assert_array_equal(got, found)


def lif(**changes: Any) -> nir.LIF:
    values = {"tau": SLOW * 1e-4, "r": SLOW, "v_leak": ZERO, "v_threshold": ONE * 0.6, "v_reset": ZERO}
    return nir.LIF(**{**values, **changes})


def cuba(**changes: Any) -> nir.CubaLIF:
    values = {
        "tau_mem": SLOW * 1e-4, "tau_syn": FAST * 1e-4, "r": SLOW, "w_in": FAST, "v_leak": ZERO,
        "v_threshold": ONE, "v_reset": ZERO,
    }  # fmt: skip
    return nir.CubaLIF(**{**values, **changes})


def test_nir_is_forward_euler_with_a_rest_a_gain_and_a_reset_of_each_neurons_own() -> None:
    r, rest, reset = np.linspace(1, 4, M), np.linspace(-0.2, 0.2, M), np.linspace(-0.3, 0.1, M)
    threshold = np.linspace(0.2, 0.5, M)
    v, wanted = np.zeros((B, M)), []
    for x in CURRENT:
        v = v + (rest - v + r * x) / SLOW
        s = v > threshold
        wanted.append(s)
        v = np.where(s, reset, v)
    same(imported(lif(r=r, v_leak=rest, v_reset=reset, v_threshold=threshold), "nir"), wanted)


def test_nir_drives_towards_a_rest_whatever_scales_the_input() -> None:
    v, wanted = np.zeros((B, M)), []
    for x in CURRENT:
        v = v + (0.3 - v + 2 * x) / 4
        s = v > 0.35
        wanted.append(s)
        v = np.where(s, 0, v)
    node = lif(tau=ONE * 4e-4, r=ONE * 2, v_leak=ONE * 0.3, v_threshold=ONE * 0.35)
    same(imported(node, "nir"), wanted)


def test_nir_lets_the_synapse_go_before_the_membrane() -> None:
    w_in, r = np.linspace(1, 3, M), np.linspace(5, 3, M)
    u, v, wanted = np.zeros((B, M)), np.zeros((B, M)), []
    for x in CURRENT:
        u = u + (-u + w_in * x) / FAST
        v = v + (-v + r * u) / SLOW
        s = v > 0.3
        wanted.append(s)
        v = np.where(s, 0, v)
    same(imported(cuba(w_in=w_in, r=r, v_threshold=ONE * 0.3), "nir"), wanted)


def test_a_threshold_node_is_a_neuron_without_memory() -> None:
    same(imported(nir.Threshold(ONE * 0.4), "nir"), [x > 0.4 for x in CURRENT])


def test_another_step_is_another_decay() -> None:
    v, wanted = np.zeros((B, M)), []
    for x in CURRENT:
        v = v * (1 - 0.5e-4 / (SLOW * 1e-4)) + 0.5 * x
        s = v > 0.6
        wanted.append(s)
        v = np.where(s, 0, v)
    same(imported(lif(), "nir", 0.5e-4), wanted)


def test_snntorch_divides_the_threshold_where_the_input_would_be_scaled() -> None:
    v, wanted = np.zeros((B, M)), []
    for x in CURRENT:
        v = v * (1 - 1 / SLOW) + x
        s = v > 0.3 / 0.25
        wanted.append(s)
        v = np.where(s, 0, v)
    same(imported(lif(r=SLOW * 0.25, v_threshold=ONE * 0.3), "snntorch"), wanted)


@pytest.mark.parametrize("version", ["1.1.0", "as its importer reads it"])
def test_norse_rests_and_starts_at_v_leak(version: str) -> None:
    tau = SLOW * 1e-3
    rest, v, wanted = np.linspace(-0.2, 0.1, M), np.linspace(-0.2, 0.1, M) + np.zeros((B, M)), []
    for x in CURRENT:
        v = v + (rest - v + x) / SLOW
        s = v > 0.15
        wanted.append(s)
        v = np.where(s, 0, v)
    written = 1e-3 * tau if version == "1.1.0" else tau
    same(imported(lif(tau=written, r=ONE, v_leak=rest, v_threshold=ONE * 0.15), "norse"), wanted)


@pytest.mark.parametrize("decays_input", [True, False])
def test_spikingjelly_fires_at_equality_and_rests_at_its_reset(decays_input: bool) -> None:
    half = np.array([0.5, 1.0, -0.5, 0.25, 1.5, 0.0], np.float32)  # dyadic, so that membranes meet thresholds exactly
    node = nir.LIF(tau=ONE * 2e-4, r=ONE if decays_input else ONE * 2, v_leak=-ONE, v_threshold=ONE * 0.5, v_reset=-ONE)
    graph = nir.NIRGraph.from_list(nir.Linear(np.tile(half[:, None], (1, N)) * 2), node)
    net = read_float_graph(import_nir(graph, "spikingjelly"))
    v, wanted, ties = -np.ones((B, M)), [], 0
    for x in CLIPS @ np.tile(half, (N, 1)) * 2:
        v = v + (x - (v + 1)) / 2 if decays_input else v - (v + 1) / 2 + x
        s = v >= 0.5
        ties += int((v == 0.5).sum())
        wanted.append(s)
        v = np.where(s, -1, v)
    assert ties
    np.testing.assert_array_equal(net.run(torch.from_numpy(CLIPS))[1][net.populations[-1].name].numpy(), wanted)


@pytest.mark.parametrize("leaks", [True, False])
def test_sinabs_counts_steps_and_takes_the_threshold_off(leaks: bool) -> None:
    v, wanted = np.zeros((B, M)), []
    for x in CURRENT:
        v = v * (np.exp(-1 / SLOW) if leaks else 1) + x
        s = v >= 0.8
        wanted.append(s)
        v = v - 0.8 * s
    if leaks:
        node = nir.LIF(tau=SLOW, r=ONE, v_leak=ZERO, v_threshold=ONE * 0.8)
    else:
        node = nir.IF(r=ONE, v_threshold=ONE * 0.8)
    same(imported(node, "sinabs-single-spike"), wanted)


@pytest.mark.parametrize("dt", [None, 2e-3])
def test_rockpool_decays_what_it_has_just_added(dt: float | None) -> None:
    tau_mem, tau_syn = SLOW * 1e-2, FAST * 1e-2
    r = tau_mem * np.exp(-1e-3 / tau_mem) / 1e-3
    step = float((tau_mem / (1 + r)).min()) if dt is None else dt
    i, v, wanted = np.zeros((B, M)), np.zeros((B, M)), []
    for x in CURRENT:
        i = np.exp(-step / tau_syn) * (i + x)
        v = np.exp(-step / tau_mem) * v + i
        s = v > 3
        wanted.append(s)
        v = v - 3 * s
    node = nir.CubaLIF(tau_mem=tau_mem, tau_syn=tau_syn, r=r, v_leak=ZERO, v_threshold=ONE * 3)
    same(imported(node, "rockpool-single-spike", dt), wanted)


@pytest.mark.parametrize(
    ("dialect", "node", "message"),
    [
        ("snntorch", lif(v_reset=-ONE), r"node 'lif' \(LIF\): v_reset is -1: snnTorch takes it to be 0"),
        ("snntorch", lif(v_leak=ONE), "v_leak is 1: snnTorch"),
        ("snntorch", lif(r=np.linspace(1, 2, M)), "r is .*: snnTorch scales all neurons by the factor of one"),
        ("snntorch", cuba(r=ONE), r"node 'cubalif' \(CubaLIF\): r is 1: snnTorch"),
        ("snntorch", nir.IF(r=ONE, v_threshold=ONE), r"node 'if' \(IF\): snnTorch makes a neuron of decay 0.9"),
        ("norse", lif(), "r is 2: Norse takes it to be 1"),
        ("norse", lif(r=ONE, v_reset=-ONE), "v_reset is -1: Norse"),
        ("norse", lif(r=ONE, tau=np.array([1e-5] * 5 + [2e-3])), "tau is 1e-05: neither a time constant"),
        ("spikingjelly", lif(r=ONE * 1.5), "r is 1.5: SpikingJelly reads 1 or tau / dt"),
        ("spikingjelly", lif(v_leak=ONE * 0.1), "v_leak is 0.1: SpikingJelly needs v_leak equal to v_reset"),
        ("spikingjelly", lif(tau=ONE * 1e-4, r=ONE), "tau is 0.0001: SpikingJelly needs more than one step"),
        ("spikingjelly", cuba(v_reset=-ONE), "v_reset is -1: SpikingJelly"),
        ("spikingjelly", nir.IF(r=ONE, v_threshold=ONE), "r is 1: SpikingJelly needs 1 / dt"),
        ("sinabs", nir.IF(r=ONE, v_threshold=ONE), "several spikes a step.*sinabs-single-spike"),
        ("sinabs", cuba(), "no reader for it and would leave it out"),
        ("sinabs-single-spike", lif(), "r is 2: sinabs takes it to be 1"),
        ("rockpool", cuba(), "several spikes a step.*rockpool-single-spike"),
        ("rockpool-single-spike", lif(), "Rockpool has no reader"),
        ("rockpool-single-spike", cuba(), "w_in is .*: Rockpool takes it to be 1"),
        ("nir", lif(tau=ONE * 0.5e-4), "tau is 5e-05: a time constant below the step of 0.0001 s"),
        ("nir", lif(v_threshold=-ONE), "v_threshold -1"),
        ("nir", lif(v_reset=ONE), "v_reset 1, "),
        ("nir", lif(r=-SLOW), "its input is scaled by -1"),
        ("nir", cuba(v_leak=ONE), "v_leak is 1: a rest of neurons with a synaptic current must be 0"),
        ("nir", lif(tau=SLOW * np.nan), "tau holds nan"),
        ("nir", nir.Threshold(ZERO), "v_threshold 0"),
    ],
)
def test_what_has_no_exact_meaning_is_refused_with_node_field_and_value(dialect: str, node: Any, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        import_nir(graph_of(node), dialect)


def test_dialects_and_steps_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="dialect is 'lava'; choose one of nir, snntorch"):
        import_nir(graph_of(lif()), "lava")
    with pytest.raises(InputError, match=r"dt = 0\.001: snntorch always takes steps of 0\.0001 s"):
        import_nir(graph_of(lif()), "snntorch", 1e-3)
    with pytest.raises(InputError, match="dt = -1: must be a number of seconds above 0"):
        import_nir(graph_of(lif()), "nir", -1)


def test_every_dialect_reads_or_refuses_every_neuron() -> None:
    kinds = {nir.LIF, nir.IF, nir.CubaLIF, nir.LI, nir.I, nir.CubaLI, nir.Threshold}
    for dialect in DIALECTS.values():
        assert {*dialect.rules, *dialect.refused} == kinds
