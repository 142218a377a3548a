"""What one inference did, counted: the record that running fills and pricing reads.

All counts are means per sample (one clip of T steps), so they are floats. Nothing in here is estimated: each number was
counted from the spikes of a run and the shapes of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


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
class LayerActivity:
    """One population of neurons."""

    name: str
    neurons: int
    spikes: float
    updates: float
    """Neuron updates: neurons x T."""
    threshold_levels: int = 1
    """Distinct threshold words of the population."""
    gate: GateActivity | None = None
    fires: bool = True
    """False for a readout."""


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
    """Source spikes times border-exact fan-out of the mapped kernel."""
    fan_in: int
    torch_macs: float
    """Multiply-accumulates per time step of the torch layers as written, borders included, as papers count."""
    source_rate: float
    """Mean source spikes per source neuron and step."""
    graded_source: bool = False


@dataclass(frozen=True)
class Activity:
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
        """Neuron updates per inference."""
        return sum(layer.updates for layer in self.layers)

    @property
    def spikes(self) -> float:
        """Spikes of all populations per inference, input events left out."""
        return sum(layer.spikes for layer in self.layers)

    @property
    def gate_operations(self) -> float:
        """Gate operations per inference."""
        return sum(layer.gate.operations for layer in self.layers if layer.gate is not None)

    @property
    def firing_rate(self) -> float:
        """Spikes per neuron and step over all spiking populations (NASFR of the ASA-SNN paper, ICCV 2023)."""
        slots = sum(layer.updates for layer in self.layers if layer.fires)
        return self.spikes / slots if slots else 0.0
