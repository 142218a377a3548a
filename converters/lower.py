"""From a captured net to integers: choose what becomes of attention, then quantise."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import nir
import numpy as np
from numpy.typing import NDArray

from spikefold.converters.calibrate import Calibration, calibrate
from spikefold.converters.fixed_point_graph import AttentionMode, FixedPointGraph
from spikefold.converters.quantise import quantise
from spikefold.converters.static_gates import fold_static_gates
from spikefold.errors import LoweringError

Attention = Literal["static", "dynamic"]


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
    attention : "static" or "dynamic"
        "static" replaces each gate by its calibrated mean and folds it away; "dynamic" computes it per clip in
        integers. A net without gates is the same either way.

    Returns
    -------
    FixedPointGraph

    Raises
    ------
    LoweringError
        The gate has no static or no integer form, or numbers do not fit the formats.
    """
    lowered, calibration = lower_float(graph, clips, attention)
    fixed = quantise(lowered, calibration, bits, name)
    had_gates = bool(calibration.gates)
    mode: AttentionMode = attention if had_gates else "none"
    settings = {"bits": bits, "calibration_samples": int(calibration.clips.shape[1])}
    return replace(fixed, attention=mode, provenance=settings)


def lower_float(
    graph: nir.NIRGraph, clips: NDArray[np.generic] | Calibration, attention: Attention = "static"
) -> tuple[nir.NIRGraph, Calibration]:
    """The float net with its attention lowered, and the calibration it rests on; see `lower`."""
    if attention not in ("static", "dynamic"):
        raise LoweringError(f"attention is {attention!r}; choose 'static' or 'dynamic'")
    calibration = clips if isinstance(clips, Calibration) else calibrate(graph, clips)
    if attention == "static" and calibration.gates:
        return fold_static_gates(graph, calibration), calibration
    return graph, calibration
