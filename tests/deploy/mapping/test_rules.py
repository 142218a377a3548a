"""All broken rules at once, each with layer, used and limit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import spikefold as sf
from chips import chip_with
from generated_graphs import random_graph
from large_nets import convolution, neurons
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort
from spikefold.deploy.count import gate_activity
from spikefold.deploy.mapping.layout import Violation


def broken(graph: FixedPointGraph, hardware: object = "loihi1") -> dict[tuple[str, str], Violation]:
    return {(v.rule, v.layer): v for v in sf.map_net(graph, hardware).violations}  # type: ignore[arg-type]


def test_a_plain_net_of_spikes_breaks_nothing() -> None:
    for name in ("loihi1", "loihi1-sanafe", "loihi2"):
        assert not broken(random_graph(0, residual=True, depthwise=True), name)


def test_all_rules_are_told_at_once_on_loihi_and_fewer_on_loihi_2() -> None:
    graph = random_graph(5, gated=True, relays=True, graded_input=True, resets=("soft",), gates=("temporal",))
    found = broken(graph)
    assert {
        ("relay", "relay1"),
        ("relay", "rectifier"),
        ("graded payload", "conv1"),
        ("graded payload", "conv2"),
    } <= set(found)
    firing = [n.name for n in graph.neurons if n.fires]
    assert all(("reset", name) in found for name in firing)
    for n in graph.neurons:
        if n.gate is not None:
            assert found["attention", n.name].used == gate_activity(n, 5).operations
    assert found["graded payload", "conv1"].used == 4  # 0 to 15
    assert found["graded payload", "conv1"].limit == 0
    on_loihi2 = broken(graph, "loihi2")
    assert {rule for rule, _ in on_loihi2} == {"attention"}
    for key, violation in on_loihi2.items():
        assert "the chip computes none" in found[key].advice
        assert "programmable neurons might" in violation.advice


def test_a_bias_that_changes_with_the_step_is_work_no_chip_does_by_itself() -> None:
    assert {rule for rule, _ in broken(random_graph(0, bias_schedule=True))} == {"attention"}


def test_a_reset_to_another_value_is_refused_where_neurons_are_fixed() -> None:
    graph = random_graph(0, resets=("value",))
    assert ("reset", "conv1") in broken(graph)
    assert not broken(graph, "loihi2")
    to_zero = tuple(n if n.v_reset is None else replace(n, v_reset=n.v_reset * 0) for n in graph.neurons)
    assert not broken(replace(graph, neurons=to_zero))


def chain(layers: int) -> FixedPointGraph:
    """So many 1 x 1 convolutions one after another, and one past them all."""
    names = [f"n{i}" for i in range(layers)]
    synapses = [convolution(f"to {b}", a, b, (1, 1), 1) for a, b in zip(["input", *names], names, strict=False)]
    synapses.append(convolution("past", "input", names[-1], (1, 1), 1))
    return FixedPointGraph(
        InputPort((1, 2, 2)), tuple(neurons(n, (1, 2, 2)) for n in names), tuple(synapses), "none", None
    )


def test_a_branch_that_must_wait_longer_than_delays_last_is_refused() -> None:
    assert not broken(chain(63))
    violation = broken(chain(64))["delay", "n63"]
    assert (violation.used, violation.limit) == (63, 62)
    assert "connection past" in violation.advice
    assert not broken(chain(64), "loihi2")  # whose delays are not documented


def test_a_gate_that_waits_for_its_clip_holds_up_the_branch_beside_it() -> None:
    graph = random_graph(0, gated=True, residual=True, gates=("temporal",), time_steps=70)
    assert broken(graph)["delay", "conv2"].used == 70  # T for the gate of conv1, which the input goes past


def test_weights_wider_or_shifted_further_than_a_chip_stores_are_refused() -> None:
    graph = random_graph(0)
    assert broken(graph, chip_with(weight=4))["weight bits", "conv1"].used == 8
    shifted = replace(graph, synapses=tuple(replace(s, exponent=8) for s in graph.synapses))
    violation = broken(shifted)["weight exponent", "conv1"]
    assert (violation.used, violation.limit) == (8, 7)


def test_a_neuron_with_more_synapses_than_a_chip_allows_is_refused() -> None:
    graph = random_graph(0)
    violation = broken(graph, chip_with(fan_in=71))["fan-in", "fc1"]
    assert (violation.used, violation.limit) == (72, 71)
    assert ("fan-in", "fc1") not in broken(graph, chip_with(fan_in=72))


def test_more_weight_formats_than_a_core_keeps_are_refused() -> None:
    graph = random_graph(0, residual=True)
    exponents = {"conv1->conv2": 1, "input->conv2": 2}
    graph = replace(graph, synapses=tuple(replace(s, exponent=exponents.get(s.name, 0)) for s in graph.synapses))
    assert broken(graph, chip_with(weight_formats_per_core=1))["weight formats", "conv2"].used == 2


def test_more_chips_than_any_system_has_are_refused() -> None:
    graph = random_graph(0)
    (violation,) = broken(graph, chip_with(chips=1, cores=4, neurons_per_core=20)).values()
    assert violation.rule == "chips"
    assert violation.used > violation.limit == 1


def test_thresholds_that_one_source_allows_and_another_does_not_are_a_caution() -> None:
    graph = random_graph(0)
    conv1, *rest = graph.neurons

    def cautions(words: int) -> tuple[str, ...]:
        mapped = replace(conv1, v_threshold=np.arange(168).reshape(4, 7, 6) % words + 50)
        return sf.map_net(replace(graph, neurons=(mapped, *rest)), "loihi1").cautions

    assert cautions(8) == ()
    for words in (9, 16):
        assert cautions(words) == (
            f"layer conv1 uses {words} distinct thresholds on a core: sources put the limit at 8 or 16",
        )
    assert any("cores for its 17 distinct thresholds" in caution for caution in cautions(17))


def test_a_table_of_operations_has_no_cores() -> None:
    with pytest.raises(sf.InputError, match=r"hardware 'cmos45' is .* no cores .* name a chip, such as loihi1"):
        sf.map_net(random_graph(0), "cmos45")


def test_a_bad_description_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chip.yaml").write_text("family: chip\n")
    with pytest.raises(sf.HardwareConfigError, match="limits: missing"):
        sf.map_net(random_graph(0), tmp_path / "chip.yaml")
    with pytest.raises(sf.SpikefoldError, match=r"nothing\.nir"):
        sf.map_net(tmp_path / "nothing.nir", "loihi1")
