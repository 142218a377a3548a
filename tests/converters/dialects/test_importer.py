"""Whole graphs: chains, sums, graphs inside graphs, circles, delays, readouts, each against a literal computation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from spikefold.converters.calibrate import calibrate
from spikefold.converters.dialects import import_nir
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.quantise import quantise
from spikefold.converters.reference import run_reference
from spikefold.deploy.run import run
from spikefold.errors import FileFormatError

T, B = 12, 3


def events(*shape: int) -> Tensor:
    return (torch.rand((T, B, *shape), generator=torch.Generator().manual_seed(3)) < 0.4).float()


def weights(*shape: int, seed: int = 1, scale: float = 0.5) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def fires(*shape: int, threshold: float = 0.5, steps: float = 2.0) -> nir.LIF:
    one = np.ones(shape)
    return nir.LIF(tau=one * steps * 1e-4, r=one * steps, v_leak=0 * one, v_threshold=one * threshold)


def leaky(currents: Sequence[Tensor] | Tensor, threshold: float = 0.5, decay: float = 0.5) -> Tensor:
    v, spikes = torch.zeros_like(currents[0]), []
    for x in currents:
        v = decay * v + x
        s = (v > threshold).to(v.dtype)
        v = v * (1 - s)
        spikes.append(s)
    return torch.stack(spikes)


def graph(nodes: dict[str, Any], *chains: str, shape: tuple[int, ...], out: tuple[int, ...]) -> nir.NIRGraph:
    """Edges from chains such as "input conv lif output"."""
    ends = {"input": nir.Input({"input": np.array(shape)}), "output": nir.Output({"output": np.array(out)})}
    edges = [e for chain in chains for e in zip(chain.split(), chain.split()[1:], strict=False)]
    return nir.NIRGraph({**ends, **nodes}, edges, type_check=False)


def spikes_of(g: nir.NIRGraph, clips: Tensor) -> Tensor:
    net = read_float_graph(import_nir(g))
    return net.run(clips)[1][net.populations[-1].name]


def same(got: Tensor, wanted: Tensor) -> None:
    assert 0.02 < float(wanted.mean()) < 0.8
    assert torch.equal(got.reshape(wanted.shape), wanted.to(got.dtype))


def merged(x: Tensor, layer: Any) -> Tensor:
    y: Tensor = layer(x.flatten(0, 1))
    return y.reshape(*x.shape[:2], *y.shape[1:])


def test_convolutions_pools_scales_and_flattening_compose() -> None:
    conv, bias = weights(6, 2, 3, 2), weights(6, seed=2, scale=0.1)
    scale = np.broadcast_to(np.linspace(0.5, 1.5, 6)[:, None, None], (6, 4, 8)).copy()
    dense, shift = weights(5, 24, seed=4), weights(5, seed=5, scale=0.1)
    nodes = {
        "conv": nir.Conv2d(None, conv, (2, 1), (1, 0), (1, 2), 2, bias), "scale": nir.Scale(scale),
        "lif": fires(6, 4, 8), "avg": nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "sum": nir.SumPool2d(np.array([1, 2]), np.array([1, 2]), np.array([0, 0])),
        "flat": nir.Flatten(None, 0, -1), "dense": nir.Affine(dense, shift), "end": fires(5),
    }  # fmt: skip
    x = events(4, 8, 10)
    y = merged(x, lambda v: functional.conv2d(v, torch.tensor(conv), torch.tensor(bias), (2, 1), (1, 0), (1, 2), 2))
    hidden = leaky(y * torch.tensor(scale).float())
    pooled = merged(hidden, lambda v: functional.avg_pool2d(v, 2))
    pooled = merged(pooled, lambda v: functional.avg_pool2d(v, (1, 2)) * 2)
    wanted = leaky(pooled.flatten(2) @ torch.tensor(dense).T + torch.tensor(shift))
    g = graph(nodes, "input conv scale lif avg sum flat dense end output", shape=(4, 8, 10), out=(5,))
    same(spikes_of(g, x), wanted)


@pytest.mark.parametrize("padding", [1, "same"])
def test_one_dimensional_convolutions_run_on_pictures_of_one_row(padding: Any) -> None:
    conv, dense = weights(4, 2, 3), weights(3, 36, seed=2)
    nodes = {
        "conv": nir.Conv1d(None, conv, 1, padding, 1, 1, np.zeros(4, np.float32)), "lif": fires(4, 9),
        "flat": nir.Flatten(None, 0, -1), "dense": nir.Linear(dense), "end": fires(3),
    }  # fmt: skip
    x = events(2, 9)
    hidden = leaky(merged(x, lambda v: functional.conv1d(v, torch.tensor(conv), padding=1)))
    wanted = leaky(hidden.flatten(2) @ torch.tensor(dense).T)
    g = graph(nodes, "input conv lif flat dense end output", shape=(2, 9), out=(3,))
    same(spikes_of(g, x.unsqueeze(3)), wanted)


def test_several_edges_into_a_node_are_a_sum() -> None:
    a, b = weights(6, 6), weights(6, 6, seed=2)
    nodes = {"a": nir.Linear(a), "b": nir.Linear(b), "one": fires(6), "two": fires(6, threshold=0.7)}
    x = events(6)
    one = leaky(x @ torch.tensor(a).T)
    wanted = leaky(one @ torch.tensor(b).T + one + x, 0.7)
    g = graph(nodes, "input a one b two output", "one two", "input two", shape=(6,), out=(6,))
    same(spikes_of(g, x), wanted)


def recurrent_nodes() -> dict[str, Any]:
    return {
        "in": nir.Linear(weights(6, 5)), "lif": fires(6), "back": nir.Affine(weights(6, 6, seed=2), weights(6, seed=3)),
    }  # fmt: skip


def recurrent_spikes(x: Tensor) -> Tensor:
    nodes = recurrent_nodes()
    first, back, bias = (torch.tensor(v) for v in (nodes["in"].weight, nodes["back"].weight, nodes["back"].bias))
    v, s, found = torch.zeros(B, 6), torch.zeros(B, 6), []
    for step in x:
        v = 0.5 * v + step @ first.T + s @ back.T + bias
        s = (v > 0.5).float()
        v = v * (1 - s)
        found.append(s)
    return torch.stack(found)


def test_what_leads_back_to_its_neurons_comes_a_step_late() -> None:
    x = events(5)
    g = graph(recurrent_nodes(), "input in lif output", "lif back lif", shape=(5,), out=(6,))
    same(spikes_of(g, x), recurrent_spikes(x))


def test_a_graph_inside_a_graph_is_its_nodes(tmp_path: Path) -> None:
    nodes = recurrent_nodes()
    ends = {"input": nir.Input({"input": np.array([6])}), "output": nir.Output({"output": np.array([6])})}
    inner = nir.NIRGraph(
        {**ends, "lif": nodes["lif"], "back": nodes["back"]},
        [("input", "lif"), ("lif", "back"), ("back", "lif"), ("lif", "output")],
    )
    g = graph({"in": nodes["in"], "layer": inner}, "input in layer output", shape=(5,), out=(6,))
    nir.write(str(tmp_path / "nested.nir"), g)
    x = events(5)
    net = read_float_graph(import_nir(tmp_path / "nested.nir"))
    assert [p.name for p in net.populations] == ["layer_lif"]
    same(net.run(x)[1]["layer_lif"], recurrent_spikes(x))


def circle(*extra: str, back: str = "two w one") -> nir.NIRGraph:
    nodes = {
        "in": nir.Linear(weights(6, 5)), "one": fires(6), "v": nir.Linear(weights(6, 6, seed=2)), "two": fires(6),
        "w": nir.Linear(weights(6, 6, seed=3)), "other": nir.Linear(weights(6, 5, seed=4)),
        "late": nir.Delay(np.full(6, 2e-4)),
    }  # fmt: skip
    used = {n for chain in (*extra, back, "input in one v two output") for n in chain.split()}
    kept = {n: node for n, node in nodes.items() if n in used}
    return graph(kept, "input in one v two output", back, *extra, shape=(5,), out=(6,))


@pytest.mark.parametrize("delay", [1, 2])
def test_a_circle_of_two_populations_is_late_where_signals_enter_or_where_it_says(delay: int) -> None:
    g = circle(back="two w one" if delay == 1 else "two late w one")
    into, over, back = (torch.tensor(g.nodes[n].weight) for n in ("in", "v", "w"))
    x = events(5)
    v1 = v2 = torch.zeros(B, 6)
    sent = [torch.zeros(B, 6)] * delay
    for step in x:
        v1 = 0.5 * v1 + step @ into.T + sent[-delay] @ back.T
        s1 = (v1 > 0.5).float()
        v1 = v1 * (1 - s1)
        v2 = 0.5 * v2 + s1 @ over.T
        s2 = (v2 > 0.5).float()
        v2 = v2 * (1 - s2)
        sent.append(s2)
    same(spikes_of(g, x), torch.stack(sent[delay:]))


def test_a_circle_that_signals_enter_twice_is_refused_unless_it_has_a_delay() -> None:
    with pytest.raises(FileFormatError, match=r"\['one', 'two'\] form a circle that signals enter at \['one', 'two'\]"):
        import_nir(circle("input other two"))
    import_nir(circle("input other two", back="two late w one"))


@pytest.mark.parametrize("steps", [[3] * 5, [0, 1, 2, 3, 14]])
def test_delays_before_weights_are_those_of_the_source(steps: list[int]) -> None:
    w = weights(6, 5, scale=0.8)
    nodes = {
        "late": nir.Delay(np.array(steps) * 1e-4),
        "w": nir.Affine(w, weights(6, seed=2, scale=0.2)),
        "lif": fires(6),
    }
    x = events(5)
    arrived = torch.zeros_like(x)
    for neuron, d in enumerate(steps):
        arrived[d:, :, neuron] = x[: max(T - d, 0), :, neuron]
    wanted = leaky(arrived @ torch.tensor(w).T + torch.tensor(nodes["w"].bias))
    same(spikes_of(graph(nodes, "input late w lif output", shape=(5,), out=(6,)), x), wanted)


def test_delays_that_are_no_whole_steps_or_come_behind_a_bias_are_refused() -> None:
    nodes = {"late": nir.Delay(np.full(5, 1.5e-4)), "w": nir.Linear(weights(6, 5)), "lif": fires(6)}
    with pytest.raises(FileFormatError, match=r"node 'late' \(Delay\): delay 0.00015 .* whole steps of 0.0001 s"):
        import_nir(graph(nodes, "input late w lif output", shape=(5,), out=(6,)))
    nodes = {"w": nir.Affine(weights(6, 5), weights(6)), "late": nir.Delay(np.full(6, 1e-4)), "lif": fires(6)}
    with pytest.raises(FileFormatError, match=r"node 'late' \(Delay\): delays what a layer with a bias made"):
        import_nir(graph(nodes, "input w late lif output", shape=(5,), out=(6,)))


@pytest.mark.parametrize("kind", ["I", "LI", "CubaLI"])
def test_an_integrator_answers_with_its_last_membrane(kind: str) -> None:
    w, one = weights(4, 5), np.ones(4)
    tau, syn = np.linspace(2, 5, 4) * 1e-4, np.linspace(3, 2, 4) * 1e-4
    node = {
        "I": nir.I(r=one * 1e4), "LI": nir.LI(tau=tau, r=tau * 1e4, v_leak=0 * one),
        "CubaLI": nir.CubaLI(tau_syn=syn, tau_mem=tau, r=tau * 1e4, v_leak=0 * one, w_in=syn * 1e4),
    }[kind]  # fmt: skip
    nodes = {"a": nir.Linear(weights(5, 5, seed=2)), "lif": fires(5), "w": nir.Linear(w), "end": node}
    x = events(5)
    u = v = torch.zeros(B, 4)
    for c in leaky(x @ torch.tensor(nodes["a"].weight).T) @ torch.tensor(w).T:
        u = u * torch.tensor(1 - 1e-4 / syn).float() + c if kind == "CubaLI" else c
        v = (v if kind == "I" else v * torch.tensor(1 - 1e-4 / tau).float()) + u
    graph_ = import_nir(graph(nodes, "input a lif w end output", shape=(5,), out=(4,)))
    torch.testing.assert_close(read_float_graph(graph_).run(x)[0], v / T, rtol=1e-5, atol=1e-6)
    whole = x.numpy().astype(np.uint8)
    fixed = quantise(graph_, calibrate(graph_, whole))
    assert fixed.output.is_readout
    np.testing.assert_allclose(run_reference(fixed, whole).logits, v / T, atol=0.05)


def test_an_integrator_in_the_middle_is_refused() -> None:
    nodes = {"li": nir.I(r=np.full(5, 1e4)), "w": nir.Linear(weights(6, 5)), "lif": fires(6)}
    with pytest.raises(FileFormatError, match=r"node 'li' \(I\): is read by other nodes"):
        import_nir(graph(nodes, "input li w lif output", shape=(5,), out=(6,)))


def test_thresholds_of_each_pixel_and_scales_of_each_pixel_are_kept() -> None:
    conv = weights(3, 2, 3, 3)
    scale, threshold = abs(weights(3, 4, 4, seed=2)) + 0.5, abs(weights(3, 4, 4, seed=3)) + 0.2
    lif = nir.IF(r=np.full((3, 4, 4), 1e4), v_threshold=threshold)
    nodes = {"conv": nir.Conv2d(None, conv, 1, 1, 1, 1, np.zeros(3, np.float32)), "scale": nir.Scale(scale), "lif": lif}
    x = events(2, 4, 4)
    current = merged(x, lambda v: functional.conv2d(v, torch.tensor(conv), padding=1)) * torch.tensor(scale)
    wanted = leaky(current, torch.tensor(threshold), 1.0)  # type: ignore[arg-type]
    same(spikes_of(graph(nodes, "input conv scale lif output", shape=(2, 4, 4), out=(3, 4, 4)), x), wanted)


def test_two_padded_convolutions_in_a_row_keep_their_border() -> None:
    a, b = weights(3, 2, 3, 3), weights(3, 3, 3, 3, seed=2)
    zero = np.full(3, 0.1, np.float32)
    nodes = {
        "a": nir.Conv2d(None, a, 1, 1, 1, 1, zero), "b": nir.Conv2d(None, b, 1, 1, 1, 1, zero),
        "lif": fires(3, 4, 4, threshold=1.0),
    }  # fmt: skip
    x = events(2, 4, 4)
    first = merged(x, lambda v: functional.conv2d(v, torch.tensor(a), torch.tensor(zero), padding=1))
    wanted = leaky(merged(first, lambda v: functional.conv2d(v, torch.tensor(b), torch.tensor(zero), padding=1)), 1.0)
    same(spikes_of(graph(nodes, "input a b lif output", shape=(2, 4, 4), out=(3, 4, 4)), x), wanted)


@pytest.mark.parametrize("cuba_bias", [0.0, 0.1])
def test_currents_delays_and_circles_are_the_same_integers_everywhere(cuba_bias: float, tmp_path: Path) -> None:
    one, tau = np.ones(6), np.linspace(2, 6, 6) * 1e-4
    cuba = nir.CubaLIF(
        tau_syn=tau, tau_mem=tau[::-1].copy(), r=tau[::-1] * 1e4, v_leak=0 * one, v_threshold=one, w_in=tau * 1e4
    )
    nodes = {
        "in": nir.Affine(weights(6, 5), np.full(6, cuba_bias, np.float32)), "late": nir.Delay(np.arange(5) * 1e-4),
        "cuba": cuba, "back": nir.Linear(weights(6, 6, seed=2)), "out": nir.Linear(weights(4, 6, seed=3)),
        "end": fires(4),
    }  # fmt: skip
    imported = import_nir(graph(nodes, "input late in cuba out end output", "cuba back cuba", shape=(5,), out=(4,)))
    nir.write(str(tmp_path / "ours.nir"), imported)
    again, x = nir.read(str(tmp_path / "ours.nir")), events(5)
    spikes, read = (read_float_graph(g).run(x)[1] for g in (imported, again))
    assert all(torch.equal(spikes[n], read[n]) for n in spikes)
    whole = x.numpy().astype(np.uint8)
    fixed = quantise(imported, calibrate(imported, whole))
    reference = run_reference(fixed, whole)
    assert (reference.spikes["cuba"] != spikes["cuba"].numpy()).mean() < 0.03
    for backend in ("torch", "onnx"):
        trace = run(fixed, whole, backend, trace=True).trace  # type: ignore[arg-type]
        assert trace is not None
        for name in reference.spikes:
            np.testing.assert_array_equal(trace.membranes[name], reference.membranes[name])


def broken(name: str) -> nir.NIRGraph:
    nodes: dict[str, Any] = {"a": nir.Linear(weights(6, 5)), "lif": fires(6)}
    chains = ["input a lif output"]
    shape: tuple[int, ...] = (5,)
    if name == "unknown":
        nodes["a"] = nir.ir.graph.Identity({"input": np.array([5])})
    elif name == "no way in":
        chains = ["input lif output", "a lif"]
    elif name == "dropped":
        chains.append("lif b")
        nodes["b"] = nir.Linear(weights(6, 6))
    elif name == "no such node":
        chains.append("lif nowhere")
    elif name == "twice":
        chains.append("a lif")
    elif name == "shape":
        shape = (4,)
    elif name == "neurons":
        nodes["lif"] = fires(7)
    elif name == "sum":
        chains.append("input lif")
    elif name == "nan":
        nodes["a"].weight[2, 3] = np.inf
    elif name == "no neurons":
        chains = ["input a output"]
        del nodes["lif"]
    elif name == "no shape":
        nodes = {"a": nir.Scale(np.ones(1)), "lif": fires(1)}
        chains = ["input lif output", "a lif", "lif a"]
        chains = ["input lif output", "lif a a2", "a2 a", "a lif"]
        nodes["a2"] = nir.Scale(np.ones(1))
    elif name == "bias":
        nodes["a"] = nir.Affine(weights(6, 5), weights(5))
    elif name == "batch":
        nodes["flat"] = nir.Flatten(None, 1, -1)
        chains, shape = ["input flat a lif output"], (5,)
    elif name == "channels":
        nodes["a"] = nir.Conv2d(None, weights(6, 3, 1, 1), 1, 0, 1, 1, weights(6))
        shape = (2, 1, 1)
    return graph(nodes, *chains, shape=shape, out=(6,))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unknown", "node 'a' is a Identity, which is no node of nir 1.0.8"),
        ("no way in", r"node 'a' \(Linear\): no edge leads to it"),
        ("dropped", r"node 'b' \(Linear\): no edge leads from it"),
        ("no such node", "edge lif -> nowhere: there is no node 'nowhere'"),
        ("twice", "edge a -> lif is there twice"),
        ("shape", r"node 'a' \(Linear\): weight \(6, 5\) gets a signal of \(4,\)"),
        ("neurons", r"node 'lif' \(LIF\): its numbers are for neurons of shape \(7,\), what arrives has \(6,\)"),
        ("sum", r"node 'lif' \(LIF\): its edges bring signals of different shapes"),
        ("nan", r"node 'a' \(Linear\): weight holds inf"),
        ("no neurons", "no neuron lies between"),
        ("no shape", r"form a cycle without neurons"),
        ("bias", r"node 'a' \(Affine\): bias has shape \(5,\)"),
        ("batch", r"node 'flat' \(Flatten\): start_dim 1, end_dim -1 do not fit \(5,\)"),
        ("channels", r"node 'a' \(Conv2d\): weight \(6, 3, 1, 1\) in 1 groups gets a signal of \(2, 1, 1\)"),
    ],
)
def test_a_broken_graph_is_refused_by_node_and_value(name: str, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        import_nir(broken(name))


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="there is no such file"):
        import_nir(tmp_path / "none.nir")
    (tmp_path / "text.nir").write_text("no HDF5")
    with pytest.raises(FileFormatError, match="not a readable NIR file"):
        import_nir(tmp_path / "text.nir")


def test_time_constants_in_float32_do_not_give_each_neuron_a_threshold_of_its_own() -> None:
    tau = np.linspace(2, 7, 6).astype(np.float32) * np.float32(1e-4)
    one = np.ones(6, np.float32)
    lif = nir.LIF(tau=tau, r=tau * np.float32(1e4), v_leak=0 * one, v_threshold=one * 0.5)
    net = read_float_graph(
        import_nir(graph({"w": nir.Linear(weights(6, 5)), "lif": lif}, "input w lif output", shape=(5,), out=(6,)))
    )
    np.testing.assert_array_equal(net.populations[0].v_threshold, one * 0.5)
    np.testing.assert_array_equal(net.populations[0].synapses[0].weight, weights(6, 5))
