"""Nets of snnTorch, SpikingJelly and Norse against what is captured of them, run by the frameworks themselves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from framework_nets import NETS, PICTURE, STEPS, SnnTorchLoop, made
from spikefold.converters.capture import capture, foreign
from spikefold.converters.capture.forms import ClipNet, as_clip_net
from spikefold.converters.float_graph import read_float_graph
from spikefold.converters.lower import lower
from spikefold.deploy.run import differences, run
from spikefold.deploy.teacher_forcing import check_folding
from spikefold.errors import CaptureError
from spikefold.models import LIF

every_net = pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.outside(NETS[n][0])) for n in NETS])
snntorch, spikingjelly, norse = (pytest.mark.outside(n) for n in ("snntorch", "spikingjelly", "norse"))


def clips_for(name: str, rate: float = 0.3) -> Tensor:
    steps, _, *features = NETS[name][2]
    return (torch.rand(steps, 8, *features, generator=torch.Generator().manual_seed(1)) < rate).double()


def own_spikes(net: nn.Module, clips: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What the framework itself makes of clips, in float64: the answer and the spikes of every population."""
    twin = as_clip_net(copy.deepcopy(net).double())
    assert isinstance(twin, ClipNet)
    answer, recorded = twin.recorded(clips)
    return answer, {name: part.spikes for name, part in recorded.items()}


@every_net
def test_the_captured_net_sends_the_spikes_of_the_framework(name: str) -> None:
    net, clips = made(name), clips_for(name)
    captured = read_float_graph(capture(net, clips[:, :1]))
    answer, wanted = own_spikes(net, clips)
    logits, spikes = captured.run(clips)
    assert wanted
    for path, train in wanted.items():
        assert 0.01 < float(train.mean()) < 0.9, f"{path} shows nothing"
        assert int((spikes[path].reshape(train.shape) != train).sum()) == 0, path
    over_time = answer.mean(0) if answer.numel() > logits.numel() else answer
    torch.testing.assert_close(over_time.flatten(1), logits, rtol=1e-5, atol=1e-6)


@every_net
def test_every_membrane_of_the_captured_net_is_within_rounding_of_the_framework(name: str) -> None:
    net, clips = made(name), clips_for(name).numpy().astype(np.uint8)
    folding = check_folding(as_clip_net(net), read_float_graph(capture(net, torch.zeros(NETS[name][2]))), clips)
    assert folding.within_bound
    assert {layer.name for layer in folding.layers if layer.fires} == set(own_spikes(net, clips_for(name))[1])
    assert folding.flips == 0


@every_net
def test_lowered_nets_run_alike_on_the_reference_and_in_torch(name: str) -> None:
    net, clips = made(name), clips_for(name).numpy().astype(np.uint8)
    lowered = lower(capture(net, torch.zeros(NETS[name][2])), clips, "static")
    one, other = (run(lowered, clips, backend, trace=True).trace for backend in ("reference", "torch"))
    assert one is not None
    assert other is not None
    assert differences(one, other) == (0, 0)
    assert all(one.spikes[n.name].any() for n in lowered.neurons if n.fires)


@snntorch
def test_a_net_that_was_used_in_training_is_captured_and_left_as_it_is() -> None:
    net = made("snntorch one step").train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net(torch.rand(3, 2, 8, 8))[0].sum().backward()  # membranes hang in the autograd graph now
    membrane = net.eval()[1].mem
    populations = read_float_graph(capture(net, torch.zeros(PICTURE))).populations
    assert net[1].mem is membrane
    assert membrane.grad_fn is not None
    assert [p.name for p in populations if p.fires and not p.logic] == ["1", "5"]
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())


def leaky(**options: Any) -> nn.Module:
    import snntorch as snn

    return snn.Leaky(**{"beta": 0.5, **options})


def synaptic(**options: Any) -> nn.Module:
    import snntorch as snn

    return snn.Synaptic(0.5, 0.5, **options)


def node(kind: str, **options: Any) -> nn.Module:
    from spikingjelly.activation_based import neuron

    made: nn.Module = getattr(neuron, kind)(**options)
    return made


def cell(**parameters: Any) -> nn.Module:
    import norse.torch as norse_torch

    return norse_torch.LIFCell(norse_torch.LIFParameters(**parameters))


def of(package: str, name: str, *args: Any, **options: Any) -> nn.Module:
    made: nn.Module = getattr(__import__(package, fromlist=["torch"]), name)(*args, **options)
    return made


