"""What both graphs share: element types, metadata, the finished model and its file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import onnx
from onnx import FunctionProto, ModelProto, TensorProto, ValueInfoProto, helper

from spikefold.converters import ranges
from spikefold.converters.fixed_point_graph import FORMAT, FixedPointGraph, Neurons
from spikefold.converters.onnx.emitter import DOMAIN, IR_VERSION, OPSET, Emitter
from spikefold.converters.onnx.functions import neuron_functions
from spikefold.errors import LoweringError
from spikefold.files import atomic_path

FREE_TIME = "free"


def train_type(population: Neurons) -> int:
    """ONNX element type of ``train/<population>``: int32 for a relay's messages, uint8 for spikes."""
    return int(TensorProto.UINT8 if population.relay is None else TensorProto.INT32)


def input_type(graph: FixedPointGraph) -> int:
    """ONNX element type of ``events``: uint8, or int32 where messages pass 255.

    Raises
    ------
    LoweringError
        ``max_value`` does not fit int32.
    """
    largest = graph.input.max_value
    if largest > ranges.INT32_MAX:
        raise LoweringError(f"input {graph.input.name!r}: max_value {largest} does not fit 32 bits: rescale the input")
    return int(TensorProto.UINT8 if largest <= 255 else TensorProto.INT32)


def assemble(
    graph: FixedPointGraph,
    form: str,
    emitter: Emitter,
    inputs: list[ValueInfoProto],
    outputs: list[ValueInfoProto],
    gates: list[FunctionProto],
    extra: Mapping[str, str],
) -> ModelProto:
    """Pack nodes, functions and metadata into a checked model.

    Parameters
    ----------
    graph : FixedPointGraph
        The net.
    form : str
        "clip" or "step".
    emitter : Emitter
        Nodes and initializers of the main graph.
    inputs, outputs : lists of ValueInfoProto
        Border of the main graph.
    gates : list of FunctionProto
        One function per gate.
    extra : mapping
        Metadata of this form.

    Returns
    -------
    onnx.ModelProto
    """
    _check_names(graph)
    main = helper.make_graph(emitter.nodes, graph.name, inputs, outputs, emitter.initializers)
    model = helper.make_model(
        main,
        functions=[*neuron_functions(graph.neurons), *gates],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        ir_version=IR_VERSION,
        producer_name="spikefold",
    )
    metadata = {
        "spikefold_format": str(FORMAT),
        "spikefold_form": form,
        "spikefold_name": graph.name,
        "spikefold_attention": graph.attention,
        "spikefold_time_steps": FREE_TIME if graph.time_steps is None else str(graph.time_steps),
        "spikefold_input": json.dumps(
            {"name": graph.input.name, "shape": graph.input.shape, "max_value": graph.input.max_value}
        ),
    }
    helper.set_model_props(model, {**metadata, **extra})
    onnx.checker.check_model(model, full_check=True)
    return model


def _check_names(graph: FixedPointGraph) -> None:
    """Outputs are named after synapses and populations, so names must be there and tell them apart."""
    names = [s.name for s in graph.synapses]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LoweringError(f"synapse {twice[0]!r}: the name is used twice; ONNX outputs are named after synapses")
    if not all([graph.name, *names, *(n.name for n in graph.neurons)]):
        raise LoweringError("the net, a synapse or a population has an empty name; ONNX needs names")


def save_onnx(model: ModelProto, path: str | os.PathLike[str]) -> None:
    """Write ``model`` to ``path``, whole or not at all; equal models give equal bytes."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
