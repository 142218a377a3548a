"""lava-dl's netx runs what we write and we run what it reads: 0 differing spikes, currents and membranes.

In netx a layer handles a frame one step after the layer before it, and its biases are at work from the first step on;
netx's own reset, one step later from layer to layer, starts each when its first frame comes. `netx_job` cuts the
recordings there, and `lava_dl_trips` has the nets.
"""

from __future__ import annotations

import pytest

from lava_dl_trips import Difference, against_netx, has_lava_dl, slayer
from spikefold.deploy.lava.interpreter import explain_missing

pytestmark = [
    pytest.mark.lava,
    pytest.mark.skipif(not has_lava_dl(), reason=f"lava-dl is not here: see `make env`; {explain_missing()}"),
]


def assert_equal(found: list[Difference], *silent: str) -> None:
    """Nothing differs, and every layer but the ``silent`` ones fired."""
    for difference in found:
        assert difference.differing == 0, difference
        assert difference.nonzero or difference.kind != "spikes" or difference.layer in silent, difference


def test_netx_runs_written_chains() -> None:
    found = against_netx("written")
    assert {d.kind for d in found["ours, graded"]} == {"spikes", "u", "v"}
    assert_equal(found["ours, chain"])
    assert_equal(found["ours, graded"])
    assert_equal(found["ours, loop"], "last")


def test_files_in_lava_dls_layout_do_here_what_they_do_in_netx() -> None:
    found = against_netx("read")
    assert_equal(found["weights"])
    assert_equal(found["delays"], "dense4")
    assert_equal(found["images"], "dense3")


def test_what_slayer_exports_fires_here_as_it_does_there() -> None:
    found = slayer()
    assert all(difference.nonzero > 20 for difference in found)
    assert_equal(found)
