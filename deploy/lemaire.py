"""Energy with memory traffic included, of a spiking net and of the ANNs that it competes with.

Lemaire et al., "An analytical estimation of spiking neural networks energy efficiency" (ICONIP 2022,
arXiv:2210.13107): every layer has memories of its own for weights, biases, potentials and events, and an access costs
``a + b * bits of the memory`` (line through three sizes of SRAM at 45 nm). For one inference of T steps, with s and s'
the messages into and out of a layer of N neurons, and R = s * fan-out:

=========== =========================================================================================================
memory      s and s' events read and written; R weights read; R + T * N potentials read and written; T * N biases read
operations  R + T * N + s' additions; T * N multiply-accumulates for the leak
addressing  2 * s multiply-accumulates (convolutions) and R additions
=========== =========================================================================================================

Where the paper and the code of its authors (qualia-plugin-snn 2.6.0) leave a choice, this is what is meant here:

- fan-out is that of the torch layer as written, border and stride included, for reads and operations alike (the paper
  divides by the stride in the operations only);
- a dense layer does ``s * N`` additions (the paper multiplies by the number of inputs once more, which its own code
  calls an error), and addressing counts messages, not rates, and all output channels;
- graded messages cannot be added up: their layer does one dense pass of multiply-accumulates a step, as an ANN's;
- words are those that are deployed: weights of 8, biases of 16, potentials of 24 bits; sums are added as int32;
- event queues are so small that an access costs the constant a; the memory of weights is that of the mapped kernel,
  into which pooling is composed; each neuron has a bias and a leak;
- low end of an access: words lie side by side in banks of the smallest size, so that several move at once.

The operations of attention, with their buffer, are lines of their own, as in the operation count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from spikefold.deploy.activity import Activity, GateActivity, LayerActivity, SynapseActivity
from spikefold.deploy.hardware import Hardware, OperationsHardware, Range
from spikefold.deploy.price import Price, PriceLine, check_activity
from spikefold.errors import HardwareConfigError, InputError

WEIGHT_BITS, BIAS_BITS, STATE_BITS = 8, 16, 24
"""Words of a deployed net (`spikefold.converters.arithmetic`)."""

Kind = Literal["dynamic", "attention", "static"]
_NOTHING = Range.exact(0.0)


class _Costs:
    """Accesses and operations of one table, in joules."""

    def __init__(self, hardware: Hardware) -> None:
        if not isinstance(hardware, OperationsHardware):
            raise HardwareConfigError(
                f"{hardware.name}: has family {hardware.family!r}; memory is priced with a table of "
                "operations: use cmos45"
            )
        if hardware.sram.regression is None:
            raise HardwareConfigError(
                f"{hardware.name}: sram.regression is null; give access and per_bit, as cmos45 does"
            )
        self.table, self.energy, self.regression = hardware, hardware.energy, hardware.sram.regression
        self.add, self.int32_multiply = self.energy.int32_add.range, self.energy.int32_multiply.range
        self.queue = self.regression.access.range
        self._bank = min(hardware.sram.banks, key=lambda bank: bank.size.number).access.range

    def access(self, words: float, bits: int) -> Range:
        """One access of a word in a memory of ``words`` words of ``bits``."""
        line = self.regression.access.range + self.regression.per_bit.range * (words * bits)
        packed = self._bank.low / max(1, self.table.sram.width.number // bits)
        return Range(min(line.low, packed), line.value, line.high)

    def multiply(self, bits: int) -> Range:
        """Product of a weight and a number of ``bits``.

        An array multiplier's energy grows with the product of its widths, so that of 8 by 8 bits is scaled by ``bits``.
        High end: the smallest published product that is wide enough.
        """
        eight, wide = self.energy.int8_multiply.range, self.energy.int32_multiply.range
        share = eight * (bits / WEIGHT_BITS)
        enough = eight if bits <= WEIGHT_BITS else wide
        return Range(share.low, share.value, max(share.high, enough.high))

    def price(
        self, lines: list[PriceLine], title: str, suffix: str, gate_operations: float, note: str, is_ann: bool = False
    ) -> Price:
        """The lines as a price of the family "memory"."""
        return Price(
            hardware=f"{self.table.name}-{suffix}",
            title=title,
            family="memory",
            estimate=self.table.estimate,
            lines=tuple(lines),
            lower_bound=False,
            gate_operations=gate_operations,
            gate_processor=None,
            fits=True,
            fit_notes=(),
            notes=(note,),
            is_ann=is_ann,
        )


class _Sum:
    """Events of several energies that make one line."""

    def __init__(self) -> None:
        self.count, self.energy = 0.0, _NOTHING

    def add(self, count: float, each: Range) -> None:
        self.count += count
        self.energy += each * count

    def line(self, component: str, kind: Kind = "dynamic") -> PriceLine:
        """The line; its energy per event is the mean."""
        return PriceLine(component, kind, self.count, self.energy * (1.0 / self.count) if self.count else _NOTHING)


def price_memory(activity: Activity, hardware: Hardware) -> Price:
    """Energy of one inference with memory traffic, layer by layer.

    Parameters
    ----------
    activity
        Counts of a run, mean per sample.
    hardware
        A table of operations with ``sram.regression``, such as ``cmos45``.

    Returns
    -------
    Price
        Of family "memory": three lines a layer, "memory", "operations" and "addressing", and two for a gate.

    Raises
    ------
    InputError
        The activity is broken, see `check_activity`.
    HardwareConfigError
        The description is no such table.
    """
    check_activity(activity)
    costs = _Costs(hardware)
    lines: list[PriceLine] = []
    for layer in activity.layers:
        memory, operations, addressing = _Sum(), _Sum(), _Sum()
        for synapse in _into(layer, activity):
            _add_synapse(synapse, activity, costs, memory, operations, addressing)
        _add_neurons(layer, activity.time_steps, costs, memory, operations)
        lines += [
            memory.line(f"{layer.name}: memory"),
            operations.line(f"{layer.name}: operations"),
            addressing.line(f"{layer.name}: addressing"),
        ]
        if layer.gate is not None:
            lines += _gate_lines(layer.name, layer.gate, costs)
    note = "Memory and arithmetic at 45 nm after Lemaire et al. 2022; compare within this family only."
    title = "Memory-inclusive (Lemaire et al., 2022), 45 nm"
    return costs.price(lines, title, "memory", activity.gate_operations, note)


def price_ann(
    activity: Activity,
    hardware: Hardware,
    family: Literal["operations", "memory"] = "memory",
    activation_bits: int = WEIGHT_BITS,
) -> Price:
    """Energy of the ANN of the same shape: one dense pass over the same layers, without their attention.

    Parameters
    ----------
    activity
        Counts of the spiking net; only its shapes are read.
    hardware
        A table of operations.
    family
        "operations": a 32-bit float multiply-accumulate each, as papers compare. "memory": weights of 8 bits and
        activations of ``activation_bits``, each read for every multiply-accumulate, outputs and biases once.
    activation_bits
        Bits of an activation; `matched_bits` gives those that hold as much as T steps of spikes. Of no effect for
        "operations".

    Raises
    ------
    InputError
        The activity is broken, or ``activation_bits`` is not 1 to 32.
    HardwareConfigError
        The description is no such table.
    """
    check_activity(activity)
    if not 1 <= activation_bits <= 32:
        raise InputError(f"activation_bits is {activation_bits}; give 1 to 32")
    if family == "operations":
        return _price_ann_operations(activity, hardware)
    costs = _Costs(hardware)
    lines: list[PriceLine] = []
    for layer in activity.layers:
        memory, operations, addressing = _Sum(), _Sum(), _Sum()
        for s in _into(layer, activity):
            _add_dense_pass(s, _sources(s, activity), activation_bits, costs, memory, operations, passes=1)
            addressing.add(s.torch_macs if s.kind == "dense" else _sources(s, activity) + layer.neurons, costs.add)
        memory.add(layer.neurons, costs.access(layer.neurons, BIAS_BITS))
        memory.add(layer.neurons, costs.access(layer.neurons, activation_bits))
        operations.add(layer.neurons, costs.add)
        lines += [
            memory.line(f"{layer.name}: memory"),
            operations.line(f"{layer.name}: operations"),
            addressing.line(f"{layer.name}: addressing"),
        ]
    title = f"ANN of the same shape, {activation_bits}-bit activations, memory-inclusive (Lemaire et al., 2022), 45 nm"
    note = "One dense pass a clip, attention left out; compare with family 'memory' only."
    return costs.price(lines, title, f"ann-{activation_bits}bit", 0.0, note, is_ann=True)


def matched_bits(time_steps: int) -> int:
    """Bits of an activation that tells as much as the spikes of T steps: ``ceil(log2(T + 1))``.

    Yan et al., "Reconsidering the energy efficiency of spiking neural networks" (arXiv:2409.08290).
    """
    if time_steps < 1:
        raise InputError(f"time_steps is {time_steps}; give at least 1")
    return time_steps.bit_length()


def _into(layer: LayerActivity, activity: Activity) -> Iterator[SynapseActivity]:
    return (s for s in activity.synapses if s.target == layer.name)


def _sources(synapse: SynapseActivity, activity: Activity) -> int:
    found = (layer.neurons for layer in activity.layers if layer.name == synapse.source)
    return next(found, activity.input_neurons)


def _messages(synapse: SynapseActivity, activity: Activity) -> float:
    found = (layer.messages for layer in activity.layers if layer.name == synapse.source)
    return next(found, activity.input_spikes)


def _add_synapse(
    synapse: SynapseActivity, activity: Activity, costs: _Costs, memory: _Sum, operations: _Sum, addressing: _Sum
) -> None:
    steps = activity.time_steps
    if synapse.graded_source:
        sources = _sources(synapse, activity)
        _add_dense_pass(synapse, sources, synapse.payload_bits, costs, memory, operations, passes=steps)
        return
    target = next(layer for layer in activity.layers if layer.name == synapse.target)
    messages = _messages(synapse, activity)
    reached = synapse.torch_macs * synapse.source_rate * steps
    potential = costs.access(target.neurons, STATE_BITS)
    memory.add(messages, costs.queue)
    memory.add(reached, costs.access(synapse.stored_weights, WEIGHT_BITS))
    memory.add(2 * reached, potential)
    operations.add(reached, costs.add)
    addressing.add(reached, costs.add)
    if synapse.kind == "conv":
        addressing.add(2 * messages, costs.int32_multiply + costs.add)


def _add_dense_pass(
    synapse: SynapseActivity, sources: int, bits: int, costs: _Costs, memory: _Sum, operations: _Sum, passes: int
) -> None:
    """Every weight with its input, ``passes`` times: an ANN's layer, or a layer that hears numbers, a step."""
    macs = synapse.torch_macs * passes
    reads = float(sources * passes) if synapse.kind == "dense" else macs
    memory.add(reads, costs.access(sources, bits))
    memory.add(macs, costs.access(synapse.stored_weights, WEIGHT_BITS))
    operations.add(macs, costs.multiply(bits) + costs.add)


