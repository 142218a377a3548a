"""Turn a torch module into a flat list of torch operations, with neurons as single nodes.

`torch.export` runs the module on fake tensors, so nothing is computed and any Python in ``forward`` is fine. The batch
is given a large prime size: an axis belongs to the batch exactly where that prime divides it. Where a module works in
place, the operations are rewritten into ones that do not, so that each value has one meaning.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from spikefold.errors import CaptureError, InputError
from spikefold.models.lif import NeuronSpec

BATCH = 1009


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
    dtype = next((p.dtype for p in twin.parameters() if p.is_floating_point()), torch.float32)
    with FakeTensorMode():
        example = torch.empty(sample.shape[0], BATCH, *sample.shape[2:], dtype=dtype)
    try:
        program = torch.export.export(twin, (example,))
        if any(_works_in_place(node) for node in program.graph.nodes):
            program = program.run_decompositions({})
    except Exception as error:
        last = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CaptureError(
            f"torch.export could not trace {type(module).__name__} on input {tuple(sample.shape)}: {last}"
        ) from error
    signature = program.graph_signature
    changed = [*signature.user_inputs_to_mutate.values(), *signature.buffers_to_mutate.values()]
    if changed:
        raise CaptureError(f"{type(module).__name__} changes {changed[0]!r} in place; work on a copy of it (clone)")
    state = {**dict(program.named_parameters()), **dict(program.named_buffers()), **program.constants}
    constants: dict[str, Tensor] = {}
    for table in (
        signature.inputs_to_parameters,
        signature.inputs_to_buffers,
        signature.inputs_to_lifted_tensor_constants,
    ):
        for node_name, target in table.items():
            constants[node_name] = state[target].detach().double()
    return TracedModule(program.graph, constants, tuple(neurons))


def _works_in_place(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _mark_neurons(twin: nn.Module) -> list[tuple[str, NeuronSpec]]:
    neurons: list[tuple[str, NeuronSpec]] = []
    for path, child in list(twin.named_modules(remove_duplicate=False)):
        spec = getattr(child, "neuron_spec", None)
        if spec is None or any(path.startswith(f"{outer}.") for outer, _ in neurons):
            continue
        if not path:
            raise CaptureError(f"the module itself ({type(child).__name__}) is a neuron: put a layer in front of it")
        parent_path, _, attribute = path.rpartition(".")
        parent = twin.get_submodule(parent_path)
        setattr(parent, attribute, _Marker(len(neurons)).eval())
        neurons.append((path, spec()))
    return neurons
