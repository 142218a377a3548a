"""Sweeps: the same table whoever does the work, nothing computed twice, nothing lost when it is interrupted."""

from __future__ import annotations

import copy
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

import spikefold as sf
from gate_networks import ChannelThenSpatial, GateNet
from networks import Chain
from small_event_nets import seeded_net, write_user_project
from spikefold.converters.calibrate import calibrate
from spikefold.deploy.cache import Cache
from spikefold.deploy.cli import app
from spikefold.deploy.comparison import paired
from spikefold.deploy.sources import NamedNet
from spikefold.deploy.stored import digest
from spikefold.deploy.sweep import Sweep, sweep
from spikefold.deploy.sweep_jobs import same_floats
from spikefold.errors import BackendError, HardwareConfigError, InputError, LoweringError, SpikefoldWarning

Clips = NDArray[np.generic]
CHIPS = ("loihi1", "loihi2", "cmos45")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """A cache of this test alone."""
    monkeypatch.setenv("SPIKEFOLD_CACHE", str(tmp_path / "cache"))
    return Cache()


@pytest.fixture(scope="module")
def clips() -> Clips:
    generator = np.random.default_rng(3)
    rates = np.where(np.arange(40) % 3, 0.3, 0.12)[:, None, None, None]  # so that answers differ
    return (generator.random((4, 40, 2, 8, 8)) < rates).astype(np.uint8)


@pytest.fixture(scope="module")
def net() -> NamedNet:
    module = seeded_net(7)
    module.head.bias.data.zero_()
    return NamedNet("mine", module)


@pytest.fixture(scope="module")
def fixed(net: NamedNet, clips: Clips) -> sf.FixedPointGraph:
    """The net, lowered as a sweep does it with the first eight clips."""
    captured = sf.capture(net.module, torch.from_numpy(clips[:, :1]))
    with same_floats():
        return sf.lower(captured, calibrate(captured, clips[:, :8]), "dynamic", name="mine")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Dask cluster of two worker processes on this machine."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


def swept(nets: Any, clips: Clips, **options: Any) -> Sweep:
    """A sweep over 32 clips, calibrated on 8, in this process unless it is said otherwise."""
    options = {"jobs": 1, "shard": 12, "calibration_samples": 8, **options}
    nets = nets if isinstance(nets, list) else [nets]
    return sweep(nets, clips[:, :8], clips[:, 8:], np.arange(32) % 3, **options)


def test_rows_are_what_the_single_commands_give(net: NamedNet, fixed: sf.FixedPointGraph, clips: Clips) -> None:
    rows = swept(net, clips, modes=("static", "dynamic"), hardware=CHIPS).rows
    assert [(r.net, r.mode, r.hardware) for r in rows] == [
        ("mine", mode, chip) for mode in ("static", "dynamic") for chip in CHIPS
    ]
    run = sf.run(fixed, clips[:, 8:])
    right = run.predictions == np.arange(32) % 3
    for row, chip in zip(rows[3:], CHIPS, strict=True):
        assert digest(row.price) == digest(sf.price(run, chip))
        assert digest(row.activity) == digest(run.activity)
        np.testing.assert_array_equal(row.right, right)
        assert row.against_first == paired(rows[0].right, right)
    assert len(set(run.predictions)) > 1
    assert rows[0].right.tolist() != right.tolist()


@pytest.mark.full
def test_the_table_is_the_same_for_any_number_of_workers(net: NamedNet, clips: Clips, address: str) -> None:
    options = {"modes": ("static", "causal"), "seeds": (None, 5), "hardware": ("loihi1", "cmos45"), "cache": False}
    one = swept(net, clips, **options)
    assert len({digest(row) for row in one.rows}) == len(one.rows) == 8
    for other in (swept(net, clips, jobs=2, **options), swept(net, clips, cluster=address, **options)):
        assert digest(other.rows) == digest(one.rows)
        assert (other.computed, other.reused) == (one.computed, 0)


