"""The integer net: input port, populations of neurons, and the synapses between them.

Populations are listed in execution order; within one time step each sees this step's spikes of those before it. All
integers mean what `spikefold.converters.arithmetic` says. A synapse's weight is an even mantissa in -256..254 (signed
eight bits of Loihi, the lowest bit dropped) times ``2**exponent``; all synapses into one population share its unit.

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
from spikefold.converters.gate_program import INTEGER_OPS, GateProgram
from spikefold.errors import FileFormatError, LoweringError

FORMAT = 1
MAX_EXPONENT = 16
"""Weights stay below 2**24 with it. What a chip's own exponent field holds is for the chip's checks."""
AttentionMode = Literal["none", "static", "scheduled", "causal", "dynamic"]


@dataclass(frozen=True)
class InputPort:
    """Where clips ``[T, B, *shape]`` of integers 0..max_value enter (1: binary events)."""

    shape: tuple[int, ...]
    max_value: int = 1
    name: str = "input"


@dataclass(frozen=True)
class Synapse:
    """A convolution (cross-correlation, weight ``[O, I/groups, kh, kw]``) or a dense map (weight ``[O, I]``).

    A dense map reads its source flattened in C order. ``torch_macs`` is the work of the torch layers it was made of.
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


@dataclass(frozen=True)
class Neurons:
    """One population. ``bias`` is ``bias_mantissa << bias_exponent``, broadcastable to ``shape``, in 2**-6 weights.

    A bias that changes with the step has two axes more, ``[T, 1, *shape or 1]``, as currents have.
    ``v_threshold`` is a mantissa, one number (shape ``()``) or one per neuron; ``fires`` False makes a readout whose
    membrane is the answer. ``unit`` is the real value of one weight step, which ties integers to the float net.
    ``static_threshold`` is what a reader that knows no gates should use instead of ``v_threshold`` (the threshold over
    the calibrated mean gate), ``static_gate`` what it should multiply by at a relay, in 2**-12: nothing here runs with
    them. Weighted sums are shifted left by ``current_shift``. After a spike the membrane is ``v_reset`` (a mantissa, as
    ``v_threshold``) or, with ``soft_reset``, less by the threshold. A ``relay`` neither remembers nor fires: its
    membrane is its current (gated and clipped), which it sends on.
    """

    name: str
    shape: tuple[int, ...]
    dv: int
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


