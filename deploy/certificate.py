"""A certificate: which integer net, on which clips, gave which spikes and membranes, and that every backend agreed.

It holds hashes, so whoever has the same ``.nir`` and the same clips can check all of it again, on another machine and
with other versions of the libraries: the numpy reference must give the same trace, and every backend the same as it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.calibrate import batches
from spikefold.converters.fixed_point_graph import FixedPointGraph
from spikefold.converters.plain_fields import is_whole, short
from spikefold.converters.reference import check_input, run_reference
from spikefold.converters.show import Shown
from spikefold.deploy.equality import BATCH, BackendEquality, check_backends
from spikefold.errors import FileFormatError, InputError
from spikefold.files import atomic_path

FORMAT = 1
MAX_FILE_BYTES = 1_000_000
MAX_COUNT = 10**6
"""Samples or steps of a certificate."""
LIBRARIES = ("numpy", "torch", "onnxruntime", "nir", "numba")


@dataclass(frozen=True)
class Agreement:
    """One backend: samples it ran, and what differed from the reference."""

    backend: str
    samples: int
    values: int
    spike_differences: int
    membrane_differences: int


@dataclass(frozen=True, repr=False)
class Certificate(Shown, by="spikefold.deploy.notebook"):
    """See the module's text; hashes are SHA-256, in hexadecimal digits."""

    net: str
    attention: str
    net_sha256: str
    """Of the integers of the net: not of the file, which has the float twin and the history in it, too."""
    data: str
    """What the clips are, in the words of who made them."""
    clips_sha256: str
    samples: int
    time_steps: int
    trace_sha256: str
    """Of every spike (or message) and membrane of the numpy reference, `BATCH` samples at a time."""
    agreements: tuple[Agreement, ...]
    spikefold: str
    versions: dict[str, str]
    """Of libraries and Python where it was made."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything ready for JSON."""
        return {"spikefold_certificate": FORMAT, **asdict(self)}


def net_sha256(graph: FixedPointGraph) -> str:
    """Hash of what a net computes: equal for equal integers, whatever file and history they have."""
    text, arrays = graph.to_plain()
    plain = json.loads(text)
    plain.pop("provenance", None)
    sums = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for array in arrays:
        _add(sums, array)
    return sums.hexdigest()


def clips_sha256(clips: NDArray[np.generic]) -> str:
    """Hash of clips ``[T, B, ...]`` of whole numbers, whatever their type."""
    sums = hashlib.sha256()
    _add(sums, clips)
    return sums.hexdigest()


def _add(sums: Any, array: NDArray[Any]) -> None:
    whole = np.ascontiguousarray(array, dtype="<i8")
    sums.update(f"{array.shape}".encode())
    sums.update(whole.tobytes())


def _trace_sha256(graph: FixedPointGraph, clips: NDArray[np.generic]) -> str:
    sums = hashlib.sha256()
    for batch in batches(clips, BATCH):
        trace = run_reference(graph, batch)
        for name in sorted(trace.spikes):
            sums.update(name.encode())
            _add(sums, trace.spikes[name])
            _add(sums, trace.membranes[name])
    return sums.hexdigest()


def certify(
    graph: FixedPointGraph, clips: NDArray[np.generic], found: Sequence[BackendEquality], data: str
) -> Certificate:
    """Make the certificate of a comparison that found no difference.

    Parameters
    ----------
    graph
        The net that was compared.
    clips
        ``[T, B, ...]``, those of the comparison.
    found
        What `spikefold.deploy.equality.check_backends` gave.
    data
        What the clips are, so that others can get them.

    Raises
    ------
    InputError
        A backend differs, or none was compared: there is nothing to certify.
    """
    whole = check_input(graph, clips)
    unequal = [b for b in found if not b.equal]
    if unequal or not found:
        what = f"backend {unequal[0].backend!r} differs" if unequal else "no backend was compared"
        raise InputError(f"net {graph.name!r}: {what}, so there is nothing to certify; see verify")
    agreements = tuple(
        Agreement(b.backend, b.samples, b.values, b.spike_differences, b.membrane_differences) for b in found
    )
    return Certificate(
        graph.name, graph.attention, net_sha256(graph), data, clips_sha256(whole), whole.shape[1], len(whole),
        _trace_sha256(graph, whole), agreements, importlib.metadata.version("spikefold"),
        {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in LIBRARIES}},
    )  # fmt: skip