@pytest.mark.parametrize("shard", [1, 7, 32, 100])
def test_integers_do_not_depend_on_how_samples_are_dealt_out(
    fixed: sf.FixedPointGraph, clips: Clips, shard: int
) -> None:
    whole = sf.run(fixed, clips[:, 8:])
    (row,) = swept(fixed, clips, shard=shard).rows
    assert digest(row.price, row.activity) == digest(sf.price(whole, "loihi1"), whole.activity)
    np.testing.assert_array_equal(row.right, whole.predictions == np.arange(32) % 3)


def test_shards_that_are_alike_are_run_once_and_counted_each(fixed: sf.FixedPointGraph, clips: Clips) -> None:
    twice = np.concatenate([clips[:, :4]] * 2, axis=1)
    done = sweep([fixed], clips, twice, np.zeros(8, np.int64), shard=4, jobs=1)
    assert digest(done.rows[0].activity) == digest(sf.run(fixed, twice).activity)
    assert done.computed == 2  # one run, one placement


def test_what_was_computed_is_not_computed_again_and_is_the_same(net: NamedNet, clips: Clips) -> None:
    options = {"modes": ("static", "dynamic"), "hardware": CHIPS}
    first, again = (swept(net, clips, **options) for _ in range(2))
    without = swept(net, clips, cache=False, **options)
    assert (first.reused, again.computed, again.reused) == (0, 0, first.computed)
    assert digest(first.rows) == digest(again.rows) == digest(without.rows)
    assert without.reused == 0
    more = swept(net, clips, modes=("static", "dynamic", "causal"), hardware=CHIPS)
    assert more.reused == first.computed
    assert more.computed == 1 + 3 + 2  # lowered, run on three shards, placed on two chips


def test_without_the_cache_nothing_is_kept(fixed: sf.FixedPointGraph, clips: Clips, cache: Cache) -> None:
    swept(fixed, clips, cache=False)
    assert not cache.folder.exists()


def test_other_weights_clips_labels_or_chips_are_not_answered_from_the_cache(
    net: NamedNet, fixed: sf.FixedPointGraph, clips: Clips, tmp_path: Path
) -> None:
    swept(fixed, clips)
    first = fixed.neurons[0]
    calmer = replace(fixed, neurons=(replace(first, v_threshold=first.v_threshold + 1), *fixed.neurons[1:]))
    assert swept(calmer, clips).reused == 0
    assert swept(fixed, np.roll(clips, 1, axis=2), hardware=("loihi1",)).computed == 3
    done = sweep([fixed], clips, clips[:, 8:], np.full(32, 2), shard=12, jobs=1)
    assert (done.computed, done.rows[0].accuracy) == (
        0, float((sf.run(fixed, clips[:, 8:]).predictions == 2).mean())
    )  # fmt: skip
    source = Path(sf.__file__).parent / "hardware_configs" / "loihi1.yaml"
    (tmp_path / "loihi1.yaml").write_text(source.read_text().replace("Loihi", "Loyhi"))
    assert swept(fixed, clips, hardware=(tmp_path / "loihi1.yaml",)).computed == 1
    swept(net, clips)
    other = copy.deepcopy(net.module)
    other.norm.bias.data += 0.1  # type: ignore[operator, union-attr]
    assert swept(NamedNet("mine", other), clips).reused == 0


