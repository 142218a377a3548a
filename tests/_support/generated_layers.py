"""Random integer layers for `generated_graphs`: weights, biases, gates, thresholds and relays that do something.

Thresholds are found by running the reference on random clips, so that firing layers fire in about 20 % of their slots;
relays are scaled by it, so that they send numbers of two to eight bits, the largest of which saturate in some.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from generated_gates import make_gate
from spikefold.converters import arithmetic, ranges
from spikefold.converters.fixed_point_graph import (
    AttentionMode,
    FixedPointGraph,
    InputPort,
    Neurons,
    Relay,
    Synapse,
    Whole,
)
from spikefold.converters.reference import (
    arriving,
    population_current,
    run_population,
    sum_currents,
    synapse_current,
)
from spikefold.errors import LoweringError

GATE_SHIFT = 7
RESETS = ("zero", "value", "soft", "soft to value")


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is drawn for one population; ``edges`` are sources with the fields of `Synapse` and its kernel's shape.

    An edge without ``kernel`` is dense; ``"identity": C`` is one weight for each of C channels alone, or with a
    ``kernel`` all ones over its field. ``"delay"`` is the longest delay; those of single neurons, or of channels, are
    drawn below it. ``bits`` bounds what its current could reach at worst; None: exponents 0 to 2. With ``memory`` it
    remembers its synaptic current, with ``decays`` each neuron decays in its own way.
    """

    name: str
    shape: tuple[int, ...]
    edges: tuple[tuple[str, dict[str, Any]], ...]
    role: Literal["fires", "relay", "rectifier", "readout"] = "fires"
    gate: str = "none"
    reset: str = "zero"
    per_neuron: bool = False
    stress: bool = False
    any_shift: bool = False
    bits: int | None = None
    memory: bool = False
    decays: bool = False


def build(
    rng: np.random.Generator, port: InputPort, layers: list[Layer], time_steps: int, bias_schedule: bool, name: str
) -> FixedPointGraph:
    """Draw the integers of ``layers`` in execution order; T is fixed where there are gates or bias schedules."""
    neurons: dict[str, Neurons] = {}
    synapses: list[Synapse] = []
    messages = {port.name: draw_clips(rng, port, time_steps, 4)}
    reach = {port.name: port.max_value}
    for layer in layers:
        shift = int(rng.integers(0, 7)) if layer.any_shift else arithmetic.STATE_FRACTION_BITS
        exponent = int(rng.integers(0, 3)) + (8 if layer.stress else 0)
        added = []
        for source, how in layer.edges:
            made = _synapse(rng, source, layer.name, layer.shape, messages[source].shape[2:], how)
            largest = _worst(made, reach[source])
            less = neurons[source].relay if source in neurons else None
            wanted = exponent - (0 if less is None else less.high.bit_length())
            if layer.bits is not None:
                wanted = layer.bits - shift - largest.bit_length()
            added.append(dataclasses.replace(made, exponent=min(16, max(0, wanted))))
        population = dataclasses.replace(
            _population(rng, layer, time_steps if bias_schedule else 0), current_shift=shift
        )
        if layer.decays or layer.memory:
            population = _with_decays(rng, population, layer, sum(_worst(s, reach[s.source]) for s in added) << shift)
        arrived = [arriving(messages[s.source], s.delay, 0, time_steps) for s in added]
        total = sum_currents(population, [synapse_current(s, a) for s, a in zip(added, arrived, strict=True)])
        if layer.gate != "none":
            population = _with_gate(rng, population, layer.gate, population_current(population, total))
        if layer.role in ("relay", "rectifier"):
            population = _as_relay(rng, population, population_current(population, total), layer.role == "rectifier")
        if population.fires:
            population = _with_threshold(rng, population, total, layer)
        messages[layer.name], _ = run_population(population, total)
        reach[layer.name] = 1 if population.relay is None else max(-population.relay.low, population.relay.high)
        neurons[layer.name] = population
        synapses.extend(added)
    gates = {layer.gate for layer in layers} - {"none"}
    attention: AttentionMode = "none" if not gates else "scheduled" if gates == {"table"} else "dynamic"
    return FixedPointGraph(
        port, tuple(neurons.values()), tuple(synapses), attention, time_steps if gates or bias_schedule else None, name
    )


def draw_clips(rng: np.random.Generator, port: InputPort, time_steps: int, batch: int) -> NDArray[np.int64]:
    """Clips ``[T, B, *shape]`` int64; about 30 % of the entries are not zero."""
    size = (time_steps, batch, *port.shape)
    return np.asarray((rng.random(size) < 0.3) * rng.integers(1, port.max_value + 1, size), dtype=np.int64)


def close_loops(
    rng: np.random.Generator, graph: FixedPointGraph, loops: list[tuple[str, str, dict[str, Any]]]
) -> FixedPointGraph:
    """Add synapses (source, target and fields as in `Layer`) that lead back, where gates and ranges allow it."""
    for source, target, how in loops:
        shapes = (graph.source_shape(target), graph.source_shape(source))
        made = _synapse(rng, source, target, *shapes, how)
        population = next(n for n in graph.neurons if n.name == target)
        largest = _worst(made, max(1, ranges.magnitude(graph.message_range(source)))) << population.current_shift
        exponent = min(16, max(0, int(rng.choice([17, 19, 21])) - largest.bit_length()))
        try:
            closed = dataclasses.replace(
                graph, synapses=(*graph.synapses, dataclasses.replace(made, exponent=exponent))
            )
            ranges.synaptic_range(closed, population)
        except LoweringError:
            continue
        graph = closed
    return graph


