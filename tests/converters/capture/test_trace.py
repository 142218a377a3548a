from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from networks import SHAPE, Chain, Residual, neuron, prepared
from spikefold.converters.capture import capture
from spikefold.converters.capture.trace import trace
from spikefold.converters.float_graph import read_float_graph
from spikefold.errors import CaptureError, InputError
from spikefold.models import LIF, NeuronSpec, OverTime


@pytest.mark.parametrize("shape", [(4,), (4, 2), (0, 2, 2, 8, 8), (4, 0, 2, 8, 8), (4, 2, 2, 0, 8)])
def test_a_sample_without_time_batch_or_features_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"sample has shape \("):
        capture(prepared(Chain()), torch.zeros(shape))


def test_training_mode_is_refused_with_the_name_of_the_layer() -> None:
    net = prepared(Residual())
    net.down.train()
    with pytest.raises(CaptureError, match=r"^down is in training mode"):
        capture(net, torch.zeros(SHAPE))
    with pytest.raises(CaptureError, match=r"^the module itself is in training mode"):
        capture(Chain(), torch.zeros(SHAPE))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_or_statistic_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    net = prepared(Chain())
    with torch.no_grad():
        net.norm.running_var[2] = bad
    with pytest.raises(CaptureError, match=rf"'norm\.running_var' holds {bad}"):
        capture(net, torch.zeros(SHAPE))


def test_a_module_without_neurons_is_refused() -> None:
    with pytest.raises(CaptureError, match="holds no neurons"):
        capture(nn.Sequential(nn.Flatten(2), nn.Linear(128, 3)).eval(), torch.zeros(SHAPE))


def test_a_lone_neuron_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"the module itself \(LIF\) is a neuron"):
        capture(neuron().eval(), torch.zeros(SHAPE))


def test_a_module_that_cannot_be_traced_is_refused_with_the_reason() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neuron = neuron()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.neuron(x if x.sum() > 0 else -x)
            return out

    with pytest.raises(CaptureError, match=r"could not trace Branching on input \(4, 2, 2, 8, 8\)"):
        capture(Branching().eval(), torch.zeros(SHAPE))


def test_any_module_that_says_what_its_neurons_do_is_a_neuron() -> None:
    class Theirs(nn.Module):
        def neuron_spec(self) -> NeuronSpec:
            return NeuronSpec(decay=0.75, v_threshold=1.5, strict=False)

        def forward(self, x: Tensor) -> Tensor:
            raise NotImplementedError("never run while tracing")

    graph = capture(nn.Sequential(OverTime(nn.Conv2d(2, 4, 3)), Theirs()).eval(), torch.zeros(SHAPE))
    (population,) = read_float_graph(graph).populations
    assert (population.decay, float(population.v_threshold.max()), population.strict) == (0.75, 1.5, False)


def test_one_neuron_module_under_two_names_is_found_under_both() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = OverTime(nn.Conv2d(2, 4, 3)), OverTime(nn.Conv2d(4, 4, 3))
            self.first = self.second = neuron()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(self.two(self.first(self.one(x))))
            return out

    graph = capture(Net().eval(), torch.zeros(SHAPE))
    assert [p.name for p in read_float_graph(graph).populations] == ["first", "second"]


def test_the_input_may_be_viewed_merged_as_a_real_clip_may() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.neuron = nn.Conv2d(2, 4, 3, padding=1), LIF()

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x.view(-1, 2, 8, 8))
            out: Tensor = self.neuron(y.view(x.shape[0], x.shape[1], 4, 8, 8))
            return out

    assert "conv" in capture(Net().eval(), torch.zeros(SHAPE)).nodes


def test_constants_made_while_running_are_known() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.neuron = OverTime(nn.Conv2d(2, 2, 3)), LIF()
            self.factor = torch.tensor([0.5, 2.0])

        def forward(self, x: Tensor) -> Tensor:
            scale = (self.factor * torch.tensor([2.0, 1.0]))[:, None, None]
            out: Tensor = self.neuron(self.conv(x) * scale)
            return out

    net = Net().eval()
    node = capture(net, torch.zeros(SHAPE)).nodes["conv_module"]
    weight = net.conv.module.weight.detach() * torch.tensor([1.0, 2.0])[:, None, None, None]
    assert torch.equal(torch.from_numpy(node.weight), weight)


def test_a_trace_computes_nothing_and_keeps_no_operation_in_place() -> None:
    traced = trace(prepared(Residual()), torch.zeros(SHAPE))
    targets = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert sum(str(t) == "spikefold.neuron.default" for t in targets) == 3
    assert not [t for t in targets if hasattr(t, "_schema") and t._schema.is_mutable]
    assert all(tensor.dtype == torch.float64 for tensor in traced.constants.values() if tensor.is_floating_point())
