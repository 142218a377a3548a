"""Certificates: made of an equal run, checked again with one's own copies, refused where anything is another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from generated_graphs import random_clips, random_graph
from spikefold.deploy.certificate import (
    certify,
    clips_sha256,
    net_sha256,
    read_certificate,
    recheck,
    write_certificate,
)
from spikefold.deploy.equality import check_backends
from spikefold.errors import FileFormatError, InputError

GRAPH = random_graph(3, gated=False)
CLIPS = random_clips(GRAPH, 1, time_steps=4)
FOUND = check_backends(GRAPH, CLIPS, backends=("torch", "onnx"), lava_samples=0)


def test_a_certificate_holds_where_it_was_made_and_after_a_round_trip(tmp_path: Path) -> None:
    made = certify(GRAPH, CLIPS, FOUND, "random clips")
    write_certificate(made, tmp_path / "certificate.json")
    again = read_certificate(tmp_path / "certificate.json")
    assert again == made
    assert recheck(again, GRAPH, CLIPS) == []
    assert {a.backend for a in again.agreements} >= {"torch", "onnx", "nir file"}
    assert all(a.spike_differences == a.membrane_differences == 0 and a.values > 0 for a in again.agreements)


def test_another_net_other_clips_and_another_trace_are_told_apart() -> None:
    made = certify(GRAPH, CLIPS, FOUND, "random clips")
    synapse = GRAPH.synapses[0]
    weight = synapse.weight.copy()
    weight.flat[0] += 2 if weight.flat[0] < 250 else -2
    other = replace(GRAPH, synapses=(replace(synapse, weight=weight), *GRAPH.synapses[1:]))
    assert ["the net" in line for line in recheck(made, other, CLIPS)] == [True]
    assert ["the clips" in line for line in recheck(made, GRAPH, CLIPS[:, ::-1])] == [True]
    forged = replace(made, trace_sha256="0" * 64)
    assert ["the numpy reference gives" in line for line in recheck(forged, GRAPH, CLIPS)] == [True]


def test_hashes_are_of_content_alone() -> None:
    assert net_sha256(replace(GRAPH, provenance={"made": "elsewhere"})) == net_sha256(GRAPH)
    assert net_sha256(replace(GRAPH, name="another name")) != net_sha256(GRAPH)
    assert clips_sha256(CLIPS.astype(np.uint8)) == clips_sha256(CLIPS.astype(np.float32))
    assert clips_sha256(CLIPS.reshape(CLIPS.shape[1], CLIPS.shape[0], *CLIPS.shape[2:])) != clips_sha256(CLIPS)


def test_a_difference_cannot_be_certified() -> None:
    layer = replace(FOUND[0].layers[0], spike_differences=1)
    unequal = replace(FOUND[0], layers=(layer, *FOUND[0].layers[1:]))
    with pytest.raises(InputError, match="nothing to certify"):
        certify(GRAPH, CLIPS, (unequal, *FOUND[1:]), "random clips")
    with pytest.raises(InputError, match="no backend was compared"):
        certify(GRAPH, CLIPS, (), "random clips")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spikefold_certificate": 2}, "spikefold_certificate is 2"),
        ({"net_sha256": None}, "net_sha256 is None"),
        ({"samples": "three"}, "samples is 'three'"),
        ({"agreements": [{"backend": "torch"}]}, "agreements are damaged"),
    ],
)
def test_a_damaged_certificate_is_refused_by_field(tmp_path: Path, change: dict[str, object], said: str) -> None:
    plain = certify(GRAPH, CLIPS, FOUND, "random clips").to_dict() | change
    (tmp_path / "c.json").write_text(json.dumps(plain, default=lambda v: v.__dict__))
    with pytest.raises(FileFormatError, match=said):
        read_certificate(tmp_path / "c.json")


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(b"\x00\x01")
    with pytest.raises(FileFormatError, match=r"c\.json: cannot be read as JSON"):
        read_certificate(tmp_path / "c.json")
