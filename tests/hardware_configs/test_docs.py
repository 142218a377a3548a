"""The example of docs/hardware_files.md loads as it is printed, and is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from spikefold.deploy.activity import Activity, LayerActivity, SynapseActivity
from spikefold.deploy.hardware import ChipHardware, load_hardware
from spikefold.deploy.hardware_list import walk
from spikefold.deploy.price import price
from spikefold.errors import HardwareConfigError

PAGE = (Path(__file__).parents[2] / "docs" / "hardware_files.md").read_text()


@pytest.fixture
def example(tmp_path: Path) -> Path:
    (text,) = re.findall(r"```yaml\n(# mychip\.yaml\n.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "mychip.yaml").write_text(text)
    return tmp_path / "mychip.yaml"


def chip(path: Path) -> ChipHardware:
    hardware = load_hardware(path)
    assert isinstance(hardware, ChipHardware)
    return hardware


def test_the_example_loads_and_its_units_are_read(example: Path) -> None:
    mine = chip(example)
    assert mine.name == "mychip"
    assert mine.limits.synapse_memory.number == 256 * 1024 * 8
    assert mine.energy.neuron_active.range.value == pytest.approx(12e-12)
    assert mine.time.barrier_steps is not None
    assert [step.tiles.number for step in mine.time.barrier_steps] == [1, 5]


def test_the_example_prices_a_net_by_path(example: Path) -> None:
    layer = LayerActivity("out", neurons=10, spikes=5.0, updates=100.0)
    synapse = SynapseActivity("input", "out", "dense", 200, 200, 60.0, 20, 200.0, 0.03)
    priced = price(Activity("net", "none", 1, 10, 20, 6.0, (layer,), (synapse,)), chip(example))
    assert priced.hardware == "mychip"
    assert priced.dynamic.value == pytest.approx((60 * 4.1 + 5 * 12 + 95 * 6) * 1e-12)


def test_the_page_explains_every_field_of_a_chip(example: Path) -> None:
    prose = PAGE.partition("## A complete example")[0]
    fields = {part for path, _ in walk(chip(example)) for part in path.split(".") if not part.isdigit()}
    named = set(re.findall(r"`(\w+)`|\*\*(\w+)\*\*", prose))
    assert fields - {name for pair in named for name in pair} == {"tiles"}, "a step of barrier_steps is said in words"


def test_every_leaf_of_the_example_is_needed(example: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(example.read_text())
    for section in ("limits", "mesh", "storage", "energy", "time", "static"):
        for field in document[section]:
            without = {**document, section: {k: v for k, v in document[section].items() if k != field}}
            (tmp_path / "less.yaml").write_text(yaml.safe_dump(without))
            with pytest.raises(HardwareConfigError, match=rf"{section}\.{field}: missing"):
                load_hardware(tmp_path / "less.yaml")
