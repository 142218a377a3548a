"""Price an inference on a neuromorphic chip, from a run and where its neurons lie.

Energy: ``E_syn * synops + E_active * fired + E_inactive * quiet + E_tile * messages + E_ew * hops + E_ns * hops +
E_reset * chips + P_static * chips * time``. Fired and quiet are neuron updates with and without a spike, T of each
neuron: clips may follow each other without a gap. A source sends one message to each core that a connection of it
reaches, whose hops follow from the places of both cores; all are counted neuron by neuron. No source defines an active
update, so the range of every update reaches from the inactive energy (low) to the active one (high), that of one that
fired to the active one's high end. A relay is priced as neurons are, in lines of its own; its messages are as many
payload words as hold them. On a chip without payloads they are one word each, and the total is a lower bound, for what
would stand in their place costs more.

Time: from the first step of a clip to its answer, T steps and one for each connection on the longest way (a gate that
reads its clip waits for it). ``t_step = max over cores (neurons + messages out + messages in + synops) + way +
barrier``: the busiest core does one after the other, the last message takes the longest way there is from a core that
sends in the step, ``t_ew * hops + t_ns * hops``, and a barrier ends the step. Low: neurons and synapses of a core work
side by side, and messages travel meanwhile. Events are means over the samples, step by step, so a mixed batch is
bounded from below. No source gives the time of a gate, of a border between chips or of waiting for a link: where the
total is a lower bound, the time is one, too.

Of counts alone (`price_counts`) only synaptic operations and updates are priced.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import numpy as np

from spikefold.deploy.activity import Activity, GateActivity
from spikefold.deploy.hardware import ChipHardware, Leaf, OperationsHardware, Range, load_hardware
from spikefold.deploy.mapping.layout import Mapping, Traffic
from spikefold.deploy.mapping.work import core_work, longest_ways
from spikefold.deploy.pipeline import Stage, pipeline
from spikefold.deploy.price_record import Price, PriceLine, silence_notes
from spikefold.deploy.run import Run

_NOTHING = Range.exact(0.0)
_ONE = Range.exact(1.0)


def price_mapped(run: Run, chip: ChipHardware, mapping: Mapping) -> Price:
    """Price one inference of a run on cores; see the module's text."""
    activity, samples = run.activity, run.activity.samples
    stages = pipeline(run.graph, run.time_steps)
    words = _message_words(run, chip)
    graded = [s.name for s, a in zip(run.graph.synapses, activity.synapses, strict=True) if a.graded_source]
    step_times = _step_times(run, stages, words, mapping, chip)
    steps, latency = len(step_times), sum(step_times, _NOTHING)
    traffic = mapping.traffic_of({name: sent.sum(axis=0) for name, sent in run.sent.items()})
    energy = chip.energy
    lines = [*counted_lines(activity, chip), *message_lines(run, chip, traffic)]
    if energy.state_reset is not None:
        lines.append(PriceLine("state reset of a sample, chips", "dynamic", mapping.chips, energy.state_reset.range))
    lines.append(PriceLine("static power x latency, chips", "static", mapping.chips, chip.static.chip.range * latency))
    crossing = sum(t.chip_borders for t in traffic) / samples
    delayed = _delayed(run, stages, traffic)
    notes = [
        chip.note,
        "input events pay a message to each core that they reach, and no hops: where the input enters is not mapped",
        f"latency is {steps} steps, {run.time_steps} of the clip and {steps - run.time_steps} through the net, each "
        "its busiest core, the longest way of a message and a barrier; a clip that follows without a gap adds only the "
        "former and their static power",
    ]
    if chip.time.hop_east_west is None or chip.time.hop_north_south is None:
        notes.append("how long a hop takes is not published for this chip, and left out of the latency")
    if energy.state_reset is None:
        notes.append("what resetting the state between samples takes is not published for this chip, and left out")
    if mapping.chips > 1 and chip.time.barrier_across_chips is None:
        notes.append("the barrier of several chips is not published for this chip: that of one is taken")
    if crossing:
        notes.append(
            f"{crossing:,.0f} steps of messages from chip to chip, whose energy and time no source gives: total and "
            "latency are lower bounds"
        )
    if delayed:
        notes.append(
            f"branches of unequal depth: messages wait {delayed:,.0f} steps in delay lines; no source gives an energy "
            "of waiting, so it is counted and costs nothing"
        )
    notes += mapping.cautions
    lacks_payload = bool(graded) and not chip.limits.graded_payload.value
    if lacks_payload:
        notes.append(
            "this chip sends no numbers: graded messages are priced as if they were spikes: total and latency are "
            "lower bounds"
        )
    return _record(
        activity, chip, lines, notes, lower_bound=bool(crossing) or lacks_payload, mapping=mapping, steps=steps,
        latency=latency, delayed=delayed,
    )  # fmt: skip


