"""What a user should act on is said with layer and number, all at once, and stops a command that is strict."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from generated_graphs import random_clips, random_graph
from small_event_nets import write_user_project
from spikefold.converters.calibrate import Calibration, GateStatistics
from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.float_graph import read_float_graph
from spikefold.deploy.cautions import Caution, of_clips, of_gates, of_ranges, of_run, of_states, tell
from spikefold.deploy.commands import export_net, simulate_file, verify_net
from spikefold.deploy.run import run
from spikefold.deploy.sources import find_net
from spikefold.deploy.states import LayerCounts, count_states
from spikefold.errors import SpikefoldWarning

GRAPH = random_graph(0)
CLIPS = random_clips(GRAPH, 0)


def with_threshold(name: str, threshold: int) -> FixedPointGraph:
    neurons = tuple(replace(n, v_threshold=np.array(threshold)) if n.name == name else n for n in GRAPH.neurons)
    return replace(GRAPH, neurons=neurons)


def with_bias(name: str) -> FixedPointGraph:
    """So much of it that the population always fires."""
    neurons = tuple(
        replace(n, bias_mantissa=np.array(4095), bias_exponent=7, v_threshold=np.array(0)) if n.name == name else n
        for n in GRAPH.neurons
    )
    return replace(GRAPH, neurons=neurons)


def found(graph: FixedPointGraph, clips: np.ndarray = CLIPS) -> dict[str, Caution]:
    return {c.check: c for c in of_run(run(graph, clips, "reference"), count_states(graph, clips))}


def test_a_lively_net_needs_no_caution() -> None:
    assert found(GRAPH) == {}


def test_a_layer_that_never_fires_is_dead() -> None:
    caution = found(with_threshold("fc1", 2**17 - 1))["dead layer"]
    assert caution.layer == "fc1"
    assert str(caution).startswith("layer fc1: never fires in 150 neuron-steps")


def test_a_layer_that_always_fires_is_saturated() -> None:
    caution = found(with_bias("conv1"))["saturated layer"]
    assert (caution.layer, caution.number) == ("conv1", 1.0)
    assert "100.0% of 2,520 neuron-steps" in caution.text


def test_neurons_that_are_made_to_fire_in_every_step_are_no_saturated_layer() -> None:
    graph = with_bias("conv1")
    synapses = tuple(replace(s, weight=0 * s.weight) if s.target == "conv1" else s for s in graph.synapses)
    assert "saturated layer" not in found(replace(graph, synapses=synapses))


def test_wraps_and_clips_of_a_run_are_told_with_their_numbers() -> None:
    graph = random_graph(1, stress=True)
    clips = random_clips(graph, 1)
    counts = {layer.name: layer for layer in count_states(graph, clips)}
    told = [c for c in of_states(graph, tuple(counts.values())) if c.check in ("wrapped currents", "clipped membranes")]
    assert {c.check for c in told} == {"wrapped currents", "clipped membranes"}
    for c in told:
        assert c.number == (counts[c.layer].wrapped if c.check.startswith("wrapped") else counts[c.layer].clipped) > 0
        assert f"{c.number:,} of {counts[c.layer].values:,}" in c.text


@pytest.mark.parametrize(
    ("fields", "check"),
    [
        ({"saturated": 2}, "messages cut off"),
        ({"saturated": 1}, None),
        ({"ties": 11, "fires_at_equality": True}, "ties at the threshold"),
        ({"ties": 10, "fires_at_equality": True}, None),
        ({"ties": 11}, None),
    ],
)
def test_a_few_ties_and_cut_off_messages_are_nothing_to_act_on(fields: dict[str, int], check: str | None) -> None:
    counts = LayerCounts("fc1", 5000, 1000, 0, 0, 0, False, 0)
    told = of_states(GRAPH, [replace(counts, **fields)])
    assert [(c.check, c.layer) for c in told] == ([] if check is None else [(check, "fc1")])


def test_clips_unlike_all_that_calibrated_are_told() -> None:
    graph = replace(GRAPH, provenance={"calibration_events": [10, 20]})
    assert of_clips(graph, np.array([10, 20, 21, 9])) == ()
    (caution,) = of_clips(graph, np.array([15, 21, 9]))
    assert (caution.layer, caution.number) == ("input", 2)
    assert "2 of 3 clips hold fewer than 10 or more than 20 events (here 9 to 21)" in caution.text


@pytest.mark.parametrize("seen", [None, [], [1], ["a", "b"], {"low": 1}, 3])
def test_what_a_file_says_of_its_calibration_may_be_nonsense(seen: object) -> None:
    assert of_clips(replace(GRAPH, provenance={"calibration_events": seen}), np.array([1])) == ()


def statistics(low: float, high: float, smallest: float = 0.5) -> GateStatistics:
    return GateStatistics(np.ones((1, 1)), 0.0, smallest, ((low, high), (0.0, 0.0)))


def test_a_computed_gate_beyond_the_room_of_its_calibration_is_told() -> None:
    seen = {"fc1": statistics(-1.0, 2.0)}
    assert of_ranges(seen, {"fc1": statistics(-2.5, 0.0)}) == ()
    (caution,) = of_ranges(seen, {"fc1": statistics(-3.0, 1.0)})
    assert (caution.layer, caution.number) == ("fc1", 1.5)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cautious")
    write_user_project(folder, "cautiousnet")
    return folder


def silent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the user's net thresholds that nothing reaches."""
    monkeypatch.chdir(folder)
    text = (folder / "cautiousnet.py").read_text()
    (folder / "deadnet.py").write_text(text.replace("v_threshold=0.4", "v_threshold=40.0"))


