"""Chips of one core a layer, such as Speck: what keeps a net from fitting, by their limits alone."""

from __future__ import annotations

from collections.abc import Iterator

from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons
from spikefold.deploy.hardware import LimitsHardware
from spikefold.deploy.mapping.layout import Violation

_PARTS = ("weights", "neurons", "biases")


def layer_core_violations(graph: FixedPointGraph, chip: LimitsHardware) -> tuple[Violation, ...]:
    """Every rule that the net breaks if each population takes a core of its own; empty where it fits.

    A population's weights are those of all synapses into it, each kept once. Whether the chip's neurons compute the
    same is not asked: spikefold does not know their arithmetic.
    """
    cores = [{part: getattr(core, part).number for part in _PARTS} for core in chip.limits.cores]
    needs = {n.name: _needs(graph, n) for n in graph.neurons}
    found: list[Violation] = []
    fitting: dict[str, list[int]] = {}
    for name, need in needs.items():
        fitting[name] = [i for i, core in enumerate(cores) if all(need[part] <= core[part] for part in _PARTS)]
        if not fitting[name]:
            found += _too_large(name, need, cores)
    placed = _assign({name: choice for name, choice in fitting.items() if choice})
    if len(graph.neurons) > len(cores):
        advice = "use fewer layers, or a chip with more cores"
        found.append(Violation("layers", "all", len(graph.neurons), len(cores), advice))
    elif len(placed) < sum(bool(choice) for choice in fitting.values()):
        left = next(name for name, choice in fitting.items() if choice and name not in placed)
        advice = "several layers need the same few large cores: make one of them smaller"
        found.append(Violation("cores large enough", left, len(placed) + 1, len(placed), advice))
    found += _connections(graph, chip)
    return tuple(found)


def _needs(graph: FixedPointGraph, population: Neurons) -> dict[str, int]:
    weights = sum(synapse.weight.size for synapse in graph.incoming(population.name))
    biases = population.bias_mantissa.size if population.bias_mantissa.any() else 0
    return {"weights": weights, "neurons": population.size, "biases": biases}


def _too_large(name: str, need: dict[str, int], cores: list[dict[str, int]]) -> Iterator[Violation]:
    """Which part no core holds or, where each part fits some core, the weights of cores with room for the rest."""
    alone = [part for part in _PARTS if all(need[part] > core[part] for core in cores)]
    for part in alone:
        limit = max(core[part] for core in cores)
        yield Violation(part, name, need[part], limit, "use fewer channels, or smaller maps or kernels")
    if not alone:
        rest = [core["weights"] for core in cores if all(need[p] <= core[p] for p in ("neurons", "biases"))]
        limit = max(rest, default=0)
        yield Violation("weights", name, need["weights"], limit, "cores with room for its neurons hold fewer weights")


def _assign(fitting: dict[str, list[int]]) -> set[str]:
    """Layers that get a core each: a largest matching, by augmenting paths."""
    owner: dict[int, str] = {}

    def place(name: str, tried: set[int]) -> bool:
        for core in fitting[name]:
            if core in tried:
                continue
            tried.add(core)
            if core not in owner or place(owner[core], tried):
                owner[core] = name
                return True
        return False

    for name in fitting:
        place(name, set())
    return set(owner.values())


def _connections(graph: FixedPointGraph, chip: LimitsHardware) -> Iterator[Violation]:
    limit = chip.limits.destinations_per_core.number
    for population in graph.neurons:
        targets = {synapse.target for synapse in graph.synapses if synapse.source == population.name}
        if len(targets) > limit:
            advice = "feed fewer layers from it"
            yield Violation("destinations", population.name, len(targets), limit, advice)
    for synapse in graph.synapses:
        if synapse.kind == "conv" and chip.limits.square_kernels.value:
            height, width = synapse.weight.shape[2:]
            if height != width:
                advice = f"the kernel of {synapse.name} is {height} x {width}: make it square"
                yield Violation("square kernels", synapse.target, height, width, advice)
