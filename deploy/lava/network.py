"""Turns a `FixedPointGraph` into Lava processes and runs them. Imports Lava: only the child process comes here.

Tensors of three axes are ``[C, H, W]`` in the graph and ``[H, W, C]`` in Lava (whose kernels are ``[O, x, y, I]``, with
x our rows); all others keep their layout.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.arithmetic import MAX_THRESHOLD
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse
from spikefold.deploy.lava import compat
from spikefold.deploy.lava.plan import Plan, PopulationPlan, groups_that_fit, make_plan
from spikefold.errors import BackendError

compat.load()

from lava.magma.core.run_conditions import RunSteps  # noqa: E402
from lava.magma.core.run_configs import Loihi2SimCfg  # noqa: E402
from lava.proc.conv.process import Conv  # noqa: E402
from lava.proc.dense.process import Dense  # noqa: E402
from lava.proc.io.source import RingBuffer  # noqa: E402
from lava.proc.lif.process import LIFReset  # noqa: E402
from lava.utils.weightutils import SignMode  # noqa: E402

from spikefold.deploy.lava.processes.clip_gate import ClipGate  # noqa: E402
from spikefold.deploy.lava.processes.delay_line import DelayLine  # noqa: E402
from spikefold.deploy.lava.processes.neuron import ThresholdNeuron  # noqa: E402
from spikefold.deploy.lava.processes.recorder import Recorder  # noqa: E402
from spikefold.deploy.lava.processes.streaming_gate import StreamingGate  # noqa: E402

NO_CURRENT_MEMORY = 4095
"""The decay rate ``du`` that forgets the current at once."""
POLL_S = 0.002

Record = dict[str, NDArray[np.int64]]


def to_lava(rank: int) -> tuple[int, ...]:
    """Axes that bring a tensor of the graph's layout into Lava's."""
    return (1, 2, 0) if rank == 3 else tuple(range(rank))


def lava_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a population or input port in Lava's layout."""
    return tuple(shape[i] for i in to_lava(len(shape)))


def run_network(graph: FixedPointGraph, clips: NDArray[np.int64], folder: Path) -> tuple[Record, Record]:
    """Run clips ``[T, B, *shape]`` one after another; spikes and membranes ``[T, B, *shape]`` per population.

    ``folder`` takes the recorders' files.
    """
    time_steps, samples = clips.shape[:2]
    plan = make_plan(graph, time_steps, samples)
    source = _source(clips)
    outlets = {graph.input.name: source.s_out}
    for number, (population, part) in enumerate(zip(graph.neurons, plan.populations, strict=True)):
        inlet, neurons = _population(population, part, plan)
        for synapse in graph.incoming(population.name):
            _connect(graph, synapse, outlets[synapse.source], part.waits[synapse.name], inlet)
        outlets[population.name] = neurons.s_out
        recorder = Recorder(
            shape=lava_shape(population.shape),
            delay=part.delay,
            steps=time_steps * samples,
            path=str(folder / f"record_{number}.npz"),
        )
        neurons.s_out.connect(recorder.s_in)
        recorder.v_in.connect_var(neurons.v)
    _run(source, plan.total_steps)
    spikes, membranes = {}, {}
    for number, population in enumerate(graph.neurons):
        with np.load(folder / f"record_{number}.npz") as record:
            spikes[population.name] = _unroll(record["spikes"], time_steps, samples)
            membranes[population.name] = _unroll(record["membranes"], time_steps, samples)
    return spikes, membranes


