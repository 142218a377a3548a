"""What NeuroBench counts of a module, counted here: effective operations, activation sparsity, footprint.

NeuroBench (Yik et al., "The neurobench framework for benchmarking neuromorphic computing algorithms and systems",
Nature Communications, 2025) counts the module as it is written, layer by layer. These numbers differ from those of a
mapped net for four reasons: pooling and batch norm are layers of their own here and are composed into kernels there;
weights of 0 do not count here and are stored, hence processed, in a shared kernel there; the layers of a gate count
here like any other, and there as gate operations; an input that is not binary makes multiply-accumulates here and
graded messages there.
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
class NeuroBenchCounts:
    """Means per sample, except for the last two."""

    effective_acs: float
    """Additions: weights other than 0 that meet inputs other than 0, where a layer's inputs are all -1, 0 or 1."""
    effective_macs: float
    """The same where a layer's inputs are other numbers."""
    dense: float
    """Both if nothing were 0."""
    activation_sparsity: float
    """Share of outputs of neurons and activations that are 0, over all steps and samples."""
    footprint: int
    """Bytes of parameters and buffers."""

    def to_dict(self) -> dict[str, float]:
        """Return everything ready for JSON."""
        return asdict(self)


class _Counter:
    def __init__(self) -> None:
        self.accumulates = self.multiply_accumulates = self.dense = self.zeros = self.outputs = 0

    def connection(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Count one call of a layer, in float64, where sums of whole numbers are exact."""
        x = inputs[0].detach()
        weight = layer.get_parameter("weight").detach()
        effective = _sum(layer, x != 0, weight != 0)
        if bool(((x == 0) | (x.abs() == 1)).all()):
            self.accumulates += effective
        else:
            self.multiply_accumulates += effective
        self.dense += _sum(layer, torch.ones_like(x), torch.ones_like(weight))

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
    counter = _Counter()
    handles = []
    for layer in module.modules():
        if isinstance(layer, CONNECTIONS):
            handles.append(layer.register_forward_pre_hook(counter.connection))
        elif isinstance(layer, ACTIVATIONS) or hasattr(layer, "neuron_spec"):
            handles.append(layer.register_forward_hook(counter.activation))
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
    samples = clips.shape[1]
    tensors = [*module.parameters(), *module.buffers()]
    return NeuroBenchCounts(
        effective_acs=counter.accumulates / samples,
        effective_macs=counter.multiply_accumulates / samples,
        dense=counter.dense / samples,
        activation_sparsity=counter.zeros / counter.outputs if counter.outputs else 0.0,
        footprint=sum(t.numel() * t.element_size() for t in tensors),
    )