def smooth(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


REFUSED: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "inhibition = True": ("snntorch", lambda: leaky(inhibition=True)),
    "state_quant = <": ("snntorch", lambda: leaky(state_quant=torch.round)),
    "spike_grad = .* no step at 0": ("snntorch", lambda: leaky(spike_grad=smooth)),
    "reset_delay = False with reset_mechanism = 'subtract'": ("snntorch", lambda: leaky(reset_delay=False)),
    "beta = 0 with reset_mechanism = 'subtract'": ("snntorch", lambda: leaky(beta=0.0)),
    "v_threshold = -1.0": ("snntorch", lambda: leaky(threshold=-1.0, reset_mechanism="zero")),
    "graded_spikes_factor holds 2": ("snntorch", lambda: leaky(graded_spikes_factor=torch.tensor([1.0, 2.0]))),
    "reset_mechanism = 'zero' with reset_delay = True": ("snntorch", lambda: synaptic(reset_mechanism="zero")),
    r"\(Alpha\): a snntorch._neurons.neurons.LIF": ("snntorch", lambda: of("snntorch", "Alpha", 0.6, 0.5)),
    r"\(RLeaky\): a snntorch": ("snntorch", lambda: of("snntorch", "RLeaky", 0.6, linear_features=4)),
    r"\(KLIFNode\): a spikingjelly.*base_node.BaseNode": ("spikingjelly", lambda: node("KLIFNode")),
    "v_threshold = -0.0999": ("spikingjelly", lambda: node("IFNode", v_threshold=0.1, v_reset=0.2)),
    "surrogate_function = .* no step": ("spikingjelly", lambda: node("IFNode", surrogate_function=smooth)),
    "method = 'logistic'": ("norse", lambda: cell(method="logistic")),
    r"\(LIFRecurrentCell\): a norse": ("norse", lambda: of("norse.torch", "LIFRecurrentCell", 4, 4)),
    "record_states = True": ("norse", lambda: of("norse.torch", "LIF", record_states=True)),
}


@pytest.mark.parametrize("message", [pytest.param(m, marks=pytest.mark.outside(REFUSED[m][0])) for m in REFUSED])
def test_what_a_neuron_spec_cannot_say_is_refused_by_field_and_value(message: str) -> None:
    net = nn.Sequential(nn.Linear(4, 4), REFUSED[message][1](), nn.Linear(4, 2)).eval()
    with pytest.raises(CaptureError, match=message) as caught:
        capture(net, torch.zeros(STEPS, 2, 4))
    assert str(caught.value).startswith("1 (")


class Loop(SnnTorchLoop):
    """One layer in a loop whose step a test writes."""

    def __init__(self, step: Callable[[Loop, Tensor, int, Any], tuple[Tensor, Any]], end: Callable[..., Any]) -> None:
        super().__init__()
        self.step, self.end = step, end

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        mem, rec, mems = self.lif1.reset_mem(), [], []
        for t in range(x.shape[0]):
            s, mem = self.step(self, x, t, mem)
            rec.append(self.fc(self.pool(s).flatten(1)))
            mems.append(mem)
        return self.end(rec, mems)


def plain(net: Loop, x: Tensor, t: int, mem: Any) -> tuple[Tensor, Any]:
    return net.lif1(net.conv(x[t]), mem)  # type: ignore[no-any-return]


def mean(rec: list[Tensor], mems: list[Tensor]) -> Tensor:
    return torch.stack(rec).mean(0)


def looped(step: Any, end: Any = mean) -> nn.Module:
    torch.manual_seed(0)
    net = Loop(step, end).eval()
    net.conv.weight.data *= 2.5
    return net


def started(net: Loop, x: Tensor, t: int, mem: Any) -> tuple[Tensor, Any]:
    return plain(net, x, t, mem if t else torch.full((x.shape[1], 6, 8, 8), 0.5))


MEETING: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "difference of steps": (
        lambda: looped(lambda n, x, t, m: n.lif1(n.conv(x[t] - x[t - 1]), m)), "lif1: .* spikes differ at step"
    ),
    "state at the start": (lambda: looped(started), "lif1: .* spikes differ at step 0"),
    "counted steps": (lambda: looped(lambda n, x, t, m: n.lif1(n.conv(x[t]) * (t + 1), m)), "aten.stack.default is"),
    "last answer": (lambda: looped(plain, lambda rec, mems: rec[-1]), "neither the mean nor the sum over steps"),
    "largest answer": (lambda: looped(plain, lambda rec, mems: torch.stack(rec).amax(0)), "several steps at once"),
    "all answers": (lambda: looped(plain, lambda rec, mems: torch.stack(rec)), "without a mean over time"),
    "axes that change places": (
        lambda: looped(plain, lambda rec, mems: torch.stack(rec).permute(0, 2, 1).mean(0)), "several steps at once"
    ),
    "joined classes": (lambda: looped(plain, lambda rec, mems: torch.cat(rec, 1)), "aten.cat.default is not supported"),
    "membranes": (lambda: looped(plain, lambda rec, mems: torch.stack(mems).mean(0)), "reads the state of neurons"),
    "two answers": (lambda: looped(plain, lambda rec, mems: (mean(rec, mems), rec[0])), "returns 2 tensors"),
}  # fmt: skip


def identity(x: Tensor) -> Tensor:
    return nn.functional.linear(x, torch.eye(5, dtype=x.dtype))


