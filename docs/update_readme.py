"""Put the demo's table and picture into the README: ``make demo && python docs/update_readme.py``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"


def number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def energy(price: dict[str, Any], key: str = "total") -> str:
    """Energy of one price in microjoules, with its range."""
    total = price[key]
    if total is None:
        return "0"
    low, value, high = (number(total[k] * 1e6) for k in ("low", "value", "high"))
    bound = "≥ " if key == "total" and price["lower_bound"] else ""
    return f"{bound}{value}" if low == high else f"{bound}{value} ({low} to {high})"


def change(pair: dict[str, Any]) -> str:
    """Paired change in percentage points with its interval."""
    return (
        f"{100 * pair['difference']:+.1f} [{100 * pair['low']:+.1f}, {100 * pair['high']:+.1f}], "
        f"+{pair['gained']} -{pair['lost']}"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """The demo's rows as a Markdown table, figures down, variants across."""
    gate = next(r for r in rows if r["energy"]["loihi1"]["gate_processor"])
    lines: list[tuple[str, list[str]]] = [
        ("accuracy, original", [f"{r['accuracy']['original']:.1%}" for r in rows]),
        ("accuracy, lowered float", [f"{r['accuracy']['lowered_float']:.1%}" for r in rows]),
        ("accuracy, fixed point", [f"{r['accuracy']['fixed_point']:.1%}" for r in rows]),
        ("lowering changes (points, 95 %)", [change(r["lowering_changes"]) for r in rows]),
        ("quantising changes (points, 95 %)", [change(r["quantising_changes"]) for r in rows]),
        ("gate variation over samples, by layer",
         [" ".join(f"{v:.0%}" for v in r["gate_variation"].values()) or "-" for r in rows]),
        ("firing rate", [f"{r['firing_rate']:.3f}" for r in rows]),
        ("synops", [f"{r['synops'] / 1e6:.2f} M" for r in rows]),
        ("gate operations", [f"{r['gate_operations'] / 1e6:.2f} M" for r in rows]),
        ("Loihi 1, µJ", [energy(r["energy"]["loihi1"]) for r in rows]),
        ("fits Loihi 1 as is", ["yes" if r["energy"]["loihi1"]["fits"] else "no" for r in rows]),
        ("Loihi 2 (estimate), µJ", [energy(r["energy"]["loihi2"]) for r in rows]),
        ("fits Loihi 2 as is", ["yes" if r["energy"]["loihi2"]["fits"] else "no" for r in rows]),
        ("45 nm operation count, µJ", [energy(r["energy"]["cmos45"]) for r in rows]),
        ("gate processor (45 nm arithmetic + SRAM, estimate), µJ",
         [energy(r["energy"]["loihi1"], "gate_processor") for r in rows]),
        ("differing spikes, membranes on Lava",
         [f"{r['lava']['different_spikes']}, {r['lava']['different_membranes']} ({r['lava']['samples']} samples)"
          if r["lava"] else "not run" for r in rows]),
    ]  # fmt: skip
    names = [r["net"] if r["mode"] == "none" else f"{r['net']} {r['mode']}" for r in rows]
    head = f"| {gate['samples']:,} test digits | " + " | ".join(names) + " |"
    body = [f"| {name} | " + " | ".join(values) + " |" for name, values in lines]
    return "\n".join([head, "|---|" + "---:|" * len(rows), *body])


def main() -> None:
    """Rewrite the part of the README between the markers."""
    rows = json.loads((ROOT / "demo-out" / "table.json").read_text())
    shutil.copy(ROOT / "demo-out" / "accuracy-energy.png", ROOT / "docs" / "accuracy-energy.png")
    readme = (ROOT / "README.md").read_text()
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    made = (
        f"{BEGIN}\nWritten by `make demo` and `docs/update_readme.py`; energies per inference, nominal (low to high);\n"
        "≥ is a lower bound, because no source prices gate work on that chip.\n\n"
        f"{table(rows)}\n\n![Accuracy against energy](docs/accuracy-energy.png)\n{END}"
    )
    (ROOT / "README.md").write_text(before + made + after)


if __name__ == "__main__":
    main()
