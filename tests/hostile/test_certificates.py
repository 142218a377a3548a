"""Certificates that somebody broke or built."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostile import refused
from spikefold.deploy.certificate import Agreement, Certificate, read_certificate

SHA = "0123456789abcdef" * 4
GOOD = Certificate(
    "net", "static", SHA, "clips", SHA, 3, 5, SHA, (Agreement("torch", 3, 9, 0, 0),), "0.1.0", {"numpy": "2"}
).to_dict()


def fields(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


def agreement(**changes: Any) -> bytes:
    return fields(agreements=[GOOD["agreements"][0] | changes])


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "cannot be read as JSON"),
    "noise": (b"\xff\xfe\x00\x01", "cannot be read as JSON"),
    "cut": (fields()[:-20], "cannot be read as JSON"),
    "nested without end": (b"[" * 200_000, "cannot be read as JSON"),
    "two megabytes": (fields() + b" " * 2_000_000, "larger than 1000000 bytes"),
    "a number of 10,000 digits": (b'{"spikefold_certificate": ' + b"9" * 10_000 + b"}", "cannot be read as JSON"),
    "a list": (b"[]", "spikefold_certificate is None"),
    "null": (b"null", "spikefold_certificate is None"),
    "newer": (fields(spikefold_certificate=2), "spikefold_certificate is 2"),
    "a long version": (fields(spikefold_certificate="x" * 10**5), "spikefold_certificate is 'xxx"),
    "no version": (fields(spikefold_certificate=None), "spikefold_certificate is None"),
    "no net": (fields(net=None), "net is None"),
    "a net by number": (fields(net=1), "net is 1"),
    "samples in words": (fields(samples="three"), "samples is 'three'"),
    "samples as flag": (fields(samples=True), "samples is True"),
    "no samples": (fields(samples=0), "samples is 0"),
    "samples below 0": (fields(samples=-1), "samples is -1"),
    "samples without end": (fields(samples=10**18), "samples is 1000000000000000000"),
    "half a step": (fields(time_steps=0.5), "time_steps is 0.5"),
    "steps without end": (fields(time_steps=10**18), "time_steps is 1000000000000000000"),
    "NaN steps": (fields(time_steps=float("nan")), "time_steps is nan"),
    "a short hash": (fields(net_sha256="abc"), "net_sha256 is 'abc'"),
    "a hash of other letters": (fields(clips_sha256="z" * 64), "clips_sha256 is 'zzz"),
    "a hash of a megabyte": (fields(trace_sha256="a" * 900_000), "trace_sha256 is 'aaa"),
    "a hash by number": (fields(trace_sha256=7), "trace_sha256 is 7"),
    "versions as list": (fields(versions=[]), "versions is []"),
    "agreements missing": (fields(agreements=None), "agreements are damaged"),
    "agreements as text": (fields(agreements="x"), "agreements are damaged"),
    "agreements as numbers": (fields(agreements=[1]), "agreements are damaged"),
    "an agreement with a field too many": (agreement(evil=1), "agreements are damaged"),
    "an agreement in words": (agreement(samples="all"), "agreements are damaged"),
    "an agreement below 0": (agreement(spike_differences=-1), "agreements are damaged"),
    "an agreement of a list": (agreement(backend=["torch"]), "agreements are damaged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_certificate_is_refused(name: str, tmp_path: Path) -> None:
    content, said = REFUSED[name]
    path = tmp_path / "certificate.json"
    path.write_bytes(content)
    refused(tmp_path, lambda: read_certificate(path), "certificate.json", said)


@pytest.mark.parametrize("path", ["", ".", "none.json", "a\0b", "x" * 5000])
def test_a_path_that_is_no_certificate_is_refused(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, lambda: read_certificate(path), "cannot be read as JSON")


@pytest.mark.parametrize("change", [lambda g: g])
def test_the_certificate_that_was_broken_was_good(change: Callable[[Any], Any], tmp_path: Path) -> None:
    (tmp_path / "certificate.json").write_bytes(fields())
    assert read_certificate(tmp_path / "certificate.json").to_dict() == change(
        GOOD | {"agreements": (GOOD["agreements"][0],)}
    )
