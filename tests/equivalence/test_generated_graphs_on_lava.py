"""Random integer nets with every field that a population can have, in Lava: 0 differing messages and membranes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from equivalence_nets import assert_equal
from generated_gates import GATES
from generated_graphs import RESETS, random_clips, random_graph
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.reference import run_reference
from spikefold.deploy.lava.plan import make_plan
from spikefold.deploy.lava.runner import run_lava

SAMPLES = 3
STREAMING = ("running", "none", "table")
CHOSEN: dict[str, dict[str, Any]] = {
    "relays": {"relays": True},
    "shifted relays": {"relays": True, "current_shifts": True, "graded_input": True, "depthwise": True},
    "gated relays": {"relays": True, "gated": True, "resets": RESETS},
    "streaming relays": {"relays": True, "gated": True, "gates": STREAMING, "current_shifts": True, "residual": True},
    "resets": {"resets": RESETS, "per_neuron_thresholds": True, "spiking_output": True},
    "current memory": {"memory": True, "graded_input": True},
    "own memory": {"memory": True, "decays": True, "per_neuron_thresholds": True, "residual": True},
    "delays": {"delays": 4, "residual": True, "gated": True, "gates": STREAMING},
    "loops": {"loops": True, "memory": True},
    "delays in loops": {"loops": True, "delays": 3, "decays": True, "relays": True, "time_steps": 6},
    "stress": {"stress": True, "relays": True, "current_shifts": True, "resets": ("soft",), "graded_input": True},
}
"""What the quick tests run."""
DRAWN = range(300, 330)


def drawn(seed: int) -> dict[str, Any]:
    """Options of `random_graph`, each with about even odds."""
    rng = np.random.default_rng(seed)
    flags = ("relays", "gated", "residual", "per_neuron_thresholds", "graded_input", "spiking_output", "depthwise")
    options: dict[str, Any] = {name: bool(rng.random() < 0.5) for name in (*flags, "bias_schedule", "current_shifts")}
    options["stress"] = bool(rng.random() < 0.2)
    options["resets"] = tuple(rng.permutation(RESETS)[: rng.integers(1, 4)])
    options["gates"] = (GATES, (*GATES, "table", "none"), STREAMING)[rng.integers(3)]
    options["time_steps"] = int(rng.integers(1, 7))
    return options


CASES = [
    *(pytest.param(seed, options, id=name) for seed, (name, options) in enumerate(CHOSEN.items(), start=200)),
    *(pytest.param(seed, drawn(seed), id=f"drawn {seed}", marks=pytest.mark.full) for seed in DRAWN),
]


@pytest.mark.lava
@pytest.mark.parametrize(("seed", "options"), CASES)
def test_messages_and_membranes(seed: int, options: dict[str, Any]) -> None:
    """All samples run one after another: what a process keeps of the last clip would be seen in the next."""
    graph = random_graph(seed, **options)
    clips = random_clips(graph, seed, batch=SAMPLES)
    assert_equal(run_lava(graph, clips, 300.0), run_reference(graph, clips))


def test_the_quick_nets_hold_every_kind_of_population() -> None:
    """Equal traces say nothing of a field that no net has, or that changes nothing."""
    graphs = [random_graph(seed, **options) for seed, options in enumerate(CHOSEN.values(), start=200)]
    found: set[str] = set()
    for seed, graph in enumerate(graphs, start=200):
        found |= kinds(graph, seed)
    sent = {"negative messages", "rectified messages"}
    gates = {f"{gate} gate of {what}" for gate in ("none", "clip", "streaming") for what in ("a relay", "neurons")}
    other = {
        "shifted sums of a relay",
        "shifted sums of neurons",
        "v_reset",
        "soft reset",
        "stock",
        "own",
        "own synapse",
        "late branch",
        "memory of stock",
        "memory of own",
        "delays of neurons",
        "loop",
        "loop of two",
    }
    assert sent | gates | other <= found


def kinds(graph: FixedPointGraph, seed: int) -> set[str]:
    """What happens in a net, and is not idle in it."""
    clips = random_clips(graph, seed, batch=SAMPLES)
    trace, found = run_reference(graph, clips), set()
    for n, part in zip(graph.neurons, make_plan(graph, *clips.shape[:2]).populations, strict=True):
        messages, what = trace.spikes[n.name], "neurons" if n.relay is None else "a relay"
        if not messages.any() and not n.is_readout:
            continue
        found |= {part.process, f"{part.gate} gate of {what}"}
        found |= {"own synapse"} if part.own_synapses else set()
        incoming = graph.incoming(n.name)
        found |= {"late branch"} if any(part.waits[s.name] and not s.longest_delay for s in incoming) else set()
        found |= {"delays of neurons"} if any(len(np.unique(s.delay)) > 1 for s in incoming) else set()
        found |= {f"memory of {part.process}"} if n.remembers_current else set()
        found |= {f"shifted sums of {what}"} if n.current_shift != 6 else set()
        found |= {"soft reset"} if n.soft_reset else set()
        found |= {"v_reset"} if n.v_reset is not None and n.v_reset.any() else set()
        if n.relay is not None and messages.min() < 0:
            found.add("negative messages")
        if n.relay is not None and n.relay.low == 0 and (trace.membranes[n.name] < 0).any():
            found.add("rectified messages")
    for block in graph.blocks:
        if graph.is_loop(block) and all(trace.spikes[n.name][:-1].any() for n in block):
            found.add("loop" if len(block) == 1 else "loop of two")
    return found
