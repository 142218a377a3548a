"""A run on cores, priced: every message, hop and core followed neuron by neuron."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

import spikefold as sf
from chips import chip_with, with_mesh
from generated_graphs import any_graph, random_clips, random_graph
from large_nets import neurons
from neuron_by_neuron import neurons_of, reach, synapses_of
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Synapse
from spikefold.deploy.count import payload_bits
from spikefold.deploy.hardware import ChipHardware, load_hardware
from spikefold.deploy.mapping.layout import Core, Mapping
from spikefold.deploy.mapping.work import core_work
from spikefold.deploy.pipeline import pipeline
from spikefold.deploy.price import Price, PriceLine, price
from spikefold.deploy.run import Run, run
from spikefold.errors import HardwareConfigError, InputError

TINY = with_mesh(chip_with(neurons_per_core=5, out_axons=200), cores=6, columns=2, rows=2, cores_per_tile=2)
NETS: dict[str, Callable[[], FixedPointGraph]] = {
    "residual": lambda: random_graph(1, residual=True, depthwise=True, relays=True),
    "gated": lambda: random_graph(2, residual=True, gated=True),
    "graded input": lambda: random_graph(4, graded_input=True),
    **{f"any{seed}": partial(any_graph, seed, 3) for seed in range(1, 4)},
}


def line(priced: Price, start: str) -> PriceLine:
    (found,) = [item for item in priced.lines if item.component.startswith(start)]
    return found


def ran(graph: FixedPointGraph, clips: np.ndarray[Any, Any] | None = None) -> Run:
    steps = graph.time_steps or 5
    return run(graph, random_clips(graph, 0, time_steps=steps) if clips is None else clips, trace=True)


def chip(name: str) -> ChipHardware:
    found = load_hardware(name)
    assert isinstance(found, ChipHardware)
    return found


class Followed:
    """Events of a run on cores, counted one synapse at a time."""

    def __init__(self, done: Run, on: ChipHardware) -> None:
        graph, mapping = done.graph, sf.map_net(done.graph, on)
        stages = {s.name: s for s in pipeline(graph, done.time_steps)}
        delays = {graph.input.name: 0, **{name: s.delay for name, s in stages.items()}}
        self.steps = done.time_steps + max(delays.values())
        home = {(p.population, n): c for c in mapping.cores for p in c.parts for n in neurons_of(p)}
        core_of = {p: c for c in mapping.cores for p in c.parts}
        self.messages: Counter[str] = Counter()
        self.hops: Counter[str] = Counter()
        self.borders = self.waited = 0.0
        kinds = ("fired", "out", "in", "synops")
        self.work = {kind: np.zeros((self.steps, len(mapping.cores))) for kind in kinds}
        self.ways: set[tuple[int, int, int]] = set()  # step, hops east or west, hops north or south
        self.held = np.zeros(len(mapping.cores))
        for core in home.values():
            self.held[core.number] += 1
        synapses: Counter[tuple[str, Any, Any]] = Counter()
        for (population, neuron), core in home.items():
            for s in graph.incoming(population):
                for source, _ in synapses_of(graph, s, neuron):
                    synapses[s.name, source, core.number] += 1
        waits = {name: wait for s in stages.values() for name, wait in s.waits.items()}
        reached = reach(graph, mapping)
        leaving: defaultdict[tuple[str, int], set[tuple[int, int]]] = defaultdict(set)
        for (source, neuron), parts in reached.items():
            if (source, neuron) in home:
                here = home[source, neuron]
                leaving[source, here.number] |= {hops(mapping, here, core_of[part])[:2] for _, part in parts}
        word = on.limits.payload_word
        bits = {s.name: payload_bits(graph, s.source) for s in graph.synapses}
        words = {name: math.ceil(n / word.number) if n and word else 1 for name, n in bits.items()}
        samples = len(done.logits)
        for source, sent in done.sent.items():
            for step, *at in np.argwhere(sent).tolist():
                neuron, now = tuple(at), step + delays[source]
                times = sent[(step, *at)] / samples
                here = home.get((source, neuron))
                if here is not None:
                    self.work["fired"][now, here.number] += times
                    self.ways |= {(now, *way) for way in leaving[source, here.number]}
                for name, part in reached[source, neuron]:
                    there = core_of[part]
                    self.messages[name] += times
                    self.waited += times * waits[name]
                    self.work["in"][now, there.number] += times * words[name]
                    self.work["synops"][now, there.number] += times * synapses[name, neuron, there.number]
                    if here is None:
                        continue
                    self.work["out"][now, here.number] += times * words[name]
                    columns, rows, chips = hops(mapping, here, there)
                    self.hops[name, "x"] += times * columns
                    self.hops[name, "y"] += times * rows
                    self.borders += times * chips
        self.mapping = mapping

    def time(self, on: ChipHardware, barrier: float) -> float:
        t, work = on.time, self.work
        first, spike, out, into, column, row = (
            0.0 if leaf is None else leaf.range.value
            for leaf in (
                t.neuron_active, t.spike_out, t.spike_within_tile, t.message_in, t.hop_east_west, t.hop_north_south
            )
        )  # fmt: skip
        busy = (
            work["fired"] * (first + spike)
            + (self.held - work["fired"]) * t.neuron_inactive.range.value
            + work["out"] * out + work["in"] * into + work["synops"] * t.synop.range.value
        )  # fmt: skip
        longest = np.zeros(self.steps)
        for step, columns, rows in self.ways:
            longest[step] = max(longest[step], columns * column + rows * row)
        return float((busy.max(axis=1) + longest).sum()) + self.steps * barrier


def hops(mapping: Mapping, here: Core, there: Core) -> tuple[int, int, int]:
    """Hops east or west, north or south, and borders between chips, from core to core."""
    x = [c.chip * mapping.mesh[0] + c.tile[0] for c in (here, there)]
    chips = abs(here.chip - there.chip)
    return abs(x[0] - x[1]) - chips, abs(here.tile[1] - there.tile[1]), chips


@pytest.mark.parametrize("net", NETS)
def test_messages_hops_waits_and_the_busiest_cores_are_those_of_every_single_neuron(net: str) -> None:
    done = ran(NETS[net]())
    priced, true = price(done, TINY), Followed(done, TINY)
    graded = {s.name for s in done.graph.synapses if payload_bits(done.graph, s.source)}
    spikes = sum(n for name, n in true.messages.items() if name not in graded)
    assert line(priced, "spike messages").count == pytest.approx(spikes)
    assert sum(p.count for p in priced.lines if p.component.startswith("graded")) == pytest.approx(
        sum(true.messages.values()) - spikes
    )
    for start, way in (("hops east", "x"), ("hops north", "y")):
        hops = line(priced, start).count
        assert hops == pytest.approx(sum(n for (_, along), n in true.hops.items() if along == way))
    assert line(priced, "synaptic operations").count == pytest.approx(true.work["synops"].sum())
    assert priced.steps == true.steps
    assert priced.delayed == pytest.approx(true.waited)
    assert priced.chips == true.mapping.chips > 1
    assert priced.latency is not None
    assert priced.latency.value == pytest.approx(true.time(TINY, 14.3e-6))
    assert priced.lower_bound
    assert any(f"{true.borders:,.0f} steps of messages from chip to chip" in note for note in priced.notes)
    assert priced.cores == len(true.mapping.cores)
    assert priced.fits == (not priced.fit_notes)


@pytest.mark.parametrize("net", NETS)
def test_every_event_falls_on_its_core_in_its_step(net: str) -> None:
    done = ran(NETS[net]())
    true = Followed(done, TINY)
    work = core_work(
        true.mapping, pipeline(done.graph, done.time_steps), done.sent, {s.name: 1 for s in done.graph.synapses}
    )
    assert work.updated.tolist() == true.held.tolist()
    for kind, found in (("fired", work.fired), ("out", work.sent), ("in", work.received), ("synops", work.synops)):
        np.testing.assert_allclose(found / len(done.logits), true.work[kind], atol=1e-9, err_msg=kind)


def test_every_part_of_a_dynamic_price_is_its_count_times_the_chips_number() -> None:
    priced = price(ran(NETS["any1"]()), TINY)
    picojoule = {
        "synaptic": 23.6, "spike messages": 1.7, "hops east": 3.0, "hops north": 4.0, "state reset": 5.94e6,
        "neuron updates that fired": 81.0, "neuron updates that did not": 52.0,
    }  # fmt: skip
    for start, each in picojoule.items():
        assert line(priced, start).count > 0
        assert line(priced, start).energy.value == pytest.approx(line(priced, start).count * each * 1e-12)
    assert priced.latency is not None
    assert priced.static.value == pytest.approx(104.4e-3 * (priced.chips or 0) * priced.latency.value)
    assert line(priced, "state reset").count == priced.chips


def test_both_ends_hold_the_value_and_the_low_end_lets_neurons_and_synapses_overlap() -> None:
    one = chip_with()
    done = ran(NETS["any2"]())
    latency = price(done, one).latency
    assert latency is not None
    assert latency.low <= latency.value <= latency.high
    true = Followed(done, one)
    quiet = true.held - true.work["fired"]
    neurons_ns = true.work["fired"] * 5.3 + quiet * 5.3 + true.work["out"] * 2.1
    synapses_ns = true.work["synops"] * 3.1
    assert latency.low == pytest.approx((np.maximum(neurons_ns, synapses_ns).max(1) + 113).sum() * 1e-9)


def test_the_longest_way_of_a_message_is_part_of_every_step_that_sends_one() -> None:
    """One neuron of four cores in a row, the first of which reaches the last; hops are all that takes time."""
    one_to_one, all_of_one = np.eye(4, dtype=np.int64) * 200, np.eye(4, dtype=np.int64)[[0, 0, 0, 0]] * 100
    synapses = (
        Synapse("in", "input", "a", "dense", one_to_one), Synapse("out", "a", "b", "dense", all_of_one),
    )  # fmt: skip
    graph = FixedPointGraph(InputPort((4,)), (neurons("a", (4,)), neurons("b", (4,))), synapses, "none", None)
    on = with_mesh(chip_with(neurons_per_core=1), cores=8, columns=8, rows=1, cores_per_tile=1)
    clip = np.zeros((3, 1, 4), np.uint8)
    clip[1, 0, 0] = 1
    done = run(graph, clip, trace=True)
    assert done.sent["a"].sum() == done.sent["a"][1, 0] == 1, "one neuron spikes once"
    mapping = sf.map_net(graph, on)
    farthest = max(hops(mapping, mapping.cores[0], core)[0] for core in mapping.cores[4:])
    assert farthest > 3
    still = on.model_copy(update={"time": on.time.model_copy(update={"hop_east_west": None})})
    with_ways, without = price(done, on).latency, price(done, still).latency
    assert with_ways is not None
    assert without is not None
    assert with_ways.value - without.value == pytest.approx(farthest * 4.1e-9)
    assert with_ways.high - without.high == pytest.approx(farthest * 4.1e-9)
    assert with_ways.low == without.low, "messages may travel while cores work"


def test_barriers_follow_the_tiles_that_are_used() -> None:
    done = ran(random_graph(0))
    barriers = {1: 0.6e-6, 2: 1.0e-6, 3: 1.0e-6, 5: 1.4e-6}
    for per_core, tiles in ((1024, 1), (60, 2), (40, 3), (20, 5)):
        on = chip_with("loihi1-sanafe", neurons_per_core=per_core)
        true = Followed(done, on)
        assert len({c.tile for c in true.mapping.cores}) == tiles
        latency = price(done, on).latency
        assert latency is not None
        assert latency.value == pytest.approx(true.time(on, barriers[tiles]))


def test_two_chips_wait_for_the_barrier_of_chips_or_where_none_is_published_for_that_of_one() -> None:
    done = ran(random_graph(0))
    across = with_mesh(chip_with("loihi1-sanafe", neurons_per_core=20), cores=12, columns=3, rows=2, cores_per_tile=2)
    unsaid = across.model_copy(update={"time": across.time.model_copy(update={"barrier_across_chips": None})})
    for on, barrier in ((across, 14.3e-6), (unsaid, on_one_chip := across.time.barrier.range.value)):
        true, latency = Followed(done, on), price(done, on).latency
        assert true.mapping.chips == 2
        assert latency is not None
        assert latency.value == pytest.approx(true.time(on, barrier))
    assert on_one_chip == 1.8e-6 > 1.4e-6, "not that of the six tiles of a chip, which all are used"


def test_a_clip_gate_waits_for_its_clip() -> None:
    plain, gated = (ran(random_graph(2, gated=g)) for g in (False, True))
    depths = [price(r, "loihi2").steps for r in (plain, gated)]
    assert depths[0] is not None
    assert depths[1] is not None
    clip_gates = sum(stage.gate == "clip" for stage in pipeline(gated.graph, gated.time_steps))
    assert clip_gates > 0
    assert depths[1] - depths[0] == clip_gates * (gated.time_steps - 1)
    assert price(gated, "loihi2").lower_bound
    assert any("total and latency are lower bounds" in note for note in price(gated, "loihi2").notes)
    assert not price(plain, "loihi2").lower_bound
    assert price(gated, "loihi2").fits is False


def test_payload_words_hold_the_numbers_that_relays_send() -> None:
    done = ran(random_graph(3, relays=True))
    bits = {s.name: payload_bits(done.graph, s.source) for s in done.graph.synapses}
    assert max(bits.values()) > 4
    narrow = chip_with("loihi2", payload_word=4)
    sent = Followed(done, narrow).messages
    expected = sum(n * math.ceil(bits[name] / 4) for name, n in sent.items() if bits[name])
    words = line(price(done, narrow), "graded messages")
    assert words.count == pytest.approx(expected)
    slow = narrow.model_copy(update={"time": chip("loihi1-sanafe").time})
    latency = price(done, slow).latency
    assert latency is not None
    assert latency.value == pytest.approx(Followed(done, slow).time(slow, 0.6e-6)), "each word takes time"
    assert words.energy.value == pytest.approx(expected * 1.7e-12)
    assert line(price(done, "loihi2"), "graded messages").count < expected
    on_loihi1 = price(done, "loihi1")
    assert on_loihi1.fits is False
    assert on_loihi1.lower_bound
    assert any("sends no numbers" in note for note in on_loihi1.notes)


def test_words_of_unsure_size_widen_the_range() -> None:
    done = ran(random_graph(3, relays=True))
    word = chip("loihi2").limits.payload_word
    assert word is not None
    limits = chip("loihi2").limits
    unsure = type(word)(**{**word.model_dump(), "value": 8.0, "low": 2.0, "high": 16.0})
    on = chip("loihi2").model_copy(update={"limits": limits.model_copy(update={"payload_word": unsure})})
    words = line(price(done, on), "graded messages")
    surely = [line(price(done, chip_with("loihi2", payload_word=n)), "graded messages") for n in (16, 8, 2)]
    assert words.energy.low == pytest.approx(surely[0].energy.low)
    assert words.energy.value == pytest.approx(surely[1].energy.value)
    assert words.energy.high == pytest.approx(surely[2].energy.high)


def test_a_chip_without_its_optional_numbers_is_priced_and_says_what_is_left_out() -> None:
    full = TINY
    time = {"spike_within_tile", "message_in", "hop_east_west", "hop_north_south", "spike_out", "barrier_across_chips"}
    bare = full.model_copy(
        update={
            "energy": full.energy.model_copy(update={"state_reset": None, "spike_out": None}),
            "time": full.time.model_copy(update=dict.fromkeys(time)),
        }
    )
    done = ran(NETS["any1"]())
    priced, true = price(done, bare), Followed(done, bare)
    assert priced.latency is not None
    assert priced.latency.value == pytest.approx(true.time(bare, 465e-9)), "the barrier of one chip"
    assert not [item for item in priced.lines if item.component.startswith("state reset")]
    assert any("resetting the state" in note for note in priced.notes)
    assert any("barrier of several chips" in note for note in priced.notes)
    assert any("how long a hop takes" in note for note in priced.notes)
    assert not any("how long a hop takes" in note for note in price(done, full).notes)
    assert not any("resetting the state" in note for note in price(done, full).notes)


@pytest.mark.parametrize("name", ["loihi1", "loihi1-sanafe", "loihi2", "cmos45"])
def test_silence_costs_updates_barriers_and_static_power_alone(name: str) -> None:
    graph = random_graph(0, residual=True)
    graph = replace(graph, neurons=tuple(replace(n, bias_mantissa=n.bias_mantissa * 0) for n in graph.neurons))
    priced = price(run(graph, np.zeros((5, 2, *graph.input.shape), np.uint8)), name)
    for entry in priced.lines:
        always = entry.component.startswith(("neuron updates that did not", "state", "static"))
        assert (entry.count > 0) == always, entry
    assert (priced.total.value > 0) == (name != "cmos45")
    if priced.latency is not None:
        assert priced.latency.low > 0
        assert priced.delayed == 0


def test_a_clip_of_one_step_takes_that_step_and_the_ways_through_the_net() -> None:
    graph = random_graph(0)
    done = ran(graph, random_clips(graph, 0, time_steps=1))
    priced = price(done, "loihi1")
    assert priced.steps == 1 + len(graph.neurons)
    assert line(priced, "neuron updates that did not").count + line(priced, "neuron updates that fired").count == (
        sum(n.size for n in graph.neurons)
    )
    assert priced.latency is not None
    assert priced.latency.value == pytest.approx(Followed(done, chip("loihi1")).time(chip("loihi1"), 465e-9))


def test_784_to_512_dense_reaches_four_cores_of_loihi1() -> None:
    weight = np.full((512, 784), 2)
    graph = FixedPointGraph(
        InputPort((784,)), (neurons("fc", (512,)),), (Synapse("s", "input", "fc", "dense", weight),), "none", None
    )
    clip = np.zeros((1, 1, 784), np.uint8)
    clip[0, 0, :10] = 1
    priced = price(run(graph, clip), "loihi1")
    assert (priced.cores, priced.chips) == (4, 1)
    assert line(priced, "spike messages").count == 10 * 4
    assert line(priced, "hops east").count == 0, "where the input enters is not mapped"


def test_a_mapping_made_before_is_used_and_one_of_another_net_or_chip_is_refused() -> None:
    done = ran(random_graph(0))
    assert price(done, "loihi1", sf.map_net(done.graph, "loihi1")) == price(done, "loihi1")
    with pytest.raises(InputError, match="it is for loihi2, the price for loihi1"):
        price(done, "loihi1", sf.map_net(done.graph, "loihi2"))
    with pytest.raises(InputError, match="map that net"):
        price(done, "loihi1", sf.map_net(random_graph(1, residual=True, depthwise=True), "loihi1"))
    renamed = replace(done.graph, synapses=tuple(replace(s, name=f"{s.name} again") for s in done.graph.synapses))
    with pytest.raises(InputError, match="map that net"):
        price(done, "loihi1", sf.map_net(renamed, "loihi1"))
    with pytest.raises(HardwareConfigError, match="speck: has limits only"):
        price(done, "speck")
