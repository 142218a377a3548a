"""What a part of a population needs of a core, in closed form: a box needs products of what its ranges need.

For a box of a population, with ``n`` neurons, ``o`` of them at each position in a group of output channels:

- dense, from ``m`` sources: a row of ``n`` weights a source, ``m * row_bits(n, w)`` bits, and ``m`` in-axons;
- convolution: the kernel lies in the core once. A source reads the taps that its place in the stride selects, so a
  source channel has a row for each such place: ``row_bits(rows * columns * o, w + index)`` bits, ``rows`` and
  ``columns`` being the taps along each axis that meet the source map from somewhere in the box. In-axons: one a source
  neuron of the box's receptive field, or, where channels can share one (population axons), one a position and so many
  channels;
- out-axons: one a neuron, connection and core that the connection reaches.

``row_bits`` is that of nengo-loihi's block.py: blocks of synapses, each with a header, padded to words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.fixed_point_graph import FixedPointGraph, Synapse
from spikefold.deploy.hardware import ChipHardware, ChipStorage

Counts = NDArray[np.int64]


def row_bits(synapses: Counts | int, weight_bits: int, storage: ChipStorage) -> Counts:
    """Memory [bit] of rows of so many synapses: blocks with a header each, padded to words (nengo-loihi block.py)."""
    block, word, header = storage.block_synapses.number, storage.word.number, storage.block_header.number

    def padded(count: Counts | int) -> Counts:
        return np.asarray(-(-(count * weight_bits + header) // word) * word)

    full, rest = np.divmod(np.asarray(synapses, dtype=np.int64), block)
    return np.asarray(full * padded(block) + np.where(rest > 0, padded(rest), 0))


@dataclass(frozen=True)
class Cuts:
    """Ways to cut one axis into ranges: those of way ``k`` are ``start[i]`` to ``stop[i]`` from ``i = first[k]`` on."""

    start: Counts
    stop: Counts
    first: Counts

    @staticmethod
    def into(length: int, pieces: Sequence[int]) -> Cuts:
        """Cut into each of these numbers of pieces, whose lengths differ by one at most."""
        edges = [np.arange(n + 1) * length // n for n in pieces]
        start, stop = (np.concatenate([e[side] for e in edges]) for side in (slice(-1), slice(1, None)))
        return Cuts(start, stop, np.cumsum([0, *pieces[:-1]]))

    @staticmethod
    def ranges(length: int, pieces: int) -> Cuts:
        """Cut into so many pieces, each of which counts as a way of its own."""
        whole = Cuts.into(length, [pieces])
        return Cuts(whole.start, whole.stop, np.arange(pieces))

    @property
    def lengths(self) -> Counts:
        """Length of every range."""
        return self.stop - self.start

    def worst(self, values: Counts) -> Counts:
        """Largest of each way's values, which are one a range."""
        return np.asarray(np.maximum.reduceat(values, self.first, axis=0))

    def total(self, values: Counts) -> Counts:
        """Sum of each way's values, which are one a range."""
        return np.asarray(np.add.reduceat(values, self.first, axis=0))


def outer(vectors: Sequence[Counts]) -> Counts:
    """Product of one value of each vector, for all of their combinations."""
    return reduce(np.multiply.outer, vectors)


