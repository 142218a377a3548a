"""Run the ONNX form of an integer net on ONNX Runtime's CPU backend: whole clips, or step by step."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.external_data_helper import _get_all_tensors, uses_external_data

from spikefold.converters.calibrate import batches
from spikefold.converters.fixed_point_graph import FORMAT, FixedPointGraph, InputPort
from spikefold.converters.onnx import to_onnx_clip
from spikefold.converters.onnx.model import FREE_TIME
from spikefold.converters.plain_fields import Fields, short
from spikefold.converters.reference import Trace, check_input
from spikefold.errors import BackendError, FileFormatError, InputError

Counts = dict[str, NDArray[np.int64]]
Source: TypeAlias = FixedPointGraph | ModelProto | str | os.PathLike[str]


States: TypeAlias = dict[str, NDArray[np.integer[Any]]]

_OVER_TIME = ("train/", "membrane/")
_STATE_TYPES = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}


@dataclass(frozen=True)
class OnnxRun:
    """What one run of whole clips gave.

    ``logits`` is float64 ``[B, classes]``. ``input_counts``, ``spike_counts`` (per population) and ``synops`` (per
    synapse) are int64 ``[B]``: messages that are not zero, and those times their border-exact fan-out. ``sent`` (input
    and populations, int64 ``[T, *shape]``) says when and where, summed over samples; exported graphs leave it out.
    """

    logits: NDArray[np.float64]
    input_counts: NDArray[np.int64]
    spike_counts: Counts
    synops: Counts
    sent: Counts
    trace: Trace | None = None


def run_onnx(source: Source, clips: NDArray[np.generic], *, batch_size: int = 16, trace: bool = False) -> OnnxRun:
    """Run clips once; see `ClipRunner`, which keeps the session for further runs."""
    return ClipRunner(source, trace=trace).run(clips, batch_size=batch_size)


class ClipRunner:
    """A loaded whole-clip graph.

    Parameters
    ----------
    source : FixedPointGraph, onnx.ModelProto or path
        A net (exported here), an exported clip graph, or its file.
    trace : bool
        Keep all spikes and membranes; an exported graph must have been exported with ``trace=True``.

    Raises
    ------
    FileFormatError
        The file is broken, of another kind, or newer.
    InputError
        ``trace`` is asked of a graph that was exported without it.
    """

    def __init__(self, source: Source, *, trace: bool = False) -> None:
        if isinstance(source, FixedPointGraph):
            source = to_onnx_clip(source, trace=trace, sent=True)
        self._session, metadata, self._where = _open(source, "clip")
        self._port = _read_port(metadata, self._where)
        self._trace = trace
        self._names = [output.name for output in self._session.get_outputs()]
        if trace and metadata.get("spikefold_trace") != "1":
            raise InputError(f"{self._where}: exported without spikes and membranes; export it with trace=True")

    def run(self, clips: NDArray[np.generic], *, batch_size: int = 16) -> OnnxRun:
        """Run clips ``[T, B, *shape]`` (integers), ``batch_size`` samples at a time.

        Raises
        ------
        InputError
            Wrong shape, number of steps, type or range; nothing was run.
        BackendError
            ONNX Runtime failed.
        """
        whole = check_input(self._port, clips)
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, it must be at least 1")
        wanted = [n for n in self._names if self._trace or not n.startswith(_OVER_TIME)]
        parts = []
        for batch in batches(whole, batch_size):
            parts.append(_run(self._session, wanted, {"events": batch.astype(_dtype(self._port))}, self._where))
        merged = {name: _merge(name, [part[i] for part in parts]) for i, name in enumerate(wanted)}
        logits: NDArray[np.float64] = merged["logits"]
        trace = Trace(_group(merged, "train"), _group(merged, "membrane"), logits) if self._trace else None
        counts = np.count_nonzero(whole, axis=(0, *range(2, whole.ndim)))
        spikes, synops, sent = (_group(merged, kind) for kind in ("spikes", "synops", "sent"))
        return OnnxRun(logits, np.asarray(counts), spikes, synops, sent, trace)


class StepRunner:
    """Drives a step graph with states that the caller holds.

    Parameters
    ----------
    source : onnx.ModelProto or path
        What `spikefold.converters.onnx.to_onnx_step` made.

    Raises
    ------
    FileFormatError
        The file is broken, of another kind, or newer.
    """

    def __init__(self, source: ModelProto | str | os.PathLike[str]) -> None:
        self._session, metadata, self._where = _open(source, "step")
        self._port = _read_port(metadata, self._where)
        self._names = [output.name for output in self._session.get_outputs()]
        try:
            states = Fields(json.loads(metadata["spikefold_states"]), "spikefold_states")
            self._states = {name: states.text(name) for name in states.names()}
            self._reset = int(metadata["spikefold_reset"])
            if not set(self._states.values()) <= set(self._names):
                raise ValueError(f"spikefold_states names outputs that are not there: {short(self._states)}")
        except (KeyError, ValueError, RecursionError, FileFormatError) as error:
            raise FileFormatError(
                f"{self._where}: the metadata on states is damaged ({error}); export again"
            ) from error
        self._held = {i.name: (i.shape, i.type) for i in self._session.get_inputs() if i.name in self._states}

    def initial_states(self, batch: int) -> States:
        """States at the start of a clip, ``v/<population>`` -> int32 ``[batch, *shape]``, and ``step`` with tables."""
        return {
            name: np.full([n if isinstance(n, int) else batch for n in shape], self._reset, _STATE_TYPES[dtype])
            for name, (shape, dtype) in self._held.items()
        }

    def step(
        self, events: NDArray[np.generic], states: Mapping[str, NDArray[np.integer[Any]]]
    ) -> tuple[dict[str, NDArray[Any]], States]:
        """Run one time step.

        Parameters
        ----------
        events : integer array ``[B, *shape]``
            Messages of this step.
        states : mapping
            From `initial_states` or the last call, the number of the step included where gates are tables.

        Returns
        -------
        outputs : dict
            ``train/<population>`` ``[B, *shape]`` uint8, of relays their messages as int32 and ``membrane/<relay>``
            int32, and ``readout`` float64 ``[B, classes]``.
        states : dict
            To be handed to the next call.

        Raises
        ------
        InputError
            Wrong input, or a state is missing or of another shape than the input's batch asks for.
        BackendError
            ONNX Runtime failed.
        """
        whole = check_input(self._port, np.asarray(events)[None])[0]
        missing, unknown = sorted(self._held.keys() - states.keys()), sorted(states.keys() - self._held.keys())
        if missing or unknown:
            raise InputError(f"states: missing {missing}, unknown {unknown}; take them from initial_states or step")
        for name, wanted in self.initial_states(len(whole)).items():
            state = states[name]
            if state.shape != wanted.shape or state.dtype != wanted.dtype:
                raise InputError(
                    f"state {name!r} is {state.dtype} {state.shape}; an input of batch {len(whole)} needs "
                    f"{wanted.dtype} {wanted.shape}"
                )
        feed = {"events": whole.astype(_dtype(self._port)), **states}
        outputs = dict(zip(self._names, _run(self._session, self._names, feed, self._where), strict=True))
        following = {name: outputs.pop(output) for name, output in self._states.items()}
        return outputs, following


def _open(source: ModelProto | str | os.PathLike[str], form: str) -> tuple[Any, dict[str, str], str]:
    """Load a model; gives the session, the metadata and the name that errors use."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if isinstance(source, ModelProto):
        where, content = f"ONNX graph {source.graph.name!r}", source.SerializeToString()
    else:
        where = os.fspath(source)
        try:
            with open(source, "rb") as file:
                content = file.read()
        except OSError as error:
            raise FileFormatError(f"{where}: cannot be read: {error.strerror}") from error
    metadata = _read_metadata(content, where)
    if "spikefold_format" not in metadata:
        raise FileFormatError(f"{where}: not written by spikefold (no spikefold_format in its metadata)")
    if metadata["spikefold_format"] != str(FORMAT):
        version = metadata["spikefold_format"]
        raise FileFormatError(f"{where}: spikefold_format is {version}, this version reads {FORMAT}: update spikefold")
    if metadata.get("spikefold_form") != form:
        raise FileFormatError(f"{where}: it holds the {metadata.get('spikefold_form')!r} form, not {form!r}")
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen classes without a public common base
        raise FileFormatError(f"{where}: ONNX Runtime cannot load it: {str(error)[:1000]}") from error
    return session, metadata, where


