"""Evidence of small comparisons, made once a test process."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch

from networks import Chain
from pixel_gate import PixelGate
from spikefold.deploy.compare import compare
from spikefold.deploy.comparison import Made
from spikefold.deploy.report.evidence import Evidence
from spikefold.deploy.report.page import report_html
from spikefold.deploy.sources import NamedNet

NAME = "<script>alert(1)</script>&co"
"""Of the net with a gate: what a page must not take for its own."""
CHROMIUM = Path("/usr/bin/chromium")


def made(gated: bool = True) -> tuple[Evidence, list[Made]]:
    """Of a bare net and, with ``gated``, of one whose gate is a map of pixels; and what it was collected from."""
    return _made(gated)


@cache
def _made(gated: bool) -> tuple[Evidence, list[Made]]:
    torch.manual_seed(1)
    clips = (np.random.default_rng(3).random((4, 18, 2, 8, 8)) < 0.3).astype(np.uint8)
    bare = Chain().eval()
    bare.norm.running_var.fill_(0.02)  # so that it fires
    nets = [NamedNet("bare", bare), *([NamedNet(NAME, PixelGate().eval())] if gated else [])]
    evidence, seen = Evidence("random events"), []

    def watch(one: Made) -> None:
        seen.append(one)
        evidence.add(one)

    compare(nets, clips[:, :8], clips[:, 8:], np.arange(10) % 3, hardware=["loihi1", "cmos45"], lava_samples=0,
            watch=watch)  # fmt: skip
    return evidence, seen


def page(gated: bool = True) -> str:
    """The report of that evidence."""
    return _page(gated)


@cache
def _page(gated: bool) -> str:
    return report_html(_made(gated)[0])