class _Window:
    """One axis of a convolution's kernel over the source map."""

    def __init__(self, source: int, target: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
        self.stride, taps = stride, np.arange(kernel) * dilation
        at = np.arange(target)[:, None] * stride + taps - padding
        inside = (at >= 0) & (at < source)
        hits = np.zeros((target + 1, source), dtype=np.int64)
        hits[1 + np.nonzero(inside)[0], at[inside]] = 1
        self._hits = hits.cumsum(axis=0)
        self._inside = np.vstack([np.zeros(kernel, dtype=np.int64), inside.cumsum(axis=0)])
        self._phase = taps % stride == np.arange(stride)[:, None]

    def reach(self, start: Counts, stop: Counts) -> Counts:
        """Taps of a range that read each place of the source, ``[ranges, source]``."""
        return np.asarray(self._hits[stop] - self._hits[start])

    def sources(self, start: Counts, stop: Counts) -> NDArray[np.bool_]:
        """Whether each place of the source is read by a range, ``[ranges, source]``."""
        return np.asarray(self._hits[stop] > self._hits[start])

    def taps(self, start: Counts, stop: Counts) -> Counts:
        """Taps that a range uses, by the place in the stride of the source that they read, ``[ranges, stride]``."""
        used = self._inside[stop] > self._inside[start]
        return np.asarray(used.astype(np.int64) @ self._phase.T.astype(np.int64))

    def connections(self, start: Counts, stop: Counts) -> Counts:
        """Taps inside the border, summed over the places of a range."""
        return np.asarray((self._inside[stop] - self._inside[start]).sum(axis=1))

    @property
    def most(self) -> int:
        """Most taps inside the border at one place."""
        return int(np.diff(self._inside, axis=0).sum(axis=1).max())


class Connection:
    """Geometry of one synapse between boxes of its ends."""

    def __init__(self, graph: FixedPointGraph, synapse: Synapse) -> None:
        self.name, self.source, self.target = synapse.name, synapse.source, synapse.target
        self.is_conv = synapse.kind == "conv"
        self.source_shape = graph.source_shape(synapse.source)
        self.target_shape = graph.source_shape(synapse.target)
        self.from_outside = synapse.source == graph.input.name
        self.weight_format = synapse.exponent
        self._groups = synapse.groups
        self.rows = _distinct_rows(synapse, self.source_shape)
        self._windows: tuple[_Window, ...] = ()
        if self.is_conv:
            self._windows = tuple(
                _Window(*numbers)
                for numbers in zip(
                    self.source_shape[1:], self.target_shape[1:], synapse.weight.shape[2:], synapse.stride,
                    synapse.padding, synapse.dilation, strict=True,
                )
            )  # fmt: skip

    @cached_property
    def fan_in(self) -> int:
        """Most synapses that end at one neuron."""
        if not self.is_conv:
            return prod(self.source_shape)
        return self.source_shape[0] // self._groups * prod(w.most for w in self._windows)

    def sources(self, axis: int, start: Counts, stop: Counts) -> NDArray[np.bool_]:
        """Whether each place of the source's ``axis`` is read by ranges of the target's, for a convolution."""
        if axis > 0:
            return self._windows[axis - 1].sources(start, stop)
        group = np.arange(self.source_shape[0]) // (self.source_shape[0] // self._groups)
        size = self.target_shape[0] // self._groups
        return np.asarray((start[:, None] // size <= group) & (group <= (stop[:, None] - 1) // size))

    def reach(self, axis: int, start: Counts, stop: Counts) -> Counts:
        """Synapses from each place of the source's ``axis`` into ranges of the target's, for a convolution.

        Products over the axes are the synapses from one neuron into a box.
        """
        if axis > 0:
            return self._windows[axis - 1].reach(start, stop)
        size = self.target_shape[0] // self._groups
        first = np.arange(self.source_shape[0]) // (self.source_shape[0] // self._groups) * size
        both = np.minimum(stop[:, None], first + size) - np.maximum(start[:, None], first)
        return np.asarray(np.maximum(both, 0))

    def source_counts(self, cuts: Sequence[Cuts]) -> list[Counts]:
        """Places of the source that each range of each axis reads; their products are distinct source neurons."""
        if self.is_conv:
            size, first = self.target_shape[0] // self._groups, cuts[0]
            channels = ((first.stop - 1) // size - first.start // size + 1) * (self.source_shape[0] // self._groups)
            return [channels, *(self.sources(i, c.start, c.stop).sum(axis=1) for i, c in enumerate(cuts[1:], 1))]
        whole = np.full(len(cuts[0].start), prod(self.source_shape))
        return [whole, *(np.ones(len(c.start), dtype=np.int64) for c in cuts[1:])]

    def in_axons(self, cuts: Sequence[Cuts], chip: ChipHardware) -> Counts:
        """Axons that end in boxes."""
        counts, shared = self.source_counts(cuts), chip.limits.channels_per_axon
        if shared is not None and (self.is_conv or self.rows < prod(self.source_shape)):
            channels = counts[0] if self.is_conv else np.full_like(counts[0], self.rows)
            counts[0] = counts[0] // channels * -(-channels // shared.number)
        return outer([c.worst(n) for c, n in zip(cuts, counts, strict=True)])

    def synapses(self, cuts: Sequence[Cuts]) -> Counts:
        """Synapses inside the border that end in boxes."""
        if not self.is_conv:
            return outer([c.worst(c.lengths) for c in cuts]) * prod(self.source_shape)
        each = self.source_shape[0] // self._groups
        taps = [c.worst(w.connections(c.start, c.stop)) for c, w in zip(cuts[1:], self._windows, strict=True)]
        return outer([cuts[0].worst(cuts[0].lengths) * each, *taps])

    def synapse_bits(self, cuts: Sequence[Cuts], chip: ChipHardware) -> Counts:
        """Memory [bit] of the weights that boxes need."""
        if not self.is_conv:
            neurons = outer([c.worst(c.lengths) for c in cuts])
            return self.rows * row_bits(neurons, chip.limits.weight.number, chip.storage)
        taps = [c.worst(w.taps(c.start, c.stop)) for c, w in zip(cuts[1:], self._windows, strict=True)]
        (row_kinds, row), (column_kinds, column) = (np.unique(t, axis=0, return_inverse=True) for t in taps)
        bits = np.empty((len(cuts[0].first), len(row_kinds), len(column_kinds)), dtype=np.int64)
        for i, rows in enumerate(row_kinds):
            for j, columns in enumerate(column_kinds):
                bits[:, i, j] = cuts[0].worst(self._kernel_bits(cuts[0], np.outer(rows, columns), chip))
        return bits[:, row.reshape(-1)][:, :, column.reshape(-1)]

    def _kernel_bits(self, channels: Cuts, taps: Counts, chip: ChipHardware) -> Counts:
        """Memory [bit] of one kernel for ranges of output channels; ``taps`` by place in the stride."""
        size = self.target_shape[0] // self._groups
        each = self.source_shape[0] // self._groups
        weight = chip.limits.weight.number + chip.storage.index.number
        start, stop = channels.start, channels.stop
        head = np.minimum(stop, -(-start // size) * size) - start  # channels of a group that began before the range
        whole, tail = np.divmod(stop - start - head, size)
        bits = np.zeros(len(start), dtype=np.int64)
        for count in taps[taps > 0]:
            for many, outputs in ((1, head), (whole, np.full_like(whole, size)), (1, tail)):
                bits += many * each * row_bits(count * outputs, weight, chip.storage)
        return bits

    def fan_out(self, grid: Grid) -> Counts:
        """Boxes of the target that each neuron of the source reaches, shaped as the source."""
        if not self.is_conv:
            return np.full(self.source_shape, grid.boxes)
        rows, columns = (self.sources(i, c.start, c.stop).astype(np.int64) for i, c in enumerate(grid.places, start=1))
        reached = np.zeros(self.source_shape, dtype=np.int64)
        for pieces in np.unique(grid.pieces):
            channels = Cuts.ranges(grid.shape[0], pieces)
            per_channel = self.sources(0, channels.start, channels.stop).sum(axis=0)
            per_place = rows.T @ (grid.pieces == pieces).astype(np.int64) @ columns
            reached += np.multiply.outer(per_channel, per_place)
        return reached


@dataclass(frozen=True)
class Grid:
    """Boxes of a population: ranges along all axes but the first, and for each of their combinations pieces of that.

    ``places`` cut the axes but the first (rows and columns of a map); ``pieces[i, j]`` is how many equal ranges the
    first axis (channels, or neurons in a row) is cut into there.
    """

    shape: tuple[int, ...]
    places: tuple[Cuts, ...]
    pieces: Counts

    @property
    def boxes(self) -> int:
        """Number of boxes."""
        return int(self.pieces.sum())

    def bounds(self) -> tuple[Counts, Counts]:
        """First neuron of every box and the one behind its last, each ``[boxes, axes]``, place by place."""
        starts: list[Counts] = []
        stops: list[Counts] = []
        for place, pieces in np.ndenumerate(self.pieces):
            along = Cuts.ranges(self.shape[0], int(pieces))
            here = [(c.start[i], c.stop[i]) for c, i in zip(self.places, place, strict=True)]
            for box, side, first in ((starts, 0, along.start), (stops, 1, along.stop)):
                box.append(np.column_stack([first, *(np.full(pieces, h[side]) for h in here)]))
        return np.concatenate(starts), np.concatenate(stops)

    def gather(self, per_cut: dict[int, Counts]) -> Counts:
        """Values of every box, in the order of `bounds`, from arrays ``[pieces, *places]`` by number of pieces."""
        return np.concatenate([np.moveaxis(per_cut[int(n)], 0, -1)[place] for place, n in np.ndenumerate(self.pieces)])


def _distinct_rows(synapse: Synapse, source: tuple[int, ...]) -> int:
    """Rows of weights that a dense map keeps: one a source, or one a channel where all positions have the same."""
    if len(source) < 2 or synapse.kind == "conv":
        return prod(source)
    weight = synapse.weight.reshape(len(synapse.weight), source[0], -1)
    return source[0] if bool((weight == weight[:, :, :1]).all()) else prod(source)


@dataclass(frozen=True)
class Needs:
    """What boxes of one population need, an array entry a combination of ways to cut its axes.

    Where a way has several ranges, the entry bounds the worst of its boxes from above: for each connection the worst of
    its own. Where every range is a way, entries are exact.
    """

    neurons: Counts
    synapse_bits: Counts
    in_axons: Counts
    out_axons: Counts
    weight_formats: Counts
    synapses: Counts


class Demand:
    """What boxes of one population need of a core; ``fan_out`` is the number of cores that each neuron reaches."""

    def __init__(self, incoming: Sequence[Connection], fan_out: Counts, chip: ChipHardware) -> None:
        self.incoming, self.chip = incoming, chip
        self._axons = np.pad(fan_out, [(1, 0)] * fan_out.ndim)
        for axis in range(fan_out.ndim):
            self._axons = self._axons.cumsum(axis=axis)

    def needs(self, cuts: Sequence[Cuts]) -> Needs:
        """Needs of the boxes of all combinations of ways to cut the axes."""
        neurons = outer([c.worst(c.lengths) for c in cuts])
        none = np.zeros_like(neurons)
        return Needs(
            neurons=neurons,
            synapse_bits=sum((c.synapse_bits(cuts, self.chip) for c in self.incoming), none),
            in_axons=sum((c.in_axons(cuts, self.chip) for c in self.incoming), none),
            out_axons=self._out_axons(cuts),
            weight_formats=none + len({c.weight_format for c in self.incoming}),
            synapses=sum((c.synapses(cuts) for c in self.incoming), none),
        )

    def axons_in(self, cuts: Sequence[Cuts]) -> Counts:
        """Axons from populations on cores into all boxes of a way together: one a source neuron and box."""
        total = np.zeros([len(c.first) for c in cuts], dtype=np.int64)
        for connection in self.incoming:
            if not connection.from_outside:
                total += outer([c.total(n) for c, n in zip(cuts, connection.source_counts(cuts), strict=True)])
        return total

    def _out_axons(self, cuts: Sequence[Cuts]) -> Counts:
        boxes = self._axons
        for axis, cut in reversed(list(enumerate(cuts))):  # channels, which are cut in every way at once, come last
            boxes = boxes.take(cut.stop, axis=axis) - boxes.take(cut.start, axis=axis)
        for axis, cut in enumerate(cuts):
            boxes = np.maximum.reduceat(boxes, cut.first, axis=axis)
        return boxes


def ways(length: int) -> list[int]:
    """Numbers of pieces whose longest piece differs, each the fewest that gives it."""
    return sorted({ceil(length / longest) for longest in range(1, length + 1)})
