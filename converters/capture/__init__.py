"""Read a trained torch module as a NIR graph."""

from spikefold.converters.capture.build import capture

__all__ = ["capture"]
