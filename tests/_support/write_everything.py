"""Writes every kind of file that spikefold writes into the folder named, from a user's project: run as a program."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from small_event_nets import write_user_project
from spikefold.deploy.cli import app
from spikefold.models import CheckpointMeta, build, save_checkpoint

NET = ["writing_net:build", "--checkpoint", "w.pt"]
TEST = ["--data", "test.npz", "--calibration", "train.npz"]
COMMANDS = (
    ["export", *NET, "--data", "train.npz", "--attention", "static", "--out", "static"],
    ["export", *NET, "--data", "train.npz", "--attention", "dynamic", "--threshold-levels", "2", "--out", "dynamic"],
    ["export", *NET, "--data", "train.npz", "--nir-dialect", "portable", "--approximate", "--out", "portable"],
    ["export", *NET, "--data", "train.npz", "--lava-dl", "--approximate", "--out", "lava-dl"],
    ["finetune", *NET, "--data", "train.npz", "--epochs", "1", "--out", "tuned.nir"],
    ["verify", *NET, "--data", "train.npz", "--file", "dynamic.nir", "--lava-samples", "0", "--out", "verified"],
    ["compare", *NET, *TEST, "--lava-samples", "0", "--hardware", "loihi1", "--out", "compared",
     "--report", "compared/report.html"],
    ["sweep", *NET, *TEST, "--jobs", "1", "--no-cache", "--out", "swept"],
    ["map", "static.nir", "--out", "mapped"],
)  # fmt: skip


def main(folder: Path) -> None:
    """Run the commands in ``folder``, which is made."""
    folder.mkdir()
    write_user_project(folder, "writing_net")
    os.chdir(folder)
    sizes = {"in_channels": 2, "time_steps": 3, "num_classes": 4, "input_size": 8}
    save_checkpoint("net.safetensors", build("fsta", **sizes), CheckpointMeta("fsta-dvsnet", sizes))
    for command in COMMANDS:
        app([*command, "--quiet"], standalone_mode=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
