from __future__ import annotations

import copy
import math
from collections.abc import Callable

import nir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gate_networks import GATES, GateNet, SelfScaled, T, TimeSecond
from networks import SHAPE, captured, prepared
from spikefold.converters.capture import capture
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.gate_float import run_float
from spikefold.converters.gate_program import GateProgram
from spikefold.errors import CaptureError
from spikefold.models import ASA, FSTA, topk_mask
from spikefold.models.attention.dta import TNA, TXA
from spikefold.models.attention.tcja import TCJA

RELATIVE = 1e-6


def gate_of(graph: nir.NIRGraph) -> GateProgram:
    (program,) = [p.gate for p in read_float_graph(graph).populations if p.gate is not None]
    return program


def program_of(net: nn.Module, shape: tuple[int, ...] = SHAPE) -> GateProgram:
    return gate_of(capture(net, torch.zeros(shape)))


def currents(shape: tuple[int, ...] = (T, 3, 4, 8, 8), seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same_gate(net: nn.Module, x: Tensor, program: GateProgram | None = None) -> None:
    """Feed the current itself: the convolution before the gate becomes the identity."""
    assert isinstance(net, GateNet)
    program = program or program_of(net)
    net.double()
    net.conv = nn.Identity()
    with torch.no_grad():
        wanted = net.gated(x.clone())
        gain = net.neuron.neuron_spec().input_gain
        got = x * run_float(program, x * gain)
    assert bool(((got - wanted).abs() <= RELATIVE * wanted.abs() + 1e-12).all())


@pytest.mark.parametrize("name", GATES)
def test_a_captured_gate_computes_what_the_module_computes(name: str) -> None:
    net, graph = captured(name)
    assert_same_gate(copy.deepcopy(net), currents(), gate_of(graph))


@pytest.mark.parametrize("reduction", [1, 3])
@pytest.mark.parametrize("make", [FSTA, ASA], ids=["FSTA", "ASA"])
def test_the_gate_of_a_module_of_ours_is_its_gate_method(make: Callable[..., FSTA | ASA], reduction: int) -> None:
    module = make(T, reduction=reduction)
    program = program_of(prepared(GateNet(module)))
    x = currents()
    with torch.no_grad():
        wanted = module.double().gate(x)
        got = run_float(program, x).expand_as(wanted)
    torch.testing.assert_close(got, wanted, rtol=RELATIVE, atol=0)


def test_a_gate_treats_each_sample_alone() -> None:
    for name in ("FSTA", "ASA", "channels then pixels", "formula, batch first"):
        program, x = gate_of(captured(name)[1]), currents()
        together = run_float(program, x).expand(-1, 3, -1, -1, -1)
        alone = torch.cat([run_float(program, x[:, i : i + 1]) for i in range(3)], 1)
        torch.testing.assert_close(together, alone.expand_as(together), rtol=1e-12, atol=0)


def test_a_program_holds_no_step_that_the_gate_does_not_need() -> None:
    class Wasteful(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.mean((3, 4), keepdim=True)
            unused = torch.tanh(mean) * 3.0
            return x * (torch.sigmoid(mean) + 0.0 * unused.detach()[:, :, :1] * 0)

    program = program_of(prepared(GateNet(SelfScaled(torch.sigmoid))))
    used = {0, len(program.steps)} | {i for step in program.steps for i in step.inputs}
    assert used == set(range(len(program.steps) + 1))
    assert [s.op for s in program_of(prepared(GateNet(Wasteful()))).steps].count("function") == 2


def eighths(*shape: int) -> Tensor:
    """Weights that float32 holds."""
    return (torch.arange(math.prod(shape)) * 5 % 17 - 8).reshape(shape) / 8


STEP_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "affine": lambda v: (2 * v - 0.5) / 3 + 1,
    "reversed difference": lambda v: torch.sigmoid(1 - v),
    "difference of signals": lambda v: v - v.mean(2, keepdim=True),
    "constant per channel": lambda v: v * torch.arange(4) + torch.linspace(0, 1, 4),
    "constant minus signal": lambda v: torch.arange(4) - v,
    "matrix": lambda v: v @ torch.arange(16.0, dtype=v.dtype).reshape(4, 4),
    "transposed": lambda v: (v.transpose(0, 1).mT @ torch.arange(16.0, dtype=v.dtype).view(4, 4).t()).mT.transpose(
        0, 1
    ),
    "clamp": lambda v: v.clamp(-0.1, 0.2),
    "clamp from below": lambda v: torch.clamp(v, min=0.05),
    "clamp from above": lambda v: torch.clamp(v, max=0.05),
    "minimum by clamp_min": lambda v: v.clamp_min(0.1),
    "hardtanh with limits": lambda v: functional.hardtanh(v, -0.1, 0.3),
    "relu6": lambda v: functional.relu6(40 * v),
    "square": lambda v: v**2 + v.square(),
    "sum and largest": lambda v: v.sum(0, keepdim=True) + v.amax(2, keepdim=True),
    "largest with index": lambda v: v.max(dim=0, keepdim=True)[0] + v.max(2, keepdim=True).values,
    "slices": lambda v: torch.cat([v[..., 2:], v[..., :1], v[..., -3:-2]], -1),
    "one channel": lambda v: v[:, :, 1:2] + v[:, :, 3].unsqueeze(2),
    "steps apart": lambda v: v[-1:] - v[0],
    "expanded": lambda v: v.mean(2, keepdim=True).expand(-1, -1, 4),
    "layout": lambda v: v.permute(1, 2, 0).flatten(1).view(-1, 4, T).movedim(2, 0),
    "functions": lambda v: v.tanh() + v.exp() + functional.gelu(v) + functional.silu(v) + functional.softplus(v),
    "more functions": lambda v: functional.hardsigmoid(v) + functional.elu(v) + functional.leaky_relu(v) + v.abs(),
    "root": lambda v: v.abs().sqrt(),
    "softmax over channels": lambda v: v.softmax(2),
    "softmax of large scores": lambda v: (1e5 * v).softmax(2),
    "softmax over steps": lambda v: torch.softmax(9 * v, -3),
    "softmax over scales": lambda v: torch.stack([v, 2 * v, v.exp()]).softmax(0)[1],
    "softmax of merged steps": lambda v: v.flatten(0, 1).softmax(1).unflatten(0, (T, -1)),
    "softmax written out": lambda v: (3 * v).exp() / (3 * v).exp().sum(2, keepdim=True),
    "layer norm": lambda v: functional.layer_norm(
        v, (4,), torch.linspace(0.5, 2, 4, dtype=v.dtype), torch.arange(4).to(v), 1e-3
    ),
    "layer norm without weights": lambda v: functional.layer_norm(v.movedim(0, 2), (4, T)).movedim(2, 0),
    "quotient of signals": lambda v: (v - 0.1) / (v.abs() + 0.5),
    "constants over signals": lambda v: 2 / (v.abs() + 0.5) + torch.arange(4) / (1 + v * v),
    "reciprocals": lambda v: (v.abs() + 0.5).reciprocal() + (v.abs() + 0.25).rsqrt(),
    "chunks": lambda v: torch.cat(list(v.chunk(3, 2))[::-1], 2) + v.chunk(2, -1)[1].mean(2, keepdim=True),
    "splits": lambda v: v.split([1, 2, 1], 2)[2] + v.split(3)[1],
    "convolution along channels": lambda v: functional.conv1d(
        v.transpose(0, 1), eighths(T, T, 3).to(v), torch.arange(T).to(v), padding=1
    ).transpose(0, 1),
    "strided, grouped convolution": lambda v: functional.conv1d(
        v.permute(1, 2, 0), eighths(4, 1, 2).to(v), stride=2, dilation=2, groups=4
    ).permute(2, 0, 1),
    "padding by zeros": lambda v: functional.conv1d(
        functional.pad(v.transpose(0, 1), (1, 2)), eighths(T, T, 4).to(v)
    ).transpose(0, 1),
    "negated": lambda v: 1 + -v,
    "padding of one axis": lambda v: functional.pad(v.transpose(0, 1), (0, 0, 1, 0))[:, 1:].transpose(0, 1),
    "all of the batch": lambda v: v[:, 0:] + v[:, :, 1:2],
    "padding of two axes": lambda v: functional.pad(v.transpose(0, 1), (0, 3, 2, 0), value=0.5)[:, 1:5, 2:6].transpose(
        0, 1
    ),
}


class PerStep(nn.Module):
    """A gate from the values ``[T, B, C]`` that pooling leaves."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return x * self.function(x.mean((3, 4)))[..., None, None]


@pytest.mark.parametrize("name", STEP_FUNCTIONS)
def test_an_operation_in_a_gate_means_what_torch_means(name: str) -> None:
    assert_same_gate(prepared(GateNet(PerStep(STEP_FUNCTIONS[name]))), currents())


class Written(nn.Module):
    """A gate by any function of the current."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def pooled(x: Tensor) -> Tensor:
    return x.mean((3, 4), keepdim=True)


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "factor first": lambda x: torch.sigmoid(pooled(x)) * x,
    "linear factor": lambda x: x * pooled(x),
    "linear factor first": lambda x: pooled(x) * x,
    "product of signals in the factor": lambda x: (torch.sigmoid(pooled(x)) * x.mean(0, keepdim=True)) * x,
    "current times itself": lambda x: x * x,
    "gate of every flattened value": lambda x: (x.flatten(2) * torch.sigmoid(x.flatten(2))).unflatten(2, (4, 8, 8)),
    "pooled in padded parts": lambda x: x * torch.sigmoid(
        functional.avg_pool2d(x.flatten(0, 1), 3, 2, 1).mean((2, 3)).unflatten(0, x.shape[:2])
    )[..., None, None],
    "less than the current": lambda x: x * (2 + torch.tanh(pooled(x))) - x,
    "current less a part": lambda x: x - x * torch.sigmoid(pooled(x)),
    "negated": lambda x: -(x * torch.sigmoid(pooled(x))),
    "two gates after another": lambda x: x * torch.sigmoid(pooled(x)) * x.amax((0, 2), keepdim=True).sigmoid(),
    "a second gate from the gated": lambda x: (lambda y: y * y.mean((2, 3, 4), keepdim=True).tanh())(
        x * torch.sigmoid(pooled(x))
    ),
    "a scaled part more": lambda x: x + 0.5 * x * torch.sigmoid(pooled(x)),
    "a scaled part less": lambda x: x - (0.5 * x) * torch.sigmoid(pooled(x)),
    "gate of every value": lambda x: x * torch.sigmoid(x),
    "pooled in parts": lambda x: x * torch.sigmoid(
        functional.avg_pool2d(x.flatten(0, 1), 2).mean((2, 3)).unflatten(0, x.shape[:2])
    )[..., None, None],
    "of the flattened current": lambda x: (
        x.flatten(2) * torch.sigmoid(x.flatten(2).mean(2, keepdim=True))
    ).unflatten(2, (4, 8, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_a_gate_is_found_however_the_product_is_written(name: str) -> None:
    assert_same_gate(prepared(GateNet(Written(FORMULAS[name]))), currents())


SCALED: dict[str, Callable[[Tensor], Tensor]] = {
    "halves": lambda x: 0.5 * x + 0.5 * x * torch.sigmoid(pooled(x)),
    "gate of the half on the half": lambda x: (lambda y: y * torch.sigmoid(pooled(y)))(0.5 * x),
    "gate of the half on the whole": lambda x: x * torch.sigmoid(pooled(x / 4)),
    "gate of the whole on the half": lambda x: (x / 2) * torch.sigmoid(pooled(x)),
    "shifted down": lambda x: x - 0.25,
    "shifted and turned": lambda x: 0.75 - x,
}


@pytest.mark.parametrize("name", SCALED)
def test_multiples_and_shifts_of_a_current_run_like_the_module(name: str) -> None:
    net = prepared(GateNet(Written(SCALED[name])))
    graph = capture(net, torch.zeros(SHAPE))
    x = (torch.rand(SHAPE, generator=torch.Generator().manual_seed(5)) < 0.4).double()
    with torch.no_grad():
        logits, spikes = read_float_graph(graph).run(x)
        wanted = net.double()(x)
    assert 0.02 < float(spikes["neuron"].mean()) < 0.98
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", ["T B", "B T"])
def test_a_gate_works_for_one_step(layout: str) -> None:
    gate = Written(lambda x: x * torch.sigmoid(x.mean((0, 3, 4), keepdim=True)))
    net = prepared(GateNet(gate if layout == "T B" else TimeSecond(gate), layout))
    x = currents((1, 3, 4, 8, 8))
    program = program_of(net, (1, 2, 2, 8, 8))
    with torch.no_grad():
        torch.testing.assert_close(x * run_float(program, x), gate(x), rtol=RELATIVE, atol=1e-12)


def test_a_gate_on_neurons_in_one_row_reads_its_channels() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.mix = nn.Linear(10, 6), nn.Linear(6, 6)
            self.neuron = GateNet(nn.Identity()).neuron

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            out: Tensor = self.neuron(y * torch.sigmoid(self.mix(y.mean(0))))
            return out

    net = prepared(Net())
    program, x = program_of(net, (T, 2, 10)), currents((T, 3, 6))
    with torch.no_grad():
        wanted = torch.sigmoid(net.mix.double()(x.mean(0)))
    torch.testing.assert_close(run_float(program, x), wanted.unsqueeze(0), rtol=RELATIVE, atol=0)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "softmax over the batch": (lambda v: v.softmax(1), "softmax.*reduces over the batch"),
    "softmax over merged steps and samples": (
        lambda v: v.flatten(0, 1).softmax(0).unflatten(0, (T, -1)),
        "softmax.*reduces over the batch",
    ),
    "reflected padding": (
        lambda v: functional.pad(v, (1, 1), mode="reflect")[..., :4],
        "only constants around|has no integer form",
    ),
    "half the batch": (lambda v: v.chunk(1, 1)[0] + v.split(2, 1)[0].mean(1, keepdim=True), "takes apart the batch"),
    "padding of the batch": (lambda v: functional.pad(v, (0, 0, 1, 0))[:, 1:], "pads the batch"),
    "part of the batch": (lambda v: v[:, 1:].mean(1, keepdim=True), "takes apart the batch"),
    "one sample": (lambda v: v.split(1, 1)[0].mean(1, keepdim=True), "takes apart the batch"),
    "largest of the batch": (lambda v: topk_mask(v, 1, 1), "ranks samples of a batch"),
    "sum with a factor": (lambda v: torch.add(v, v, alpha=2), "alpha is not supported"),
    "product with a stack of matrices": (lambda v: v @ torch.ones(T, 4, 4).to(v), "right factor has shape .4, 4, 4."),
    "softmax of whole numbers": (lambda v: v.softmax(2, dtype=torch.int32).to(v.dtype), "casts to torch.int32"),
    "padding by name": (
        lambda v: functional.conv1d(v.transpose(0, 1), torch.ones(T, T, 3).to(v), padding="same").transpose(0, 1),
        "padding='same'; give it as numbers",
    ),
    "padding of pictures by name": (
        lambda v: functional.conv2d(v.view(-1, 1, 4, 1), v.new_ones(1, 1, 3, 3), padding="same").view(v.shape),
        "padding='same'; give it as numbers",
    ),
    "norm of the batch": (
        lambda v: functional.batch_norm(v.transpose(0, 1), None, None, training=True).transpose(0, 1),
        "keeps no running statistics",
    ),
    "pooling to two values": (
        lambda v: functional.adaptive_avg_pool2d(v.movedim(1, 0)[:, None], (1, 2)).mean((1, 2, 3))[None, :, None],
        "only a pooling to size 1",
    ),
    "pooling with a divisor": (
        lambda v: functional.avg_pool2d(v.movedim(1, 0)[:, None], 2, divisor_override=1).mean((1, 2, 3))[None, :, None],
        "ceil_mode, padding or a divisor",
    ),
    "pooling that leaves padding out": (
        lambda v: functional.avg_pool2d(v.movedim(1, 0)[:, None], 3, 1, 1, False, False)[:, 0].movedim(0, 1),
        "ceil_mode, padding or a divisor",
    ),
    "convolution along the batch": (
        lambda v: functional.conv1d(v.flatten(1), torch.ones(T, T, 1)).unflatten(1, (-1, 4)), "give it .N, C, length"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_mixes_samples_or_has_no_integer_form_is_refused_by_name(name: str) -> None:
    function, message = REFUSED[name]
    with pytest.raises(CaptureError, match=message):
        program_of(prepared(GateNet(PerStep(function))))


class Weighed(nn.Module):
    """The current times a sigmoid of what a module makes of it."""

    def __init__(self, score: nn.Module) -> None:
        super().__init__()
        self.score = score

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.score(x))


class Times(nn.Module):
    """The product of what two modules make of a current, as DTA multiplies its two attentions."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.one(x) * self.other(x)
        return out


PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    "TCJA": lambda: TCJA(T, 4),
    "DTA": lambda: Weighed(Times(TNA(T * 4), TXA(T, 4))),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_gates_that_follow_a_neuron_lift_in_front_of_one(name: str) -> None:
    assert_same_gate(prepared(GateNet(PUBLISHED[name]())), currents())
