"""snnTorch, Norse, SpikingJelly and sinabs read our portable files and fire as the float twin of the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import nir
import numpy as np
import pytest
import torch
from _nir_consumers import READERS, Comparison, ReaderError, compare, is_missing
from nir_readers import CASES, case_clips, export

from spikefold.converters.portable_nir import PortableNet

TORCH_READERS = [
    pytest.param("snnTorch 1.0.0", marks=pytest.mark.outside("snntorch")),
    pytest.param("Norse 1.1.0", marks=pytest.mark.outside("norse")),
    pytest.param("SpikingJelly 2.0.0", marks=pytest.mark.outside("spikingjelly")),
]
SINABS = pytest.param(
    "sinabs 3.1.3",
    marks=pytest.mark.skipif(
        is_missing("sinabs 3.1.3"),
        reason="sinabs asks for nir <= 1.0.4 and has its own environment: make sinabs",
    ),
)
CHAINS = ["chain", "oblong", "channel-gate"]


@pytest.fixture(scope="module", autouse=True)
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as made:
        _folders.append(Path(made))
        yield Path(made)
        _folders.clear()
        exported.cache_clear()


_folders: list[Path] = []


@cache
def exported(name: str) -> tuple[Path, PortableNet]:
    path = _folders[0] / f"{name}.nir"
    return path, export(name, path)


def found(reader: str, name: str) -> Comparison:
    path, portable = exported(name)
    return compare(reader, path, portable, case_clips(CASES[name]))


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.fast])
def test_every_layer_of_every_net_fires_sometimes(name: str) -> None:
    clips = torch.from_numpy(case_clips(CASES[name])).double()
    for layer, train in exported(name)[1].twin.run(clips)[1].items():
        if layer in exported(name)[1].tie_free_steps:
            assert 0.02 < train.mean() < 0.98, layer


@pytest.mark.parametrize("reader", TORCH_READERS)
@pytest.mark.parametrize("name", ["chain-dyadic", "dense"])
def test_no_spike_differs_where_float32_holds_every_number(name: str, reader: str) -> None:
    result = found(reader, name)
    assert result.exact
    assert (result.differing, result.flips) == (0, 0)


@pytest.mark.parametrize("reader", TORCH_READERS)
@pytest.mark.parametrize("name", CHAINS)
def test_elsewhere_every_flip_lies_within_the_float_bound(name: str, reader: str) -> None:
    result = found(reader, name)
    assert not result.exact
    assert result.outside == 0
    assert result.differing <= result.spikes * 1e-4


@pytest.mark.parametrize("reader", TORCH_READERS[1:])
def test_neurons_without_a_decay_are_read_alike(reader: str) -> None:
    result = found(reader, "if")
    assert result.exact
    assert result.differing == 0


@pytest.mark.parametrize("reader", [TORCH_READERS[0], TORCH_READERS[2]])
def test_residual_sums_are_read_alike(reader: str) -> None:
    result = found(reader, "residual")
    assert result.outside == 0
    assert result.differing <= result.spikes * 1e-4


@pytest.mark.parametrize("reader", [SINABS])
@pytest.mark.parametrize("name", ["if", "dense"])
def test_sinabs_reads_neurons_without_a_decay_and_flat_ones(name: str, reader: str) -> None:
    result = found(reader, name)
    assert result.outside == 0
    assert result.differing <= result.spikes * 1e-4


@pytest.mark.parametrize("reader", [SINABS])
def test_sinabs_refuses_leaky_maps_aloud(reader: str) -> None:
    with pytest.raises(ReaderError, match="truth value of an array"):
        found(reader, "chain")


@pytest.mark.slow
@pytest.mark.parametrize("reader", TORCH_READERS)
@pytest.mark.parametrize("name", ["plain", "asa"])
def test_the_shipped_nets_are_read_alike(name: str, reader: str) -> None:
    result = found(reader, name)
    assert result.outside == 0
    assert result.differing <= result.spikes * 1e-4


@pytest.mark.outside("spikingjelly")
@pytest.mark.outside("snntorch")
def test_a_threshold_outside_its_gap_is_read_differently(folder: Path) -> None:
    """Else the gap would be for nothing: SpikingJelly fires at equality, snnTorch does not."""
    path, portable = exported("chain-dyadic")
    graph = nir.read(path)
    clips = torch.from_numpy(case_clips(CASES["chain-dyadic"])).float()
    with torch.no_grad():
        first = portable.twin.populations[0]
        reached = first.current({"input": clips.double()})
        at = float(reached[reached > 0].median())  # a membrane that the first step reaches
    graph.nodes[first.name].v_threshold = np.full(first.shape, at, dtype=np.float32)
    nir.write(folder / "tie.nir", graph)
    with torch.no_grad():
        strict, at_equality = (READERS[r](folder / "tie.nir", clips, [first.name])[first.name] for r in
                               ("snnTorch 1.0.0", "SpikingJelly 2.0.0"))  # fmt: skip
    assert (at_equality[0] != strict[0]).any()
    assert (at_equality[0] >= strict[0]).all()


@pytest.mark.outside("spikingjelly")
@pytest.mark.parametrize("off", ["weight", "bias", "v_threshold", "tau"])
def test_the_bound_is_narrow_enough_to_catch_a_wrong_file(off: str, folder: Path) -> None:
    path, portable = exported("chain")
    graph = nir.read(path)
    for node in graph.nodes.values():
        if hasattr(node, off):
            setattr(node, off, getattr(node, off) * np.float32(1.01))
    nir.write(folder / "off.nir", graph)
    assert compare("SpikingJelly 2.0.0", folder / "off.nir", portable, case_clips(CASES["chain"])).outside > 0


@pytest.mark.outside("spikingjelly")
def test_a_state_that_needs_more_bits_is_not_called_exact() -> None:
    path, portable = exported("dense")
    clips = case_clips(CASES["dense"])
    twin = portable.twin
    finer = replace(
        twin, populations=tuple(replace(p, decay=0.5 + 2.0**-12) if p.fires else p for p in twin.populations)
    )
    assert not compare("SpikingJelly 2.0.0", path, replace(portable, twin=finer), clips).exact
