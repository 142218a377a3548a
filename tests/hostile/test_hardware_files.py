"""Hardware descriptions that somebody broke or built: YAML that grows, makes objects, or says nothing of itself."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from hostile import CANARY, refused
from spikefold.deploy.hardware import load_hardware
from spikefold.errors import HardwareConfigError

GOOD = (resources.files("spikefold.hardware_configs") / "loihi1.yaml").read_text()
SYNOP = re.search(r"\n  synop:.*?(?=\n  \w)", GOOD, re.DOTALL)
assert SYNOP is not None


def synop(**fields: str) -> str:
    """The shipped file with fields of the energy of a synaptic operation written otherwise, ``""`` for none."""
    leaf = {"value": "1.0", "unit": "pJ", "source": "a paper", "grade": "P", "low": "0.5", "high": "2.0"} | fields
    lines = "".join(f"\n    {name}: {value}" for name, value in leaf.items() if value)
    return GOOD.replace(SYNOP.group(), f"\n  synop:{lines}", 1)  # type: ignore[union-attr]


def at_top(text: str) -> str:
    return f"{GOOD}\n{text}\n"


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

REFUSED: dict[str, tuple[str, str]] = {
    "a billion laughs": (LAUGHS, "alias *a: aliases are not read"),
    "a billion merges": (MERGES, "alias *a: aliases are not read"),
    "an alias of itself": ("a: &a [*a]", "alias *a: aliases are not read"),
    "a python object": ("!!python/object/apply:os.system ['touch {canary}']", "not readable as YAML"),
    "a python object below": (at_top("x: !!python/object/apply:os.system ['touch {canary}']"), "not readable as YAML"),
    "a python name": (at_top("x: !!python/name:os.system"), "not readable as YAML"),
    "a python module": (at_top("x: !!python/module:os"), "not readable as YAML"),
    "a new object": (at_top("x: !!python/object/new:pathlib.Path ['{canary}']"), "not readable as YAML"),
    "an unknown tag": (at_top("x: !evil y"), "not readable as YAML"),
    "nested without end": ("[" * 20_000, "not readable as YAML"),
    "mappings without end": ("{a: " * 20_000, "not readable as YAML"),
    "two megabytes": ("#" * 2_000_000, "larger than 1000000 bytes"),
    "a key twice": (at_top("name: other"), "name is there twice"),
    "a key in brackets": (at_top("[1, 2]: x"), "net.yaml"),
    "a key in braces": (at_top("{a: b}: x"), "net.yaml"),
    "no encoding": ("name: \xff\xfe".encode("latin-1").decode("latin-1") + "\x00", "not readable as YAML"),
    "control characters": ("name: \x07", "not readable as YAML"),
    "nothing": ("", "the file is empty"),
    "a list": ("[1, 2]", "the top level is a list"),
    "a text": ("hello", "the top level is a str"),
    "a number": ("1", "the top level is a int"),
    "a set": ("!!set {a, b}", "the top level is a set"),
    "two documents": (f"{GOOD}\n---\n{GOOD}", "not readable as YAML"),
    "tabs": ("name:\n\t- x", "not readable as YAML"),
    "no family": (GOOD.replace("family: chip", ""), "family"),
    "an unknown family": (GOOD.replace("family: chip", "family: brain"), "'brain'"),
    "a family of several": (GOOD.replace("family: chip", "family: [chip]"), "family"),
    "a family of numbers": (GOOD.replace("family: chip", "family: 3"), "family"),
    "a field too many": (at_top("extra: 1"), "extra: 1"),
    "a field by number": (at_top("1: 1"), "net.yaml"),
    "no energy": (re.sub(r"\nenergy:\n(  .*\n|\n)+", "\n", GOOD), "energy: missing"),
    "no source": (synop(source=""), "energy.synop.source: missing"),
    "an empty source": (synop(source='"  "'), "energy.synop.source"),
    "no unit": (synop(unit=""), "energy.synop.unit: missing"),
    "no value": (synop(value=""), "energy.synop.value: missing"),
    "no grade": (synop(grade=""), "energy.synop.grade: missing"),
    "no low": (synop(low=""), "energy.synop.low: missing"),
    "another grade": (synop(grade="Z"), "energy.synop.grade: 'Z'"),
    "an assumption in a file of measurements": (synop(grade="U"), "energy.synop.grade: 'U'"),
    "a time for an energy": (synop(unit="ns"), "energy.synop.unit: 'ns'"),
    "a power for an energy": (synop(unit="mW"), "energy.synop.unit: 'mW'"),
    "a count for an energy": (synop(unit="count"), "energy.synop.unit: 'count'"),
    "degrees": (synop(unit="degC"), "energy.synop.unit: 'degC'"),
    "decibels": (synop(unit="dBm"), "energy.synop.unit: 'dBm'"),
    "an unknown unit": (synop(unit="foo"), "energy.synop.unit: 'foo'"),
    "a product of units": (synop(unit='"W*s"'), "energy.synop.unit: 'W*s'"),
    "a power tower": (synop(unit='"pJ**9**9**9**9"'), "energy.synop.unit: 'pJ**9"),
    "code as unit": (synop(unit='"__import__(1)"'), "energy.synop.unit: '__import__(1)'"),
    "a unit of 10,000 letters": (synop(unit="a" * 10_000), "energy.synop.unit: 'aaa"),
    "NaN": (synop(value=".nan"), "energy.synop.value: nan"),
    "infinite": (synop(high=".inf"), "energy.synop.high: inf"),
    "below 0": (synop(value="-1.0", low="-2.0"), "energy.synop.value: -1.0"),
    "text for a number": (synop(value="1e-12"), "energy.synop.value: '1e-12'"),
    "a flag for a number": (synop(value="true"), "energy.synop.value: True"),
    "a date for a number": (synop(value="2020-01-01"), "energy.synop.value"),
    "a list for a number": (synop(value="[1]"), "energy.synop.value"),
    "a number of 5,000 digits": (synop(value="9" * 5000), "net.yaml"),
    "a number of 400 digits": (synop(high="9" * 400), "energy.synop.high"),
    "a number that its unit makes infinite": (synop(value="1.0e+308", high="1.0e+308", unit="YJ"), "energy.synop"),
    "low above the value": (synop(low="1.5"), "energy.synop.low: 1.5"),
    "high below the value": (synop(high="0.7"), "energy.synop.high: 0.7"),
    "a number alone": (GOOD.replace(SYNOP.group(), "\n  synop: 1.0", 1), "energy.synop: 1.0"),
    "no number": (GOOD.replace(SYNOP.group(), "\n  synop: null", 1), "energy.synop: None"),
    "a number without end": (GOOD.replace(SYNOP.group(), "\n  synop: " + "[" * 300 + "]" * 300, 1), "energy.synop"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_description_is_refused(name: str, tmp_path: Path) -> None:
    content, said = REFUSED[name]
    path = tmp_path / "net.yaml"
    path.write_text(content.replace("{canary}", str(tmp_path / CANARY)), encoding="utf-8")
    refused(tmp_path, lambda: load_hardware(path), "net.yaml", said)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    for content in (b"\xff\xfe\x00", b"name: \xff", b"\x00" * 100, b"\x89HDF\r\n\x1a\n"):
        path = tmp_path / "net.yaml"
        path.write_bytes(content)
        refused(tmp_path, lambda p=path: load_hardware(p), "net.yaml", "not readable as YAML")


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "loihi9",
        "../loihi1",
        "/dev/zero",
        "/etc",
        "a\0b.yaml",
        "x.yaml",
        "~",
        "*",
        "loihi1/../../secret.yaml",
        "x" * 5000 + ".yaml",
        "loihi1\n",
        "http://a/b.yaml",
    ],
)
def test_a_name_that_is_no_hardware_is_refused(name: str, tmp_path: Path) -> None:
    refused(tmp_path, lambda: load_hardware(name))


def test_the_description_that_was_broken_was_good(tmp_path: Path) -> None:
    for content in (GOOD, synop()):
        (tmp_path / "net.yaml").write_text(content)
        load_hardware(tmp_path / "net.yaml")


def test_the_errors_are_of_hardware(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text("a: &a [*a]")
    with pytest.raises(HardwareConfigError, match=r"line 1, column 8"):
        load_hardware(tmp_path / "net.yaml")
