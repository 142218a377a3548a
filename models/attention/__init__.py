"""Attention modules that gate the current in front of a neuron."""

from spikefold.models.attention.asa import ASA
from spikefold.models.attention.fsta import FSTA
from spikefold.models.attention.selection import topk_mask

__all__ = ["ASA", "FSTA", "topk_mask"]
