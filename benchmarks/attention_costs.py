"""What attention saves in spikes and what it costs in operations, by the papers' own 45 nm formula.

    python benchmarks/attention_costs.py

Counts the authors' networks at their own sizes from shapes alone, measures the firing rates of the shipped small nets
on the 1,000 test digits of saccade-mnist (calibrated on 128 training digits), and writes the tables into
``docs/attention_costs.md``. Nothing is selected by these figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

import spikefold as sf
from spikefold.converters.calibrate import calibrate
from spikefold.deploy.hardware import load_hardware
from spikefold.deploy.paper_energy import PaperCounts, break_even, paper_counts, paper_price
from spikefold.deploy.price import Price, price
from spikefold.deploy.run import run
from spikefold.errors import LoweringError
from spikefold.models import build, saccade_mnist
from spikefold.models.attention.asa import ASA
from spikefold.models.attention.fsta import DCT_SIZE, FSTA
from spikefold.models.attention.ma import MA
from spikefold.models.attention.sma import SMA
from spikefold.models.attention.staa import STAALayer
from spikefold.models.registry import ENTRIES

ATTENTION = (ASA, FSTA, MA, SMA, STAALayer)
FULL_SIZE = {
    "asa-a": "asa",
    "asa-b": "asa",
    "asa-d": "asa",
    "fsta-resnet20": "fsta",
    "fsta-resnet19": "fsta",
    "staa-resnet20": "staa",
    "staa-resnet19": "staa",
    "sma-vgg8": "sma",
    "tcsa-a": "",
}
"""Networks at their authors' sizes, each with the shipped small net of the same attention, where there is one."""
SMALL = ("plain", "asa", "fsta", "staa", "sma")
MODES = ("static", "dynamic")
CALIBRATION = 128
PAGE = Path(__file__).parents[1] / "docs" / "attention_costs.md"


@dataclass(frozen=True)
class Reported:
    """Network average spiking firing rate without and with attention, from a table of the authors."""

    data: str
    network: str
    sizes: dict[str, int]
    plain: float
    gated: float


REPORTED = (
    Reported("DVS128 Gesture", "asa-a", {}, 0.176, 0.038),
    Reported("DVS128 Gait-day", "asa-a", {"num_classes": 20}, 0.214, 0.045),
    Reported("DVS128 Gait-night", "asa-d", {}, 0.197, 0.126),
    Reported("DVS128 Gesture, SpikingJelly's", "asa-b", {}, 0.023, 0.018),
    Reported("DailyAction-DVS", "asa-b", {"num_classes": 12, "time_steps": 36}, 0.017, 0.013),
)
"""Table "performance" of github.com/BICLab/ASA-SNN (README, commit 6f8f5ca), of Yao et al., ICCV 2023."""


@dataclass(frozen=True)
class Measured:
    """A shipped small net in one mode."""

    net: str
    mode: str
    rate: float
    price: Price


def count(name: str, **sizes: int) -> PaperCounts:
    """Count a registered network at its authors' size, without making its weights."""
    entry = ENTRIES[name].sizes
    with torch.device("meta"):
        network = build(name, **sizes)
        steps = sizes.get("time_steps", entry.time_steps)
        clip = torch.zeros(steps, 1, entry.in_channels, entry.input_size, entry.input_size)
    return paper_counts(network, clip, ATTENTION)


