"""What a NIR neuron means: the same node makes different neurons in different frameworks.

NIR gives differential equations and no time step. Everything here is one step of what a framework runs,

    u_t = current_decay * u_{t-1} + gain * x_t
    v_t = decay * v_{t-1} + u_t + drive                         u_{-1} = v_{-1} = 0
    s_t = [v_t > v_threshold], or >= where not strict
    v_t <- v_reset where s_t = 1; with soft_reset less by v_threshold

Where a framework starts its membranes at another value than 0 and they rest there, v is counted from that value. Rules
refuse what their framework would change or leave out without a word: those numbers mean something else to others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class RefusedError(Exception):
    """A field has a value that the dialect has no exact meaning for; turned into a FileFormatError naming the node."""


@dataclass(frozen=True)
class Meaning:
    """One step of a neuron, see the module's text; arrays are broadcastable to the neurons."""

    decay: Array
    gain: Array
    v_threshold: Array
    v_reset: Array
    strict: bool = True
    current_decay: Array | None = None
    drive: Array | None = None
    soft_reset: bool = False
    fires: bool = True


@dataclass(frozen=True)
class Parameters:
    """The numbers of one node and the step that they are read with."""

    values: Mapping[str, Array]
    dt: float
    dt_is_given: bool

    def __getitem__(self, field: str) -> Array:
        """Values of a field as float64."""
        return self.values[field]

    @property
    def zero(self) -> Array:
        """Zeros of the parameters' shape."""
        return np.zeros_like(next(iter(self.values.values())))

    def need(self, field: str, holds: Any, reason: str) -> None:
        """Refuse the node unless ``holds`` everywhere, naming the field and the first value that is in the way."""
        held = np.broadcast_to(holds, self[field].shape)
        if not held.all():
            raise RefusedError(f"{field} is {self[field][~held].flat[0]:.6g}: {reason}")

    def kept(self, field: str) -> Array:
        """Forward Euler: the share ``1 - dt / tau`` that a step leaves."""
        self.need(
            field, self[field] >= self.dt * (1 - 1e-6), f"a time constant below the step of {self.dt:g} s has no decay "
            "within 0..1; give the step that the net was made for as dt"
        )  # fmt: skip
        decay: Array = np.maximum(1 - self.dt / self[field], 0.0)
        return decay


Rule = Callable[[Parameters], Meaning]


@dataclass(frozen=True)
class Dialect:
    """How a framework reads NIR neurons: its usual step, a rule for each node, and nodes that it cannot say."""

    name: str
    dt: float
    rules: Mapping[type[Any], Rule]
    refused: Mapping[type[Any], str]
    pads_sum_pool: bool = True
    fixed_dt: bool = False


ONLY_ZERO = "{} takes it to be 0 and leaves it out; name the dialect of the program that wrote the file"


def _close(value: Array, wanted: Array | float) -> NDArray[np.bool_]:
    return np.isclose(value, wanted, rtol=1e-5, atol=1e-12)


# NIR itself: the equations of its documentation under forward Euler, synapse before membrane, strict comparison
# (nir 1.0.8, nir/ir/neuron.py and threshold.py).


def _nir_lif(p: Parameters) -> Meaning:
    share = p.dt / p["tau"]
    return Meaning(p.kept("tau"), p["r"] * share, p["v_threshold"], p["v_reset"], drive=p["v_leak"] * share)


def _nir_if(p: Parameters) -> Meaning:
    return Meaning(p.zero + 1, p["r"] * p.dt, p["v_threshold"], p["v_reset"])


def _nir_cuba_lif(p: Parameters) -> Meaning:
    gain = p["w_in"] * p.dt / p["tau_syn"] * p["r"] * p.dt / p["tau_mem"]
    p.need("v_leak", p["v_leak"] == 0, "a rest of neurons with a synaptic current must be 0")
    return Meaning(p.kept("tau_mem"), gain, p["v_threshold"], p["v_reset"], current_decay=p.kept("tau_syn"))


def _integrator(rule: Rule) -> Rule:
    """The same equations without threshold."""

    def read(p: Parameters) -> Meaning:
        fields = {**p.values, "v_threshold": p.zero, "v_reset": p.zero}
        m = rule(Parameters(fields, p.dt, p.dt_is_given))
        return Meaning(m.decay, m.gain, p.zero, p.zero, m.strict, m.current_decay, m.drive, fires=False)

    return read


