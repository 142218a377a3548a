"""Networks by name, so that a checkpoint can say what it is without carrying code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from spikefold.errors import InputError
from spikefold.models.attention.asa import ASA
from spikefold.models.attention.fsta import FSTA
from spikefold.models.dvsnet import DVSNet
from spikefold.models.lif import LIF

_asa_neuron = partial(LIF, decay=0.3, v_threshold=0.3, strict=False, surrogate="rectangular")
_fsta_neuron = partial(LIF, decay=0.25, v_threshold=0.5, strict=True, surrogate="tanh")

_PARTS: Mapping[str, tuple[Callable[[], nn.Module], Callable[[int], nn.Module] | None]] = {
    "plain-dvsnet": (_asa_neuron, None),
    "asa-dvsnet": (_asa_neuron, ASA),
    "fsta-dvsnet": (_fsta_neuron, FSTA),
}
MODEL_NAMES = tuple(_PARTS)
SHORT_NAMES = {name.removesuffix("-dvsnet"): name for name in MODEL_NAMES}
"""What users type: ``plain``, ``asa``, ``fsta``."""

_LIMITS = {"in_channels": (1, 64), "time_steps": (1, 1024), "num_classes": (1, 10_000), "input_size": (4, 512)}


def full_name(name: str) -> str:
    """Return the registered name for a full or short one; InputError lists the names if there is none."""
    full = SHORT_NAMES.get(name, name)
    if full not in _PARTS:
        raise InputError(f"model {name!r}: no such network; choose one of {', '.join([*SHORT_NAMES, *MODEL_NAMES])}")
    return full


def build(name: str, in_channels: int = 2, time_steps: int = 10, num_classes: int = 10, input_size: int = 32) -> DVSNet:
    """Make a freshly initialised network.

    Parameters
    ----------
    name : str
        ``plain-dvsnet``, ``asa-dvsnet`` or ``fsta-dvsnet``, or the short forms without ``-dvsnet``. The plain one has
        ASA-SNN's neuron.
    in_channels : int
        Channels of a frame (2: ON and OFF events).
    time_steps : int
        T of the clips. The plain network accepts any T afterwards; attention fixes it.
    num_classes : int
        Number of classes.
    input_size : int
        Height and width of a frame in pixels.
    """
    sizes = {
        "in_channels": in_channels,
        "time_steps": time_steps,
        "num_classes": num_classes,
        "input_size": input_size,
    }
    for field, value in sizes.items():
        low, high = _LIMITS[field]
        if not isinstance(value, int) or not low <= value <= high:
            raise InputError(f"{field} = {value!r}: must be a whole number from {low} to {high}")
    neuron, attention = _PARTS[full_name(name)]
    make_attention = None if attention is None else partial(attention, time_steps)
    return DVSNet(neuron, make_attention, in_channels, num_classes, input_size)