def released_extra(name: str) -> float:
    """Multiply-accumulates that FSTA's release adds by convolving all channels with the same atoms, not their sum."""
    entry = ENTRIES[name].sizes
    extra = 0.0

    def add(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal extra
        channels, height, width = inputs[0].shape[2:]
        extra += DCT_SIZE**4 * (channels - 1) * height * width

    with torch.device("meta"):
        network = build(name).eval()
        clip = torch.zeros(entry.time_steps, 1, entry.in_channels, entry.input_size, entry.input_size)
    for module in network.modules():
        if isinstance(module, FSTA):
            module.register_forward_pre_hook(add)
    with torch.no_grad():
        network(clip)
    return extra


def microjoules(value: float) -> str:
    joules = value * 1e6
    return f"{joules:,.0f}" if joules >= 100 else f"{joules:.3g}"


def change(new: float, old: float) -> str:
    return f"{new / old - 1:+.0%}"


def without(priced: Price) -> float:
    """Energy as the papers state it, attention's own operations left out [J]."""
    energy = priced.total_without_attention
    assert energy is not None  # noqa: S101 - every operations price has it
    return energy.value


def counted_rows(counts: dict[str, PaperCounts]) -> list[str]:
    lines = [
        "| net (sizes of its authors) | T | MACs, first layer | MACs, spiking layers | attention: multiplies |"
        " additions | comparisons | look-ups | attention, µJ | break-even: the rate must fall by |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in counts.items():
        own = found.attention
        assert own is not None  # noqa: S101 - all of these have attention
        priced = paper_price(found, 0.0)
        lines.append(
            f"| {name} | {found.time_steps} | {found.first_macs / 1e6:,.1f} M | {found.spiking_macs / 1e6:,.0f} M"
            f" | {own.multiplies / 1e6:,.2f} M | {own.additions / 1e6:,.2f} M | {own.comparisons / 1e6:,.2f} M"
            f" | {own.lookups / 1e3:,.1f} k | {microjoules(priced.total.value - without(priced))}"
            f" | {break_even(found):.4f} |"
        )
    return lines


def reported_rows() -> list[str]:
    lines = [
        "| data | net | rate without (reported) | rate with (reported) | fall | break-even | without attention, µJ |"
        " with, as the papers count, µJ | with its operations, µJ | fall / break-even: pays above 1 |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in REPORTED:
        found = count(row.network, **row.sizes)
        plain, gated = without(paper_price(found, row.plain)), paper_price(found, row.gated)
        saved, needed = row.plain - row.gated, break_even(found)
        lines.append(
            f"| {row.data} | {row.network}, T = {found.time_steps} | {row.plain:.3f} | {row.gated:.3f} | {saved:.3f}"
            f" | {needed:.4f} | {microjoules(plain)} | {microjoules(without(gated))}"
            f" ({change(without(gated), plain)}) | {microjoules(gated.total.value)}"
            f" ({change(gated.total.value, plain)}) | {saved / needed:.2f} |"
        )
    return lines


def measure() -> list[Measured]:
    """Run the shipped small nets and price what they did."""
    table = load_hardware("cmos45")
    test, train = saccade_mnist.load("test"), saccade_mnist.load("train")
    clips, training = test.clips(), train.clips(CALIBRATION)
    rows = []
    for name in SMALL:
        graph = sf.capture(sf.load(name), torch.from_numpy(training[:, :1]).float())
        calibration = calibrate(graph, training)
        for mode in MODES if calibration.gates else ("static",):
            try:
                activity = run(sf.lower(graph, calibration, mode, name=name), clips).activity
            except LoweringError as error:
                print(f"{name}, {mode}: {error}", flush=True)
                continue
            shown = mode if calibration.gates else "no gates"
            rows.append(Measured(name, shown, activity.firing_rate, price(activity, table)))
            print(name, shown, f"{activity.firing_rate:.4f}", flush=True)
    return rows


def measured_rows(measured: list[Measured]) -> list[str]:
    lines = [
        "| net | mode | rate (measured) | as the papers count, µJ | attention's operations, µJ | both, µJ |"
        " against plain |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    plain = measured[0].price.total.value
    for row in measured:
        total, papers = row.price.total.value, without(row.price)
        lines.append(
            f"| {row.net} | {row.mode} | {row.rate:.3f} | {microjoules(papers)} | {microjoules(total - papers)}"
            f" | {microjoules(total)} | {change(total, plain) if row is not measured[0] else ''} |"
        )
    return lines


def estimated_rows(counts: dict[str, PaperCounts], measured: list[Measured]) -> list[str]:
    rates = {(row.net, row.mode): row.rate for row in measured}
    plain = rates["plain", "no gates"]
    lines = [
        "| net | rate without (plain, small) | rate with, dynamic (small) | fall (estimated) | break-even (counted) |"
        " saved, µJ (estimated) | attention, µJ (counted) | saved less attention, µJ |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in counts.items():
        rate = rates.get((FULL_SIZE[name], "dynamic"))
        if rate is None:
            continue
        gated = paper_price(found, rate)
        saved, own = without(paper_price(found, plain)) - without(gated), gated.total.value - without(gated)
        lines.append(
            f"| {name} | {plain:.3f} | {rate:.3f} | {plain - rate:.3f} | {break_even(found):.4f}"
            f" | {microjoules(saved)} | {microjoules(own)} | {(saved - own) * 1e6:+,.0f} |"
        )
    return lines


def released_rows(counts: dict[str, PaperCounts]) -> list[str]:
    lines = [
        "| net | attention as written here, µJ | as released, channels convolved one by one, µJ | break-even then |",
        "|---|---:|---:|---:|",
    ]
    for name in (name for name in counts if name.startswith("fsta")):
        found, extra = counts[name], released_extra(name)
        priced = paper_price(found, 0.0)
        mac = without(priced) / found.first_macs
        own = priced.total.value - without(priced)
        factor = (own + extra * mac) / own
        lines.append(
            f"| {name} | {microjoules(own)} | {microjoules(own * factor)} | {break_even(found) * factor:.2f} |"
        )
    return lines


def fill(page: str, name: str, lines: list[str]) -> str:
    """Put lines between the markers of that name."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, tail = page[: page.index(begin) + len(begin)], page[page.index(end) :]
    return "\n".join([head, *lines, tail])


def main() -> None:
    counts = {name: count(name) for name in FULL_SIZE}
    measured = measure()
    tables = {
        "counted": counted_rows(counts),
        "released": released_rows(counts),
        "reported": reported_rows(),
        "measured": measured_rows(measured),
        "estimated": estimated_rows(counts, measured),
    }
    page = PAGE.read_text(encoding="utf-8")
    for name, lines in tables.items():
        page = fill(page, name, lines)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
