"""What netx makes of the neurons, the weights and the kernels of one layer, and slayer of a pool."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import Neurons
from spikefold.converters.lava_dl.layer_file import Int, LayerFile, Shape, one_or_many
from spikefold.converters.lava_dl.netx_weights import netx_weights
from spikefold.errors import SpikefoldWarning

UNIT = 2.0**-6
"""Real value of one weight step in slayer."""
NEVER = 2**17
"""Threshold mantissa that no membrane exceeds."""
MAX_DELAY = 62
BIAS_EXPONENT = 6
INPUT_WEIGHT = 64
"""netx's, where the file has none."""
_NEURON_FIELDS = {
    "type", "iDecay", "vDecay", "vThMant", "refDelay", "gradedSpike", "wgtExp", "weight_exp", "theta", "tauRho",
    "scaleRho",
}  # fmt: skip
_NO_EFFECT = {
    "refDelay": (1, "netx keeps no refractory period"),
    "gradedSpike": (0, "netx sends spikes of 1"),
    "wgtExp": (0, "netx takes the weights as they are"),
    "weight_exp": (0, "netx takes the weights as they are"),
}
_DENSE = {"type", "shape", "weight", "bias", "delay", "inFeatures", "outFeatures"}
_POOL = {"type", "shape", "weight", "delay", "kernelSize", "stride", "padding", "dilation"}
_KINDS = {
    "input": {"type", "shape", "weight", "bias"},
    "dense": _DENSE,
    "dense_rec": _DENSE | {"weight_rec"},
    "conv": _POOL | {"bias", "inChannels", "outChannels", "groups"},
    "pool": _POOL,
    "flatten": {"type", "shape"},
    "average": {"type", "shape"},
}
"""What is read, and the fields that such layers have."""
ZERO = np.zeros((), dtype=np.int64)
NO_THRESHOLD = np.array(arithmetic.MAX_THRESHOLD, dtype=np.int64)


def check_layer(layer: LayerFile) -> None:
    """FileFormatError where a layer, its neurons or a field of them is not among what is read."""
    if layer.kind not in _KINDS:
        raise layer.refuse("type", layer.kind, f"spikefold reads {', '.join(_KINDS)}")
    layer.check_fields(_KINDS[layer.kind])
    if layer.neuron is None:
        if layer.kind in ("conv", "pool", "dense_rec"):
            raise layer.refuse("neuron", "missing", "only a dense layer may be without")
        return
    if layer.neuron["type"] not in ("LOIHI", "CUBA"):
        raise layer.refuse("neuron/type", layer.neuron["type"], "spikefold reads Loihi's CUBA neurons, LOIHI or CUBA")
    for name in sorted({*layer.neuron} - _NEURON_FIELDS):
        raise layer.refuse(f"neuron/{name}", "there", "spikefold knows no such field of neurons")
    for name, (neutral, why) in _NO_EFFECT.items():
        if name in layer.neuron and np.any(layer.of_neurons(name, (1,)) != neutral):
            raise layer.refuse(f"neuron/{name}", layer.of_neurons(name, (1,)), why)


def bias_of(layer: LayerFile) -> Int:
    """The biases in the file; 0 where there are none."""
    return layer.whole("bias") if "bias" in layer.fields else ZERO


