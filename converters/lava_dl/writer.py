"""Write an integer chain as a ``.net`` file that netx runs with the same spikes, currents and membranes.

netx shifts every weighted sum by six bits and gives every bias six, so biases are whole weights there. It holds the
weights of a dense layer in eight bits; a convolution takes any, so a dense layer with wider weights (an exponent) is
written as a convolution with a kernel as large as its input. A readout is a layer whose threshold no membrane exceeds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse
from spikefold.converters.lava_dl.meaning import BIAS_EXPONENT, MAX_DELAY, NEVER
from spikefold.converters.lava_dl.netx_weights import netx_weights
from spikefold.converters.portable_nir import Replacement
from spikefold.errors import LoweringError
from spikefold.files import atomic_path

Int = NDArray[np.int64]
CONV_LIMIT = 2**23
"""netx's convolutions wrap their sums at 24 bits."""
CONV_FIELD_LIMIT = 127
"""They keep their attributes in eight signed bits."""


@dataclass(frozen=True)
class LavaDlNet:
    """What a file holds: its ``layers``, the integer net that they are exactly, and what was replaced to get it."""

    graph: FixedPointGraph
    layers: tuple[dict[str, Any], ...]
    replacements: tuple[Replacement, ...]


def to_lava_dl(graph: FixedPointGraph, approximate: bool = False) -> LavaDlNet:
    """Write a chain as layers of lava-dl.

    Parameters
    ----------
    graph : FixedPointGraph
        Each population but the first reads the one before it, and may read itself over dense weights one step later.
    approximate : bool
        Round biases that are no whole weights, which netx cannot hold, and write a readout whose sums are shifted by
        fewer bits in a finer unit, in which it saturates earlier.

    Raises
    ------
    LoweringError
        Something has no form in such a file, or, without ``approximate``, no exact one; all such fields are named.
    """
    writer = _Writer(graph)
    net = writer.write()
    reasons = [*writer.impossible, *(f"{r.node}, {r.field}: {r.had}" for r in writer.replacements if not approximate)]
    if reasons:
        remedy = (
            "change the net"
            if writer.impossible
            else "approximate=True (--approximate) writes the nearest, and tells what it costs"
        )
        raise LoweringError(f"{graph.name}: not everything can be said to lava-dl: {'; '.join(reasons)}. {remedy}")
    return net


def save_lava_dl(graph: FixedPointGraph, path: str | os.PathLike[str], approximate: bool = False) -> LavaDlNet:
    """Write ``graph`` to the ``.net`` file ``path``, whole or not at all; see `to_lava_dl`."""
    net = to_lava_dl(graph, approximate)
    write_lava_dl(net, path)
    return net