def _worst(synapse: Synapse, reach: int) -> int:
    return ranges.synapse_bound(synapse, (0, reach))


def _delay(rng: np.random.Generator, source: tuple[int, ...], longest: int, shortest: int) -> Whole:
    """One delay for all, one for each channel, or one for each neuron."""
    shape = ((), (source[0], *[1] * (len(source) - 1)), source)[rng.integers(3)]
    return rng.integers(shortest, longest + 1, shape) if shape else int(rng.integers(shortest, longest + 1))


def _with_decays(rng: np.random.Generator, n: Neurons, layer: Layer, worst: int) -> Neurons:
    """Rates of membrane and current; a current that wraps more than once in a step is not remembered."""
    every = n.shape if layer.decays else ()
    changes: dict[str, Any] = {}
    if layer.decays and layer.role == "fires":
        changes["dv"] = rng.integers(0, 4096, every)
    if layer.memory and layer.gate == "none" and layer.role in ("fires", "readout") and worst <= arithmetic.WRAP:
        slow, fast = np.sort(rng.choice([0, 40, 1000, 3000, 4095], 2, replace=False))
        changes["du"] = rng.integers(slow, fast + 1, every) if every else int(slow)
    return dataclasses.replace(n, **changes)


def _synapse(
    rng: np.random.Generator,
    source: str,
    target: str,
    shape: tuple[int, ...],
    source_shape: tuple[int, ...],
    how: dict[str, Any],
) -> Synapse:
    """Draw a synapse into ``target`` of this ``shape``; one that leads back has ``"shortest"`` delays of 1 or more."""
    how, name = dict(how), f"{source}->{target}"
    longest, shortest = how.pop("delay", 0), how.pop("shortest", 0)
    if longest:
        how["delay"] = _delay(rng, source_shape, longest, shortest)
    if "identity" in how:
        channels = how.pop("identity")
        weight = np.full((channels, 1, *how.pop("kernel", (1, 1))), 2 << int(rng.integers(0, 7)))
        return Synapse(name, source, target, "conv", weight, groups=channels, **how)
    kernel = how.pop("kernel", (int(np.prod(shape)), int(np.prod(source_shape))))
    weight = 2 * rng.integers(-128, 128, kernel)
    return Synapse(name, source, target, "conv" if len(kernel) == 4 else "dense", weight, **how)


def _population(rng: np.random.Generator, layer: Layer, bias_steps: int) -> Neurons:
    shape = layer.shape
    bias = rng.integers(-400, 800, (bias_steps, 1, *shape) if bias_steps else (shape[0], *(1,) * (len(shape) - 1)))
    exponent = 7 if layer.stress else int(rng.integers(0, 5))
    fires = layer.role != "readout"
    dv = int(rng.choice([0, 1, 4095, *rng.integers(0, 4096, 5)])) if fires else 0
    return Neurons(
        layer.name, shape, dv, np.array(0), bias, exponent, unit=float(rng.random() + 0.1) / 256, fires=fires
    )


def _with_gate(rng: np.random.Generator, n: Neurons, kind: str, current: NDArray[np.int64]) -> Neurons:
    if len(n.shape) == 1 and kind == "spatial":
        kind = "temporal"
    gate = make_gate(rng, kind, current, GATE_SHIFT)
    return dataclasses.replace(n, gate=gate, gate_shift=GATE_SHIFT)


def _as_relay(rng: np.random.Generator, n: Neurons, current: NDArray[np.int64], rectifies: bool) -> Neurons:
    """Relay whose messages have two to eight bits; half of them saturate below their largest current."""
    largest = max(1, int(np.abs(arithmetic.clip24(current)).max()))
    bits = int(rng.integers(2, 9))
    shift = max(0, largest.bit_length() - bits)
    low, high = (max(1, int((largest >> shift) * rng.uniform(0.4, 1.6))) for _ in range(2))
    return dataclasses.replace(n, dv=0, fires=False, relay=Relay(shift, 0 if rectifies else -low, high))


def _with_threshold(rng: np.random.Generator, n: Neurons, total: NDArray[np.int64], layer: Layer) -> Neurons:
    """Search the threshold that brings the rate nearest to 20 %, with a spread of a factor 2 if ``per_neuron``."""
    spread = rng.uniform(0.7, 1.4, n.shape) if layer.per_neuron else np.ones(())
    after = rng.uniform(-1, 1, spread.shape) if layer.reset in ("value", "soft to value") else None
    best, distance = n, np.inf
    for level in np.geomspace(1, arithmetic.MAX_THRESHOLD, 60):
        threshold = np.clip((spread * level).astype(np.int64), 0, arithmetic.MAX_THRESHOLD)
        v_reset = None if after is None else np.asarray(threshold * after, dtype=np.int64)
        soft = layer.reset in ("soft", "soft to value")
        candidate = dataclasses.replace(n, v_threshold=threshold, v_reset=v_reset, soft_reset=soft)
        rate = run_population(candidate, total)[0].mean()
        if abs(rate - 0.2) < distance:
            best, distance = candidate, abs(rate - 0.2)
    return best
