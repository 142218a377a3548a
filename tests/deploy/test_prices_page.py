"""The example of docs/prices.md is what the shipped net gives today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from spikefold.converters.capture import capture
from spikefold.converters.lower import lower
from spikefold.deploy.demo import CALIBRATION_SAMPLES
from spikefold.deploy.price import Price, price
from spikefold.deploy.run import run
from spikefold.deploy.sources import find_data, find_net

PAGE = Path(__file__).parents[2] / "docs" / "prices.md"


@pytest.mark.slow
def test_the_example_of_the_page_is_what_the_shipped_net_gives() -> None:
    clips = find_data("saccade-mnist", "train", CALIBRATION_SAMPLES, None).clips()
    graph = lower(capture(find_net("plain", None, None).module, torch.from_numpy(clips[:, :1])), clips)
    priced = price(run(graph, find_data("saccade-mnist", "test", None, None).clips()), "loihi1")
    shown = re.search(r"<!-- example:begin -->\n(.*)<!-- example:end -->", PAGE.read_text(), flags=re.DOTALL)
    assert shown is not None
    assert shown.group(1) == example(priced), example(priced)


def example(priced: Price) -> str:
    rows = ["| component | count | each, pJ | energy, µJ |", "|---|---:|---:|---:|"]
    for line in priced.lines:
        each, energy = line.unit_energy.value * 1e12, line.energy.value * 1e6
        rows.append(f"| {line.component} | {three(line.count)} | {three(each)} | {three(energy)} |")
    latency = priced.latency
    assert latency is not None
    total = [three(n * 1e6) for n in (priced.total.value, priced.total.low, priced.total.high)]
    time = [three(n * 1e3) for n in (latency.value, latency.low, latency.high)]
    lies = f"{priced.cores} cores, {priced.chips} chip, {priced.steps} steps"
    rows.append(f"| total (low to high) | | | {total[0]} ({total[1]} to {total[2]}) |")
    rows.append(f"| {lies} | | | {time[0]} ms ({time[1]} to {time[2]}) |")
    return "\n".join(rows) + "\n"


def three(number: float) -> str:
    """Three digits, so that the last bit of a calibration does not show."""
    return f"{float(f'{number:.3g}'):,.12g}"
