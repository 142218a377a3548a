"""What each registered network is and weighs, without making its weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from spikefold.models.registry import ENTRIES, build, full_name
from spikefold.models.systems.entry import Coupling, Option, Sizes
from spikefold.models.unused import count_unused


@dataclass(frozen=True)
class Card:
    """A network at its authors' size.

    Attributes
    ----------
    parameters : int
        All of them, as the authors' code would count.
    unused_parameters : int
        Those among them that no forward pass reads.
    macs : int
        Multiply-accumulates of convolutions and matrix products for one clip, attention included, every input counted
        (an accelerator's count; spikes make most of them additions or nothing).
    """

    name: str
    source: str
    sizes: Sizes
    coupling: Coupling
    options: dict[str, Option]
    parameters: int
    unused_parameters: int
    macs: int
    released: str | None


def card(name: str) -> Card:
    """Describe a registered network; InputError if there is none of that name."""
    name = full_name(name)
    entry = ENTRIES[name]
    sizes = entry.sizes
    with torch.device("meta"):
        network = build(name).eval()
        clip = torch.zeros(sizes.time_steps, 1, sizes.in_channels, sizes.input_size, sizes.input_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(clip)
    return Card(
        name=name,
        source=entry.source,
        sizes=sizes,
        coupling=entry.coupling,
        options=entry.options(),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        unused_parameters=count_unused(network),
        macs=counter.get_total_flops() // 2,
        released=None if entry.released is None else entry.released.repository,
    )