def population_of(layer: LayerFile, shape: Shape, bias: Int, last: int) -> Neurons:
    """The neurons of a layer as netx has them; ``last`` is the number of the layer that gives the answer."""
    name, bias = f"{layer.kind}{layer.number}", layer.as_in_lava("bias", bias, shape)
    mantissa, exponent = bias, BIAS_EXPONENT
    if np.abs(bias).max() > arithmetic.MAX_BIAS_MANTISSA and not np.any(bias % 2):
        mantissa, exponent = bias >> 1, BIAS_EXPONENT + 1
    if np.abs(mantissa).max() > arithmetic.MAX_BIAS_MANTISSA:
        raise layer.refuse("bias", f"{bias.min()}..{bias.max()}", "Loihi's biases have 13 bits, sign included")
    if layer.neuron is None:  # netx adds up in the current and shows it as the membrane
        if bias.any():
            raise layer.refuse("bias", f"{bias.min()}..{bias.max()}", "without neurons netx does not add it up")
        if layer.number != last:
            raise layer.refuse("neuron", "missing", "only the last layer may be without")
        return Neurons(name, shape, 0, NO_THRESHOLD, ZERO, 0, UNIT, fires=False)
    rates = {}
    for rate, low, high in (("iDecay", 1, 4096), ("vDecay", 0, 4095)):
        values = layer.of_neurons(rate, shape)
        if values.min() < low or values.max() > high:
            raise layer.refuse(f"neuron/{rate}", f"{values.min()}..{values.max()}", f"Loihi's are {low}..{high}")
        rates[rate] = values
    threshold = layer.of_neurons("vThMant", shape)
    fires = bool(threshold.min() < NEVER)
    if fires and threshold.max() >= NEVER:
        raise layer.refuse("neuron/vThMant", f"up to {threshold.max()}", "some neurons fire, and some never can")
    if not fires and layer.number != last:
        raise layer.refuse("neuron/vThMant", threshold.min(), "no membrane exceeds it: nothing comes from here")
    return Neurons(
        name, shape, one_or_many(rates["vDecay"]), threshold if fires else NO_THRESHOLD, mantissa, exponent, UNIT,
        fires, du=one_or_many(rates["iDecay"] - 1),
    )  # fmt: skip


def matrix(layer: LayerFile, name: str, rows: int, columns: int) -> Int:
    """Dense weights ``[rows, columns]``, which a file may hold in one row."""
    weight = layer.whole(name)
    if weight.ndim == 1 and weight.size == rows * columns:
        weight = weight.reshape(rows, columns)
    if weight.shape != (rows, columns):
        raise layer.refuse(name, f"of shape {weight.shape}", f"{rows} neurons and {columns} inputs are to be joined")
    return weight


def in_effect(layer: LayerFile, weights: list[Int]) -> list[Int]:
    """Weights as netx's dense layers have them; a warning where they are others than the file's."""
    held = netx_weights(weights)
    if isinstance(held, str):
        raise layer.refuse("weight", held, "change the weights; netx gets nothing out of these")
    changed = sum(int((h != w).sum()) for h, w in zip(held, weights, strict=True))
    if changed:
        warnings.warn(
            f"{layer.where}: {changed} weights do not fit netx's eight bits and are clipped, as netx does; Loihi's "
            "weights are even numbers -256..254",
            SpikefoldWarning,
            stacklevel=2,
        )
    return held


def pool_of(
    layer: LayerFile, kernel: Int, source: Shape, attributes: Mapping[str, tuple[int, int]]
) -> tuple[Int, tuple[int, int]]:
    """Kernels ``[C, 1, kh, kw]`` and padding that pool as slayer does, which fills up maps at their ends with zeros.

    The kernel gets as many rows of zeros in front as are wanted behind the map, so that padding on both sides does it.
    """
    size = kernel.shape[2:]
    if kernel.shape[:2] != (1, 1):
        raise layer.refuse("weight", f"of shape {kernel.shape}", "all channels of a pool share one kernel")
    if attributes["stride"] != size or attributes["padding"] != (0, 0) or attributes["dilation"] != (1, 1):
        raise layer.refuse(
            "stride, padding, dilation", list(attributes.values()), "slayer mixes channels where pools overlap, have "
            "gaps or are padded"
        )  # fmt: skip
    fill = [n % k for n, k in zip(source[1:], size, strict=True)]
    if any((n + f) % k for n, f, k in zip(source[1:], fill, size, strict=True)):
        raise layer.refuse("kernelSize", size, f"maps {source[1:]} are no multiple of it, which slayer misaligns")
    padded = np.pad(kernel, ((0, 0), (0, 0), (fill[0], 0), (fill[1], 0)))
    return np.repeat(padded, source[0], axis=0), (fill[0], fill[1])
