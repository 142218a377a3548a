"""Small random integer nets and clips for differential tests: every executor must agree with the reference on them.

A graph is a function of its arguments alone (seeded); `random_graph` is one net with options, `any_graph` any net.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from generated_gates import GATES
from generated_layers import RESETS, Layer, build, close_loops, draw_clips
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort

GRADED_MAX = 15
SHAPES: dict[str, tuple[int, ...]] = {"input": (2, 7, 6), "conv1": (4, 7, 6), "conv2": (6, 4, 3), "fc1": (10,)}
CLASSES = 3
_LOOPS: list[tuple[str, str, dict[str, Any]]] = [
    ("conv2", "conv2", {"kernel": (6, 6, 1, 1), "delay": 1, "shortest": 1}),
    ("fc1", "fc1", {"delay": 3, "shortest": 1}),
    ("back", "fc1", {"delay": 4, "shortest": 2}),
]
_Plan = list[tuple[str, tuple[int, ...], list[tuple[str, dict[str, Any]]]]]


def random_graph(
    seed: int,
    *,
    gated: bool = False,
    residual: bool = False,
    per_neuron_thresholds: bool = False,
    graded_input: bool = False,
    spiking_output: bool = False,
    depthwise: bool = False,
    stress: bool = False,
    bias_schedule: bool = False,
    relays: bool = False,
    current_shifts: bool = False,
    resets: tuple[str, ...] = ("zero",),
    gates: tuple[str, ...] = GATES,
    memory: bool = False,
    decays: bool = False,
    delays: int = 0,
    loops: bool = False,
    time_steps: int = 5,
) -> FixedPointGraph:
    """Two convolutions (the second strided and padded), a dense layer and a dense output.

    Parameters
    ----------
    seed : int
        Same arguments, same graph.
    gated : bool
        Give each hidden layer one of ``gates`` in turn, starting at ``seed``; fixes T at ``time_steps``.
    residual : bool
        Add a strided 1x1 shortcut into ``conv2`` from the input, and one dense one into the output from ``conv2``.
    per_neuron_thresholds : bool
        One threshold per neuron (conv: ``[C, H, W]``), else one number per layer.
    graded_input : bool
        Inputs 0..15 instead of 0..1.
    spiking_output : bool
        The output fires and its spike count is the answer, else a readout with ``dv`` 0.
    depthwise : bool
        Add a grouped (one channel each) 3x3 convolution from ``conv1`` into a population of its own.
    stress : bool
        Weight exponents and biases so large that sums wrap at 24 bits and membranes clip.
    bias_schedule : bool
        One bias a step and neuron, else one a channel; fixes T at ``time_steps``.
    relays : bool
        Add a relay of both signs that feeds ``conv2``, and behind ``conv2`` a rectifying one that reads spikes and the
        first relay; it feeds neurons one to one and ``fc1`` densely. They are gated as other hidden layers.
    current_shifts : bool
        A shift of the weighted sums of 0 to 6 for each population, else 6.
    resets : tuple of str
        Which of `generated_layers.RESETS` the firing populations have, in turn, starting at ``seed``.
    gates : tuple of str
        Which of `generated_gates.GATES` to use; ``"table"`` is one more, ``"none"`` leaves a population without.
    memory : bool
        Populations without a gate remember their synaptic current.
    decays : bool
        Each neuron of a layer that fires decays in its own way.
    delays : int
        Longest delay of the synapses, 0 for none.
    loops : bool
        ``conv2`` and ``fc1`` feed themselves, and ``fc1`` feeds a population ``back`` that feeds it.
    time_steps : int
        T of a graph with gates or bias schedules, and of the clip the thresholds are found on.

    Returns
    -------
    FixedPointGraph
    """
    rng = np.random.default_rng(seed)
    port = InputPort(SHAPES["input"], GRADED_MAX if graded_input else 1)
    plan: _Plan = [
        ("conv1", SHAPES["conv1"], [("input", {"kernel": (4, 2, 3, 3), "padding": (1, 1)})]),
        (
            "conv2",
            SHAPES["conv2"],
            [("conv1" if not depthwise else "depth", {"kernel": (6, 4, 3, 3), "padding": (1, 1), "stride": (2, 2)})],
        ),
        ("fc1", SHAPES["fc1"], [("conv2", {})]),
        ("output", (CLASSES,), [("fc1", {})]),
    ]
    if depthwise:
        edge = {"kernel": (4, 1, 3, 3), "padding": (1, 1), "groups": 4}
        plan.insert(1, ("depth", SHAPES["conv1"], [("conv1", edge)]))
    if residual:
        plan[-3][2].append(("input", {"kernel": (6, 2, 1, 1), "stride": (2, 2)}))
        plan[-1][2].append(("conv2", {}))
    if relays:
        _insert_relays(plan)
    if loops:
        plan.insert([name for name, _, _ in plan].index("fc1") + 1, ("back", (8,), [("fc1", {})]))
    if delays:
        plan = [(name, shape, [(s, {**how, "delay": delays}) for s, how in edges]) for name, shape, edges in plan]
    roles = {"relay1": "relay", "rectifier": "rectifier", "output": "fires" if spiking_output else "readout"}
    layers = [
        Layer(
            name, shape, tuple(edges), roles.get(name, "fires"),  # type: ignore[arg-type]
            gates[(seed + number) % len(gates)] if gated and name != "output" else "none",
            resets[(seed + number) % len(resets)], per_neuron_thresholds, stress, current_shifts,
            memory=memory, decays=decays,
        )
        for number, (name, shape, edges) in enumerate(plan)
    ]  # fmt: skip
    made = build(rng, port, layers, time_steps, bias_schedule, f"random{seed}")
    return close_loops(rng, made, _LOOPS) if loops else made


def any_graph(
    seed: int, layers: int, *, time_steps: int = 4, gated: bool = True, temporal: bool = False
) -> FixedPointGraph:
    """Any net of ``layers`` hidden populations: chains, shortcuts, pools, relays, gates, resets, biases, decays.

    Parameters
    ----------
    seed, layers : int
        Same arguments, same graph; a smaller number of layers makes a smaller one.
    time_steps : int
        T of a graph with gates or bias schedules.
    gated : bool
        Whether populations may have gates that are computed (of a clip, or of the steps so far), besides tables.
    temporal : bool
        Whether there may be current memories, decays of single neurons, delays and loops.

    Returns
    -------
    FixedPointGraph
    """
    rng, late = np.random.default_rng([seed, layers, time_steps]), np.random.default_rng([seed, layers, time_steps, 1])
    port = InputPort((int(rng.integers(1, 4)), *rng.integers(3, 7, 2).tolist()), int(rng.choice([1, 1, 15, 300])))
    shapes: dict[str, tuple[int, ...]] = {port.name: port.shape}
    computed = [*GATES, "running", "running"] if gated and rng.random() < 0.7 else []
    kinds = ["none"] * 8 + ["table"] + computed
    shared = {"per_neuron": bool(rng.random() < 0.3), "any_shift": bool(rng.random() < 0.6)}
    slow = {"memory": temporal and late.random() < 0.5, "decays": temporal and late.random() < 0.3}
    delays = int(late.choice([0, 1, 4])) if temporal else 0
    drawn: list[Layer] = []
    for number in range(layers):
        name, source = f"layer{number}", str(rng.choice(list(shapes)[-2:]))
        shape, how = _any_edge(rng, shapes[source])
        edges = [(source, how)]
        if rng.random() < 0.3:
            edges += _any_shortcut(rng, shapes, shape, source)
        edges = [(s, {**how, "delay": delays} if delays and late.random() < 0.5 else how) for s, how in edges]
        drawn.append(
            Layer(
                name, shape, tuple(edges), rng.choice(["fires", "fires", "relay", "rectifier"]), str(rng.choice(kinds)),
                str(rng.choice(RESETS)), bits=int(rng.choice([18, 20, 22, 23, 25, 29])), **shared, **slow,
            )
        )  # fmt: skip
        shapes[name] = shape
    role = "fires" if rng.random() < 0.3 else "readout"
    edges = [(str(source), {}) for source in list(shapes)[-1 - int(rng.integers(0, 2)) :]]
    drawn.append(Layer("output", (CLASSES,), tuple(edges), role, bits=int(rng.choice([20, 23, 27])), **shared, **slow))  # type: ignore[arg-type]
    made = build(rng, port, drawn, time_steps, bool(rng.random() < 0.2), f"any{seed}")
    loops = _any_loops(late, {layer.name: layer.shape for layer in drawn}) if temporal else []
    return close_loops(late, made, loops)


def random_clips(graph: FixedPointGraph, seed: int, time_steps: int = 5, batch: int = 3) -> NDArray[np.int64]:
    """Clips ``[T, B, *shape]`` int64 for ``graph``; about 30 % of the entries are not zero."""
    return draw_clips(np.random.default_rng(seed), graph.input, graph.time_steps or time_steps, batch)


def _insert_relays(plan: _Plan) -> None:
    """Put one relay in front of ``conv2``, a rectifying one and neurons of its messages behind it."""
    names = [name for name, _, _ in plan]
    place, shape = names.index("conv2"), SHAPES["conv2"]
    source, how = plan[place][2][0]
    one_to_one = {"identity": shape[0]}
    plan[place][2][0] = ("relay1", how)
    plan[names.index("fc1")][2].append(("rectifier", {}))
    plan[names.index("fc1")][2][0] = ("after", {})
    plan.insert(place, ("relay1", SHAPES["conv1"], [(source, {"kernel": (4, 4, 3, 3), "padding": (1, 1)})]))
    strided = {"kernel": (6, 4, 1, 1), "stride": (2, 2)}
    plan.insert(place + 2, ("rectifier", shape, [("conv2", one_to_one), ("relay1", strided)]))
    plan.insert(place + 3, ("after", shape, [("rectifier", one_to_one)]))


def _any_edge(rng: np.random.Generator, source: tuple[int, ...]) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Shape of a new population and how ``source`` leads to it: convolution, pooling, one to one, or dense."""
    kind = rng.choice(["conv", "conv", "pool", "identity", "dense"]) if len(source) == 3 else "dense"
    if kind == "dense":
        return (int(rng.integers(1, 9)),), {}
    if kind == "identity":
        return source, {"identity": source[0]}
    window = rng.choice([(1, 1), (2, 2), (3, 3), (1, 3), (3, 1)]).tolist()  # all that NIR can hold
    stride, padding = (tuple(rng.integers(low, high, 2).tolist()) for low, high in ((1, 3), (0, 2)))
    dilation = (1, 1) if kind == "pool" or rng.random() < 0.6 else (2, 1)
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(source[1:], padding, dilation, window, stride, strict=True)
    ]
    if min(size) < 1 or any(k <= p for k, p in zip(window, padding, strict=True)):
        return source, {"identity": source[0]}
    how: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "kernel": window}
    if kind == "pool":
        return (source[0], *size), {**how, "identity": source[0]}
    channels = source[0] if rng.random() < 0.3 else 0
    out = channels * int(rng.integers(1, 3)) if channels else int(rng.integers(1, 5))
    how |= {"groups": channels or 1, "kernel": (out, source[0] // (channels or 1), *window)}
    return (out, *size), how


def _any_loops(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> list[tuple[str, str, dict[str, Any]]]:
    """Up to two ways back to a population itself or to an earlier one, dense, or 1x1 between frames of one size."""
    names, found = list(shapes), []
    for _ in range(int(rng.integers(0, 3))):
        first, last = sorted(rng.integers(0, len(names), 2).tolist())
        target, source = shapes[names[first]], shapes[names[last]]
        how: dict[str, Any] = {"delay": int(rng.integers(1, 4)), "shortest": 1}
        if len(target) == 3 and target[1:] == source[1:]:
            how["kernel"] = (target[0], source[0], 1, 1)
        if len(target) == 1 or "kernel" in how:
            found.append((names[last], names[first], how))
    return list({(s, t): (s, t, how) for s, t, how in found}.values())


def _any_shortcut(
    rng: np.random.Generator, shapes: dict[str, tuple[int, ...]], target: tuple[int, ...], taken: str
) -> list[tuple[str, dict[str, Any]]]:
    """One more way into ``target``, dense, or 1x1 between frames of one size; none where no other source fits."""
    others = [n for n, shape in shapes.items() if n != taken and (len(target) == 1 or shape[1:] == target[1:])]
    if not others:
        return []
    source = str(rng.choice(others))
    return [(source, {} if len(target) == 1 else {"kernel": (target[0], shapes[source][0], 1, 1)})]
