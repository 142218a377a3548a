"""What the thresholds of a net cost in cores: a core has a small table of threshold words."""

from __future__ import annotations

from dataclasses import dataclass, replace

from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.deploy.hardware import ChipHardware
from spikefold.deploy.mapping.layout import Mapping
from spikefold.deploy.mapping.mapper import map_net


@dataclass(frozen=True)
class ThresholdCost:
    """Cores that a net takes on a chip, where its thresholds ask for most of them."""

    hardware: str
    per_core: int
    """Threshold words of a core."""
    layer: str
    """The layer that takes most cores for its thresholds."""
    levels: int
    """Distinct thresholds of it."""
    cores: int
    cores_of_one: int
    """Cores that the net would take with one threshold a layer."""


def threshold_cost(graph: FixedPointGraph, chip: ChipHardware, mapping: Mapping) -> ThresholdCost | None:
    """What thresholds cost a net on a chip, or None where no layer is cut for them.

    Parameters
    ----------
    graph, chip
        The net and the chip.
    mapping
        What `map_net` gives for them.
    """
    limit = mapping.limits["threshold_levels"]
    cut = [layer for layer in mapping.layers if layer.limited_by == "threshold_levels"]
    if limit is None or not cut:
        return None
    widest = max(cut, key=lambda layer: layer.grid.boxes)
    levels = next(n.threshold_levels for n in graph.neurons if n.name == widest.name)
    alike = (replace(n, v_threshold=n.v_threshold.max().reshape(())) if n.fires else n for n in graph.neurons)
    one = map_net(replace(graph, neurons=tuple(alike)), chip)
    return ThresholdCost(chip.name, limit, widest.name, levels, len(mapping.cores), len(one.cores))