def _run(process: Any, steps: int) -> None:
    """Run the net that ``process`` belongs to; BackendError when one of Lava's processes fails.

    Lava itself would wait for ever: the neighbours of a failed process still expect its messages.
    """
    process.run(condition=RunSteps(num_steps=steps, blocking=False), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    runtime = process.runtime
    while not all(port.probe() for port in runtime.service_to_runtime):
        for actor in runtime._messaging_infrastructure.actors:
            if actor.exception is not None:
                raise BackendError(f"a Lava process failed: {actor.exception[1].strip().splitlines()[-1]}")
        time.sleep(POLL_S)
    runtime.wait()
    process.stop()


def _source(clips: NDArray[np.int64]) -> Any:
    frames = clips.swapaxes(0, 1).reshape(-1, *clips.shape[2:])
    axes = to_lava(clips.ndim - 2)
    return RingBuffer(data=np.ascontiguousarray(frames.transpose(*(1 + i for i in axes), 0)).astype(np.int32))


def _population(population: Neurons, part: PopulationPlan, plan: Plan) -> tuple[Any, Any]:
    """Build the neurons, and the gate before them where there is one; the port for sums, and the neuron process."""
    shape, axes = lava_shape(population.shape), to_lava(len(population.shape))
    if part.process == "stock":
        neurons = LIFReset(
            shape=shape,
            du=NO_CURRENT_MEMORY,
            dv=population.dv,
            bias_mant=np.broadcast_to(population.bias_mantissa, population.shape).transpose(axes),
            bias_exp=population.bias_exponent,
            vth=int(population.v_threshold.flat[0]) if population.fires else MAX_THRESHOLD,
            reset_interval=plan.time_steps,
            reset_offset=1 + part.delay,
        )
        return neurons.a_in, neurons
    held = population.bias[:, 0] if population.has_bias_schedule else population.bias
    bias = np.broadcast_to(held, (len(held) if population.has_bias_schedule else 1, *population.shape))
    threshold = np.broadcast_to(population.v_threshold, population.shape).transpose(axes)
    neurons = ThresholdNeuron(
        shape=shape,
        dv=population.dv,
        v_threshold=threshold if population.fires else None,
        bias=bias.transpose(0, *(1 + i for i in axes)),
        ready=population.gate is not None,
        interval=plan.time_steps,
        delay=part.delay,
    )
    if population.gate is None:
        return neurons.a_in, neurons
    gate = (ClipGate if part.gate == "clip" else StreamingGate)(
        shape=shape,
        to_lava=axes,
        program=population.gate,
        gate_shift=population.gate_shift,
        bias=bias,
        interval=plan.time_steps,
        delay=part.arrival,
    )
    gate.a_out.connect(neurons.a_in)
    return gate.a_in, neurons


def _connect(graph: FixedPointGraph, synapse: Synapse, outlet: Any, wait: int, inlet: Any) -> None:
    """Lead the source's messages through a delay line, where needed, and a stock Conv or Dense to the target."""
    if wait:
        line = DelayLine(shape=outlet.shape, steps=wait)
        outlet.connect(line.s_in)
        outlet = line.s_out
    largest = graph.largest_message(synapse.source)
    bits = largest.bit_length() if largest > 1 else 0
    if synapse.kind == "conv":
        groups = groups_that_fit(synapse.groups)
        weight = merge_groups(synapse.effective_weight, synapse.groups, groups)
        conv = Conv(
            weight=np.ascontiguousarray(weight[:, :, ::-1, ::-1].transpose(0, 2, 3, 1)).astype(np.int32),
            input_shape=outlet.shape,
            padding=synapse.padding,
            stride=synapse.stride,
            dilation=synapse.dilation,
            groups=groups,
            num_message_bits=bits,
        )
        outlet.connect(conv.s_in)
        conv.a_out.connect(inlet)
        return
    rows = _lava_order(inlet.shape)
    columns = _lava_order(outlet.shape)
    dense = Dense(
        weights=synapse.weight[rows][:, columns].astype(np.int32),
        weight_exp=synapse.exponent,
        sign_mode=SignMode.MIXED,
        num_message_bits=bits,
    )
    outlet.reshape(dense.s_in.shape).connect(dense.s_in)
    dense.a_out.reshape(inlet.shape).connect(inlet)


def merge_groups(weight: NDArray[np.int64], groups: int, fewer: int) -> NDArray[np.int64]:
    """Rewrite a kernel ``[O, I/groups, kh, kw]`` for ``fewer`` groups (a divisor), with zeros between the old ones."""
    ratio = groups // fewer
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    merged = np.zeros((weight.shape[0], inputs * ratio, *weight.shape[2:]), dtype=weight.dtype)
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        start = group % ratio * inputs
        merged[rows, start : start + inputs] = weight[rows]
    return merged


def _lava_order(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """For each position of a flattened tensor of Lava's ``shape``, its position in the graph's layout."""
    if len(shape) != 3:
        return np.arange(int(np.prod(shape)))
    height, width, channels = shape
    return np.arange(height * width * channels).reshape(channels, height, width).transpose(1, 2, 0).reshape(-1)


def _unroll(record: NDArray[np.int32], time_steps: int, samples: int) -> NDArray[np.int64]:
    """Bring ``[samples * steps, *shape]`` in Lava's layout to ``[T, B, *shape]`` in the graph's."""
    to_graph = np.argsort(to_lava(record.ndim - 1))
    array = record.transpose(0, *(1 + int(i) for i in to_graph)).astype(np.int64)
    return array.reshape(samples, time_steps, *array.shape[1:]).swapaxes(0, 1)
