"""Checks against other people's programs; `make env` installs them, a plain user need not have them."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest

NO_DEPS = "(its requirements are for data sets and drawing)"
HOW = {
    "sanafe": "pip install 'spikefold[outside]'",
    "neurobench": f"pip install --no-deps neurobench snntorch {NO_DEPS}",
    "snntorch": f"pip install --no-deps snntorch==1.0.0 {NO_DEPS}",
    "spikingjelly": f"pip install --no-deps spikingjelly==2.0.0 {NO_DEPS}",
    "norse": f"pip install --no-deps norse==1.1.0 {NO_DEPS}",
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out, and say so, what needs a program that is not there."""
    for mark in item.iter_markers("outside"):
        (program,) = mark.args
        if find_spec(program) is None:
            pytest.skip(f"{program} is not installed: {HOW.get(program, 'see `make env`')}")


@pytest.fixture(autouse=True)
def _modules_are_found_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """A net named as module:builder adds the working directory to what can be imported, until the program ends."""
    monkeypatch.setattr(sys, "path", list(sys.path))