@dataclass(frozen=True)
class FixedPointGraph:
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
        shapes = {self.input.name: self.input.shape}
        for population in self.neurons:
            incoming = self.incoming(population.name)
            if population.name in shapes:
                raise LoweringError(f"neurons {population.name!r}: the name is used twice")
            if not incoming:
                raise LoweringError(f"neurons {population.name!r}: no synapse leads to it")
            for synapse in incoming:
                if synapse.source not in shapes:
                    raise LoweringError(f"synapse {synapse.name!r}: source {synapse.source!r} is not before its target")
                _check_synapse(synapse, shapes[synapse.source], population.shape)
            _check_neurons(population, self.time_steps)
            shapes[population.name] = population.shape
        if self.neurons and self.output.relay is not None:
            raise LoweringError(
                f"neurons {self.output.name!r}: a relay has no answer to give; end in a readout or spikes"
            )
        for synapse in self.synapses:
            if synapse.target not in shapes:
                raise LoweringError(f"synapse {synapse.name!r}: target {synapse.target!r} is not in the net")

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

        neurons = []
        for n in self.neurons:
            entry: dict[str, Any] = {
                "name": n.name, "shape": n.shape, "dv": n.dv, "v_threshold": put(n.v_threshold),
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
            if n.relay is not None:
                entry["relay"] = {"shift": n.relay.shift, "low": n.relay.low, "high": n.relay.high}
            neurons.append(entry)
        synapses = [
            {
                "name": s.name, "source": s.source, "target": s.target, "kind": s.kind, "weight": put(s.weight),
                "exponent": s.exponent, "stride": s.stride, "padding": s.padding, "dilation": s.dilation,
                "groups": s.groups, "torch_macs": s.torch_macs,
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
        """Rebuild a graph; FileFormatError on a newer format or a missing field."""
        try:
            plain = json.loads(text)
            version = plain["spikefold_format"]
            if version != FORMAT:
                raise FileFormatError(f"spikefold_format is {version}, this version reads {FORMAT}: update spikefold")
            return _from_plain(plain, arrays)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise FileFormatError(f"fixed-point metadata is damaged: {type(error).__name__} {error}") from error


def _from_plain(plain: dict[str, Any], arrays: list[NDArray[Any]]) -> FixedPointGraph:
    neurons = []
    for entry in plain["neurons"]:
        gate = None
        if "gate" in entry:
            gate = GateProgram.from_plain(entry["gate"], [arrays[i] for i in entry["gate_constants"]], INTEGER_OPS)
        neurons.append(
            Neurons(
                entry["name"], tuple(entry["shape"]), entry["dv"], arrays[entry["v_threshold"]],
                arrays[entry["bias_mantissa"]], entry["bias_exponent"], float.fromhex(entry["unit"]), entry["fires"],
                gate, entry["gate_shift"],
                arrays[entry["static_threshold"]] if "static_threshold" in entry else None,
                entry.get("current_shift", arithmetic.STATE_FRACTION_BITS),
                arrays[entry["v_reset"]] if "v_reset" in entry else None,
                entry.get("soft_reset", False),
                Relay(**entry["relay"]) if "relay" in entry else None,
                arrays[entry["static_gate"]] if "static_gate" in entry else None,
            )
        )  # fmt: skip
    synapses = [
        Synapse(
            e["name"], e["source"], e["target"], e["kind"], arrays[e["weight"]], e["exponent"], tuple(e["stride"]),
            tuple(e["padding"]), tuple(e["dilation"]), e["groups"], e["torch_macs"],
        )
        for e in plain["synapses"]
    ]  # fmt: skip
    port = InputPort(tuple(plain["input"]["shape"]), plain["input"]["max_value"], plain["input"]["name"])
    return FixedPointGraph(
        port, tuple(neurons), tuple(synapses), plain["attention"], plain["time_steps"], plain["name"],
        plain["provenance"],
    )  # fmt: skip


def _check_synapse(synapse: Synapse, source: tuple[int, ...], target: tuple[int, ...]) -> None:
    where = f"synapse {synapse.name!r}"
    weight = synapse.weight
    if weight.size and (int(weight.min()) < -256 or int(weight.max()) > 254 or bool((weight & 1).any())):
        raise LoweringError(f"{where}: weight {weight.min()}..{weight.max()}: mantissas are even and within -256..254")
    if not 0 <= synapse.exponent <= MAX_EXPONENT:
        raise LoweringError(f"{where}: exponent is {synapse.exponent}, it must be 0..{MAX_EXPONENT}")
    if synapse.kind == "dense":
        expected = (int(np.prod(target)), int(np.prod(source)))
        if weight.shape != expected:
            raise LoweringError(f"{where}: weight has shape {weight.shape}, its ends ask for {expected}")
        return
    (channels, height, width), k = source, weight.shape
    size = [
        (n + 2 * p - d * (m - 1) - 1) // s + 1
        for n, m, p, s, d in zip((height, width), k[2:], synapse.padding, synapse.stride, synapse.dilation, strict=True)
    ]
    if (k[0], *size) != tuple(target) or k[1] * synapse.groups != channels:
        raise LoweringError(f"{where}: kernel {k} on {source} gives {(k[0], *size)}, its target has shape {target}")


def _check_neurons(n: Neurons, time_steps: int | None) -> None:
    where = f"neurons {n.name!r}"
    if not 0 <= n.dv < 2**arithmetic.DECAY_BITS:
        raise LoweringError(f"{where}: dv is {n.dv}, it must be 0..4095")
    if n.fires and (n.v_threshold.min() < 0 or n.v_threshold.max() > arithmetic.MAX_THRESHOLD):
        raise LoweringError(
            f"{where}: v_threshold {n.v_threshold.min()}..{n.v_threshold.max()} leaves 0..{arithmetic.MAX_THRESHOLD}"
        )
    if np.abs(n.bias_mantissa).max(initial=0) > arithmetic.MAX_BIAS_MANTISSA:
        raise LoweringError(f"{where}: bias mantissa {np.abs(n.bias_mantissa).max()} is above 4095")
    if not 0 <= n.bias_exponent <= arithmetic.MAX_BIAS_EXPONENT:
        raise LoweringError(f"{where}: bias exponent is {n.bias_exponent}, it must be 0..7")
    if not 0 <= n.current_shift <= arithmetic.STATE_FRACTION_BITS:
        raise LoweringError(f"{where}: current_shift is {n.current_shift}, it must be 0..6")
    bias = n.bias_mantissa
    if n.has_bias_schedule:
        if bias.shape[:2] != (time_steps, 1):
            raise LoweringError(
                f"{where}: bias_mantissa of shape {bias.shape} changes with the step; its first axes must be those of "
                f"the net, ({time_steps}, 1)"
            )
        bias = bias[0, 0]
    for field_name, array in (("v_threshold", n.v_threshold), ("bias_mantissa", bias), ("v_reset", n.v_reset)):
        try:
            np.broadcast_to(0 if array is None else array, n.shape)
        except ValueError:
            raise LoweringError(
                f"{where}: {field_name} of shape {getattr(n, field_name).shape} does not fit neurons {n.shape}"
            ) from None
    if n.v_reset is not None:
        lowest, highest = int(n.v_reset.min()), int((n.v_reset - n.v_threshold).max())
        if lowest < -arithmetic.MAX_THRESHOLD or highest > 0 or n.soft_reset or not n.fires:
            raise LoweringError(
                f"{where}: v_reset {lowest}..{n.v_reset.max()} must lie within -{arithmetic.MAX_THRESHOLD} and "
                "v_threshold, and belongs to neurons that fire and have no soft reset"
            )
    if n.relay is not None:
        _check_relay(where, n)


def _check_relay(where: str, n: Neurons) -> None:
    relay = n.relay
    if relay is None:
        return
    if n.fires or n.soft_reset or n.dv:
        raise LoweringError(f"{where}: a relay neither fires nor remembers: fires, soft_reset and dv must be off and 0")
    limit = arithmetic.STATE_LIMIT
    if not 0 <= relay.shift < 24 or not -limit <= relay.low <= 0 < relay.high <= limit:
        raise LoweringError(
            f"{where}: relay {relay} is none: its shift must be 0..23, low at most 0, high above it, within {limit}"
        )
