"""What keeps a net from running on a chip as it is: every rule is asked, and all answers are given at once.

What a core holds is asked where populations are cut; here stands what no cut can mend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse
from spikefold.deploy.count import gate_activity, payload_bits
from spikefold.deploy.hardware import ChipHardware
from spikefold.deploy.mapping.demand import Connection
from spikefold.deploy.mapping.layout import Violation
from spikefold.deploy.mapping.split import Split, core_limits
from spikefold.deploy.pipeline import pipeline

_ADVICE = {
    "neurons": "no core holds a neuron",
    "synapse_bits": "the weights of a single neuron do not fit; give it fewer inputs, such as by pooling before it",
    "in_axons": "a single neuron hears too many sources; give it fewer, such as by pooling before it",
    "out_axons": "a single neuron reaches too many cores; make the layers behind it narrower",
    "weight_formats": "connections into the layer have too many exponents; quantise with fewer",
}
_NAMES = {
    "neurons": "neurons", "synapse_bits": "synapse memory, bit", "in_axons": "in-axons", "out_axons": "out-axons",
    "weight_formats": "weight formats",
}  # fmt: skip


def violations(
    graph: FixedPointGraph, splits: Sequence[Split], connections: Sequence[Connection], chips: int, chip: ChipHardware
) -> tuple[Violation, ...]:
    """Everything that the net asks for and the chip has not.

    Parameters
    ----------
    graph
        The net.
    splits
        Its populations, cut.
    connections
        Its synapses.
    chips
        Chips that it takes.
    chip
        What it should run on.
    """
    return tuple(
        v
        for found in (
            _cores(splits, chip), _chips(splits, chips, chip), _fan_in(graph, connections, chip), _weights(graph, chip),
            _delays(graph, chip), _payloads(graph, chip), _populations(graph, chip),
        )
        for v in found
    )  # fmt: skip


def cautions(splits: Sequence[Split], chip: ChipHardware) -> Iterator[str]:
    """Where a layer keeps one source's limit of thresholds or formats and not another's, or is cut for thresholds."""
    for field, needs, what in (
        (chip.limits.threshold_levels_per_core, "levels", "distinct thresholds"),
        (chip.limits.weight_formats_per_core, "weight_formats", "weight formats"),
    ):
        for one in splits:
            used = int((one.levels if needs == "levels" else one.needs.weight_formats).max())
            if field is not None and field.range.low < used <= field.number:
                yield (
                    f"layer {one.population.name} uses {used} {what} on a core: sources put the limit at "
                    f"{field.range.low:g} or {field.number}"
                )
    for one in splits:
        if one.limited_by == "threshold_levels":
            yield (
                f"layer {one.population.name} takes {one.grid.boxes} cores for its {one.population.threshold_levels} "
                "distinct thresholds; fewer (`spikefold export --threshold-levels`) take fewer cores"
            )


def stored_bits(synapse: Synapse) -> int:
    """Bits that hold every weight, sign included; weights are even, and their lowest bit is not stored."""
    low, high = int(synapse.weight.min(initial=0)) >> 1, int(synapse.weight.max(initial=0)) >> 1
    return max(high.bit_length(), (~low).bit_length()) + 1


def _cores(splits: Iterable[Split], chip: ChipHardware) -> Iterator[Violation]:
    limits = core_limits(chip)
    for one in splits:
        for name, used in one.broken.items():
            yield Violation(_NAMES[name], one.population.name, used, limits[name] or 0, _ADVICE[name])


def _chips(splits: Sequence[Split], chips: int, chip: ChipHardware) -> Iterator[Violation]:
    limit = chip.limits.chips
    if limit is not None and chips > limit.number:
        largest = max(splits, key=lambda one: one.grid.boxes)
        advice = f"no larger system of this chip was built; this layer takes most cores, {largest.grid.boxes}"
        yield Violation("chips", largest.population.name, chips, limit.number, advice)


def _fan_in(graph: FixedPointGraph, connections: Sequence[Connection], chip: ChipHardware) -> Iterator[Violation]:
    for population in graph.neurons:
        used = sum(c.fan_in for c in connections if c.target == population.name)
        if chip.limits.fan_in is not None and used > chip.limits.fan_in.number:
            yield Violation("fan-in", population.name, used, chip.limits.fan_in.number, "give its neurons fewer inputs")


def _weights(graph: FixedPointGraph, chip: ChipHardware) -> Iterator[Violation]:
    for synapse in graph.synapses:
        bits = stored_bits(synapse)
        if bits > chip.limits.weight.number:
            advice = f"connection {synapse.name} needs them, sign included; quantise to fewer"
            yield Violation("weight bits", synapse.target, bits, chip.limits.weight.number, advice)
        shift = next(n for n in graph.neurons if n.name == synapse.target).current_shift
        exponent = abs(synapse.exponent + shift - arithmetic.STATE_FRACTION_BITS)
        if chip.limits.weight_exponent is not None and exponent > chip.limits.weight_exponent.number:
            advice = f"connection {synapse.name} is scaled by a power of two that its field does not hold"
            yield Violation("weight exponent", synapse.target, exponent, chip.limits.weight_exponent.number, advice)


def _delays(graph: FixedPointGraph, chip: ChipHardware) -> Iterator[Violation]:
    limit = chip.limits.max_delay
    if limit is None:
        return
    own = {synapse.name: synapse.longest_delay for synapse in graph.synapses}
    for stage in pipeline(graph, graph.time_steps or 1):
        for name, wait in stage.waits.items():
            if wait + own[name] > limit.number:
                reason = "must wait for a longer branch; put fewer layers or gates beside it"
                advice = f"connection {name} " + (f"has a delay of {own[name]} and {reason}" if own[name] else reason)
                yield Violation("delay", stage.name, wait + own[name], limit.number, advice)


def _payloads(graph: FixedPointGraph, chip: ChipHardware) -> Iterator[Violation]:
    if chip.limits.graded_payload.value:
        return
    for synapse in graph.synapses:
        bits = payload_bits(graph, synapse.source)
        if bits:
            advice = f"bits of a number that {synapse.source} sends; spikes of this chip carry none"
            yield Violation("graded payload", synapse.target, bits, 0, advice)


def _populations(graph: FixedPointGraph, chip: ChipHardware) -> Iterator[Violation]:
    programmable = chip.limits.programmable_neurons.value
    for n in graph.neurons:
        if n.gate is not None or n.has_bias_schedule:
            operations = gate_activity(n, graph.time_steps or 1).operations
            advice = "operations of its gate for a clip, of which the chip computes none; lower it as static"
            if programmable:
                advice = "operations of its gate for a clip; programmable neurons might, but nobody published how"
            yield Violation("attention", n.name, operations, 0, advice)
        if not programmable:
            yield from _fixed_neurons(n)


def _fixed_neurons(n: Neurons) -> Iterator[Violation]:
    if n.relay is not None:
        yield Violation("relay", n.name, n.size, 0, "populations that send their current on; the chip's only fire")
    if n.soft_reset or (n.v_reset is not None and bool(np.any(n.v_reset))):
        yield Violation("reset", n.name, n.size, 0, "neurons that a spike leaves at another value than 0")
