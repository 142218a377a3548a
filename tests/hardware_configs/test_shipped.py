"""The shipped descriptions themselves: complete, ordered, labelled, and true to their own derivations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from spikefold.deploy.hardware import (
    ChipHardware,
    Hardware,
    Leaf,
    LimitsHardware,
    OperationsHardware,
    load_hardware,
    shipped_hardware,
)


def leaves(model: BaseModel, path: str = "") -> Iterator[tuple[str, Leaf]]:
    for name in type(model).model_fields:
        child = getattr(model, name)
        for index, item in enumerate(child if isinstance(child, list) else [child]):
            here = f"{path}.{name}.{index}" if isinstance(child, list) else f"{path}.{name}"
            if isinstance(item, Leaf):
                yield here, item
            elif isinstance(item, BaseModel):
                yield from leaves(item, here)


def chip(name: str) -> ChipHardware:
    hardware = load_hardware(name)
    assert isinstance(hardware, ChipHardware)
    return hardware


def cmos45() -> OperationsHardware:
    hardware = load_hardware("cmos45")
    assert isinstance(hardware, OperationsHardware)
    return hardware


@pytest.fixture(params=shipped_hardware())
def hardware(request: pytest.FixtureRequest) -> Hardware:
    return load_hardware(request.param)


def test_the_five_descriptions_ship():
    assert shipped_hardware() == ("cmos45", "loihi1", "loihi1-sanafe", "loihi2", "speck")


def test_every_number_lies_in_its_own_range_after_conversion(hardware):
    found = dict(leaves(hardware))
    assert len(found) >= 10
    for path, leaf in found.items():
        assert leaf.range.low <= leaf.range.value <= leaf.range.high, path
        assert leaf.source, path


def test_only_loihi2_is_an_estimate():
    assert {name: load_hardware(name).estimate for name in shipped_hardware()} == {
        "cmos45": False,
        "loihi1": False,
        "loihi1-sanafe": False,
        "loihi2": True,
        "speck": False,
    }
    assert "estimate" in load_hardware("loihi2").title


def test_loihi1_nominal_values_are_those_of_davies_2018_table_2():
    energy, time = chip("loihi1").energy, chip("loihi1").time
    picojoules = {name: leaf.range.value * 1e12 for name, leaf in energy if leaf is not None}
    assert picojoules == pytest.approx(
        {
            "synop": 23.6,
            "neuron_active": 81,
            "neuron_inactive": 52,
            "spike_within_tile": 1.7,
            "hop_east_west": 3.0,
            "hop_north_south": 4.0,
            "state_reset": 5.94e6,
        }
    )
    nanoseconds = {name: leaf.range.value * 1e9 for name, leaf in time if leaf is not None}
    assert nanoseconds == pytest.approx(
        {
            "synop": 3.5,
            "neuron_active": 8.4,
            "neuron_inactive": 5.3,
            "spike_within_tile": 2.1,
            "hop_east_west": 4.1,
            "hop_north_south": 6.5,
            "barrier": 465,
            "barrier_across_chips": 14_300,
        }
    )


def test_loihi1_high_end_is_the_fit_to_silicon():
    energy = chip("loihi1").energy
    assert energy.synop.range.high == pytest.approx(35.5e-12)
    assert energy.neuron_active.range.high == pytest.approx((51.2 + 21.6 + 69.3) * 1e-12)
    assert energy.neuron_inactive.range.high == pytest.approx((51.2 + 21.6) * 1e-12)


def test_the_fit_to_silicon_is_sanafes_file_leaf_by_leaf():
    fit = chip("loihi1-sanafe")
    picojoules = {name: leaf.range.value * 1e12 for name, leaf in fit.energy if leaf is not None}
    assert picojoules == pytest.approx(
        {
            "synop": 35.5,
            "neuron_active": 51.2 + 21.6,
            "neuron_inactive": 51.2,
            "spike_out": 69.3,
            "spike_within_tile": 111.0,
            "hop_east_west": 3.0,
            "hop_north_south": 4.2,
            "state_reset": 5.94e6,
        }
    )
    plain = [(name, leaf) for name, leaf in fit.time if isinstance(leaf, Leaf)]
    assert {name: leaf.range.value * 1e9 for name, leaf in plain} == pytest.approx(
        {
            "synop": 3.8,
            "neuron_active": 6.0 + 3.7,
            "neuron_inactive": 6.0,
            "spike_out": 30.0,
            "spike_within_tile": 5.1,
            "message_in": 16.0,
            "hop_east_west": 4.1,
            "hop_north_south": 6.5,
            "barrier": 1800,
            "barrier_across_chips": 14_300,
        }
    )
    assert fit.time.barrier_steps is not None
    steps = {step.tiles.number: step.barrier.range.value * 1e6 for step in fit.time.barrier_steps}
    assert steps == pytest.approx({1: 0.6, 2: 1.0, 4: 1.4, 29: 1.8})


def test_what_the_fit_leaves_out_is_as_in_loihi1():
    fit, davies = chip("loihi1-sanafe"), chip("loihi1")
    for section in ("limits", "mesh", "storage", "static"):
        assert getattr(fit, section) == getattr(davies, section)
    assert fit.energy.state_reset == davies.energy.state_reset


@pytest.mark.parametrize("name", ["loihi1", "loihi1-sanafe", "loihi2"])
def test_the_mesh_holds_the_cores(name):
    hardware = chip(name)
    tiles = hardware.mesh.columns.number * hardware.mesh.rows.number
    assert tiles * hardware.mesh.cores_per_tile.number == hardware.limits.cores.number


def test_numbers_in_messages_have_a_word_where_the_chip_sends_any():
    assert chip("loihi1").limits.payload_word is None
    word = chip("loihi2").limits.payload_word
    assert word is not None
    assert word.number == 32


def test_speck_holds_what_its_deployment_library_checks():
    speck = load_hardware("speck")
    assert isinstance(speck, LimitsHardware)
    cores = speck.limits.cores
    assert [core.weights.number // 1024 for core in cores] == [16, 16, 16, 32, 32, 64, 64, 16, 16]
    assert [core.neurons.number // 1024 for core in cores] == [64, 64, 64, 32, 32, 16, 16, 16, 16]
    assert {core.biases.number for core in cores} == {1024}
    assert sum(core.neurons.number for core in cores) == 327_680
    assert (speck.limits.destinations_per_core.number, speck.limits.weight.number, speck.limits.state.number) == (
        2,
        8,
        16,
    )


def test_the_regression_of_memory_is_near_the_banks_that_it_was_fitted_to():
    sram = cmos45().sram
    assert sram.regression is not None
    for bank in sram.banks:
        fitted = sram.regression.access.range.value + sram.regression.per_bit.range.value * bank.size.number
        assert fitted == pytest.approx(bank.access.range.value, rel=0.4)


def test_loihi2_energies_follow_from_the_derivation_in_the_file():
    watts, synops, neurons = 2600, 380e12, 240e12
    both = watts / (synops * 23.6e-12 + neurons * 81e-12)
    synop, neuron = chip("loihi2").energy.synop.range, chip("loihi2").energy.neuron_active.range
    assert synop.value == pytest.approx(watts / synops, rel=0.01)
    assert synop.low == pytest.approx(both * 23.6e-12, rel=0.01)
    assert neuron.value == pytest.approx(watts / neurons, rel=0.01)
    assert neuron.low == pytest.approx(both * 81e-12, rel=0.01)
    assert synop.high == chip("loihi1").energy.synop.range.value
    assert neuron.high == chip("loihi1").energy.neuron_active.range.value


def test_loihi2_times_follow_from_the_ratios_to_loihi1():
    first, second = chip("loihi1").time, chip("loihi2").time
    assert second.synop.range.value == pytest.approx(first.synop.range.value / 5)
    assert second.neuron_active.range.value == pytest.approx(first.neuron_active.range.value / 2)
    assert second.neuron_inactive.range.value == pytest.approx(first.neuron_inactive.range.value / 2)
    assert second.synop.range.low == pytest.approx(140544 / 380e12, rel=0.01)
    assert second.neuron_active.range.low == pytest.approx(140544 / 240e12, rel=0.01)


def test_both_chips_hold_128_kib_of_synapses_a_core_in_whatever_unit_it_is_written():
    assert chip("loihi1").limits.synapse_memory.number == chip("loihi2").limits.synapse_memory.number == 1048576


def test_cmos45_gives_the_papers_multiply_accumulate_and_accumulate():
    energy = cmos45().energy
    assert (energy.fp32_multiply.range + energy.fp32_add.range).value == pytest.approx(4.6e-12)
    assert energy.fp32_add.range.value == pytest.approx(0.9e-12)
    assert {name: leaf.range.value * 1e12 for name, leaf in energy} == pytest.approx(
        {
            "fp32_add": 0.9,
            "fp32_multiply": 3.7,
            "int32_add": 0.1,
            "int32_multiply": 3.1,
            "int8_add": 0.03,
            "int8_multiply": 0.2,
        }
    )


def test_unconfirmed_numbers_stand_only_in_the_estimate(hardware):
    assert hardware.estimate or all(leaf.grade != "U" for _, leaf in leaves(hardware))
