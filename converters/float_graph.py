"""Read a NIR graph as populations in execution order.

`FloatNet` is a view, not a third kind of graph: it holds the arrays of the NIR nodes, sorted and named, so that
calibrating, lowering and running need not walk edges.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from spikefold.converters.capture.build import DT, FORMAT, Decay, is_relay
from spikefold.converters.execution_order import NoOrderError, execution_blocks
from spikefold.converters.float_net import Array, FloatNet, FloatPopulation, FloatSynapse, is_loop
from spikefold.converters.gate_program import FLOAT_OPS, GateProgram
from spikefold.errors import FileFormatError

__all__ = ["Array", "FloatNet", "FloatPopulation", "FloatSynapse", "read_float_graph"]

FIRING = (nir.LIF, nir.IF, nir.CubaLIF)
INTEGRATING = (nir.I, nir.LI, nir.CubaLI)


def read_float_graph(graph: nir.NIRGraph) -> FloatNet:
    """View a NIR graph as `FloatNet`; FileFormatError names a node that is none of ours."""
    version = int(graph.metadata.get("spikefold_format", FORMAT))
    if version != FORMAT:
        raise FileFormatError(f"spikefold_format is {version}, this version reads {FORMAT}: update spikefold")
    nodes = graph.nodes
    if "input" not in nodes or len([e for e in graph.edges if e[1] == "output"]) != 1:
        raise FileFormatError("the graph needs a node 'input', and a node 'output' with one edge to it")
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in graph.edges:
        sources[target].append(source)
    names = [n for n in nodes if isinstance(nodes[n], (*FIRING, *INTEGRATING)) or is_relay(nodes[n])]
    time_steps = int(graph.metadata.get("time_steps", 0)) or None
    populations = {name: _population(name, nodes, sources, time_steps) for name in names}
    output = sources["output"][0]
    needed = _reached_back({n: [s.source for s in p.synapses] for n, p in populations.items()}, output)
    populations = {name: p for name, p in populations.items() if name in needed}
    _check_sources(populations)
    try:
        blocks = execution_blocks({n: p.links for n, p in populations.items()}, last=output)
    except NoOrderError as error:
        raise FileFormatError(f"nodes {error.names} form a cycle without a Delay of a step or more in it") from error
    ordered = tuple(populations[n] for block in blocks for n in block)
    if ordered[-1].name != output:
        raise FileFormatError(f"neurons {output!r} are the answer, but {ordered[-1].name!r} need them within one step")
    shape = tuple(int(n) for n in nodes["input"].input_type["input"])
    net = FloatNet(shape, ordered, time_steps)
    for population in (p for block in net.blocks if is_loop(block) for p in block):
        if population.gate is not None:
            raise FileFormatError(f"neurons {population.name!r} have a gate over whole clips, but stand in a cycle")
    return net


def _reached_back(sources: Mapping[str, list[str]], start: str) -> set[str]:
    found, left = {start}, [start]
    while left:
        new = set(sources.get(left.pop(), [])) - found
        found |= new
        left += new
    return found


def _check_sources(populations: Mapping[str, FloatPopulation]) -> None:
    for name, population in populations.items():
        for source in (s.source for s in population.synapses):
            if source != "input" and source not in populations:
                raise FileFormatError(f"neurons {name!r}: get what {source!r} sends, which are no neurons")
            if source in populations and populations[source].is_readout:
                raise FileFormatError(f"neurons {source!r} are integrators, whose membrane only an output may read")


def _population(
    name: str, nodes: Mapping[str, Any], sources: Mapping[str, list[str]], time_steps: int | None
) -> FloatPopulation:
    node = nodes[name]
    synapses = tuple(_synapse(s, nodes, sources) for s in sorted(sources[name]))
    if is_relay(node):
        shape, metadata = tuple(node.scale.shape), node.metadata
        return FloatPopulation(
            name, shape, 0.0, np.ones(shape, np.float32), True, False, synapses, _gate(name, metadata),
            bias_schedule=_schedule_from_metadata(name, node, shape, time_steps), relays=True,
            rectifies=bool(metadata.get("rectifies", False)), selects=bool(metadata.get("selects", False)),
        )  # fmt: skip
    _check_dynamics(name, node)
    metadata = node.metadata
    decay, current_decay = _decays(name, node)
    if isinstance(node, INTEGRATING):
        shape = tuple(node.r.shape)
        return FloatPopulation(
            name, shape, decay, np.zeros(shape, np.float32), True, False, synapses, None,
            bias_schedule=_schedule_from_metadata(name, node, shape, time_steps), current_decay=current_decay,
        )  # fmt: skip
    shape = tuple(node.v_threshold.shape)
    return FloatPopulation(
        name, shape, decay, node.v_threshold, bool(metadata.get("strict", True)), True, synapses,
        _gate(name, metadata), bool(metadata.get("logic", False)),
        _schedule_from_metadata(name, node, shape, time_steps),
        node.v_reset if np.any(node.v_reset) else None, bool(metadata.get("soft_reset", False)),
        current_decay=current_decay,
    )  # fmt: skip


def _decays(name: str, node: Any) -> tuple[Decay, Decay]:
    """Decays of membrane and current: those of the metadata, which are exact, or else of the time constants."""
    membrane = getattr(node, "tau_mem", getattr(node, "tau", None))
    current = getattr(node, "tau_syn", None)
    found: list[Decay] = []
    for key, constant, without in (("decay", membrane, 1.0), ("current_decay", current, 0.0)):
        held = np.asarray(
            node.metadata[key] if key in node.metadata else without if constant is None else 1 - DT / constant,
            dtype=np.float64,
        )
        if not np.all((held >= 0) & (held <= 1)):
            raise FileFormatError(f"neurons {name!r}: {key} {held.min():.4g}..{held.max():.4g} must lie within 0..1")
        same = bool(np.all(held == held.flat[0]))
        found.append(float(held.flat[0]) if same else held)
    return found[0], found[1]


def _schedule_from_metadata(name: str, node: Any, shape: tuple[int, ...], time_steps: int | None) -> Array | None:
    if "bias_schedule" not in node.metadata:
        return None
    schedule = np.asarray(node.metadata["bias_schedule"], dtype=np.float32)
    fitting = all(have in (1, want) for have, want in zip(schedule.shape[2:], shape, strict=False))
    if schedule.ndim != 2 + len(shape) or schedule.shape[:2] != (time_steps, 1) or not fitting:
        raise FileFormatError(
            f"neurons {name!r}: bias_schedule has shape {schedule.shape}, it must be ({time_steps}, 1, *{shape} or 1)"
        )
    return schedule


def _check_dynamics(name: str, node: Any) -> None:
    """Refuse neurons whose input would be scaled, that rest at another value than 0, or reset above their threshold."""
    gain = node.r * DT / getattr(node, "tau_mem", getattr(node, "tau", 1.0))
    if isinstance(node, (nir.CubaLIF, nir.CubaLI)):
        gain = gain * node.w_in * DT / node.tau_syn
    if not np.allclose(gain, 1.0, rtol=1e-3):
        raise FileFormatError(
            f"neurons {name!r}: input is scaled by {float(np.ravel(gain)[0]):.4g} a step of {DT} s; it must be 1"
        )
    if np.any(getattr(node, "v_leak", 0)):
        raise FileFormatError(f"neurons {name!r}: v_leak is not 0")
    if isinstance(node, INTEGRATING):
        return
    reset = np.asarray(node.v_reset)
    if reset.shape != node.v_threshold.shape or not np.isfinite(reset).all() or np.any(reset > node.v_threshold):
        raise FileFormatError(
            f"neurons {name!r}: v_reset must be finite, one number a neuron, and at most v_threshold; it has shape "
            f"{reset.shape} and reaches {reset.max()}"
        )


def _gate(name: str, metadata: Mapping[str, Any]) -> GateProgram | None:
    if "gate" not in metadata:
        return None
    try:
        text = metadata["gate"]
        plain = json.loads(text.decode() if isinstance(text, bytes) else str(text))
        count = sum(1 for s in plain["steps"] if "constant" in s)
        arrays = [np.asarray(metadata[f"gate_{i}"]) for i in range(count)]
        return GateProgram.from_plain(plain, arrays, frozenset(FLOAT_OPS))
    except FileFormatError as error:
        raise FileFormatError(f"neurons {name!r}: the gate is damaged: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"neurons {name!r}: the gate is damaged: {type(error).__name__} {error}") from error


def _synapse(name: str, nodes: Mapping[str, Any], sources: Mapping[str, list[str]]) -> FloatSynapse:
    node = nodes[name]
    (source,) = sources[name]
    if isinstance(nodes[source], nir.Flatten):
        (source,) = sources[source]
    delay: int | NDArray[np.int64] = 0
    if isinstance(nodes[source], nir.Delay):
        steps = np.round(np.asarray(nodes[source].delay, dtype=np.float64) / DT).astype(np.int64)
        delay = int(steps.flat[0]) if bool((steps == steps.flat[0]).all()) else steps
        (source,) = sources[source]
    macs = int(node.metadata.get("torch_macs", 0))
    if isinstance(node, nir.Affine):
        return FloatSynapse(name, source, node.weight, node.bias, None, macs or math.prod(node.weight.shape), delay)
    if not isinstance(node, nir.Conv2d):
        raise FileFormatError(f"node {name!r} is a {type(node).__name__}; only Conv2d and Affine may lead to neurons")
    conv = {
        "stride": _pair(node.stride), "padding": _pair(node.padding), "dilation": _pair(node.dilation),
        "groups": int(node.groups),
    }  # fmt: skip
    return FloatSynapse(name, source, node.weight, node.bias, conv, macs, delay)


def _pair(value: Any) -> tuple[int, int]:
    flat = np.asarray(value).reshape(-1)
    return (int(flat[0]), int(flat[-1]))
