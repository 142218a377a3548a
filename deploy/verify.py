"""Proof that what runs is what was trained: a module, its folded float net, its integers, and every backend.

Four kinds of difference, which mean different things and never share a number:

folding
    the trained module against its captured float net: float rounding, inside a proved bound;
attention
    gates computed per clip against their lowered form: an approximation, shown;
quantisation
    float against fixed point, each layer alone and all of them carried on: an approximation, shown, of spikes as those
    that differ, of the numbers that relays send as a signal-to-noise ratio;
backends
    the integers in torch, in ONNX Runtime, in Lava and read back from a NIR file: equal in every bit.

Beside them stands how the integers use the 24 bits of their states (`LayerStates`), which is no error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spikefold.converters.calibrate import Calibration, calibrate, events_per_clip
from spikefold.converters.capture import capture
from spikefold.converters.fixed_point_graph import AttentionMode, FixedPointGraph
from spikefold.converters.float_graph import FloatNet, read_float_graph
from spikefold.converters.lower import Attention, lower, lower_float
from spikefold.converters.reference import check_input
from spikefold.converters.show import Shown
from spikefold.deploy.cautions import Caution, of_clips, of_gates, of_ranges, of_states
from spikefold.deploy.equality import BACKENDS, BackendEquality, VerifiedBackend, check_backends
from spikefold.deploy.layer_errors import AttentionChange, Quantisation, measure_layers
from spikefold.deploy.run import Net, check_labels, open_net
from spikefold.deploy.states import LayerStates
from spikefold.deploy.teacher_forcing import Folding, check_folding
from spikefold.errors import InputError


@dataclass(frozen=True, repr=False)
class Verification(Shown, by="spikefold.deploy.notebook"):
    """What `verify` found. ``attention`` is None for a net without gates; see the module's text for the parts."""

    samples: int
    time_steps: int
    mode: AttentionMode
    folding: Folding
    attention: AttentionChange | None
    quantisation: Quantisation
    states: tuple[LayerStates, ...]
    backends: tuple[BackendEquality, ...]
    cautions: tuple[Caution, ...] = ()
    """What a user should act on though nothing is wrong (`spikefold.deploy.cautions`)."""

    @property
    def passed(self) -> bool:
        """Rounding explains every difference of the folded net, and the backends are equal in every bit."""
        return self.folding.within_bound and all(b.equal for b in self.backends)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, texts, lists and dictionaries; an infinite number is the text "inf"."""
        plain = {**asdict(self), "backends": [b.to_dict() for b in self.backends], "passed": self.passed}
        ready: dict[str, Any] = _for_json(plain)
        return ready


def verify(
    module: nn.Module,
    clips: NDArray[np.generic],
    attention: Attention,
    calibration_clips: NDArray[np.generic] | Calibration,
    *,
    graph: Net | None = None,
    labels: NDArray[np.integer[Any]] | None = None,
    backends: Sequence[VerifiedBackend] = BACKENDS,
    lava_samples: int = 4,
    time_limit_s: float = 600.0,
) -> Verification:
    """Compare a trained module with everything that is made of it.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode; see `spikefold.capture`.
    clips : integer array ``[T, B, *input_shape]``
        Held-out samples.
    attention : "static", "scheduled", "causal" or "dynamic"
        How gates are lowered; of no effect where there are none.
    calibration_clips : array ``[T, N, *input_shape]`` or Calibration
        Training samples.
    graph : FixedPointGraph or path, optional
        The deployed net; made here with `spikefold.lower` where it is not given.
    labels : integer array ``[B]``, optional
        Classes of ``clips``; gives accuracies.
    backends : sequence of "fast", "torch", "onnx", "lava"
        Which to compare with the numpy reference. "onnx" includes the step graph where the net has one; the net read
        back from a NIR file is always compared.
    lava_samples : int
        Lava is slow and runs the first so many clips; 0 leaves it out.
    time_limit_s : float
        Seconds after which the Lava run is ended.

    Raises
    ------
    CaptureError, LoweringError
        The module cannot be captured or lowered.
    InputError
        Clips, labels or the graph do not fit the module, or a backend is unknown.
    BackendError
        A backend is missing or failed.
    """
    calibrated = calibration_clips.clips if isinstance(calibration_clips, Calibration) else calibration_clips
    _check(clips, calibrated)
    captured = capture(module, torch.from_numpy(np.ascontiguousarray(clips[:, :1])).float())
    calibration = calibration_clips if isinstance(calibration_clips, Calibration) else calibrate(captured, calibrated)
    fixed = open_net(graph) if graph is not None else lower(captured, calibration, attention)
    lowered_graph, left = lower_float(captured, calibration, attention)
    float_net, lowered = read_float_graph(captured), read_float_graph(lowered_graph)
    _check_graph(fixed, lowered, attention)
    if labels is not None:
        check_labels(labels, clips.shape[1], fixed.output.size)
    whole = check_input(fixed, clips)
    folding = check_folding(module, float_net, clips)
    errors = measure_layers(float_net, lowered, fixed, calibration, whole, labels)
    found = [*of_gates(float_net, calibration, attention), *of_states(fixed, errors.states)]
    found += of_clips(fixed, events_per_clip(clips))
    if left.gates:
        found += of_ranges(left.gates, calibrate(lowered_graph, clips).gates)
    return Verification(
        int(clips.shape[1]), int(clips.shape[0]), fixed.attention, folding, errors.attention, errors.quantisation,
        errors.states, check_backends(fixed, whole, backends, lava_samples, time_limit_s), tuple(found),
    )  # fmt: skip


def _check(clips: NDArray[np.generic], calibrated: NDArray[np.generic]) -> None:
    """Refuse data that do not fit each other; what the net takes is checked by those who run it."""
    if clips.ndim < 3 or 0 in clips.shape:
        raise InputError(f"clips have shape {clips.shape}; [T, B, *features], none of them 0, is needed")
    if clips.shape[2:] != calibrated.shape[2:]:
        raise InputError(
            f"clips have features {clips.shape[2:]}, the calibration clips {calibrated.shape[2:]}: both go into one net"
        )


def _check_graph(graph: FixedPointGraph, net: FloatNet, attention: Attention) -> None:
    """Refuse a given graph that is not of this module or not of this kind of attention."""
    if graph.attention not in ("none", attention):
        raise InputError(f"the graph's attention is {graph.attention!r}, not {attention!r}: ask for what it is")
    ours = {n.name: tuple(n.shape) for n in graph.neurons}
    theirs = {p.name: tuple(p.shape) for p in net.populations}
    if ours != theirs or graph.input.shape != net.input_shape:
        raise InputError(
            f"the graph {graph.name!r} has populations {ours}, the module {theirs}: it was made of another module"
        )


def _for_json(value: Any) -> Any:
    """The same with lists for tuples, and texts for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {k: _for_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_json(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
