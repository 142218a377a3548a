"""A net of your own with attention of your own, from training to a report that says what the attention is worth.

    python examples/own_net_to_report.py [--clips 1500] [--epochs 2] [--out own-net]

Trains a small net on saccade-mnist, once with a squeeze-and-excite gate and once without, and compares both as trained,
as integers and on chips. A minute on two cores; the nets are far from their best after two epochs.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import spikefold as sf
from spikefold.models import LIF, OverTime, saccade_mnist


class SqueezeExcite(nn.Module):
    """One number a channel, computed from the whole clip (Hu et al., 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(channels, channels // 4), nn.ReLU(), nn.Linear(channels // 4, channels), nn.Sigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Currents ``[T, B, C, H, W]``, gated."""
        return x * self.gate(x.mean((0, 3, 4)))[None, :, :, None, None]


class Net(nn.Module):
    """Two convolutions with neurons, and a readout averaged over time."""

    def __init__(self, attention: bool) -> None:
        super().__init__()
        self.first = OverTime(nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.AvgPool2d(2)))
        self.second = OverTime(nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.AvgPool2d(2)))
        self.attention = SqueezeExcite(16) if attention else nn.Identity()
        self.fire_1, self.fire_2 = LIF(decay=0.5, v_threshold=0.5), LIF(decay=0.5, v_threshold=0.5)
        self.head = nn.Linear(16 * 8 * 8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, 10]`` of events ``[T, B, 2, 32, 32]``."""
        spikes = self.fire_1(self.first(x))
        spikes = self.fire_2(self.attention(self.second(spikes)))
        return self.head(spikes.flatten(2)).mean(0)


def train(net: nn.Module, frames: torch.Tensor, labels: torch.Tensor, epochs: int) -> nn.Module:
    """Adam on the cross-entropy of ``frames`` ``[N, T, C, H, W]``, 50 clips at a time."""
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for epoch in range(epochs):
        for batch in torch.randperm(len(frames)).split(50):
            loss = nn.functional.cross_entropy(net(frames[batch].float().transpose(0, 1)), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        print(f"epoch {epoch + 1} of {epochs}: loss of the last batch {loss.item():.2f}")
    return net.eval()


def main() -> None:
    """Train, lower, compare, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1500, help="training clips")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("own-net"), help="folder for what is written")
    given = parser.parse_args()
    torch.manual_seed(0)
    data, test = saccade_mnist.load("train")[: given.clips], saccade_mnist.load("test")[:200]
    frames, labels = torch.from_numpy(data.frames), torch.from_numpy(data.labels)
    nets = [
        sf.NamedNet(name, train(Net(attention), frames, labels, given.epochs))
        for name, attention in (("without", False), ("with-gate", True))
    ]

    given.out.mkdir(parents=True, exist_ok=True)
    for net in nets:  # what `spikefold export` would start from
        torch.save(net.module.state_dict(), given.out / f"{net.name}.pt")
    gated = nets[1].module
    fixed = sf.lower(sf.capture(gated, data.clips(2)), data.clips(128), attention="static", name="with-gate")
    sf.save_nir(fixed, given.out / "with-gate.nir")

    evidence = sf.Evidence("saccade-mnist")
    rows = sf.compare(nets, data.clips(128), test.clips(), test.labels, lava_samples=0, watch=evidence.add)
    for row in rows:
        (loihi,) = (p.total for p in row.prices if p.hardware == "loihi1")
        print(f"{row.title}: {row.accuracy_fixed:.1%} as integers, {loihi.value * 1e6:.0f} uJ on Loihi 1")
    sf.write_report(evidence, given.out / "report.html")
    print(f"open {given.out / 'report.html'}")


if __name__ == "__main__":
    main()
