"""A price divided among layers: nothing is lost on the way, and nothing counted twice."""

from __future__ import annotations

import pytest

from report_evidence import made
from spikefold.deploy.layer_energy import layer_energies


@pytest.mark.parametrize("priced", ["loihi1", "cmos45", "cmos45-memory"])
@pytest.mark.parametrize("i", range(3), ids=["none", "static", "dynamic"])
def test_layers_and_chip_add_up_to_every_line_of_the_price(i: int, priced: str) -> None:
    one = made()[1][i]
    price = next(p for p in (*one.row.prices, *one.row.beside) if p.hardware == priced)
    names = {h.name: h for h in one.hardware}
    hardware = names[price.hardware.removesuffix("-memory")]
    layers = layer_energies(one.run, price, hardware, one.mappings.get(price.hardware))
    assert [layer.layer for layer in layers][: len(one.row.fixed.neurons)] == [n.name for n in one.row.fixed.neurons]
    for end in ("low", "value", "high"):
        whole: dict[str, float] = {}
        for layer in layers:
            for line in layer.lines:
                name = line.component if price.family != "memory" else f"{layer.layer}: {line.component}"
                whole[name] = whole.get(name, 0.0) + getattr(line.energy, end)
        assert whole == pytest.approx({line.component: getattr(line.energy, end) for line in price.lines})


def test_what_belongs_to_no_layer_stays_with_the_chip() -> None:
    one = made()[1][0]
    *layers, rest = layer_energies(one.run, one.row.prices[0], one.hardware[0], one.mappings["loihi1"])
    assert rest.layer is None
    assert [line.kind for line in rest.lines][-1] == "static"
    assert all(line.kind != "static" for layer in layers for line in layer.lines)


def test_gate_work_is_that_of_the_layers_with_gates() -> None:
    dynamic = made()[1][-1]
    price = dynamic.row.prices[0]
    layers = layer_energies(dynamic.run, price, dynamic.hardware[0], dynamic.mappings["loihi1"])
    gates = [layer.gate_processor for layer in layers if layer.gate_processor is not None]
    assert len(gates) == 1
    assert price.gate_processor is not None
    assert gates[0].to_dict() == pytest.approx(price.gate_processor.to_dict())
