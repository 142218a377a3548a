"""A net as a user would write it: torch layers, a squeeze-and-excitation gate, and our LIF."""

import torch
from torch import nn

from spikefold.models import LIF


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Linear(channels, 2), nn.Linear(2, channels)

    def forward(self, x):
        pooled = x.mean((0, 3, 4))
        return x * torch.sigmoid(self.up(torch.relu(self.down(pooled))))[None, :, :, None, None]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.attention = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), SqueezeExcite(6)
        self.neuron, self.head = LIF(decay=0.5, v_threshold=0.4), nn.Linear(6 * 4 * 4, 3)

    def forward(self, x):
        current = nn.functional.avg_pool2d(self.norm(self.conv(x.flatten(0, 1))), 2).unflatten(0, x.shape[:2])
        return self.head(self.neuron(self.attention(current)).flatten(2)).mean(0)


def build():
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same weights each time, as if they were trained
        return Net()


def pooled():
    net = build()
    net.norm = nn.Sequential(nn.BatchNorm2d(6), nn.MaxPool2d(3, 1, 1))
    return net


def training():
    net = build()
    net.eval = net.train
    return net


not_a_net = 3