def _add_neurons(layer: LayerActivity, steps: int, costs: _Costs, memory: _Sum, operations: _Sum) -> None:
    memory.add(layer.messages, costs.queue)
    if layer.relay is not None:
        operations.add(layer.relay.operations, costs.add)
        return
    updates = float(layer.neurons * steps)
    memory.add(updates, costs.access(layer.neurons, BIAS_BITS))
    memory.add(2 * updates, costs.access(layer.neurons, STATE_BITS))
    operations.add(updates, costs.int32_multiply + costs.add)
    operations.add(updates + layer.spikes, costs.add)


def _gate_lines(name: str, gate: GateActivity, costs: _Costs) -> list[PriceLine]:
    memory, operations = _Sum(), _Sum()
    memory.add(gate.buffer_words * gate.accesses_per_word, costs.access(gate.buffer_words, gate.word_bits))
    memory.add(gate.lookups, costs.queue)
    operations.add(gate.multiplies, costs.int32_multiply)
    operations.add(gate.additions + gate.comparisons, costs.add)
    return [memory.line(f"{name}: attention, memory", "attention"),
            operations.line(f"{name}: attention, operations", "attention")]  # fmt: skip


def _price_ann_operations(activity: Activity, hardware: Hardware) -> Price:
    if not isinstance(hardware, OperationsHardware):
        raise HardwareConfigError(
            f"{hardware.name}: has family {hardware.family!r}; an ANN is priced with a table of operations: use cmos45"
        )
    each = hardware.energy.fp32_multiply.range + hardware.energy.fp32_add.range
    macs = sum(s.torch_macs for s in activity.synapses)
    return Price(
        hardware=f"{hardware.name}-ann",
        title="ANN of the same shape, 45 nm operation count",
        family=hardware.family,
        estimate=hardware.estimate,
        lines=(PriceLine("multiply-accumulates (dense)", "dynamic", macs, each),),
        lower_bound=False,
        gate_operations=0.0,
        gate_processor=None,
        fits=True,
        fit_notes=(),
        notes=("One dense pass a clip, attention left out; compare with family 'operations' only.",),
        is_ann=True,
    )
