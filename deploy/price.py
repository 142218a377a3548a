"""Price an inference: counts times sourced constants, one family of model at a time.

Families are never blended and compare only within themselves.

*operations* (45 nm, as the papers): ``E = E_AC * sum(T * r * MACs) + E_MAC * sum(T * MACs)``, the first sum over
connections with binary sources (``r``: mean spikes per source neuron and step), the second, dense, over graded sources
(Yao et al., TPAMI 2023; Horowitz, ISSCC 2014 for ``E_AC`` = fp32 add and ``E_MAC`` = fp32 multiply + add). Attention is
in ``total`` (multiplies as fp32 multiplies, additions and comparisons as fp32 additions, a look-up as one access of the
smallest SRAM; the buffer's traffic is left out like all memory traffic) and out of ``total_without_attention``. The
shift and the clip of a relay count as one addition each.

*chip*: see `spikefold.deploy.price_chip`. *memory*: see `spikefold.deploy.lemaire`.
"""

from __future__ import annotations

from pathlib import Path

from spikefold.deploy.activity import Activity
from spikefold.deploy.hardware import ChipHardware, Hardware, LimitsHardware, OperationsHardware, load_hardware
from spikefold.deploy.mapping.layout import Mapping
from spikefold.deploy.mapping.mapper import map_net
from spikefold.deploy.price_chip import price_counts, price_mapped
from spikefold.deploy.price_record import GATE_PROCESSOR, Price, PriceLine, silence_notes
from spikefold.deploy.run import Run
from spikefold.errors import HardwareConfigError, InputError

__all__ = ["GATE_PROCESSOR", "Price", "PriceLine", "check_activity", "check_priced", "price"]


def price(counted: Run | Activity, hardware: Hardware | str | Path, mapping: Mapping | None = None) -> Price:
    """Price one inference.

    Parameters
    ----------
    counted
        A run, or the counts of one, mean per sample. On a chip, counts alone give synaptic operations and updates, a
        lower bound: which messages travel how far, how many cores work, and so how long, is known of a run only.
    hardware
        What `load_hardware` gives, or what it takes; its family selects the model.
    mapping
        The run's net on that chip, where `map_net` has made it already.

    Raises
    ------
    InputError
        The activity has no time step, or a connection into a layer that it does not list; or the mapping is of another
        net or chip.
    HardwareConfigError
        The description holds limits only.
    """
    hardware = check_priced(load_hardware(hardware) if isinstance(hardware, str | Path) else hardware)
    run, activity = (counted, counted.activity) if isinstance(counted, Run) else (None, counted)
    check_activity(activity)
    if isinstance(hardware, OperationsHardware):
        return _price_operations(activity, hardware)
    if run is None:
        return price_counts(activity, hardware)
    mapping = map_net(run.graph, hardware) if mapping is None else mapping
    _check_mapping(run, mapping, hardware.name)
    return price_mapped(run, hardware, mapping)


def check_priced(hardware: Hardware) -> ChipHardware | OperationsHardware:
    """Give the description back, or refuse it for having no energies (HardwareConfigError)."""
    if isinstance(hardware, LimitsHardware):
        raise HardwareConfigError(
            f"{hardware.name}: has limits only, no energy per operation of it is agreed on; price on another chip, or "
            "write a file of your own with 'family: chip' and sources for its energies. `spikefold map` says whether a "
            "net keeps its limits"
        )
    return hardware


def check_activity(activity: Activity) -> None:
    """Refuse an activity without time steps, or with a connection into a layer that it does not list (InputError)."""
    if activity.time_steps < 1:
        raise InputError(f"activity {activity.name!r}: time_steps is {activity.time_steps}; give the steps of one clip")
    names = {layer.name for layer in activity.layers}
    for synapse in activity.synapses:
        if synapse.target not in names:
            raise InputError(
                f"activity {activity.name!r}: connection {synapse.source!r} -> {synapse.target!r} has no such target; "
                f"the layers are {sorted(names)}"
            )


def _check_mapping(run: Run, mapping: Mapping, chip: str) -> None:
    if mapping.hardware != chip:
        raise InputError(f"mapping: it is for {mapping.hardware}, the price for {chip}; map the net onto {chip}")
    theirs, ours = {m.name: m.grid.shape for m in mapping.layers}, {n.name: n.shape for n in run.graph.neurons}
    if theirs != ours or [c.name for c in mapping.connections] != [s.name for s in run.graph.synapses]:
        raise InputError(f"mapping: it is of {mapping.net}, with layers {theirs}; the run is of {ours}: map that net")


def operation_lines(activity: Activity, table: OperationsHardware) -> list[PriceLine]:
    """Lines of the operation count: of a whole net, or of some layers and the connections into them."""
    add, multiply = table.energy.fp32_add.range, table.energy.fp32_multiply.range
    steps = activity.time_steps
    accumulates = sum(s.torch_macs * s.source_rate * steps for s in activity.synapses if not s.graded_source)
    macs = sum(s.torch_macs * steps for s in activity.synapses if s.graded_source)
    lines = [
        PriceLine("accumulates (binary sources)", "dynamic", accumulates, add),
        PriceLine("multiply-accumulates (graded sources, dense)", "dynamic", macs, multiply + add),
    ]
    if activity.relay_operations:
        lines.append(PriceLine("relays: shifts, clips", "dynamic", activity.relay_operations, add))
    gates = [layer.gate for layer in activity.layers if layer.gate is not None]
    if gates:
        lookup = min(table.sram.banks, key=lambda bank: bank.size.number).access.range
        lines += [
            PriceLine("attention: multiplies", "attention", sum(g.multiplies for g in gates), multiply),
            PriceLine(
                "attention: additions, comparisons", "attention", sum(g.additions + g.comparisons for g in gates), add
            ),
            PriceLine("attention: look-ups", "attention", sum(g.lookups for g in gates), lookup),
        ]
    return lines


def _price_operations(activity: Activity, table: OperationsHardware) -> Price:
    return Price(
        hardware=table.name,
        title=table.title,
        family=table.family,
        estimate=table.estimate,
        lines=tuple(operation_lines(activity, table)),
        lower_bound=False,
        gate_operations=activity.gate_operations,
        gate_processor=None,
        fits=True,
        fit_notes=(),
        notes=(table.note, *silence_notes(activity)),
    )
