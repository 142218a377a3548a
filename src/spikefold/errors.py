"""Every error and warning that spikefold raises on purpose."""

from __future__ import annotations


class SpikefoldError(Exception):
    """Base of all errors; the message names the offending node, field and value, and what to do."""


class CaptureError(SpikefoldError):
    """A torch module holds something that cannot be captured as a graph."""


class LoweringError(SpikefoldError):
    """A captured graph cannot be brought into the asked form or number format."""


class FileFormatError(SpikefoldError):
    """A file is broken, incomplete, of another kind or of a newer version."""


class InputError(SpikefoldError):
    """Data handed in has the wrong shape, type or range."""


class BackendError(SpikefoldError):
    """A backend is missing, failed, or ran past its time limit."""


class HardwareConfigError(SpikefoldError):
    """A hardware description lacks a source, a unit or a value."""


class SpikefoldWarning(UserWarning):
    """Something the user should act on."""
