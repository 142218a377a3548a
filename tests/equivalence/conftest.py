from __future__ import annotations

import pytest

from spikefold.deploy.lava.interpreter import explain_missing, lava_python


@pytest.fixture(autouse=True)
def _lava_or_skip(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("lava") is not None and lava_python() is None:
        pytest.skip(explain_missing())
