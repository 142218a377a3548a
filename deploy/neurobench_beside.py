"""NeuroBench's counts of a module beside those of the net made of it, and what lies between them, counted.

Both run the same samples. From what NeuroBench counts one comes to the mapped net's synaptic operations in five steps,
each a number: layers inside gates are left out (gates are operations of their own here); weights of 0 are put in (a
shared kernel stores them); the layers as written become the composed kernels (pooling and batch norm are part of them,
and what leads to a relay and from it counts each) with what the float net sends still; then come the spikes of the
integer net, and the numbers of its relays, small ones of which round to 0 and are not sent. Neither count takes in taps
that fall off the border.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import nir
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx import Node

from spikefold.converters.arithmetic import MAX_BIAS_MANTISSA, MAX_THRESHOLD
from spikefold.converters.capture.forms import unwrapped
from spikefold.converters.capture.network import read_network
from spikefold.converters.capture.trace import trace
from spikefold.converters.capture.values import Flow, Gated, Mixed
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.reference import Trace
from spikefold.deploy.activity import Activity
from spikefold.deploy.count import activity, counts_from_trace
from spikefold.deploy.neurobench_counts import CONNECTIONS, NeuroBenchCounts, neurobench_counts
from spikefold.deploy.run import Run

SAMPLES = 16
"""How many samples are counted both ways: counting a module runs each layer three times more, in float64."""
WEIGHT_BITS = 8
_BIAS_BITS = MAX_BIAS_MANTISSA.bit_length() + 1
_THRESHOLD_BITS = MAX_THRESHOLD.bit_length()


@dataclass(frozen=True)
class CountedModule:
    """What NeuroBench counts of a module, which of its layers lead to neurons, and what the float net of it sends."""

    counts: NeuroBenchCounts
    leading: frozenset[str]
    """Layers on a linear way to neurons or to the answer; the others are inside gates."""
    unseen: int
    """Convolutions and linear maps on such a way that are called as functions: NeuroBench sees modules only."""
    clips: NDArray[np.generic]
    sent: Trace

    @property
    def gate_layers(self) -> float:
        """Operations of layers inside gates."""
        return sum(layer.effective for layer in self.counts.layers if layer.name not in self.leading)

    @property
    def zero_weights(self) -> float:
        """Operations that other layers would do with weights of 0."""
        return sum(layer.stored - layer.effective for layer in self.counts.layers if layer.name in self.leading)

    @property
    def multiplying(self) -> float:
        """Multiply-accumulates of layers that lead to neurons: some input of theirs is not -1, 0 or 1."""
        return sum(layer.effective_macs for layer in self.counts.layers if layer.name in self.leading)


def count_module(module: nn.Module, captured: nir.NIRGraph, clips: NDArray[np.generic]) -> CountedModule:
    """Count a module as NeuroBench does on the first `SAMPLES` of clips ``[T, N, *features]``.

    Parameters
    ----------
    module
        In evaluation mode.
    captured
        What `spikefold.converters.capture` made of it.
    clips
        The samples.
    """
    clips = np.ascontiguousarray(clips[:, :SAMPLES])
    leading, unseen = layers_to_neurons(module, torch.from_numpy(clips[:, :1]))
    with torch.no_grad():
        logits, spikes = read_float_graph(captured).run(torch.from_numpy(clips).float())
    trains = {name: np.asarray((train != 0).numpy(), dtype=np.int64) for name, train in spikes.items()}
    sent = Trace(trains, {}, logits.double().numpy())
    return CountedModule(neurobench_counts(module, clips), leading, unseen, clips, sent)


def layers_to_neurons(module: nn.Module, sample: torch.Tensor) -> tuple[frozenset[str], int]:
    """Paths of the layers from which a linear way leads to neurons or to the answer; how many more are no modules.

    What a gate is computed by is not among them: capture reads it as a factor on a current, not as part of one.
    """
    captured = unwrapped(module)
    traced = trace(captured, sample)
    values = read_network(traced, tuple(sample.shape)).values
    names = {id(layer): name for name, layer in module.named_modules() if isinstance(layer, CONNECTIONS)}
    found: set[str] = set()
    unseen = 0
    waiting = [node for node in traced.graph.nodes if node.op == "output"]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if str(node.target).startswith(("aten.conv", "aten.linear")):
            stack = list(node.meta.get("nn_module_stack", {}).values())
            name = names.get(id(captured.get_submodule(stack[-1][0]))) if stack else None
            unseen += name is None
            found |= set() if name is None else {name}
        before = [n for n in node.all_input_nodes if isinstance(values.get(n), (Flow, Gated, Mixed))]
        value = values.get(node)
        if isinstance(value, Gated):
            before = [n for n in before if _carries(values[n], value.flow)] or before
        waiting += before
    return frozenset(found), unseen


def _carries(value: Any, flow: Flow) -> bool:
    """Whether ``value`` is the current that a gate multiplies, and not a factor that is linear in spikes as well."""
    own = value.flow if isinstance(value, Gated) else value
    return isinstance(own, Flow) and own.times(flow) is not None


@dataclass(frozen=True)
class IntegerBytes:
    """Bytes of what an integer net stores, each number in the bits of its format, none of them twice.

    Thresholds lie as one word a neuron, or as a table and numbers of entries where that is less; gates are the
    constants and tables of their programs, each array in the bits of its largest number.
    """

    weights: int
    biases: int
    thresholds: int
    gates: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.biases + self.thresholds + self.gates


def integer_bytes(graph: FixedPointGraph) -> IntegerBytes:
    """What the integers of a net take; state (membranes, buffers of gates) is left out, as NeuroBench does."""
    weights = sum(s.weight.size for s in graph.synapses) * WEIGHT_BITS
    biases = sum(n.bias_mantissa.size for n in graph.neurons) * _BIAS_BITS
    thresholds = sum(_threshold_bits(n) for n in graph.neurons if n.fires)
    programs = [n.gate for n in graph.neurons if n.gate is not None]
    constants = [np.asarray(s.constant) for p in programs for s in p.steps if s.constant is not None]
    gates = sum(c.size * (int(np.abs(c).max(initial=0)).bit_length() + bool((c < 0).any())) for c in constants)
    return IntegerBytes(*(-(-bits // 8) for bits in (weights, biases, thresholds, gates)))


def _threshold_bits(n: Neurons) -> int:
    total = 0
    for words in [n.v_threshold] if n.v_reset is None else [n.v_threshold, n.v_reset]:
        bits, levels = _THRESHOLD_BITS + bool((words < 0).any()), len(np.unique(words))
        total += min(words.size * bits, levels * bits + words.size * math.ceil(math.log2(levels)))
    return total


@dataclass(frozen=True)
class Beside:
    """The counts of a module and of the net that was mapped, on the same samples; means per sample."""

    module: CountedModule
    mapped: Activity
    kernel_synops: dict[str, float]
    """Synaptic operations of every composed kernel with what the float net sends."""
    graph: FixedPointGraph

    @property
    def steps(self) -> dict[str, float]:
        """From NeuroBench's operations to the mapped synaptic operations: what is added, by what it is for."""
        written = sum(c.stored for c in self.module.counts.layers if c.name in self.module.leading)
        others = {True: 0.0, False: 0.0}
        for kernel, synapse in zip(self.kernel_synops.values(), self.mapped.synapses, strict=True):
            others[synapse.graded_source] += synapse.synops - kernel
        return {
            "layers inside gates": -self.module.gate_layers,
            "weights of 0": self.module.zero_weights,
            "composed kernels": sum(self.kernel_synops.values()) - written,
            "other spikes": others[False],
            "other numbers of relays": others[True],
        }

    @cached_property
    def bytes(self) -> IntegerBytes:
        """Of the integer net."""
        return integer_bytes(self.graph)

    @property
    def graded_synops(self) -> float:
        """Synaptic operations of messages that carry numbers."""
        return sum(s.synops for s in self.mapped.synapses if s.graded_source)

    @property
    def quiet(self) -> float:
        """Share of neurons and steps without a spike."""
        return 1.0 - self.mapped.firing_rate

    def to_dict(self) -> dict[str, Any]:
        """Return everything ready for JSON: both counts, and the steps between them."""
        mapped = self.mapped
        return {
            "samples": mapped.samples,
            "neurobench": self.module.counts.to_dict(),
            "mapped": {
                "synops": mapped.synops, "graded_synops": self.graded_synops, "neuron_updates": mapped.updates,
                "gate_operations": mapped.gate_operations, "relay_operations": mapped.relay_operations,
                "activation_sparsity": self.quiet, "bytes": {**asdict(self.bytes), "total": self.bytes.total},
            },
            "from_neurobench_to_mapped": self.steps,
        }  # fmt: skip


def beside(module: CountedModule, run: Run) -> Beside:
    """Put the counts of a module beside those of a run whose first samples are the same."""
    n = module.counts.samples
    cut = [{name: counts[:n] for name, counts in table.items()} for table in (run.spike_counts, run.synops)]
    mapped = activity(run.graph, run.time_steps, run.input_counts[:n], *cut)
    _, synops = counts_from_trace(run.graph, module.clips, module.sent)
    return Beside(module, mapped, {name: float(s.mean()) for name, s in synops.items()}, run.graph)
