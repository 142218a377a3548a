"""The papers' energy of a network as written, from shapes alone: no weights, no data, the firing rate a parameter.

    E = E_AC * rate * M_spiking + E_MAC * M_first + E_attention

``M_first`` are the multiply-accumulates of the layer that reads the input, ``M_spiking`` those of all others, both for
a whole clip (Yao et al., TPAMI 2023, with E_AC and E_MAC of Horowitz, ISSCC 2014); the papers leave ``E_attention``
out. The price itself is that of `spikefold.deploy.price`, family *operations*, so that there is one formula.

Counting runs the network on shapes (``torch.device("meta")`` will do) and reads every torch operation: outside
attention those of convolutions and matrix products, which are the layers; inside attention all of them. Neurons are
not counted, and batch norm folds into the convolution before it. What one operation on a tensor is made of:

- a multiply-accumulate, also over the padding, as papers count: one multiply and one addition;
- a mean: the additions of its sum and one multiply; a maximum of n values: n - 1 comparisons; ReLU: one comparison;
- sigmoid, exponential, reciprocal, reciprocal root: one look-up; a quotient by a computed number: a look-up and a
  multiply; ranking n values: ``n * ceil(log2 n)`` comparisons, as `spikefold.deploy.count.gate_activity` has it;
- moving, joining and repeating numbers: nothing.

An operation that is none of these is refused rather than taken for free.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from spikefold.deploy.activity import Activity, GateActivity, LayerActivity, SynapseActivity
from spikefold.deploy.hardware import load_hardware
from spikefold.deploy.price import Price, price
from spikefold.errors import InputError

Totals = dict[str, float]
_Rule = Callable[[Sequence[Any], Any], Totals]
_Role = Literal["layer", "attention", "neuron"]


@dataclass(frozen=True)
class PaperCounts:
    """Operations of a network for one clip.

    Attributes
    ----------
    time_steps : int
        Steps of the clip.
    macs : mapping
        Multiply-accumulates of the clip by layer, attention's own left out, in the order of their first call: the
        first reads the input.
    attention : GateActivity, optional
        Operations inside attention, without a buffer; None where no attention module was called.
    """

    time_steps: int
    macs: Mapping[str, float]
    attention: GateActivity | None

    @property
    def first_macs(self) -> float:
        """Multiply-accumulates of the layer that reads the input."""
        return next(iter(self.macs.values()))

    @property
    def spiking_macs(self) -> float:
        """Those of all other layers."""
        return sum(self.macs.values()) - self.first_macs


def paper_counts(network: nn.Module, clip: torch.Tensor, attention: tuple[type[nn.Module], ...]) -> PaperCounts:
    """Count the operations of one clip.

    Parameters
    ----------
    network : nn.Module
        Takes ``[T, B, ...]``; on any device, also ``meta``. It is run in eval mode and left in the mode it was in.
    clip : torch.Tensor
        One clip, ``[T, 1, ...]``, on the same device.
    attention : tuple of types
        Classes of the modules whose operations are the attention's, neurons inside them apart. A neuron is what has a
        ``neuron_spec``.

    Raises
    ------
    InputError
        More than one clip, no layer at all, or an operation inside attention that has no count.
    """
    if clip.dim() < 3 or clip.shape[1] != 1:
        raise InputError(f"clip: shape {tuple(clip.shape)}; give one clip, [T, 1, ...]")
    counter = _Counter()
    training = network.training
    with torch.no_grad(), _watched(network, attention, counter):
        try:
            network.eval()(clip)
        finally:
            network.train(training)
    if not counter.macs:
        raise InputError(f"{type(network).__name__}: no convolution and no matrix product outside attention")
    own = counter.attention
    found = GateActivity(own["multiplies"], own["additions"], own["comparisons"], own["lookups"]) if own else None
    return PaperCounts(clip.shape[0], dict(counter.macs), found)


def paper_price(counts: PaperCounts, rate: float, table: str = "cmos45") -> Price:
    """Price a clip at a firing rate that all spiking layers see.

    Parameters
    ----------
    counts : PaperCounts
        From `paper_counts`.
    rate : float
        Spikes a source neuron and step, in [0, 1].
    table : str
        A description of the family *operations*.

    Returns
    -------
    Price
        With ``total``, attention's operations included, and ``total_without_attention``, as papers state it.
    """
    if not 0.0 <= rate <= 1.0:
        raise InputError(f"rate = {rate}; spikes a neuron and step lie in [0, 1]")
    hardware = load_hardware(table)
    if hardware.family != "operations":
        raise InputError(f"{table}: is of family {hardware.family!r}; the papers' formula takes 'operations'")
    return price(_as_activity(counts, rate), hardware)


def break_even(counts: PaperCounts, table: str = "cmos45") -> float:
    """Return by how much the firing rate must fall for attention to pay for its own operations.

    ``E_attention / (E_AC * M_spiking)``, in spikes a neuron and step: an absolute difference of rates, whatever the
    rate was. Where it is more than the rate without attention, not even silence would pay. 0 without attention;
    infinite where attention sits in a network of one layer.
    """
    silent, busy = paper_price(counts, 0.0, table), paper_price(counts, 1.0, table)
    own, accumulates = silent.total.value - _stated(silent), _stated(busy) - _stated(silent)
    if not own:
        return 0.0
    return own / accumulates if accumulates else math.inf


def _stated(priced: Price) -> float:
    """Return the energy as papers state it [J]."""
    energy = priced.total_without_attention
    return 0.0 if energy is None else energy.value


def _as_activity(counts: PaperCounts, rate: float) -> Activity:
    """Put the counts where the *operations* family reads them; spikes and synaptic operations stay 0, it reads none."""
    names = list(counts.macs)
    layers = tuple(
        LayerActivity(name, 0, 0.0, 0.0, gate=counts.attention if name == names[0] else None) for name in names
    )
    synapses = tuple(
        SynapseActivity(
            source="input" if name == names[0] else "spikes",
            target=name,
            kind="conv",
            synapses=0,
            stored_weights=0,
            synops=0.0,
            fan_in=0,
            torch_macs=counts.macs[name] / counts.time_steps,
            source_rate=rate,
            payload_bits=32 if name == names[0] else 0,
        )
        for name in names
    )
    mode = "none" if counts.attention is None else "dynamic"
    return Activity("as written", mode, 1, counts.time_steps, 0, 0.0, layers, synapses)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Read every operation and give it to whoever runs: a layer, attention or a neuron."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inside: list[tuple[str, _Role]] = []
        self.macs: defaultdict[str, float] = defaultdict(float)
        self.attention: defaultdict[str, float] = defaultdict(float)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name, role = self.inside[-1] if self.inside else ("", "layer")
        operation = func.overloadpacket
        if role == "layer" and operation in _PRODUCTS:
            self.macs[name] += _PRODUCTS[operation](args, result)["multiplies"]
        elif role == "attention" and not func.is_view and operation not in _FREE:
            if operation not in _RULES:
                raise InputError(f"{name}: {func} inside attention has no count; count it in `paper_energy._RULES`")
            for kind, count in _RULES[operation](args, result).items():
                self.attention[kind] += count
        return result


@contextmanager
def _watched(network: nn.Module, attention: tuple[type[nn.Module], ...], counter: _Counter) -> Iterator[None]:
    """Tell the counter which module runs while it listens; innermost neuron or attention first, else a layer."""

    def enter(name: str, module: nn.Module) -> None:
        role: _Role = counter.inside[-1][1] if counter.inside else "layer"
        if hasattr(module, "neuron_spec"):
            role = "neuron"
        elif isinstance(module, attention):
            role = "attention"
        counter.inside.append((name, role))

    handles = []
    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, _, name=name: enter(name, m)))
        handles.append(module.register_forward_hook(lambda *_: counter.inside.pop() and None))
    try:
        with counter:
            yield
    finally:
        for handle in handles:
            handle.remove()


def _products(out: torch.Tensor, taps: int, biased: bool = False) -> Totals:
    macs = float(out.numel() * taps)
    return {"multiplies": macs, "additions": macs + (out.numel() if biased else 0)}


def _convolution(args: Sequence[Any], out: torch.Tensor) -> Totals:
    return _products(out, args[1][0].numel(), biased=args[2] is not None)


def _divide(args: Sequence[Any], out: torch.Tensor) -> Totals:
    computed = float(args[1].numel()) if isinstance(args[1], torch.Tensor) else 0.0
    return {"multiplies": float(out.numel()), "lookups": computed}


def _softmax(args: Sequence[Any], out: torch.Tensor) -> Totals:
    """Take the maximum off, exponentials, their sum, its reciprocal, and a product each."""
    values, rows = float(out.numel()), out.numel() / out.shape[args[1]]
    return {
        "comparisons": values - rows,
        "additions": values + (values - rows),
        "lookups": values + rows,
        "multiplies": values,
    }


def _layer_norm(args: Sequence[Any], out: tuple[torch.Tensor, ...]) -> Totals:
    """Mean, differences, mean of their squares, reciprocal root, products, then scale and offset."""
    values, rows = float(out[0].numel()), float(out[0].numel() / math.prod(args[1]))
    return {
        "multiplies": 3 * values + 2 * rows,
        "additions": 2 * (values - rows) + values + rows + values,
        "lookups": rows,
    }


def _each(kind: str) -> _Rule:
    return lambda args, out: {kind: float(out.numel())}


def _reduce(kind: str) -> _Rule:
    return lambda args, out: {kind: float(args[0].numel() - out.numel())}


_aten = torch.ops.aten
_PRODUCTS: dict[Any, _Rule] = {
    _aten.convolution: _convolution,
    _aten.mm: lambda args, out: _products(out, args[0].shape[-1]),
    _aten.bmm: lambda args, out: _products(out, args[0].shape[-1]),
    _aten.addmm: lambda args, out: _products(out, args[1].shape[-1], biased=True),
}
_RULES: dict[Any, _Rule] = {
    **_PRODUCTS,
    _aten.add: _each("additions"),
    _aten.sub: _each("additions"),
    _aten.rsub: _each("additions"),
    _aten.mul: _each("multiplies"),
    _aten.div: _divide,
    _aten.sum: _reduce("additions"),
    _aten.mean: lambda args, out: {**_reduce("additions")(args, out), **_each("multiplies")(args, out)},
    _aten.amax: _reduce("comparisons"),
    _aten.relu: _each("comparisons"),
    _aten.sigmoid: _each("lookups"),
    _aten._softmax: _softmax,
    _aten.native_layer_norm: _layer_norm,
    torch.ops.spikefold.topk_mask: lambda args, out: {
        "comparisons": float(out.numel() * math.ceil(math.log2(max(out.shape[args[2]], 2))))
    },
}
_FREE = {_aten.cat, _aten.stack, _aten.clone, _aten._unsafe_view, _aten.empty, _aten.native_batch_norm}
"""What moves numbers or makes room for them, and batch norm, which folds away."""
