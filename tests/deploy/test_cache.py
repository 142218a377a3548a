"""The cache: what comes back, damage, two processes, clearing, the command; values without pickles."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import worker_jobs
from generated_graphs import random_graph
from spikefold.deploy.cache import Cache, cache_folder, code_version
from spikefold.deploy.cli import app
from spikefold.deploy.mapping.mapper import map_net
from spikefold.deploy.stored import digest, pack, unpack
from spikefold.deploy.sweep_jobs import place_net, read_mapping
from spikefold.deploy.workers import Job, Workers
from spikefold.errors import FileFormatError, InputError, SpikefoldWarning

KEY = "ab" * 32


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("SPIKEFOLD_CACHE", str(tmp_path / "cache"))
    return Cache()


@dataclass(frozen=True)
class Inner:
    name: str
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Outer:
    inner: tuple[Inner, ...]
    pair: tuple[float, int]
    table: dict[str, NDArray[np.int64]]
    nothing: int | None
    something: Inner | None
    left_out: Any = None


def test_values_come_back_bit_for_bit_with_their_types() -> None:
    inner = Inner("ä\0", np.array([0.1, np.nan, -0.0, np.inf]))
    value = Outer((inner, inner), (0.1 + 0.2, 2**60), {"x": np.zeros((0, 3), np.int64)}, None, inner, object())
    back = unpack(Outer, pack(value, frozenset({"left_out"})), left_out=7)
    assert (back.pair, back.nothing, back.left_out, back.inner[1].name) == (value.pair, None, 7, "ä\0")
    assert digest(back.inner, back.table, back.something) == digest(value.inner, value.table, value.something)
    assert back.table["x"].shape == (0, 3)


@pytest.mark.parametrize("text", ["[]", '{"name": "x"}', '{"name": "x", "values": {"array": 5}}', "{"])
def test_values_of_another_kind_are_damage(text: str) -> None:
    with pytest.raises(FileFormatError, match="damaged"):
        unpack(Inner, (text, []))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (np.zeros(4, np.int64), np.zeros(4, np.uint64)),
        (np.zeros(4, np.int64), np.zeros((2, 2), np.int64)),
        (np.array([1, 0]), np.array([0, 1])),
        (1, "1"), (1, 1.0), (True, 1), (("ab", "c"), ("a", "bc")), ((1, (2,)), (1, 2)), (None, "None"),
        ({"a": 1}, {"b": 1}), (Inner("a", np.zeros(1)), Inner("b", np.zeros(1))),
    ],
)  # fmt: skip
def test_different_values_have_different_digests(left: object, right: object) -> None:
    assert digest(left) != digest(right)


def test_equal_values_have_equal_digests_however_they_lie_in_memory() -> None:
    array = np.arange(12).reshape(3, 4)
    assert digest(array.T) == digest(np.ascontiguousarray(array.T))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_a_value_without_a_digest_is_refused_rather_than_taken_for_another() -> None:
    with pytest.raises(TypeError, match="function has no digest"):
        digest(test_different_values_have_different_digests)


def test_a_mapping_comes_back_as_it_was(cache: Cache) -> None:
    from spikefold.deploy.hardware import load_hardware

    for graph in (random_graph(0, residual=True), random_graph(3, per_neuron_thresholds=True, relays=True)):
        cache.put("placement", KEY, place_net(graph, load_hardware("loihi2")))  # type: ignore[arg-type]
        stored, made = cache.get("placement", KEY), map_net(graph, "loihi2")
        assert stored is not None
        back = read_mapping(graph, stored)
        assert back.to_dict() == made.to_dict()  # type: ignore[union-attr]
        assert digest(back.layers, back.cores) == digest(made.layers, made.cores)  # type: ignore[union-attr]


def test_what_was_never_kept_is_not_there(cache: Cache) -> None:
    assert cache.get("run", KEY) is None
    assert cache.held() == []
    assert cache.clear() == 0


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "a flipped bit": lambda content: content[:100] + bytes([content[100] ^ 4]) + content[101:],
    "something else": lambda content: b"hello" * 100,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_said_removed_and_no_result(cache: Cache, damage: str) -> None:
    cache.put("run", KEY, ("text" * 50, [np.arange(500)]))
    path = cache.folder / "run" / f"{KEY}.npz"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.warns(SpikefoldWarning, match=r"damaged cache entry .* computed again"):
        assert cache.get("run", KEY) is None
    assert not path.exists()


def test_an_entry_under_the_name_of_another_is_no_result(cache: Cache) -> None:
    cache.put("run", KEY, ("text", []))
    other = "cd" * 32
    (cache.folder / "run" / f"{KEY}.npz").rename(cache.folder / "run" / f"{other}.npz")
    with pytest.warns(SpikefoldWarning, match="something else"):
        assert cache.get("run", other) is None


def test_pickles_in_an_entry_are_never_opened(cache: Cache) -> None:
    (cache.folder / "run").mkdir(parents=True)
    objects = np.array([{"a": 1}], dtype=object)
    np.savez(cache.folder / "run" / f"{KEY}.npz", key=np.array(KEY), text=np.zeros(1, np.uint8), array_0=objects)
    with pytest.warns(SpikefoldWarning, match="allow_pickle=False"):
        assert cache.get("run", KEY) is None


def test_two_processes_may_write_and_read_one_entry_at_once(tmp_path: Path) -> None:
    with Workers(2) as workers:
        jobs = [Job(worker_jobs.put_and_get, (tmp_path, "text" * 1000)) for _ in range(2)]
        assert [broken for _, broken in workers.results(jobs)] == [0, 0]
    assert [(h.kind, h.entries) for h in Cache(tmp_path).held()] == [("run", 1)]
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["0" * 64 + ".npz"]


def test_clearing_takes_what_a_killed_process_left_and_nothing_of_others(cache: Cache) -> None:
    cache.put("run", KEY, ("text", []))
    ours = cache.folder / "run" / f".{KEY}.0123456789ab.npz"
    theirs = [cache.folder / "run" / "results.npz", cache.folder / "notes.txt"]
    for path in (ours, *theirs):
        path.write_text("x")
    assert cache.clear() == 2
    assert not ours.exists()
    assert all(path.exists() for path in theirs)


def test_a_folder_that_cannot_be_written_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written .* set SPIKEFOLD_CACHE"):
        Cache(tmp_path / "file").put("run", KEY, ("text", []))


def test_the_folder_is_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIKEFOLD_CACHE", "here")
    assert cache_folder() == Path("here")
    monkeypatch.delenv("SPIKEFOLD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "there")
    assert cache_folder() == Path("there/spikefold/results")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "spikefold" / "results"


def test_keys_depend_on_our_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    versions = set()
    for text in ("x = 1\n", "x = 2\n"):
        (tmp_path / "deploy").mkdir(exist_ok=True)
        (tmp_path / "deploy" / "a.py").write_text(text)
        monkeypatch.setattr("spikefold.deploy.cache.resources.files", lambda _: tmp_path)
        versions.add(code_version.__wrapped__())
    assert len(versions | {code_version()}) == 3


def test_the_command_shows_and_clears(cache: Cache) -> None:
    cache.put("run", KEY, ("text", [np.arange(5000)]))
    cache.put("float", KEY, ("text", []))
    size = sum(p.stat().st_size for p in cache.folder.rglob("*.npz"))
    shown = CliRunner().invoke(app, ["cache"])
    assert f"{cache.folder}: 2 entries" in shown.stdout
    assert "run: 1 entries" in shown.stdout
    plain = json.loads(CliRunner().invoke(app, ["cache", "--json"]).stdout)
    assert sum(kind["bytes"] for kind in plain["kinds"].values()) == size
    assert set(plain["kinds"]) == {"run", "float"}
    assert "2 entries removed" in CliRunner().invoke(app, ["cache", "clear"]).stdout
    assert cache.held() == []
