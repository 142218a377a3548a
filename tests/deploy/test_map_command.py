"""`spikefold map` as a user meets it: table, JSON, files, exit codes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import spikefold as sf
from generated_graphs import random_graph
from spikefold.deploy.cli import app
from spikefold.deploy.mapping_tables import draw_mapping


@pytest.fixture
def net(tmp_path: Path) -> Path:
    sf.save_nir(random_graph(0, residual=True), tmp_path / "net.nir")
    return tmp_path / "net.nir"


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["map", *map(str, arguments)])
    return done.exit_code, done.stdout


def test_the_table_shows_what_each_layer_takes_and_that_every_rule_is_kept(net: Path) -> None:
    code, text = run(net, "--hardware", "loihi1")
    assert code == 0
    (row,) = (line for line in text.splitlines() if "conv1" in line)
    assert "4 x 7 x 6" in row
    assert "168 (16%)" in row
    assert "every rule is kept" in text


def test_broken_rules_are_listed_and_end_with_exit_code_1(tmp_path: Path) -> None:
    sf.save_nir(random_graph(0, relays=True, graded_input=True), tmp_path / "net.nir")
    code, text = run(tmp_path / "net.nir")
    assert code == 1
    assert "does not run as it is" in text
    for rule in ("graded payload: layer conv1 uses 4, limit 0", "relay: layer relay1 uses"):
        assert rule in text


def test_json_holds_cores_connections_and_limits(net: Path, tmp_path: Path) -> None:
    code, text = run(net, "--json", "--out", tmp_path / "out")
    assert code == 0
    plain = json.loads(text)
    assert plain == json.loads((tmp_path / "out" / "mapping.json").read_text())
    mapping = sf.map_net(net, "loihi1")
    assert plain["chips"] == 1
    assert plain["fits"] is True
    assert [core["use"]["neurons"] for core in plain["cores"]] == [core.use.neurons for core in mapping.cores]
    assert {c["connection"]: c["axons"] for c in plain["connections"]} == {
        t.connection: t.axons for t in mapping.traffic
    }
    assert plain["limits"]["neurons"] == 1024
    assert (tmp_path / "out" / "mapping.png").stat().st_size > 10_000


def test_the_picture_of_one_mapping_is_always_the_same(net: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_mapping(sf.map_net(net, "loihi2"), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_chip_of_one_core_a_layer_shows_its_limits_and_that_nothing_is_simulated(net: Path, tmp_path: Path) -> None:
    code, text = run(net, "--hardware", "speck")
    assert code == 0
    (row,) = (line for line in text.splitlines() if "conv1" in line)
    assert "168 of 32,768 (1%)" in row
    assert "not simulated and nothing is priced" in text
    assert "every limit is kept" in text
    code, text = run(net, "--hardware", "speck", "--json", "--out", tmp_path / "out")
    plain = json.loads(text)
    assert (code, plain["fits"], plain["simulated"], plain["limits"]) == (0, True, False, {"cores": 9})
    assert plain == json.loads((tmp_path / "out" / "mapping.json").read_text())
    assert plain["layers"][0]["used"]["neurons"] == 168
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mapping.json"], "no mesh, no picture of one"


def test_layers_that_no_core_holds_are_listed_and_end_with_exit_code_1(tmp_path: Path) -> None:
    graph = random_graph(0)
    wide = replace(graph.neurons[2], shape=(70_000,), bias_mantissa=np.int64(0))
    into, out = graph.synapses[-2:]
    into, out = (replace(s, weight=np.zeros(size, np.int64)) for s, size in ((into, (70_000, 72)), (out, (3, 70_000))))
    sf.save_nir(replace(graph, neurons=(*graph.neurons[:2], wide, graph.neurons[3]),
                        synapses=(*graph.synapses[:2], into, out)), tmp_path / "net.nir")  # fmt: skip
    code, text = run(tmp_path / "net.nir", "--hardware", "speck")
    assert code == 1
    assert "does not run as it is, 3 rules are broken" in text
    for violation in ("weights: layer fc1 uses 5,040,000, limit 65,536", "neurons: layer fc1 uses 70,000, limit 65,536",
                      "weights: layer output uses 210,000, limit 65,536"):  # fmt: skip
        assert violation in text
