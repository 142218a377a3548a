"""Price an inference: counts times sourced constants, one family of model at a time.

Families are never blended and compare only within themselves.

*operations* (45 nm, as the papers): ``E = E_AC * sum(T * r * MACs) + E_MAC * sum(T * MACs)``, the first sum over
connections with binary sources (``r``: mean spikes per source neuron and step), the second, dense, over graded sources
(Yao et al., TPAMI 2023; Horowitz, ISSCC 2014 for ``E_AC`` = fp32 add and ``E_MAC`` = fp32 multiply + add). Attention is
in ``total`` (multiplies as fp32 multiplies, additions and comparisons as fp32 additions, a look-up as one access of the
smallest SRAM; the buffer's traffic is left out like all memory traffic) and out of ``total_without_attention``.

*chip*: ``E = E_syn * synops + E_active * fired + E_inactive * quiet + E_tile * messages + P_static * time``; fired and
quiet are neuron updates with and without a spike. No source defines an active update, so the range of every update
reaches from the inactive energy (low) to the active one (high), that of one that fired to the active one's high end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

from spikefold.deploy.activity import Activity, GateActivity, LayerActivity, SynapseActivity
from spikefold.deploy.hardware import ChipHardware, ChipStorage, Hardware, OperationsHardware, Range, load_hardware
from spikefold.errors import InputError

GATE_PROCESSOR = "gate processor (45 nm arithmetic + SRAM, estimate)"
"""What ``Price.gate_processor`` is called wherever it is shown."""

_NOTHING = Range.exact(0.0)


@dataclass(frozen=True)
class PriceLine:
    """One component of a price."""

    component: str
    kind: Literal["dynamic", "attention", "static"]
    count: float
    """Events per inference; chips for the static line."""
    unit_energy: Range
    """Energy of one event [J]."""

    @property
    def energy(self) -> Range:
        """Energy per inference [J]."""
        return self.unit_energy * self.count


@dataclass(frozen=True)
class Price:
    """Energy [J] and time [s] of one inference on one hardware description."""

    hardware: str
    title: str
    family: Literal["chip", "operations"]
    estimate: bool
    """True where the constants themselves are an estimate; say so wherever the price is shown."""
    lines: tuple[PriceLine, ...]
    lower_bound: bool
    """True for a net with gates on a chip: no source prices gate work there, so ``total`` lacks it."""
    gate_operations: float
    gate_processor: Range | None
    """Gate work on a separate digital block [J], see ``GATE_PROCESSOR``; never part of ``total``."""
    fits: bool
    """False when the chip cannot run the net as it is; ``fit_notes`` says why."""
    fit_notes: tuple[str, ...]
    notes: tuple[str, ...]
    cores: int | None = None
    """Fewest cores that hold the net (estimate; a full mapping comes later)."""
    latency: Range | None = None
    """Time per inference [s] (estimate; a full mapping comes later)."""

    @property
    def total(self) -> Range:
        """All lines [J]."""
        return sum((line.energy for line in self.lines), _NOTHING)

    @property
    def total_without_attention(self) -> Range | None:
        """The total as papers state it, attention's own operations left out [J]; None for a chip."""
        return self._sum("dynamic") if self.family == "operations" else None

    @property
    def dynamic(self) -> Range:
        """All lines but the static one [J]."""
        return self._sum("dynamic") + self._sum("attention")

    @property
    def static(self) -> Range:
        """Static power times latency [J]."""
        return self._sum("static")

    def _sum(self, kind: str) -> Range:
        return sum((line.energy for line in self.lines if line.kind == kind), _NOTHING)

    def to_dict(self) -> dict[str, Any]:
        """Return everything ready for JSON: energies in joules, times in seconds."""

        def plain(quantity: Range | None) -> dict[str, float] | None:
            return None if quantity is None else quantity.to_dict()

        return {
            "hardware": self.hardware,
            "title": self.title,
            "family": self.family,
            "estimate": self.estimate,
            "units": {"energy": "J", "time": "s"},
            "lines": [
                {
                    "component": line.component,
                    "kind": line.kind,
                    "count": line.count,
                    "unit_energy": line.unit_energy.to_dict(),
                    "energy": line.energy.to_dict(),
                }
                for line in self.lines
            ],
            "total": self.total.to_dict(),
            "total_without_attention": plain(self.total_without_attention),
            "dynamic": self.dynamic.to_dict(),
            "static": self.static.to_dict(),
            "lower_bound": self.lower_bound,
            "gate_operations": self.gate_operations,
            "gate_processor": plain(self.gate_processor),
            "fits": self.fits,
            "fit_notes": list(self.fit_notes),
            "notes": list(self.notes),
            "cores": self.cores,
            "latency": plain(self.latency),
        }


