"""Mutation testing: change one operator, number or condition of a module at a time, and see whether a test fails.

Mutants are Cosmic Ray's. A module has hundreds, so a sample is drawn with a seed: every place of the source comes once
before any comes twice. Everything happens in a copy of the repository; a mutant is tested in a forked process, so that
torch is loaded once. ``make mutants`` runs all modules, ``python tests/mutants.py deploy/count`` those that it names.
"""

from __future__ import annotations

import difflib
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from ast import AnnAssign, FunctionDef, arg, keyword, parse, walk
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
SEED, SAMPLE = 1, 20  # mutants of each module
MEMORY = 12 * 2**30
"""Bytes of addresses that a mutant may ask for, so that one that asks for all is killed and not the machine."""
BESIDE = {
    "converters/arithmetic": "arithmetic reference", "converters/reference": "reference arithmetic",
    "converters/whole_sums": "whole_sums", "converters/number_format": "number_format quantise",
    "converters/ranges": "membrane_range onnx/ranges", "converters/gate_program": "gate_program gate_quantise",
    "deploy/price_chip": "price_chip price", "deploy/price": "price price_chip", "deploy/paper_energy": "paper_energy",
    "deploy/lemaire": "lemaire", "deploy/count": "run", "deploy/quantity": "hardware ../hostile/hardware_files",
    "deploy/mapping/split": "split", "deploy/mapping/pack": "split", "deploy/mapping/place": "place",
    "deploy/mapping/routes": "routes place", "deploy/mapping/demand": "demand", "deploy/mapping/rules": "rules",
    "deploy/mapping/work": "../price_chip", "deploy/mapping/layer_cores": "layer_cores",
}  # fmt: skip
"""Modules and the tests that should notice a change in them, by name, beside the module in the tree of tests."""
LOADED_ONCE = (
    "numpy", "torch.export", "torch._dynamo", "hypothesis", "numba", "nir", "h5py", "onnx", "onnxruntime", "pydantic",
    "pint", "yaml", "safetensors.torch", "typer", "rich.table",
)  # fmt: skip
"""What tests import of others, loaded before the processes part."""
NEVER_RAN = 99


def mutants(source: str) -> list[tuple[str, int]]:
    """Every mutant of a module, in the order in which they are tried.

    Left alone is what no run can tell: annotations, the guards ``strict`` of zip and ``frozen`` of dataclasses, and the
    choice between ``==`` and ``is``, the same for None, members of an enumeration and small numbers.
    """
    guards = []
    for node in walk(parse(source)):
        found = [node.annotation] if isinstance(node, (arg, AnnAssign)) else []
        found += [node.returns] if isinstance(node, FunctionDef) else []
        found += [node.value] if isinstance(node, keyword) and node.arg in ("strict", "frozen") else []
        guards += [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in found if n is not None]
    nodes = list(ast_nodes(get_ast(source)))
    places: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for name in operator_names():
        if get_operator(name).arguments() or sum(side in ("Is", "IsNot") for side in name.split("_")) == 1:
            continue
        operator = get_operator(name)()
        starts = (start for node in nodes for start, _ in operator.mutation_positions(node))
        for occurrence, start in enumerate(starts):
            if not any(first <= start < last for first, last in guards):
                places.setdefault(start, []).append((name, occurrence))
    drawn = random.Random(SEED)  # noqa: S311 (a sample, not a secret)
    for here in places.values():
        drawn.shuffle(here)
    ranked = [(rank, drawn.random(), mutant) for here in places.values() for rank, mutant in enumerate(here)]
    return [mutant for _, _, mutant in sorted(ranked)]


def run_tests(copy: Path, module: str, output: Path, seconds: int | None) -> None:
    """Run the tests of a module in the copy, in this process, and leave with pytest's exit status."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = sys.path[0] = str(copy / "src")
    if seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    files = [Path("tests", module).parent / name for name in BESIDE[module].split()]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow and not full and not lava"]
    status = pytest.main([*options, *(os.path.normpath(f.with_name(f"test_{f.name}.py")) for f in files)])
    tested = sys.modules.get("spikefold." + module.replace("/", "."))
    ran = tested is not None and (copy / f"{module}.py").samefile(str(tested.__file__))
    sys.exit(int(status) if status or ran else NEVER_RAN)


def outcome(copy: Path, module: str, seconds: int | None, output: Path) -> str:
    """What the tests say of the module as it stands in the copy: ``survived``, ``killed`` or ``timed out``.

    ``seconds`` are of the processor's time, so that a busy machine kills no mutant; None is for no mutant.
    """
    child = multiprocessing.get_context("fork").Process(target=run_tests, args=(copy, module, output, seconds))
    child.start()
    child.join(None if seconds is None else 20 * seconds)
    if child.is_alive():
        os.killpg(child.pid or 0, signal.SIGKILL)
        child.join()
    if child.exitcode == NEVER_RAN:
        raise SystemExit(f"{module}: its tests never import it; name others in BESIDE")
    late = child.exitcode in (-signal.SIGKILL, -signal.SIGXCPU)
    return "timed out" if late else "killed" if child.exitcode else "survived"


def main(modules: list[str]) -> None:
    """Try the sample of every module and print its table."""
    for name in LOADED_ONCE:
        import_module(name)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        copy, output = Path(folder) / "copy", Path(folder) / "output.txt"
        shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".*", "__pycache__", "demo-out"))
        for module in modules or BESIDE:
            path = copy / f"{module}.py"
            source, before = path.read_text(), sum(os.times()[2:4])
            if outcome(copy, module, None, output) != "survived":
                raise SystemExit(f"{module}: its tests fail without any mutant\n{output.read_text()}")
            limit = max(10, math.ceil(3 * (sum(os.times()[2:4]) - before)))
            counts: Counter[str] = Counter()
            for name, occurrence in (found := mutants(source))[:SAMPLE]:
                mutant = mutate_code(source, get_operator(name)(), occurrence)
                path.write_text(mutant)
                counts[result := outcome(copy, module, limit, output)] += 1
                if result == "survived":
                    lines = difflib.unified_diff(source.splitlines(True), mutant.splitlines(True), module, module, n=2)
                    print(f"survived: {name} {occurrence}\n{''.join(lines)}", flush=True)
            path.write_text(source)
            tried, left = counts.total(), counts["survived"]
            rows.append(f"| `{module}` | {tried} of {len(found):,} | {tried - left} | {left} |")
            print(rows[-1], f"({counts['timed out']} timed out; {limit} s allowed)", flush=True)
    print("| module | mutants tried | killed | survived |", "|---|---:|---:|---:|", *rows, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
