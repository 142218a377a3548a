"""Proof that what runs is what was trained: a module, its folded float net, its integers, and every backend.

Four kinds of difference, which mean different things and never share a number:

folding
    the trained module against its captured float net: float rounding, inside a proved bound;
attention
    gates computed per clip against their lowered form: an approximation, shown;
quantisation
    float against fixed point, each layer alone and all of them carried on: an approximation, shown;
backends
    the integers in torch, in ONNX Runtime, in Lava and read back from a NIR file: equal in every bit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spikefold.converters.calibrate import Calibration, batches, calibrate
from spikefold.converters.capture import capture
from spikefold.converters.engine import run_engine
from spikefold.converters.fixed_point_graph import AttentionMode, FixedPointGraph
from spikefold.converters.float_graph import FloatNet, read_float_graph
from spikefold.converters.lower import Attention, lower, lower_float
from spikefold.converters.reference import check_input, run_population, sum_currents, synapse_current
from spikefold.deploy.equality import BACKENDS, BATCH, BackendEquality, VerifiedBackend, check_backends
from spikefold.deploy.run import Net, open_net
from spikefold.deploy.teacher_forcing import Folding, check_folding
from spikefold.errors import InputError


@dataclass(frozen=True)
class LayerAttention:
    """Spikes of one layer with its gates computed per clip, and lowered; how much its gate depends on the input."""

    name: str
    gate_variation: float | None
    spikes_dynamic: int
    spikes_lowered: int


@dataclass(frozen=True)
class AttentionChange:
    """What lowering attention changed in the float net. ``gate_variation`` is measured on the calibration clips."""

    mode: AttentionMode
    layers: tuple[LayerAttention, ...]
    predictions_changed: int
    accuracy_dynamic: float | None
    accuracy_lowered: float | None


@dataclass(frozen=True)
class LayerQuantisation:
    """Spikes that differ between float and fixed point: with float spikes fed to the layer, and in the whole net."""

    name: str
    neuron_steps: int
    isolated: int
    cumulative: int


@dataclass(frozen=True)
class Quantisation:
    """What quantising changed, against the lowered float net in float32."""

    layers: tuple[LayerQuantisation, ...]
    predictions_changed: int
    accuracy_float: float | None
    accuracy_fixed: float | None


@dataclass(frozen=True)
class Verification:
    """What `verify` found. ``attention`` is None for a net without gates; see the module's text for the parts."""

    samples: int
    time_steps: int
    mode: AttentionMode
    folding: Folding
    attention: AttentionChange | None
    quantisation: Quantisation
    backends: tuple[BackendEquality, ...]

    @property
    def passed(self) -> bool:
        """Rounding explains every difference of the folded net, and the backends are equal in every bit."""
        return self.folding.within_bound and all(b.equal for b in self.backends)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, texts, lists and dictionaries."""
        plain: dict[str, Any] = json.loads(json.dumps({**asdict(self), "passed": self.passed}))
        return plain

    def summary_lines(self) -> list[str]:
        """The report as text."""
        return [*_folding_lines(self), *_attention_lines(self), *_quantisation_lines(self), *_backend_lines(self)]


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
    attention : "static" or "dynamic"
        How gates are lowered; of no effect where there are none.
    calibration_clips : array ``[T, N, *input_shape]`` or Calibration
        Training samples.
    graph : FixedPointGraph or path, optional
        The deployed net; made here with `spikefold.lower` where it is not given.
    labels : integer array ``[B]``, optional
        Classes of ``clips``; gives accuracies.
    backends : sequence of "torch", "onnx", "lava"
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
    _check(clips, calibrated, labels)
    captured = capture(module, torch.from_numpy(np.ascontiguousarray(clips[:, :1])).float())
    calibration = calibration_clips if isinstance(calibration_clips, Calibration) else calibrate(captured, calibrated)
    fixed = open_net(graph) if graph is not None else lower(captured, calibration, attention)
    float_net, lowered = read_float_graph(captured), read_float_graph(lower_float(captured, calibration, attention)[0])
    _check_graph(fixed, lowered, attention)
    whole = check_input(fixed, clips)
    folding = check_folding(module, float_net, clips)
    change, quantisation = _approximations(float_net, lowered, fixed, calibration, whole, labels)
    return Verification(
        int(clips.shape[1]), int(clips.shape[0]), fixed.attention, folding, change, quantisation,
        check_backends(fixed, whole, backends, lava_samples, time_limit_s),
    )  # fmt: skip


def _approximations(
    dynamic: FloatNet,
    lowered: FloatNet,
    fixed: FixedPointGraph,
    calibration: Calibration,
    clips: NDArray[np.int64],
    labels: NDArray[np.integer[Any]] | None,
) -> tuple[AttentionChange | None, Quantisation]:
    counts: Counter[tuple[str, str]] = Counter()
    predictions: dict[str, list[int]] = {"dynamic": [], "lowered": [], "fixed": []}
    firing = [n for n in fixed.neurons if n.fires]
    for batch in batches(clips, BATCH):
        real = torch.from_numpy(np.ascontiguousarray(batch)).float()
        with torch.no_grad():
            logits, before = dynamic.run(real)
            lowered_logits, after = lowered.run(real)
        trace = run_engine(fixed, batch)
        sent = {name: train.numpy().astype(np.int64) for name, train in after.items()}
        sent[fixed.input.name] = np.asarray(batch, dtype=np.int64)
        for n in firing:
            currents = [synapse_current(s, sent[s.source]) for s in fixed.incoming(n.name)]
            alone, _ = run_population(n, sum_currents(n, currents))
            counts["steps", n.name] += alone.size
            counts["dynamic", n.name] += int(np.count_nonzero(before[n.name].numpy()))
            counts["lowered", n.name] += int(np.count_nonzero(sent[n.name]))
            counts["isolated", n.name] += int((alone != sent[n.name]).sum())
            counts["cumulative", n.name] += int((trace.spikes[n.name] != sent[n.name]).sum())
        for which, values in (("dynamic", logits), ("lowered", lowered_logits), ("fixed", trace.logits)):
            predictions[which] += [int(i) for i in values.argmax(1)]

    def changed(one: str, other: str) -> int:
        return sum(a != b for a, b in zip(predictions[one], predictions[other], strict=True))

    def accuracy(which: str) -> float | None:
        return None if labels is None else float((np.array(predictions[which]) == labels).mean())

    change = None
    if calibration.gates:
        variation = {name: gate.variation for name, gate in calibration.gates.items()}
        layers = tuple(
            LayerAttention(n.name, variation.get(n.name), counts["dynamic", n.name], counts["lowered", n.name])
            for n in firing
        )
        change = AttentionChange(
            fixed.attention, layers, changed("dynamic", "lowered"), accuracy("dynamic"), accuracy("lowered")
        )
    quantised = tuple(
        LayerQuantisation(n.name, *(counts[kind, n.name] for kind in ("steps", "isolated", "cumulative")))
        for n in firing
    )
    return change, Quantisation(quantised, changed("lowered", "fixed"), accuracy("lowered"), accuracy("fixed"))


def _check(
    clips: NDArray[np.generic], calibrated: NDArray[np.generic], labels: NDArray[np.integer[Any]] | None
) -> None:
    """Refuse data that do not fit each other; what the net takes is checked by those who run it."""
    if clips.ndim < 3 or 0 in clips.shape:
        raise InputError(f"clips have shape {clips.shape}; [T, B, *features], none of them 0, is needed")
    if clips.shape[2:] != calibrated.shape[2:]:
        raise InputError(
            f"clips have features {clips.shape[2:]}, the calibration clips {calibrated.shape[2:]}: both go into one net"
        )
    if labels is not None and labels.shape != (clips.shape[1],):
        raise InputError(f"labels have shape {labels.shape}; {clips.shape[1]} clips need ({clips.shape[1]},)")


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


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}" + (f" ({100 * part / whole:.2g} %)" if part else "")


def _accuracy(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"; accuracy {before:.1%} -> {after:.1%}"


def _folding_lines(v: Verification) -> list[str]:
    f = v.folding
    verdict = "within the rounding bound" if f.within_bound else "NOT EXPLAINED BY ROUNDING"
    lines = [f"module vs folded float net, layer by layer in float64: {verdict}"]
    for layer in f.layers:
        what = f"{_share(layer.flips, layer.neuron_steps)} neuron-steps flip" if layer.fires else "logits"
        line = (
            f"  {layer.name}: {what}; largest difference {layer.largest_difference:.1e}, {layer.largest_share:.2f} of "
            f"its bound (mean bound {layer.mean_bound:.1e})"
        )
        if layer.flips:
            line += f"; farthest flip {layer.flip_distance:.1e} from the threshold, bound {layer.flip_bound:.1e}"
        if not layer.within_bound:
            line += f"; {layer.outside:,} values and {layer.flips_outside:,} flips OUTSIDE"
        lines.append(line)
    lines.append(
        f"  for information, both run freely in float32: {_share(f.float32_flips, f.float32_spikes)} neuron-steps and "
        f"{f.float32_predictions} of {f.samples} predictions differ"
    )
    return lines


def _attention_lines(v: Verification) -> list[str]:
    a = v.attention
    if a is None:
        return ["attention: none in this net"]
    lines = ["attention: computed per clip, as trained"]
    if a.mode != "dynamic":
        lines = [
            f"attention computed per clip vs {a.mode}: {a.predictions_changed} of {v.samples} predictions change"
            + _accuracy(a.accuracy_dynamic, a.accuracy_lowered)
        ]
    for layer in a.layers:
        change = f"  {layer.name}: {layer.spikes_dynamic:,} -> {layer.spikes_lowered:,} spikes"
        varies = "" if layer.gate_variation is None else f"; gate varies {layer.gate_variation:.1%} over samples"
        lines.append(change + varies)
    return lines


def _quantisation_lines(v: Verification) -> list[str]:
    q = v.quantisation
    lines = [
        f"float vs fixed point: {q.predictions_changed} of {v.samples} predictions change"
        + _accuracy(q.accuracy_float, q.accuracy_fixed)
    ]
    for layer in q.layers:
        alone, carried = layer.isolated / layer.neuron_steps, layer.cumulative / layer.neuron_steps
        lines.append(f"  {layer.name}: spikes differ in {alone:.3%} of neuron-steps alone, {carried:.3%} carried on")
    return lines


def _backend_lines(v: Verification) -> list[str]:
    lines = ["fixed point vs the numpy reference, differing values:"]
    for b in v.backends:
        lines.append(
            f"  {b.backend}: {b.spike_differences:,} of {b.spikes:,} spike values, {b.membrane_differences:,} of "
            f"{b.membranes:,} membrane values, {b.logit_differences:,} of {b.logits:,} logits "
            f"({b.samples} samples, {b.time_steps} steps)"
        )
    return [*lines, f"verified: {'yes' if v.passed else 'NO'}"]