def price(activity: Activity, hardware: Hardware) -> Price:
    """Price one inference.

    Parameters
    ----------
    activity
        Counts of a run, mean per sample.
    hardware
        A description from ``load_hardware``; its family selects the model.

    Raises
    ------
    InputError
        The activity has no time step, a connection into a layer that it does not list, or one of unknown kind.
    """
    if activity.time_steps < 1:
        raise InputError(f"activity {activity.name!r}: time_steps is {activity.time_steps}; give the steps of one clip")
    names = {layer.name for layer in activity.layers}
    for synapse in activity.synapses:
        if synapse.target not in names:
            raise InputError(
                f"activity {activity.name!r}: connection {synapse.source!r} -> {synapse.target!r} has no such target; "
                f"the layers are {sorted(names)}"
            )
    if isinstance(hardware, OperationsHardware):
        return _price_operations(activity, hardware)
    return _price_chip(activity, hardware)


def _gates(activity: Activity) -> tuple[GateActivity, ...]:
    return tuple(layer.gate for layer in activity.layers if layer.gate is not None)


def _price_operations(activity: Activity, table: OperationsHardware) -> Price:
    add, multiply = table.energy.fp32_add.range, table.energy.fp32_multiply.range
    steps = activity.time_steps
    accumulates = sum(s.torch_macs * s.source_rate * steps for s in activity.synapses if not s.graded_source)
    macs = sum(s.torch_macs * steps for s in activity.synapses if s.graded_source)
    lines = [
        PriceLine("accumulates (binary sources)", "dynamic", accumulates, add),
        PriceLine("multiply-accumulates (graded sources, dense)", "dynamic", macs, multiply + add),
    ]
    gates = _gates(activity)
    if gates:
        lookup = min(table.sram.banks, key=lambda bank: bank.size.number).access.range
        lines += [
            PriceLine("attention: multiplies", "attention", sum(g.multiplies for g in gates), multiply),
            PriceLine(
                "attention: additions, comparisons", "attention", sum(g.additions + g.comparisons for g in gates), add
            ),
            PriceLine("attention: look-ups", "attention", sum(g.lookups for g in gates), lookup),
        ]
    return Price(
        hardware=table.name,
        title=table.title,
        family=table.family,
        estimate=table.estimate,
        lines=tuple(lines),
        lower_bound=False,
        gate_operations=activity.gate_operations,
        gate_processor=None,
        fits=True,
        fit_notes=(),
        notes=(table.note,),
    )