def _threshold(p: Parameters) -> Meaning:
    return Meaning(p.zero, p.zero + 1, p["threshold"], p.zero)


NIR_RULES: Mapping[type[Any], Rule] = {
    nir.LIF: _nir_lif,
    nir.IF: _nir_if,
    nir.CubaLIF: _nir_cuba_lif,
    nir.LI: _integrator(_nir_lif),
    nir.I: _integrator(_nir_if),
    nir.CubaLI: _integrator(_nir_cuba_lif),
    nir.Threshold: _threshold,
}


# snnTorch 1.0.0, snntorch/import_nir.py: dt = 1e-4 in the code; beta = 1 - dt/tau; the input is added as it is, and
# where r dt/tau is not 1, the threshold is divided by it; reset to 0 at once. Its exporter does not write the reset
# mechanism: a file of neurons that subtract reads back as reset to 0, there and here.


def _snntorch_common(p: Parameters) -> None:
    p.need("v_leak", p["v_leak"] == 0, "snnTorch refuses a rest that is not 0")
    p.need("v_reset", p["v_reset"] == 0, ONLY_ZERO.format("snnTorch"))


def _one_scale(p: Parameters, field: str, scale: Array) -> Array:
    if np.allclose(scale, 1.0):
        return p.zero + 1
    same = _close(scale, float(scale.flat[0]))
    p.need(field, same, "snnTorch scales all neurons by the factor of one; it must be the same")
    return scale


def _snntorch_lif(p: Parameters) -> Meaning:
    _snntorch_common(p)
    gain = _one_scale(p, "r", p["r"] * p.dt / p["tau"])
    return Meaning(p.kept("tau"), gain, p["v_threshold"], p.zero)


def _snntorch_cuba_lif(p: Parameters) -> Meaning:
    _snntorch_common(p)
    p.need("r", _close(p["r"], p["tau_mem"] / p.dt), "snnTorch refuses CubaLIF unless r is tau_mem / dt")
    gain = _one_scale(p, "w_in", p["w_in"] * p.dt / p["tau_syn"])
    return Meaning(p.kept("tau_mem"), gain, p["v_threshold"], p.zero, current_decay=p.kept("tau_syn"))


# Norse 1.1.0, norse/torch/utils/{import,export}_nir.py and functional/lif{,_box}.py, iaf.py: v starts at v_leak and
# goes 1/tau of the way to v_leak + x; r and v_reset are read by nothing. Its exporter writes dt / tau_mem_inv where the
# time constant 1 / tau_mem_inv belongs, so a constant below dt is one of those and means itself over dt. Its LIFCell
# lets the current jump by x; what its importer makes of CubaLIF filters x first.


def _norse_common(p: Parameters) -> None:
    p.need("r", p["r"] == 1, "Norse takes it to be 1; name the dialect of the program that wrote the file")
    if "v_reset" in p.values:
        p.need("v_reset", p["v_reset"] == 0, ONLY_ZERO.format("Norse"))


def _norse_lost(p: Parameters, field: str) -> tuple[Array, bool]:
    """The share that a step loses, and whether Norse 1.1.0 wrote the constant."""
    tau = p[field]
    written = bool((tau < p.dt * (1 - 1e-6)).all())
    lost = p.dt / (tau / p.dt if written else tau)
    p.need(
        field, (lost >= 0) & (lost <= 1 + 1e-6), f"neither a time constant of a step of {p.dt:g} s or more nor what "
        "Norse 1.1.0 writes for one; give the step of the net as dt"
    )  # fmt: skip
    return np.minimum(lost, 1.0), written


def _from_rest(p: Parameters, decay: Array, gain: Array, current_decay: Array | None = None) -> Meaning:
    rest = p["v_leak"]
    return Meaning(decay, gain, p["v_threshold"] - rest, p["v_reset"] - rest, current_decay=current_decay)


def _norse_lif(p: Parameters) -> Meaning:
    _norse_common(p)
    lost, _ = _norse_lost(p, "tau")
    return _from_rest(p, 1 - lost, lost)


def _norse_li(p: Parameters) -> Meaning:
    p.need("v_leak", p["v_leak"] == 0, "the rest of an integrator must be 0")
    return _integrator(_norse_lif)(p)


