"""What a part takes of a core, in closed form, against a walk over every synapse."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import spikefold as sf
from chips import chip_with
from generated_graphs import any_graph, random_graph
from large_nets import convolution, neurons
from neuron_by_neuron import reach, row_bits, use_of
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Synapse
from spikefold.deploy.mapping.demand import Connection, Cuts, Demand
from spikefold.deploy.mapping.demand import row_bits as closed_row_bits

SMALL = {"neurons_per_core": 23, "in_axons": 150, "out_axons": 90, "synapse_memory": 60_000}
NETS = {
    "residual": lambda: random_graph(1, residual=True, per_neuron_thresholds=True),
    "depthwise": lambda: random_graph(2, depthwise=True, residual=True),
    "relays": lambda: random_graph(3, relays=True, depthwise=True),
    **{f"any{seed}": (lambda seed=seed: any_graph(seed, 4)) for seed in range(8)},
}


@pytest.mark.parametrize("shared", [None, 2])
@pytest.mark.parametrize("net", NETS)
def test_every_part_takes_what_a_walk_over_its_synapses_counts(net: str, shared: int | None) -> None:
    graph = NETS[net]()
    chip = chip_with(**SMALL, channels_per_axon=shared, threshold_levels_per_core=None)
    mapping = sf.map_net(graph, chip)
    reached = reach(graph, mapping)
    for core in mapping.cores:
        for part in core.parts:
            assert part.use == use_of(graph, reached, part, chip), part


@pytest.mark.parametrize("net", ["residual", "depthwise", "relays", "any3"])
def test_what_is_cut_into_single_neurons_is_counted_as_well(net: str) -> None:
    graph = NETS[net]()
    chip = chip_with(neurons_per_core=1)
    mapping = sf.map_net(graph, chip)
    reached = reach(graph, mapping)
    assert len(mapping.cores) == sum(n.size for n in graph.neurons)
    for core in mapping.cores[::7]:
        assert core.parts[0].use == use_of(graph, reached, core.parts[0], chip)


@pytest.mark.parametrize("pieces", [2, 5, 7])
def test_pieces_may_begin_in_the_middle_of_a_group_of_channels(pieces: int) -> None:
    conv = Synapse("to b", "input", "b", "conv", np.full((12, 2, 3, 3), 2), padding=(1, 1), groups=3)
    graph = FixedPointGraph(InputPort((6, 2, 2)), (neurons("b", (12, 2, 2)),), (conv,), "none", None)
    chip = chip_with(neurons_per_core=4 * -(-12 // pieces))
    mapping = sf.map_net(graph, chip)
    reached = reach(graph, mapping)
    for core in mapping.cores:
        assert core.parts[0].use == use_of(graph, reached, core.parts[0], chip)


@pytest.mark.parametrize("name", ["loihi1", "loihi2"])
def test_rows_are_padded_block_by_block(name: str) -> None:
    chip = chip_with(name)
    counts = np.array([0, 1, 6, 7, 63, 64, 65, 128, 512, 1000])
    for width in (1, 8, 16, 17):
        assert closed_row_bits(counts, width, chip.storage).tolist() == [row_bits(n, width, chip) for n in counts]


def dense(inputs: tuple[int, ...], outputs: int) -> FixedPointGraph:
    weight = 2 * np.random.default_rng(0).integers(-100, 100, (outputs, int(np.prod(inputs))))
    synapse = Synapse("to out", "input", "out", "dense", weight)
    return FixedPointGraph(InputPort(inputs), (neurons("out", (outputs,)),), (synapse,), "none", None)


def test_784_to_512_takes_four_cores_of_loihi() -> None:
    mapping = sf.map_net(dense((784,), 512), "loihi1")
    assert [core.use.neurons for core in mapping.cores] == [128] * 4
    # 784 rows of two blocks, each 64 * 8 + 10 bits padded to 9 words of 64
    assert {core.use.synapse_bits for core in mapping.cores} == {784 * 2 * 9 * 64}
    assert mapping.layers[0].limited_by == "synapse_bits"


def test_positions_with_the_same_weights_share_rows_and_axons() -> None:
    graph = dense((6, 4, 4), 10)
    (different,) = sf.map_net(graph, "loihi1").cores
    weight = np.repeat(graph.synapses[0].weight[:, :6], 16, axis=1)
    pooled = replace(graph, synapses=(replace(graph.synapses[0], weight=weight),))
    (same,) = sf.map_net(pooled, "loihi1").cores
    assert (different.use.in_axons, same.use.in_axons) == (96, 16)
    assert different.use.synapse_bits == 16 * same.use.synapse_bits
    (discrete,) = sf.map_net(pooled, chip_with(channels_per_axon=None)).cores
    assert discrete.use.in_axons == 96


def wide_convolution(channels: int, size: int) -> FixedPointGraph:
    shape = (channels, size, size)
    return FixedPointGraph(
        InputPort(shape), (neurons("conv", shape),), (convolution("to conv", "input", "conv", (channels,) * 2),),
        "none", None,
    )  # fmt: skip


def test_a_3_x_3_convolution_of_512_channels_breaks_the_axons_unless_channels_share_them() -> None:
    graph = wide_convolution(512, 8)
    discrete = sf.map_net(graph, chip_with(channels_per_axon=None))
    (violation,) = discrete.violations
    assert (violation.rule, violation.used, violation.limit) == ("in-axons", 512 * 3 * 3, 4096)
    shared = sf.map_net(graph, "loihi1")
    assert not shared.violations
    assert len(shared.cores) == 40
    assert max(core.use.in_axons for core in shared.cores) == 64
    assert shared.layers[0].limited_by == "synapse_bits"
    # 13 channels: 512 rows of 117 weights with index, in blocks of 64 and 53
    widest = max(shared.cores, key=lambda core: core.use.neurons)
    assert widest.use.neurons == 13 * 64
    assert widest.use.synapse_bits == 512 * (1088 + 896)


def test_the_numbers_of_the_page_about_mapping_are_ours() -> None:
    text = (Path(__file__).parents[3] / "docs" / "mapping.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) x (\d) x (\d) \|(.*)\|$", text, flags=re.MULTILINE)
    assert len(rows) == 6
    graph = wide_convolution(512, 8)
    connection = Connection(graph, graph.synapses[0])
    for channels, height, width, cells in rows:
        pieces = int(channels), int(height), int(width)
        cuts = [Cuts.into(n, [p]) for n, p in zip((512, 8, 8), pieces, strict=True)]
        counted = [int(np.prod(pieces))]
        for chip in (chip_with(channels_per_axon=None), chip_with()):
            need = Demand([connection], np.zeros((512, 8, 8), dtype=np.int64), chip).needs(cuts)
            memory = [] if len(counted) > 1 else [need.neurons.item(), need.synapse_bits.item()]
            counted += [*memory, need.in_axons.item()]
        assert [cell.strip() for cell in cells.split("|")][:5] == [f"{number:,}" for number in counted]


@pytest.mark.parametrize(("channels", "fits"), [(455, True), (456, False)])
def test_discrete_axons_hold_a_3_x_3_field_of_455_channels(channels: int, fits: bool) -> None:
    mapping = sf.map_net(wide_convolution(channels, 6), chip_with(channels_per_axon=None))
    assert fits is not bool(mapping.violations)
