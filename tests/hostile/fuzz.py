"""Coverage-guided fuzzing of the readers with atheris: ``python tests/hostile/fuzz.py TARGET [options of libFuzzer]``.

``make fuzz`` runs every target for a bounded time. A find is printed; it goes to ``FINDS`` of ``test_fuzz.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.append(str(Path(__file__).parents[1] / "_support"))
with atheris.instrument_imports(include=["spikefold"]):
    import spikefold.converters.nir_file
    import spikefold.deploy.certificate
    import spikefold.deploy.sources  # noqa: F401
from fuzz_targets import TARGETS, accepts_or_refuses


def main() -> None:
    """Fuzz the target that is named first."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in TARGETS:
        sys.exit(f"name a target: {', '.join(TARGETS)}")

    def one(data: bytes) -> None:
        try:
            accepts_or_refuses(name, data)
        except Exception:
            print(f"find in {name}: {data.hex()}", flush=True)
            raise

    atheris.Setup([*sys.argv, "-max_len=512", "-timeout=20", "-rss_limit_mb=4096"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
