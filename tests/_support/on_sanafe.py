"""An integer net on SANA-FE: its neurons on cores that the caller chooses, its synapses as lists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.reference import Trace, read_out, run_population, sum_currents, synapse_current
from spikefold.deploy.hardware import ChipHardware
from spikefold.deploy.sanafe_export import DENDRITES, INPUTS, NEURONS, SYNAPSES

NEVER = 2.0**40
"""A threshold that no readout reaches."""
Tile = tuple[int, int]


@dataclass(frozen=True)
class Place:
    """A core: column and row of its tile, and which of the tile's cores."""

    column: int
    row: int
    core: int

    def index(self, chip: ChipHardware) -> int:
        """Number of the core in SANA-FE, whose tiles run down the columns."""
        tile = self.column * chip.mesh.rows.number + self.row
        return tile * chip.mesh.cores_per_tile.number + self.core


Places = dict[str, list[Place]]
"""For each population, and the input, the core of each neuron in C order."""


def cut(graph: FixedPointGraph, channels: int, size: int) -> FixedPointGraph:
    """The first ``channels`` of every convolution of a chain, on a corner of ``size`` pixels of its input."""
    shapes: dict[str, tuple[int, ...]] = {graph.input.name: (graph.input.shape[0], size, size)}
    shrink = graph.input.shape[1] // size
    neurons: list[Neurons] = []
    synapses: list[Synapse] = []
    for n in graph.neurons:
        shape = n.shape if len(n.shape) == 1 else (channels, n.shape[1] // shrink, n.shape[2] // shrink)
        shapes[n.name] = shape
        per_channel = n.bias_mantissa.ndim > 1
        neurons.append(
            replace(n, shape=shape, bias_mantissa=n.bias_mantissa[:channels] if per_channel else n.bias_mantissa)
        )
        for s in graph.incoming(n.name):
            source = shapes[s.source]
            if s.kind == "conv":
                weight = s.weight[:channels, : source[0]]
            else:
                whole = s.weight.reshape(len(s.weight), *graph.source_shape(s.source))
                weight = whole[:, : source[0], : source[1], : source[2]].reshape(len(s.weight), -1)
            synapses.append(replace(s, weight=weight))
    port = InputPort(shapes[graph.input.name], graph.input.max_value, graph.input.name)
    return replace(graph, input=port, neurons=tuple(neurons), synapses=tuple(synapses))


def edges(graph: FixedPointGraph, synapse: Synapse) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Source, target and weight of every connection inside the border, weights of 0 included."""
    weight = synapse.effective_weight
    if synapse.kind == "dense":
        target, source = np.indices(weight.shape).reshape(2, -1)
        return source, target, weight.ravel()
    (_, height, width), (_, rows, columns) = graph.source_shape(synapse.source), graph.source_shape(synapse.target)
    o, c, ky, kx, y, x = np.indices((*weight.shape, rows, columns)).reshape(6, -1)
    iy = y * synapse.stride[0] + ky * synapse.dilation[0] - synapse.padding[0]
    ix = x * synapse.stride[1] + kx * synapse.dilation[1] - synapse.padding[1]
    inside = (iy >= 0) & (iy < height) & (ix >= 0) & (ix < width)
    source, target = (c * height + iy) * width + ix, (o * rows + y) * columns + x
    return source[inside], target[inside], weight[o, c, ky, kx][inside]


def free_run(graph: FixedPointGraph, clip: NDArray[np.int64]) -> Trace:
    """What a chip does that starts all layers at once: each hears what its sources sent a step ago.

    ``clip`` is ``[T, 1, *shape]``; biases are added from the first step on, before any input has come through.
    """
    spikes: dict[str, NDArray[np.int64]] = {graph.input.name: clip}
    membranes: dict[str, NDArray[np.int64]] = {}
    for population in graph.neurons:
        currents = []
        for synapse in graph.incoming(population.name):
            sent = spikes[synapse.source]
            currents.append(synapse_current(synapse, np.concatenate([np.zeros_like(sent[:1]), sent[:-1]])))
        spikes[population.name], membranes[population.name] = run_population(
            population, sum_currents(population, currents)
        )
    spikes.pop(graph.input.name)
    return Trace(spikes, membranes, read_out(graph.output, spikes, membranes, len(clip)))


def build(
    sanafe: Any, graph: FixedPointGraph, clip: NDArray[np.int64], places: Places, chip: ChipHardware, file: str
) -> Any:
    """A chip of SANA-FE, from the architecture in ``file``, with the net on it."""
    architecture = sanafe.load_arch(file)
    cores = architecture.cores()
    net = sanafe.Network()
    groups = {graph.input.name: net.create_neuron_group(graph.input.name, clip[0].size, soma_hw_name=f"{INPUTS}[0]")}
    used: dict[Place, int] = {}
    events = clip.reshape(len(clip), -1)
    for i, place in enumerate(places[graph.input.name]):
        unit = used[place] = used.get(place, -1) + 1
        spikes = {"spikes": [int(e) for e in events[:, i]]}
        groups[graph.input.name][i].set_attributes(soma_hw_name=f"{INPUTS}[{unit}]", model_attributes=spikes)
    for n in graph.neurons:
        common = {
            "leak_decay": (4096 - n.dv) / 4096,
            "input_decay": 0.0,
            "reset": 0.0,
            "reset_mode": "hard",
            "force_update": False,
        }
        group = groups[n.name] = net.create_neuron_group(
            n.name,
            n.size,
            soma_hw_name=NEURONS,
            default_synapse_hw_name=SYNAPSES,
            default_dendrite_hw_name=DENDRITES,
            log_spikes=True,
            log_potential=True,
        )
        thresholds = np.broadcast_to(n.v_threshold, n.shape).ravel()
        biases = np.broadcast_to(n.bias, n.shape).ravel()
        for i in range(n.size):
            own = {"threshold": float(thresholds[i]) if n.fires else NEVER, "bias": float(biases[i]) / 64}
            group[i].set_attributes(model_attributes={**common, **own})
    for s in graph.synapses:
        source, target, weight = edges(graph, s)
        pairs = list(zip(source.tolist(), target.tolist(), strict=True))
        groups[s.source].connect_neurons_sparse(groups[s.target], {"weight": weight.astype(float).tolist()}, pairs)
    for name, group in groups.items():
        for i, place in enumerate(places[name]):
            group[i].map_to_core(cores[place.index(chip)])
    made = sanafe.SpikingChip(architecture)
    made.load(net)
    return made
