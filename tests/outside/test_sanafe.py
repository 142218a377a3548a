"""SANA-FE, an independent simulator, runs a trained net as we do and finds the costs that we count.

The net is the shipped `plain`, trained, calibrated and quantised, cut to four channels and a corner of its input.
SANA-FE knows nothing of samples: all its layers start at once, and each hears what the one before sent a step ago
(`free_run`). It is exact where a current has no memory (du = 4095) and nothing wraps or clips, which is checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from chips import chip_with
from on_sanafe import Place, Places, build, cut, edges, free_run
from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.lower import lower
from spikefold.converters.reference import Trace
from spikefold.deploy.activity import Activity
from spikefold.deploy.count import counts_from_trace
from spikefold.deploy.hardware import ChipHardware, load_hardware
from spikefold.deploy.mapping.layout import Mapping
from spikefold.deploy.mapping.mapper import map_net
from spikefold.deploy.price import Price, PriceLine, price
from spikefold.deploy.quantity import Leaf
from spikefold.deploy.run import Run, run
from spikefold.deploy.sanafe_export import sanafe_architecture
from spikefold.deploy.sources import find_data, find_net

pytestmark = pytest.mark.outside("sanafe")

CHANNELS, SIZE = 4, 16
CHIPS = ("loihi1", "loihi1-sanafe")
NEURONS_PER_CORE = 60
"""Few, so that the net lies on many cores and tiles."""
INPUT_SPOTS = [Place(column, row, core) for column in (6, 7) for row in range(4) for core in range(4)]
"""Where SANA-FE's input lies, which our mapping leaves open: on cores of its own, far away."""


@dataclass(frozen=True)
class Ran:
    """One clip, here and there."""

    graph: FixedPointGraph
    clip: NDArray[np.int64]
    places: Places
    chip: ChipHardware
    mapping: Mapping
    trace: Trace
    outside: dict[str, Any]
    """With the timing model `simple`."""
    detailed: float
    """Seconds by the timing model `detailed`."""

    @property
    def sent(self) -> dict[str, NDArray[np.int64]]:
        """Spikes ``[T, neurons]`` of each population and the input."""
        return {
            name: s.reshape(len(s), -1) for name, s in {self.graph.input.name: self.clip, **self.trace.spikes}.items()
        }

    @property
    def run(self) -> Run:
        """The free run, with all of its steps as the clip."""
        counts, synops = counts_from_trace(self.graph, self.clip, self.trace)
        sent = {self.graph.input.name: self.clip, **self.trace.spikes}
        return Run(
            self.graph, "reference", len(self.clip), self.trace.logits, np.array([self.clip.sum()]), counts, synops,
            {name: np.asarray(s.sum(axis=1)) for name, s in sent.items()}, self.trace, 0.0,
        )  # fmt: skip

    @property
    def activity(self) -> Activity:
        return self.run.activity

    @property
    def price(self) -> Price:
        return price(self.run, self.chip, self.mapping)


@pytest.fixture(scope="module")
def trained() -> tuple[FixedPointGraph, NDArray[np.int64]]:
    clips = find_data("saccade-mnist", "train", 8, None).clips()
    named = find_net("plain", None, None)
    graph = lower(capture(named.module, torch.from_numpy(clips[:, :1])), clips, name=named.name)
    corner = clips[:, :1, :, 8 : 8 + SIZE, 8 : 8 + SIZE].astype(np.int64)
    return cut(graph, CHANNELS, SIZE), corner


