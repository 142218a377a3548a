"""Readers under changes that nobody thought of: each takes or refuses the input; finds of `fuzz.py` are kept here."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz_targets import TARGETS, accepts_or_refuses

EXAMPLES = {"hardware": 20, "integers": 60}
FINDS = [
    ("foreign", "0ad6d6d69191919191d6"),
    ("foreign", "4a7e929f5bef85f6ca93bab1b028930cf93af6c89ec5cfb9deada27ec52dba69f502e1d65a1afbfb"),
    ("foreign", "2d0a7cb0e2e187091860de2a7914c6b1dd09588b659a43cbbe4ee360f9c85d5c316fb58bafbffb20"),
    ("foreign", "ce63641760014b0731206c7a009b5bb8b8f662eaf0ad44b53014ce5f64c6d658c3c700186609c74c"),
]
"""Target and data; finds that can be said in words stand in the corpus beside this file."""


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_but_a_refusal_comes_out(target: str) -> None:
    @settings(
        max_examples=EXAMPLES.get(target, 80), derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.binary(max_size=60))
    def check(data: bytes) -> None:
        accepts_or_refuses(target, data)

    check()


@pytest.mark.parametrize(("target", "data"), FINDS)
def test_what_fuzzing_found_stays_mended(target: str, data: str) -> None:
    accepts_or_refuses(target, bytes.fromhex(data))