@pytest.mark.parametrize(("attention", "told"), [("static", True), ("scheduled", True), ("dynamic", False)])
def test_a_gate_that_falls_to_zero_is_told_where_it_is_folded(
    project: Path, monkeypatch: pytest.MonkeyPatch, attention: str, told: bool
) -> None:
    monkeypatch.chdir(project)
    net = find_net("cautiousnet:build", "w.pt")
    float_net = read_float_graph(capture(net.module, torch.zeros(4, 1, 2, 8, 8)))
    clips = np.zeros((4, 1, 2, 8, 8))
    for smallest in (-0.25, 0.25):
        calibration = Calibration(clips, {"neuron": statistics(0.0, 1.0, smallest)})
        cautions = of_gates(float_net, calibration, attention)  # type: ignore[arg-type]
        assert [(c.layer, c.number) for c in cautions] == ([("neuron", -0.25)] if told and smallest < 0 else [])


def test_all_cautions_are_told_at_once_where_warnings_are_errors() -> None:
    both = [Caution("one", "fc1", 1.0, "first thing"), Caution("two", "fc2", 2.0, "second thing")]
    with pytest.raises(SpikefoldWarning, match=r"^layer fc1: first thing; layer fc2: second thing$"):
        tell(both)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SpikefoldWarning)
        tell(both)
    assert [str(w.message) for w in caught] == [str(c) for c in both]


def test_a_strict_export_of_a_dead_net_writes_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent(project, monkeypatch)
    arguments = ("deadnet:build", None, "train.npz", "static", 4, 12, None, "spikefold", False, Path("dead"))
    with pytest.raises(SpikefoldWarning, match=r"layer neuron: never fires in .* neuron-steps"):
        export_net(*arguments, lambda _: None)  # type: ignore[arg-type]
    assert list(project.glob("dead.*")) == []
    with pytest.warns(SpikefoldWarning, match="never fires"):
        made = export_net(*arguments, lambda _: None)  # type: ignore[arg-type]
    assert [c["check"] for c in made["cautions"]] == ["dead layer"]
    with pytest.warns(SpikefoldWarning, match="never fires"):
        result, _ = simulate_file(Path("dead.nir"), "test.npz", "reference", None, 60.0, lambda _: None)
    assert [(c["check"], c["layer"]) for c in result["cautions"]] == [("dead layer", "neuron")]
    with pytest.warns(SpikefoldWarning, match="never fires"):
        proved = verify_net(
            "deadnet:build", None, "train.npz", "static", 4, None, 4, 0, 60.0, Path("proof"), lambda _: None
        )
    assert proved.passed
    assert [(c.check, c.layer) for c in proved.cautions] == [("dead layer", "neuron")]
    assert '"dead layer"' in (project / "proof" / "verification.json").read_text()


def test_stronger_clips_than_those_of_calibration_are_told_by_simulate(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    export_net(
        "cautiousnet:build",
        "w.pt",
        "train.npz",
        "static",
        4,
        12,
        None,
        "spikefold",
        False,
        Path("live"),
        lambda _: None,
    )
    np.savez("strong.npz", frames=np.ones((3, 4, 2, 8, 8), dtype=np.uint8), labels=np.zeros(3, dtype=np.int64))
    with pytest.warns(SpikefoldWarning, match="layer input: 3 of 3 clips"):
        simulate_file(Path("live.nir"), "strong.npz", "reference", None, 60.0, lambda _: None)
