"""What thresholds cost in cores, and that it is said only where they do."""

from __future__ import annotations

import numpy as np
import pytest

import spikefold as sf
from chips import chip_with
from generated_graphs import random_graph
from spikefold.deploy.threshold_cost import threshold_cost


def test_cores_of_a_net_that_is_cut_for_its_thresholds() -> None:
    graph, chip = random_graph(1, per_neuron_thresholds=True), chip_with(threshold_levels_per_core=3)
    mapping = sf.map_net(graph, chip)
    cost = threshold_cost(graph, chip, mapping)
    assert cost is not None
    assert (cost.cores, cost.per_core) == (len(mapping.cores), 3)
    assert cost.cores_of_one == len(sf.map_net(random_graph(1), chip).cores) < cost.cores
    levels = {n.name: n.threshold_levels for n in graph.neurons}
    assert levels[cost.layer] == cost.levels > 3
    boxes = {layer.name: layer.grid.boxes for layer in mapping.layers}
    assert boxes[cost.layer] == max(boxes.values())


@pytest.mark.parametrize(
    "limits", [{"threshold_levels_per_core": None}, {"threshold_levels_per_core": 3, "neurons_per_core": 20}], ids=str
)
def test_nothing_is_said_where_thresholds_cut_no_layer(limits: dict[str, int | None]) -> None:
    graph = random_graph(1, per_neuron_thresholds=limits["threshold_levels_per_core"] is None)
    chip = chip_with(**limits)
    assert threshold_cost(graph, chip, sf.map_net(graph, chip)) is None
    assert np.all([n.threshold_levels == 1 for n in graph.neurons]) or limits["threshold_levels_per_core"] is None
