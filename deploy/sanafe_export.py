"""A chip as an architecture file of SANA-FE, an independent simulator of neuromorphic chips (Boyle et al., TCAD 2025).

Only text is written here; SANA-FE itself is no part of spikefold. Its way of counting, in our terms: every neuron pays
``neuron_inactive`` in every step; one that changed (a membrane other than 0, an input, a bias) the rest of
``neuron_active`` too, and a spike ``spike_out``; a spike pays ``spike_within_tile`` for every core that it is sent to,
and the hops there.
"""

from __future__ import annotations

from typing import Any

import yaml

from spikefold.deploy.hardware import ChipHardware
from spikefold.deploy.quantity import Leaf

NEURONS, INPUTS, DENDRITES, SYNAPSES = "lif", "inputs", "dendrites", "synapses"
"""Names of the units of every core; the input unit is one a neuron, ``inputs[0]`` and so on."""

_LINK_BUFFER = 16
"""Messages that a link holds in SANA-FE's own files; read by its detailed timing models only."""


def sanafe_architecture(chip: ChipHardware, inputs_per_core: int = 1024) -> str:
    """Write the nominal values of a chip as SANA-FE's YAML.

    Times that the chip leaves out are 0. Every core has ``inputs_per_core`` units that play events back and cost
    nothing, as in SANA-FE's own files; each neuron of an input takes one.
    """
    energy, time, mesh = chip.energy, chip.time, chip.mesh
    barriers = {1: _value(time.barrier)}
    if time.barrier_steps is not None:
        barriers = {step.tiles.number: _value(step.barrier) for step in time.barrier_steps}
    core = {
        "name": f"core[0..{mesh.cores_per_tile.number - 1}]",
        "attributes": {
            "buffer_position": "soma",
            "buffer_inside_unit": False,
            "max_neurons_supported": chip.limits.neurons_per_core.number,
        },
        "axon_in": _unit("axon_in", energy_message_in=0.0, latency_message_in=_value(time.message_in)),
        "synapse": _unit(
            SYNAPSES,
            model="current_based",
            energy_process_spike=_value(energy.synop),
            latency_process_spike=_value(time.synop),
        ),
        "dendrite": _unit(DENDRITES, model="accumulator", energy_update=0.0, latency_update=0.0),
        "soma": [
            *_unit(
                NEURONS,
                model="leaky_integrate_fire",
                energy_access_neuron=_value(energy.neuron_inactive),
                latency_access_neuron=_value(time.neuron_inactive),
                energy_update_neuron=_value(energy.neuron_active) - _value(energy.neuron_inactive),
                latency_update_neuron=_value(time.neuron_active) - _value(time.neuron_inactive),
                energy_spike_out=_value(energy.spike_out),
                latency_spike_out=_value(time.spike_out),
            ),
            *_unit(
                f"{INPUTS}[0..{inputs_per_core - 1}]",
                model="input",
                energy_access_neuron=0.0,
                latency_access_neuron=0.0,
                energy_update_neuron=0.0,
                latency_update_neuron=0.0,
                energy_spike_out=0.0,
                latency_spike_out=0.0,
            ),
        ],
        "axon_out": _unit(
            "axon_out",
            energy_message_out=_value(energy.spike_within_tile),
            latency_message_out=_value(time.spike_within_tile),
        ),
    }
    hops: dict[str, float] = {}
    for directions, joule, second in (
        (("east", "west"), energy.hop_east_west, time.hop_east_west),
        (("north", "south"), energy.hop_north_south, time.hop_north_south),
    ):
        for direction in directions:
            hops |= {f"energy_{direction}_hop": _value(joule), f"latency_{direction}_hop": _value(second)}
    columns, rows = mesh.columns.number, mesh.rows.number
    architecture = {
        "name": chip.name,
        "attributes": {
            "topology": "mesh",
            "width": columns,
            "height": rows,
            "link_buffer_size": _LINK_BUFFER,
            "sync_model": "table",
            "latency_sync": barriers,
        },
        "tile": [{"name": f"tile[0..{columns * rows - 1}]", "attributes": hops, "core": [core]}],
    }
    return yaml.safe_dump({"architecture": architecture}, sort_keys=False)


def _value(leaf: Leaf | None) -> float:
    return 0.0 if leaf is None else leaf.range.value


def _unit(name: str, **attributes: Any) -> list[dict[str, Any]]:
    return [{"name": name, "attributes": attributes}]
