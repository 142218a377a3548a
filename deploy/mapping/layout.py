"""A net on a chip: parts on cores, cores on a mesh, routes between them, and the rules that it breaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.show import Shown
from spikefold.deploy.mapping.demand import Connection, Grid
from spikefold.deploy.mapping.routes import OUTSIDE, route_lengths, routes_between
from spikefold.errors import InputError


@dataclass(frozen=True)
class Use:
    """What parts take of a core."""

    neurons: int
    synapse_bits: int
    in_axons: int
    out_axons: int
    threshold_levels: int
    weight_formats: int
    """Weight exponents that differ."""
    synapses: int
    """Connections that end here."""


@dataclass(frozen=True)
class Part:
    """A box of one population: neurons from ``start`` up to, not including, ``stop`` along every axis of its shape."""

    population: str
    start: tuple[int, ...]
    stop: tuple[int, ...]
    use: Use

    @property
    def neurons(self) -> int:
        """Number of neurons in the box."""
        return prod(b - a for a, b in zip(self.start, self.stop, strict=True))


@dataclass(frozen=True)
class Core:
    """One core: what lies on it, what that takes, and where it is."""

    number: int
    parts: tuple[Part, ...]
    use: Use
    chip: int
    tile: tuple[int, int]
    """Column and row of its tile on the chip's mesh."""


@dataclass(frozen=True)
class Layer:
    """How one population lies on cores."""

    name: str
    grid: Grid
    cores: NDArray[np.int64]
    """Core of every box, in the order of ``grid.bounds()``."""
    limited_by: str | None
    """Field of `Use` that asks for most cores; None where one core holds the layer."""
    fan_in: int
    """Most synapses that end at one neuron."""


@dataclass(frozen=True)
class Route:
    """Messages of one connection from one core (None: from outside) to another."""

    connection: str
    source: int | None
    target: int
    axons: int
    """Neurons of the source core that reach the target core."""
    columns: int
    rows: int
    """Hops east or west, and north or south, within chips."""
    chips: int
    """Borders between chips on the way."""


@dataclass(frozen=True)
class Routes:
    """All routes of one connection, an array entry each (int64 ``[routes]``), as `Route` says."""

    connection: str
    source: NDArray[np.int64]
    """`OUTSIDE` for the input, whose hops are not counted: where it enters is not part of the mapping."""
    target: NDArray[np.int64]
    axons: NDArray[np.int64]
    columns: NDArray[np.int64]
    rows: NDArray[np.int64]
    chips: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.axons)

    def __iter__(self) -> Iterator[Route]:
        arrays = (self.source, self.target, self.axons, self.columns, self.rows, self.chips)
        for source, *rest in zip(*(a.tolist() for a in arrays), strict=True):
            yield Route(self.connection, None if source == OUTSIDE else source, *rest)


@dataclass(frozen=True)
class Traffic:
    """Sums over the routes of one connection: what one message of every source neuron takes."""

    connection: str
    source: str
    target: str
    routes: int
    axons: int
    column_hops: int
    row_hops: int
    chip_borders: int


@dataclass(frozen=True)
class Violation:
    """A rule that the net breaks on this chip: what a layer uses of what, the limit, and what to do."""

    rule: str
    layer: str
    used: float
    limit: float
    advice: str

    def __str__(self) -> str:
        """One line for people."""
        used, limit = (f"{n:,.0f}" if float(n).is_integer() else f"{n:,g}" for n in (self.used, self.limit))
        return f"{self.rule}: layer {self.layer} uses {used}, limit {limit}: {self.advice}"


@dataclass(frozen=True, repr=False)
class Mapping(Shown, by="spikefold.deploy.notebook"):
    """A whole net on as many chips as it needs; ``violations`` empty means that it runs there as it is."""

    net: str
    hardware: str
    limits: dict[str, int | None]
    """What a core offers, by the field of `Use`; None where no limit is known."""
    cores_per_chip: int
    mesh: tuple[int, int]
    """Columns and rows of tiles of one chip."""
    layers: tuple[Layer, ...]
    """In execution order."""
    connections: tuple[Connection, ...]
    cores: tuple[Core, ...]
    violations: tuple[Violation, ...]
    cautions: tuple[str, ...]
    """Where sources disagree, or what a reader should know besides."""

    @property
    def chips(self) -> int:
        """Chips that are needed."""
        return 1 + max((core.chip for core in self.cores), default=0)

    def routes(self, connection: str, sent: NDArray[np.int64] | None = None) -> Routes:
        """Routes of the connection (a synapse's name) of that name, made when asked for: large nets have millions.

        With ``sent``, the messages of every source neuron, shaped as the source, ``axons`` are the messages along each.
        """
        link = next((c for c in self.connections if c.name == connection), None)
        if link is None:
            raise InputError(
                f"mapping of {self.net}: no connection {connection!r}; there are {[c.name for c in self.connections]}"
            )
        placed = {layer.name: (layer.grid, layer.cores) for layer in self.layers}
        source, target, axons = routes_between(link, placed.get(link.source), placed[link.target], sent)
        return Routes(connection, source, target, axons, *route_lengths(self._positions, self.mesh[0], source, target))

    @cached_property
    def traffic(self) -> tuple[Traffic, ...]:
        """Sums of axons and hops of every connection."""
        return self.traffic_of({})

    def traffic_of(self, sent: dict[str, NDArray[np.int64]]) -> tuple[Traffic, ...]:
        """The same with ``axons`` being messages, given those of every neuron of each source (1, where not given)."""
        sums = []
        for link in self.connections:
            r = self.routes(link.name, sent.get(link.source))
            hops = (int(r.axons @ along) for along in (r.columns, r.rows, r.chips))
            sums.append(Traffic(link.name, link.source, link.target, len(r), int(r.axons.sum()), *hops))
        return tuple(sums)

    @cached_property
    def _positions(self) -> NDArray[np.int64]:
        """Chip, column and row of every core."""
        return np.array([(core.chip, *core.tile) for core in self.cores], dtype=np.int64).reshape(-1, 3)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but single routes, ready for JSON."""
        return {
            "net": self.net,
            "hardware": self.hardware,
            "fits": not self.violations,
            "violations": [asdict(v) for v in self.violations],
            "cautions": list(self.cautions),
            "chips": self.chips,
            "limits": {**self.limits, "cores": self.cores_per_chip},
            "layers": [
                {"name": layer.name, "shape": list(layer.grid.shape), "cores": len(np.unique(layer.cores)),
                 "limited_by": layer.limited_by, "fan_in": layer.fan_in}
                for layer in self.layers
            ],
            "connections": [asdict(t) for t in self.traffic],
            "cores": [
                {"number": c.number, "chip": c.chip, "tile": list(c.tile), "use": asdict(c.use),
                 "parts": [{"population": p.population, "start": list(p.start), "stop": list(p.stop)} for p in c.parts]}
                for c in self.cores
            ],
        }  # fmt: skip