@pytest.fixture(scope="module", params=[(chip, biases) for chip in CHIPS for biases in (True, False)], ids=str)
def ran(
    request: pytest.FixtureRequest,
    trained: tuple[FixedPointGraph, NDArray[np.int64]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Ran:
    import sanafe

    name, biases = request.param
    graph, corner = trained
    if not biases:  # then some neurons rest, which is what tells SANA-FE's updated from its other neurons
        graph = replace(graph, neurons=tuple(replace(n, bias_mantissa=n.bias_mantissa * 0) for n in graph.neurons))
    clip = np.concatenate([corner, np.zeros((len(graph.neurons), *corner.shape[1:]), np.int64)])
    chip = chip_with(name, neurons_per_core=NEURONS_PER_CORE)
    mapping = map_net(graph, chip)
    inputs = clip[0].size
    places = {graph.input.name: [INPUT_SPOTS[i * len(INPUT_SPOTS) // inputs] for i in range(inputs)]}
    places |= places_on(mapping)
    file = tmp_path_factory.mktemp(name) / "chip.yaml"
    file.write_text(sanafe_architecture(chip, inputs_per_core=-(-inputs // len(INPUT_SPOTS))))
    made = build(sanafe, graph, clip, places, chip, str(file))
    outside = made.sim(len(clip), timing_model="simple", spike_trace=True, potential_trace=True, perf_trace=True)
    detailed = build(sanafe, graph, clip, places, chip, str(file)).sim(len(clip), timing_model="detailed")["sim_time"]
    return Ran(graph, clip, places, chip, mapping, free_run(graph, clip), outside, detailed)


def places_on(mapping: Mapping) -> Places:
    """The cores of a mapping as places, neuron by neuron in C order."""
    taken: Counter[tuple[int, int]] = Counter()
    spots = []
    for core in mapping.cores:
        spots.append(Place(*core.tile, taken[core.tile]))
        taken[core.tile] += 1
    found = {}
    for layer in mapping.layers:
        home = np.zeros(layer.grid.shape, np.int64)
        for core in mapping.cores:
            for part in (p for p in core.parts if p.population == layer.name):
                home[tuple(slice(a, b) for a, b in zip(part.start, part.stop, strict=True))] = core.number
        found[layer.name] = [spots[i] for i in home.ravel()]
    assert mapping.chips == 1
    assert len(taken) > mapping.mesh[1], "the net must lie on more than one column of tiles"
    assert not set(INPUT_SPOTS) & set(spots)
    return found


def value(leaf: Leaf | None) -> float:
    return 0.0 if leaf is None else leaf.range.value


def distances(
    ran: Ran, name: str, neuron_spikes: NDArray[np.int64]
) -> Iterable[tuple[NDArray[np.int64], Place, Place, int]]:
    """For each neuron of ``name`` and each core it reaches: its spikes, its core, that core, its synapses there."""
    reached: list[dict[Place, int]] = [{} for _ in ran.places[name]]
    for synapse in (s for s in ran.graph.synapses if s.source == name):
        sources, targets, _ = edges(ran.graph, synapse)
        for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
            place = ran.places[synapse.target][target]
            reached[source][place] = reached[source].get(place, 0) + 1
    for i, cores in enumerate(reached):
        for place, synapses in cores.items():
            yield neuron_spikes[i], ran.places[name][i], place, synapses


def line(ran: Ran, start: str) -> PriceLine:
    (found,) = [line for line in ran.price.lines if line.component.startswith(start)]
    return found


def show(ran: Ran, component: str, ours: float) -> float:
    """Energy [J] that SANA-FE gives a component, printed beside ours."""
    theirs: float = ran.outside["energy"][component]
    biases = "biases" if any(n.bias_mantissa.any() for n in ran.graph.neurons) else "no biases"
    print(f"\n{ran.chip.name}, {biases}: {component} {theirs * 1e9:.4f} nJ, ours {ours / theirs - 1:+.1e}")
    return theirs


def test_every_spike_and_every_membrane_value_is_the_same(ran: Ran) -> None:
    potentials = np.asarray(ran.outside["potential_trace"]) * 64
    first = 0
    for n in ran.graph.neurons:
        theirs = np.zeros((len(ran.clip), n.size), np.int64)
        for t, step in enumerate(ran.outside["spike_trace"]):
            theirs[t, [s.neuron_offset for s in step if s.group_name == n.name]] = 1
        ours = ran.sent[n.name]
        assert np.array_equal(theirs, ours), n.name
        membranes = ran.trace.membranes[n.name].reshape(len(ran.clip), -1)
        assert np.array_equal(potentials[:, first : first + n.size], membranes), n.name
        assert n.is_readout or 0.02 < ours.mean() < 0.9, "the comparison must see spikes and silence"
        assert np.abs(membranes).max() < 2**23 - 1, "SANA-FE neither wraps nor clips"
        first += n.size


def test_synaptic_operations_cost_the_same(ran: Ran) -> None:
    synops = line(ran, "synaptic operations")
    assert ran.outside["spikes"] == synops.count, "SANA-FE calls synaptic operations spikes"
    assert show(ran, "synapse", synops.energy.value) == pytest.approx(synops.energy.value, rel=1e-3)
    assert ran.outside["energy"]["dendrite"] == 0.0, "no source tells it apart"


def updated(ran: Ran) -> dict[str, NDArray[np.bool_]]:
    """Which updates ``[T, neurons]`` SANA-FE calls such: of a membrane other than 0, or with an input or a bias."""
    found = {}
    for n in ran.graph.neurons:
        membranes = ran.trace.membranes[n.name].reshape(len(ran.clip), -1)
        before = np.concatenate([np.zeros_like(membranes[:1]), membranes[:-1]])
        changed = (before != 0) | (np.broadcast_to(n.bias, n.shape).ravel() != 0)
        for synapse in ran.graph.incoming(n.name):
            sources, targets, _ = edges(ran.graph, synapse)
            for t in range(1, len(ran.clip)):
                changed[t, targets[ran.sent[synapse.source][t - 1, sources] != 0]] = True
        found[n.name] = changed
    return found


def test_neurons_cost_the_same_where_active_means_updated(ran: Ran) -> None:
    energy, counted = ran.chip.energy, ran.activity
    active = sum(int(changed.sum()) for changed in updated(ran).values())
    assert ran.outside["neurons_updated"] - ran.clip.sum() == active, "SANA-FE counts inputs that spike as updated"
    assert ran.outside["neurons_fired"] - ran.clip.sum() == counted.spikes
    ours = (
        value(energy.neuron_inactive) * (counted.updates - active)
        + value(energy.neuron_active) * active
        + value(energy.spike_out) * counted.spikes
    )
    assert show(ran, "soma", ours) == pytest.approx(ours, rel=1e-3)
    lines = [line.energy for line in ran.price.lines if line.component.startswith("neuron updates")]
    assert len(lines) == 2
    assert sum(e.low for e in lines) <= ran.outside["energy"]["soma"] <= sum(e.high for e in lines) * (1 + 1e-9)


def test_without_biases_some_neurons_rest(ran: Ran) -> None:
    resting = sum(int((~changed).sum()) for changed in updated(ran).values())
    biased = any(n.bias_mantissa.any() for n in ran.graph.neurons)
    assert (resting == 0) == biased


def test_messages_and_hops_cost_the_same(ran: Ran) -> None:
    energy = ran.chip.energy
    messages, columns, rows = (line(ran, start) for start in ("spike messages", "hops east", "hops north"))
    outside_columns, outside_rows = 0, 0  # of the input, whose way our mapping leaves open
    for count, here, there, _ in distances(ran, ran.graph.input.name, ran.sent[ran.graph.input.name].sum(0)):
        outside_columns += count * abs(here.column - there.column)
        outside_rows += count * abs(here.row - there.row)
    assert ran.outside["packets_sent"] == messages.count
    hops = columns.count + rows.count
    assert sum(ran.outside["perf_trace"]["hops"]) == hops + outside_columns + outside_rows
    assert columns.count > 0
    assert rows.count > 0
    ways = value(energy.hop_east_west) * outside_columns + value(energy.hop_north_south) * outside_rows
    ours = messages.energy.value + columns.energy.value + rows.energy.value + float(ways)
    assert show(ran, "network", ours) == pytest.approx(ours, rel=1e-3)


def core_times(ran: Ran, changed: dict[str, NDArray[np.bool_]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds ``[cores, T]``: at neurons and messages out, and at messages in and their synaptic operations.

    ``changed`` says which updates are active ones.
    """
    time = ran.chip.time
    places = sorted({place for spots in ran.places.values() for place in spots}, key=lambda p: p.index(ran.chip))
    number = {place: i for i, place in enumerate(places)}
    sending, receiving = np.zeros((2, len(places), len(ran.clip)))
    for name, spikes in ran.sent.items():
        for i, place in enumerate(ran.places[name]):
            if name != ran.graph.input.name:
                active = np.where(changed[name][:, i], value(time.neuron_active), value(time.neuron_inactive))
                sending[number[place]] += active + value(time.spike_out) * spikes[:, i]
        for count, here, there, synapses in distances(ran, name, spikes.T):
            sending[number[here]] += value(time.spike_within_tile) * count
            receiving[number[there]] += (value(time.message_in) + value(time.synop) * synapses) * count
    return sending, receiving


def longest_ways(ran: Ran) -> NDArray[np.float64]:
    """Seconds ``[T]`` of the longest way from any core that sends in a step; our mapping leaves the input's open."""
    farthest: dict[tuple[str, Place], float] = {}
    found = np.zeros(len(ran.clip))
    column, row = value(ran.chip.time.hop_east_west), value(ran.chip.time.hop_north_south)
    for name in (n.name for n in ran.graph.neurons):
        for _, here, there, _ in distances(ran, name, ran.sent[name].T):
            way = column * abs(here.column - there.column) + row * abs(here.row - there.row)
            farthest[name, here] = max(way, farthest.get((name, here), 0.0))
        for i, here in enumerate(ran.places[name]):
            np.maximum(found, (ran.sent[name][:, i] != 0) * farthest.get((name, here), 0.0), out=found)
    return found


@pytest.mark.parametrize("ran", [(chip, False) for chip in CHIPS], ids=str, indirect=True)
def test_latency_differs_by_what_overlaps(ran: Ran) -> None:
    """Our time adds up, on the busiest core of each step, what SANA-FE's `simple` model lets overlap, and the hops.

    Its step is the barrier and the longest that any core takes either for (neurons, messages out) or for (messages in,
    synapses): with that, its time is met exactly, so nothing else is in it, and hops take none. Ours is the sum of both
    on one core and the longest way of a message, the low end the longer of both, at low times; an update is active
    where it fires. Its `detailed` model, where messages queue and hops take time, lies between its simple one and ours.
    Without biases the free run is our run, each layer one step after the one before.
    """
    done = run(ran.graph, ran.clip[: -len(ran.graph.neurons)], "reference", trace=True)
    assert done.trace is not None
    for delay, n in enumerate(ran.graph.neurons, start=1):
        assert np.array_equal(ran.trace.spikes[n.name][delay:][: done.time_steps], done.trace.spikes[n.name]), n.name
    priced = price(done, ran.chip, ran.mapping)
    assert priced.steps == len(ran.clip)
    sending, receiving = core_times(ran, updated(ran))
    tiles = len({(p.column, p.row) for name, spots in ran.places.items() for p in spots})
    barriers = [value(barrier_of(ran.chip, used)) for used in (tiles, len({c.tile for c in ran.mapping.cores}))]
    theirs, detailed, ours = ran.outside["sim_time"], ran.detailed, priced.latency
    assert ours is not None
    assert (np.maximum(sending, receiving).max(axis=0) + barriers[0]).sum() == pytest.approx(theirs, rel=1e-6)
    sending, receiving = core_times(ran, {name: spikes != 0 for name, spikes in ran.sent.items()})
    ways = longest_ways(ran)
    assert ways.sum() > 0
    assert ours.value == pytest.approx(((sending + receiving).max(axis=0) + ways + barriers[1]).sum(), rel=1e-6)
    us = [1e6 * seconds for seconds in (theirs, detailed, ours.value, ours.low, ours.high, ways.sum())]
    print("\n{}: simple model {:.2f} us, detailed {:.2f}, ours {:.2f} ({:.2f} to {:.2f}), of which hops {:.2f}".format(
        ran.chip.name, *us
    ))  # fmt: skip
    assert ours.low <= theirs < detailed < ours.value <= 2 * theirs


def barrier_of(chip: ChipHardware, tiles: int) -> Leaf:
    """Barrier of so many used tiles; the input's are among SANA-FE's."""
    if chip.time.barrier_steps is None:
        return chip.time.barrier
    reached = [step for step in chip.time.barrier_steps if step.tiles.number <= tiles]
    return max(reached, key=lambda step: step.tiles.number).barrier


def test_the_architecture_is_plain_text_that_any_chip_file_gives(tmp_path: Path) -> None:
    import sanafe

    for name in (*CHIPS, "loihi2"):
        chip = load_hardware(name)
        assert isinstance(chip, ChipHardware)
        (tmp_path / f"{name}.yaml").write_text(sanafe_architecture(chip, inputs_per_core=2))
        cores = sanafe.load_arch(str(tmp_path / f"{name}.yaml")).cores()
        assert len(cores) == chip.limits.cores.number
