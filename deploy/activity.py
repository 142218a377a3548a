"""What one inference did, counted: the record that running fills and pricing reads.

All counts are means per sample (one clip of T steps), so they are floats. Nothing in here is estimated: each number was
counted from the spikes of a run and the shapes of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from spikefold.converters.show import Shown


@dataclass(frozen=True)
class GateActivity:
    """Work of one attention gate for one clip, counted from its integer program and the tensor shapes.

    The look-ups of a bias that changes with the step are part of it, also where there is no gate.
    """

    multiplies: float = 0.0
    additions: float = 0.0
    comparisons: float = 0.0
    lookups: float = 0.0
    buffer_words: float = 0.0
    """Words kept from step to step: the currents of a clip until its gate is known (T x neurons), or what a gate that
    streams must remember (running sums and maxima, the values that a rank or a matrix over time compares)."""
    accesses_per_word: float = 2.0
    """How often a word is written or read for one clip: a held current once each, a running sum in every step."""
    word_bits: int = 24

    @property
    def operations(self) -> float:
        """All arithmetic operations, comparisons and look-ups, without the buffer's traffic."""
        return self.multiplies + self.additions + self.comparisons + self.lookups


@dataclass(frozen=True)
class RelayActivity:
    """Work of a relay for one clip: a multiply-shift in front of it is its gate's."""

    messages: float
    """Numbers other than 0 that it sent."""
    values: float
    """Values of all steps, sent or not: each is shifted and clipped."""

    @property
    def operations(self) -> float:
        """A shift and a clip for every value."""
        return 2.0 * self.values


@dataclass(frozen=True)
class LayerActivity:
    """One population: neurons that fire, a readout, or a relay, which sends numbers and is no neuron."""

    name: str
    neurons: int
    """Neurons, or the values of a relay."""
    spikes: float
    updates: float
    """Neuron updates: neurons x T; 0 for a relay."""
    threshold_levels: int = 1
    """Distinct threshold words of the population."""
    gate: GateActivity | None = None
    fires: bool = True
    """False for a readout and for a relay."""
    resets_to_zero: bool = True
    """False where a spike leaves something of the membrane: another value than 0, or what is above the threshold."""
    relay: RelayActivity | None = None

    @property
    def messages(self) -> float:
        """Spikes, or the numbers other than 0 of a relay."""
        return self.spikes if self.relay is None else self.relay.messages

    @property
    def quiet(self) -> float:
        """Updates of neurons or values of a relay that brought no message."""
        return max(0.0, (self.updates if self.relay is None else self.relay.values) - self.messages)


@dataclass(frozen=True)
class SynapseActivity:
    """One connection, with the mapped (composed) kernel and with the layers as written in torch."""

    source: str
    target: str
    kind: Literal["conv", "dense"]
    synapses: int
    """Connections inside the border."""
    stored_weights: int
    """Weights kept once each (a kernel for conv, the matrix for dense)."""
    synops: float
    """Source messages times border-exact fan-out of the mapped kernel."""
    fan_in: int
    torch_macs: float
    """Multiply-accumulates per time step of the torch layers as written, borders included, as papers count."""
    source_rate: float
    """Mean source spikes, or numbers other than 0, per source neuron and step."""
    payload_bits: int = 0
    """Bits of the number that a message carries, its sign included; 0 where messages are spikes."""

    @property
    def graded_source(self) -> bool:
        """Whether messages carry numbers."""
        return self.payload_bits > 0


@dataclass(frozen=True, repr=False)
class Activity(Shown, by="spikefold.deploy.notebook"):
    """Counts of a whole net, mean per sample."""

    name: str
    mode: str
    """Attention mode: "none", "static", "scheduled", "causal" or "dynamic"."""
    samples: int
    time_steps: int
    input_neurons: int
    input_spikes: float
    layers: tuple[LayerActivity, ...] = field(default_factory=tuple)
    synapses: tuple[SynapseActivity, ...] = field(default_factory=tuple)

    @property
    def synops(self) -> float:
        """Synaptic operations per inference."""
        return sum(s.synops for s in self.synapses)

    @property
    def updates(self) -> float:
        """Neuron updates per inference, relays left out."""
        return sum(layer.updates for layer in self.layers)

    @property
    def spikes(self) -> float:
        """Spikes of all populations per inference, input events and what relays send left out."""
        return sum(layer.spikes for layer in self.layers)

    @property
    def relay_messages(self) -> float:
        """Numbers other than 0 that relays sent per inference."""
        return sum(layer.relay.messages for layer in self.layers if layer.relay is not None)

    @property
    def relay_operations(self) -> float:
        """Operations of relays per inference."""
        return sum(layer.relay.operations for layer in self.layers if layer.relay is not None)

    @property
    def gate_operations(self) -> float:
        """Gate operations per inference."""
        return sum(layer.gate.operations for layer in self.layers if layer.gate is not None)

    @property
    def firing_rate(self) -> float:
        """Spikes per neuron and step over all spiking populations (NASFR of the ASA-SNN paper, ICCV 2023)."""
        slots = sum(layer.updates for layer in self.layers if layer.fires)
        return self.spikes / slots if slots else 0.0
