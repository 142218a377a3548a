"""Nets of lava-dl: ``.net`` files (HDF5) read as integer nets, and integer chains written so that netx runs them."""

from spikefold.converters.lava_dl.reader import load_lava_dl
from spikefold.converters.lava_dl.writer import LavaDlNet, save_lava_dl, to_lava_dl

__all__ = ["LavaDlNet", "load_lava_dl", "save_lava_dl", "to_lava_dl"]
