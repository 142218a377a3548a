"""A chip of your own: what would Loihi 1 cost a net if every neuron of a core could have its own threshold.

    python examples/own_chip.py [--samples 50]

A spatial gate that is folded into thresholds gives each pixel one of its own, and a core of Loihi 1 holds few that
differ. Takes the chip's file as it ships, lifts that limit, writes it as another chip, and maps and prices the shipped
net `asa` on both.
"""

import argparse
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

import spikefold as sf
from spikefold.models import saccade_mnist


def with_thresholds(chip: dict[str, Any]) -> dict[str, Any]:
    """The chip without its limit of thresholds: null is no limit. What is assumed makes it an estimate."""
    chip["limits"]["threshold_levels_per_core"] = None
    return chip | {"name": "loihi1-thresholds", "title": "Loihi 1 with a threshold a neuron", "estimate": True}


def main() -> None:
    """Print cores and energy on both chips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50, help="test clips to run")
    samples = parser.parse_args().samples
    train, test = saccade_mnist.load("train").clips(128), saccade_mnist.load("test").clips(samples)
    fixed = sf.lower(sf.capture(sf.load("asa"), train), train, attention="static", name="asa")
    ran = sf.run(fixed, test)
    shipped = resources.files("spikefold.hardware_configs").joinpath("loihi1.yaml").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "loihi1-thresholds.yaml")
        file.write_text(yaml.safe_dump(with_thresholds(yaml.safe_load(shipped))), encoding="utf-8")
        for hardware in (sf.load_hardware("loihi1"), sf.load_hardware(file)):
            mapping = sf.map_net(fixed, hardware)
            total = sf.price(ran, hardware, mapping).total
            low, value, high = (round(joules * 1e6) for joules in (total.low, total.value, total.high))
            print(f"{hardware.title}: {len(mapping.cores)} cores, {value} uJ an inference ({low} to {high})")


if __name__ == "__main__":
    main()
