"""NeuroBench's counts by hand; tests/outside compares them with NeuroBench itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from spikefold.deploy.neurobench_counts import neurobench_counts
from spikefold.models import LIF


class Tiny(nn.Module):
    """3 inputs, 2 neurons, 2 outputs; clips ``[T, B, 3]``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.neuron, self.second = nn.Linear(3, 2), LIF(0.0, 0.5), nn.Linear(2, 2, bias=False)
        self.first.weight.data = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
        self.first.bias.data.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.second(self.neuron(self.first(x)))
        return logits.mean(0)


EVENTS = np.array([[[1, 0, 0]], [[0, 1, 0]], [[0, 0, 1]]], dtype=np.uint8)  # T = 3, one clip


def test_zeros_of_inputs_and_weights_are_left_out():
    counts = neurobench_counts(Tiny(), EVENTS)
    # input 0 meets one weight, input 1 none, input 2 two; neuron 0 fires at steps 0 and 2 and meets two weights each
    assert counts.effective_acs == 3 + 4
    assert counts.effective_macs == 0
    assert counts.dense == 3 * (6 + 4)
    assert counts.activation_sparsity == pytest.approx(1 - 2 / 6)
    assert counts.footprint == 4 * (6 + 2 + 4)


def test_numbers_other_than_one_make_multiply_accumulates_of_the_whole_layer():
    counts = neurobench_counts(Tiny(), EVENTS * np.array([2, 1, 1], dtype=np.uint8))
    assert (counts.effective_macs, counts.effective_acs) == (3, 4)


def test_counts_are_means_over_samples_and_borders_are_exact():
    conv = nn.Conv2d(1, 1, 3, padding=1)
    conv.weight.data = torch.ones(1, 1, 3, 3)
    clips = np.zeros((1, 2, 1, 4, 4), dtype=np.uint8)
    clips[0, 0, 0, 0, 0] = 1  # a corner reaches 4 outputs
    clips[0, 1, 0, 1, 1] = 1  # 9 from inside
    net = nn.Sequential(nn.Flatten(0, 1), conv)
    assert neurobench_counts(net, clips).effective_acs == (4 + 9) / 2


def test_layers_and_kinds_of_outputs_are_told_apart():
    net = Tiny()
    net.relu = nn.ReLU()
    net.forward = lambda x: net.second(net.relu(net.neuron(net.first(x)))).mean(0)
    counts = neurobench_counts(net, EVENTS)
    assert [(c.name, c.effective, c.stored, c.dense) for c in counts.layers] == [
        ("first", 3, 6, 18),
        ("second", 4, 4, 12),
    ]
    assert counts.samples == 1
    assert (counts.neuron_outputs, counts.other_outputs) == (6, 6)
    assert counts.neuron_sparsity == counts.activation_sparsity == pytest.approx(1 - 2 / 6)
    assert (counts.parameters, counts.buffers) == (12, 0)
    assert counts.to_dict()["effective_acs"] == 7


def test_the_module_is_left_as_it_was():
    net = Tiny().train()
    weight = net.first.weight.clone()
    neurobench_counts(net, EVENTS)
    assert net.training
    assert torch.equal(net.first.weight, weight)
    assert not net.first._forward_pre_hooks
    assert not net.neuron._forward_hooks


def test_a_net_that_does_nothing_has_no_sparsity():
    assert neurobench_counts(nn.Linear(2, 2), np.zeros((1, 1, 2), dtype=np.uint8)).activation_sparsity == 0.0
