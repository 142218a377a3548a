"""What a traced tensor can be while capture walks the operations, and how its axes are laid out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from spikefold.converters.capture.linear_map import LinearMap

BATCH = 1009
"""Batch of a traced module: an axis belongs to the batch exactly where this prime divides its size."""
Axes: TypeAlias = Literal["T B", "B T", "TB", "BT", "B"]
"""How time and batch lead a tensor: apart, swapped, merged, or batch alone (after averaging over time)."""


@dataclass(frozen=True)
class NeuronArrays:
    """What `spikefold.models.lif.NeuronSpec` says, of neurons that differ: numbers, or arrays of their shape."""

    decay: float | NDArray[np.float64]
    v_threshold: float | NDArray[np.float64]
    strict: bool
    v_reset: float | NDArray[np.float64] = 0.0
    input_gain: float = 1.0
    soft_reset: bool = False
    current_decay: float | NDArray[np.float64] = 0.0


@dataclass(frozen=True)
class Part:
    """One linear path from a population (or the input) into a current.

    What the source sends arrives ``delay`` steps later: one whole number, or one for each of its neurons.
    """

    source: str
    map: LinearMap
    label: str
    delay: int | NDArray[np.int64] = 0


@dataclass(frozen=True)
class Flow:
    """A signal that is linear in spikes: the sum of ``parts``. Features are ``features``, led by ``axes``.

    ``schedule`` ``[T, 1, *features or 1]``, laid out so whatever ``axes`` is, is added to it step by step.
    ``key`` names the operation that made the values: layout changes keep it. ``reduced`` says that they
    were averaged over time. A flow that is a plain multiple of another keeps that one's key in ``origin`` and the
    ``factor``, so that a gate may be computed from either.
    """

    parts: tuple[Part, ...]
    features: tuple[int, ...]
    axes: Axes
    key: Node
    reduced: bool = False
    origin: Node | None = None
    factor: float = 1.0
    schedule: Tensor | None = None

    def times(self, other: Flow) -> float | None:
        """How many times ``other`` this flow is, where both are multiples of one operation's values."""
        return self.factor / other.factor if (self.origin or self.key) is (other.origin or other.key) else None


@dataclass(frozen=True)
class Leaf:
    """A factor that was multiplied onto a current laid out as ``axes`` with ``features``."""

    node: Node | Tensor | float
    axes: Axes
    features: tuple[int, ...]


@dataclass(frozen=True)
class Sum:
    """Sum of two gate expressions."""

    left: Gate
    right: Gate


@dataclass(frozen=True)
class Product:
    """Product of two gate expressions."""

    left: Gate
    right: Gate


Gate: TypeAlias = Leaf | Sum | Product


@dataclass(frozen=True)
class Gated:
    """A current times a gate."""

    flow: Flow
    gate: Gate


@dataclass(frozen=True)
class Mixed:
    """A sum of currents of different origin, some of them gated, as in a choice between scales."""

    terms: tuple[Flow | Gated, ...]


@dataclass(frozen=True)
class Derived:
    """Anything else: fine inside a gate, an error where a signal is needed.

    ``node`` is the operation that began it; ``reason`` says why that operation could not be folded, if it nearly could.
    """

    node: Node
    reason: str = ""


Value: TypeAlias = Tensor | Flow | Gated | Mixed | Derived


@dataclass(frozen=True)
class Gather:
    """What a relay does whose gate reads several flows: they stand side by side in its channels, in this order.

    Each comes with its gate, or None where it is read but not sent on.
    """

    terms: tuple[tuple[Flow, Gate | None], ...]


def shape_of(node: Node) -> tuple[int, ...]:
    """Shape of a traced tensor."""
    return tuple(int(n) for n in node.meta["val"].shape)


def shape_text(node: Node) -> str:
    """Shape of a traced tensor for a message, its batch axis written B."""
    sizes = (f"{n // BATCH}B".removeprefix("1") if n % BATCH == 0 else str(n) for n in shape_of(node))
    return f"[{', '.join(sizes)}]"


def where(node: Node) -> str:
    """Name an operation for a message: module path, its class and the torch function."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = stack[-1] if stack else ("", "")
    kind_name = str(kind).rpartition(".")[2].rstrip("'>")
    return f"{path or 'the module itself'} ({kind_name}), operation {node.target}"


def leading(axes: Axes) -> int:
    """Number of axes before the features."""
    return 2 if " " in axes else 1


def relayout(flow: Flow, shape: tuple[int, ...], time_steps: int) -> Flow | None:
    """Follow a reshape; None where it is more than merging, splitting or flattening."""
    lead = _leading_axes(flow, shape, time_steps)
    if lead is None:
        return None
    features = shape[leading(lead) :]
    if math.prod(features) != math.prod(flow.features) or BATCH in features:
        return None
    schedule = flow.schedule
    if schedule is not None and features != flow.features:
        schedule = schedule.expand(-1, -1, *flow.features).reshape(time_steps, 1, *features)
    return replace(flow, axes=lead, features=features, schedule=schedule)


def _leading_axes(flow: Flow, shape: tuple[int, ...], time_steps: int) -> Axes | None:
    axes = flow.axes
    if axes == "B":
        return "B" if shape and shape[0] == BATCH else None
    time_first = axes in ("T B", "TB")
    if time_first and shape[:2] == (time_steps, BATCH):
        return "T B"
    if not time_first and shape[:2] == (BATCH, time_steps):
        # with T = 1, [B, 1, ...] may also be B and T merged and a first feature axis of size 1
        apart = shape[2:] == flow.features or (" " in axes and shape[1:] != flow.features)
        return "B T" if time_steps > 1 or apart else "BT"
    if shape and shape[0] == time_steps * BATCH:
        return "TB" if time_first else "BT"
    return None


def permute(flow: Flow, order: tuple[int, ...]) -> Flow | None:
    """Follow a permutation; None where features change places."""
    rest = tuple(range(2, 2 + len(flow.features)))
    if flow.axes in ("T B", "B T") and order == (1, 0, *rest):
        return replace(flow, axes="B T" if flow.axes == "T B" else "T B")
    return flow if order == tuple(range(len(order))) else None


def is_real(node: Node) -> bool:
    """True where a traced tensor holds floating-point numbers; a cast to whole numbers rounds."""
    return bool(node.meta["val"].is_floating_point())


def is_scalar(value: object) -> bool:
    """True for a Python number or a constant tensor of one element."""
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)


def numel(value: Tensor | float) -> int:
    """Number of elements of a constant."""
    return value.numel() if isinstance(value, Tensor) else 1


def as_tensor(value: object) -> Tensor:
    """A constant as a float64 tensor."""
    return value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)  # type: ignore[arg-type]