def price_counts(activity: Activity, chip: ChipHardware) -> Price:
    """Price what counts alone tell: synaptic operations and updates."""
    notes = [
        chip.note,
        "counts alone, without a mapping: messages, hops, resets and static power are left out, and the total is a "
        "lower bound; price a run",
    ]
    return _record(activity, chip, counted_lines(activity, chip), notes, lower_bound=True)


def _record(
    activity: Activity, chip: ChipHardware, lines: list[PriceLine], notes: list[str], *, lower_bound: bool,
    mapping: Mapping | None = None, steps: int | None = None, latency: Range | None = None,
    delayed: float | None = None,
) -> Price:  # fmt: skip
    gates = [layer.gate for layer in activity.layers if layer.gate is not None]
    if gates:
        notes.append(
            "no source gives the energy or the time of gate work on this chip: gate operations are counts, and total "
            "and latency are lower bounds"
        )
    return Price(
        hardware=chip.name,
        title=chip.title,
        family=chip.family,
        estimate=chip.estimate,
        lines=tuple(lines),
        lower_bound=lower_bound or bool(gates),
        gate_operations=activity.gate_operations,
        gate_processor=gate_processor(gates) if gates else None,
        fits=None if mapping is None else not mapping.violations,
        fit_notes=() if mapping is None else tuple(str(v) for v in mapping.violations),
        notes=(*notes, *silence_notes(activity)),
        cores=None if mapping is None else len(mapping.cores),
        chips=None if mapping is None else mapping.chips,
        steps=steps,
        latency=latency,
        delayed=delayed,
    )


def counted_lines(activity: Activity, chip: ChipHardware) -> list[PriceLine]:
    """Lines of synaptic operations and updates: of a whole net, or of some layers and the connections into them."""
    neurons, relays = ([n for n in activity.layers if (n.relay is None) is wanted] for wanted in (True, False))
    energy = chip.energy
    fired, quiet = _update_ranges(energy.neuron_active, energy.neuron_inactive, energy.spike_out)
    lines = [
        PriceLine("synaptic operations", "dynamic", activity.synops, energy.synop.range),
        PriceLine("neuron updates that fired", "dynamic", activity.spikes, fired),
        PriceLine("neuron updates that did not fire", "dynamic", sum(n.quiet for n in neurons), quiet),
    ]
    if relays:
        lines += [
            PriceLine("relay updates that sent a number", "dynamic", activity.relay_messages, fired),
            PriceLine("relay updates that sent none", "dynamic", sum(r.quiet for r in relays), quiet),
        ]
    return lines


def message_lines(run: Run, chip: ChipHardware, traffic: Iterable[Traffic]) -> list[PriceLine]:
    """Lines of messages and their hops: those of all connections, or of some."""
    words, samples, energy, along = _message_words(run, chip), run.activity.samples, chip.energy, list(traffic)
    graded = {s.name for s, a in zip(run.graph.synapses, run.activity.synapses, strict=True) if a.graded_source}
    spikes = [(t.axons / samples, _ONE) for t in along if t.connection not in graded]
    lines = [_sum_line("spike messages within a tile", spikes, energy.spike_within_tile)]
    if any(t.connection in graded for t in along):
        numbers = [(t.axons / samples, words[t.connection]) for t in along if t.connection in graded]
        lines.append(_sum_line("graded messages within a tile, payload words", numbers, energy.spike_within_tile))
    for name, field, leaf in (
        ("hops east and west", "column_hops", energy.hop_east_west),
        ("hops north and south", "row_hops", energy.hop_north_south),
    ):
        hops = [(getattr(t, field) / samples, words[t.connection]) for t in along]
        lines.append(_sum_line(name, hops, leaf))
    return lines


