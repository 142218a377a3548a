"""Blank pictures to draw on, and pictures on disk: matplotlib comes with the extra ``report`` only."""

from __future__ import annotations

import os
from typing import Any

from spikefold.errors import BackendError
from spikefold.files import atomic_path


def blank_figure(width: float, height: float) -> Any:
    """Make a matplotlib ``Figure`` of so many inches that needs no display.

    Raises
    ------
    BackendError
        matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError("the picture needs matplotlib: pip install 'spikefold[report]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a picture, an SVG by its suffix or else a PNG: the same bytes for the same picture."""
    from matplotlib import rc_context

    unstamped = {"Date": None} if os.fspath(path).endswith(".svg") else {"Software": None}
    with atomic_path(path) as temporary, rc_context({"svg.hashsalt": "spikefold"}):
        figure.savefig(temporary, dpi=150, metadata=unstamped)
