"""Turn a torch module into a flat list of torch operations, with neurons as single nodes.

`torch.export` runs the module on fake tensors, so nothing is computed and any Python in ``forward`` is fine. The batch
is given a large prime size: an axis belongs to the batch exactly where that prime divides it. Where a module works in
place, the operations are rewritten into ones that do not, so that each value has one meaning.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from spikefold.converters.capture.foreign import ForeignNeuron, is_lift
from spikefold.converters.capture.forms import Form, find_form, float_type, foreign_neurons, unwrapped, without_state
from spikefold.converters.capture.steps import fold_steps
from spikefold.converters.capture.values import BATCH, NeuronArrays
from spikefold.errors import CaptureError, InputError
from spikefold.models.lif import NeuronSpec


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


class _ForeignMarker(nn.Module):
    """A marker with the signature of another framework's neuron; a step is handed to it as all steps, merged."""

    def __init__(self, index: int, neuron: ForeignNeuron, steps: int) -> None:
        super().__init__()
        self.index, self.neuron, self.steps = index, neuron, steps

    def forward(self, current: Tensor, *_: object, **__: object) -> Any:
        if self.neuron.per_step:
            apart = current.reshape(self.steps, BATCH, *current.shape[1:])
            spikes = torch.ops.spikefold.neuron(apart, self.index).flatten(0, 1)
        else:
            spikes = torch.ops.spikefold.neuron(current, self.index)
        sent = spikes if self.neuron.height == 1.0 else spikes * self.neuron.height
        if not self.neuron.returns_states:
            return sent
        states = tuple(torch.ops.spikefold.state(current) for _ in self.neuron.states)
        return (sent, namedtuple("State", self.neuron.states)(*states)) if self.neuron.packed else (sent, *states)

    def reset_mem(self) -> Any:
        """Hand out the states at the start, as snnTorch does: without size."""
        states = tuple(torch.zeros(0) for _ in self.neuron.states)
        return states[0] if len(states) == 1 else states

    init_leaky = init_synaptic = reset = reset_mem


class _Merged(nn.Module):
    """What Norse's ``Lift`` does, on all steps at once."""

    def __init__(self, lift: Any, steps: int) -> None:
        super().__init__()
        self.lifted_module, self.steps = lift.lifted_module, steps

    def forward(self, clip: Tensor, *_: object) -> Any:
        out = self.lifted_module(clip.flatten(0, 1))
        apart = (self.steps, BATCH)
        return (out[0].unflatten(0, apart), *out[1:]) if isinstance(out, tuple) else out.unflatten(0, apart)


@dataclass(frozen=True)
class TracedModule:
    """The operations of a module (``nodes``), its constants by node name, and its neurons by marker index.

    ``form`` is how a module with neurons of another framework takes clips (None: it has none), and ``stacked`` says
    that it stacks its answers over the steps of its loop.
    """

    graph: torch.fx.Graph
    constants: dict[str, Tensor]
    neurons: tuple[tuple[str, NeuronSpec | NeuronArrays], ...]
    form: Form | None = None
    stacked: bool = False


def trace(module: nn.Module, sample: Tensor) -> TracedModule:
    """Trace ``module`` on the shape of ``sample`` ``[T, B, *features]``.

    Raises
    ------
    CaptureError
        The module is in training mode, holds weights that are not finite, or cannot be traced.
    InputError
        The sample has no time or no batch axis, or an axis of size 0.
    """
    module = unwrapped(module)
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
    foreign = foreign_neurons(module)
    form = find_form(module, foreign, tuple(sample.shape)) if foreign else None
    twin = without_state(module).cpu()
    neurons = _mark_neurons(twin, foreign, sample.shape[0])
    if not neurons:
        raise CaptureError(
            "the module holds no neurons: spikefold.models.LIF, or a module with a neuron_spec() method, is needed, or "
            "neurons of snnTorch, SpikingJelly or Norse"
        )
    if form is not None:
        _call_as(twin, form, sample.shape[0])
    with FakeTensorMode():
        example = torch.empty(sample.shape[0], BATCH, *sample.shape[2:], dtype=float_type(twin))
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
    if form is None:
        return TracedModule(program.graph, constants, tuple(neurons))
    loop = fold_steps(program.graph, sample.shape[0])
    return TracedModule(loop.graph, constants, tuple(neurons), form, loop.stacked)


def _call_as(twin: nn.Module, form: Form, steps: int) -> None:
    """Let ``twin`` take clips ``[T, B, ...]``: a module that works step by step gets all steps at once, merged."""
    written = type(twin)

    def forward(self: nn.Module, clip: Tensor) -> tuple[Tensor, ...]:
        merged = clip.flatten(0, 1)
        if form.kind == "step":
            return tuple(_tensors(written.forward(self, merged)))
        if form.kind == "loop":
            clip = torch.ops.spikefold.every_step(merged, steps, int(form.batch_first))
        elif form.batch_first:
            clip = clip.transpose(0, 1)
        return tuple(_tensors(written.forward(self, clip)))

    twin.__class__ = type(written.__name__, (written,), {"forward": forward})


def _tensors(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, (tuple, list)):
        for one in out:
            yield from _tensors(one)


def _works_in_place(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _mark_neurons(
    twin: nn.Module, foreign: Mapping[str, ForeignNeuron], steps: int
) -> list[tuple[str, NeuronSpec | NeuronArrays]]:
    neurons: list[tuple[str, NeuronSpec | NeuronArrays]] = []
    for path, child in list(twin.named_modules(remove_duplicate=False)):
        known = foreign.get(path)
        if any(path.startswith(f"{outer}.") for outer, _ in neurons):
            continue
        if is_lift(child) and path:
            _replace(twin, path, _Merged(child, steps))
        if known is None and not hasattr(child, "neuron_spec"):
            continue
        if not path:
            raise CaptureError(f"the module itself ({type(child).__name__}) is a neuron: put a layer in front of it")
        marker = _Marker(len(neurons)) if known is None else _ForeignMarker(len(neurons), known, steps)
        _replace(twin, path, marker)
        neurons.append((path, known.spec if known is not None else child.neuron_spec()))
    return neurons


def _replace(twin: nn.Module, path: str, module: nn.Module) -> None:
    parent_path, _, attribute = path.rpartition(".")
    setattr(twin.get_submodule(parent_path), attribute, module.eval())
