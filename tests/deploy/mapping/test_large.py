"""Full-size nets map in seconds, on as many chips as they need."""

import time

import pytest

import spikefold as sf
from large_nets import ms_resnet104, resnet19
from spikefold.deploy.mapping import mapper


@pytest.mark.parametrize(("name", "chips"), [("loihi1", 97), ("loihi2", 2)])
@pytest.mark.slow
def test_resnet19_maps(name: str, chips: int) -> None:
    _map(resnet19(), name, chips)


@pytest.mark.parametrize(("name", "chips"), [("loihi1", 752), ("loihi2", 10)])
@pytest.mark.full
def test_ms_resnet104_maps(name: str, chips: int) -> None:
    _map(ms_resnet104(), name, chips)


def test_a_net_of_too_many_parts_is_refused_before_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = resnet19(width=32, size=16)
    parts = sum(layer.grid.boxes for layer in sf.map_net(graph, "loihi1").layers)
    monkeypatch.setattr(mapper, "MAX_PARTS", parts)
    sf.map_net(graph, "loihi1")
    monkeypatch.setattr(mapper, "MAX_PARTS", parts - 1)
    with pytest.raises(sf.LoweringError, match=f"{parts:,} parts, for about .* run out first"):
        sf.map_net(graph, "loihi1")


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
