"""The fast engine: exact eight-bit convolutions over whole clips, then a compiled loop over time."""

from spikefold.converters.fast.runner import FastEngine, FastRun, run_fast

__all__ = ["FastEngine", "FastRun", "run_fast"]
