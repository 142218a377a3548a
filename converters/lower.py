"""From a captured net to integers: choose what becomes of attention, then quantise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

import nir
import numpy as np
from numpy.typing import NDArray

from spikefold.converters.calibrate import Calibration, calibrate, events_per_clip
from spikefold.converters.causal_gates import make_causal
from spikefold.converters.fixed_point_graph import AttentionMode, FixedPointGraph
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.quantise import quantise
from spikefold.converters.scheduled_gates import left_out, schedule_gates
from spikefold.converters.static_gates import fold_static_gates
from spikefold.errors import LoweringError

Attention = Literal["static", "scheduled", "causal", "dynamic"]
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)
"""What can become of gates, from the cheapest form to the exact one."""


def lower(
    graph: nir.NIRGraph,
    clips: NDArray[np.generic] | Calibration,
    attention: Attention = "static",
    bits: Literal[8] = 8,
    name: str = "net",
) -> FixedPointGraph:
    """Lower attention and quantise.

    Parameters
    ----------
    graph : nir.NIRGraph
        From `spikefold.converters.capture`.
    clips : array ``[T, N, *input_shape]`` or Calibration
        Training samples (never test samples), or what `calibrate` made of them.
    attention : "static", "scheduled", "causal" or "dynamic"
        "static" replaces each gate by its calibrated mean and folds it away; "scheduled" keeps one factor a step of
        that mean; "causal" computes gates in integers from the steps up to now; "dynamic" from the whole clip, as
        trained. A net without gates is the same in all of them.

    Returns
    -------
    FixedPointGraph

    Raises
    ------
    LoweringError
        The gate has no static or no integer form, or numbers do not fit the formats.
    """
    calibration = clips if isinstance(clips, Calibration) else calibrate(graph, clips)
    lowered, measured = lower_float(graph, calibration, attention)
    fixed = quantise(lowered, measured, bits, name)
    gated = [p.name for p in read_float_graph(graph).populations if p.has_attention]
    mode: AttentionMode = attention if gated else "none"
    events = events_per_clip(calibration.clips)
    settings: dict[str, Any] = {
        "bits": bits, "calibration_samples": len(events), "calibration_events": [int(events.min()), int(events.max())],
    }  # fmt: skip
    if mode == "scheduled":
        settings["schedule_leaves_out"] = {name: left_out(calibration.gates[name]) for name in gated}
    return replace(fixed, attention=mode, provenance=settings)


def lower_float(
    graph: nir.NIRGraph, clips: NDArray[np.generic] | Calibration, attention: Attention = "static"
) -> tuple[nir.NIRGraph, Calibration]:
    """The float net with its attention lowered, and the calibration of the gates that it still has; see `lower`.

    A gate that reads other steps takes other values, and so do the layers behind it: what was rewritten is measured
    anew on the same clips.
    """
    if attention not in ATTENTIONS:
        raise LoweringError(f"attention is {attention!r}; choose one of {', '.join(map(repr, ATTENTIONS))}")
    calibration = clips if isinstance(clips, Calibration) else calibrate(graph, clips)
    if attention == "dynamic" or not any(p.has_attention for p in read_float_graph(graph).populations):
        return graph, calibration
    if attention == "causal":
        lowered = make_causal(graph)
    else:
        lowered = (fold_static_gates if attention == "static" else schedule_gates)(graph, calibration)
    return lowered, calibrate(lowered, calibration.clips)
