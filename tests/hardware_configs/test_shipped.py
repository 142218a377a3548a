"""The shipped descriptions themselves: complete, ordered, labelled, and true to their own derivations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from spikefold.deploy.hardware import ChipHardware, Hardware, Leaf, OperationsHardware, load_hardware, shipped_hardware


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


def test_the_three_descriptions_ship():
    assert shipped_hardware() == ("cmos45", "loihi1", "loihi2")


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
        "loihi2": True,
    }
    assert "estimate" in load_hardware("loihi2").title


def test_loihi1_nominal_values_are_those_of_davies_2018_table_2():
    energy, time = chip("loihi1").energy, chip("loihi1").time
    picojoules = {name: leaf.range.value * 1e12 for name, leaf in energy}
    assert picojoules == pytest.approx(
        {
            "synop": 23.6,
            "neuron_active": 81,
            "neuron_inactive": 52,
            "spike_within_tile": 1.7,
            "hop_east_west": 3.0,
            "hop_north_south": 4.0,
        }
    )
    nanoseconds = {name: leaf.range.value * 1e9 for name, leaf in time}
    assert nanoseconds == pytest.approx({"synop": 3.5, "neuron_active": 8.4, "neuron_inactive": 5.3, "barrier": 465})


def test_loihi1_high_end_is_the_fit_to_silicon():
    energy = chip("loihi1").energy
    assert energy.synop.range.high == pytest.approx(35.5e-12)
    assert energy.neuron_active.range.high == pytest.approx((51.2 + 21.6 + 69.3) * 1e-12)
    assert energy.neuron_inactive.range.high == pytest.approx((51.2 + 21.6) * 1e-12)


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


def test_unconfirmed_numbers_stand_only_in_the_estimate(hardware):
    assert hardware.estimate or all(leaf.grade != "U" for _, leaf in leaves(hardware))
