"""Checks against other people's programs; `make env` installs them, a plain user need not have them."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

HOW = {
    "sanafe": "pip install 'spikefold[outside]'",
    "neurobench": "pip install --no-deps neurobench snntorch (its requirements are for its data sets)",
    "snntorch": "make env, which installs it --no-deps",
    "spikingjelly": "make env, which installs it --no-deps",
    "norse": "make env, which installs it --no-deps",
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out, and say so, what needs a program that is not there."""
    for mark in item.iter_markers("outside"):
        (program,) = mark.args
        if find_spec(program) is None:
            pytest.skip(f"{program} is not installed: {HOW[program]}")
