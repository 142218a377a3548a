"""Read a ``.net`` file of lava-dl as an integer net that does what lava-dl's own netx does with it in Lava.

netx is followed where it and slayer, which trains and writes such nets, part: weights are those that netx computes with
(`spikefold.converters.lava_dl.netx_weights`), biases and the input of an input layer skip the synaptic current. What
netx leaves out in silence (refractory delays, weight exponents, graded spikes, delays of convolutions) is refused
unless it changes nothing. Pools and averages, which netx does not know, are what slayer trains: a pool is a
convolution of each channel by itself, an average is a readout of mean spikes of groups of neurons.

The delays of a dense layer belong to its outputs (axonal delays) in slayer, to its inputs in netx. A layer without bias
does the same in both, so there they are given to the synapses that lead on: what it does, it does its delay earlier
than in netx. Elsewhere each delay gets a synapse of its own.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spikefold.converters import arithmetic
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.lava_dl.layer_file import Int, LayerFile, Shape, one_or_many, read_layers
from spikefold.converters.lava_dl.meaning import (
    INPUT_WEIGHT,
    MAX_DELAY,
    NO_THRESHOLD,
    ZERO,
    bias_of,
    check_layer,
    in_effect,
    matrix,
    pool_of,
    population_of,
)
from spikefold.converters.lava_dl.netx_weights import as_mantissas
from spikefold.errors import FileFormatError, InputError, LoweringError, SpikefoldWarning


def load_lava_dl(
    path: str | os.PathLike[str],
    *,
    input_shape: Shape | None = None,
    max_value: int = 1,
    input_bias: tuple[int, int] | None = None,
) -> FixedPointGraph:
    """Read a ``.net`` file.

    Parameters
    ----------
    path : path
        A net of layers of type input, dense, dense_rec, conv, pool, flatten and, at the end, average, with neurons of
        type LOIHI or CUBA. A dense layer without neurons adds up what comes, as in netx: the net's answer.
    input_shape : tuple of int, optional
        Shape of the input, channels first, for a file that begins with a convolution.
    max_value : int
        Largest input value; netx has ``input_message_bits`` for it.
    input_bias : (int, int), optional
        For an input layer with neurons: the input is, in place of values that the layer's weight and bias turn into
        biases of its neurons, such biases as netx takes them, within these limits, less the lower one.

    Raises
    ------
    FileFormatError
        The file is broken, or something in it has no exact meaning here; the message names layer, field and value.
    InputError
        An argument does not fit the file.
    """
    layers = read_layers(path)
    reader = _Reader(layers, max_value, input_bias)
    try:
        for layer in layers:
            reader.add(layer, input_shape)
        return reader.finish(Path(path).stem)
    except LoweringError as error:  # of the graph's own checks
        raise FileFormatError(f"{path}: {error}") from error


@dataclass(frozen=True)
class _Link:
    """What leads to a layer: weights as they count, delay of each source (or one), source if not the layer before."""

    kind: Literal["conv", "dense"]
    weight: Int
    delay: Int = field(default_factory=lambda: ZERO)
    source: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


class _Reader:
    def __init__(self, layers: list[LayerFile], max_value: int, input_bias: tuple[int, int] | None) -> None:
        self.last = max((layer.number for layer in layers if layer.kind not in ("flatten", "input")), default=-1)
        self.max_value, self.input_bias = max_value, input_bias
        self.port: InputPort | None = None
        self.shape: Shape = ()  # of what comes from the layers so far
        self.source = ""
        self.flattened = False
        self.axonal = ZERO  # delay of each output of the layers so far
        self.neurons: list[Neurons] = []
        self.synapses: list[Synapse] = []

    def finish(self, name: str) -> FixedPointGraph:
        if self.port is None or not self.neurons:
            raise FileFormatError(f"{name}: holds no layer of neurons")
        if self.input_bias is not None and not self.neurons[0].name.startswith("input"):
            raise InputError(f"input_bias {self.input_bias}: {name} has no input layer with neurons")
        provenance = {"source": "lava-dl", "file": name}
        return FixedPointGraph(self.port, tuple(self.neurons), tuple(self.synapses), "none", None, name, provenance)

    def add(self, layer: LayerFile, input_shape: Shape | None) -> None:
        """Read one layer."""
        check_layer(layer)
        if self.neurons and self.neurons[-1].is_readout and layer.kind != "flatten":
            raise layer.refuse("type", layer.kind, "the layer before it never fires: nothing comes here")
        if layer.kind == "flatten":
            self.flattened = True
        elif layer.kind == "input":
            self._input(layer)
        else:
            if self.port is None:
                self._open_port(layer, input_shape)
            {"average": self._average, "conv": self._spatial, "pool": self._spatial}.get(layer.kind, self._dense)(layer)

    def _input(self, layer: LayerFile) -> None:
        if layer.number:
            raise layer.refuse("type", "input", "only the first layer is one")
        shape = layer.shape()
        if layer.neuron is None:
            self._set_port(shape, self.max_value)
            return
        if len(shape) not in (1, 3):
            raise layer.refuse("shape", shape, "an input with neurons is (neurons,) or channels, height and width")
        flat, shape = len(shape) == 1, shape if len(shape) == 3 else (1, 1, *shape)
        weight, bias = (
            int(layer.whole(name).reshape(-1)[0]) if name in layer.fields else default
            for name, default in (("weight", INPUT_WEIGHT), ("bias", 0))
        )
        highest = self.max_value
        if self.input_bias is not None:
            weight, bias, highest = 1, self.input_bias[0], self.input_bias[1] - self.input_bias[0]
        self._set_port(shape, highest)
        kernel = np.full((shape[0], 1, 1, 1), weight, dtype=np.int64)
        population = population_of(layer, shape, np.array(bias, dtype=np.int64), self.last)
        # The input goes to the bias, past the synaptic current, whose decay is of no account.
        population = replace(population, du=arithmetic.NO_CURRENT_MEMORY)
        self._join(layer, population, [_Link("conv", kernel, attributes={"groups": shape[0]})])
        self.flattened = flat

    def _open_port(self, layer: LayerFile, input_shape: Shape | None) -> None:
        """The input of a file without an input layer."""
        if layer.kind in ("dense", "dense_rec"):
            self.flattened = True
            weight = layer.whole("weight")
            input_shape = input_shape or (weight.size // int(np.prod(layer.shape())),)
        if input_shape is None:
            raise InputError(
                f"{layer.where}: the file does not tell the shape of its input; give it as input_shape, in Python: "
                "spikefold.save_nir(spikefold.load_lava_dl('FILE.net', input_shape=(C, H, W)), 'FILE.nir') writes a "
                "file that all commands take"
            )
        self._set_port(input_shape, self.max_value)

    def _set_port(self, shape: Shape, highest: int) -> None:
        if not shape or min(shape) < 1 or highest < 1:
            raise InputError(f"input of shape {shape} with values 0..{highest}: nothing can come in")
        self.port = InputPort(shape, highest)
        self.shape, self.source = shape, self.port.name

    def _dense(self, layer: LayerFile) -> None:
        if len(self.shape) == 3 and not self.flattened:
            raise layer.refuse("type", layer.kind, f"netx puts a flatten layer between {self.shape} and a dense one")
        size, features = int(np.prod(layer.shape())), int(np.prod(self.shape))
        weights = [matrix(layer, "weight", size, features)]
        if layer.kind == "dense_rec":
            weights.append(matrix(layer, "weight_rec", size, size))
        weights = in_effect(layer, weights)
        population = population_of(layer, (size,), bias_of(layer), self.last)
        sent, got = self._delays(layer, weights[0].shape, bool(population.bias.any()))
        links = [_Link("dense", weights[0] * (got == late), late + self.axonal) for late in np.unique(got)]
        if layer.kind == "dense_rec":
            links.append(_Link("dense", weights[1], np.ones((), dtype=np.int64), population.name))
        self._join(layer, population, links)
        self.axonal = sent

    def _delays(self, layer: LayerFile, shape: Shape, biased: bool) -> tuple[Int, Int]:
        """Delays of what each neuron sends, or of what comes over each weight; one of them is 0."""
        if "delay" not in layer.fields:
            return ZERO, ZERO
        delay = layer.whole("delay")
        if layer.kind == "dense_rec" and delay.any():
            raise layer.refuse("delay", f"up to {delay.max()}", "netx leaves weight exponents out of loops with delays")
        if delay.min() < 0:
            raise layer.refuse("delay", delay.min(), "a delay is 0 steps or more")
        if delay.max() > MAX_DELAY:
            warnings.warn(
                f"{layer.where}: delays up to {delay.max()} are cut to {MAX_DELAY} steps, as netx does",
                SpikefoldWarning,
                stacklevel=2,
            )
            delay = np.minimum(delay, MAX_DELAY)
        rows, columns = shape
        if delay.ndim == 0 or delay.shape == shape:
            return ZERO, delay
        if delay.shape == (rows,) and not biased and layer.number != self.last:
            return delay, ZERO
        if delay.shape == (rows,):
            return ZERO, np.broadcast_to(delay[:, None], shape)
        if delay.shape == (columns,):
            return ZERO, np.broadcast_to(delay, shape)
        raise layer.refuse("delay", f"of shape {delay.shape}", f"it does not fit weights {shape}")

    def _spatial(self, layer: LayerFile) -> None:
        if len(self.shape) != 3 or self.flattened:
            raise layer.refuse("type", layer.kind, f"it takes channels, height and width; {self.shape} comes")
        if "delay" in layer.fields and layer.whole("delay").any():
            raise layer.refuse("delay", f"up to {layer.whole('delay').max()}", "netx leaves out delays of such layers")
        attributes = {k: layer.pair(k, d) for k, d in (("stride", 1), ("padding", 0), ("dilation", 1))}
        kernel = layer.whole("weight")
        if kernel.ndim == 5 and kernel.shape[4] == 1:  # slayer's kernels have an axis of time
            kernel = kernel[..., 0]
        if kernel.ndim != 4:
            raise layer.refuse("weight", f"of shape {kernel.shape}", "a kernel is [out, in, height, width]")
        groups = self.shape[0]
        if layer.kind == "pool":
            kernel, attributes["padding"] = pool_of(layer, kernel, self.shape, attributes)
        else:
            groups = int(layer.whole("groups").reshape(-1)[0]) if "groups" in layer.fields else 1
        shape = layer.shape()
        if len(shape) != 3:
            raise layer.refuse("shape", shape, "channels, height and width are wanted")
        population = population_of(layer, shape, bias_of(layer), self.last)
        self._join(layer, population, [_Link("conv", kernel, attributes={**attributes, "groups": groups})])

    def _average(self, layer: LayerFile) -> None:
        """Means over groups of neurons that follow one another, as the answer."""
        groups, size = int(np.prod(layer.shape())), int(np.prod(self.shape))
        if layer.number != self.last or not self.neurons or size % groups:
            raise layer.refuse("shape", layer.shape(), f"it takes the means of all {size} neurons, as the last layer")
        each, name = size // groups, f"average{layer.number}"
        weight = 2 * np.repeat(np.eye(groups, dtype=np.int64), each, axis=1)
        # A spike adds 2 to the membrane of its group, of which the real value at the end is to be the mean.
        unit = 2**arithmetic.STATE_FRACTION_BITS / (2 * each)
        population = Neurons(name, (groups,), 0, NO_THRESHOLD, ZERO, 0, unit, fires=False, current_shift=0)
        self.neurons.append(population)
        late = one_or_many(self.axonal)
        self.synapses.append(Synapse(f"{name}_weight", self.source, name, "dense", weight, delay=late))

    def _join(self, layer: LayerFile, population: Neurons, links: list[_Link]) -> None:
        """Add a population and what leads to it."""
        found = as_mantissas([link.weight for link in links])
        if found is None:
            values = np.concatenate([link.weight.reshape(-1) for link in links])
            raise layer.refuse(
                "weight", f"{values.min()}..{values.max()}", "they are not even numbers of eight bits, or odd ones of "
                "seven and a sign, times a power of two"
            )  # fmt: skip
        mantissas, exponent, shift = found
        self.neurons.append(replace(population, current_shift=shift))
        for number, (link, mantissa) in enumerate(zip(links, mantissas, strict=True)):
            name = f"{population.name}_weight" + (f"_{number}" if number else "")
            self.synapses.append(
                Synapse(
                    name, link.source or self.source, population.name, link.kind, mantissa, exponent,
                    delay=one_or_many(link.delay), **link.attributes,
                )
            )  # fmt: skip
        self.shape, self.source, self.flattened = population.shape, population.name, False
        self.axonal = ZERO
