"""Turns a `FixedPointGraph` into Lava processes and runs them. Imports Lava: only the child process comes here."""

from __future__ import annotations

import time
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikefold.converters.arithmetic import MAX_THRESHOLD
from spikefold.converters.fixed_point_graph import FixedPointGraph, Neurons, Synapse
from spikefold.deploy.lava import compat
from spikefold.deploy.lava.job import PROGRESS, sign_of_life
from spikefold.deploy.lava.layout import into_graph, into_lava, lava_order, lava_shape, merge_groups
from spikefold.deploy.lava.plan import Plan, PopulationPlan, groups_that_fit, make_plan
from spikefold.deploy.lava.stepwise import Stepwise
from spikefold.errors import BackendError

compat.load()

from lava.magma.core.run_conditions import RunSteps  # noqa: E402
from lava.magma.core.run_configs import Loihi2SimCfg  # noqa: E402
from lava.proc.conv.process import Conv  # noqa: E402
from lava.proc.dense.process import Dense  # noqa: E402
from lava.proc.io.source import RingBuffer  # noqa: E402
from lava.proc.lif.process import LIFReset  # noqa: E402
from lava.utils.weightutils import SignMode  # noqa: E402

from spikefold.deploy.lava.processes.delay_line import DelayLine  # noqa: E402
from spikefold.deploy.lava.processes.exact_neuron import ExactNeuron  # noqa: E402
from spikefold.deploy.lava.processes.exact_synapse import ExactSynapse  # noqa: E402
from spikefold.deploy.lava.processes.gate import Gate  # noqa: E402
from spikefold.deploy.lava.processes.recorder import Recorder  # noqa: E402

POLL_S = 0.01
POLLS_PER_CHECK = 25
"""Both rare enough that a net that hangs is seen to use next to no processor time."""

Record = dict[str, NDArray[np.int64]]


def run_network(graph: FixedPointGraph, clips: NDArray[np.int64], folder: Path) -> tuple[Record, Record]:
    """Run clips ``[T, B, *shape]`` one after another; spikes and membranes ``[T, B, *shape]`` per population.

    ``folder`` takes the recorders' files.
    """
    time_steps, samples = clips.shape[:2]
    plan = make_plan(graph, time_steps, samples)
    source = _source(clips)
    outlets, inlets = {graph.input.name: source.s_out}, {}
    for number, (population, part) in enumerate(zip(graph.neurons, plan.populations, strict=True)):
        inlets[population.name], neurons = _population(population, part, plan)
        outlets[population.name] = neurons.s_out
        recorder = Recorder(
            shape=lava_shape(population.shape),
            delay=part.delay,
            steps=time_steps * samples,
            path=str(folder / f"record_{number}.npz"),
            progress=str(folder / PROGRESS),
        )
        neurons.s_out.connect(recorder.s_in)
        recorder.v_in.connect_var(neurons.v)
    for part in plan.populations:
        for synapse in graph.incoming(part.name):
            _connect(graph, synapse, plan, outlets[synapse.source], inlets[part.name])
    sign_of_life(folder / PROGRESS, f"built, {plan.total_steps} time steps to go")
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
    actors = {actor._pconn: actor for actor in runtime._messaging_infrastructure.actors}
    for poll in count():
        if all(port.probe() for port in runtime.service_to_runtime):
            break
        for connection in wait(list(actors), timeout=0) if poll % POLLS_PER_CHECK == 0 else ():
            exception = actors[connection].exception
            if exception is not None:
                raise BackendError(f"a Lava process failed: {exception[1].strip().splitlines()[-1]}")
        time.sleep(POLL_S)
    runtime.wait()
    process.stop()


def _source(clips: NDArray[np.int64]) -> Any:
    frames = into_lava(clips.swapaxes(0, 1).reshape(-1, *clips.shape[2:]), leading=1)
    return RingBuffer(data=np.ascontiguousarray(np.moveaxis(frames, 0, -1)).astype(np.int32))


def _population(population: Neurons, part: PopulationPlan, plan: Plan) -> tuple[Any, Any]:
    """Build the neurons, and the gate before them where there is one; the port for sums, and the neuron process."""
    if part.process == "stock":
        neurons = LIFReset(
            shape=lava_shape(population.shape),
            du=int(np.min(population.du)),
            dv=int(np.min(population.dv)),
            bias_mant=into_lava(np.broadcast_to(population.bias_mantissa, population.shape)),
            bias_exp=population.bias_exponent,
            vth=int(population.v_threshold.flat[0]) if population.fires else MAX_THRESHOLD,
            reset_interval=plan.time_steps,
            reset_offset=1 + part.delay,
        )
        return neurons.a_in, neurons
    neurons = ExactNeuron(stepwise=Stepwise(population, plan.time_steps, part.delay), ready=population.gate is not None)
    if population.gate is None:
        return neurons.a_in, neurons
    gate = Gate(stepwise=Stepwise(population, plan.time_steps, part.arrival), streams=part.gate == "streaming")
    gate.a_out.connect(neurons.a_in)
    return gate.a_in, neurons


def _connect(graph: FixedPointGraph, synapse: Synapse, plan: Plan, outlet: Any, inlet: Any) -> None:
    """Lead the source's messages to the target: a delay line, where needed, and a process that weighs and adds up."""
    parts = {part.name: part for part in plan.populations}
    part = parts[synapse.target]
    if part.waits[synapse.name] or synapse.longest_delay:
        delays = into_lava(np.broadcast_to(synapse.delay, graph.source_shape(synapse.source)))
        line = DelayLine(
            waits=delays + part.waits[synapse.name],
            delays=delays,
            interval=plan.time_steps,
            offset=parts[synapse.source].delay if synapse.source in parts else 0,
        )
        outlet.connect(line.s_in)
        outlet = line.s_out
    low, high = graph.message_range(synapse.source)
    bits = max(-low, high).bit_length() if graph.is_graded(synapse.source) else 0
    if synapse.name in part.own_synapses:
        source, target = (graph.source_shape(name) for name in (synapse.source, synapse.target))
        own = ExactSynapse(synapse=synapse, source=source, target=target)
        outlet.connect(own.s_in)
        own.a_out.connect(inlet)
        return
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
    rows, columns = (lava_order(graph.source_shape(name)) for name in (synapse.target, synapse.source))
    dense = Dense(
        weights=synapse.weight[rows][:, columns].astype(np.int32),
        weight_exp=synapse.exponent,
        sign_mode=SignMode.MIXED,
        num_message_bits=bits,
    )
    outlet.reshape(dense.s_in.shape).connect(dense.s_in)
    dense.a_out.reshape(inlet.shape).connect(inlet)


def _unroll(record: NDArray[np.int32], time_steps: int, samples: int) -> NDArray[np.int64]:
    """Bring ``[samples * steps, *shape]`` in Lava's layout to ``[T, B, *shape]`` in the graph's."""
    array = into_graph(record, leading=1).astype(np.int64)
    return array.reshape(samples, time_steps, *array.shape[1:]).swapaxes(0, 1)
