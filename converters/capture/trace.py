"""Turn a torch module into a flat list of torch operations, with neurons as single nodes.

`torch.export` runs the module on fake tensors, so nothing is computed and any Python in ``forward`` is fine. The batch
is given a large prime size: an axis belongs to the batch exactly where that prime divides it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spikefold.errors import CaptureError, InputError
from spikefold.models.lif import NeuronSpec

BATCH = 10007


@torch.library.custom_op("spikefold::neuron", mutates_args=())
def neuron_marker(current: Tensor, index: int) -> Tensor:
    """Stand in for a population of neurons while a module is traced."""
    raise RuntimeError("a neuron marker exists only in traced graphs")


@neuron_marker.register_fake
def _(current: Tensor, index: int) -> Tensor:
    return torch.empty_like(current)


class _Marker(nn.Module):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, current: Tensor) -> Tensor:
        marked: Tensor = torch.ops.spikefold.neuron(current, self.index)
        return marked


@dataclass(frozen=True)
class TracedModule:
    """The operations of a module (``nodes``), its constants by node name, and its neurons by marker index."""

    graph: torch.fx.Graph
    constants: dict[str, Tensor]
    input_name: str
    neurons: tuple[tuple[str, NeuronSpec], ...]


def trace(module: nn.Module, sample: Tensor) -> TracedModule:
    """Trace ``module`` on the shape of ``sample`` ``[T, B, *features]``.

    Raises
    ------
    CaptureError
        The module is in training mode, holds weights that are not finite, or cannot be traced.
    InputError
        The sample has no time or no batch axis, or an axis of size 0.
    """
    if sample.ndim < 3 or 0 in sample.shape:
        raise InputError(
            f"sample has shape {tuple(sample.shape)}: [T, B, *features] with every size at least 1 is needed"
        )
    training = [name or "the module itself" for name, m in module.named_modules() if m.training]
    if training:
        raise CaptureError(f"{training[0]} is in training mode (training = True): call module.eval() first")
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = tensor[~torch.isfinite(tensor)][0].item()
            raise CaptureError(f"weight {name!r} holds {bad}: every weight must be finite; retrain or repair it")
    twin = copy.deepcopy(module).cpu()
    neurons = _mark_neurons(twin)
    if not neurons:
        raise CaptureError(
            "the module holds no neurons: spikefold.models.LIF, or a module with a neuron_spec() method, is needed"
        )
    example = sample[:, :1].detach().cpu().float().expand(sample.shape[0], BATCH, *sample.shape[2:])
    try:
        program = torch.export.export(twin, (example,))
    except Exception as error:
        last = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CaptureError(
            f"torch.export could not trace {type(module).__name__} on input {tuple(sample.shape)}: {last}"
        ) from error
    signature = program.graph_signature
    state = {**dict(program.named_parameters()), **dict(program.named_buffers()), **program.constants}
    constants: dict[str, Tensor] = {}
    for table in (
        signature.inputs_to_parameters,
        signature.inputs_to_buffers,
        signature.inputs_to_lifted_tensor_constants,
    ):
        for node_name, target in table.items():
            constants[node_name] = state[target].detach().double()
    return TracedModule(program.graph, constants, signature.user_inputs[0], tuple(neurons))


def _mark_neurons(twin: nn.Module) -> list[tuple[str, NeuronSpec]]:
    neurons: list[tuple[str, NeuronSpec]] = []
    for path, child in list(twin.named_modules()):
        spec = getattr(child, "neuron_spec", None)
        if spec is None:
            continue
        parent_path, _, attribute = path.rpartition(".")
        parent = twin.get_submodule(parent_path)
        setattr(parent, attribute, _Marker(len(neurons)).eval())
        neurons.append((path, spec()))
    return neurons
