"""NIR files of other programs, read with the meaning that their nodes have there."""

from spikefold.converters.dialects.foreign_graph import open_graph
from spikefold.converters.dialects.importer import import_nir
from spikefold.converters.dialects.meaning import DIALECTS
from spikefold.converters.dialects.module import ImportedNet

__all__ = ["DIALECTS", "ImportedNet", "import_nir", "open_graph"]
