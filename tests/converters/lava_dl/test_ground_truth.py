"""Nets and recorded runs that ship with lava-dl's own tests: what we read of them fires as it is recorded."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lava_dl_files import currents, shipped
from spikefold.converters.lava_dl import load_lava_dl
from spikefold.deploy.run import run


def recorded(name: str) -> NDArray[np.float64]:
    """``[T, *shape]``; the files hold WHC, or CHW behind a batch axis, and time last."""
    held = np.load(shipped(name))
    return held[0].transpose(3, 0, 1, 2) if held.ndim == 5 else held.T


def test_tinynet_fires_as_recorded() -> None:
    bias = np.load(shipped("gts/tinynet/input_bias.npy")).T.astype(np.int64)
    graph = load_lava_dl(shipped("tiny.net"), input_bias=(0, int(bias.max())))
    trace = run(graph, np.broadcast_to(bias, (15, 1, *bias.shape)), "reference").trace
    assert trace is not None
    for name, file in (("input0", "input"), ("conv1", "layer1"), ("conv2", "output")):
        truth = recorded(f"gts/tinynet/{file}.npy")  # begins with an empty step
        assert truth.sum() > 50
        np.testing.assert_array_equal(trace.spikes[name][:, 0], truth[1:])


def test_pilotnet_has_the_spikes_currents_and_membranes_that_are_recorded() -> None:
    steps = 16  # then the recording goes on with another image
    bias = np.load(shipped("gts/pilotnet_lif/image.npy")).T.astype(np.int64)
    graph = load_lava_dl(shipped("gts/pilotnet_lif/network.net"), input_bias=(0, int(bias.max())))
    clips = np.broadcast_to(bias, (steps, 1, *bias.shape)).copy()
    trace = run(graph, clips, "fast", trace=True).trace
    assert trace is not None
    u = currents(graph, clips, trace)
    np.testing.assert_array_equal(trace.spikes["input0"][:, 0], recorded("gts/pilotnet_lif/input.npy")[:steps])
    # The recording of the last layer (fc-3), which lava-dl's tests never look at, is of another run.
    for lag, n in enumerate(graph.neurons[1:-1], 1):
        file = f"conv-{lag - 1}" if n.name.startswith("conv") else f"fc-{lag - 6}"
        spikes, current, membrane = (
            recorded(f"gts/pilotnet_lif/{file}{kind}.npy")[lag:steps] for kind in ("", "-u", "-v")
        )
        fired = trace.spikes[n.name][: steps - lag, 0]
        np.testing.assert_array_equal(fired, spikes)
        np.testing.assert_array_equal(u[n.name][: steps - lag, 0], current)
        # Membranes are recorded before the reset.
        np.testing.assert_array_equal(trace.membranes[n.name][: steps - lag, 0], np.where(fired, 0, membrane))


def test_ntidigits_with_axonal_delays_fires_as_recorded_and_averages_its_groups() -> None:
    graph = load_lava_dl(shipped("gts/ntidigits/ntidigits.net"))
    frames = recorded("gts/ntidigits/input.npy").reshape(-1, 1, 1, 1, 64).astype(np.int64)
    truth = recorded("gts/ntidigits/output.npy")
    done = run(graph, frames, "fast", trace=True)
    assert done.trace is not None
    lag = 4  # three layers and the recording's source
    np.testing.assert_array_equal(done.trace.spikes["dense4"][:-lag, 0], truth[lag:])
    assert truth.sum() > 20_000
    rates = done.trace.spikes["dense4"][:, 0].mean(0).reshape(11, 22).mean(1)
    assert done.logits[0] == pytest.approx(rates, rel=1e-12)


def test_a_net_of_dense_layers_from_one_row_of_input_neurons_is_read() -> None:
    graph = load_lava_dl(shipped("mnist.net"))
    assert [n.shape for n in graph.neurons] == [(1, 1, 784), (512,), (512,), (10,)]
    assert not graph.output.fires
