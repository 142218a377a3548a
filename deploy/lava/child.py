"""Runs one job in Lava: ``python -P -m spikefold.deploy.lava.child FOLDER``. Started by the runner, never imported.

The flag keeps files of the working directory (a user's ``models/`` or ``nir.py``) from shadowing what Lava imports.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from spikefold.deploy.lava.job import PROGRESS, read_job, sign_of_life, write_error, write_result
from spikefold.deploy.lava.network import run_network


def main(folder: Path) -> None:
    """Read the job in ``folder``, run it, write the result beside it."""
    sign_of_life(folder / PROGRESS, "Lava imported")
    graph, clips = read_job(folder)
    spikes, membranes = run_network(graph, clips, folder)
    write_result(folder, spikes, membranes)


if __name__ == "__main__":
    job = Path(sys.argv[1])
    try:
        main(job)
    except Exception as error:
        write_error(job, error)
        os._exit(1)  # an orderly exit would wait for Lava's processes
