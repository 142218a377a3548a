"""Attention modules of the published systems; most gate the current in front of a neuron."""

from spikefold.models.attention.asa import ASA
from spikefold.models.attention.dta import DTA
from spikefold.models.attention.fsta import FSTA
from spikefold.models.attention.ma import MA
from spikefold.models.attention.selection import topk_mask
from spikefold.models.attention.sma import AZO, SMA
from spikefold.models.attention.staa import STAALayer
from spikefold.models.attention.tcja import TCJA

__all__ = ["ASA", "AZO", "DTA", "FSTA", "MA", "SMA", "TCJA", "STAALayer", "topk_mask"]
