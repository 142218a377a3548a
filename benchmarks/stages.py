"""Seconds and peak memory of capture, calibration, lowering, running, mapping and pricing of large residual networks.

    python benchmarks/stages.py

Spiking ResNet-19 (32 x 32) and MS-ResNet-34 (224 x 224), T = 4, untrained, one
sample. Each net has a process of its own; the peak is the largest memory that it held up to the end of a stage.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _timing import table, write

NETS: dict[str, dict[str, Any]] = {
    "plain-resnet19": {"input_size": 32, "time_steps": 4},
    "plain-msresnet34": {"input_size": 224, "time_steps": 4},
}
LIMITS_S = {"plain-resnet19": 55, "plain-msresnet34": 115}
CHIPS = {"plain-resnet19": "loihi1", "plain-msresnet34": "loihi2"}
"""MS-ResNet-34 would take 4,385 chips of Loihi 1, whose cores have 4,096 out-axons each; `map_net` refuses that."""


def stages(name: str) -> None:
    """Run all stages in this process; one line of JSON for each."""
    import torch

    from spikefold.converters.calibrate import calibrate
    from spikefold.converters.capture import capture
    from spikefold.converters.lower import lower
    from spikefold.converters.nir_file import save_nir
    from spikefold.deploy.mapping.mapper import map_net
    from spikefold.deploy.price import price
    from spikefold.deploy.run import run
    from spikefold.models import build

    def stage(what: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(json.dumps([what, seconds, peak]), flush=True)
        return result

    torch.manual_seed(0)
    net = stage("build", lambda: build(name, **NETS[name]).eval())
    arguments = net.built_as.arguments
    size = (NETS[name]["time_steps"], 1, arguments["in_channels"], arguments["input_size"], arguments["input_size"])
    clips = (torch.rand(size) < 0.1).numpy().astype("uint8")
    graph = stage("capture", lambda: capture(net, torch.from_numpy(clips).float()))
    calibration = stage("calibrate", lambda: calibrate(graph, clips))
    fixed = stage("lower", lambda: lower(graph, calibration, "static", name=name))
    with TemporaryDirectory() as folder:
        stage("export (.nir)", lambda: save_nir(fixed, Path(folder, "net.nir")))
    stage("run, first", lambda: run(fixed, clips))
    ran = stage("run, again", lambda: run(fixed, clips))
    mapping = stage("map", lambda: map_net(fixed, CHIPS[name]))
    stage("price", lambda: price(ran, CHIPS[name], mapping))


def child(name: str) -> tuple[str, str]:
    """What a net's own process printed, and why it ended early, if it did."""
    command = [sys.executable, "-W", "ignore", __file__, name]
    try:
        made = subprocess.run(command, capture_output=True, timeout=LIMITS_S[name], check=False)
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode(), f"the next stage did not end within {LIMITS_S[name]} s of the start."
    return made.stdout.decode(), made.stderr.decode().strip().splitlines()[-1] if made.returncode else ""


def main() -> None:
    lines = ["Untrained, T = 4, one sample; peaks are of the process so far.", ""]
    for name in NETS:
        printed, end = child(name)
        found = [json.loads(line) for line in printed.splitlines() if line.startswith("[")]
        rows = [[what, f"{seconds:.1f}", f"{peak:,.0f}"] for what, seconds, peak in found]
        lines += [f"**{name}**, {NETS[name]['input_size']} x {NETS[name]['input_size']}, on {CHIPS[name]}", ""]
        lines += table(["stage", "seconds", "peak MiB"], rows)
        took = {what: seconds for what, seconds, _ in found}
        if "price" in took:
            samples = (took["map"] + took["price"]) / took["run, again"]
            lines += [
                "", f"**{samples:.0f} samples** of {name} are simulated in the time of mapping and pricing, done once "
                f"for all: a tenth of a simulation of {10 * samples:,.0f} samples."
            ]  # fmt: skip
        if end:
            lines += ["", f"It ends there: {end}"]
        lines.append("")
    write("stages", "Large networks, from module to price", lines[:-1])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        stages(sys.argv[1])
    else:
        main()
