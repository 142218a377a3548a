"""Event clips: the built-in data set, public recordings on the user's disk, and a reader for users' own clips."""

from spikefold.models.data import saccade_mnist, tonic_events
from spikefold.models.data.events import EventData, load_npz

__all__ = ["EventData", "load_npz", "saccade_mnist", "tonic_events"]
