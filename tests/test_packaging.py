from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

import spikefold
from spikefold.deploy.doctor import LAVA, LAVA_NEEDS

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("models", "converters", "deploy", "hardware_configs")
PACKAGED = {".py", ".safetensors", ".nir", ".yaml", ".jinja", ".css", ".js"}


def run(*command: str | Path, cwd: Path, path: str = "") -> str:
    """Output of a program that must succeed."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from an sdist, built from a copy of the tree: what an earlier build left behind stays out."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("src", "tests", *PARTS):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignore)
    run(sys.executable, "-P", "-m", "build", "--no-isolation", cwd=tree)
    (built,) = (tree / "dist").glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_every_module_and_data_file_and_nothing_else(wheel: Path) -> None:
    source = {p for p in (ROOT / "src" / "spikefold").glob("*.py")}
    expected = {f"spikefold/{p.name}" for p in source} | {"spikefold/py.typed"}
    for part in PARTS:
        files = (p for p in (ROOT / part).rglob("*") if p.suffix in PACKAGED and "__pycache__" not in p.parts)
        expected |= {f"spikefold/{p.relative_to(ROOT)}" for p in files}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (licence,) = (name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert names == expected
    assert {f"spikefold/models/checkpoints/{name}.safetensors" for name in ("plain", "asa", "fsta")} <= names


@pytest.mark.slow
def test_wheel_works_beside_packages_of_the_same_names(wheel: Path, tmp_path: Path) -> None:
    """Most repositories have a package `models`; ours must neither take its place nor mistake it for ours."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    user = tmp_path / "user"
    for part in PARTS:
        (user / part).mkdir(parents=True)
        (user / part / "__init__.py").write_text("USERS = True\n")
    program = (
        "import models, converters, deploy, hardware_configs\n"
        "import spikefold, spikefold.models, spikefold.converters.lower, spikefold.deploy.price\n"
        "from spikefold.deploy.hardware import shipped_hardware\n"
        "assert models.USERS and converters.USERS and deploy.USERS and hardware_configs.USERS\n"
        "assert len(shipped_hardware()) >= 3\n"
        "spikefold.load(spikefold.models.shipped('fsta'))\n"
        "print(spikefold.__file__)\n"
    )
    printed = run(sys.executable, "-c", program, cwd=user, path=str(tmp_path / "installed"))
    assert Path(printed.strip()) == tmp_path / "installed" / "spikefold" / "__init__.py"


def test_importing_the_package_costs_nothing(tmp_path: Path) -> None:
    program = "import sys, spikefold; print(sorted({'torch', 'numpy', 'onnx', 'pydantic'} & set(sys.modules)))"
    assert run(sys.executable, "-P", "-c", program, cwd=tmp_path) == "[]\n"


@pytest.mark.parametrize("name", sorted(spikefold._HOMES))
def test_public_name_is_there(name: str) -> None:
    module, _, attribute = spikefold._HOMES[name].partition(":")
    assert getattr(spikefold, name) is getattr(import_module(f"spikefold.{module}"), attribute)


def test_lists_of_public_names_agree() -> None:
    tree = ast.parse(Path(spikefold.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imports == {name: f"spikefold.{home}" for name, home in spikefold._HOMES.items()}
    assert set(spikefold.__all__) == {*spikefold._HOMES, "__version__"}
    assert set(spikefold.__all__) <= set(dir(spikefold))


def test_version_is_that_of_the_metadata() -> None:
    assert spikefold.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'spikefold' has no attribute 'lod'"):
        _ = spikefold.lod


def pins() -> dict[str, str]:
    lines = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#")
    return {plain(name): version for name, version in lines}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [
        *project["dependencies"],
        *(r for extra in project["optional-dependencies"].values() for r in extra),
    ]
    names = {plain(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}  # type: ignore[index]
    assert len(names) > 12
    assert names <= pins().keys()


def test_numpy_is_capped_for_lava_only() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not [requirement for requirement in project["dependencies"] if "<" in requirement]
    assert pins()["numpy"].startswith("1.26.")


def test_doctor_installs_the_lava_that_make_installs() -> None:
    for requirement in (*LAVA_NEEDS, LAVA):
        name, version = requirement.split("==")
        assert pins()[plain(name)] == version
