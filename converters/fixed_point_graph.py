"""The integer net: input port, populations of neurons, and the synapses between them.

Populations are listed in execution order; within one time step each sees this step's spikes of those before it. Over a
synapse with a delay it sees those of an earlier step, which may be its own, or those of a population after it: a loop.
All integers mean what `spikefold.converters.arithmetic` says. A synapse's weight is an even mantissa in -256..254
(signed eight bits of Loihi, the lowest bit dropped) times ``2**exponent``; all synapses into one population share its
unit.

What a population sends is a spike (0 or 1), nothing (a readout), or, where it is a `Relay`, a whole number: a graded
message, as Loihi 2 and its successors carry them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spikefold.converters import arithmetic
from spikefold.converters.execution_order import execution_blocks
from spikefold.converters.gate_program import GateProgram
from spikefold.converters.graph_checks import check_in_loop, check_neurons, check_synapse
from spikefold.converters.show import Shown
from spikefold.errors import LoweringError

FORMAT = 1
MAX_EXPONENT = arithmetic.MAX_WEIGHT_EXPONENT
"""What a chip's own exponent field holds is for the chip's checks."""
Whole = int | NDArray[np.int64]
"""One number for all neurons of a population, or an array broadcastable to its shape."""
AttentionMode = Literal["none", "static", "scheduled", "causal", "dynamic"]


@dataclass(frozen=True)
class InputPort:
    """Where clips ``[T, B, *shape]`` of integers 0..max_value enter (1: binary events)."""

    shape: tuple[int, ...]
    max_value: int = 1
    name: str = "input"


@dataclass(frozen=True, repr=False)
class Synapse(Shown):
    """A convolution (cross-correlation, weight ``[O, I/groups, kh, kw]``) or a dense map (weight ``[O, I]``).

    A dense map reads its source flattened in C order. ``torch_macs`` is the work of the torch layers it was made of.
    A message of step t arrives at ``t + delay`` (whole steps, broadcastable to the source's shape) or, too late, never.
    """

    name: str
    source: str
    target: str
    kind: Literal["conv", "dense"]
    weight: NDArray[np.int64]
    exponent: int = 0
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    torch_macs: int = 0
    delay: Whole = 0

    @property
    def shortest_delay(self) -> int:
        """Steps until the first message can arrive."""
        return int(np.min(self.delay))

    @property
    def longest_delay(self) -> int:
        """Steps until the last message of one step has arrived."""
        return int(np.max(self.delay))

    @cached_property
    def effective_weight(self) -> NDArray[np.int64]:
        """Mantissa times ``2**exponent``."""
        return self.weight << self.exponent

    @property
    def conv_attributes(self) -> dict[str, Any]:
        """Stride, padding, dilation and groups, as the convolution functions take them."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}


@dataclass(frozen=True)
class Relay:
    """How a population sends its current on in place of spikes: ``clip(tz(v >> shift), low, high)``.

    ``low`` is 0 where negative currents are left out (a rectifier) or cannot occur.
    """

    shift: int
    low: int
    high: int


@dataclass(frozen=True, repr=False)
class Neurons(Shown):
    """One population. ``bias`` is ``bias_mantissa << bias_exponent``, broadcastable to ``shape``, in 2**-6 weights.

    A bias that changes with the step has two axes more, ``[T, 1, *shape or 1]``, as currents have.
    ``v_threshold`` is a mantissa, one number (shape ``()``) or one per neuron; ``fires`` False makes a readout whose
    membrane is the answer. ``unit`` is the real value of one weight step, which ties integers to the float net.
    ``static_threshold`` is what a reader that knows no gates should use instead of ``v_threshold`` (the threshold over
    the calibrated mean gate), ``static_gate`` what it should multiply by at a relay, in 2**-12: nothing here runs with
    them. Weighted sums are shifted left by ``current_shift``. After a spike the membrane is ``v_reset`` (a mantissa, as
    ``v_threshold``) or, with ``soft_reset``, less by ``v_threshold - v_reset``. A ``relay`` neither remembers nor
    fires: its membrane is its current (gated and clipped), which it sends on. ``dv`` and ``du`` are how fast membrane
    and synaptic current are forgotten, 0 to 4095, one number or one per neuron; ``du`` 4095 keeps no current.
    """

    name: str
    shape: tuple[int, ...]
    dv: Whole
    v_threshold: NDArray[np.int64]
    bias_mantissa: NDArray[np.int64]
    bias_exponent: int
    unit: float
    fires: bool = True
    gate: GateProgram | None = None
    gate_shift: int = 0
    static_threshold: NDArray[np.int64] | None = None
    current_shift: int = arithmetic.STATE_FRACTION_BITS
    v_reset: NDArray[np.int64] | None = None
    soft_reset: bool = False
    relay: Relay | None = None
    static_gate: NDArray[np.int64] | None = None
    du: Whole = arithmetic.NO_CURRENT_MEMORY

    @property
    def remembers_current(self) -> bool:
        """Whether the synaptic current of one step is still felt in the next."""
        return bool(np.any(np.less(self.du, arithmetic.NO_CURRENT_MEMORY)))

    @property
    def gate_table(self) -> NDArray[np.int64] | None:
        """The gate ``[T, 1, ...]`` where it is a table over time."""
        steps = () if self.gate is None else self.gate.steps
        return np.asarray(steps[0].constant) if [s.op for s in steps] == ["table"] else None

    @property
    def is_readout(self) -> bool:
        """Whether the membrane is the answer: it sends nothing."""
        return not self.fires and self.relay is None

    @property
    def message_unit(self) -> float:
        """Real value of a message of 1: 1 for spikes."""
        return 1.0 if self.relay is None else self.unit * 2.0 ** (self.relay.shift - arithmetic.STATE_FRACTION_BITS)

    @property
    def size(self) -> int:
        """Number of neurons."""
        return int(np.prod(self.shape))

    @property
    def has_bias_schedule(self) -> bool:
        """Whether the bias changes with the step."""
        return self.bias_mantissa.ndim > len(self.shape)

    @property
    def threshold_levels(self) -> int:
        """Distinct threshold mantissas."""
        return int(np.unique(self.v_threshold).size)

    @cached_property
    def bias(self) -> NDArray[np.int64]:
        """Bias current per step, broadcastable to ``[T, B, *shape]``."""
        return self.bias_mantissa << self.bias_exponent


@dataclass(frozen=True, repr=False)
class FixedPointGraph(Shown):
    """See the module's text. ``time_steps`` is None where T is free (no gate and no bias schedule in the net)."""

    input: InputPort
    neurons: tuple[Neurons, ...]
    synapses: tuple[Synapse, ...]
    attention: AttentionMode
    time_steps: int | None
    name: str = "net"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the parts fit together and the integers are in range."""
        every = {n.name: n.shape for n in self.neurons}
        shapes = {self.input.name: self.input.shape}
        for population in self.neurons:
            incoming = self.incoming(population.name)
            if population.name in shapes:
                raise LoweringError(f"neurons {population.name!r}: the name is used twice")
            if not incoming:
                raise LoweringError(f"neurons {population.name!r}: no synapse leads to it")
            for synapse in incoming:
                if synapse.source not in shapes and (synapse.source not in every or synapse.shortest_delay < 1):
                    raise LoweringError(
                        f"synapse {synapse.name!r}: source {synapse.source!r} is not before its target; only where "
                        "every delay is 1 step or more may it be the target itself or come after it"
                    )
                check_synapse(synapse, (every | shapes)[synapse.source], population.shape)
            check_neurons(population, self.time_steps)
            shapes[population.name] = population.shape
        if self.neurons and self.output.relay is not None:
            raise LoweringError(
                f"neurons {self.output.name!r}: a relay has no answer to give; end in a readout or spikes"
            )
        for synapse in self.synapses:
            if synapse.target not in shapes:
                raise LoweringError(f"synapse {synapse.name!r}: target {synapse.target!r} is not in the net")
        for block in self.blocks:
            for population in block if self.is_loop(block) else ():
                check_in_loop(population)

    @cached_property
    def blocks(self) -> tuple[tuple[Neurons, ...], ...]:
        """Populations in execution order; those of one block wait for each other's messages of earlier steps."""
        named = {n.name: n for n in self.neurons}
        links = {name: [(s.source, s.shortest_delay > 0) for s in self.incoming(name)] for name in named}
        return tuple(tuple(named[name] for name in block) for block in execution_blocks(links))

    def is_loop(self, block: tuple[Neurons, ...]) -> bool:
        """Whether one of `blocks` must run step by step: it has several populations, or one that feeds itself."""
        return len(block) > 1 or any(s.source == s.target for s in self.incoming(block[0].name))

    def incoming(self, name: str) -> tuple[Synapse, ...]:
        """Synapses that lead to the population ``name``."""
        return tuple(s for s in self.synapses if s.target == name)

    @property
    def output(self) -> Neurons:
        """The population whose membrane (a readout) or spike count is the answer."""
        return self.neurons[-1]

    def source_shape(self, name: str) -> tuple[int, ...]:
        """Shape of the input port or of the population ``name``."""
        if name == self.input.name:
            return self.input.shape
        return next(n.shape for n in self.neurons if n.name == name)

    def message_range(self, name: str) -> tuple[int, int]:
        """Smallest and largest value that ``name`` sends in one step: 0 and 1 for spikes."""
        if name == self.input.name:
            return 0, self.input.max_value
        relay = next(n.relay for n in self.neurons if n.name == name)
        return (0, 1) if relay is None else (relay.low, relay.high)

    def is_graded(self, name: str) -> bool:
        """Whether ``name`` sends numbers other than 0 and 1."""
        return self.message_range(name) != (0, 1)

    def to_plain(self) -> tuple[str, list[NDArray[Any]]]:
        """JSON text and the arrays it refers to by position; `from_plain` is the inverse, bit for bit."""
        arrays: list[NDArray[Any]] = []

        def put(array: NDArray[Any]) -> int:
            arrays.append(np.asarray(array, dtype=np.int64))
            return len(arrays) - 1

        def whole(value: Whole) -> Any:
            return {"array": put(value)} if isinstance(value, np.ndarray) else int(value)

        neurons = []
        for n in self.neurons:
            entry: dict[str, Any] = {
                "name": n.name, "shape": n.shape, "dv": whole(n.dv), "v_threshold": put(n.v_threshold),
                "bias_mantissa": put(n.bias_mantissa), "bias_exponent": n.bias_exponent, "unit": n.unit.hex(),
                "fires": n.fires, "gate_shift": n.gate_shift,
            }  # fmt: skip
            if n.gate is not None:
                plain, constants = n.gate.to_plain()
                entry["gate"] = plain
                entry["gate_constants"] = [put(c) for c in constants]
            if n.static_threshold is not None:
                entry["static_threshold"] = put(n.static_threshold)
            if n.static_gate is not None:
                entry["static_gate"] = put(n.static_gate)
            if n.current_shift != arithmetic.STATE_FRACTION_BITS:
                entry["current_shift"] = n.current_shift
            if n.v_reset is not None:
                entry["v_reset"] = put(n.v_reset)
            if n.soft_reset:
                entry["soft_reset"] = True
            if n.remembers_current:
                entry["du"] = whole(n.du)
            if n.relay is not None:
                entry["relay"] = {"shift": n.relay.shift, "low": n.relay.low, "high": n.relay.high}
            neurons.append(entry)
        synapses = [
            {
                "name": s.name, "source": s.source, "target": s.target, "kind": s.kind, "weight": put(s.weight),
                "exponent": s.exponent, "stride": s.stride, "padding": s.padding, "dilation": s.dilation,
                "groups": s.groups, "torch_macs": s.torch_macs,
                **({"delay": whole(s.delay)} if s.longest_delay else {}),
            }
            for s in self.synapses
        ]  # fmt: skip
        plain = {
            "spikefold_format": FORMAT, "name": self.name, "attention": self.attention, "time_steps": self.time_steps,
            "provenance": dict(self.provenance), "neurons": neurons, "synapses": synapses,
            "input": {"name": self.input.name, "shape": self.input.shape, "max_value": self.input.max_value},
        }  # fmt: skip
        return json.dumps(plain, sort_keys=True), arrays

    @staticmethod
    def from_plain(text: str, arrays: list[NDArray[Any]]) -> FixedPointGraph:
        """Rebuild a graph; FileFormatError on a newer format, or names the field that is missing or wrong."""
        from spikefold.converters.plain_graph import read_plain  # which makes the classes of this module

        return read_plain(text, arrays)
