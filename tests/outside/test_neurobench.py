"""NeuroBench counts of a module what we count of it, on the same clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from networks import Chain
from spikefold.deploy.neurobench_counts import neurobench_counts
from spikefold.deploy.sources import find_data, find_net
from spikefold.models import LIF

pytestmark = pytest.mark.outside("neurobench")


class BatchFirst(nn.Module):
    """NeuroBench hands over ``[B, T, ...]``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x.transpose(0, 1))
        return logits


def neurobench(net: nn.Module, clips: np.ndarray[Any, Any]) -> dict[str, Any]:
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics.static import Footprint
    from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
    from neurobench.models import TorchModel
    from torch.utils.data import DataLoader, TensorDataset

    model = TorchModel(BatchFirst(net))
    model.add_activation_module(LIF)
    frames = torch.from_numpy(np.ascontiguousarray(clips.swapaxes(0, 1))).float()
    data = DataLoader(TensorDataset(frames, torch.zeros(len(frames))), batch_size=len(frames))
    with torch.no_grad():
        found = Benchmark(model, data, [], [], [[Footprint], [ActivationSparsity, SynapticOperations]]).run(quiet=True)
    return dict(found)


def assert_same(net: nn.Module, clips: np.ndarray[Any, Any]) -> None:
    theirs, ours = neurobench(net, clips), neurobench_counts(net, clips)
    operations = theirs["SynapticOperations"]
    # NeuroBench sums in float32, which is exact for layers of up to 2**24 operations a call
    assert ours.effective_acs == pytest.approx(operations["Effective_ACs"], rel=1e-6)
    assert ours.effective_macs == pytest.approx(operations["Effective_MACs"], rel=1e-6)
    assert ours.dense == pytest.approx(operations["Dense"], rel=1e-6)
    assert ours.activation_sparsity == pytest.approx(theirs["ActivationSparsity"], rel=1e-12)
    assert ours.footprint == theirs["Footprint"]


@pytest.mark.parametrize("name", ["plain", "asa", "fsta"])
def test_a_shipped_net_counts_the_same(name: str) -> None:
    clips = find_data("saccade-mnist", "train", 4, None).clips()
    net = find_net(name, None, None).module
    assert_same(net, clips)
    ours = neurobench_counts(net, clips)
    assert ours.effective_acs > 0
    assert (ours.effective_macs > 0) == (name != "plain"), "the layers of a gate multiply"
    assert 0 < ours.activation_sparsity < 1


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 2, "dilation": 2}], ids=str)
@pytest.mark.parametrize("largest", [1, 3], ids=["events", "numbers"])
def test_a_net_of_a_users_style_counts_the_same(options: dict[str, int], largest: int) -> None:
    torch.manual_seed(0)
    net = Chain(**options).eval()
    clips = np.random.default_rng(0).integers(0, largest + 1, (5, 3, 2, 8, 8)).astype(np.uint8)
    assert_same(net, clips)
    assert (neurobench_counts(net, clips).effective_macs > 0) == (largest > 1)
