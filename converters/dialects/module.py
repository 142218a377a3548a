"""A net that came as a file, as a torch module, so that it goes wherever a module does."""

from __future__ import annotations

import nir
from torch import Tensor, nn

from spikefold.converters.float_graph import read_float_graph


class ImportedNet(nn.Module):
    """Runs the float net of a canonical graph on clips ``[T, B, *features]``; returns logits.

    Its ``nir_graph()`` is what `spikefold.capture` gives for a module that has one: there is nothing to trace.
    """

    def __init__(self, graph: nir.NIRGraph) -> None:
        super().__init__()
        self._graph = graph
        self._net = read_float_graph(graph)

    def nir_graph(self) -> nir.NIRGraph:
        """The graph itself."""
        return self._graph

    def forward(self, clips: Tensor) -> Tensor:
        """Logits ``[B, classes]``, in the dtype of the clips."""
        return self._net.run(clips)[0]