def _norse_if(p: Parameters) -> Meaning:
    _norse_common(p)
    return Meaning(p.zero + 1, p.zero + 1, p["v_threshold"], p.zero)


def _norse_cuba_lif(p: Parameters) -> Meaning:
    _norse_common(p)
    (membrane, written), (synapse, also) = _norse_lost(p, "tau_mem"), _norse_lost(p, "tau_syn")
    p.need("tau_syn", written == also, "tau_mem and tau_syn are not written by the same version of Norse")
    if written:
        return _from_rest(p, 1 - membrane, membrane * p["w_in"], 1 - synapse)
    p.need("v_leak", p["v_leak"] == 0, "Norse lets the synaptic current rest there, too; it must be 0")
    return _from_rest(p, 1 - membrane, membrane * synapse * p["w_in"], 1 - synapse)


# SpikingJelly 2.0.0, activation_based/nir_exchange/from_nir.py: r = 1 is decay_input, r = tau/dt is none, all else an
# error; v starts and rests at v_reset; a spike at equality (surrogate functions take heaviside(0) to be 1).


def _spikingjelly_lif(p: Parameters) -> Meaning:
    steps = p["tau"] / p.dt
    p.need("tau", steps > 1, f"SpikingJelly needs more than one step of {p.dt:g} s")
    whole = _close(p["r"], steps)
    p.need("r", whole | _close(p["r"], 1.0), "SpikingJelly reads 1 or tau / dt")
    p.need("v_leak", _close(p["v_leak"], p["v_reset"]), "SpikingJelly needs v_leak equal to v_reset")
    gain = np.where(whole, 1.0, 1 / steps)
    return Meaning(1 - 1 / steps, gain, p["v_threshold"] - p["v_reset"], p.zero, strict=False)


def _spikingjelly_if(p: Parameters) -> Meaning:
    p.need("r", _close(p["r"], 1 / p.dt), "SpikingJelly needs 1 / dt")
    return Meaning(p.zero + 1, p.zero + 1, p["v_threshold"] - p["v_reset"], p.zero, strict=False)


def _spikingjelly_cuba_lif(p: Parameters) -> Meaning:
    p.need("r", _close(p["r"], p["tau_mem"] / p.dt), "SpikingJelly needs tau_mem / dt")
    p.need("w_in", _close(p["w_in"], p["tau_syn"] / p.dt), "SpikingJelly needs tau_syn / dt")
    p.need("v_leak", p["v_leak"] == 0, "SpikingJelly needs 0")
    p.need("v_reset", p["v_reset"] == 0, "SpikingJelly starts membranes there while they rest at 0; it must be 0")
    return Meaning(
        p.kept("tau_mem"), p.zero + 1, p["v_threshold"], p.zero, strict=False, current_decay=p.kept("tau_syn")
    )  # fmt: skip


# sinabs 3.1.3, sinabs/nir.py: tau counts steps, decay exp(-1/tau), the input is added as it is, a spike at equality
# takes the threshold off. By default several spikes a step, and IF neurons never fall below -threshold.


def _sinabs_common(p: Parameters) -> None:
    p.need("r", p["r"] == 1, "sinabs takes it to be 1; name the dialect of the program that wrote the file")
    if "v_leak" in p.values:
        p.need("v_leak", p["v_leak"] == 0, "sinabs refuses a rest that is not 0")
    if "v_reset" in p.values:
        p.need("v_reset", p["v_reset"] == 0, ONLY_ZERO.format("sinabs"))
    if "tau" in p.values:
        p.need("tau", p["tau"] > 0, "a time constant in steps is above 0")


def _sinabs_lif(p: Parameters) -> Meaning:
    _sinabs_common(p)
    return Meaning(np.exp(-1 / p["tau"]), p.zero + 1, p["v_threshold"], p.zero, strict=False, soft_reset=True)


def _sinabs_if(p: Parameters) -> Meaning:
    _sinabs_common(p)
    return Meaning(p.zero + 1, p.zero + 1, p["v_threshold"], p.zero, strict=False, soft_reset=True)


# Rockpool 3.1.0, rockpool/nn/modules/torch/{nir,lif_torch}.py: decays exp(-dt/tau) with dt = min tau_mem / (1 + r); the
# input joins the current before it decays; a spike takes the threshold off; w_in is read by nothing.