def test_an_interrupted_sweep_goes_on_where_it_was(net: NamedNet, clips: Clips) -> None:
    options = {"modes": ("static", "dynamic"), "shard": 4}
    whole = swept(net, clips, cache=False, **options)
    seen: list[str] = []

    def interrupt(line: str) -> None:
        seen.append(line)
        if line.startswith("run: 5 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept(net, clips, report=interrupt, **options)
    rest = swept(net, clips, **options)
    assert digest(rest.rows) == digest(whole.rows)
    assert rest.reused == sum(" of " in line for line in seen) == 1 + 2 + 5
    assert rest.computed == whole.computed - rest.reused


@pytest.mark.parametrize("content", [b"", b"x" * 5000, None])
def test_damage_in_the_cache_costs_time_and_a_warning_but_changes_nothing(
    fixed: sf.FixedPointGraph, clips: Clips, cache: Cache, content: bytes | None
) -> None:
    before = swept(fixed, clips)
    for path in cache.folder.rglob("*.npz"):
        if content is None:  # whole, but of another kind than its place says
            cache.put(path.parent.name, path.stem, ('{"logits": 3}', []))
        else:
            path.write_bytes(content)
    with pytest.warns(SpikefoldWarning, match="damaged"):
        after = swept(fixed, clips)
    assert digest(after.rows) == digest(before.rows)
    assert (after.computed, swept(fixed, clips).computed) == (before.computed, 0)


def test_lowered_nets_stand_in_the_order_given(
    net: NamedNet, fixed: sf.FixedPointGraph, clips: Clips, tmp_path: Path
) -> None:
    sf.save_nir(fixed, tmp_path / "file.nir")
    rows = swept([tmp_path / "file.nir", net, fixed], clips, modes=("static", "dynamic")).rows
    assert [(r.net, r.mode, r.bits) for r in rows] == [
        ("file", "dynamic", None), ("mine", "static", 8), ("mine", "dynamic", 8), ("mine", "dynamic", None)
    ]  # fmt: skip
    assert [r.against_float is None for r in rows] == [True, False, False, True]
    assert [r.against_first.gained + r.against_first.lost == 0 for r in rows][0::2] == [True, True]
    assert digest(rows[2].price.lines) == digest(rows[3].price.lines)


def test_a_net_without_gates_has_one_mode(clips: Clips) -> None:
    rows = swept(NamedNet("plain", Chain().eval()), clips, modes=("static", "causal", "dynamic")).rows
    assert [r.mode for r in rows] == ["none"]


def test_thresholds_are_reduced_as_asked(clips: Clips) -> None:
    torch.manual_seed(0)
    net = NamedNet("a threshold a pixel", GateNet(ChannelThenSpatial(), "TB").eval())
    rows = swept(net, clips, threshold_levels=(None, 1)).rows
    assert [r.threshold_levels for r in rows] == [None, 1]
    assert max(layer.threshold_levels for layer in rows[0].activity.layers) > 1
    assert max(layer.threshold_levels for layer in rows[1].activity.layers) == 1


def test_a_seed_draws_the_samples_that_calibrate(net: NamedNet, clips: Clips, cache: Cache) -> None:
    first = swept(net, clips, seeds=(None,), hardware=("cmos45",))
    same = swept(net, clips, seeds=(0,), hardware=("cmos45",))  # eight of eight
    assert same.computed == 0
    assert digest(same.rows[0].price) == digest(first.rows[0].price)
    rows = swept(net, clips, seeds=(None, 0, 1), calibration_samples=4, hardware=("cmos45",)).rows
    assert [r.seed for r in rows] == [None, 0, 1]
    assert len({digest(r.price) for r in rows}) > 1
    held = {h.kind: h.entries for h in cache.held()}
    assert held["calibration"] == held["lowered"] == 1 + 3


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"modes": ("statik",)}, InputError, "statik"),
        ({"modes": ()}, InputError, "modes: give at least one"),
        ({"hardware": ()}, InputError, "hardware: give at least one"),
        ({"hardware": ("speck",)}, HardwareConfigError, "no energy"),
        ({"shard": 0}, InputError, "samples of a shard: 0"),
        ({"calibration_samples": 0}, InputError, "calibration samples: 0"),
        ({"bits": (5,)}, LoweringError, "bits is 5"),
        ({"jobs": 0}, InputError, "jobs is 0"),
        ({"cluster": "nonsense://x"}, BackendError, "no Dask scheduler"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(
    net: NamedNet, clips: Clips, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        swept(net, clips, **options)


def test_labels_of_another_length_are_refused(fixed: sf.FixedPointGraph, clips: Clips) -> None:
    with pytest.raises(InputError, match="3 labels for 40 clips"):
        sweep([fixed], clips, clips, np.zeros(3, np.int64))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a net, its weights and data."""
    write_user_project(tmp_path, "sweeping_net")
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMAND = ["sweep", "sweeping_net:build", "--checkpoint", "w.pt", "--data", "test.npz", "--calibration", "train.npz"]


def test_the_command_writes_one_table_in_three_forms(project: Path) -> None:
    options = ["--attention", "static", "--attention", "dynamic", "--hardware", "loihi1", "--hardware", "cmos45"]
    done = CliRunner().invoke(app, [*COMMAND, *options, "--jobs", "1", "--out", "out", "--json"])
    assert done.exit_code == 0, done.output
    plain = json.loads(done.stdout)
    assert plain["rows"] == json.loads((project / "out" / "sweep.json").read_text())
    table = list(csv.DictReader((project / "out" / "sweep.csv").open()))
    text = (project / "out" / "sweep.md").read_text().splitlines()
    assert len(plain["rows"]) == len(table) == len(text) - 2 == 4
    for entry, line, shown in zip(plain["rows"], table, text[2:], strict=True):
        assert float(line["joules"]) == entry["joules"] > 0
        assert len(entry["wrong"]) == entry["samples"] - entry["right"]
        assert entry["mode"] in shown
        assert f"{entry['accuracy']:.1%}" in shown
    again = CliRunner().invoke(app, [*COMMAND, *options, "--jobs", "1"])
    assert again.stdout.splitlines()[:-1] == text
    assert again.stdout.splitlines()[-1].endswith(f": 0 computed, {plain['computed']} from the cache")


def test_the_command_can_do_without_a_cache(project: Path, cache: Cache) -> None:
    done = CliRunner().invoke(app, [*COMMAND, "--jobs", "1", "--no-cache"])
    assert done.exit_code == 0, done.output
    assert not cache.folder.exists()


def test_the_command_asks_for_training_samples_where_nets_are_to_be_lowered(project: Path) -> None:
    with pytest.raises(InputError, match="--calibration"):
        CliRunner().invoke(app, COMMAND[:6], catch_exceptions=False)


@pytest.mark.full
def test_the_command_can_be_interrupted_from_the_keyboard_and_goes_on(project: Path, cache: Cache) -> None:
    frames = np.tile(np.load("test.npz")["frames"], (40, 1, 1, 1, 1))
    frames[:, 0, 0, 0, :8] = np.unpackbits(
        np.arange(len(frames), dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1
    )[:, :8]
    np.savez("test.npz", frames=frames, labels=np.arange(len(frames)) % 3)
    # also where the tests themselves were started in the background, without an interrupt to inherit
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "from spikefold.deploy.cli import main; main()"
    command = [sys.executable, "-c", program, *COMMAND, "--shard", "2", "--jobs", "2"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list((cache.folder / "run").glob("[0-9a-f]*.npz"))) < 5 and time.monotonic() < deadline:
        assert child.poll() is None, child.stdout and child.stdout.read()
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does it: to all processes
    child.communicate(timeout=60)
    assert child.returncode != 0
    kept = sum(h.entries for h in cache.held())
    done = CliRunner().invoke(app, [*COMMAND, "--shard", "2", "--jobs", "1", "--json"])
    plain = json.loads(done.stdout)
    assert kept <= plain["reused"]
    assert plain["computed"] > 0
    fresh = CliRunner().invoke(app, [*COMMAND, "--shard", "250", "--jobs", "1", "--json", "--no-cache"])
    strip = ("against_float",)
    assert [{k: v for k, v in r.items() if not k.startswith(strip)} for r in plain["rows"]] == [
        {k: v for k, v in r.items() if not k.startswith(strip)} for r in json.loads(fresh.stdout)["rows"]
    ]
