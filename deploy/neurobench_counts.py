"""What NeuroBench counts of a module, counted here: effective operations, activation sparsity, footprint.

NeuroBench (Yik et al., "The neurobench framework for benchmarking neuromorphic computing algorithms and systems",
Nature Communications, 2025) counts the module as it is written, layer by layer. Why these numbers differ from those of
a mapped net, and by how much, says `spikefold.deploy.neurobench_beside`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from spikefold.converters.calibrate import batches

CONNECTIONS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose operations count."""
ACTIVATIONS = (nn.ReLU, nn.Sigmoid)
"""Activations beside neurons, which are told by their ``neuron_spec``."""


@dataclass(frozen=True)
class LayerCounts:
    """Operations of one layer, means per sample."""

    name: str
    """Its path in the module."""
    effective_acs: float
    effective_macs: float
    stored: float
    """Both if weights of 0 counted."""
    dense: float
    """Both if no weight and no input were 0."""

    @property
    def effective(self) -> float:
        """Additions and multiply-accumulates."""
        return self.effective_acs + self.effective_macs


@dataclass(frozen=True)
class NeuroBenchCounts:
    """What a module does on some samples, and what it takes.

    Operations are means per sample. ``effective_acs`` are additions: weights other than 0 that meet inputs other than
    0, where all inputs of a layer's call are -1, 0 or 1; ``effective_macs`` the same where they are other numbers.
    """

    samples: int
    layers: tuple[LayerCounts, ...]
    """In the order of the module's own list."""
    activation_sparsity: float
    """Share of outputs of neurons and activations that are 0, over all steps and samples."""
    neuron_sparsity: float
    """The same of neurons alone."""
    neuron_outputs: float
    """Outputs of neurons, over all steps, per sample."""
    other_outputs: float
    """The same of activations."""
    parameters: int
    """Numbers in parameters."""
    buffers: int
    """Numbers in buffers."""
    footprint: int
    """Bytes of parameters and buffers."""

    @property
    def effective_acs(self) -> float:
        """Additions of all layers."""
        return sum(layer.effective_acs for layer in self.layers)

    @property
    def effective_macs(self) -> float:
        """Multiply-accumulates of all layers."""
        return sum(layer.effective_macs for layer in self.layers)

    @property
    def dense(self) -> float:
        """Both if nothing were 0."""
        return sum(layer.dense for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return everything ready for JSON."""
        sums = {"effective_acs": self.effective_acs, "effective_macs": self.effective_macs, "dense": self.dense}
        return {**sums, **asdict(self)}


class _Tally:
    """Sums over calls and samples of one layer, or of one kind of activation."""

    def __init__(self) -> None:
        self.accumulates = self.multiply_accumulates = self.stored = self.dense = 0
        self.zeros = self.outputs = 0

    def connection(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Count one call of a layer, in float64, where sums of whole numbers are exact."""
        x = inputs[0].detach()
        weight = layer.get_parameter("weight").detach()
        effective = _sum(layer, x != 0, weight != 0)
        if bool(((x == 0) | (x.abs() == 1)).all()):
            self.accumulates += effective
        else:
            self.multiply_accumulates += effective
        every = torch.ones_like(weight)
        self.stored += effective if bool(weight.all()) else _sum(layer, x != 0, every)
        self.dense += _sum(layer, torch.ones_like(x), every)

    def activation(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.zeros += int((output == 0).sum())
        self.outputs += output.numel()


def _sum(layer: nn.Module, x: Tensor, weight: Tensor) -> int:
    state = {"weight": weight.double()}
    if getattr(layer, "bias", None) is not None:
        state["bias"] = torch.zeros_like(layer.get_parameter("bias"), dtype=torch.float64)
    # `nn.Module.forward` and not the call, which would run the hooks that count
    return int(functional_call(_Bare(layer), {f"layer.{k}": v for k, v in state.items()}, (x.double(),)).sum())


class _Bare(nn.Module):
    """A layer without its hooks."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer.forward(x)
        return result


def neurobench_counts(module: nn.Module, clips: NDArray[np.generic]) -> NeuroBenchCounts:
    """Count what a module does on clips as NeuroBench 2.3 does.

    Parameters
    ----------
    module
        Takes clips ``[T, B, *features]``; its neurons have a ``neuron_spec``. Run in evaluation mode, left as it was.
    clips
        ``[T, N, *features]``.
    """
    tallies: dict[str, _Tally] = {}
    fired, activated = _Tally(), _Tally()
    handles = []
    for name, layer in module.named_modules():
        if isinstance(layer, CONNECTIONS):
            tallies[name] = _Tally()
            handles.append(layer.register_forward_pre_hook(tallies[name].connection))
        elif hasattr(layer, "neuron_spec"):
            handles.append(layer.register_forward_hook(fired.activation))
        elif isinstance(layer, ACTIVATIONS):
            handles.append(layer.register_forward_hook(activated.activation))
    training = module.training
    try:
        module.eval()
        with torch.no_grad():
            for batch in batches(clips):
                module(torch.from_numpy(np.ascontiguousarray(batch)).float())
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    n, outputs = clips.shape[1], fired.outputs + activated.outputs
    parameters, buffers = list(module.parameters()), list(module.buffers())
    return NeuroBenchCounts(
        samples=n,
        layers=tuple(
            LayerCounts(name, t.accumulates / n, t.multiply_accumulates / n, t.stored / n, t.dense / n)
            for name, t in tallies.items()
        ),
        activation_sparsity=(fired.zeros + activated.zeros) / outputs if outputs else 0.0,
        neuron_sparsity=fired.zeros / fired.outputs if fired.outputs else 0.0,
        neuron_outputs=fired.outputs / n,
        other_outputs=activated.outputs / n,
        parameters=sum(t.numel() for t in parameters),
        buffers=sum(t.numel() for t in buffers),
        footprint=sum(t.numel() * t.element_size() for t in (*parameters, *buffers)),
    )
