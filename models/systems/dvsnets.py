"""The small networks that ship trained: one three-convolution backbone, one attention each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from spikefold.models.attention.asa import ASA
from spikefold.models.attention.fsta import FSTA
from spikefold.models.attention.ma import MA
from spikefold.models.attention.sma import AZO, SMA, sma_neuron
from spikefold.models.attention.staa import STAALayer
from spikefold.models.backbones.dvsnet import DVSNet
from spikefold.models.learned_lif import AdaptiveLIF
from spikefold.models.lif import LIF
from spikefold.models.systems.entry import Entry, Sizes

asa_neuron = partial(LIF, decay=0.3, v_threshold=0.3, strict=False, surrogate="rectangular")
ma_neuron = partial(LIF, decay=0.3, v_threshold=0.3, v_reset=0.3, strict=False, surrogate="rectangular")
fsta_neuron = partial(LIF, decay=0.25, v_threshold=0.5, strict=True, surrogate="tanh")

_SIZES = Sizes(in_channels=2, time_steps=10, num_classes=10, input_size=32)


def _make(sizes: Sizes, layer: Callable[[Sizes], Mapping[str, nn.Module]]) -> DVSNet:
    return DVSNet(lambda channels: layer(sizes), sizes.in_channels, sizes.num_classes, sizes.input_size)


def _plain(sizes: Sizes) -> DVSNet:
    return _make(sizes, lambda _: {"neuron": asa_neuron()})


def _asa(sizes: Sizes) -> DVSNet:
    return _make(sizes, lambda s: {"attention": ASA(s.time_steps), "neuron": asa_neuron()})


def _fsta(sizes: Sizes) -> DVSNet:
    return _make(sizes, lambda s: {"attention": FSTA(s.time_steps), "neuron": fsta_neuron()})


def _sma(sizes: Sizes) -> DVSNet:
    return DVSNet(
        lambda _: {"neuron": sma_neuron()},
        sizes.in_channels,
        sizes.num_classes,
        sizes.input_size,
        before_norm=lambda channels: SMA(channels, sizes.time_steps, azo=AZO(time_ratio=4, channel_ratio=4)),
    )


def _staa(sizes: Sizes) -> DVSNet:
    # Step attention before the neuron keeps spikes binary, so that the net runs on chips that send nothing else.
    return DVSNet(
        lambda channels: {"staa": STAALayer(AdaptiveLIF(), sizes.time_steps, channels, step="pre")},
        sizes.in_channels,
        sizes.num_classes,
        sizes.input_size,
    )


def _tcsa(sizes: Sizes, rectify: bool = True) -> DVSNet:
    def layer(channels: int) -> Mapping[str, nn.Module]:
        attention = MA(sizes.time_steps, channels, "TCSA", c_ratio=4, t_ratio=2, rectify=rectify)
        return {"attention": attention, "neuron": ma_neuron()}

    return DVSNet(layer, sizes.in_channels, sizes.num_classes, sizes.input_size)


_SOURCE = "three convolutions as in ASA-SNN (ICCV 2023), made narrow"
ENTRIES: Mapping[str, Entry] = {
    "plain-dvsnet": Entry(_plain, _SIZES, f"{_SOURCE}, with its neuron", "none"),
    "asa-dvsnet": Entry(_asa, _SIZES, f"{_SOURCE}; attention of ASA-SNN"),
    "fsta-dvsnet": Entry(_fsta, _SIZES, f"{_SOURCE}; attention and neuron of FSTA-SNN (AAAI 2025)"),
    "sma-dvsnet": Entry(_sma, _SIZES, f"{_SOURCE}; attention, neuron and zone-out of SMA/AZO-SNN (AAAI 2025)"),
    "staa-dvsnet": Entry(_staa, _SIZES, f"{_SOURCE}; attention and neuron of STAA-SNN (CVPR 2025), reconstructed"),
    "tcsa-dvsnet": Entry(_tcsa, _SIZES, f"{_SOURCE}; attention and neuron of MA-SNN (TPAMI 2023)"),
}
