"""Every command on a user's own net, and every refusal, as a user meets them: in a child process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from small_event_nets import write_user_project
from spikefold.converters.nir_file import load_nir
from spikefold.deploy.lava.interpreter import explain_missing, lava_python

EXPORT = ("export", "sefnet:build", "--checkpoint", "w.pt", "--data", "train.npz", "--time-steps", "4")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    write_user_project(folder, "sefnet")
    (folder / "models").mkdir()
    (folder / "models" / "__init__.py").write_text("raise RuntimeError('a decoy was imported')\n")
    return folder


def spikefold(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from spikefold.deploy.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def answer(folder: Path, *arguments: str) -> object:
    done = spikefold(folder, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def exported(project: Path) -> dict[str, Path]:
    files = {}
    for mode in ("static", "dynamic"):
        result = answer(project, *EXPORT, "--attention", mode, "--out", f"out-{mode}")
        assert result["attention"] == mode
        files[mode] = project / result["files"]["nir"]
    return files


def test_export_writes_a_step_graph_for_static_nets_only(project: Path, exported: dict[str, Path]) -> None:
    assert sorted(p.name for p in project.glob("out-*")) == [
        "out-dynamic.nir", "out-dynamic.onnx", "out-static.float.step.onnx", "out-static.nir", "out-static.onnx",
        "out-static.step.onnx",
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_simulate_gives_the_same_answer_on_every_backend_without_lava(
    project: Path, exported: dict[str, Path], mode: str
) -> None:
    results = [
        answer(project, "simulate", str(exported[mode]), "--data", "test.npz", "--backend", backend)
        for backend in ("onnx", "torch", "reference")
    ]
    for result in results:
        result.pop("seconds")
        result.pop("backend")
    assert results[0] == results[1] == results[2]
    assert results[0]["samples"] == 9
    assert results[0]["synops"] > 0


@pytest.mark.lava
@pytest.mark.skipif(lava_python() is None, reason=explain_missing())
def test_simulate_on_lava_counts_the_same_spikes(project: Path, exported: dict[str, Path]) -> None:
    arguments = ("simulate", str(exported["dynamic"]), "--data", "test.npz", "--samples", "3")
    lava, onnx = (answer(project, *arguments, "--backend", backend) for backend in ("lava", "onnx"))
    assert lava["layers"] == onnx["layers"]
    assert lava["predictions"] == onnx["predictions"]


@pytest.mark.lava
@pytest.mark.skipif(lava_python() is None, reason=explain_missing())
def test_a_lava_run_past_its_time_limit_is_one_error(project: Path, exported: dict[str, Path]) -> None:
    done = spikefold(
        project, "simulate", str(exported["static"]), "--data", "test.npz", "--backend", "lava", "--time-limit", "0.05"
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "0.05" in done.stderr


def test_energy_prices_every_chip_with_ranges(project: Path, exported: dict[str, Path]) -> None:
    prices = answer(project, "energy", str(exported["dynamic"]), "--data", "test.npz")
    assert sorted(prices) == ["cmos45", "loihi1", "loihi2"]
    for price in prices.values():
        assert 0 < price["total"]["low"] <= price["total"]["value"] <= price["total"]["high"]
    assert prices["loihi1"]["lower_bound"]
    assert prices["loihi2"]["estimate"]
    assert prices["loihi1"]["chips"] == 1
    assert prices["loihi1"]["fits"] is False
    assert prices["loihi1"]["latency"]["low"] > 0


def test_export_reduces_thresholds_and_says_so_in_the_file(project: Path) -> None:
    result = answer(project, *EXPORT, "--threshold-levels", "3", "--out", "few")
    written = load_nir(project / "few.nir")
    assert written.provenance["threshold_palette"] == {"levels": 3, "layers": result["threshold_palette"]}
    assert [layer["name"] for layer in result["threshold_palette"]] == [n.name for n in written.neurons if n.fires]
    for file in project.glob("few.*"):
        file.unlink()


def test_verify_passes_for_a_user_net_and_writes_its_layers(project: Path) -> None:
    arguments = ("--attention", "dynamic", "--samples", "4", "--lava-samples", "0", "--out", "verified")
    result = answer(project, "verify", *EXPORT[1:], *arguments)
    assert result["passed"] is True
    assert json.loads((project / "verified" / "verification.json").read_text()) == result
    assert len((project / "verified" / "layers.csv").read_text().splitlines()) == 1 + len(result["states"])


def test_verify_takes_a_file_in_the_mode_that_it_has(project: Path) -> None:
    answer(project, *EXPORT, "--attention", "dynamic", "--threshold-levels", "1", "--out", "given")
    arguments = ("--samples", "4", "--lava-samples", "0")
    given = answer(project, "verify", *EXPORT[1:], *arguments, "--file", "given.nir")
    assert (given["passed"], given["mode"]) == (True, "dynamic")
    for file in project.glob("given.*"):
        file.unlink()


def test_compare_takes_every_rung_of_the_ladder(project: Path) -> None:
    modes = ("static", "scheduled", "causal", "dynamic")
    rows = answer(
        project, "compare", "sefnet:build", "--checkpoint", "w.pt", "--data", "test.npz", "--calibration", "train.npz",
        "--lava-samples", "0", "--out", "ladder", "--samples", "4", *(x for m in modes for x in ("--attention", m)),
    )  # fmt: skip
    assert [r["mode"] for r in rows] == list(modes)
    assert (project / "ladder" / "accuracy-energy.png").is_file()


def test_compare_puts_a_user_net_in_both_modes(project: Path) -> None:
    rows = answer(
        project, "compare", "sefnet:build", "--checkpoint", "w.pt", "--data", "test.npz", "--calibration", "train.npz",
        "--lava-samples", "0", "--out", "compared",
    )  # fmt: skip
    assert [r["mode"] for r in rows] == ["static", "dynamic"]
    assert rows[0]["gate_operations"] == 0 < rows[1]["gate_operations"]
    assert sorted(p.name for p in (project / "compared").iterdir()) == [
        "accuracy-energy.png",
        "table.csv",
        "table.json",
    ]


def test_info_describes_files_and_the_installation(project: Path, exported: dict[str, Path]) -> None:
    assert answer(project, "info", str(exported["dynamic"]))["attention"] == "dynamic"
    assert "LIF" in answer(project, "info", "out-static.onnx")["functions"]
    assert answer(project, "info", "asa")["model"] == "asa-dvsnet"
    assert "fsta" in answer(project, "info")["shipped nets"]


def _refused(folder: Path, *arguments: str) -> str:
    before = sorted(p.name for p in folder.rglob("*"))
    done = spikefold(folder, *arguments)
    after = sorted(p.name for p in folder.rglob("*") if "__pycache__" not in str(p))
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert set(after) - set(before) == set(), "a refused command left a file"
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("export", "sefnet:pooled", "--data", "train.npz", "--time-steps", "4"), "max_pool2d"),
        (("export", "sefnet:training", "--data", "train.npz", "--time-steps", "4"), "training"),
        (("export", "sefnet:missing", "--data", "train.npz"), "missing"),
        (("export", "sefnet:not_a_net", "--data", "train.npz"), "int"),
        (("export", "no_such_module:build", "--data", "train.npz"), "no_such_module"),
        (("export", "nobody", "--data", "train.npz"), "'nobody'"),
        ((*EXPORT[:-1], "0"), "T = 0"),
        ((*EXPORT[:-1], "7"), "T = 4"),
        (("export", "asa", "--data", "train.npz"), "'asa'"),
        (("export", "sefnet:build", "--checkpoint", "train.npz", "--data", "train.npz"), "train.npz"),
        (("simulate", "nothing.nir", "--data", "test.npz"), "nothing.nir"),
        (("verify", "out-static.nir", "--data", "train.npz"), "--file out-static.nir"),
        (("simulate", "out-static.nir"), "(10, 4, 2, 32, 32)"),
        (("simulate", "out-static.nir", "--data", "test.txt"), "test.txt"),
        (("energy", "out-static.nir", "--data", "test.npz", "--hardware", "unsourced.yaml"), "source"),
        (("energy", "out-static.nir", "--data", "test.npz", "--hardware", "loihi9"), "loihi9"),
        (("energy", "out-static.nir", "--data", "test.npz", "--hardware", "speck"), "speck: has limits only"),
        (("compare", "nobody", "--hardware", "speck"), "speck: has limits only"),
        (("compare", "sefnet:build", "--data", "test.npz"), "--calibration"),
        (("info", "truncated.nir"), "truncated.nir"),
        (("info", "sefnet.py"), "sefnet.py"),
        (("train", "nobody"), "'nobody'"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_ends_with_one_line_that_names_it(
    project: Path, exported: dict[str, Path], arguments: tuple[str, ...], named: str
) -> None:
    whole = exported["static"].read_bytes()
    (project / "truncated.nir").write_bytes(whole[: len(whole) // 2])
    (project / "unsourced.yaml").write_text(_without_a_source())
    if arguments[:2] == ("simulate", "out-static.nir") and len(arguments) == 2:
        arguments = (*arguments, "--samples", "4")
    assert named in _refused(project, *arguments)


def _without_a_source() -> str:
    from importlib.resources import files

    lines = (files("spikefold.hardware_configs") / "loihi1.yaml").read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if "source" in line and "{" in line)
    entry = lines[at]
    start = entry.index("source")
    return "\n".join([*lines[:at], entry[:start] + "ignored" + entry[start + len("source") :], *lines[at + 1 :]])


def test_a_checkpoint_with_nan_names_the_weight(project: Path) -> None:
    import torch

    state = torch.load(project / "w.pt", weights_only=True)
    state["head.weight"][0, 0] = float("nan")
    torch.save(state, project / "nan.pt")
    assert "head.weight" in _refused(
        project, "export", "sefnet:build", "--checkpoint", "nan.pt", "--data", "train.npz", "--time-steps", "4"
    )


def test_a_checkpoint_of_another_architecture_names_what_differs(project: Path) -> None:
    import torch

    torch.save({"other.weight": torch.zeros(3)}, project / "other.pt")
    message = _refused(
        project, "export", "sefnet:build", "--checkpoint", "other.pt", "--data", "train.npz", "--time-steps", "4"
    )
    assert "conv.weight is missing" in message


def test_a_pickle_with_code_is_not_run(project: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, ("evil-was-here", "w"))

    (project / "evil.pt").write_bytes(pickle.dumps(Evil()))
    _refused(project, "export", "sefnet:build", "--checkpoint", "evil.pt", "--data", "train.npz", "--time-steps", "4")
    assert not (project / "evil-was-here").exists()


def test_event_data_that_is_not_finite_is_refused_by_name(project: Path) -> None:
    frames = np.zeros((2, 4, 2, 8, 8), dtype=np.float32)
    frames[0, 0, 0, 0, 0] = np.inf
    np.savez(project / "infinite.npz", frames=frames)
    message = _refused(project, "export", "sefnet:build", "--data", "infinite.npz", "--time-steps", "4")
    assert "infinite.npz" in message
