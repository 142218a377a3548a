"""All programs that measure time, one after the other, each in a process of its own and with a limit.

python benchmarks/_all.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import _timing  # takes the load before anything runs, for all of them

PROGRAMS = ("backends", "against_frameworks", "against_lava", "against_sanafe", "growth", "stages")
LIMIT_S = 180.0


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


if __name__ == "__main__":
    main()