GATHERED: dict[str, Callable[[list[Tensor], list[Tensor]], Tensor]] = {
    "joined": lambda rec, mems: torch.cat([r[None] for r in rec]).mean(0),
    "stacked behind the batch": lambda rec, mems: torch.stack(rec, 1).transpose(0, 1).mean(0),
    "steps last": lambda rec, mems: torch.stack(rec).movedim(0, -1).mean(-1),
    "all axes in another order": lambda rec, mems: torch.stack(rec).permute(1, 0, 2).mean(1),
    "a layer for all steps": lambda rec, mems: identity(torch.stack(rec)).mean(0),
    "scaled": lambda rec, mems: (2 * torch.stack(rec) / 2).mean(0),
    "added to itself": lambda rec, mems: (torch.stack(rec) + torch.stack(rec)).mean(0) / 2,
    "a sum with its axis": lambda rec, mems: torch.stack(rec).sum(0, keepdim=True)[0] / STEPS,
}  # fmt: skip


@snntorch
@pytest.mark.parametrize("how", GATHERED)
def test_what_the_steps_made_may_be_gathered_in_any_way(how: str) -> None:
    clips = clips_for("snntorch loop")
    wanted, _ = own_spikes(looped(plain), clips)
    logits, spikes = read_float_graph(capture(looped(plain, GATHERED[how]), clips[:, :1])).run(clips)
    assert 0.01 < float(spikes["lif1"].mean()) < 0.9
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-6)


@snntorch
@pytest.mark.parametrize("how", MEETING)
def test_a_net_whose_steps_meet_outside_its_membranes_is_refused(how: str) -> None:
    net, message = MEETING[how]
    with pytest.raises(CaptureError, match=message):
        capture(net(), torch.zeros(PICTURE))


@snntorch
def test_the_check_finds_a_neuron_that_is_read_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if snnTorch's next version reset at once: every way to read it but the right one is found out."""
    net, right = made("snntorch loop"), foreign.READERS["snntorch._neurons.leaky.Leaky"]
    for field, value in (("soft_reset", False), ("v_reset", -0.05), ("decay", 0.75), ("v_threshold", 0.65)):

        def wrong(module: Any, field: str = field, value: Any = value) -> Any:
            known = right(module)
            return foreign.replace(known, spec=foreign.replace(known.spec, **{field: value}))  # type: ignore[attr-defined]

        monkeypatch.setitem(foreign.READERS, "snntorch._neurons.leaky.Leaky", wrong)
        with pytest.raises(CaptureError, match="spikes differ at step"):
            capture(net, torch.zeros(PICTURE))


@snntorch
def test_a_module_called_in_two_places_is_two_populations() -> None:
    class Twice(SnnTorchLoop):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            mem1, mem2, total = self.lif1.reset_mem(), self.lif1.reset_mem(), 0.0
            for step in x:
                s, mem1 = self.lif1(self.conv(step), mem1)
                s, mem2 = self.lif1(self.norm(s) * 2, mem2)
                total = total + self.fc(self.pool(s).flatten(1))
            return total / len(x)  # type: ignore[operator,return-value]

    torch.manual_seed(0)
    net = Twice().eval()
    net.conv.weight.data *= 2.5
    names = [p.name for p in read_float_graph(capture(net, torch.zeros(PICTURE))).populations]
    assert names == ["lif1", "lif1_2", "readout"]


@snntorch
def test_neurons_of_both_kinds_are_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4), leaky(init_hidden=True), nn.Linear(4, 4), LIF(0.5, 1.0)).eval()
    with pytest.raises(CaptureError, match="1 takes one step a call and 3 whole clips"):
        capture(net, torch.zeros(STEPS, 2, 4))


@snntorch
def test_a_net_that_runs_in_no_way_says_how_it_was_tried() -> None:
    net = nn.Sequential(nn.Linear(5, 4), leaky(init_hidden=True)).eval()
    tried = r"in none of the ways .* on clips \[T, B, ...\]: mat1 .*; on clips \[B, T, ...\]: mat1 .*; on one step"
    with pytest.raises(CaptureError, match=tried):
        capture(net, torch.zeros(STEPS, 2, 4))


@snntorch
def test_a_gate_in_a_loop_over_steps_is_computed_step_by_step() -> None:
    """Squeeze and excitation inside the loop: the program covers the whole clip, and no step sees another."""

    class Gated(SnnTorchLoop):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            mem, total = self.lif1.reset_mem(), 0.0
            for step in range(x.shape[0]):
                current = self.conv(x[step])
                s, mem = self.lif1(current * torch.sigmoid(4 * current.mean((2, 3), keepdim=True)), mem)
                total = total + self.fc(self.pool(s).flatten(1))
            return total / x.shape[0]  # type: ignore[operator,return-value]

    torch.manual_seed(0)
    net = Gated().eval()
    net.conv.weight.data *= 2.5
    (population, _) = read_float_graph(capture(net, torch.zeros(PICTURE))).populations
    assert population.gate is not None
    assert population.gate.time_steps == STEPS
    clips = clips_for("snntorch loop").numpy().astype(np.uint8)
    lowered = lower(capture(net, torch.zeros(PICTURE)), clips, "dynamic")
    one, other = (run(lowered, clips, backend, trace=True).trace for backend in ("reference", "torch"))
    assert one is not None
    assert other is not None
    assert differences(one, other) == (0, 0)
