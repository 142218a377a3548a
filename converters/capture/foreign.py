"""Neurons of other frameworks, known by the qualified names of their classes; none of the frameworks is imported.

Each reader says, exactly, what a module of snnTorch 1.0, SpikingJelly 2.0 or Norse 1.1 computes:

- snnTorch resets one step late (``reset_delay``): ``v_t = beta v_{t-1} + x_t - theta s_{t-1}``. A soft reset that takes
  ``theta / beta`` off before the decay is the same, and a late reset to zero of `Leaky` is the plain one.
- SpikingJelly leaks towards ``v_reset`` and starts there: measured from ``v_reset``, it leaks towards 0.
- Norse leaks towards ``v_leak`` and starts there; a ``LIFCell`` adds its input to the current that the membrane reads.

Whatever a `NeuronSpec` cannot say is refused, naming field and value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikefold.converters.capture.values import NeuronArrays
from spikefold.errors import CaptureError, InputError
from spikefold.models.lif import NeuronSpec

NORSE_STEPS = ("heaviside", "super", "triangle", "tanh", "circ", "heavi_erfc")
"""Spike functions of Norse that are a step at 0 when they run forward."""
NORSE = "norse.torch.module."
SPIKINGJELLY = "spikingjelly.activation_based.neuron."
SNNTORCH = "snntorch._neurons."
FAMILIES = (
    *(f"{SNNTORCH}neurons.{name}" for name in ("SpikingNeuron", "LIF")),
    *(f"{SPIKINGJELLY}base_node.{name}" for name in ("BaseNode", "SimpleBaseNode", "NonSpikingBaseNode")),
    *(f"{NORSE}snn.{name}" for name in ("SNN", "SNNCell", "SNNRecurrent", "SNNRecurrentCell")),
)
"""Base classes: what is derived from one and has no reader is a neuron that cannot be captured."""


@dataclass(frozen=True)
class ForeignNeuron:
    """A neuron module of another framework.

    Attributes
    ----------
    spec : NeuronSpec or NeuronArrays
        What it computes.
    per_step : bool
        Whether one call is one step, on ``[B, ...]``; otherwise the whole clip, on ``[T, B, ...]``.
    states : tuple of str
        Names of its states.
    returns_states : bool
        Whether it returns them beside its spikes: as one named tuple if they are ``packed``, one by one otherwise.
    packed : bool
        See ``returns_states``.
    height : float
        The number it sends as a spike.
    """

    spec: NeuronSpec | NeuronArrays
    per_step: bool
    states: tuple[str, ...] = ()
    returns_states: bool = False
    packed: bool = False
    height: float = 1.0


def recognise(module: nn.Module, path: str) -> ForeignNeuron | None:
    """What ``module`` computes, if it is a neuron of another framework; CaptureError where that cannot be said."""
    names = [f"{c.__module__}.{c.__qualname__}" for c in type(module).__mro__]
    reader = READERS.get(names[0])
    try:
        if reader is not None:
            return reader(module)
        known = next((name for name in names if name in READERS or name in FAMILIES), None)
        if known is not None:
            readable = ", ".join(name.rpartition(".")[2] for name in READERS)
            raise InputError(
                f"a {known} this version cannot read; it reads {readable}, and any module with a neuron_spec()"
            )
    except InputError as error:
        raise CaptureError(f"{path or 'the module itself'} ({type(module).__name__}): {error}") from error
    return None


def is_lift(module: nn.Module) -> bool:
    """Whether ``module`` is Norse's ``Lift``, which calls the module inside it on every step of a clip."""
    return f"{type(module).__module__}.{type(module).__qualname__}" == f"{NORSE}lift.Lift"


def _leaky(module: Any) -> ForeignNeuron:
    return _snntorch(module, 0.0, ("mem",))


