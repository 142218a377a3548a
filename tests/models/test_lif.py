import math

import pytest
import torch

from spikefold.errors import InputError
from spikefold.models import LIF, AdaptiveLIF, NeuronSpec, ParametricLIF

FSTA_NEURON = LIF(decay=0.25, v_threshold=0.5, strict=True)
ASA_NEURON = LIF(decay=0.3, v_threshold=0.3, strict=False, surrogate="rectangular")


def by_hand(x, spec):
    """The neuron of one sample, one float at a time."""
    spikes, kept = [], 0.0
    for current in x:
        v = spec.decay * kept + spec.input_gain * current
        fired = v > spec.v_threshold if spec.strict else v >= spec.v_threshold
        spikes.append(float(fired))
        kept = (v - spec.v_threshold + spec.v_reset if spec.soft_reset else spec.v_reset) if fired else v
    return spikes


@pytest.mark.parametrize(
    "neuron",
    [FSTA_NEURON, ASA_NEURON, LIF(0.9, 1.0, -0.2, True, 0.5), LIF.from_tau(2.0), LIF(0.9, 0.5, soft_reset=True)],
    ids=["fsta", "asa", "reset-below-zero", "tau", "soft"],
)
@pytest.mark.parametrize("with_gradient", [False, True])
def test_spikes_follow_the_equation(neuron, with_gradient):
    x = torch.randn(12, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spikes = neuron(x.clone().requires_grad_(with_gradient)).detach()
    for b in range(3):
        for n in range(5):
            assert spikes[:, b, n].tolist() == by_hand(x[:, b, n].tolist(), neuron.neuron_spec())


def test_strict_threshold_does_not_fire_at_equality():
    assert FSTA_NEURON(torch.tensor([[0.5]])).item() == 0.0
    assert FSTA_NEURON(torch.tensor([[0.500001]])).item() == 1.0
    assert ASA_NEURON(torch.tensor([[0.3]])).item() == 1.0


def test_membrane_is_zero_after_a_spike():
    spikes, membranes = FSTA_NEURON.run(torch.tensor([[2.0], [0.4], [0.4]]))
    assert spikes.flatten().tolist() == [1.0, 0.0, 0.0]
    torch.testing.assert_close(membranes.flatten(), torch.tensor([2.0, 0.4, 0.5]))


def test_a_soft_reset_leaves_what_exceeds_the_threshold():
    spikes, membranes = LIF(1.0, 0.5, soft_reset=True).run(torch.tensor([[1.25], [0.0], [0.0]]))
    assert spikes.flatten().tolist() == [1.0, 1.0, 0.0]
    assert membranes.flatten().tolist() == [1.25, 0.75, 0.25]


def test_a_soft_reset_with_a_reset_value_takes_off_what_lies_between_it_and_the_threshold():
    _, membranes = LIF(1.0, 0.5, v_reset=-0.25, soft_reset=True).run(torch.tensor([[1.25], [0.0], [0.0]]))
    assert membranes.flatten().tolist() == [1.25, 0.5, 0.5]
    _, membranes = LIF(1.0, 0.5, v_reset=0.5, soft_reset=True).run(torch.tensor([[1.25], [0.0]]))
    assert membranes.flatten().tolist() == [1.25, 1.25]


@pytest.mark.parametrize("field", ["decay", "current_decay"])
def test_a_decay_beyond_one_is_refused(field):
    with pytest.raises(InputError, match=rf"{field} = 1\.25: must lie in \[0, 1\]"):
        NeuronSpec(**{"decay": 0.5, "v_threshold": 1.0, "strict": True, field: 1.25})


def test_print_shows_the_reset():
    assert "v_reset=-0.25, strict" in str(LIF(v_reset=-0.25))
    assert "soft_reset=True, strict" in str(LIF(soft_reset=True))


@pytest.mark.parametrize("neuron", [FSTA_NEURON, ASA_NEURON])
def test_static_gate_moves_into_the_threshold(neuron):
    x = torch.randn(10, 4, 50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    spec = neuron.neuron_spec()
    gated = neuron(0.625 * x)
    folded = LIF(spec.decay, spec.v_threshold / 0.625, 0.0, spec.strict)(x)
    assert torch.equal(gated, folded)


def test_teacher_decides_the_resets():
    x = torch.full((4, 1), 0.4)
    teacher = torch.tensor([[0.0], [1.0], [0.0], [0.0]])
    spikes, membranes = FSTA_NEURON.run(x, teacher)
    torch.testing.assert_close(membranes.flatten(), torch.tensor([0.4, 0.5, 0.4, 0.5]))
    assert spikes.sum() == 0


def test_teacher_forcing_with_own_spikes_changes_nothing():
    x = torch.randn(9, 2, 6, generator=torch.Generator().manual_seed(3))
    spikes, membranes = ASA_NEURON.run(x)
    again, membranes_again = ASA_NEURON.run(x, spikes)
    assert torch.equal(spikes, again)
    assert torch.equal(membranes, membranes_again)


def test_teacher_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"teacher: shape \(3, 1\)"):
        FSTA_NEURON.run(torch.zeros(4, 1), torch.zeros(3, 1))


@pytest.mark.parametrize(
    "neuron",
    [
        FSTA_NEURON,
        ASA_NEURON,
        LIF(0.5, 0.4, -0.1, False, 0.5),
        LIF(0.3, 0.3, 0.3, False, surrogate="rectangular"),
        LIF(0.25, 0.5, surrogate="window", detach_reset=True),
        LIF.from_tau(2.0, surrogate="atan", detach_reset=True),
        LIF(0.5, 1.0, surrogate="triangular"),
        LIF(0.7, 0.4, surrogate="atan", soft_reset=True),
        LIF(0.7, 0.4, surrogate="atan", soft_reset=True, detach_reset=True),
        LIF(0.7, 0.4, -0.3, surrogate="atan", soft_reset=True),
        AdaptiveLIF().double(),
        ParametricLIF(3.0).double(),
    ],
    ids=[
        "fsta",
        "asa",
        "any",
        "ma",
        "ms",
        "sma",
        "dta",
        "soft",
        "soft-detached",
        "soft-below",
        "adaptive",
        "parametric",
    ],
)
def test_backward_is_back_propagation_of_the_loop(neuron):
    """The written-out backward pass against autograd through the loop with the surrogate in place."""
    spec = neuron.neuron_spec()

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v):
            ctx.save_for_backward(v)
            return (v > spec.v_threshold if spec.strict else v >= spec.v_threshold).to(v.dtype)

        @staticmethod
        def backward(ctx, grad):
            (v,) = ctx.saved_tensors
            d = v - spec.v_threshold
            slopes = {
                "rectangular": torch.where(d.abs() < 0.25, 2.0, 0.0),
                "window": torch.where(d.abs() < 0.5, 1.0, 0.0),
                "atan": 1 / (1 + (math.pi * d) ** 2),
                "triangular": torch.where(d.abs() < 1, 1 - d.abs(), 0.0),
                "tanh": torch.where(d.abs() < 0.5, (1 - torch.tanh(d) ** 2) / (2 * math.tanh(0.5)), 0.0),
            }
            return grad * slopes[neuron.surrogate]

    generator = torch.Generator().manual_seed(4)
    x = torch.randn(8, 2, 7, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(8, 2, 7, generator=generator, dtype=torch.float64)
    kept, spikes = torch.zeros(2, 7, dtype=torch.float64), []
    decay, gain = neuron.dynamics()
    for current in x:
        v = decay * kept + gain * current
        s = Spike.apply(v)
        spikes.append(s)
        resets = s.detach() if neuron.detach_reset else s
        taken = spec.v_threshold - spec.v_reset if spec.soft_reset else v - spec.v_reset
        kept = v - taken * resets
    learned = (x, *neuron.parameters())
    expected = torch.autograd.grad((torch.stack(spikes) * weight).sum(), learned)
    found = torch.autograd.grad((neuron(x) * weight).sum(), learned)
    assert len(found) == len(learned)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
        assert one.abs().sum() > 0


def test_state_does_not_leak_between_calls():
    x = torch.full((3, 2), 0.4)
    assert torch.equal(FSTA_NEURON(x), FSTA_NEURON(x))


def test_tau_gives_decay_and_gain():
    assert LIF.from_tau(4.0, 1.0).neuron_spec() == NeuronSpec(0.75, 1.0, False, 0.0, 0.25)
    assert LIF.from_tau(4.0, 1.0, decay_input=False).neuron_spec().input_gain == 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [("decay", 1.5), ("decay", math.nan), ("v_threshold", 0.0), ("v_reset", math.inf), ("v_reset", 0.7),
     ("input_gain", math.nan), ("surrogate", "step")],
)  # fmt: skip
def test_impossible_neurons_are_refused_by_field_and_value(field, value):
    with pytest.raises(InputError, match=f"{field} = .*{value}"):
        LIF(**{field: value})


def test_tau_below_one_step_is_refused():
    with pytest.raises(InputError, match=r"tau = 0\.5"):
        LIF.from_tau(0.5)


@pytest.mark.parametrize("needs_grad", [False, True])
def test_empty_time_axis_is_refused(needs_grad):
    with pytest.raises(InputError, match="T of at least 1"):
        FSTA_NEURON(torch.zeros(0, 2, 3, requires_grad=needs_grad))
