"""Full-size nets map in seconds, on as many chips as they need."""

import time

import pytest

import spikefold as sf
from large_nets import ms_resnet104, resnet19


@pytest.mark.parametrize(("name", "chips"), [("loihi1", 97), ("loihi2", 2)])
@pytest.mark.slow
def test_resnet19_maps(name: str, chips: int) -> None:
    _map(resnet19(), name, chips)


@pytest.mark.parametrize(("name", "chips"), [("loihi1", 752), ("loihi2", 10)])
@pytest.mark.slow
def test_ms_resnet104_maps(name: str, chips: int) -> None:
    _map(ms_resnet104(), name, chips)


def _map(graph: sf.FixedPointGraph, name: str, chips: int) -> None:
    start = time.process_time()
    mapping = sf.map_net(graph, name)
    seconds = time.process_time() - start
    print(f"{graph.name} on {name}: {len(mapping.cores):,} cores, {mapping.chips} chips, {seconds:.1f} s")
    assert not mapping.violations
    assert mapping.chips == chips
    assert sum(core.use.neurons for core in mapping.cores) == sum(n.size for n in graph.neurons)
    for resource, limit in mapping.limits.items():
        assert limit is None or max(getattr(core.use, resource) for core in mapping.cores) <= limit
    assert seconds < 120