def _synaptic(module: Any) -> ForeignNeuron:
    if _resets(module) == "zero" and module.reset_delay:
        raise InputError(
            "reset_mechanism = 'zero' with reset_delay = True: Synaptic zeroes the step after a spike as a whole, its "
            "input included, which no LIF does; use reset_delay = False or 'subtract'"
        )
    return _snntorch(module, _number(module.alpha.clamp(0, 1)), ("syn", "mem"))


def _snntorch(module: Any, current_decay: float | NDArray[np.float64], states: tuple[str, ...]) -> ForeignNeuron:
    for name in ("inhibition", "state_quant"):
        if getattr(module, name):
            raise InputError(f"{name} = {getattr(module, name)}: cannot be said of a LIF; leave it off")
    _check_step(module.spike_grad, False, "spike_grad")
    decay, threshold = _number(module.beta.clamp(0, 1)), _number(module.threshold)
    reset: float | NDArray[np.float64] = 0.0
    how = _resets(module)
    if how == "none":
        reset = threshold
    elif how == "subtract" and not module.reset_delay:
        raise InputError(
            "reset_delay = False with reset_mechanism = 'subtract': resets twice where a spike leaves more than the "
            "threshold; use reset_delay = True or 'zero'"
        )
    elif how == "subtract":
        if not np.all(np.asarray(decay) > 0):
            raise InputError("beta = 0 with reset_mechanism = 'subtract': resets a membrane that is already gone")
        reset = threshold * (1.0 - 1.0 / decay)
    spec = _spec(
        decay=decay, v_threshold=threshold, strict=True, v_reset=reset, soft_reset=how != "zero",
        current_decay=current_decay,
    )  # fmt: skip
    height = _one(module.graded_spikes_factor, "graded_spikes_factor")
    return ForeignNeuron(spec, True, states, module.output or not module.init_hidden, height=height)


def _resets(module: Any) -> str:
    return ("subtract", "zero", "none")[int(module.reset_mechanism_val)]


def _if_node(module: Any) -> ForeignNeuron:
    return _spikingjelly(module, 1.0, 1.0)


def _lif_node(module: Any) -> ForeignNeuron:
    return _spikingjelly(module, 1.0 - 1.0 / module.tau, 1.0 / module.tau if module.decay_input else 1.0)


def _parametric_lif_node(module: Any) -> ForeignNeuron:
    rate = float(torch.sigmoid(module.w.detach().double()))
    return _spikingjelly(module, 1.0 - rate, rate if module.decay_input else 1.0)


def _spikingjelly(module: Any, decay: float, gain: float) -> ForeignNeuron:
    _check_step(module.surrogate_function, True, "surrogate_function")
    if module._neuron_precision is not None:
        raise InputError(f"neuron precision = {module._neuron_precision}: rounds its states; leave it unset")
    rest = 0.0 if module.v_reset is None else float(module.v_reset)
    spec = _spec(
        decay=decay, v_threshold=float(_one(module.v_threshold, "v_threshold")) - rest, strict=False,
        input_gain=gain, soft_reset=module.v_reset is None,
    )  # fmt: skip
    return ForeignNeuron(spec, module.step_mode == "s", ("v",))


def _norse_lif(module: Any) -> ForeignNeuron:
    if module.record_states:
        raise InputError("record_states = True: returns the states of all steps; leave it off")
    return _norse(module, 1.0 - _number(module.dt * module.p.tau_syn_inv), ("v", "i"), per_step=False)


def _norse_lif_cell(module: Any) -> ForeignNeuron:
    return _norse(module, 1.0 - _number(module.dt * module.p.tau_syn_inv), ("v", "i"))


def _norse_box_cell(module: Any) -> ForeignNeuron:
    how = module.p.reset_method.__name__
    if how not in ("reset_value", "reset_subtract"):
        raise InputError(f"reset_method = {how}: reset_value or reset_subtract can be read")
    return _norse(module, 0.0, ("v",), soft=how == "reset_subtract")


