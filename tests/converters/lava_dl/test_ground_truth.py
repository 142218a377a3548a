"""Nets and recorded runs that ship with lava-dl's own tests: what we read of them fires as it is recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lava_dl_files import shipped_file
from lava_dl_trips import Difference, ntidigits, pilotnet, recorded, tinynet
from spikefold.converters.lava_dl import load_lava_dl
from spikefold.deploy.run import run


def here(name: str) -> Path:
    try:
        return shipped_file(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def against_recording(make: Callable[[], list[Difference]]) -> list[Difference]:
    try:
        return make()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def assert_equal(found: list[Difference], least: int) -> None:
    for difference in found:
        assert difference.nonzero > least, difference
        assert difference.differing == 0, difference


def test_tinynet_fires_as_recorded() -> None:
    found = against_recording(tinynet)
    assert {d.layer for d in found} == {"input0", "conv1", "conv2"}
    assert_equal(found, 50)


def test_pilotnet_has_the_spikes_currents_and_membranes_that_are_recorded() -> None:
    found = against_recording(pilotnet)
    assert {d.kind for d in found} == {"spikes", "u", "v"}
    assert len({d.layer for d in found}) == 9
    assert_equal(found, 0)


def test_ntidigits_with_axonal_delays_fires_as_recorded_and_averages_its_groups() -> None:
    assert_equal(against_recording(ntidigits), 20_000)
    frames = recorded("gts/ntidigits/input.npy").reshape(-1, 1, 1, 1, 64).astype(int)
    done = run(load_lava_dl(shipped_file("gts/ntidigits/ntidigits.net")), frames, "fast", trace=True)
    assert done.trace is not None
    rates = done.trace.spikes["dense4"][:, 0].mean(0).reshape(11, 22).mean(1)
    assert done.logits[0] == pytest.approx(rates, rel=1e-12)


def test_a_net_of_dense_layers_from_one_row_of_input_neurons_is_read() -> None:
    graph = load_lava_dl(here("mnist.net"))
    assert [n.shape for n in graph.neurons] == [(1, 1, 784), (512,), (512,), (10,)]
    assert not graph.output.fires
