"""What a portable NIR file costs against the integers it was made of, measured on samples.

Even an exact file is a float net: its readers do not truncate as the integers do. Where something was replaced, its
cost shows in the layer's own share, measured with the integers' spikes as input and resets, so that no layer answers
for those before it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spikefold.converters.calibrate import batches
from spikefold.converters.engine import run_engine
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.portable_nir import PortableNet

BATCH = 8


@dataclass(frozen=True)
class LayerCost:
    """Spikes of one layer: compared, differing in free runs, and differing by this layer's own doing."""

    name: str
    neuron_steps: int
    spikes_differ: int
    own_spikes_differ: int


@dataclass(frozen=True)
class PortableCost:
    """A portable file against its integers; accuracies are None without labels."""

    samples: int
    layers: tuple[LayerCost, ...]
    predictions_differ: int
    accuracy_integers: float | None
    accuracy_portable: float | None


def portable_cost(
    graph: FixedPointGraph,
    portable: PortableNet,
    clips: NDArray[np.generic],
    labels: NDArray[np.int64] | None = None,
) -> PortableCost:
    """Compare a portable net with the integers on clips ``[T, N, *input_shape]``.

    Parameters
    ----------
    graph, portable
        The integers, and what `to_portable_nir` made of them.
    clips : integer array
        Samples, usually those it was calibrated on.
    labels : int64 array ``[N]``, optional
        Classes, for accuracies.
    """
    slots: Counter[str] = Counter()
    differ: Counter[str] = Counter()
    own: Counter[str] = Counter()
    integers, floats = [], []
    for batch in batches(clips, BATCH):
        real = torch.from_numpy(np.ascontiguousarray(batch)).double()
        trace = run_engine(graph, batch)
        with torch.no_grad():
            logits, trains = portable.twin.run(real)
        integers.append(trace.logits.argmax(1))
        floats.append(logits.argmax(1).numpy())
        sent = {"input": real}
        for population in portable.twin.populations:
            current = population.current(sent)
            if not population.fires:
                sent[population.name] = current
                continue
            teacher = torch.from_numpy(trace.spikes[population.name]).double()
            spikes, _ = population.fire(current, teacher)
            sent[population.name] = teacher
            slots[population.name] += teacher.numel()
            differ[population.name] += int((trains[population.name] != teacher).sum())
            own[population.name] += int((spikes != teacher).sum())
    before, after = np.concatenate(integers), np.concatenate(floats)
    return PortableCost(
        len(before),
        tuple(LayerCost(name, slots[name], differ[name], own[name]) for name in slots),
        int((before != after).sum()),
        None if labels is None else float((before == labels).mean()),
        None if labels is None else float((after == labels).mean()),
    )


def cost_lines(portable: PortableNet, cost: PortableCost) -> list[str]:
    """The replacements and what the file costs, as lines to print."""
    lines = [f"replaced: {replacement}" for replacement in portable.replacements]
    for layer in cost.layers:
        steps = portable.tie_free_steps[layer.name]
        ties = "no history ties" if steps is None else f"no tie in the first {steps} after a reset"
        lines.append(
            f"{layer.name}: {layer.own_spikes_differ / layer.neuron_steps:.3%} of neuron-steps differ from the "
            f"integers by its own doing, {layer.spikes_differ / layer.neuron_steps:.3%} in all; {ties}"
        )
    accuracy = ""
    if cost.accuracy_integers is not None and cost.accuracy_portable is not None:
        accuracy = f"; accuracy {cost.accuracy_integers:.1%} -> {cost.accuracy_portable:.1%}"
    lines.append(f"{cost.predictions_differ} of {cost.samples} predictions differ from the integers{accuracy}")
    return lines
