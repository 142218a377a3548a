"""Small nets written as users of snnTorch, SpikingJelly and Norse write them, each in another way.

The frameworks are imported where a net is made: tests of one need not have the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

STEPS = 6
PICTURE = (STEPS, 2, 2, 8, 8)


class SnnTorchLoop(nn.Module):
    """A loop over steps that threads membranes through, and returns spikes and membranes of all steps."""

    def __init__(self, **options: Any) -> None:
        import snntorch as snn

        super().__init__()
        self.conv, self.norm, self.lif1 = (
            nn.Conv2d(2, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            snn.Leaky(0.8, 0.6, **options),
        )
        self.pool, self.fc, self.lif2 = nn.AvgPool2d(2), nn.Linear(96, 5), snn.Leaky(0.7, 0.5, **options)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.reset_mem()
        spikes, membranes = [], []
        for step in range(x.shape[0]):
            s, mem1 = self.lif1(self.norm(self.conv(x[step])), mem1)
            s, mem2 = self.lif2(self.fc(self.pool(s).flatten(1)), mem2)
            spikes.append(s)
            membranes.append(mem2)
        return torch.stack(spikes), torch.stack(membranes)


class SnnTorchAdded(SnnTorchLoop):
    """A loop over a number of steps of its own that adds logits up, in place."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mem1, total = self.lif1.reset_mem(), torch.zeros(x.shape[1], 5, dtype=x.dtype)
        for step in range(STEPS):
            s, mem1 = self.lif1(self.norm(self.conv(x[step])), mem1)
            total += self.fc(self.pool(s).flatten(1))
        return total / STEPS


class SnnTorchBatchFirst(nn.Module):
    """Clips [B, T, features], currents with a memory, each neuron with a decay of its own, summed over time."""

    def __init__(self) -> None:
        import snntorch as snn

        super().__init__()
        self.first, self.second = nn.Linear(20, 12), nn.Linear(12, 4)
        self.lif = snn.Synaptic(0.6, torch.linspace(0.3, 0.9, 12), 0.7, learn_alpha=True, learn_beta=True)

    def forward(self, x: Tensor) -> Tensor:
        syn, mem = self.lif.init_synaptic()
        made = []
        for step in x.unbind(1):
            s, syn, mem = self.lif(self.first(step), syn, mem)
            made.append(self.second(s))
        return torch.stack(made, 1).sum(1)


def snntorch_sequential() -> nn.Module:
    """One step a call, states hidden in the neurons, spikes of another height."""
    import snntorch as snn

    return nn.Sequential(
        nn.Conv2d(2, 6, 3), snn.Leaky(0.8, 0.5, init_hidden=True, graded_spikes_factor=0.5), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(54, 5), snn.Leaky(0.7, 0.4, init_hidden=True, reset_mechanism="zero", output=True),
    )  # fmt: skip


class SpikingJellyClip(nn.Module):
    """Multi-step layers and containers, and a max pooling."""

    def __init__(self, node: str, **options: Any) -> None:
        from spikingjelly.activation_based import layer, neuron

        super().__init__()
        made = getattr(neuron, node)
        self.net = nn.Sequential(
            layer.Conv2d(2, 6, 3, padding=1, step_mode="m"), layer.BatchNorm2d(6, step_mode="m"),
            made(step_mode="m", v_threshold=0.4, **options),
            layer.SeqToANNContainer(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)),
            made(step_mode="m", v_threshold=0.4, **options), layer.MaxPool2d(2, 2, step_mode="m"),
            layer.Flatten(step_mode="m"), layer.Linear(96, 5, step_mode="m"),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.net(x).mean(0)
        return made


class SpikingJellyLoop(nn.Module):
    """Single-step nodes, reset in ``forward``, a residual sum, and a firing rate that is added up."""

    def __init__(self) -> None:
        from spikingjelly.activation_based import layer, neuron

        super().__init__()
        self.conv1, self.node1 = layer.Conv2d(2, 6, 3, padding=1), neuron.ParametricLIFNode(1.8, v_threshold=0.3)
        self.conv2, self.node2 = layer.Conv2d(6, 6, 3, padding=1), neuron.IFNode(v_threshold=0.8, v_reset=-0.2)
        self.fc = nn.Linear(6 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        from spikingjelly.activation_based import functional

        functional.reset_net(self)
        total: Any = 0
        for step in range(x.shape[0]):
            s = self.node1(self.conv1(x[step]))
            total = total + self.fc((self.node2(self.conv2(s)) + s).flatten(1))
        made: Tensor = total / x.shape[0]
        return made


def norse_parameters() -> Any:
    import norse.torch as norse

    values = {"tau_mem_inv": 250.0, "tau_syn_inv": 300.0, "v_th": 0.3, "v_leak": 0.05, "v_reset": -0.1}
    return norse.LIFParameters(**{name: torch.tensor(value) for name, value in values.items()})


def norse_sequential() -> nn.Module:
    """One step a call, states handed in and out; rest and reset at values of their own."""
    import norse.torch as norse

    box = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(400.0), v_th=torch.tensor(0.1))
    return norse.SequentialState(
        nn.Conv2d(2, 6, 3), norse.LIFCell(norse_parameters()), nn.Flatten(), nn.Linear(216, 5), norse.LIFBoxCell(box)
    )


class NorseClip(nn.Module):
    """Norse's neurons over whole clips, layers lifted over time."""

    def __init__(self) -> None:
        import norse.torch as norse

        super().__init__()
        self.net = norse.SequentialState(
            norse.Lift(nn.Conv2d(2, 6, 3)), norse.LIF(norse_parameters()), nn.Flatten(2), nn.Linear(216, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.net(x)[0].mean(0)
        return made


NETS: dict[str, tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = {
    "snntorch loop": ("snntorch", SnnTorchLoop, PICTURE),
    "snntorch reset to zero": ("snntorch", lambda: SnnTorchLoop(reset_mechanism="zero"), PICTURE),
    "snntorch reset at once": ("snntorch", lambda: SnnTorchLoop(reset_mechanism="zero", reset_delay=False), PICTURE),
    "snntorch no reset": ("snntorch", lambda: SnnTorchLoop(reset_mechanism="none"), PICTURE),
    "snntorch added up": ("snntorch", SnnTorchAdded, PICTURE),
    "snntorch batch first": ("snntorch", SnnTorchBatchFirst, (STEPS, 2, 20)),
    "snntorch one step": ("snntorch", snntorch_sequential, PICTURE),
    "spikingjelly LIF": ("spikingjelly", lambda: SpikingJellyClip("LIFNode", decay_input=False, v_reset=0.1), PICTURE),
    "spikingjelly soft IF": ("spikingjelly", lambda: SpikingJellyClip("IFNode", v_reset=None), PICTURE),
    "spikingjelly loop": ("spikingjelly", SpikingJellyLoop, PICTURE),
    "norse one step": ("norse", norse_sequential, PICTURE),
    "norse clip": ("norse", NorseClip, PICTURE),
}
"""The framework, how to make the net, and the shape of its clips ``[T, B, ...]``."""


def made(name: str) -> nn.Module:
    """The net with weights large enough for every layer to fire, and batch norms that have seen something."""
    torch.manual_seed(0)
    net = NETS[name][1]().eval()
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.data *= 2.5
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features) * 0.1  # type: ignore[assignment]
            module.running_var = torch.rand(module.num_features) + 0.5  # type: ignore[assignment]
    return net
