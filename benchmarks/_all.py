"""All programs that measure time, one after the other, each in a process of its own and with a limit.

    python benchmarks/_all.py

Puts the comparison of frameworks and the line of each other program that sums it up into the README.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import _timing  # takes the load before anything runs, for all of them

PROGRAMS = ("backends", "against_frameworks", "against_lava", "against_sanafe", "growth", "sparse_path", "stages")
LIMIT_S = 180.0
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def summary(page: str) -> str:
    """What the README shows of the page: the machine, one table, and what the programs found in bold letters."""
    machine = page.removeprefix(_timing.HEAD).strip().splitlines()[0]
    frameworks = page.partition("<!-- frameworks:begin -->")[2].partition("<!-- frameworks:end -->")[0]
    rows = re.findall(r"^\|.*$", frameworks, re.MULTILINE)
    found = re.findall(r"^\*\*\d.*$", page, re.MULTILINE)
    return "\n".join([f"Written by `make bench` on {machine}", "", *rows, "", *(f"- {line}" for line in found)])


def main() -> None:
    _timing.PAGE.unlink(missing_ok=True)
    failed = []
    for name in PROGRAMS:
        print(f"== {name}", flush=True)
        begin = time.perf_counter()
        program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name(f"{name}.py"))]
        try:
            if subprocess.run(program, timeout=LIMIT_S, check=False).returncode:
                failed.append(name)
        except subprocess.TimeoutExpired:
            failed.append(f"{name} (past {LIMIT_S:.0f} s)")
        print(f"== {name}: {time.perf_counter() - begin:.0f} s", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    shown = f"{BEGIN}\n{summary(_timing.PAGE.read_text(encoding='utf-8'))}\n{END}"
    README.write_text(before + shown + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