def recheck(
    certificate: Certificate,
    graph: FixedPointGraph,
    clips: NDArray[np.generic],
    lava_samples: int = 0,
    time_limit_s: float = 600.0,
) -> list[str]:
    """Check a certificate with one's own copy of the net and the clips; gives what does not hold, in sentences.

    Every backend of this machine runs, also those that the certificate does not name; Lava ``lava_samples`` samples.
    """
    whole = check_input(graph, clips)
    wrong = []
    for what, said, here in (
        ("the net", certificate.net_sha256, net_sha256(graph)),
        ("the clips", certificate.clips_sha256, clips_sha256(whole)),
    ):
        if said != here:
            wrong.append(f"{what}: SHA-256 is {here[:16]}..., the certificate is about {said[:16]}...")
    if wrong:
        return wrong
    trace = _trace_sha256(graph, whole)
    if trace != certificate.trace_sha256:
        said = certificate.trace_sha256
        wrong.append(f"the numpy reference gives {trace[:16]}..., the certificate says {said[:16]}...")
    for backend in check_backends(graph, whole, lava_samples=lava_samples, time_limit_s=time_limit_s):
        if not backend.equal:
            wrong.append(
                f"{backend.backend}: {backend.spike_differences} spikes and {backend.membrane_differences} membranes "
                f"differ from the reference, of {backend.values} each"
            )
    return wrong


def write_certificate(certificate: Certificate, path: str | os.PathLike[str]) -> None:
    """Write it as JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(certificate.to_dict(), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read what `write_certificate` wrote.

    Raises
    ------
    FileFormatError
        The file is missing, no certificate, damaged, or newer.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise FileFormatError(f"{path}: larger than {MAX_FILE_BYTES} bytes; a certificate is a few kilobytes")
        plain = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        said = str(error)[:200]
        raise FileFormatError(f"{path}: cannot be read as JSON ({said}); give a certificate of verify") from error
    version = plain.get("spikefold_certificate") if isinstance(plain, dict) else None
    if version != FORMAT:
        raise FileFormatError(f"{path}: spikefold_certificate is {short(version)}, this version reads {FORMAT}")
    fields = {name: plain.get(name) for name in Certificate.__dataclass_fields__}
    texts = ("net", "attention", "net_sha256", "data", "clips_sha256", "trace_sha256", "spikefold")
    for name, kind in [(t, str) for t in texts] + [("samples", int), ("time_steps", int), ("versions", dict)]:
        if not isinstance(fields[name], kind):
            said = short(fields[name])
            raise FileFormatError(f"{path}: {name} is {said}, a {kind.__name__} is needed; it is damaged")
    for name in ("samples", "time_steps"):
        if not is_whole(fields[name]) or not 1 <= fields[name] <= MAX_COUNT:
            raise FileFormatError(f"{path}: {name} is {short(fields[name])}; 1 to {MAX_COUNT} is needed; it is damaged")
    for name in ("net_sha256", "clips_sha256", "trace_sha256"):
        if re.fullmatch("[0-9a-f]{64}", fields[name]) is None:
            raise FileFormatError(f"{path}: {name} is {short(fields[name])}; 64 hexadecimal digits are needed")
    try:
        fields["agreements"] = tuple(Agreement(**entry) for entry in plain["agreements"])
    except (KeyError, TypeError) as error:
        raise FileFormatError(f"{path}: agreements are damaged ({str(error)[:200]})") from error
    for agreement in fields["agreements"]:
        counts = (getattr(agreement, f) for f in Agreement.__dataclass_fields__ if f != "backend")
        if not isinstance(agreement.backend, str) or not all(is_whole(n) and n >= 0 for n in counts):
            raise FileFormatError(f"{path}: agreements are damaged ({short(asdict(agreement))})")
    return Certificate(**fields)
