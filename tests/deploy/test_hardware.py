"""A description that breaks a rule does not load, and the error names file, field, value and what to do."""

from __future__ import annotations

import copy
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spikefold.deploy.hardware import MAX_FILE_BYTES, ChipHardware, Range, load_hardware
from spikefold.errors import HardwareConfigError

LOIHI1: dict[str, Any] = yaml.safe_load((resources.files("spikefold.hardware_configs") / "loihi1.yaml").read_text())


@pytest.fixture
def document() -> dict[str, Any]:
    return copy.deepcopy(LOIHI1)


@pytest.fixture
def refused(tmp_path):
    """Write a document (or raw bytes), expect a refusal, return its message."""

    def check(content: object) -> str:
        path = tmp_path / "mine.yaml"
        path.write_bytes(content if isinstance(content, bytes) else yaml.safe_dump(content).encode())
        with pytest.raises(HardwareConfigError) as caught:
            load_hardware(path)
        assert "mine.yaml" in str(caught.value)
        return str(caught.value)

    return check


def test_a_users_own_file_loads_like_a_shipped_one(tmp_path, document):
    document["name"] = "mine"
    document["energy"]["synop"]["value"] = 24
    (tmp_path / "mine.yml").write_text(yaml.safe_dump(document))
    for given_as in (tmp_path / "mine.yml", str(tmp_path / "mine.yml")):
        hardware = load_hardware(given_as)
        assert isinstance(hardware, ChipHardware)
        assert hardware.name == "mine"
        assert hardware.energy.synop.range.value == pytest.approx(24e-12)


def test_units_are_converted_to_si(tmp_path, document):
    document["energy"]["synop"] |= {"value": 0.0236, "low": 0.0236, "high": 0.0355, "unit": "nJ"}
    document["limits"]["synapse_memory"] |= {"value": 128, "low": 128, "high": 128, "unit": "KiB"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))
    mine, shipped = load_hardware(tmp_path / "mine.yaml"), load_hardware("loihi1")
    assert isinstance(mine, ChipHardware)
    assert isinstance(shipped, ChipHardware)
    assert mine.energy.synop.range.high == pytest.approx(shipped.energy.synop.range.high)
    assert mine.limits.synapse_memory.number == shipped.limits.synapse_memory.number


@pytest.mark.parametrize("key", ["value", "unit", "source", "grade", "low", "high"])
def test_a_leaf_without_one_of_its_parts_is_refused(refused, document, key):
    del document["energy"]["synop"][key]
    assert f"energy.synop.{key}: missing; add it" in refused(document)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("source", "", "without a source"),
        ("source", "   ", "without a source"),
        ("unit", "mW", "wrong dimension; write a unit that converts to J"),
        ("unit", "count", "wrong dimension"),
        ("unit", "degC", "wrong dimension"),
        ("unit", "zork", "unknown unit"),
        ("unit", "J**99999", "one unit name"),
        ("grade", "A+", "'P', 'C', 'V'"),
        ("grade", "U", "unconfirmed"),
        ("low", 30.0, "low is above the value 23.6"),
        ("high", 1.0, "high is below the value 23.6"),
        ("value", float("nan"), "finite number"),
        ("high", float("inf"), "finite number"),
        ("low", -1.0, "at least 0"),
        ("value", "1e-12", "write 1.0e-12"),
        ("value", True, "valid number"),
        ("colour", "blue", "remove it or correct its spelling"),
    ],
)
def test_a_bad_part_of_a_leaf_is_refused_with_its_path_and_value(refused, document, key, value, words):
    document["energy"]["synop"][key] = value
    (line,) = [line for line in refused(document).splitlines() if f"energy.synop.{key}: " in line]
    assert words in line
    assert repr(value) in line


@pytest.mark.parametrize(
    ("section", "field", "unit"),
    [
        ("time", "synop", "pJ"),
        ("static", "chip", "J"),
        ("limits", "cores", "bit"),
        ("limits", "synapse_memory", "count"),
    ],
)
def test_each_section_has_its_own_dimension(refused, document, section, field, unit):
    document[section][field]["unit"] = unit
    assert f"{section}.{field}.unit: {unit!r}: wrong dimension" in refused(document)


@pytest.mark.parametrize("cores", [0, 1.5])
def test_a_count_of_none_or_of_a_fraction_is_refused(refused, document, cores):
    document["limits"]["cores"] |= {"value": cores, "low": cores, "high": cores}
    assert "limits.cores.value" in refused(document)


def test_a_missing_field_an_unknown_field_and_a_bare_number_are_refused(refused, document):
    del document["energy"]["synop"]
    document["energy"]["synops"] = 23.6
    document["time"]["barrier"] = 465
    message = refused(document)
    assert "energy.synop: missing" in message
    assert "energy.synops: 23.6: " in message
    assert "time.barrier: 465: " in message
    assert "write a mapping with value, unit" in message


def test_all_violations_of_a_file_are_listed_at_once(refused, document):
    del document["energy"]["synop"]["source"]
    document["energy"]["synop"]["unit"] = "s"
    document["time"]["synop"]["low"] = 99
    document["limits"]["nonsense"] = 1
    message = refused(document)
    assert "4 problem(s)" in message
    for field in ("energy.synop.source", "energy.synop.unit", "time.synop.low", "limits.nonsense"):
        assert field in message


@pytest.mark.parametrize(("family", "words"), [(None, "add 'family: chip'"), ("analog", "write 'family: chip'")])
def test_an_absent_or_unknown_family_is_refused(refused, document, family, words):
    del document["family"]
    if family:
        document["family"] = family
    message = refused(document)
    assert "family: " in message
    assert words in message


@pytest.mark.parametrize(
    "content",
    [
        b"name: [",
        b"\xff\xfe\x00",
        b"[" * 5000,
        b"- 1",
        b"",
        b"!!python/object/apply:os.getcwd []",
        b"name: 2001-99-99",
        b"a: &a [1]\nb: *nothere",
    ],
    ids=["cut short", "not UTF-8", "deep", "a list", "empty", "a Python object", "bad date", "dangling alias"],
)
def test_a_file_that_is_no_plain_yaml_mapping_is_refused(refused, content):
    refused(content)


def test_an_alias_bomb_gives_a_short_message(refused):
    layers = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    layers += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    assert len(refused("\n".join(["family: chip", *layers]).encode())) < 10_000


def test_a_file_above_the_size_limit_is_refused(refused):
    assert f"larger than {MAX_FILE_BYTES} bytes" in refused(b"#" * (MAX_FILE_BYTES + 1))


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(HardwareConfigError, match=r"'loihi3'.*cmos45, loihi1, loihi1-sanafe, loihi2, speck"):
        load_hardware("loihi3")


@pytest.mark.parametrize("path", [Path("/nowhere/chip.yaml"), "nowhere.yaml", "no/where", "..", "nul\0.yaml", "/"])
def test_a_path_without_a_file_is_refused(path):
    with pytest.raises(HardwareConfigError):
        load_hardware(path)


numbers = st.floats(0, 1e6)
ranges = st.lists(numbers, min_size=3, max_size=3).map(lambda ends: Range(*sorted(ends)))


@given(ranges, ranges, numbers)
def test_sums_and_products_of_ranges_keep_their_order(a, b, factor):
    for result in (a + b, a * factor, factor * a, a * b):
        assert result.low <= result.value <= result.high
    assert a + b == b + a
    assert a * factor == factor * a == a * Range.exact(factor)
