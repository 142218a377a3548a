"""Event clips: the built-in data set and a reader for users' own."""

from spikefold.models.data import saccade_mnist
from spikefold.models.data.events import EventData, load_npz

__all__ = ["EventData", "load_npz", "saccade_mnist"]
