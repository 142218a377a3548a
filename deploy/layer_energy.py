"""A price divided among the layers of the net: where the energy goes.

What a layer takes is its own updates, the synaptic operations of the connections into it and the messages along them,
so that a message is paid by the layer that hears it. What belongs to no layer (static power, a reset of the chip) stays
with the chip. Over the layers and the chip, every line adds up to that of the price.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from spikefold.deploy.activity import Activity, LayerActivity
from spikefold.deploy.hardware import ChipHardware, Hardware, OperationsHardware
from spikefold.deploy.mapping.layout import Mapping, Traffic
from spikefold.deploy.price import operation_lines
from spikefold.deploy.price_chip import counted_lines, gate_processor, message_lines
from spikefold.deploy.price_record import Price, PriceLine
from spikefold.deploy.quantity import Range
from spikefold.deploy.run import Run


@dataclass(frozen=True)
class LayerEnergy:
    """The share of one layer; ``layer`` None is what belongs to no layer."""

    layer: str | None
    lines: tuple[PriceLine, ...]
    gate_processor: Range | None = None
    """Of the layer's gate [J], where the chip has no price for it; beside the lines, as in `Price`."""

    @property
    def total(self) -> Range:
        """All lines [J]."""
        return sum((line.energy for line in self.lines), Range.exact(0.0))


def layer_energies(run: Run, price: Price, hardware: Hardware, mapping: Mapping | None = None) -> list[LayerEnergy]:
    """Divide ``price`` of ``run`` on ``hardware`` among the layers, in execution order, what is left over last.

    Parameters
    ----------
    run
        What was priced.
    price
        On a chip, of a mapped net; or by a table of operations.
    hardware, mapping
        What it was priced with.
    """
    if price.family == "memory":
        return _by_name(price)
    sent = {name: counts.sum(axis=0) for name, counts in run.sent.items()}
    traffic = () if mapping is None else mapping.traffic_of(sent)
    layers = [_layer(layer, run, price, hardware, traffic) for layer in run.activity.layers]
    shared = {line.component for layer in layers for line in layer.lines}
    left = tuple(line for line in price.lines if line.component not in shared)
    return [*layers, LayerEnergy(None, left)] if left else layers


def _layer(
    layer: LayerActivity, run: Run, price: Price, hardware: Hardware, traffic: tuple[Traffic, ...]
) -> LayerEnergy:
    part = _alone(run.activity, layer)
    if isinstance(hardware, OperationsHardware):
        return LayerEnergy(layer.name, tuple(operation_lines(part, hardware)))
    if not isinstance(hardware, ChipHardware):
        return LayerEnergy(layer.name, ())
    into = [t for t in traffic if t.target == layer.name]
    lines = (*counted_lines(part, hardware), *message_lines(run, hardware, into))
    gate = None if layer.gate is None or price.gate_processor is None else gate_processor([layer.gate])
    return LayerEnergy(layer.name, lines, gate)


def _alone(activity: Activity, layer: LayerActivity) -> Activity:
    """Counts of one layer and of the connections into it."""
    into = tuple(s for s in activity.synapses if s.target == layer.name)
    return replace(activity, layers=(layer,), synapses=into)


def _by_name(price: Price) -> list[LayerEnergy]:
    """Lines of the memory model are of a layer each, and begin with its name."""
    found: dict[str, list[PriceLine]] = {}
    for line in price.lines:
        layer, _, part = line.component.rpartition(": ")
        found.setdefault(layer, []).append(replace(line, component=part))
    return [LayerEnergy(layer, tuple(lines)) for layer, lines in found.items()]
