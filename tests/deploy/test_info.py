"""What a file of integers says of its layers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from generated_graphs import random_graph
from spikefold.converters.fixed_point_graph import Relay
from spikefold.converters.nir_file import save_nir
from spikefold.deploy.info import describe


def test_relays_and_resets_are_told_apart_from_plain_neurons_and_readouts(tmp_path: Path) -> None:
    graph = random_graph(3, relays=True)
    given = {
        "relay1": {"relay": Relay(2, -128, 127)},
        "conv1": {"soft_reset": True},
        "conv2": {"v_reset": np.array(-7)},
        "after": {"v_threshold": np.array(9), "v_reset": np.arange(72).reshape(6, 4, 3) - 65},
    }
    neurons = tuple(dataclasses.replace(n, **given.get(n.name, {})) for n in graph.neurons)
    said = describe(str(save_nir(dataclasses.replace(graph, neurons=neurons), tmp_path / "net.nir")))
    dv = {n.name: n.dv for n in neurons}
    assert said["relay1"] == "relay of 168 values, numbers -128..127"
    assert said["conv1"] == f"168 neurons, dv {dv['conv1']}, 1 threshold level(s), soft reset"
    assert said["conv2"] == f"72 neurons, dv {dv['conv2']}, 1 threshold level(s), reset to -7"
    assert said["after"] == f"72 neurons, dv {dv['after']}, 1 threshold level(s), reset to -65..6"
    assert said["fc1"] == f"10 neurons, dv {dv['fc1']}, 1 threshold level(s)"
    assert said["output"] == "3 readout neurons, dv 0"