def _norse(
    module: Any, current_decay: float | NDArray[np.float64], states: tuple[str, ...], per_step: bool = True,
    soft: bool = False,
) -> ForeignNeuron:  # fmt: skip
    p = module.p
    if p.method not in NORSE_STEPS:
        raise InputError(f"method = {p.method!r}: must be one of {', '.join(NORSE_STEPS)}")
    if soft and _one(p.v_leak, "v_leak") != 0.0:
        raise InputError(f"v_leak = {float(p.v_leak)} with reset_subtract: takes v_th off, not v_th - v_leak")
    gain, leak = _number(module.dt * p.tau_mem_inv), _number(p.v_leak)
    spec = _spec(
        decay=1.0 - gain, v_threshold=_number(p.v_th) - leak, strict=True, input_gain=_one(gain, "tau_mem_inv"),
        v_reset=0.0 if soft else _number(p.v_reset) - leak, soft_reset=soft, current_decay=current_decay,
    )  # fmt: skip
    return ForeignNeuron(spec, per_step, states, returns_states=True, packed=True)


def _spec(**fields: Any) -> NeuronSpec | NeuronArrays:
    """A `NeuronSpec`, or arrays where neurons of one module differ; each neuron's numbers are checked."""
    arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
    if not arrays:
        return NeuronSpec(**fields)
    for one in np.nditer(list(arrays.values())):
        values = (float(x) for x in (one if isinstance(one, tuple) else (one,)))
        NeuronSpec(**{**fields, **dict(zip(arrays, values, strict=True))})
    return NeuronArrays(**fields)


def spread(path: str, spec: NeuronArrays, features: tuple[int, ...], shape: tuple[int, ...]) -> NeuronArrays:
    """Numbers of neurons that differ, given for ``features``, one for each of a population of ``shape``."""
    given = {name: value for name, value in vars(spec).items() if isinstance(value, np.ndarray)}
    try:
        arrays: dict[str, Any] = {n: np.broadcast_to(a, features).reshape(shape).copy() for n, a in given.items()}
        return replace(spec, **arrays)
    except ValueError as error:
        raise CaptureError(f"{path}: numbers of each neuron do not fit its current {features}: {error}") from error


def _check_step(function: Callable[[Tensor], Tensor], at_zero: bool, name: str) -> None:
    """Refuse spikes that are not a step at 0: smooth ones, ones of several levels, random ones."""
    probe = torch.tensor([-4.0, -0.5, -1e-6, 0.0, 1e-6, 0.5, 4.0])
    with torch.no_grad():
        sent = [function(probe).double() for _ in range(2)]
    wanted = ((probe >= 0) if at_zero else (probe > 0)).double()
    if not all(torch.equal(s, wanted) for s in sent):
        raise InputError(f"{name} = {function}: sends {sent[0].tolist()} for {probe.tolist()}, which is no step at 0")


def _number(value: Any) -> float | NDArray[np.float64]:
    """A tensor as one number, or as an array where its elements differ."""
    array = torch.as_tensor(value).detach().double().numpy()
    return float(array.flat[0]) if bool((array == array.flat[0]).all()) else array


def _one(value: Any, name: str) -> float:
    number = _number(value)
    if isinstance(number, np.ndarray):
        raise InputError(f"{name} holds {number.size} numbers that differ: one for all neurons of a module is needed")
    return number


READERS: dict[str, Callable[[Any], ForeignNeuron]] = {
    f"{SNNTORCH}leaky.Leaky": _leaky,
    f"{SNNTORCH}synaptic.Synaptic": _synaptic,
    f"{SPIKINGJELLY}integrate_and_fire.IFNode": _if_node,
    f"{SPIKINGJELLY}lif.LIFNode": _lif_node,
    f"{SPIKINGJELLY}plif.ParametricLIFNode": _parametric_lif_node,
    f"{NORSE}lif.LIF": _norse_lif,
    f"{NORSE}lif.LIFCell": _norse_lif_cell,
    f"{NORSE}lif_box.LIFBoxCell": _norse_box_cell,
}
