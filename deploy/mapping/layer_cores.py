"""Chips of one core a layer, such as Speck: which core each layer takes, and what keeps a net from fitting.

Only limits are asked. Whether the chip's neurons compute the same is not: spikefold does not simulate their arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from spikefold.converters.arithmetic import WRAP
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons
from spikefold.deploy.hardware import LimitsHardware
from spikefold.deploy.mapping.layout import Violation
from spikefold.deploy.mapping.rules import stored_bits

PARTS = ("weights", "neurons", "biases")
"""What a layer takes of its core; fields of `spikefold.deploy.hardware.LayerCore`."""


@dataclass(frozen=True)
class LayerOnCore:
    """One population and the core that runs it; counts by the names in `PARTS`."""

    name: str
    shape: tuple[int, ...]
    core: int | None
    """Number of its core in the chip's list, from 0; None where none is left that holds it."""
    used: dict[str, int]
    limits: dict[str, int]
    """What its core has; without a core, the most that any core has of each."""


@dataclass(frozen=True)
class LayerCores:
    """A net on a chip of one core a layer, by limits alone; ``violations`` empty means that it keeps them all."""

    net: str
    hardware: str
    cores: int
    """Cores of the chip."""
    layers: tuple[LayerOnCore, ...]
    """In execution order."""
    violations: tuple[Violation, ...]
    cautions: tuple[str, ...]
    """What the limits do not tell."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; ``fits`` says nothing of what the chip would compute."""
        return {
            "net": self.net,
            "hardware": self.hardware,
            "fits": not self.violations,
            "simulated": False,
            "violations": [asdict(v) for v in self.violations],
            "cautions": list(self.cautions),
            "limits": {"cores": self.cores},
            "layers": [{**asdict(layer), "shape": list(layer.shape)} for layer in self.layers],
        }


def map_layers(graph: FixedPointGraph, chip: LimitsHardware) -> LayerCores:
    """Give each population a core of its own, and list every rule that the net breaks.

    A population's weights are those of all synapses into it, each kept once; it has biases where one of them is not 0.
    """
    cores = [{part: getattr(core, part).number for part in PARTS} for core in chip.limits.cores]
    needs = {n.name: _needs(graph, n) for n in graph.neurons}
    fitting = {
        name: [i for i, core in enumerate(cores) if all(need[part] <= core[part] for part in PARTS)]
        for name, need in needs.items()
    }
    placed = _assign(fitting)
    found = [v for name, need in needs.items() if not fitting[name] for v in _too_large(name, need, cores)]
    if len(graph.neurons) > len(cores):
        advice = "use fewer layers, or a chip with more cores"
        found.append(Violation("layers", "all", len(graph.neurons), len(cores), advice))
    else:
        left = [name for name, choice in fitting.items() if choice and name not in placed]
        advice = "several layers need the same few large cores: make one of them smaller"
        found += [Violation("cores large enough", name, len(placed) + 1, len(placed), advice) for name in left[:1]]
    found += _connections(graph, chip)
    most = {part: max(core[part] for core in cores) for part in PARTS}
    layers = tuple(
        LayerOnCore(
            n.name, n.shape, placed.get(n.name), needs[n.name], cores[placed[n.name]] if n.name in placed else most
        )
        for n in graph.neurons
    )
    return LayerCores(graph.name, chip.name, len(cores), layers, tuple(found), tuple(_cautions(graph, chip)))


def _needs(graph: FixedPointGraph, population: Neurons) -> dict[str, int]:
    weights = sum(synapse.weight.size for synapse in graph.incoming(population.name))
    biases = population.bias_mantissa.size if population.bias_mantissa.any() else 0
    return {"weights": weights, "neurons": population.size, "biases": biases}


def _too_large(name: str, need: dict[str, int], cores: list[dict[str, int]]) -> Iterator[Violation]:
    """Which part no core holds or, where each part fits some core, the weights of cores with room for the rest."""
    alone = [part for part in PARTS if all(need[part] > core[part] for core in cores)]
    for part in alone:
        limit = max(core[part] for core in cores)
        yield Violation(part, name, need[part], limit, "use fewer channels, or smaller maps or kernels")
    if not alone:
        rest = [core["weights"] for core in cores if all(need[p] <= core[p] for p in ("neurons", "biases"))]
        limit = max(rest, default=0)
        yield Violation("weights", name, need["weights"], limit, "cores with room for its neurons hold fewer weights")


def _assign(fitting: dict[str, list[int]]) -> dict[str, int]:
    """Layers that get a core each, and which: a largest matching, by augmenting paths."""
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
    return {name: core for core, name in owner.items()}


def _connections(graph: FixedPointGraph, chip: LimitsHardware) -> Iterator[Violation]:
    limit = chip.limits.destinations_per_core.number
    for population in graph.neurons:
        targets = {synapse.target for synapse in graph.synapses if synapse.source == population.name}
        if len(targets) > limit:
            advice = "feed fewer layers from it"
            yield Violation("destinations", population.name, len(targets), limit, advice)
    for synapse in graph.synapses:
        bits, most = stored_bits(synapse), chip.limits.weight.number
        if bits > most:
            advice = f"connection {synapse.name} needs them, sign included; quantise to fewer"
            yield Violation("weight bits", synapse.target, bits, most, advice)
        if synapse.kind == "conv" and chip.limits.square_kernels.value:
            height, width = synapse.weight.shape[2:]
            if height != width:
                advice = f"the kernel of {synapse.name} is {height} x {width}: make it square"
                yield Violation("square kernels", synapse.target, height, width, advice)


def _cautions(graph: FixedPointGraph, chip: LimitsHardware) -> Iterator[str]:
    yield (
        f"limits alone: the arithmetic of {chip.name} is not simulated and nothing is priced on it; its states have "
        f"{chip.limits.state.number} bits and this net's {WRAP.bit_length() - 1}, so its own tools must quantise the "
        "net anew"
    )
    senders = (graph.input.name, *(n.name for n in graph.neurons))
    for what, names in (
        ("computed gates", [n.name for n in graph.neurons if n.gate is not None or n.has_bias_schedule]),
        ("messages with numbers", [name for name in senders if graph.is_graded(name)]),
        ("thresholds that differ inside a layer", [n.name for n in graph.neurons if n.threshold_levels > 1]),
    ):
        if names:
            yield f"the limits say nothing of {what}, which the net has in {', '.join(names)}"
