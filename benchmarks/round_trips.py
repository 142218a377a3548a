"""Nets that come from other programs and go to them: where what we compute differs from what they compute.

    python benchmarks/round_trips.py

Exporters of other frameworks -> ours, ours -> ``.net`` -> lava-dl's netx, and lava-dl's ``.net`` -> ours (ours -> NIR
-> readers is `nir_readers`). Writes the table into ``docs/round_trips.md``. Rows of a program that is not installed
stay as they are.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from _nir_consumers import SINABS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "_support"))
from exported_nets import EXPORTS, Export
from lava_dl_files import shipped_file
from lava_dl_trips import NETX, RECORDED, Difference, against_netx, between, has_lava_dl, slayer
from spikefold.converters.dialects import import_nir
from spikefold.converters.float_graph import read_float_graph

PAGE = Path(__file__).parents[1] / "docs" / "round_trips.md"
BEGIN, END = "<!-- trips:begin -->", "<!-- trips:end -->"
HEAD = ("net", "what it is", "way", "compared with", "spikes", "u", "v")
SHOWN = {"snntorch": "snnTorch", "norse": "Norse", "spikingjelly": "SpikingJelly", "sinabs": "sinabs"}


def exported(export: Export) -> list[Difference]:
    """What the exporter of a framework wrote, imported and run in float64, against its own run in float32."""
    made = export.make()
    net = read_float_graph(import_nir(made.graph, export.dialect))
    _, spikes = net.run(made.clips.double())
    own = [p for p in net.populations if p.fires and not p.logic]  # without those that send biases
    return [
        between(p.name, "spikes", spikes[p.name].reshape(train.shape).numpy(), train.double().numpy())
        for p, train in zip(own, made.trains, strict=True)
    ]


def export_rows(package: str) -> list[str]:
    """Exporter of a framework -> ours."""
    program = f"{SHOWN[package]} {_version(package)}"
    chosen = [(name, export) for name, export in EXPORTS.items() if export.package == package]
    way = f"{SHOWN[package]} -> NIR -> ours"
    return [_row(f"{SHOWN[package]}, {name}", e.words, way, program, exported(e)) for name, e in chosen]


def netx_rows(group: str, way: str) -> list[str]:
    """A ``.net`` file in netx and here."""
    program, found = f"netx, lava-dl {_version('lava-dl')}", against_netx(group)
    return [_row(name, words, way, program, found[name]) for name, (words, _) in NETX[group].items()]


def recorded_rows() -> list[str]:
    """Files and recorded runs in lava-dl's wheel."""
    program, way = f"recordings in lava-dl {_version('lava-dl')}", "`.net` -> ours"
    return [_row(name, words, way, program, make()) for name, (words, make) in RECORDED.items()]


def slayer_rows() -> list[str]:
    """What slayer wrote, against slayer's own run."""
    program, words = f"slayer, lava-dl {_version('lava-dl')}", "convolution, pool, dense layers, delays"
    return [_row("slayer", words, "slayer -> `.net` -> ours", program, slayer())]


def _row(name: str, words: str, way: str, program: str, found: Sequence[Difference]) -> str:
    cells = []
    for kind in ("spikes", "u", "v"):
        of_kind = [d for d in found if d.kind == kind]
        differing, compared = sum(d.differing for d in of_kind), sum(d.compared for d in of_kind)
        cells.append(f"{differing:,} of {compared:,}" if of_kind else "-")
    return "| " + " | ".join([name, words, way, program, *cells]) + " |"


def _version(package: str) -> str:
    if package != "sinabs":
        return importlib.metadata.version(package)
    (found,) = SINABS.parents[1].glob("lib/python3*/site-packages/sinabs-*.dist-info")
    return found.name.removeprefix("sinabs-").removesuffix(".dist-info")


def _is_here(package: str) -> bool:
    return SINABS.exists() if package == "sinabs" else find_spec(package) is not None


def _has_recordings() -> bool:
    try:
        return shipped_file("tiny.net").exists()
    except FileNotFoundError:
        return False


GROUPS: Mapping[str, tuple[Callable[[], list[str]], Callable[[], bool], list[str]]] = {
    **{
        package: (
            lambda package=package: export_rows(package),
            lambda package=package: _is_here(package),
            [f"{SHOWN[package]}, {name}" for name, e in EXPORTS.items() if e.package == package],
        )
        for package in SHOWN
    },
    "written": (lambda: netx_rows("written", "ours -> `.net` -> netx"), has_lava_dl, list(NETX["written"])),
    "large": (lambda: netx_rows("large", "ours -> `.net` -> netx"), has_lava_dl, list(NETX["large"])),
    "read": (lambda: netx_rows("read", "`.net` -> ours"), has_lava_dl, list(NETX["read"])),
    "slayer": (slayer_rows, has_lava_dl, ["slayer"]),
    "recorded": (recorded_rows, _has_recordings, list(RECORDED)),
}  # fmt: skip
"""Rows that are made together, whether their program is here, and the nets that they are about."""


def rows_on_page() -> dict[str, str]:
    """The lines of the table as the page shows them, by net."""
    held = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    return {line.split("|")[1].strip(): line for line in held.splitlines() if line.startswith("| ")}


def main() -> None:
    """Rewrite the part of the page between the markers."""
    old, lines = rows_on_page(), []
    for make, is_here, names in GROUPS.values():
        lines += make() if is_here() else [old[name] for name in names if name in old]
    head = "| " + " | ".join(HEAD) + " |"
    made = "\n".join([head, "|---|---|---|---|---:|---:|---:|", *lines])
    print(made)
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