def _rockpool_cuba_lif(p: Parameters) -> Meaning:
    p.need("v_leak", p["v_leak"] == 0, "Rockpool adds it as a bias to the membrane; it must be 0")
    p.need("v_reset", p["v_reset"] == 0, ONLY_ZERO.format("Rockpool"))
    p.need("w_in", p["w_in"] == 1, "Rockpool takes it to be 1; name the dialect of the program that wrote the file")
    for field in ("tau_mem", "tau_syn"):
        p.need(field, p[field] > 0, "a time constant is above 0")
    p.need("r", p["r"] > -1, "Rockpool reads its step as tau_mem / (1 + r)")
    dt = p.dt if p.dt_is_given else float((p["tau_mem"] / (1 + p["r"])).min())
    synapse = np.exp(-dt / p["tau_syn"])
    return Meaning(
        np.exp(-dt / p["tau_mem"]), synapse, p["v_threshold"], p.zero, current_decay=synapse, soft_reset=True
    )  # fmt: skip


SEVERAL = (
    "{0} lets neurons send several spikes a step and takes the threshold off for each; no chip neuron does. Where the "
    "net runs with one spike a step at most ({1}), read it with the dialect '{2}'"
)
_SINABS = SEVERAL.format("sinabs", "spike_fn=SingleSpike, min_v_mem=None", "sinabs-single-spike")
_ROCKPOOL = SEVERAL.format("Rockpool", "max_spikes_per_dt=1", "rockpool-single-spike")
_NO_CUBA = "sinabs has no reader for it and would leave it out"
_NO_ROCKPOOL = "Rockpool has no reader for it"
_SINABS_SINGLE = {nir.LIF: _sinabs_lif, nir.IF: _sinabs_if, nir.LI: _integrator(_sinabs_lif)}
_SINABS_REFUSED = {nir.CubaLIF: _NO_CUBA, nir.CubaLI: _NO_CUBA, nir.I: _NO_CUBA, nir.Threshold: _NO_CUBA}
_ROCKPOOL_REFUSED = {t: _NO_ROCKPOOL for t in (nir.LIF, nir.IF, nir.I, nir.CubaLI, nir.Threshold)} | {
    nir.LI: "Rockpool cuts its time constant to a whole number"
}

DIALECTS: Mapping[str, Dialect] = {
    d.name: d
    for d in (
        Dialect("nir", 1e-4, NIR_RULES, {}),
        Dialect(
            "snntorch", 1e-4, {**NIR_RULES, nir.LIF: _snntorch_lif, nir.CubaLIF: _snntorch_cuba_lif},
            {nir.IF: "snnTorch makes a neuron of decay 0.9 of it; it writes none itself"}, fixed_dt=True,
        ),
        Dialect(
            "norse", 1e-3,
            {**NIR_RULES, nir.LIF: _norse_lif, nir.IF: _norse_if, nir.CubaLIF: _norse_cuba_lif, nir.LI: _norse_li},
            {nir.CubaLI: "Norse has no reader for it and would leave it out"}, pads_sum_pool=False,
        ),
        Dialect(
            "spikingjelly", 1e-4,
            {**NIR_RULES, nir.LIF: _spikingjelly_lif, nir.IF: _spikingjelly_if, nir.CubaLIF: _spikingjelly_cuba_lif},
            {},
        ),
        Dialect(
            "sinabs", 1.0, {nir.LI: _SINABS_SINGLE[nir.LI]}, {**_SINABS_REFUSED, nir.LIF: _SINABS, nir.IF: _SINABS},
            pads_sum_pool=False,
        ),
        Dialect("sinabs-single-spike", 1.0, _SINABS_SINGLE, _SINABS_REFUSED, pads_sum_pool=False),
        Dialect("rockpool", 1.0, {}, {**_ROCKPOOL_REFUSED, nir.CubaLIF: _ROCKPOOL}),
        Dialect("rockpool-single-spike", 1.0, {nir.CubaLIF: _rockpool_cuba_lif}, _ROCKPOOL_REFUSED),
    )
}  # fmt: skip
"""The table: for each framework what its neurons mean; nodes without a rule of their own mean what NIR says."""
