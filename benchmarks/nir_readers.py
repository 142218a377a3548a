"""What other frameworks make of our portable NIR files: differing spikes, reader by reader, net by net.

    python benchmarks/nir_readers.py

Every net is lowered, written with `spikefold.save_portable_nir`, read by each framework's own importer with the call in
`_nir_consumers`, and run on the same clips; the spikes of every layer are compared with the float twin of the file in
float64. Writes the table into ``docs/nir_readers.md``. Where sinabs is missing its cells stay as they are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _nir_consumers import READERS, ReaderError, compare, is_missing
from numpy.typing import NDArray
from torch import Tensor, nn

import spikefold as sf
from spikefold.converters.portable_nir import PortableNet
from spikefold.models import LIF, OverTime, build, saccade_mnist

PAGE = Path(__file__).parents[1] / "docs" / "nir_readers.md"
BEGIN, END = "<!-- readers:begin -->", "<!-- readers:end -->"


class Chain(nn.Module):
    """Convolution, strided convolution, linear layer, each with neurons, and a linear readout or none."""

    def __init__(
        self, decay: float, kernel: tuple[int, int] = (3, 3), groups: int = 1, gate: bool = False, spiking: bool = False
    ) -> None:
        super().__init__()
        self.one, self.two = (
            OverTime(nn.Conv2d(2, 6, 3, padding=1)),
            OverTime(nn.Conv2d(6, 8, kernel, 2, groups=groups)),
        )
        self.first, self.second, self.third = (LIF(decay, 1.0) for _ in range(3))
        self.gate = nn.Linear(8, 8) if gate else None
        self.dense, self.head = nn.Linear(8 * 9, 12), nn.Identity() if spiking else nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, 4]``, or spikes ``[T, B, 12]``."""
        y = self.two(self.first(self.one(x)))
        if self.gate is not None:
            y = y * torch.sigmoid(self.gate(y.mean((0, 3, 4))))[None, :, :, None, None]
        y = self.head(self.third(self.dense(self.second(y).flatten(2))))
        return y if isinstance(self.head, nn.Identity) else y.mean(0)


class Dense(nn.Module):
    """Linear layers and neurons on clips ``[T, B, 20]``, output spikes."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 24), LIF(decay, 1.0), nn.Linear(24, 10), LIF(decay, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Spikes ``[T, B, 10]``."""
        out: Tensor = self.layers(x)
        return out


def lively(net: nn.Module, lean: float = 0.4, without_bias: bool = False) -> nn.Module:
    """Seeded weights, with a lean to positive ones, that make the neurons fire."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                limit = 2.2 / layer.weight[0].numel() ** 0.5
                layer.weight.copy_(torch.rand(layer.weight.shape, generator=random) * (2 + lean) * limit - limit)
                if layer.bias is not None:
                    layer.bias.copy_(0 * layer.bias if without_bias else layer.bias.abs())
    return net.eval()


@dataclass(frozen=True)
class Case:
    """A net of the table: how it is made, what clips it gets, and whether it is quick enough for every test run."""

    words: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (2, 8, 8)
    steps: int = 10
    fast: bool = True
    digits: bool = False
    approximate: bool = False


CASES = {
    "chain-dyadic": Case(
        "convolutions and a dense layer, decay 1/2", lambda: lively(Chain(0.5), without_bias=True), steps=6
    ),
    "chain": Case("the same, decay 0.3, with biases", lambda: lively(Chain(0.3))),
    "oblong": Case("the same, a kernel of 3 x 4 in two groups, decay 3/4", lambda: lively(Chain(0.75, (3, 4), 2))),
    "channel-gate": Case("a gate per channel, static, decay 0.3", lambda: lively(Chain(0.3, gate=True))),
    "dense": Case("dense layers, output spikes, decay 1/2", lambda: lively(Dense(0.5)), shape=(20,)),
    "if": Case("integrate-and-fire, output spikes", lambda: lively(Chain(1.0, spiking=True))),
    "residual": Case(
        "plain-resnet20, width 4: residual sums, decay 0.25",
        lambda: lively(build("plain-resnet20", width=4, num_classes=4, input_size=16), lean=0.1),
        shape=(2, 16, 16),
        steps=4,
    ),
    "plain": Case("shipped `plain`", partial(sf.load, "plain"), fast=False, digits=True),
    "asa": Case(
        "shipped `asa`, static, thresholds a pixel replaced by their mean", partial(sf.load, "asa"), fast=False,
        digits=True, approximate=True,
    ),
}  # fmt: skip


def case_clips(case: Case) -> NDArray[np.uint8]:
    """Clips ``[T, 8, *shape]`` of a case: test digits, or random events."""
    if case.digits:
        return np.asarray(saccade_mnist.load("test").clips(4))
    random = np.random.default_rng(0)
    return (random.random((case.steps, 8, *case.shape)) < 0.4).astype(np.uint8)


def export(name: str, path: Path) -> PortableNet:
    """Lower the net of a case and write its portable file."""
    case = CASES[name]
    training = saccade_mnist.load("train").clips(32) if case.digits else case_clips(case)
    graph = sf.capture(case.make(), torch.from_numpy(np.ascontiguousarray(training[:, :1])).float())
    return sf.save_portable_nir(sf.lower(graph, training, "static", name=name), path, case.approximate)


def row(name: str, old: str = "") -> str:
    """One line of the table; cells of sinabs come from the line ``old`` where it is not installed."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.nir"
        portable, clips = export(name, path), case_clips(case)
        cells, exact = [], "?"
        for number, reader in enumerate(READERS):
            if is_missing(reader):
                cells.append(old.split("|")[4 + number].strip() if old else "not run")
                continue
            try:
                found = compare(reader, path, portable, clips)
            except Exception as error:  # whatever a reader raises is the answer
                cells.append(f"refuses ({_shorten(error)})")
                continue
            cells.append(found.cell)
            exact = "yes" if found.exact else "no"
    return f"| {name} | {case.words} | {exact} | " + " | ".join(cells) + " |"


def _shorten(error: Exception) -> str:
    text = " ".join(str(error).split()).replace("|", "/")
    text = text if isinstance(error, ReaderError) else f"{type(error).__name__}: {text}"
    return text if len(text) <= 60 else f"{text[:60].rsplit(' ', 1)[0]} ..."


def table(old: Mapping[str, str], names: list[str] | None = None) -> str:
    """The table, or some of its rows."""
    head = "| net | what it is | fits 24 bits | " + " | ".join(READERS) + " |"
    rows = [row(name, old.get(name, "")) for name in names or CASES]
    return "\n".join([head, "|---|---|---|" + "---:|" * len(READERS), *rows])


def rows_on_page() -> dict[str, str]:
    """The lines of the table as the page shows them, by net."""
    if not PAGE.exists():
        return {}
    held = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    return {line.split("|")[1].strip(): line for line in held.splitlines() if line.startswith("| ")}


def main() -> None:
    """Rewrite the part of the page between the markers."""
    made = table(rows_on_page())
    print(made)
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