def _read_metadata(content: bytes, where: str) -> dict[str, str]:
    """What a model says of itself; FileFormatError where it is none, or keeps data in other files."""
    try:
        model = ModelProto.FromString(content)
        elsewhere = next((t for t in _get_all_tensors(model) if uses_external_data(t)), None)
    except Exception as error:  # protobuf raises whatever comes up on a damaged file
        raise FileFormatError(f"{where}: not a readable ONNX file ({type(error).__name__})") from error
    if elsewhere is not None:
        said = ", ".join(f"{entry.key} {entry.value[:200]}" for entry in elsewhere.external_data)
        raise FileFormatError(f"{where}: tensor {elsewhere.name!r} lies in another file ({said}); none is opened")
    return {p.key: p.value for p in model.metadata_props}


def _read_port(metadata: Mapping[str, str], where: str) -> FixedPointGraph:
    """Make a net of the input port alone: what `check_input` reads."""
    try:
        plain = Fields(json.loads(metadata["spikefold_input"]), "spikefold_input")
        port = InputPort(plain.shape("shape"), plain.whole("max_value", 0), plain.text("name"))
        steps = metadata["spikefold_time_steps"] if metadata["spikefold_form"] == "clip" else FREE_TIME
        if steps != FREE_TIME and not re.fullmatch(r"[1-9]\d{0,8}", steps):
            raise ValueError(f"spikefold_time_steps is {steps[:80]!r}")
        return FixedPointGraph(port, (), (), "none", None if steps == FREE_TIME else int(steps))
    except (KeyError, ValueError, RecursionError, FileFormatError) as error:
        raise FileFormatError(f"{where}: the metadata on its input is damaged ({error}); export again") from error


def _dtype(port: FixedPointGraph) -> type[np.generic]:
    return np.uint8 if port.input.max_value <= 255 else np.int32


def _run(session: Any, names: list[str], feed: Mapping[str, NDArray[Any]], where: str) -> list[NDArray[Any]]:
    try:
        results: list[NDArray[Any]] = session.run(names, dict(feed))
    except Exception as error:  # as in _open
        raise BackendError(f"{where}: ONNX Runtime failed: {error}") from error
    return results


def _merge(name: str, parts: list[NDArray[Any]]) -> NDArray[Any]:
    """One output of all batches."""
    if name.startswith("sent/"):
        return np.asarray(np.sum(parts, axis=0, dtype=np.int64))
    return np.concatenate(parts, axis=1 if name.startswith(_OVER_TIME) else 0)


def _group(outputs: Mapping[str, NDArray[Any]], kind: str) -> Counts:
    """Outputs ``<kind>/<name>`` by name, as int64."""
    start = f"{kind}/"
    return {n.removeprefix(start): value.astype(np.int64) for n, value in outputs.items() if n.startswith(start)}