def _message_words(run: Run, chip: ChipHardware) -> dict[str, Range]:
    """Messages that one of each connection takes."""
    both = zip(run.graph.synapses, run.activity.synapses, strict=True)
    return {s.name: _words(a.payload_bits, chip) for s, a in both}


def _words(bits: int, chip: ChipHardware) -> Range:
    """Messages that a number of so many bits takes; 1 for a spike, and on a chip without payloads."""
    word = chip.limits.payload_word
    if bits == 0 or word is None:
        return _ONE
    size = word.range
    return Range(*(float(math.ceil(bits / max(1.0, end))) for end in (size.high, size.value, size.low)))


def _sum_line(component: str, counts: Iterable[tuple[float, Range]], leaf: Leaf) -> PriceLine:
    """A line of messages that take several words; its energy per event holds the range of the words, too."""
    total = sum((words * count for count, words in counts), _NOTHING)
    share = Range(total.low / total.value, 1.0, total.high / total.value) if total.value else _ONE
    return PriceLine(component, "dynamic", total.value, leaf.range * share)


def _delayed(run: Run, stages: Iterable[Stage], traffic: Iterable[Traffic]) -> float:
    """Steps that messages are held, delays of the net included; where these differ, their mean over what was sent."""
    waits = {name: float(wait) for stage in stages for name, wait in stage.waits.items()}
    for synapse in (s for s in run.graph.synapses if s.longest_delay):
        sent = run.sent[synapse.source].sum(axis=0)
        waits[synapse.name] += float((sent * synapse.delay).sum() / max(1, sent.sum()))
    return sum(t.axons * waits[t.connection] for t in traffic) / run.activity.samples


def _step_times(
    run: Run, stages: tuple[Stage, ...], words: dict[str, Range], mapping: Mapping, chip: ChipHardware
) -> list[Range]:
    """Time [s] of every step from the first of a clip to its answer."""
    time, samples = chip.time, len(run.logits)
    work = core_work(mapping, stages, run.sent, {name: int(word.value) for name, word in words.items()})
    fired, quiet = _update_ranges(time.neuron_active, time.neuron_inactive, time.spike_out)
    along, across, out, into = (
        leaf.range if leaf is not None else _NOTHING
        for leaf in (time.hop_east_west, time.hop_north_south, time.spike_within_tile, time.message_in)
    )
    barrier = _barrier(mapping, chip)
    hops = np.array([(0.0, 0.0), (along.value, across.value), (along.high, across.high)])
    ends = []
    for end, way in zip(("low", "value", "high"), longest_ways(mapping, stages, run.sent, hops), strict=True):
        f, q, o, i, s, b = (float(getattr(r, end)) for r in (fired, quiet, out, into, time.synop.range, barrier))
        neurons = (work.fired * (f - q) + work.sent * o) / samples + work.updated * q
        synapses = (work.received * i + work.synops * s) / samples
        busy = np.maximum(neurons, synapses) if end == "low" else neurons + synapses
        ends.append(busy.max(axis=1, initial=0.0) + way + b)
    return [Range(*times) for times in np.transpose(ends).tolist()]


def _barrier(mapping: Mapping, chip: ChipHardware) -> Range:
    """Barrier [s] of the chips and tiles that are used."""
    time = chip.time
    if mapping.chips > 1 and time.barrier_across_chips is not None:
        return time.barrier_across_chips.range
    if mapping.chips > 1 or time.barrier_steps is None:
        return time.barrier.range
    tiles = len({core.tile for core in mapping.cores})
    steps = sorted(time.barrier_steps, key=lambda step: step.tiles.number)
    return max(
        (s for s in steps if s.tiles.number <= tiles), key=lambda s: s.tiles.number, default=steps[0]
    ).barrier.range


def gate_processor(gates: Iterable[GateActivity]) -> Range:
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


def _update_ranges(on: Leaf, off: Leaf, spike_out: Leaf | None) -> tuple[Range, Range]:
    """Cost of an update that fired and of one that did not, from "all inactive" to "all active"."""
    active, inactive = on.range, off.range
    fired = Range(min(inactive.low, active.low), active.value, active.high)
    if spike_out is not None:
        fired += spike_out.range
    quiet = Range(inactive.low, inactive.value, max(active.value, inactive.high))
    return fired, quiet
