"""Coverage-guided fuzzing of the readers: ``python tests/hostile/fuzz.py [TARGET ...] [-OPTION=OF_LIBFUZZER ...]``.

Without a target, all of them, each in a process of its own. A find is printed; ``FINDS`` of ``test_fuzz.py`` keeps it.
``make fuzz`` bounds it by seconds; with ``-runs`` and ``-seed`` the same tree gives the same answer.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import atheris

END = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)(lambda status, _: os._exit(status))
sys.path.append(str(Path(__file__).parents[1] / "_support"))
with atheris.instrument_imports(include=["spikefold"]):
    from fuzz_targets import TARGETS, accepts_or_refuses


def main() -> None:
    """Fuzz the targets named, and end with the first find."""
    options = [word for word in sys.argv[1:] if word.startswith("-")]
    names = [word for word in sys.argv[1:] if not word.startswith("-")] or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        sys.exit(f"no target: {', '.join(sorted(unknown))}; choose among {', '.join(TARGETS)}")
    for name in names:
        print(f"== {name}", flush=True)
        child = os.fork()  # libFuzzer ends its process; what was imported is shared
        if child == 0:
            fuzz(name, options)
        if os.waitpid(child, 0)[1]:
            sys.exit(1)


def fuzz(name: str, options: list[str]) -> None:
    """Fuzz one target; ends the process."""
    ctypes.CDLL(None).on_exit(END, None)  # an orderly exit would wait for threads that a fork does not copy

    def one(data: bytes) -> None:
        try:
            accepts_or_refuses(name, data)
        except Exception:
            print(f"find in {name}: {data.hex()}", flush=True)
            raise

    bounds = ["-max_len=512", "-len_control=0", "-timeout=20", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *bounds, *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