def write_lava_dl(net: LavaDlNet, path: str | os.PathLike[str]) -> None:
    """Write what `to_lava_dl` made, whole or not at all."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for number, layer in enumerate(net.layers):
            for field, value in layer.items():
                where = f"layer/{number}/{field}"
                if field == "type":
                    file.create_dataset(where, (1,), "S10", [value.encode("ascii")])
                else:
                    file.create_dataset(where, data=value)


class _Writer:
    def __init__(self, graph: FixedPointGraph) -> None:
        self.graph = graph
        self.impossible: list[str] = []
        self.replacements: list[Replacement] = []

    def write(self) -> LavaDlNet:
        """Make the layers; what cannot be said is only noted."""
        neurons = tuple(self._adapted(n) for n in self.graph.neurons)
        before = [self.graph.input.name, *(n.name for n in neurons)]
        for n, source in zip(neurons, before, strict=False):
            self._check(n, source)
        if self.impossible:
            return LavaDlNet(self.graph, (), ())
        wide = [i for i, n in enumerate(neurons) if self._is_dense(n) and not self._fits_dense(n)]
        shape = self.graph.input.shape
        layers: list[dict[str, Any]] = []
        for i, n in enumerate(neurons):
            if wide and i <= wide[-1] and self._is_dense(n):
                shape = shape if len(shape) == 3 else (*shape, 1, 1)
                layers.append(self._conv(n, shape))
            elif self._is_dense(n):
                layers += [{"type": "flatten", "shape": [int(np.prod(shape))]}] if len(shape) == 3 else []
                layers.append(self._dense(n))
            else:
                if shape != self.graph.source_shape(self.graph.incoming(n.name)[0].source):
                    self._refuse(n, "shape", f"its convolution takes maps; a dense layer sends {shape}")
                layers.append(self._conv(n, shape))
            shape = tuple(layers[-1]["shape"])
        port = self.graph.input.shape
        if layers and layers[0]["type"] == "conv" and len(port) == 1:
            port = (*port, 1, 1)
        net = replace(self.graph, neurons=neurons)
        return LavaDlNet(net, ({"type": "input", "shape": list(port)}, *layers), tuple(self.replacements))

    def _refuse(self, n: Neurons, field: str, why: str) -> None:
        self.impossible.append(f"neurons {n.name!r}, {field}: {why}")

    def _replace(self, n: Neurons, field: str, had: str, written: str) -> None:
        self.replacements.append(Replacement(f"neurons {n.name!r}", field, had, written))

    def _adapted(self, n: Neurons) -> Neurons:
        """The population with a shift and biases that netx can hold."""
        if n.has_bias_schedule:
            return n
        finer = self._finer(n) if n.is_readout and not np.any(n.dv) and not n.remembers_current else 0
        bias = n.bias << finer
        if finer:
            had = f"sums are shifted by {n.current_shift}"
            self._replace(n, "current_shift", had, f"6, and the membranes, {2**finer} times as large, saturate earlier")
        uneven = int((bias % 2**BIAS_EXPONENT != 0).sum())
        if uneven:
            self._replace(n, "bias", f"{uneven} are no multiple of a weight step (64)", "the nearest that is")
        elif not finer:
            return n
        mantissa, exponent = np.rint(bias / 2**BIAS_EXPONENT).astype(np.int64), BIAS_EXPONENT
        if np.abs(mantissa).max() > arithmetic.MAX_BIAS_MANTISSA:
            mantissa, exponent = np.rint(mantissa / 2).astype(np.int64), BIAS_EXPONENT + 1
        if np.abs(mantissa).max() > arithmetic.MAX_BIAS_MANTISSA:
            self._refuse(n, "bias", f"up to {np.abs(bias).max()}, netx's biases have 13 bits, sign included")
            return n
        unit = n.unit / 2**finer
        return replace(
            n, bias_mantissa=mantissa, bias_exponent=exponent, current_shift=n.current_shift + finer, unit=unit
        )

    def _finer(self, n: Neurons) -> int:
        """How many bits netx shifts sums more than this population, where its weights cannot make up for it."""
        more = arithmetic.STATE_FRACTION_BITS - n.current_shift
        return more if any(np.any(s.effective_weight % 2**more) for s in self.graph.incoming(n.name)) else 0

    def _check(self, n: Neurons, source: str) -> None:
        if n.gate is not None:
            self._refuse(n, "gate", "netx has none; lower with attention='static'")
        if n.relay is not None:
            self._refuse(n, "relay", "netx sends spikes")
        if n.has_bias_schedule:
            self._refuse(n, "bias", "changes with the step")
        if n.threshold_levels > 1 and n.fires:
            self._refuse(n, "v_threshold", f"{n.threshold_levels} of them; a layer of Lava's LIF has one")
        if n.soft_reset or (n.v_reset is not None and np.any(n.v_reset)):
            self._refuse(n, "soft_reset" if n.soft_reset else "v_reset", "netx resets to 0")
        if len(n.shape) not in (1, 3):
            self._refuse(n, "shape", f"{n.shape}; layers have one axis or three")
        incoming = self.graph.incoming(n.name)
        for s in incoming:
            if s.source not in (source, n.name):
                self._refuse(n, "synapse", f"{s.name!r} comes from {s.source!r}: no chain")
            if s.source == n.name and (s.kind != "dense" or s.shortest_delay != 1 or s.longest_delay != 1):
                self._refuse(n, "synapse", f"{s.name!r} leads back otherwise than over dense weights after one step")
            if s.longest_delay > MAX_DELAY:
                self._refuse(n, f"delay of {s.name!r}", f"{s.longest_delay} steps; netx has {MAX_DELAY}")
        kinds = {s.kind for s in incoming}
        if len(kinds) > 1 or (kinds == {"conv"} and (len(incoming) > 1 or incoming[0].longest_delay)):
            self._refuse(n, "synapse", "a convolution stands alone, without a delay")
        if self._finer(n):
            self._refuse(n, "current_shift", f"{n.current_shift}; netx shifts by 6, and the weights cannot be halved")

    def _is_dense(self, n: Neurons) -> bool:
        return self.graph.incoming(n.name)[0].kind == "dense"

    def _weight(self, n: Neurons, synapse: Synapse) -> Int:
        return synapse.effective_weight >> (arithmetic.STATE_FRACTION_BITS - n.current_shift)

    def _matrices(self, n: Neurons) -> tuple[Int, Int, Int | None]:
        """Weights, delay of each (or one), and the weights that lead back."""
        forward = [s for s in self.graph.incoming(n.name) if s.source != n.name]
        back = [self._weight(n, s) for s in self.graph.incoming(n.name) if s.source == n.name]
        weight = np.sum([self._weight(n, s) for s in forward], axis=0)
        late = np.unique(np.concatenate([np.ravel(s.delay) for s in forward]))
        delay = np.array(late[0])
        if len(late) > 1:
            delay = np.zeros_like(weight)
            taken = np.zeros(weight.shape, dtype=bool)
            for s in forward:
                mine = s.weight != 0
                if np.any(mine & taken):
                    self._refuse(n, f"delay of {s.name!r}", "two delays between the same neurons")
                sent = np.broadcast_to(s.delay, self.graph.source_shape(s.source)).reshape(-1)
                delay, taken = np.where(mine, sent, delay), taken | mine
        return weight, delay, np.sum(back, axis=0) if back else None

    def _fits_dense(self, n: Neurons) -> bool:
        weight, _, back = self._matrices(n)
        given = [weight] if back is None else [weight, back]
        held = netx_weights(given)
        return not isinstance(held, str) and all(np.array_equal(h, g) for h, g in zip(held, given, strict=True))

    def _dense(self, n: Neurons) -> dict[str, Any]:
        weight, delay, back = self._matrices(n)
        size = {"inFeatures": weight.shape[1], "outFeatures": weight.shape[0]}
        layer = {"type": "dense", "shape": [n.size], **size, "weight": weight.astype(np.float32)}
        if back is not None:
            layer |= {"type": "dense_rec", "weight_rec": back.astype(np.float32)}
        if delay.any():
            if back is not None:
                self._refuse(n, "delay", "netx has none in layers that lead back to themselves")
            layer["delay"] = delay
        return layer | self._neurons(n, (n.size,))

    def _conv(self, n: Neurons, source: tuple[int, ...]) -> dict[str, Any]:
        synapse = self.graph.incoming(n.name)[0]
        if synapse.kind == "dense":
            weight, delay, back = self._matrices(n)
            if delay.any() or back is not None:
                self._refuse(
                    n, "weight", "wider than eight bits, which netx holds in convolutions only: no delays there"
                )
            kernel = weight.reshape(-1, *source)
            shape: tuple[int, ...] = (len(weight), 1, 1)
        else:
            kernel, shape = self._weight(n, synapse), n.shape
        how = {k: np.array(getattr(synapse, k)) for k in ("stride", "padding", "dilation")}
        fields = (*(int(v) for pair in how.values() for v in pair), *kernel.shape[2:], synapse.groups)
        if max(fields) > CONV_FIELD_LIMIT:
            self._refuse(n, "synapse", f"stride, padding, dilation, kernel or groups above {CONV_FIELD_LIMIT}")
        low, high = self.graph.message_range(synapse.source)
        largest = int(np.abs(kernel).reshape(len(kernel), -1).sum(1).max()) * max(-low, high)
        if largest >= CONV_LIMIT:
            self._refuse(n, "weight", f"sums up to {largest}; netx wraps them at 24 bits")
        return {
            "type": "conv", "shape": list(shape), "inChannels": source[0], "outChannels": shape[0],
            "kernelSize": np.array(kernel.shape[2:]), **how, "groups": synapse.groups,
            "weight": kernel.astype(np.float64), **self._neurons(n, shape),
        }  # fmt: skip

    def _neurons(self, n: Neurons, shape: tuple[int, ...]) -> dict[str, Any]:
        """Fields of the neurons, as lava-dl's own export names them; values of single neurons in Lava's order."""

        def held(values: Any) -> Any:
            spread = np.broadcast_to(np.asarray(values), n.shape).reshape(shape)
            if spread.min() == spread.max():
                return int(spread.flat[0])
            rows = spread.reshape(shape[0], -1)
            return rows[:, 0] if bool((rows == rows[:, :1]).all()) else np.ascontiguousarray(spread.T)

        layer: dict[str, Any] = {
            "neuron/type": "CUBA", "neuron/iDecay": held(np.asarray(n.du) + 1), "neuron/vDecay": held(n.dv),
            "neuron/vThMant": int(n.v_threshold.flat[0]) if n.fires else NEVER, "neuron/refDelay": 1,
            "neuron/gradedSpike": False,
        }  # fmt: skip
        if np.any(n.bias):
            bias = held(n.bias >> BIAS_EXPONENT)
            layer["bias"] = np.full(shape[0], bias) if isinstance(bias, int) else bias
        return layer