def _gate_processor(gates: tuple[GateActivity, ...]) -> Range:
    """Energy of the gates [J] on integer units with SRAM beside them; fetch, control and wires are left out.

    ``E_mul * multiplies + E_add * (additions + comparisons) + E_sram * lookups + E_buffer * accesses``: buffered words
    are written and read in the smallest SRAM that holds the buffer. Value and high: one access a word; low: as many
    words an access as fit side by side.
    """
    table = cast(OperationsHardware, load_hardware("cmos45"))
    energy, banks = table.energy, sorted(table.sram.banks, key=lambda bank: bank.size.number)
    total = _NOTHING
    for gate in gates:
        bits = gate.buffer_words * gate.word_bits
        buffer = next((bank for bank in banks if bank.size.number >= bits), banks[-1]).access.range
        packed = max(1, table.sram.width.number // gate.word_bits)
        word = Range(buffer.low / packed, buffer.value, buffer.high)
        total += energy.int32_multiply.range * gate.multiplies
        total += energy.int32_add.range * (gate.additions + gate.comparisons)
        total += banks[0].access.range * gate.lookups
        total += word * (gate.accesses_per_word * gate.buffer_words)
    return total


def _price_chip(activity: Activity, chip: ChipHardware) -> Price:
    cores = {layer.name: _cores(layer, activity, chip) for layer in activity.layers}
    total_cores = sum(cores.values())
    chips = max(1, math.ceil(total_cores / chip.limits.cores.number))
    latency = _latency(activity, chip, cores)
    quiet = sum(_quiet(layer) for layer in activity.layers)
    energy = chip.energy
    fired_energy, quiet_energy = _update_ranges(energy.neuron_active.range, energy.neuron_inactive.range)
    lines = (
        PriceLine("synaptic operations", "dynamic", activity.synops, energy.synop.range),
        PriceLine("neuron updates that fired", "dynamic", activity.spikes, fired_energy),
        PriceLine("neuron updates that did not fire", "dynamic", quiet, quiet_energy),
        PriceLine(
            "spike messages within a tile", "dynamic", _messages(activity, cores), energy.spike_within_tile.range
        ),
        PriceLine("static power x latency", "static", chips, chip.static.chip.range * latency),
    )
    notes = [
        chip.note,
        "each spike pays one within-tile message per destination core; hops are left out until the net is mapped",
        "cores and latency are estimates without sharing of cores between layers; a full mapping comes later",
        "resetting the state between samples is not priced",
    ]
    notes += _caution_notes(activity, chip)
    gates = _gates(activity)
    processor = None
    if gates:
        processor = _gate_processor(gates)
        notes.append(
            "no source prices gate work on this chip: gate operations are counts, and the total is a lower bound"
        )
    problems = _fit_problems(activity, chip, cores)
    return Price(
        hardware=chip.name,
        title=chip.title,
        family=chip.family,
        estimate=chip.estimate,
        lines=lines,
        lower_bound=bool(gates),
        gate_operations=activity.gate_operations,
        gate_processor=processor,
        fits=not problems,
        fit_notes=problems,
        notes=tuple(notes),
        cores=total_cores,
        latency=latency,
    )


def _quiet(layer: LayerActivity) -> float:
    """Neuron updates without a spike."""
    return max(0.0, layer.updates - layer.spikes)


def _update_ranges(active: Range, inactive: Range) -> tuple[Range, Range]:
    """Cost of an update that fired and of one that did not, from "all inactive" to "all active"."""
    fired = Range(min(inactive.low, active.low), active.value, active.high)
    quiet = Range(inactive.low, inactive.value, max(active.value, inactive.high))
    return fired, quiet


def _row_bits(synapses: int, weight_bits: int, storage: ChipStorage) -> int:
    """Memory [bit] of a row of synapses: blocks with a header each, padded to words (nengo-loihi block.py)."""
    block, word = storage.block_synapses.number, storage.word.number

    def padded(count: int) -> int:
        return word * math.ceil((count * weight_bits + storage.block_header.number) / word)

    full, rest = divmod(synapses, block)
    return full * padded(block) + (padded(rest) if rest else 0)


def _stored_bits(synapse: SynapseActivity, neurons: int, chip: ChipHardware) -> int:
    """Memory [bit] of a connection: a dense row per source, or a kernel kept once with an index per weight."""
    weight = chip.limits.weight.number
    if synapse.kind == "dense":
        rows = math.ceil(synapse.stored_weights / max(1, neurons))
        return rows * _row_bits(neurons, weight, chip.storage)
    if synapse.kind == "conv":
        return _row_bits(synapse.stored_weights, weight + chip.storage.index.number, chip.storage)
    raise InputError(
        f"connection {synapse.source!r} -> {synapse.target!r}: kind {synapse.kind!r} is unknown; use 'conv' or 'dense'"
    )


def _cores(layer: LayerActivity, activity: Activity, chip: ChipHardware) -> int:
    """Fewest cores of one layer: by neurons, and by synapse memory with every weight kept once."""
    incoming = (s for s in activity.synapses if s.target == layer.name)
    bits = sum(_stored_bits(synapse, layer.neurons, chip) for synapse in incoming)
    by_neurons = math.ceil(layer.neurons / chip.limits.neurons_per_core.number)
    return max(1, by_neurons, math.ceil(bits / chip.limits.synapse_memory.number))


def _latency(activity: Activity, chip: ChipHardware, cores: dict[str, int]) -> Range:
    """Time per inference [s]: T x (the slowest layer's updates and synaptic operations a core and step + barrier).

    Layers run at the same time and share their work evenly over their cores. The steps that a clip needs to run through
    the layers' pipeline, and those that a gate waits for its clip, are left out.
    """
    fired, quiet = _update_ranges(chip.time.neuron_active.range, chip.time.neuron_inactive.range)
    slowest = _NOTHING
    for layer in activity.layers:
        synops = sum(s.synops for s in activity.synapses if s.target == layer.name)
        work = fired * layer.spikes + quiet * _quiet(layer) + chip.time.synop.range * synops
        step = work * (1.0 / (activity.time_steps * cores[layer.name]))
        slowest = Range(max(slowest.low, step.low), max(slowest.value, step.value), max(slowest.high, step.high))
    return (slowest + chip.time.barrier.range) * activity.time_steps


def _messages(activity: Activity, cores: dict[str, int]) -> float:
    """Spike messages per inference: source spikes x destination cores, at least one each.

    The cores that one source must reach are estimated by its fan-out over the target's neurons per core: all cores of a
    dense target, usually one of a convolution's. A source that no layer is called by is the input.
    """
    layers = {layer.name: layer for layer in activity.layers}
    destinations: dict[tuple[str, str], int] = {}
    for synapse in activity.synapses:
        source = layers.get(synapse.source)
        fan_out = synapse.synapses / max(1, source.neurons if source else activity.input_neurons)
        count = cores[synapse.target]
        reached = math.ceil(fan_out * count / max(1, layers[synapse.target].neurons))
        key = (synapse.source, synapse.target)
        destinations[key] = max(min(count, reached), destinations.get(key, 1))
    return sum(
        (layers[name].spikes if name in layers else activity.input_spikes) * reached
        for (name, _), reached in destinations.items()
    )


def _caution_notes(activity: Activity, chip: ChipHardware) -> list[str]:
    levels = chip.limits.threshold_levels_per_core
    return [
        f"layer {layer.name} uses {layer.threshold_levels} distinct thresholds: sources put the limit per core at "
        f"{levels.range.low:g} or {levels.number}"
        for layer in activity.layers
        if levels is not None and levels.range.low < layer.threshold_levels <= levels.number
    ]


def _fit_problems(activity: Activity, chip: ChipHardware, cores: dict[str, int]) -> tuple[str, ...]:
    """Return every rule that the net as it is breaks, each with layer, used and limit."""
    limits = chip.limits
    problems: list[str] = []
    if sum(cores.values()) > limits.cores.number:
        largest = max(cores, key=lambda name: cores[name])
        problems.append(
            f"too many cores: the net uses at least {sum(cores.values())} (layer {largest}: {cores[largest]}), "
            f"limit {limits.cores.number} per chip"
        )
    for layer in activity.layers:
        dense = [s for s in activity.synapses if s.target == layer.name and s.kind == "dense"]
        heard = sum(s.fan_in for s in dense)
        if limits.in_axons is not None and heard > limits.in_axons.number:
            problems.append(
                f"too many input axons: layer {layer.name} hears {heard} sources through dense connections, "
                f"limit {limits.in_axons.number} discrete axons per core"
            )
        levels = limits.threshold_levels_per_core
        if levels is not None and layer.threshold_levels > levels.number:
            problems.append(
                f"threshold map unpalettised: layer {layer.name} uses {layer.threshold_levels} distinct thresholds, "
                f"limit {levels.number} per core"
            )
        if layer.gate is not None:
            reason = "the chip cannot compute it natively"
            if limits.programmable_neurons.value:
                reason = "programmable neurons might, but there is no published implementation"
            problems.append(
                f"attention: layer {layer.name} uses {layer.gate.operations:g} gate operations, limit 0: {reason}"
            )
    if not limits.graded_payload.value:
        problems += [
            f"graded source: connection {s.source} -> {s.target} uses integer payloads, limit binary spikes"
            for s in activity.synapses
            if s.graded_source
        ]
    return tuple(problems)
