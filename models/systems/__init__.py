"""One file a published system: its neuron, its attention, its networks at the authors' size, its parameter names."""
